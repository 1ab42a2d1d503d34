"""What an upstream may be sent now: bytes a second, bytes a day, hours of the day.

Bytes a second: a request waits until all that it is expected to cost may go (flow.py); what it really cost is missing
from the next.

How well rows are compressed is known only afterwards: a solar plant's are all zeros until the sun rises. So what must
never be exceeded, a day's bytes and those that may go at once, has room for a request as if nothing of it could be
compressed; only what a backlog does by and by goes by what the requests before have cost.

Bytes a day are counted in the store too, ahead of what is spent: what a crash forgets was counted before. Fresh rows
may use what is left of the day; a backlog goes no faster than evenly over the day's open hours, so that it never takes
from fresh rows what they will need until midnight. Days and hours are those of the wall clock: while nobody knows the
time nothing goes that they limit.

What goes to the same upstream beside the worker, as `reconcile` does, has a budget of its own with a note of its own in
the store. Each takes off what the other has noted, and while the other is at work each has half of the rate.

             bytes
    per_day   |                        ____.      backlog: stays below this line, the share of the
              |               ____----            day's open hours that is over
              |      ____----  .........
              |__----  ........                   fresh rows: may go up to per_day at any time
              +----------------------------- day
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Pending
from edgedepot.storage.clock import DAY, MINUTE, Clock
from edgedepot.storage.errors import ConfigError
from edgedepot.sync.cost import Cost, Size, row_size, size_of
from edgedepot.sync.flow import BURST, Flow
from edgedepot.sync.limits import Limits
from edgedepot.sync.notes import AT_WORK, NO_DAY, Note, Notes, beside, counts_in
from edgedepot.sync.spending import Spending

MARGIN = 1.1
"""A request is expected to cost so many times what the ones before suggest."""
LEAST_SLACK, MOST_SLACK = 8_192, 16_384
"""Bytes of a day that are left for what nobody expects, such as connecting anew: 2 %, within these bounds."""
_BACKLOGS = 0.98
"""Of what a day has, so much a backlog may use up."""
_WORTH = 8
_HELD_DAYS = 4
_LOOK = 5.0
"""Seconds until it is asked again whether somebody knows the time."""

Reason = Literal["rate", "budget", "window", "clock"]
Share = Literal["fair", "live first", "live only", "backlog only"]


def slack_of(per_day: float) -> float:
    """The bytes of a day's that are left for what nobody expects."""
    return min(MOST_SLACK, max(LEAST_SLACK, per_day / 50))


def for_backlog(per_day: float) -> float:
    """The bytes of a day's that a backlog may have, where no fresh rows need them."""
    return _BACKLOGS * (per_day - slack_of(per_day))


def piece_of(backlogs: float, whole: float, request: float) -> float:
    """The bytes of what goes of a backlog at a time, where it has so many of a day that is open for so many
    microseconds: a minute's worth, and as much as makes little of what goes with each request."""
    return min(max(backlogs * MINUTE / max(whole, MINUTE), _WORTH * request), backlogs / 24)


class Held(Exception):
    """Nothing may go out before a time of the monotonic clock."""

    def __init__(self, until: float, reason: Reason | None, for_news: bool = False) -> None:
        super().__init__(until, reason)
        self.until = until
        self.reason = reason
        self.for_news = for_news


class Budget:
    """The limits of one upstream at work. `is_beside`: of what goes there beside the worker; it has what a backlog may.
    For one thread; `spent_today` is for any."""

    def __init__(
        self, limits: Limits, notes: Notes, name: str, upstream: BaseStorage, clock: Clock, is_beside: bool = False
    ) -> None:
        self._limits = limits
        self._notes = notes
        self._name = name
        self._is_beside = is_beside
        keys = (f"spent {name}", beside(name))
        key, self._others_key = reversed(keys) if is_beside else keys
        is_noted = limits.per_day is not None or (is_beside and limits.rate is not None)
        self._spending = Spending(notes if is_noted else None, key, limits.per_day, clock, is_beside)
        self._other = Note({}, 0)
        if is_beside and is_noted and Note.of(notes.recall(key)).is_at_work(clock.now()):
            raise ConfigError(
                f"upstream {name}: found another that compares it, or was killed in the last {AT_WORK // 1_000_000} s: "
                "one at a time, as both would go by one budget"
            )
        if is_beside and is_noted:
            self._spending.begin()
        self._upstream = upstream
        self._clock = clock
        self._cost = Cost()
        self._row_size = Size(100.0, 200.0)
        self._stands_for = 1.0
        self._flow = Flow(clock.monotonic())
        self._wire_seen = upstream.wire_bytes()

    @property
    def per_day(self) -> int | None:
        """The day's budget; None without one."""
        return self._limits.per_day

    @property
    def spent_today(self) -> int | None:
        """Bytes of the day's budget, as of the latest request; None without one."""
        return None if self._limits.per_day is None else self._used

    # -- asked before a window is read ----------------------------------------------------------------------------

    def admit_window(self, waiting: int, largest: int) -> int:
        """How many rows the next window may have, at most `largest`, where about so many wait. Raises `Held`."""
        if not self._limits.has_bytes:
            self._check_open()
            return largest
        self._catch_up()
        self._check_open()
        limit = min(largest, self._rows_within(self._room))
        self._check_left(self._at_most(self._row_size))
        self._check_rate(self._at_most(self._waiting_size(max(1, min(waiting, limit)))))
        return limit

    def fitting(self, rows: Iterable[Pending]) -> list[Pending]:
        """The first of these rows, at least 1, that a request may have: fewer where they are larger than those before.
        No more are asked for than are needed to tell."""
        if not self._limits.has_bytes:
            return list(rows)
        found: list[Pending] = []
        room, usual, most = self._room, 0.0, 0.0
        for row in rows:
            size = row_size(row)
            usual, most = usual + size.usual, most + size.most
            if found and self._at_most(Size(usual, most)) > room:
                break
            found.append(row)
        return found

    def share(self, backlog: int, limit: int) -> tuple[Share, int]:
        """Whose turn it is, where about so many rows are a backlog, and how many rows, at most `limit`, go then."""
        if not self._limits.has_bytes:
            return "fair", limit
        if self._limits.per_day is None or not backlog:
            return "live first", limit
        if self._backlog_at(backlog) > self._clock.monotonic():
            return "live only", limit
        return "live first", min(limit, self._rows_of(self._even_share - self._used))

    @property
    def _even_share(self) -> float:
        """What a backlog may have used up by now."""
        low, high = self._limits.schedule.day(self._clock.now())
        over = sum(end - start for start, end in self._limits.schedule.spans(low, self._clock.now()))
        whole = sum(end - start for start, end in self._limits.schedule.spans(low, high))
        return self._backlogs * over / whole

    def _backlog_at(self, backlog: int) -> float:
        """When the backlog's next window may go, of the monotonic clock: once it may have a piece."""
        low, high = self._limits.schedule.day(self._clock.now())
        spans = self._limits.schedule.spans(low, high)
        whole = sum(end - start for start, end in spans)
        rows = min(backlog, self._rows_of(piece_of(self._backlogs, whole, self._cost.of(0))))
        wanted = self._used + self._expected(self._waiting_size(rows).usual)
        left = whole * wanted / self._backlogs
        for start, end in spans:
            if left <= end - start:
                return self._at(start + round(left))
            left -= end - start
        return self._at(high)

    @property
    def _backlogs(self) -> float:
        assert self._limits.per_day is not None
        return for_backlog(self._limits.per_day)

    def held_backlog(self, backlog: int) -> Held:
        """What to wait for where only fresh rows might go, and there are none."""
        return Held(self._backlog_at(backlog), "budget", for_news=True)

    def stand_for(self, rows: float) -> None:
        """Each row that goes out stands for so many of those that wait, as an average does."""
        self._stands_for = rows

    def left(self) -> float:
        """The bytes that may still go today. Raises `Held` where nobody knows what day it is, and out of hours."""
        if self._limits.has_bytes:
            self._catch_up()
        self._check_open()
        return self._left_today

    @property
    def of_a_day(self) -> float:
        """The most bytes that a backlog may have in a whole day."""
        return math.inf if self._limits.per_day is None else self._backlogs

    @property
    def at_once(self) -> float:
        """The most bytes that a rate lets go together."""
        return BURST * self._rate

    # -- asked before each request, and told after it -------------------------------------------------------------

    def admit(self, rows: Sequence[Pending]) -> None:
        """Raise `Held` where a request with these rows would be too much now."""
        if self._limits.has_bytes:
            self.admit_bytes(self._at_most(size_of(rows)))

    def admit_bytes(self, expected: float) -> None:
        """As `admit`, of a request that takes about so many bytes."""
        if self._limits.has_bytes:
            self._catch_up()
        self._check_open()
        if self._limits.has_bytes:
            self._check_left(expected, is_sure=True)
            self._check_rate(expected)
            if self._spending.reserve(round(expected)):
                self._look_beside()  # who goes beside may have noted more meanwhile; one of the two sees it
                self._check_left(expected)

    def admit_check(self) -> None:
        """As `admit`, of the question whether readings would be taken. A day's bytes are all for readings."""
        if self._limits.per_day is not None:
            raise Held(self._clock.monotonic() + _LOOK, "budget")
        self.admit_bytes(self._cost.of(0))

    def count_check(self) -> None:
        """It was asked."""
        self.count(round(self._cost.of(0)))

    def count(self, request: int, answer: int = 0) -> int:
        """A request was sent; what it took, which is so many bytes for it and its answer where nobody counts."""
        if not self._limits.has_bytes:
            return request + answer
        took = self._count(request + answer)
        self._cost.note_beside(took - answer, self._clock.monotonic(), is_answered=took > 0)
        self._spending.give_back()
        return took

    def settle(self, rows: Sequence[Pending], took_it: bool) -> None:
        """A request was sent, and perhaps taken."""
        if self._limits.has_bytes:
            size = size_of(rows)
            usual, most = (0.7 * old + 0.3 * new / len(rows) for old, new in zip(self._row_size, size, strict=True))
            self._row_size = Size(usual, most)
            count = self._count(size.usual)
            self._cost.note_beside(count - size.most, self._clock.monotonic(), took_it)
            if took_it:
                self._cost.note(size.usual, count)
            self._spending.give_back()

    def close(self) -> None:
        """It stops: write down what was spent, without what was counted ahead."""
        self._spending.close()

    # -- the numbers ----------------------------------------------------------------------------------------------

    @property
    def _rate(self) -> float:
        """Bytes a second: half where somebody else is at work too."""
        rate = self._limits.rate or math.inf
        return rate / 2 if self._is_beside or self._other.is_at_work(self._clock.now()) else rate

    @property
    def _used(self) -> int:
        """Of the day, here and beside."""
        today = self._spending.today
        return today.total + sum(spent for day, spent in self._other.days.items() if counts_in(day, today.day))

    @property
    def _whole(self) -> float:
        """Of a day."""
        per_day = self._limits.per_day
        return math.inf if per_day is None else per_day - slack_of(per_day)

    @property
    def _left_today(self) -> float:
        if self._limits.per_day is None:
            return math.inf
        return (self._even_share if self._is_beside else self._whole) - self._used

    @property
    def _room(self) -> float:
        """The most that a request may take."""
        return min(self.at_once, self._left_today)

    def _expected(self, size: float) -> float:
        return MARGIN * self._cost.of(size)

    def _at_most(self, size: Size) -> float:
        """As `_expected`, where nothing of it can be compressed."""
        return MARGIN * self._cost.most(size)

    def _rows_of(self, count: float) -> int:
        """How many rows that wait, of the usual size, so many bytes are expected to be enough for; at least 1."""
        return self._waiting(self._cost.size_for(count / MARGIN) / self._row_size.usual)

    def _rows_within(self, count: float) -> int:
        """As `_rows_of`, where nothing of them can be compressed."""
        fixed = self._at_most(Size(0.0, 0.0))
        return self._waiting((count - fixed) / (self._at_most(self._row_size) - fixed))

    def _waiting(self, rows: float) -> int:
        """Of so many that go out how many rows wait; at least 1."""
        return int(max(1.0, min(1e9, rows * self._stands_for)))

    def _waiting_size(self, rows: int) -> Size:
        """Of what goes out of so many rows that wait."""
        return self._row_size.times(max(1.0, rows / self._stands_for))

    def _check_open(self) -> None:
        now = self._clock.now()
        if not self._clock.trusted and (self._limits.schedule.windows or self._limits.per_day is not None):
            raise Held(self._clock.monotonic() + _LOOK, "clock")
        if not self._limits.schedule.is_open(now):
            later = self._limits.schedule.next_change(now) or now + _HELD_DAYS * DAY
            raise Held(self._at(later), "window")

    def _check_left(self, needed: float, is_sure: bool = False) -> None:
        if is_sure and needed > self._whole:
            raise ConfigError(
                f"upstream {self._name}: max_per_day is too little for the next reading: that may take {needed:,.0f} "
                f"bytes, and {self._whole:,.0f} may go a day"
            )
        if needed > self._left_today:
            raise Held(self._at(self._limits.schedule.day(self._clock.now())[1]), "budget")

    def _check_rate(self, needed: float) -> None:
        now = self._clock.monotonic()
        if self._limits.rate is not None:
            free_at = self._flow.free_at(needed, self._cost.surprise(now))
            if free_at > now:
                raise Held(free_at, "rate")

    def _at(self, moment: int) -> float:
        """A wall time on the monotonic clock; a millisecond later, so that it is past then."""
        return self._clock.monotonic() + (moment - self._clock.now()) / 1e6 + 0.001

    def _catch_up(self) -> None:
        """Let time pass, and count what went over the wire beside the requests."""
        self._spending.load()
        self._look_beside()
        if self._limits.rate is not None:
            self._flow.pass_time(self._clock.monotonic(), self._rate)
        knows_day = self._clock.trusted
        self._spending.turn_to(self._limits.schedule.day(self._clock.now())[0] if knows_day else NO_DAY)
        self._count(0)
        if self._limits.per_day is not None and not knows_day:
            self._spending.reserve(LEAST_SLACK)  # to ask the upstream for its time

    def _count(self, size: float) -> int:
        """Take what was sent and received since the last time; what rows of that size would be where nobody counts."""
        wire = self._upstream.wire_bytes()
        if wire is None:
            count = round(size)
        else:
            count = wire - (self._wire_seen or 0)
            self._wire_seen = wire
        if self._limits.rate is not None and count:
            self._flow.take(count, self._clock.monotonic())
        self._spending.add(count)
        return count

    def _look_beside(self) -> None:
        if self._limits.has_bytes:
            self._other = Note.of(self._notes.recall(self._others_key))
