"""Thinning: of what upstreams still await, whole minutes become one row each, before anything is given up for good.

    _j_4   | a . a . a . b . a . b ...        rows of a minute of one series that no upstream has received
                          |   v
           |              b   a               the last keeps its identity and number: floats are the minute's averages,
                                              other values the last there were; the others count as thinned

Only rows that are in history, of pieces that get no more rows. History is left as it is. Rows of a minute that came in
much later than the others are thinned by themselves. Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import Any

import msgspec

from edgedepot.storage.clock import MINUTE
from edgedepot.storage.given_up import GivenUp
from edgedepot.storage.sqlite.acknowledge import skipped_by
from edgedepot.storage.sqlite.books import CursorBook
from edgedepot.storage.sqlite.choices import read_choice
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.given_up import note_given_up
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.shape import Piece, Shape
from edgedepot.storage.sqlite.tables import bytes_each, cell, rows_of, value_columns
from edgedepot.storage.sqlite.withheld import THINNED, Stretch, withhold
from edgedepot.storage.values import Quality, represent

_BATCH = 5_000
_BATCH_BYTES = 1_000_000
"""So many rows, or bytes, are thinned together: they lie in the log, which readers may keep from beginning again."""
_LEAST = 100
_NEAR = 5_000
"""So many rows before and behind a piece are looked at for the rest of a minute."""
_HEAD = 4
Cells = tuple[Any, ...]
"""Series, timestamp, number, quality, and the values."""


class Batch(msgspec.Struct, frozen=True):
    """Rows to thin in one transaction: of these series, with ``low <= ts < high``."""

    piece: int
    series: list[int]
    low: int
    high: int

    def condition(self) -> tuple[str, list[object]]:
        """The SQL condition for its rows, and what that binds."""
        return "series IN (SELECT value FROM json_each(?)) AND ts >= ? AND ts < ?", [
            json.dumps(self.series),
            self.low,
            self.high,
        ]


def closed_pieces(shape: Shape) -> list[tuple[Piece, int]]:
    """The pieces that get no more rows and are in history, each with its last number."""
    pairs = [(piece, after.first - 1) for piece, after in pairwise(shape.pieces)]
    return [(piece, last) for piece, last in pairs if last <= shape.folded.low and not piece.aside]


def batches(connection: sqlite3.Connection, shape: Shape, piece: Piece, before: int) -> Iterator[Batch]:
    """What to thin in a piece, of the minutes that end by `before`, so much at a time that commits can wait for it."""
    before -= before % MINUTE
    query = f"SELECT series, count(*), min(ts), max(ts) FROM {rows_of(shape, piece)} WHERE series > 0 AND ts < ?"
    most = max(_LEAST, min(_BATCH, int(_BATCH_BYTES / bytes_each(connection, piece))))
    together: list[int] = []
    rows = 0
    low, high = before, before
    for series, count, first, last in connection.execute(f"{query} GROUP BY series", (before,)).fetchall():
        parts = -(-count // most)
        if parts > 1:
            width = ((last - first) // parts // MINUTE + 1) * MINUTE
            for start in range(first - first % MINUTE, last + 1, width):
                yield Batch(piece.id, [series], start, min(start + width, before))
            continue
        if together and rows + count > most:
            yield Batch(piece.id, together, low, high)
            together, rows, low = [], 0, before
        together = [*together, series]
        rows += count
        low = min(low, first - first % MINUTE)
    if together:
        yield Batch(piece.id, together, low, high)


def thin(
    journal: Journal, cursors: Cursors, batch: Batch, tell: Callable[[GivenUp], object] = lambda given_up: None
) -> int:
    """Thin a batch; how many rows went. `tell` is told for each upstream that awaited some."""
    place = next((index for index, piece in enumerate(journal.shape.pieces) if piece.id == batch.piece), None)
    if place is None:
        return 0
    journal.until_the_end(cursors.hold_hands())
    piece, after = journal.shape.pieces[place : place + 2]
    elsewhere = set(_minutes_near(journal, batch, piece.first - _NEAR, piece.first - 1))
    elsewhere |= set(_minutes_near(journal, batch, after.first, after.first + _NEAR))
    skips = {name: _skipped_numbers(journal, piece, batch, book) for name, book in journal.books.cursors.items()}
    doomed: list[int] = []
    given_up: dict[str, tuple[int, int, int]] = {}
    for minute, rows in _minutes(journal, piece, batch):
        if len(rows) > 1 and minute not in elsewhere:
            doomed += _thin_minute(journal, cursors, piece, rows, skips, given_up)
    journal.connection.executemany(f"DELETE FROM {piece.table} WHERE seq = ?", [(seq,) for seq in doomed])
    journal.connection.execute("UPDATE _pieces SET live = live - ? WHERE id = ?", (len(doomed), piece.id))
    for name, (low, high, count) in given_up.items():
        tell(note_given_up(journal, name, "thinned", low, high, count))
    journal.reshape()  # windows that were read ahead do not have them like this
    return len(doomed)


def _minutes(journal: Journal, piece: Piece, batch: Batch) -> Iterator[tuple[tuple[int, int], list[Cells]]]:
    """The rows of each series and minute, by time."""
    width = max(len(layout.written) for layout in journal.catalogue.layouts().values())
    cells = "".join(f", {cell(f'c{index}', piece.width)}" for index in range(width))
    condition, values = batch.condition()
    found = journal.connection.execute(
        f"SELECT series, ts, seq, quality{cells} FROM {rows_of(journal.shape, piece)}"
        f" WHERE {condition} ORDER BY series, ts, seq",
        values,
    ).fetchall()
    for minute, rows in groupby(found, key=_minute_of):
        yield minute, list(rows)


def _minute_of(row: Cells) -> tuple[int, int]:
    return row[0], row[1] // MINUTE


def _skipped_numbers(journal: Journal, piece: Piece, batch: Batch, book: CursorBook) -> set[int]:
    """The numbers of the rows that an upstream does not get anyway."""
    condition, values = batch.condition()
    skipped, chosen = skipped_by(journal, book.since, read_choice(journal.connection, book.id))
    query = f"SELECT seq FROM {rows_of(journal.shape, piece)} WHERE {condition} AND ({skipped})"
    return {seq for (seq,) in journal.connection.execute(query, (*values, *chosen))}


def _minutes_near(journal: Journal, batch: Batch, low: int, high: int) -> Iterator[tuple[int, int]]:
    for piece in journal.shape.pieces_between(low, high):
        query = f"SELECT series, ts FROM {rows_of(journal.shape, piece)} WHERE seq BETWEEN ? AND ?"
        for row in journal.connection.execute(f"{query} AND ts >= ? AND ts < ?", (low, high, batch.low, batch.high)):
            yield _minute_of(row)


def _thin_minute(
    journal: Journal,
    cursors: Cursors,
    piece: Piece,
    rows: list[Cells],
    skips: dict[str, set[int]],
    given_up: dict[str, tuple[int, int, int]],
) -> list[int]:
    """Put a minute's rows into the last, where upstreams let it; the numbers of the others. Those that an upstream
    `skips` it would not have got anyway; what it does not get of the rest is added to `given_up`: from when, until
    when, how many."""
    numbers = [row[2] for row in rows]
    awaiting = _awaiting(journal, cursors, *_ends(numbers))
    if not awaiting:
        return []
    start = rows[0][1] // MINUTE * MINUTE
    minute = Stretch(rows[0][0], start, start + MINUTE, *_ends(numbers), THINNED)
    among = piece.first, journal.shape.last_of(piece)  # what merges rows of these has a later number
    for name in awaiting:
        skipped = len(skips[name].intersection(numbers[:-1]))
        missed = len(rows) - 1 - skipped
        journal.books.settle(name, thinned=missed, skipped=skipped)
        withhold(journal.connection, journal.books.cursors[name].id, minute, among)
        if missed:
            low, high, count = given_up.get(name, (minute.start, minute.stop, 0))
            given_up[name] = (min(low, minute.start), max(high, minute.stop), count + missed)
    series = journal.tail.series(rows[0][0])
    assert series is not None
    layout = journal.catalogue.layouts()[series.model_id]
    columns = value_columns(layout)[: piece.width]
    values = [
        represent(layout.written[index].type, [row[_HEAD + index] for row in rows]) for index in range(len(columns))
    ]
    quality = int(Quality.THINNED)
    for row in rows:
        quality |= row[3] or 0
    journal.connection.execute(
        f"UPDATE {piece.table} SET {', '.join(f'{name} = ?' for name in ('quality', *columns))} WHERE seq = ?",
        (quality, *values, numbers[-1]),
    )
    return numbers[:-1]


def _ends(numbers: list[int]) -> tuple[int, int]:
    return min(numbers), max(numbers)


def _awaiting(journal: Journal, cursors: Cursors, low: int, high: int) -> list[str]:
    """The upstreams that await the rows ``low..high``; none where one has some of them, maybe only in hand."""
    found = []
    for name, book in journal.books.cursors.items():
        if cursors.has_none(name, low, high):
            found.append(name)
        elif book.acknowledged.gaps(low, high):
            return []
    return found
