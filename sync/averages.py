"""What of a device's readings goes upstream where only averages do: one for each bucket, once it is over.

    journal:  a1 b1 a2 a3 b2 | a4 b3 ...          a, b: devices      | where the minute ends
    window:   [a1 b1 a2 a3 b2]                    what follows waits for the next minute's end
    sent:     a(3) b(2)                           with the numbers of a3 and b2

A backlog goes the same way: a window ends where a bucket does, so that each is sent once. One larger than a window is
read as a whole, up to a bound. An average is made of all that the local store has of the bucket, whatever window brings
it about. So a reading that comes late has the whole bucket sent once more, as a newer version of the same point. In the
books the last reading of a bucket in a window counts as delivered, as the one that arrived; the others, for which it
stands, as skipped.

Where history is gone an average is made of what the window has of its bucket, and a window that brings more of it has
that replace it. Devices may send what they gathered, each at times of its own: then wherever a window ends some bucket
lies on both sides. So as much is read together as the bound allows where readings do not come in the order of buckets.
What came after the first whose bucket is not over yet is another window nevertheless: of a device whose clock is years
slow more is always to come.

Where less may go than a window has, it ends with the last reading of the last average that fits: a3 here, and b1 is
skipped. The rest is another window, and as history has b1 too, b2 has it in its average. Without history a window of
buckets that lie across one another stays whole, and goes in several requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

from edgedepot.storage.buffer import Buffer, Pending, Window
from edgedepot.storage.clock import Clock
from edgedepot.storage.delivered import average
from edgedepot.storage.reading import Reading
from edgedepot.storage.values import Row
from edgedepot.sync.budget import Budget, Held

_PATIENCE = 15_000_000
"""Microseconds at most for which the store may still be about to commit a bucket's last readings; a quarter of it."""

_WIDER = 4
_MOST = 50_000
"""Rows that are read together at most, so that a bucket is sent once."""

_Bucket = tuple[type[Reading], str, int]


class Averages:
    """Has windows hold averages over `every` microseconds. For one thread."""

    def __init__(self, store: Buffer, every: int, clock: Clock, budget: Budget) -> None:
        self._store = store
        self._every = every
        self._clock = clock
        self._budget = budget

    def of(self, window: Window, limit: int, read: Callable[[int], Window | None]) -> Window:
        """The window, which has at most `limit` rows, as it is to be sent, or as much of it as can be yet; `read` gives
        it with another number of rows. Raises `Held` where its first reading's bucket is not over."""
        if window.replayed:
            return window  # averages, or from before there were any
        if window.place is None:
            window = self._whole(window, limit, read)
        buckets = self._buckets(window)
        if buckets:
            self._budget.stand_for(len(window.rows) / len(buckets))
        averages = self._budget.fitting(map(self._average, buckets))
        if len(averages) < len(buckets):
            return self._part(window, buckets, averages, read)
        return self._with(averages, window)

    def is_late(self, window: Window) -> bool:
        """Whether its first bucket might have gone a whole one ago: however many readings a bucket has, nobody is
        behind with those of the latest."""
        if window.replayed or not window.rows:
            return False
        first, now = window.rows[0], self._clock.now()
        return window.place is not None or not first.timestamp - self._every <= now < self._ready(first) + self._every

    def _with(self, averages: list[Pending], window: Window) -> Window:
        return replace(window, rows=averages, skipped=len(window.rows) - len(averages), every=self._every)

    def _part(
        self,
        window: Window,
        buckets: list[list[Pending]],
        averages: list[Pending],
        read: Callable[[int], Window | None],
    ) -> Window:
        """The beginning of a window, that has these averages of its first buckets and no others."""
        first, later = buckets[: len(averages)], buckets[len(averages) :]
        if window.place is not None:
            window = read(sum(map(len, first))) or window
            return self._with(list(map(self._average, self._buckets(window))), window)
        high = first[-1][-1].seq
        if not self._has(row for bucket in later if bucket[0].seq < high for row in bucket):
            return self._with(averages + list(map(self._average, later)), window)
        return self._with(averages, replace(window, high=high, rows=[row for row in window.rows if row.seq <= high]))

    def _has(self, rows: Iterable[Pending]) -> bool:
        """Whether history has all of these. It goes by model, the oldest first: so it has where it has the oldest."""
        oldest: dict[type[Reading], Pending] = {}
        for row in rows:
            there = oldest.setdefault(row.model, row)
            if row.timestamp < there.timestamp:
                oldest[row.model] = row
        return all(
            self._store.between(row.model, row.device_id, row.timestamp, row.timestamp + 1) for row in oldest.values()
        )

    def _whole(self, window: Window, limit: int, read: Callable[[int], Window | None]) -> Window:
        """Without a bucket at its end of which there may be more."""
        rows = self._finished(window.rows)
        if window.is_full and len(rows) == len(window.rows):
            is_widest = len(rows) < limit or limit >= _MOST
            rows = self._before_the_last(rows)
            if not is_widest and not (rows and (self._are_in_turn(window.rows) or self._has(window.rows))):
                limit = min(limit * _WIDER, _MOST)
                return self._whole(read(limit) or window, limit, read)
        if not rows or len(rows) == len(window.rows):
            return window
        return replace(window, high=rows[-1].seq, rows=rows)

    def _finished(self, rows: list[Pending]) -> list[Pending]:
        """Those before the first whose bucket is not over. Nobody waits for a time that is more than a bucket ahead: it
        is a wrong one, not that of a clock that is a little fast."""
        now = self._clock.now()
        for index, row in enumerate(rows):
            if row.timestamp - self._every <= now < self._ready(row):
                if not index:
                    raise Held(self._clock.monotonic() + (self._ready(row) - now) / 1e6 + 0.001, None)
                return rows[:index]
        return rows

    def _ready(self, row: Pending) -> int:
        """When its bucket may go."""
        return self._start(row) + self._every + min(self._every // 4, _PATIENCE)

    def _are_in_turn(self, rows: list[Pending]) -> bool:
        """Whether all is of one time, and then all of the next."""
        starts = list(map(self._start, rows))
        return all(one <= other for one, other in pairwise(starts))

    def _before_the_last(self, rows: list[Pending]) -> list[Pending]:
        """Those before the first that lies in the bucket of the last."""
        last = self._start(rows[-1])
        return rows[: next(index for index, row in enumerate(rows) if self._start(row) == last)]

    def _start(self, row: Pending) -> int:
        return row.timestamp - row.timestamp % self._every

    def _buckets(self, window: Window) -> list[list[Pending]]:
        """Its rows by bucket: those of the journal in the order of their last rows, those of history as they are."""
        found: dict[_Bucket, list[Pending]] = {}
        for row in window.rows:
            found.setdefault((row.model, row.device_id, self._start(row)), []).append(row)
        return list(found.values()) if window.place else sorted(found.values(), key=lambda bucket: bucket[-1].seq)

    def _average(self, bucket: list[Pending]) -> Pending:
        last = bucket[-1]
        there = {row.timestamp: row.row for row in sorted(bucket, key=_order)} | dict(self._between(bucket))
        values = [there[timestamp] for timestamp in sorted(there)]
        return Pending(last.seq, last.model, last.device_id, self._start(last), average(last.model, values))

    def _between(self, bucket: list[Pending]) -> list[tuple[int, Row]]:
        """What the store has of a bucket."""
        start = self._start(bucket[0])
        return self._store.between(bucket[0].model, bucket[0].device_id, start, start + self._every)


def _order(row: Pending) -> int:
    return row.seq
