"""What upstreams have acknowledged, as the writer records it: cursors, deliveries, quarantine.

Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from edgedepot.storage.base import Pending, Window
from edgedepot.storage.sqlite.books import RESOLVED, CursorBook, write_cursor
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.ranges import Ranges
from edgedepot.storage.sqlite.shape import Shape
from edgedepot.storage.sqlite.walk import END, START, Place, Walk, count_owed

LAST = 2**62
"""A number beyond all rows."""


def count_pending(connection: sqlite3.Connection, shape: Shape, book: CursorBook) -> int:
    """How many readings an upstream has not acknowledged."""
    gaps = book.acknowledged.gaps(1, LAST)
    return book.walk.left + sum(count_rows(connection, shape, low, high) for low, high in gaps)


def count_rows(connection: sqlite3.Connection, shape: Shape, low: int, high: int) -> int:
    """How many readings the journal holds in ``low..high``; whole closed pieces are not counted but known."""
    count = 0
    for index, piece in enumerate(shape.pieces):
        last = shape.pieces[index + 1].first - 1 if index + 1 < len(shape.pieces) else LAST
        if last < low or piece.first > high:
            continue
        if low <= piece.first and last <= high and last < LAST:
            count += connection.execute("SELECT live FROM _pieces WHERE id = ?", (piece.id,)).fetchone()[0]
        else:
            query = f"SELECT count(series) FROM {piece.table} WHERE seq BETWEEN ? AND ?"
            count += connection.execute(query, (low, high)).fetchone()[0]
    return count


def add_cursor(journal: Journal, name: str) -> None:
    """A cursor before the oldest row there is, in history or in the journal."""
    if name in journal.books.cursors:
        return
    journal.write_rows()
    oldest = journal.shape.pieces[0].first
    layouts = journal.catalogue.layouts()
    walk = Walk(oldest, START, count_owed(journal.connection, journal.shape, layouts, oldest, START, END))
    there = walk.left + count_rows(journal.connection, journal.shape, oldest, LAST)
    cursor_id = max((book.id for book in journal.books.cursors.values()), default=0) + 1
    passed = Ranges([(1, oldest - 1)] if oldest > 1 else [])
    book = CursorBook(cursor_id, name, journal.books.versions() - there, passed, [0] * len(RESOLVED), walk)
    write_cursor(journal.connection, book)
    journal.books.new_cursor(book)


def _acknowledge_walk(journal: Journal, cursor: str, place: Place, set_aside: Sequence[tuple[Pending, str]]) -> None:
    """As `acknowledge`, for rows of history up to a place."""
    walk = journal.books.cursors[cursor].walk
    if place <= walk.place:
        return
    layouts = journal.catalogue.layouts()
    passed = count_owed(journal.connection, journal.shape, layouts, walk.before, walk.place, place)
    there = [(row, reason) for row, reason in set_aside if _is_in_history(journal, row)]
    quarantined = sum(_quarantine(journal, journal.books.cursors[cursor].id, row, reason) for row, reason in there)
    journal.books.walk_on(cursor, place, passed, delivered=passed - quarantined, quarantined=quarantined)


def _is_in_history(journal: Journal, row: Pending) -> bool:
    layout = journal.catalogue.layout(row.model)
    found = journal.history.find(layout, (), journal.catalogue.series(layout, row.device_id), row.timestamp)
    return found is not None and found[0] == row.seq


def acknowledge(journal: Journal, cursor: str, window: Window, set_aside: Sequence[tuple[Pending, str]]) -> None:
    """Note that a window is resolved. The rows set aside are quarantined and the rest is delivered.

    Counted from the rows that are there: one that was merged or deleted meanwhile is in those columns already.
    """
    if window.place is not None:
        _acknowledge_walk(journal, cursor, window.place, set_aside)
        return
    journal.write_rows()
    book = journal.books.cursors[cursor]
    aside = {row.seq: (row, reason) for row, reason in set_aside}
    for first, last in book.acknowledged.gaps(window.low, window.high):
        passed = count_rows(journal.connection, journal.shape, first, last)
        held = [aside[seq] for seq in aside if first <= seq <= last and _is_in_journal(journal, aside[seq][0])]
        quarantined = sum(_quarantine(journal, book.id, row, reason) for row, reason in held)
        journal.books.resolve(cursor, first, last, delivered=passed - quarantined, quarantined=quarantined)


def _is_in_journal(journal: Journal, row: Pending) -> bool:
    piece = journal.shape.piece_of(row.seq)
    query = "SELECT 1 FROM {} WHERE seq = ?"
    return piece is not None and bool(journal.connection.execute(query.format(piece.table), (row.seq,)).fetchone())


def _quarantine(journal: Journal, cursor_id: int, row: Pending, reason: str) -> int:
    names = [spec.name for spec in row.model.__fields__]
    data = json.dumps(dict(zip(names, row.row[1:], strict=True)))
    return journal.connection.execute(
        "INSERT OR IGNORE INTO _quarantined (cursor, seq, model, device_id, ts, quality, data, reason, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(cursor_id, row.seq, row.model.__measurement__, row.device_id),
            *(row.timestamp, row.row[0], data, reason, journal.at),
        ),
    ).rowcount
