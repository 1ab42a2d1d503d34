"""The room that refusals may take: readings that upstreams refuse for good, and what could not become a reading.

Upstreams await none of it, and people look at the latest. Where the store is full the oldest goes of what is beyond its
share, of whoever has most; what is in good order loses nothing by it. Runs on the writer's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from edgedepot.storage.given_up import GivenUp
from edgedepot.storage.sqlite.books import RESOLVED
from edgedepot.storage.sqlite.given_up import note_given_up
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.tables import mean_bytes
from edgedepot.storage.sqlite.withheld import withhold_quarantined

_SHARE = 8
"""What is quarantined may take that part of the limit, and what was rejected as much."""
_LEAST, _MOST = 4, 1_000_000
"""At a time what is beyond goes and at least such a part of the share, but no more than half of that, or so many bytes:
commits wait for it."""
_SAMPLE = 64
_OVERHEAD = 32
"""Bytes of a row that are none of its cells', its place in an index among them."""


class Excess(NamedTuple):
    """The oldest rows that are to go: whose, and how many. `whose` is an id, of a cursor or of a source."""

    whose: int
    rows: int


def too_many_rejects(connection: sqlite3.Connection, limit: int) -> Excess | None:
    """What of the rejects is to go now, None where they are within their share."""
    counts = dict(connection.execute("SELECT source, count(*) FROM _rejected GROUP BY source"))
    return _excess(connection, "_rejected", counts, limit)


def drop_rejects(journal: Journal, excess: Excess) -> None:
    """The books go on counting them."""
    oldest = "SELECT id FROM _rejected WHERE source = ? ORDER BY id LIMIT ?"
    journal.connection.execute(f"DELETE FROM _rejected WHERE id IN ({oldest})", excess)


def too_many_quarantined(journal: Journal, limit: int, replayed: bool) -> Excess | None:
    """What of the quarantined rows is to go now, None where they are within their share. With `replayed` also of those
    that are to be sent once more."""
    books = journal.books.cursors.values()
    counts = {book.id: book.counts[RESOLVED.index("quarantined")] for book in books}
    if replayed:
        query = "SELECT cursor, count(*) FROM _quarantined WHERE replay = 1 GROUP BY cursor"
        for cursor, count in journal.connection.execute(query):
            counts[cursor] += count
    return _excess(journal.connection, "_quarantined", counts, limit)


def evict_quarantined(journal: Journal, excess: Excess, replayed: bool) -> GivenUp:
    """Give an upstream's oldest quarantined rows up; what it does not get by that."""
    connection = journal.connection
    which = "" if replayed else " AND replay = 0"
    oldest = f"SELECT seq FROM _quarantined WHERE cursor = ?{which} ORDER BY seq LIMIT ?"
    condition, values = f"cursor = ? AND seq IN ({oldest})", list[object]([excess.whose, *excess])
    low, high, rows, waiting = connection.execute(
        f"SELECT min(ts), max(ts), count(*), sum(replay) FROM _quarantined WHERE {condition}", values
    ).fetchone()
    withhold_quarantined(connection, condition, values)
    connection.execute(f"DELETE FROM _quarantined WHERE {condition}", values)
    if waiting:
        journal.reshape()  # windows that were read ahead have them still
    name = next(name for name, book in journal.books.cursors.items() if book.id == excess.whose)
    journal.books.settle(name, quarantined=waiting - rows, evicted=rows)
    return note_given_up(journal, name, "evicted", low, high + 1, rows)


def _excess(connection: sqlite3.Connection, table: str, counts: Mapping[int, int], limit: int) -> Excess | None:
    each, share = _bytes_each(connection, table), limit // _SHARE
    beyond = sum(counts.values()) * each - share
    if beyond <= 0:
        return None
    whose = max(counts, key=counts.__getitem__)
    going = min(max(beyond, share / _LEAST), share / 2, _MOST)
    return Excess(whose, max(1, min(counts[whose], int(going / each))))


def _bytes_each(connection: sqlite3.Connection, table: str) -> float:
    """About how many bytes a row takes, by some from all over the table."""
    low, high = connection.execute(
        f"SELECT (SELECT min(rowid) FROM {table}), (SELECT max(rowid) FROM {table})"
    ).fetchone()
    if low is None:
        return 0.0
    places = {low + (high - low) * number // _SAMPLE for number in range(_SAMPLE + 1)}
    query = f"SELECT * FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT 1"
    return _OVERHEAD + mean_bytes([connection.execute(query, (place,)).fetchone() for place in places])
