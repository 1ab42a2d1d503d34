"""The fold: copies journal rows on into history, and adds up what their hours come to.

    journal  _j_3 | . . . . . . . . . . . |        up to `high`, by series and time, at most CHUNK rows a transaction:
                    | | | | | | | |                a fold in one piece would hold up commits
                    v v v v v v v v
    history  _h_weather_1 (series, ts)   and   _hour_weather_1 (series, hour): rows, n, sum, min, max, first, last

When all rows up to `high` are there, the books are written down, the journal gets a new piece if the last is large
enough, and pieces are dropped that nobody needs any more. Runs on the writer's thread.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import msgspec

from edgedepot.storage.clock import HOUR
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.downsampled import keep_late
from edgedepot.storage.sqlite.hours import Span, add_hour_again, add_hours
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.ranges import Ranges
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.shape import Folded, Partition, Piece, write_shape
from edgedepot.storage.sqlite.tables import (
    add_partition,
    add_piece,
    bytes_each,
    cell,
    check_piece,
    counted,
    history_table,
    refresh_view,
    rows_end,
    rows_of,
    value_columns,
    widen_hours,
    widen_partition,
)
from edgedepot.storage.sqlite.tail import Series

CHUNK, LEAST = 3_000, 500
"""Rows of a step at most, and where commits are in a hurry."""
CLEANED = 300
LARGER = 8
"""So many times larger are a journal's pieces in an outage, when they cannot go, so that there are few."""


class Run(NamedTuple):
    """Rows to fold, of one series: their times, in order, and their numbers."""

    series: Series
    times: array[int]
    seqs: array[int]

    def part(self, begin: int, end: int) -> Run:
        return Run(self.series, self.times[begin:end], self.seqs[begin:end])


class Fold:
    """Folds in steps, each one transaction."""

    def __init__(self, connection: sqlite3.Connection, journal: Journal, piece_rows: int, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._journal = journal
        self._piece_rows = piece_rows
        self._rows = CHUNK

    @property
    def active(self) -> bool:
        """True while a fold is under way; also after a crash in the middle of one."""
        return self._journal.shape.folded.active

    def begin(self) -> None:
        """Set out to fold all rows that are committed by now, and then pieces that were set aside and are released."""
        shape = self._journal.shape
        low, high = shape.folded.low, self._journal.committed_seq
        shape.folded = Folded(low, high, piece=self._released(low) if high == low else 0)

    def step(self) -> None:
        """Fold the next rows, or finish. When it fails nothing of it is done, and the fold begins anew some time."""
        journal = self._journal
        runs = list(self._next_runs())
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            journal.log_note.begin()
            if runs:
                self._fold_runs(runs)
                journal.shape.folded.series, journal.shape.folded.ts = runs[-1].series.id, runs[-1].times[-1]
            elif self._clean_hours() < CLEANED:
                self._finish()
            write_shape(self._connection, journal.shape)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            journal.rolled_back()
            raise
        journal.log_note.committed(journal.shape.generation)
        journal.tail.hide()
        for run in runs:
            journal.tail.forget(run.series, run.seqs)
        journal.tail.show(journal.shape.generation)

    def took(self, seconds: float, flush_interval: float) -> None:
        """How long the last step took. The next is so large that commits wait for it a quarter of their interval."""
        if seconds > 0:
            wanted = int(self._rows * flush_interval / 4 / seconds)
            self._rows = max(LEAST, min(CHUNK, 2 * self._rows, wanted))

    def _next_runs(self) -> Iterator[Run]:
        wanted = self._wanted()
        spans = list(wanted)
        if not spans:
            return
        first, last, whole = spans[0][0], spans[-1][1], len(spans) == 1
        left = self._rows
        for series in self._journal.tail.from_series(self._journal.shape.folded.series):
            mine = (place for place, seq in enumerate(series.seqs) if first <= seq <= last and (whole or seq in wanted))
            if places := list(islice(mine, left)):
                yield _picked(series, places)
                left -= len(places)
                if not left:
                    return

    def _wanted(self) -> Ranges:
        """The numbers of the rows that this fold is about."""
        shape, folded = self._journal.shape, self._journal.shape.folded
        aside = [piece for piece in shape.pieces if piece.aside]
        if folded.piece:
            return Ranges(shape.spans([piece for piece in aside if piece.id == folded.piece]))
        return Ranges(Ranges(shape.spans(aside)).gaps(folded.low + 1, folded.high))

    def _numbers(self) -> tuple[int, int]:
        """Between which numbers the rows lie that this fold brings into history, and no others there."""
        shape, folded = self._journal.shape, self._journal.shape.folded
        if not folded.piece:
            return folded.low + 1, folded.high
        return shape.spans([piece for piece in shape.pieces if piece.id == folded.piece])[0]

    def _fold_runs(self, runs: list[Run]) -> None:
        layouts = self._journal.catalogue.layouts()
        by_model: dict[int, list[Run]] = {}
        for run in runs:
            by_model.setdefault(run.series.model_id, []).append(run)
        for model_id, those in by_model.items():
            self._fold_model(layouts[model_id], those)
        self._connection.executemany(
            "UPDATE _series SET newest = max(coalesce(newest, ?1), ?1) WHERE id = ?2",
            [(run.times[-1], run.series.id) for run in runs],  # not the series' own, which may be a held row's
        )

    def _fold_model(self, layout: Layout, runs: list[Run]) -> None:
        known = len(self._journal.shape.partitions.get(layout.id, []))
        horizon = self._journal.shape.horizon(layout.id)
        late = [run.part(0, bisect_left(run.times, horizon)) for run in runs if run.times[0] < horizon]
        if late:
            keep_late(self._journal, layout, self._by_piece(late))
        by_partition: dict[int, tuple[Partition, list[Run]]] = {}
        for run in runs:
            for partition, part in self._by_partition(layout, run):
                by_partition.setdefault(partition.id, (partition, []))[1].append(part)
        for partition, parts in by_partition.values():
            with counted(self._connection, partition):
                for piece, seqs in self._by_piece(parts):
                    self._copy(layout, piece, partition, seqs)
        for partition, parts in by_partition.values():
            with counted(self._connection, partition):
                widen_hours(self._connection, layout, partition)
                spans = (span for part in parts for span in _spans(part, *self._numbers()))
                add_hours(self._connection, layout, partition, spans)
        if len(self._journal.shape.partitions.get(layout.id, [])) > known:
            refresh_view(self._connection, self._journal.shape, layout)

    def _by_partition(self, layout: Layout, run: Run) -> Iterator[tuple[Partition, Run]]:
        """A run by the partitions that it goes to, which are made where they are missing. Late rows, whose time is past
        what history holds, do not."""
        shape, period = self._journal.shape, self._limits.period(layout.name)
        begin = bisect_left(run.times, shape.horizon(layout.id))
        while begin < len(run.times):
            ts = run.times[begin]
            there = shape.partition_of(layout.id, ts)
            partition = there or add_partition(self._connection, shape, layout, ts, period)
            end = bisect_left(run.times, partition.stop, begin)
            yield partition, run.part(begin, end)
            begin = end

    def _by_piece(self, runs: list[Run]) -> list[tuple[Piece, list[int]]]:
        """The rows' numbers by the pieces that they are in, else in the order of the runs."""
        pieces = self._journal.shape.pieces
        firsts = [piece.first for piece in pieces]
        found: dict[int, list[int]] = {}
        for run in runs:
            low, high = (bisect_right(firsts, seq) for seq in (min(run.seqs), max(run.seqs)))
            if low == high:
                found.setdefault(low, []).extend(run.seqs)
                continue
            for seq in run.seqs:
                found.setdefault(bisect_right(firsts, seq), []).append(seq)
        return [(pieces[place - 1], seqs) for place, seqs in found.items()]

    def _copy(self, layout: Layout, piece: Piece, partition: Partition, seqs: list[int]) -> None:
        self._journal.shape.touched(layout.id, partition)
        widen_partition(self._connection, layout, partition)
        columns = ("series", "ts", "seq", "quality", *value_columns(layout))
        # Looked up one by one, in the order of series and time that they are given in: nothing is left to sort.
        self._connection.execute(
            f"INSERT INTO {history_table(layout, partition)} ({', '.join(columns)})"
            f" SELECT {', '.join(cell(column, piece.width) for column in columns)}"
            f" FROM json_each(?) AS one CROSS JOIN {rows_of(self._journal.shape, piece)} ON seq = one.value",
            (msgspec.json.encode(seqs).decode(),),
        )

    def _clean_hours(self) -> int:
        """Compute hours again out of which a row was taken; how many."""
        columns = ("series", "hour", "part", "digest")
        dirty = list(read_records(self._connection, "_dirty", columns, "LIMIT ?", (CLEANED,)))
        layouts = self._journal.catalogue.layouts()
        for series, hour, part, taken in dirty:
            known = self._journal.tail.series(series)
            partition = None if known is None else self._journal.shape.partition_of(known.model_id, part)
            if known is not None and partition is not None:
                layout = layouts[known.model_id]
                widen_hours(self._connection, layout, partition)
                add_hour_again(self._connection, layout, partition, series, hour, taken)
            where = "series = ? AND hour = ? AND part = ?"
            self._connection.execute(f"DELETE FROM _dirty WHERE {where}", (series, hour, part))
        return len(dirty)

    def _finish(self) -> None:
        journal, shape = self._journal, self._journal.shape
        before = [(piece.id, piece.aside) for piece in shape.pieces]
        for piece in shape.pieces:
            piece.aside = piece.aside and piece.id != shape.folded.piece
        low = shape.folded.high
        shape.folded = Folded(low, low, piece=self._released(low))
        journal.books.write_snapshot(self._connection, journal.committed_seq)
        if journal.committed_seq - shape.pieces[-1].first >= self._enough():
            add_piece(self._connection, shape, journal.committed_seq + 1, shape.pieces[-1].base)
        drop_pieces(self._connection, journal, acknowledged_pieces(journal))
        if before != [(piece.id, piece.aside) for piece in shape.pieces]:
            journal.refresh_views()
        self._cut_partitions()

    def _enough(self) -> int:
        """How many rows are a piece."""
        pieces = self._journal.shape.pieces
        wanted = self._piece_rows * (1 if len(pieces) < 4 else LARGER)
        return self._limits.piece_rows(wanted, bytes_each(self._connection, pieces[-1]), len(pieces))

    def _released(self, low: int) -> int:
        """The first piece up to row `low` that was set aside and is held no more, 0 where there is none."""
        shape = self._journal.shape
        aside = (piece for piece in shape.pieces if piece.aside and not shape.is_held(piece))
        return next((piece.id for piece in aside if shape.last_of(piece) <= low), 0)

    def _cut_partitions(self) -> None:
        """Where retention is to take partitions, end those that have become large or long: right behind their newest
        row, in the middle of an hour too. Were it the hour's end, what is left to take would lie in the future."""
        if not self._limits:
            return
        for layout in self._journal.catalogue.layouts().values():
            for partition in self._journal.shape.partitions.get(layout.id, [])[-1:]:
                end = rows_end(self._connection, layout, partition)
                if end > partition.start and self._is_large(layout, partition):
                    partition.stop = end

    def _is_large(self, layout: Layout, partition: Partition) -> bool:
        shape, limits = self._journal.shape, self._limits
        period = shape.widened(layout.id, limits.period(layout.name))
        largest = limits.largest(layout.name, len(shape.partitions[layout.id]))
        return partition.pages >= largest or partition.stop - partition.start > period


def acknowledged_pieces(journal: Journal) -> list[Piece]:
    """The pieces before the last that are in history, and of which no upstream is owed a reading."""
    shape = journal.shape
    return [
        piece
        for piece, after in pairwise(shape.pieces)
        if after.first - 1 <= shape.folded.low and not piece.aside and not is_owed(journal, piece, after.first - 1)
    ]


def is_owed(journal: Journal, piece: Piece, last: int) -> bool:
    """Whether an upstream has not acknowledged all rows of a piece, whose last number that is."""
    query = f"SELECT 1 FROM {piece.table} WHERE seq BETWEEN ? AND ? AND series > 0 LIMIT 1"
    gaps = {gap for book in journal.books.cursors.values() for gap in book.acknowledged.gaps(piece.first, last)}
    return any(journal.connection.execute(query, gap).fetchone() for gap in gaps)


def drop_pieces(connection: sqlite3.Connection, journal: Journal, pieces: list[Piece]) -> None:
    """Raises `BadRecord` where one has not the readings that it should: they would be gone without a word."""
    for piece in pieces:
        check_piece(connection, piece)
        connection.execute(f"DROP TABLE {piece.table}")
        connection.execute("DELETE FROM _pieces WHERE id = ?", (piece.id,))
        journal.shape.pieces.remove(piece)
    in_use = {piece.base for piece in journal.shape.pieces}
    journal.shape.bases = [base for base in journal.shape.bases if base.id in in_use]


def _picked(series: Series, places: list[int]) -> Run:
    begin, end = places[0], places[-1] + 1
    if end - begin == len(places):
        return Run(series, series.times[begin:end], series.seqs[begin:end])
    times, seqs = (array("q", [numbers[place] for place in places]) for numbers in (series.times, series.seqs))
    return Run(series, times, seqs)


def _spans(run: Run, first_seq: int, last_seq: int) -> Iterator[Span]:
    """The hours of a run."""
    begin = 0
    while begin < len(run.times):
        hour = run.times[begin] // HOUR
        end = bisect_left(run.times, (hour + 1) * HOUR, begin)
        yield Span(run.series.id, hour, run.times[begin], run.times[end - 1], first_seq, last_seq)
        begin = end
