"""What upstreams have acknowledged, as the writer records it: cursors and deliveries.

Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from itertools import pairwise

from edgedepot.storage.buffer import EVERYTHING, Choice, Pending, Window
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.books import RESOLVED, CursorBook, write_cursor
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.quarantine import acknowledge_replayed, set_aside
from edgedepot.storage.sqlite.ranges import LAST, Ranges
from edgedepot.storage.sqlite.shape import Shape
from edgedepot.storage.sqlite.tables import rows_in, rows_of
from edgedepot.storage.sqlite.thinned import note_thinned
from edgedepot.storage.sqlite.walk import END, START, Place, Walk, count_owed, owed
from edgedepot.storage.sqlite.withheld import withhold_numbers, withhold_walked


def count_pending(
    connection: sqlite3.Connection, shape: Shape, book: CursorBook, replayed: Collection[int] = ()
) -> int:
    """How many readings an upstream has not acknowledged, those held included. `replayed` are rows that were sent once
    more, and that it has acknowledged since."""
    gaps = book.acknowledged.gaps(1, LAST)
    replays = (
        "SELECT count(*) FROM _quarantined"
        " WHERE cursor = ? AND replay = 1 AND seq NOT IN (SELECT value FROM json_each(?))"
    )
    count: int = connection.execute(replays, (book.id, json.dumps(list(replayed)))).fetchone()[0]
    return count + book.walk.left + sum(count_rows(connection, shape, low, high) for low, high in gaps)


def count_held(connection: sqlite3.Connection, shape: Shape, book: CursorBook) -> int:
    """How many of the readings that an upstream has not acknowledged wait for somebody to know the time."""
    gaps = [gap for held in shape.held() for gap in book.acknowledged.gaps(*held)]
    return sum(count_rows(connection, shape, low, high) for low, high in gaps)


def count_rows(connection: sqlite3.Connection, shape: Shape, low: int, high: int) -> int:
    """How many readings the journal should hold in ``low..high``; of whole closed pieces that is on record."""
    count = 0
    for piece in shape.pieces_between(low, high):
        last = shape.last_of(piece)
        if low <= piece.first and last <= high and last < LAST:
            count += rows_in(connection, piece)
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
    walk = Walk(oldest, END if now else START, 0, [] if now else _gone(journal))
    if not now:
        layouts = journal.catalogue.layouts()
        walk.left = count_owed(journal.connection, journal.shape, layouts, walk, END, since)
    there = walk.left + count_rows(journal.connection, journal.shape, oldest, LAST)
    cursor_id = schema.known_number(journal.connection, "last_cursor") + 1
    schema.set_meta(journal.connection, "last_cursor", cursor_id)  # never used again: book rows may speak of it
    passed = Ranges([(1, oldest - 1)] if oldest > 1 else [])
    for span in walk.gone:
        passed.add(*span)
    before = journal.books.versions() - there
    book = CursorBook(cursor_id, name, before, since, passed, walk, [0] * len(RESOLVED))
    write_cursor(journal.connection, book)
    if not now:
        note_thinned(journal, book.id)
    journal.books.new_cursor(book)


def _gone(journal: Journal) -> list[tuple[int, int]]:
    """The row numbers ``low..high`` of pieces that were dropped from between others: what lies around them was still
    owed, or held."""
    found = []
    for piece, after in pairwise(journal.shape.pieces):
        if after.id > piece.id + 1:
            last = journal.connection.execute(f"SELECT max(seq) FROM {piece.table}").fetchone()[0]
            found.append((piece.first if last is None else last + 1, after.first - 1))
    return [(low, high) for low, high in found if low <= high]  # a piece that was dropped may have had no rows


def remove_cursor(journal: Journal, name: str) -> int:
    """Forget a cursor; how many readings it had not acknowledged."""
    book = journal.books.cursors[name]
    journal.write_rows()
    pending = count_pending(journal.connection, journal.shape, book)
    journal.connection.execute("DELETE FROM _cursors WHERE id = ?", (book.id,))
    for table in ("_quarantined", "_withheld"):
        journal.connection.execute(f"DELETE FROM {table} WHERE cursor = ?", (book.id,))
    journal.books.remove_cursor(name)
    return pending


def acknowledge(
    journal: Journal, cursor: str, window: Window, refused: Sequence[tuple[Pending, str]], choice: Choice = EVERYTHING
) -> None:
    """Note that a window is resolved. The rows refused are quarantined, those outside the choice skipped, and the rest
    is delivered.

    Counted from the rows that are there: one that was merged or deleted meanwhile is in those columns already.
    """
    if cursor not in journal.books.cursors:
        return  # removed meanwhile
    journal.write_rows()
    if window.replayed:
        acknowledge_replayed(journal, cursor, window, refused)
    elif window.place is not None:
        _acknowledge_walk(journal, cursor, window.place, window, refused, choice)
    else:
        _acknowledge_journal(journal, cursor, window, refused, choice)


def _acknowledge_walk(
    journal: Journal,
    cursor: str,
    place: Place,
    window: Window,
    refused: Sequence[tuple[Pending, str]],
    choice: Choice,
) -> None:
    """As `acknowledge`, for rows of history up to a place."""
    book = journal.books.cursors[cursor]
    if place <= book.walk.place:
        return
    layouts = journal.catalogue.layouts()
    span = (journal.connection, journal.shape, layouts, book.walk, place, book.since)
    passed = count_owed(*span)
    skipped = 0 if choice == EVERYTHING else passed - count_owed(*span, _chosen(journal, choice))
    numbers = _numbers_in_history(journal, book.walk, place, refused)
    there = [(row, reason) for row, reason in refused if row.seq in numbers]
    quarantined = sum(set_aside(journal, book.id, row, reason) for row, reason in there)
    skipped += min(window.skipped, passed - quarantined - skipped)
    delivered = passed - quarantined - skipped
    if window.every:
        withhold_walked(journal.connection, journal.shape, layouts, book.id, book.walk, place, window.every)
    journal.books.walk_on(cursor, place, passed, delivered=delivered, quarantined=quarantined, skipped=skipped)


def _acknowledge_journal(
    journal: Journal, cursor: str, window: Window, refused: Sequence[tuple[Pending, str]], choice: Choice
) -> None:
    book = journal.books.cursors[cursor]
    aside = {row.seq: (row, reason) for row, reason in refused}
    spared = window.skipped
    for first, last in book.acknowledged.gaps(window.low, window.high):
        passed, skipped = count_there(journal, first, last, book.since, choice)
        held = [aside[seq] for seq in aside if first <= seq <= last and _is_in_journal(journal, aside[seq][0])]
        quarantined = sum(set_aside(journal, book.id, row, reason) for row, reason in held)
        others = min(spared, passed - quarantined - skipped)
        spared, skipped = spared - others, skipped + others
        delivered = passed - quarantined - skipped
        if window.every:
            withhold_numbers(journal.connection, journal.shape, book.id, first, last, window.every)
        journal.books.resolve(cursor, first, last, delivered=delivered, quarantined=quarantined, skipped=skipped)


def count_there(journal: Journal, low: int, high: int, since: int | None, choice: Choice) -> tuple[int, int]:
    """How many readings ``low..high`` there are, and how many of them are from before a time, or outside a choice.

    Counted from the rows, also in whole pieces: what went missing must not be booked as if it had been passed on.
    """
    condition, values = skipped_by(journal, since, choice)
    passed = skipped = 0
    for piece in journal.shape.pieces_between(low, high):
        rows, others = journal.connection.execute(
            f"SELECT count(series), count(series) FILTER (WHERE {condition}) FROM {rows_of(journal.shape, piece)}"
            " WHERE seq BETWEEN ? AND ?",
            (*values, low, high),
        ).fetchone()
        passed, skipped = passed + rows, skipped + others
    return passed, skipped


def times_awaited(journal: Journal, low: int, high: int, since: int | None, choice: Choice) -> tuple[int, int]:
    """From when until when (not included) the readings ``low..high`` are that are not skipped; there are some."""
    condition, values = skipped_by(journal, since, choice)
    found = [
        journal.connection.execute(
            f"SELECT min(ts), max(ts) FROM {rows_of(journal.shape, piece)}"
            f" WHERE seq BETWEEN ? AND ? AND series > 0 AND NOT ({condition})",
            (low, high, *values),
        ).fetchone()
        for piece in journal.shape.pieces_between(low, high)
    ]
    times = [time for pair in found for time in pair if time is not None]
    return min(times), max(times) + 1


def skipped_by(journal: Journal, since: int | None, choice: Choice) -> tuple[str, list[object]]:
    """The SQL condition for readings from before a time, or outside a choice, and its values."""
    conditions, values = [], list[object]()
    if since is not None:
        conditions, values = ["ts < ?"], [since]
    if choice != EVERYTHING:
        conditions.append("series NOT IN (SELECT value FROM json_each(?))")
        values.append(_chosen(journal, choice))
    return " OR ".join(conditions) or "false", values


def _chosen(journal: Journal, choice: Choice) -> str:
    """The series that a choice takes, as JSON."""
    layouts = journal.catalogue.layouts()
    known = journal.catalogue.all_series()
    return json.dumps([series for model, device, series in known if choice.takes(layouts[model].name, device)])


def _numbers_in_history(journal: Journal, walk: Walk, place: Place, refused: Sequence[tuple[Pending, str]]) -> set[int]:
    """Which of the rows are in history still, up to a place. They are known by their numbers: an average has the time
    of none."""
    if not refused:
        return set()
    numbers = json.dumps([row.seq for row, _ in refused])
    return {
        seq
        for _, _, table, condition in owed(journal.shape, journal.catalogue.layouts(), walk.place, place)
        for (seq,) in journal.connection.execute(
            f"SELECT seq FROM {table} WHERE {condition} AND seq IN (SELECT value FROM json_each(?))", (numbers,)
        )
    }


def _is_in_journal(journal: Journal, row: Pending) -> bool:
    piece = journal.shape.piece_of(row.seq)
    query = "SELECT 1 FROM {} WHERE seq = ?"
    return piece is not None and bool(journal.connection.execute(query.format(piece.table), (row.seq,)).fetchone())
