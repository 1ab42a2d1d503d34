"""What of a device's readings goes upstream where only averages do: one for each bucket, once it is over.

    journal:  a1 b1 a2 a3 b2 | a4 b3 ...          a, b: devices      | where the minute ends
    window:   [a1 b1 a2 a3 b2]                    what follows waits for the next minute's end
    sent:     a(3) b(2)                           with the numbers of a3 and b2

A backlog goes the same way: a window ends where a bucket does, so that each is sent once. One larger than a window is
read as a whole, up to a bound. An average is made of all that the local store has of the bucket, whatever window brings
it about; where history is gone, of what still waits. So a reading that comes late has the whole bucket sent once more,
as a newer version of the same point. In the books the last reading of a bucket in a window counts as delivered, as the
one that arrived; the others, for which it stands, as skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgedepot.storage.base import Buffer, Pending, Window
from edgedepot.storage.clock import Clock
from edgedepot.storage.delivered import average
from edgedepot.storage.reading import Reading
from edgedepot.storage.values import Row
from edgedepot.sync.budget import Held

_PATIENCE = 15_000_000
"""Microseconds at most for which the store may still be about to commit a bucket's last readings; a quarter of it."""

_WIDER = 4
_MOST = 50_000
"""Rows that are read together at most, so that a bucket is sent once."""

_Bucket = tuple[type[Reading], str, int]


class Averages:
    """Has windows hold averages over `every` microseconds. For one thread."""

    def __init__(self, store: Buffer, every: int, clock: Clock) -> None:
        self._store = store
        self._every = every
        self._clock = clock

    def of(self, window: Window, limit: int, read: Callable[[int], Window | None]) -> Window:
        """The window, which has at most `limit` rows, as it is to be sent, or as much of it as can be yet; `read` gives
        it with another number of rows. Raises `Held` where its first reading's bucket is not over."""
        if window.replayed:
            return window  # averages, or from before there were any
        if window.place is None:
            window = self._whole(window, limit, read)
        averages = self._averages(window.rows)
        return replace(window, rows=averages, skipped=len(window.rows) - len(averages), every=self._every)

    def _whole(self, window: Window, limit: int, read: Callable[[int], Window | None]) -> Window:
        """Without a bucket at its end of which there may be more."""
        rows = self._finished(window.rows)
        if len(rows) == len(window.rows) == limit:
            rows = self._before_the_last(rows)
            if not rows and limit < _MOST:
                limit *= _WIDER
                return self._whole(read(limit) or window, limit, read)
        if not rows or len(rows) == len(window.rows):
            return window
        return replace(window, high=rows[-1].seq, rows=rows)

    def _finished(self, rows: list[Pending]) -> list[Pending]:
        """Those before the first whose bucket is not over. A time that is not here yet is a wrong one: nobody waits."""
        now, wait = self._clock.now(), self._every + min(self._every // 4, _PATIENCE)
        for index, row in enumerate(rows):
            ready = self._start(row) + wait
            if row.timestamp <= now < ready:
                if not index:
                    raise Held(self._clock.monotonic() + (ready - now) / 1e6 + 0.001, None)
                return rows[:index]
        return rows

    def _before_the_last(self, rows: list[Pending]) -> list[Pending]:
        """Those before the first that lies in the bucket of the last."""
        last = self._start(rows[-1])
        return rows[: next(index for index, row in enumerate(rows) if self._start(row) == last)]

    def _start(self, row: Pending) -> int:
        return row.timestamp - row.timestamp % self._every

    def _averages(self, rows: Sequence[Pending]) -> list[Pending]:
        buckets: dict[_Bucket, list[Pending]] = {}
        for row in rows:
            buckets.setdefault((row.model, row.device_id, self._start(row)), []).append(row)
        found: list[Pending] = []
        for (model, device_id, start), mine in buckets.items():
            there = {row.timestamp: row.row for row in sorted(mine, key=_order)}
            there |= self._store.between(model, device_id, start, start + self._every)
            values = [values for _, values in sorted(there.items(), key=_time)]
            found.append(Pending(mine[-1].seq, model, device_id, start, average(model, values)))
        return found


def _order(row: Pending) -> int:
    return row.seq


def _time(entry: tuple[int, Row]) -> int:
    return entry[0]
