"""How far behind an upstream is, since when, and for how long still.

What comes in comes at all hours; what goes out goes in the hours and with the bytes of a day that the upstream has, at
the pace of the time in which something did go. So the two are counted apart, and how long it takes is reckoned day by
day with both.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from contextlib import suppress

from edgedepot.storage.buffer import Buffer, Lane, Window
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import InvalidValue, StorageError
from edgedepot.sync.budget import Budget
from edgedepot.sync.windows import Schedule

SPAN = 300.0
"""Seconds over which paces are taken. What comes in, over a day where a day has hours or bytes for what goes out."""
_DAY = 86_400.0
_STEPS = 60
_COMMIT = 1.0
"""Seconds for which a store gathers what it commits together, and notes in one row what was acknowledged."""
_EXACT_DAYS = 31
"""So many days are reckoned one by one, and what is beyond by their average."""
_LANES: tuple[Lane, ...] = ("live", "backlog")
"""In this order none is missed where they become one between two counts: then all that was live is the backlog's."""


class Progress:
    """Follows what waits for one upstream. `waiting`, `lag` and `eta` are for any thread, the rest for one. The time in
    which it `rests` is not one in which anything might have gone out."""

    def __init__(self, store: Buffer, name: str, schedule: Schedule, budget: Budget, clock: Clock) -> None:
        self._store = store
        self._name = name
        self._schedule = schedule
        self._budget = budget
        self._clock = clock
        per_day = budget.per_day
        self._has_days = per_day is not None or bool(schedule.windows)
        self._lock = threading.Lock()  # guards what follows
        self._waiting = 0
        self._counted = 0
        self._no_readings = 0  # of what the store counts, while nothing waits
        self._oldest: int | None = None
        self._gone = 0
        self._notes = 0
        self._noted_at = -_COMMIT
        self._spent = 0
        self._spent_today: int | None = None
        self._rested = 0.0
        self._went_at = clock.monotonic()  # when something went last, or might have for the first time after a rest
        self._resting_since: float | None = self._went_at
        self._came = _Trail(_DAY if self._has_days else SPAN)  # rows, by all time
        self._went = _Trail(SPAN)  # rows, by the time without rest, at moments when some went
        self._went.note(self._went_at, 0)
        self._carried = _Trail(per_day or 1)  # rows, by bytes

    def waiting(self) -> int:
        """About how many wait right now; as of the last look where the store was closed since."""
        with suppress(StorageError, InvalidValue):  # closed; or the worker did not begin yet
            found = self._count()
            with self._lock:
                self._waiting = max(0, found - self._no_readings)
        return self._waiting

    def lag(self) -> float:
        """Seconds since the time of the oldest that is known; 0 where nothing waits."""
        with self._lock:
            return 0.0 if self._oldest is None else max(0.0, (self._clock.now() - self._oldest) / 1e6)

    def eta(self, waiting: int) -> float | None:
        """Seconds until none of so many waits; None where they become no fewer, or nobody can tell."""
        if not waiting:
            return 0.0
        now = self._clock.monotonic()
        with self._lock:
            came = max(0.0, self._came.pace(now, self._come(waiting)) or 0.0)
            went = self._went.pace(self._busy(now), self._gone) or 0.0
            carried = self._carried.pace(self._spent, self._gone)
        if not self._has_days:
            return waiting / (went - came) if went > came else None
        return self._reckon(waiting, came, went, carried) if self._clock.trusted else None

    def count(self) -> int:
        """How many rows the store counts, those of its books among them."""
        self._counted = self._count()
        return self._counted

    def look(self, lane: Lane, window: Window | None) -> None:
        """Take note of how many wait, and of the window that is next."""
        with self._lock:
            self._no_readings = 0
        waiting, now = self.waiting(), self._clock.monotonic()
        with self._lock:
            if self._resting_since is not None:
                self._rested += now - self._resting_since
                self._resting_since, self._went_at = None, now
            self._count_spent()
            self._came.note(now, self._come(waiting))
            self._carried.note(self._spent, self._gone)
            if window is not None and window.rows and (lane == "backlog" or self._oldest is None):
                self._oldest = min(row.timestamp for row in window.rows)

    def took(self, window: Window) -> None:
        """A window was acknowledged."""
        now = self._clock.monotonic()
        with self._lock:
            walked = 0 if window.place is None else len(window.rows) + window.skipped
            if now - self._noted_at >= _COMMIT:
                self._notes, self._noted_at = self._notes + 1, now
            self._gone += window.high - window.low + 1 if window.high else walked
            self._went_at = now
            self._went.note(self._busy(now), self._gone)
            self._count_spent()

    def nothing(self) -> None:
        """No reading waits: what the latest `count` counted are rows of its books."""
        with self._lock:
            self._oldest, self._no_readings = None, self._counted
        self.rest()

    def rest(self) -> None:
        """From now on nothing may go out, or there is nothing, until the next `look`."""
        self._rest(self._clock.monotonic())

    def away(self) -> None:
        """As `rest`, since something went last: the upstream, or what is to be sent, cannot be had."""
        self._rest(self._went_at)

    def _rest(self, since: float) -> None:
        with self._lock:
            if self._resting_since is None:
                self._resting_since = since

    def _count(self) -> int:
        return sum(self._store.waiting(self._name, lane) for lane in _LANES)

    def _come(self, waiting: int) -> int:
        """How many have come in until now, without the rows in which the store's books say what has gone."""
        return waiting + self._gone - self._notes

    def _busy(self, now: float) -> float:
        return (now if self._resting_since is None else self._resting_since) - self._rested

    def _count_spent(self) -> None:
        before, spent = self._spent_today, self._budget.spent_today
        if spent is not None:
            if before is not None:
                self._spent += spent if spent < before else spent - before
            self._spent_today = spent

    def _reckon(self, waiting: int, came: float, went: float, carried: float | None) -> float | None:
        """As `eta`, day by day, with paces in rows a second and, of what bytes carry, rows a byte. What a day's bytes
        do not carry as a whole goes evenly over the day (budget.py), and what little is left then at once."""
        if went <= came:
            return None
        now = at = self._clock.now()
        left, spent = float(waiting), self._budget.spent_today or 0
        for _ in range(_EXACT_DAYS):
            end = self._schedule.day(at)[1]
            spans = self._schedule.spans(at, end)
            length = max(1e-3, sum(high - low for low, high in spans) / 1e6)
            rows = self._rows_of(self._budget.of_a_day - spent, carried)
            at_once = rows / 2 if rows < went * length else 0.0
            net = min(went, (rows - at_once) / length) - came
            left -= at_once
            for low, high in spans:
                left += came * (low - at) / 1e6
                if left <= max(0.0, net * (high - low) / 1e6):
                    evenly = left / net if left > 0 else 0.0
                    return (low - now) / 1e6 + evenly + (at_once + min(0.0, left)) / (went - came)
                left -= net * (high - low) / 1e6
                at = high
            left += came * (end - at) / 1e6
            at, spent = end, 0
        return waiting * (at - now) / 1e6 / (waiting - left) if left < waiting else None

    def _rows_of(self, count: float, carried: float | None) -> float:
        """How many rows so many bytes of a day are enough for."""
        return math.inf if self._budget.per_day is None else max(0.0, count) * (carried or 0.0)


class _Trail:
    """How a count rose along something else, time or bytes, over the last `span` of that."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, at: float, count: int) -> None:
        """May be called as often as one likes."""
        if not self._seen or at - self._seen[-1][0] >= self._span / _STEPS:
            self._seen.append((at, count))
            while len(self._seen) > 1 and at - self._seen[1][0] >= self._span:
                self._seen.popleft()

    def pace(self, at: float, count: int) -> float | None:
        """Counts for each second or byte; None before the first note."""
        if not self._seen:
            return None
        since, before = self._seen[0]
        return (count - before) / max(1e-3, at - since)
