"""What an upstream should have by the books: the rows of history, and those on their way there, that it has received.

    seq     1 ........ before ............ acknowledged ............ last
            walked up to a place      |~~~~~~~~~~~~~~~|  pending  |~~~~|
            less: skipped (`since`, the choice), quarantined, withheld (see withheld.py)

Days and hours come from the hours that the fold adds up, but for those in which there is a row that it has not: these
are counted row by row. See `edgedepot.storage.delivered` for the contract.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, NamedTuple

from edgedepot.storage.buffer import Choice, Pending
from edgedepot.storage.clock import DAY, MINUTE
from edgedepot.storage.delivered import Tallies, Tally, functions_of, measures_of
from edgedepot.storage.query import Aggregation, Scope
from edgedepot.storage.reading import FieldSpec, Reading
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.aggregate import aggregate
from edgedepot.storage.sqlite.books import RESOLVED, CursorBook
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.delivered_averages import (
    Averaged,
    Passed,
    averages,
    bounds_of,
    spans_of,
    tallies_of,
    thinned,
)
from edgedepot.storage.sqlite.pending import PendingReader
from edgedepot.storage.sqlite.ranges import LAST, Ranges
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.shape import Partition, Piece
from edgedepot.storage.sqlite.tables import any_of, cell, history_table, rows_of, unfolded_condition
from edgedepot.storage.sqlite.view import View, places
from edgedepot.storage.sqlite.walk import END, NEVER
from edgedepot.storage.sqlite.withheld import DELETED, Stretch, read_withheld

Begin = Callable[[], AbstractContextManager[tuple[View, Catalogue]]]
_NOTHING_LATER = 2**62


class _Source(NamedTuple):
    """A table, or a query as one, with the condition for what the upstream is done with; `width` is its value columns.
    Of history a stretch of a series is found at once, of the journal it is not."""

    table: str
    passed: str
    width: int
    is_history: bool


class DeliveredRows:
    """As `edgedepot.storage.delivered.Delivered` says, of one cursor as its book and its choice stood. `reading` begins
    a read transaction; `epochs` says from which row on which epoch holds. For one thread."""

    def __init__(self, reading: Begin, book: CursorBook, choice: Choice, epochs: list[tuple[int, int]]) -> None:
        self._reading = reading
        self._book = book
        self._choice = choice
        self._epochs = epochs

    def epoch_of(self, seq: int) -> int:
        """See `Delivered`."""
        return schema.epoch_of(seq, self._epochs)

    def count(self) -> int:
        """See `Delivered`."""
        return self._book.counts[RESOLVED.index("delivered")]

    def models(self) -> list[type[Reading]]:
        """See `Delivered`."""
        with self._reading() as (_, catalogue):
            layouts = sorted(catalogue.layouts().values(), key=lambda layout: layout.name)
            wanted = self._choice.measurements
            return [layout.whole() for layout in layouts if wanted is None or layout.name in wanted]

    def beginning(self, model: type[Reading]) -> int | None:
        """See `Delivered`."""
        with self._reading() as (view, catalogue):
            layout = catalogue.find(model)
            bounds = [self._book.since, None if layout is None else view.shape.horizons.get(layout.id)]
            return max((bound for bound in bounds if bound is not None), default=None)

    def tallies(
        self, model: type[Reading], device: str | None, start: int | None, end: int | None, width: int
    ) -> Tallies:
        """See `Delivered`."""
        with self._reading() as (view, catalogue):
            layout = catalogue.find(model)
            if layout is None:
                return {}
            question = _Question(view, catalogue, layout, model, self._book, self._series(view, layout, device))
            low, high = self._bounds(view, layout, start, end)
            if width < DAY or self._book.walk.left or self._book.walk.place == END:
                found = question.count([(series, low, high) for series in question.series], low, high, width)
            else:
                found = question.by_day(device, low, high)
            averaged = (one.row for one in self._averages(question, low, high) if one.row is not None)
            made = chain(averaged, self._thinned(question, low, high))
            for key, tally in tallies_of(made, width).items():
                found[key] = _together(found.get(key, {}), tally)
            return found

    def deleted(self, model: type[Reading], device: str | None) -> dict[str, list[tuple[int, int]]]:
        """See `Delivered`."""
        with self._reading() as (view, catalogue):
            layout = catalogue.find(model)
            names = {} if layout is None else self._series(view, layout, device)
            found: dict[str, list[tuple[int, int]]] = {}
            for series, stretches in read_withheld(view.connection, self._book.id).items():
                spans = [(stretch.start, stretch.stop) for stretch in stretches if stretch.every == DELETED]
                if series in names and spans:
                    found[names[series]] = spans
            return found

    def rows(self, model: type[Reading], device: str, start: int, end: int) -> list[Pending]:
        """See `Delivered`."""
        with self._reading() as (view, catalogue):
            layout = catalogue.find(model)
            if layout is None:
                return []
            question = _Question(view, catalogue, layout, model, self._book, self._series(view, layout, device))
            low, high = self._bounds(view, layout, start, end)
            averaged = list(self._averages(question, low, high))
            over = {one.start: one.high for one in averaged}
            found = [row for row in question.rows(low, high) if row.seq > over.get(row.timestamp, 0)]
            found += [one.row for one in averaged if one.row is not None]
            found += self._thinned(question, low, high)
            newest = {row.timestamp: row for row in sorted(found, key=lambda row: row.seq)}
            return [newest[timestamp] for timestamp in sorted(newest)]

    def _averages(self, question: _Question, low: int, high: int) -> Iterator[Averaged]:
        """Those that begin within ``low <= ts < high``, by series, width and time."""
        for series in question.series:
            stretches = question.withheld.get(series, [])
            for every in sorted({stretch.every for stretch in stretches if stretch.every > 0}):
                span = bounds_of(stretches, every, low, high)
                if span is not None:
                    yield from averages(question.of_series(series, *span), stretches, every)

    def _thinned(self, question: _Question, low: int, high: int) -> Iterator[Pending]:
        """What thinned minutes came to, with ``low <= ts < high``, by series and time. What the walk is about was sent
        out of history, as it is there."""
        first = question.horizon + -question.horizon % MINUTE
        for series in question.series:
            stretches = question.withheld.get(series, [])
            for start, stop in spans_of(stretches, low, high):
                near = [one for one in stretches if one.start < stop and start < one.stop]
                for row in thinned(question.of_series(series, max(start, first), stop), near):
                    if low <= row.timestamp < high and not self._book.walk.takes(row.seq):
                        yield row

    def _bounds(self, view: View, layout: Layout, start: int | None, end: int | None) -> tuple[int, int]:
        low = max(NEVER if bound is None else bound for bound in (start, self._book.since))
        return max(low, view.shape.horizon(layout.id)), _NOTHING_LATER if end is None else end

    def _series(self, view: View, layout: Layout, device: str | None) -> dict[int, str]:
        """The series asked for, of those that the upstream gets."""
        found = read_records(view.connection, "_series", ("id", "device_id"), "WHERE model = ?", (layout.id,))
        takes = self._choice.takes
        return {series: name for series, name in found if name == (device or name) and takes(layout.name, name)}


class _Question:
    """One call on one view, about these series."""

    def __init__(
        self,
        view: View,
        catalogue: Catalogue,
        layout: Layout,
        model: type[Reading],
        book: CursorBook,
        series: dict[int, str],
    ) -> None:
        self.series = series
        self._layouts, self._reader = catalogue.layouts(), PendingReader(catalogue)
        self._view = view
        self._layout = layout
        self._model = model
        self._book = book
        self._places = places(layout, model)
        self.horizon = view.shape.horizon(layout.id)
        self.withheld = read_withheld(view.connection, book.id)
        self._ids = json.dumps(list(series))

    # -- by day, from the hours -----------------------------------------------------------------------------------

    def by_day(self, device: str | None, low: int, high: int) -> Tallies:
        """Days as the fold added them up, where all that is in them was delivered; the others row by row."""
        scope = Scope(self._model, device, None if low == NEVER else low, None if high == _NOTHING_LATER else high)
        ours = set(self.series.values())
        found: Tallies = {}
        for measure in measures_of(self._model):
            asked = Aggregation.of(scope, *measure, "1 day", "UTC", "device", None)
            for name, day, value in aggregate(self._view, self._layout, asked):
                if name in ours:
                    assert name is not None
                    assert day is not None
                    found.setdefault((name, day), {})[measure] = value
        touched = self._touched(found)
        for key in touched:
            found.pop(key, None)
        numbers = {name: series for series, name in self.series.items()}
        spans = [(numbers[name], max(low, day), min(high, day + DAY)) for name, day in sorted(touched)]
        return found | self.count(spans, low, high, DAY) if spans else found

    def _touched(self, found: Tallies) -> set[tuple[str, int]]:
        """The days in which there is a row that was not delivered."""
        view, shape = self._view, self._view.shape
        day = f"ts - ((ts % {DAY}) + {DAY}) % {DAY}"
        mine = "series IN (SELECT value FROM json_each(?))"
        rows: list[tuple[int, int]] = view.connection.execute(
            f"SELECT DISTINCT s.id, {day} FROM _quarantined AS q JOIN _series AS s ON s.device_id = q.device_id"
            " WHERE cursor = ? AND q.model = ? AND s.model = ?",
            (self._book.id, self._layout.name, self._layout.id),
        ).fetchall()
        for low, high in self._book.acknowledged.gaps(1, LAST):
            for piece in shape.pieces_between(low, high):
                rows += view.connection.execute(
                    f"SELECT DISTINCT series, {day} FROM {rows_of(shape, piece)} WHERE seq BETWEEN ? AND ? AND {mine}",
                    (low, high, self._ids),
                )
        touched = {(self.series[series], begin) for series, begin in rows if series in self.series}
        numbers = {name: series for series, name in self.series.items()}
        touched |= {key for key in found if _overlaps(self.withheld.get(numbers[key[0]], []), key[1])}
        return touched & found.keys()

    # -- row by row -----------------------------------------------------------------------------------------------

    def count(self, spans: list[tuple[int, int, int]], low: int, high: int, width: int) -> Tallies:
        """The delivered rows of stretches of series, all within ``low <= ts < high``."""
        bucket = f"t.ts - ((t.ts % {width}) + {width}) % {width}"
        found: Tallies = {}
        for source in self._sources(low, high):
            heads = ", ".join(self._heads(source.width))
            place, values = self._place(source, spans, low, high)
            rows = self._view.connection.execute(
                f"SELECT t.series, {bucket}, {heads} FROM {place} AND {self._delivered(source)} GROUP BY 1, 2", values
            )
            wanted = None if source.is_history else {(series, begin) for series, begin, _ in _buckets(spans, width)}
            for series, begin, *cells in rows:
                if wanted is None or (series, begin) in wanted or (series, NEVER) in wanted:
                    key = (self.series[series], begin)
                    found[key] = _together(found.get(key, {}), self._tally(cells))
        return {key: tally for key, tally in found.items() if tally}

    def _place(
        self, source: _Source, spans: list[tuple[int, int, int]], low: int, high: int
    ) -> tuple[str, tuple[object, ...]]:
        """What to select from, and the condition for the stretches, with what that binds."""
        if source.is_history:
            span = "(SELECT value ->> 0 AS series, value ->> 1 AS low, value ->> 2 AS high FROM json_each(?)) AS span"
            inside = "t.series = span.series AND t.ts >= span.low AND t.ts < span.high"
            return f"{span} CROSS JOIN {source.table} AS t ON {inside} WHERE true", (json.dumps(spans),)
        there = json.dumps(sorted({series for series, _, _ in spans}))
        inside = "t.series IN (SELECT value FROM json_each(?)) AND t.ts >= ? AND t.ts < ?"
        return f"{source.table} AS t WHERE {inside}", (there, low, high)

    def rows(self, low: int, high: int) -> list[Pending]:
        """The delivered rows."""
        found: list[tuple[Any, ...]] = []
        for source in self._sources(low, high):
            found += self._view.connection.execute(
                f"SELECT {self._whole(source)} FROM {source.table} AS t WHERE {self._delivered(source)}"
                " AND t.series IN (SELECT value FROM json_each(?)) AND t.ts >= ? AND t.ts < ?",
                (self._ids, low, high),
            )
        return self._pending(found)

    def of_series(self, series: int, low: int, high: int) -> Iterator[Passed]:
        """All rows of a series, by time; of one identity the newest. A day of them is read at a time."""
        low, high = self._edges(series, low, high)
        for start in range(low, high, DAY):
            found: list[tuple[Any, ...]] = []
            span = (series, start, min(start + DAY, high))
            for source in self._sources(*span[1:]):
                found += self._view.connection.execute(
                    f"SELECT {self._whole(source)}, {source.passed} AND {self._not_refused()}"
                    f" FROM {source.table} AS t WHERE t.series = ? AND t.ts >= ? AND t.ts < ?",
                    span,
                )
            newest = {row[2]: row for row in sorted(found, key=lambda row: row[0])}
            rows = [newest[timestamp] for timestamp in sorted(newest)]
            yield from zip(self._pending([row[:-1] for row in rows]), (bool(row[-1]) for row in rows), strict=True)

    def _edges(self, series: int, low: int, high: int) -> tuple[int, int]:
        """The same times, but from the first row of a series within them to the last."""
        ends: list[int] = []
        for source in self._sources(low, high):
            (found,) = self._view.connection.execute(
                f"SELECT min(t.ts), max(t.ts) FROM {source.table} AS t WHERE t.series = ? AND t.ts >= ? AND t.ts < ?",
                (series, low, high),
            )
            ends += [end for end in found if end is not None]
        return (min(ends), max(ends) + 1) if ends else (low, low)

    def _pending(self, rows: list[tuple[Any, ...]]) -> list[Pending]:
        return list(self._reader.rows(self._view, self._layouts, iter(rows)))

    def _whole(self, source: _Source) -> str:
        """Number, series, timestamp, quality and values."""
        cells = "".join(f", t.{name}" if name != "NULL" else ", NULL" for name in self._cells(source.width))
        return f"t.seq, t.series, t.ts, t.quality{cells}"

    def _cells(self, width: int) -> Iterator[str]:
        return (cell(f"c{index}", width) for index in range(len(self._layout.stored)))

    def _heads(self, width: int) -> Iterator[str]:
        for spec, function in self._parts():
            place = cell(self._places[spec.name], width)
            yield f"{function}({place if place == 'NULL' else f't.{place}'})"

    def _parts(self) -> Iterator[tuple[FieldSpec, str]]:
        return ((spec, function) for spec in self._model.__fields__ for function in functions_of(spec))

    def _tally(self, cells: Iterable[Any]) -> Tally:
        tally = dict(zip(measures_of(self._model), cells, strict=True))
        return {one: value for one, value in tally.items() if value is not None and (value or one.function != "count")}

    def _sources(self, low: int, high: int) -> Iterator[_Source]:
        shape = self._view.shape
        for partition in shape.partitions.get(self._layout.id, []):
            if partition.start < high and partition.stop > low:
                passed = f"({self._walked(partition)} OR {self._acknowledged()})"
                yield _Source(history_table(self._layout, partition), passed, partition.width, True)
        for piece in shape.unfolded():
            yield _Source(self._unfolded(piece), self._acknowledged(), piece.width, False)

    def _unfolded(self, piece: Piece) -> str:
        shape = self._view.shape
        return f"(SELECT * FROM {rows_of(shape, piece)} WHERE {unfolded_condition(shape, piece)})"

    def _walked(self, partition: Partition) -> str:
        """The condition for rows from before the cursor's part of the journal."""
        walk, place = self._book.walk, self._book.walk.place
        here = (self._layout.id, partition.start)
        if place == END or here > place[:2]:  # it began with what came after it, or is on its way here
            return "false"
        older = walk.numbers()
        return older if here < place[:2] else f"({older} AND (t.series, t.ts) <= ({place[2]}, {place[3]}))"

    def _acknowledged(self) -> str:
        walk, spans = self._book.walk, list[tuple[int, int]]()
        for low, high in self._book.acknowledged:
            spans += Ranges(walk.gone).gaps(max(low, walk.before), high)
        return any_of([f"t.seq BETWEEN {low} AND {high}" for low, high in spans])

    def _not_refused(self) -> str:
        return f"t.seq NOT IN (SELECT seq FROM _quarantined WHERE cursor = {self._book.id})"

    def _delivered(self, source: _Source) -> str:
        cursor = self._book.id
        condition = f"{source.passed} AND {self._not_refused()}"
        if self.withheld:
            condition += (
                f" AND NOT EXISTS (SELECT 1 FROM _withheld AS w WHERE w.cursor = {cursor} AND w.series = t.series"
                " AND t.ts >= w.start AND t.ts < w.stop AND t.seq BETWEEN w.low AND w.high)"
            )
        return condition


def _buckets(spans: list[tuple[int, int, int]], width: int) -> Iterator[tuple[int, int, int]]:
    """The stretches with the bucket that each lies in; `NEVER` for one that is open or lies in several."""
    for series, low, high in spans:
        begin = low - low % width
        yield series, begin if high <= begin + width else NEVER, high


def _overlaps(stretches: list[Stretch], day: int) -> bool:
    """Whether one of the stretches, by start, reaches into a day."""
    last = bisect_right(stretches, day + DAY - 1, key=lambda stretch: stretch.start)
    return any(stretch.stop > day for stretch in stretches[:last])


def _together(one: Tally, other: Tally) -> Tally:
    combine: dict[str, Callable[[Any, Any], Any]] = {"count": lambda a, b: a + b, "min": min, "max": max}
    found = dict(one)
    for measure, value in other.items():
        found[measure] = combine[measure.function](found[measure], value) if measure in found else value
    return found
