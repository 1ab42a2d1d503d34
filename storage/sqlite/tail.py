"""The unfolded rows in memory: per series their timestamps and numbers, in order of time.

It answers what an index on the journal would answer, without the pages that one would dirty in every commit: whether an
identity is there, and which rows lie in a range. The writer adds rows before their commit; readers leave out the
numbers that their transaction does not see yet, and use none of it where the generation is another than theirs (see
shape.py). Before it takes rows out it hides all of them from readers, until memory is again what a commit left.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from bisect import bisect_left, bisect_right
from itertools import islice

from edgedepot.storage.sqlite.ranges import Ranges
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.shape import Shape
from edgedepot.storage.sqlite.tables import rows_of, unfolded_condition
from edgedepot.storage.sqlite.walk import NEVER

_HIDDEN = -1


class Series:
    """The readings of one model from one device. `newest` is the newest timestamp there ever was; `stamp` the gateway's
    last own since the clock was set, `NEVER` where that was in another process."""

    __slots__ = ("id", "model_id", "newest", "seqs", "stamp", "times")

    def __init__(self, series_id: int, model_id: int, newest: int) -> None:
        self.id = series_id
        self.model_id = model_id
        self.newest = newest
        self.stamp = NEVER
        self.times = array("q")
        self.seqs = array("q")

    def find(self, ts: int) -> int | None:
        """The number of the unfolded row of that time."""
        place = bisect_left(self.times, ts)
        return self.seqs[place] if place < len(self.times) and self.times[place] == ts else None

    def latest(self, until: int) -> int:
        """The latest time of an unfolded row up to then; `NEVER` for none."""
        place = bisect_right(self.times, until)
        return self.times[place - 1] if place else NEVER

    def span(self, low: int | None, high: int | None) -> slice:
        """Where the rows with ``low <= ts < high`` lie; None is an open end."""
        begin = 0 if low is None else bisect_left(self.times, low)
        return slice(begin, max(begin, len(self.times) if high is None else bisect_left(self.times, high)))

    def seen(self, low: int | None, high: int | None, horizon: int, held: Ranges) -> array[int]:
        """The numbers of the rows with ``low <= ts < high`` that queries see: from before the horizon held ones alone,
        of which nobody knows when they are from."""
        span = self.span(low, high)
        begin = max(span.start, min(bisect_left(self.times, horizon), span.stop))
        rest = self.seqs[begin : span.stop]
        if begin == span.start:
            return rest
        return array("q", [seq for seq in self.seqs[span.start : begin] if seq in held]) + rest


class Tail:
    """All series. The writer's thread changes it; `between` may be called from any. `held` is how many of the rows wait
    for somebody to know the time, see timebase.py."""

    def __init__(self) -> None:
        self._generation = _HIDDEN
        self.rows = self.held = 0
        self._holes = Ranges()
        self._lock = threading.Lock()
        self._series: dict[int, Series] = {}

    @classmethod
    def load(cls, connection: sqlite3.Connection, shape: Shape) -> Tail:
        """From the file: all series, and the rows that are not in history."""
        self = cls()
        self.reload(connection, shape)
        return self

    def reload(self, connection: sqlite3.Connection, shape: Shape) -> None:
        """Read all of it from the file again."""
        self.hide()
        self._series = {}
        self.rows = self.held = 0
        self.hold(shape.held())
        for series_id, model_id, newest in read_records(connection, "_series", ("id", "model", "newest")):
            self._series[series_id] = Series(series_id, model_id, NEVER if newest is None else newest)
        for piece in shape.unfolded():
            query = f"SELECT seq, series, ts FROM {rows_of(shape, piece)} WHERE {unfolded_condition(shape, piece)}"
            for seq, series_id, ts in connection.execute(query):
                self.add(self._series[series_id], ts, seq)
        self.show(shape.generation)

    def series(self, series_id: int) -> Series | None:
        return self._series.get(series_id)

    def new_series(self, series_id: int, model_id: int) -> Series:
        series = self._series[series_id] = Series(series_id, model_id, NEVER)
        return series

    def add(self, series: Series, ts: int, seq: int) -> None:
        """Put a row in its place."""
        if not series.times or ts > series.times[-1]:
            series.seqs.append(seq)  # first: a reader that sees the time finds the number
            series.times.append(ts)
        else:
            with self._lock:
                place = bisect_left(series.times, ts)
                series.seqs.insert(place, seq)
                series.times.insert(place, ts)
        if ts > series.newest:
            series.newest = ts
        self.rows += 1
        self.held += seq in self._holes

    def coming(self, model_id: int, low: int, high: int) -> int:
        """How many rows of a model with ``low <= ts < high`` the next fold brings into history."""
        mine = (series for series in self._series.values() if series.model_id == model_id)
        return sum(seq not in self._holes for series in mine for seq in series.seqs[series.span(low, high)])

    def hold(self, spans: list[tuple[int, int]]) -> None:
        """Rows with these numbers, ``low..high``, are held: they are not to be folded."""
        self._holes = Ranges(spans)

    def count_held(self) -> None:
        """Count the rows that are held anew."""
        self.held = sum(seq in self._holes for series in self._series.values() for seq in series.seqs)

    def forget_stamps(self) -> None:
        """The clock was set: stamps begin anew."""
        for series in self._series.values():
            series.stamp = NEVER

    def remove(self, series: Series, ts: int) -> None:
        """Take the row of that time out, when the rows are hidden."""
        place = bisect_left(series.times, ts)
        self.held -= series.seqs[place] in self._holes
        del series.times[place]
        del series.seqs[place]
        self.rows -= 1

    def from_series(self, series_id: int) -> list[Series]:
        """The series from that id on that have rows, by id."""
        return sorted(
            (one for one in self._series.values() if one.id >= series_id and one.times), key=lambda one: one.id
        )

    def forget(self, series: Series, seqs: array[int]) -> None:
        """These rows are in history now. When the rows are hidden."""
        if series.seqs[: len(seqs)] == seqs:
            del series.seqs[: len(seqs)]
            del series.times[: len(seqs)]
            self.rows -= len(seqs)
            return
        gone = set(seqs)
        keep = [place for place, seq in enumerate(series.seqs) if seq not in gone]
        series.times = array("q", [series.times[place] for place in keep])
        series.seqs = array("q", [series.seqs[place] for place in keep])
        self.rows -= len(gone)

    def discard(self, series_ids: list[int], low: int | None, high: int | None, horizon: int) -> int:
        """Take all rows with ``low <= ts < high`` out, when the rows are hidden; how many of them queries saw."""
        count = 0
        for series_id in series_ids:
            series = self._series.get(series_id)
            if series is not None:
                span = series.span(low, high)
                count += len(series.seen(low, high, horizon, self._holes))
                self.rows -= span.stop - span.start
                self.held -= sum(seq in self._holes for seq in series.seqs[span])
                del series.times[span]
                del series.seqs[span]
        return count

    def between(
        self,
        series_ids: list[int],
        low: int | None,
        high: int | None,
        horizon: int,
        last_seq: int,
        generation: int,
        newest: int | None = None,
    ) -> list[int] | None:
        """The numbers of the rows with ``low <= ts < high`` up to `last_seq` that queries see; None where memory is of
        another state than the caller's transaction. Of each series only so many of the `newest`."""
        found: list[int] = []
        with self._lock:
            if generation != self._generation:
                return None
            for series_id in series_ids:
                series = self._series.get(series_id)
                if series is not None:
                    seqs = series.seen(low, high, horizon, self._holes)
                    if newest is None:
                        found += [seq for seq in seqs if seq <= last_seq]
                    else:
                        found += islice((seq for seq in reversed(seqs) if seq <= last_seq), newest)
        return found

    def hide(self) -> None:
        """Until `show` readers go by the file alone: rows are about to be taken out."""
        self.show(_HIDDEN)

    def show(self, generation: int) -> None:
        """These are the rows of a committed state."""
        with self._lock:
            self._generation = generation
