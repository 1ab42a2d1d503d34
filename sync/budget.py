"""What an upstream may be sent now: bytes a second, bytes a day, hours of the day.

Bytes a second are a bucket of tokens that holds `BURST` seconds' worth, so that in any minute at most 1/24 more goes
out than the rate says. A request waits until all that it is expected to cost is there; what it really cost is then
taken, also where that is more, and is missing from the next.

Bytes a day are counted in the store too, ahead of what is spent: what a crash forgets was counted before. Fresh rows
may use what is left of the day; a backlog goes no faster than evenly over the day's open hours, so that it never takes
from fresh rows what they will need until midnight.

             bytes
    per_day   |                        ____.      backlog: stays below this line, the share of the
              |               ____----            day's open hours that is over
              |      ____----  .........
              |__----  ........                   fresh rows: may go up to per_day at any time
              +----------------------------- day
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from edgedepot.storage.base import BaseStorage, Buffer, Pending
from edgedepot.storage.clock import Clock
from edgedepot.sync.limits import Limits

BURST = 2.5
"""Seconds of the rate that may go out at once."""
MARGIN = 1.1
"""A request is expected to cost so many times what the ones before suggest."""
MOST_SLACK = 16_384
"""Bytes of a day that are left for what nobody expects, such as connecting anew; 2 % of a small budget."""
_BACKLOGS = 0.98
"""Of what a day has, so much a backlog may use up."""
_WORTH = 8
_MINUTE = 60_000_000
_MEMORY = 0.9
_FIRST_FIXED, _FIRST_EACH, _LEAST_EACH = 4_000.0, 2.0, 0.05
_HELD_DAYS = 4

Reason = Literal["budget", "window"]
Share = Literal["fair", "live first", "live only", "backlog only"]


class Held(Exception):
    """Nothing may go out before a time of the monotonic clock."""

    def __init__(self, until: float, reason: Reason | None, for_news: bool = False) -> None:
        super().__init__(until, reason)
        self.until = until
        self.reason = reason
        self.for_news = for_news


class Spent(NamedTuple):
    """A day, by its start in microseconds since 1970 UTC, and the bytes that were sent and received in it."""

    day: int
    total: int


class Budget:
    """The limits of one upstream at work. For one thread; `spent_today` is for any."""

    def __init__(self, limits: Limits, store: Buffer, name: str, upstream: BaseStorage, clock: Clock) -> None:
        self._limits = limits
        self._store = store
        self._key = f"usage {name}"
        self._upstream = upstream
        self._clock = clock
        self._cost = _Cost()
        self._row_size = 100.0
        self._stands_for = 1.0
        self._tokens = 0.0
        self._tokens_at = clock.monotonic()
        self._wire_seen: int | None = None
        self._spent = Spent(0, 0)
        self._written = Spent(0, 0)
        self._written_at = clock.monotonic()
        self._since_written = 0
        self._loaded = False

    @property
    def spent_today(self) -> int | None:
        """Bytes of the day's budget, as of the latest request; None without one."""
        return None if self._limits.per_day is None else self._spent.total

    # -- asked before a window is read ----------------------------------------------------------------------------

    def admit_window(self, waiting: int, largest: int) -> int:
        """How many rows the next window may have, at most `largest`, where about so many wait. Raises `Held`."""
        if not self._limits.has_bytes:
            self._check_open()
            return largest
        self._catch_up()
        self._check_open()
        limit = min(largest, self._rows_of(min(self._capacity, self._left_today)))
        if self._left_today < self._expected(self._row_size):
            raise Held(self._at(self._limits.schedule.day(self._clock.now())[1]), "budget")
        self._check_tokens(self._expected(self._waiting_size(max(1, min(waiting, limit)))))
        return limit

    def fitting(self, rows: Sequence[Pending]) -> int:
        """How many of these rows, at least 1, a request may have: fewer where they are larger than the ones before."""
        if not self._limits.has_bytes:
            return len(rows)
        room = self._cost.size_for(min(self._capacity, self._left_today) / MARGIN)
        for count, row in enumerate(rows):
            room -= _row_size(row)
            if room < 0:
                return max(1, count)
        return len(rows)

    def share(self, backlog: int, limit: int) -> tuple[Share, int]:
        """Whose turn it is, where about so many rows are a backlog, and how many rows, at most `limit`, go then."""
        if not self._limits.has_bytes:
            return "fair", limit
        if self._limits.per_day is None or not backlog:
            return "live first", limit
        if self._backlog_at(backlog) > self._clock.monotonic():
            return "live only", limit
        low, high = self._limits.schedule.day(self._clock.now())
        over = sum(end - start for start, end in self._limits.schedule.spans(low, self._clock.now()))
        whole = sum(end - start for start, end in self._limits.schedule.spans(low, high))
        return "live first", min(limit, self._rows_of(self._backlogs * over / whole - self._spent.total))

    def _backlog_at(self, backlog: int) -> float:
        """When the backlog's next window may go, of the monotonic clock: once it may have a minute's worth, and as much
        as makes little of what goes with each request."""
        low, high = self._limits.schedule.day(self._clock.now())
        spans = self._limits.schedule.spans(low, high)
        whole = sum(end - start for start, end in spans)
        piece = max(self._backlogs * _MINUTE / max(whole, _MINUTE), _WORTH * self._cost.of(0))
        rows = min(backlog, self._rows_of(min(piece, self._backlogs / 24)))
        wanted = self._spent.total + self._expected(self._waiting_size(rows))
        left = whole * wanted / self._backlogs
        for start, end in spans:
            if left <= end - start:
                return self._at(start + round(left))
            left -= end - start
        return self._at(high)

    @property
    def _backlogs(self) -> float:
        """The bytes of a day that a backlog may have, where no fresh rows need them."""
        assert self._limits.per_day is not None
        return _BACKLOGS * (self._limits.per_day - self._slack)

    def held_backlog(self, backlog: int) -> Held:
        """What to wait for where only fresh rows might go, and there are none."""
        return Held(self._backlog_at(backlog), "budget", for_news=True)

    def stand_for(self, rows: float) -> None:
        """Each row that goes out stands for so many of those that wait, as an average does."""
        self._stands_for = rows

    # -- asked before each request, and told after it -------------------------------------------------------------

    def admit(self, rows: Sequence[Pending]) -> None:
        """Raise `Held` where a request with these rows would be too much now."""
        if self._limits.has_bytes:
            self._catch_up()
            self._check_open()
            expected = self._expected(_size_of(rows))
            if expected > self._left_today:
                raise Held(self._at(self._limits.schedule.day(self._clock.now())[1]), "budget")
            self._check_tokens(expected)
            self._reserve(expected)

    def settle(self, rows: Sequence[Pending], took_it: bool) -> None:
        """A request was sent, and perhaps taken."""
        if self._limits.has_bytes:
            size = _size_of(rows)
            self._row_size = 0.7 * self._row_size + 0.3 * size / len(rows)
            count = self._count(size)
            if took_it:
                self._cost.note(size, count)

    def close(self) -> None:
        """Forwarding stops: write down what was spent, without what was counted ahead."""
        if self._loaded and self._limits.per_day is not None:
            self._write(self._spent.total)

    # -- the numbers ----------------------------------------------------------------------------------------------

    @property
    def _capacity(self) -> float:
        return float("inf") if self._limits.rate is None else BURST * self._limits.rate

    @property
    def _left_today(self) -> float:
        if self._limits.per_day is None:
            return float("inf")
        return self._limits.per_day - self._slack - self._spent.total

    @property
    def _slack(self) -> float:
        return 0.0 if self._limits.per_day is None else min(MOST_SLACK, self._limits.per_day / 50)

    def _expected(self, size: float) -> float:
        return MARGIN * self._cost.of(size)

    def _rows_of(self, count: float) -> int:
        """How many rows that wait, of the usual size, so many bytes are enough for; at least 1."""
        return int(max(1.0, min(1e9, self._cost.size_for(count / MARGIN) / self._row_size * self._stands_for)))

    def _waiting_size(self, rows: int) -> float:
        """Of what goes out of so many rows that wait."""
        return self._row_size * max(1.0, rows / self._stands_for)

    def _check_open(self) -> None:
        now = self._clock.now()
        if not self._limits.schedule.is_open(now):
            later = self._limits.schedule.next_change(now) or now + _HELD_DAYS * 1440 * _MINUTE
            raise Held(self._at(later), "window")

    def _check_tokens(self, needed: float) -> None:
        if self._limits.rate is not None:
            missing = min(needed, self._capacity) - self._tokens
            if missing > 1e-6 * self._capacity:
                raise Held(self._clock.monotonic() + missing / self._limits.rate, "budget")

    def _at(self, moment: int) -> float:
        """A wall time on the monotonic clock; a millisecond later, so that it is past then."""
        return self._clock.monotonic() + (moment - self._clock.now()) / 1e6 + 0.001

    def _catch_up(self) -> None:
        """Let time pass, and count what went over the wire beside the requests."""
        self._load()
        now = self._clock.monotonic()
        if self._limits.rate is not None:
            self._tokens = min(self._capacity, self._tokens + (now - self._tokens_at) * self._limits.rate)
        self._tokens_at = now
        today = self._limits.schedule.day(self._clock.now())[0]
        if today > self._spent.day or today < self._spent.day - 1440 * _MINUTE:
            self._spent = Spent(today, 0)
        self._count(0)

    def _count(self, size: float) -> int:
        """Take what was sent and received since the last time; what rows of that size would be where nobody counts."""
        wire = self._upstream.wire_bytes()
        if wire is None:
            count = round(size)
        else:
            count = wire - (wire if self._wire_seen is None else self._wire_seen)
            self._wire_seen = wire
        self._tokens -= count
        self._since_written += count
        self._spent = Spent(self._spent.day, self._spent.total + count)
        return count

    # -- kept across restarts -------------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        self._wire_seen = self._upstream.wire_bytes()
        found = self._store.recall(self._key) if self._limits.per_day is not None else None
        if found is not None:
            self._spent = self._written = Spent(*json.loads(found))

    def _reserve(self, expected: float) -> None:
        """Have the store know of more than is spent, of what goes out in a minute and a half: so it is written about
        once a minute at most, in a commit that happens anyway."""
        if self._limits.per_day is None:
            return
        wanted = self._spent.total + round(expected)
        if self._written.day == self._spent.day and wanted <= self._written.total:
            return
        now = self._clock.monotonic()
        pace = self._since_written / max(300.0, now - self._written_at)
        ahead = max(round(90 * pace), self._limits.per_day // 288)
        self._written_at, self._since_written = now, 0
        self._write(min(self._limits.per_day, wanted + ahead))

    def _write(self, count: int) -> None:
        self._written = Spent(self._spent.day, count)
        self._store.remember(self._key, json.dumps(self._written))


class _Cost:
    """What a request of some size costs: the straight line that fits best to the latest ones (linear regression, with
    exponential forgetting). Sizes are `_size_of`, costs are bytes on the wire."""

    def __init__(self) -> None:
        self._fixed, self._each = _FIRST_FIXED, _FIRST_EACH
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def of(self, size: float) -> float:
        return self._fixed + self._each * size

    def size_for(self, count: float) -> float:
        return max(0.0, count - self._fixed) / self._each

    def note(self, size: float, count: float) -> None:
        """A request of that size took so many bytes."""
        self._weight = _MEMORY * self._weight + 1
        self._x = _MEMORY * self._x + size
        self._y = _MEMORY * self._y + count
        self._xx = _MEMORY * self._xx + size * size
        self._xy = _MEMORY * self._xy + size * count
        spread = self._xx - self._x**2 / self._weight
        if spread > 0.01 * self._xx:
            self._each = max(_LEAST_EACH, (self._xy - self._x * self._y / self._weight) / spread)
            self._fixed = max(0.0, (self._y - self._each * self._x) / self._weight)
        else:  # all of one size: what goes with a request is taken for the size's, or a larger one would seem cheap
            self._each = max(_LEAST_EACH, min(_FIRST_EACH, self._y / self._x))
            self._fixed = max(0.0, (self._y - self._each * self._x) / self._weight)


def _size_of(rows: Sequence[Pending]) -> float:
    """About what rows take as JSON; a proper measure only of what they take beside one another."""
    return float(sum(_row_size(row) for row in rows))


def _row_size(row: Pending) -> int:
    names = sum(len(spec.name) + 4 for spec in row.model.__fields__)
    values = sum(len(value.encode()) if isinstance(value, str) else 12 for value in row.row if value is not None)
    return 40 + len(row.device_id) + names + values
