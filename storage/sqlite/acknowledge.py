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


def add_cursor(journal: Journal, name: str, since: int | None, now: bool) -> None:
    """A cursor behind all rows where `now`, else before the oldest row there is, in history or in the journal; rows
    from before `since` (microseconds since 1970 UTC) are skipped."""
    if name in journal.books.cursors:
        return
    journal.write_rows()
    oldest = journal.last_seq + 1 if now else journal.shape.pieces[0].first
    walk = Walk(oldest, END if now else START, 0)
    if not now:
        layouts = journal.catalogue.layouts()
        walk.left = count_owed(journal.connection, journal.shape, layouts, walk, END, since)
    there = walk.left + count_rows(journal.connection, journal.shape, oldest, LAST)
    cursor_id = max((book.id for book in journal.books.cursors.values()), default=0) + 1
    passed = Ranges([(1, oldest - 1)] if oldest > 1 else [])
    before = journal.books.versions() - there
    book = CursorBook(cursor_id, name, before, since, passed, walk, [0] * len(RESOLVED))
    write_cursor(journal.connection, book)
    journal.books.new_cursor(book)


def _acknowledge_walk(journal: Journal, cursor: str, place: Place, set_aside: Sequence[tuple[Pending, str]]) -> None:
    """As `acknowledge`, for rows of history up to a place."""
    book = journal.books.cursors[cursor]
    if place <= book.walk.place:
        return
    layouts = journal.catalogue.layouts()
    passed = count_owed(journal.connection, journal.shape, layouts, book.walk, place, book.since)
    there = [(row, reason) for row, reason in set_aside if _is_in_history(journal, row)]
    quarantined = sum(_quarantine(journal, book.id, row, reason) for row, reason in there)
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
        skipped = 0 if book.since is None else _count_older(journal, first, last, book.since)
        delivered = passed - quarantined - skipped
        journal.books.resolve(cursor, first, last, delivered=delivered, quarantined=quarantined, skipped=skipped)


def _count_older(journal: Journal, low: int, high: int, since: int) -> int:
    """How many of the readings ``low..high`` are from before a time."""
    return sum(
        journal.connection.execute(
            f"SELECT count(series) FROM {piece.table} WHERE seq BETWEEN ? AND ? AND ts < ?", (low, high, since)
        ).fetchone()[0]
        for piece in journal.shape.pieces_from(low)
    )


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
