"""How old what waits for an upstream is, whether anybody forwards it or not: read from the file."""

from __future__ import annotations

import json
from collections.abc import Iterator

from edgedepot.storage.buffer import EVERYTHING
from edgedepot.storage.sqlite.books import Books, CursorBook
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.choices import read_choice
from edgedepot.storage.sqlite.pending import chosen_series
from edgedepot.storage.sqlite.ranges import LAST
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.tables import rows_of
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.walk import END, NEVER, owed

_NEXT = 1_000
"""So many rows of the journal are looked at, which are about in the order of their times: there may be millions."""


def oldest_pending(view: View, catalogue: Catalogue, cursor: str) -> int | None:
    """The time of the oldest reading that a cursor has not acknowledged and is to get, of those that are next in the
    journal; None where there is none."""
    book = Books.load(view.connection, view.shape).cursors.get(cursor)
    if book is None:
        return None
    condition, values = _wanted(view, catalogue, book)
    found = [
        *_replayed(view, book),
        *_walked(view, catalogue, book, condition, values),
        *_journal(view, book, condition, values),
    ]
    return min(found, default=None)


def _wanted(view: View, catalogue: Catalogue, book: CursorBook) -> tuple[str, list[object]]:
    """The SQL condition for the readings that a cursor gets, and its values."""
    since = NEVER if book.since is None else book.since
    choice = read_choice(view.connection, book.id)
    if choice == EVERYTHING:
        return "ts >= ?", [since]
    records = read_records(view.connection, "_series", ("id", "model", "device_id"))
    series = {one: (model, device) for one, model, device in records}
    return (
        "ts >= ? AND series IN (SELECT value FROM json_each(?))",
        [since, json.dumps(chosen_series(choice, catalogue.layouts(), series))],
    )


def _replayed(view: View, book: CursorBook) -> Iterator[int]:
    query = "SELECT min(ts) FROM _quarantined WHERE cursor = ? AND replay = 1"
    yield from _known(view, query, [book.id])


def _walked(view: View, catalogue: Catalogue, book: CursorBook, condition: str, values: list[object]) -> Iterator[int]:
    """Of each model of which history has some for a late upstream, in the first partition that does."""
    seen = set[int]()
    tables = owed(view.shape, catalogue.layouts(), book.walk.place, END) if book.walk.left else []
    for layout, _, table, ahead in tables:
        if layout.id not in seen:
            query = f"SELECT min(ts) FROM {table} WHERE {ahead} AND {book.walk.numbers()} AND {condition}"
            for time in _known(view, query, values):
                seen.add(layout.id)
                yield time


def _journal(view: View, book: CursorBook, condition: str, values: list[object]) -> Iterator[int]:
    """Of the first rows that are neither acknowledged nor wait for somebody to know the time."""
    passed = book.acknowledged.copy()
    for low, high in view.shape.held():
        passed.add(low, high)
    for low, high in passed.gaps(1, LAST):
        for piece in view.shape.pieces_between(low, high):
            rows = (
                f"SELECT ts FROM {rows_of(view.shape, piece)} WHERE seq BETWEEN ? AND ? AND series > 0 AND {condition}"
            )
            query = f"SELECT min(ts) FROM ({rows} ORDER BY seq LIMIT {_NEXT})"
            for time in _known(view, query, [low, high, *values]):
                yield time
                return


def _known(view: View, query: str, values: list[object]) -> Iterator[int]:
    """The one number that a query finds, if it finds any."""
    (found,) = view.connection.execute(query, values).fetchone()
    if found is not None:
        yield int(found)
