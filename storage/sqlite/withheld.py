"""What an upstream has acknowledged without getting it: evicted, thinned, dropped from quarantine, skipped by a choice
that it has made no more, or gone into an average.

The books count these; history still has the rows themselves, maybe for years. So that nobody takes them for delivered
they are noted here, as stretches of a series: the rows ``start <= ts < stop`` that are numbered ``low..high``. And
where rows were deleted here: an upstream may have them, and then as many others are not all that it lacks. All that
writes runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.ranges import LAST
from edgedepot.storage.sqlite.records import MOST, TIME, read_records
from edgedepot.storage.sqlite.shape import Piece, Shape
from edgedepot.storage.sqlite.tables import rows_of
from edgedepot.storage.sqlite.walk import Place, Walk, owed

_COLUMNS = "(cursor, series, start, stop, low, high, every)"
_TOGETHER = (
    " ON CONFLICT (cursor, series, start, low) DO UPDATE SET stop = max(stop, excluded.stop),"
    " high = max(high, excluded.high), every = CASE every WHEN excluded.every THEN every ELSE 0 END"
)


THINNED, DELETED = -1, -2


class Stretch(NamedTuple):
    """Rows of a series."""

    series: int
    start: int
    stop: int
    low: int
    high: int
    every: int = 0
    """Over how many microseconds the averages are that stand for them upstream; 0 where nothing does. `THINNED`: for
    each minute of them the last does, with what all come to. `DELETED`: they are here no more, and may be there."""


def withhold(connection: sqlite3.Connection, cursor: int, stretch: Stretch, among: tuple[int, int] = (0, LAST)) -> None:
    """Note rows. A stretch that goes on where the one before ended is put together with that, if its numbers are
    `among` these, or each minute that is thinned would be one; the numbers of both may take in a row more, which came
    late."""
    series, start, stop, low, high, every = stretch
    joined = connection.execute(
        "UPDATE OR IGNORE _withheld SET stop = ?, low = min(low, ?), high = max(high, ?)"
        " WHERE cursor = ? AND series = ? AND stop = ? AND every = ? AND low >= ? AND high <= ?",
        (stop, low, high, cursor, series, start, every, *among),
    ).rowcount
    if not joined:
        connection.execute(
            f"INSERT INTO _withheld {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?){_TOGETHER}",
            (cursor, series, start, stop, low, high, every),
        )


def withhold_piece(
    connection: sqlite3.Connection, shape: Shape, cursor: int, piece: Piece, low: int, high: int
) -> None:
    """Note the rows ``low..high`` of a piece that is about to go, as far as history has them."""
    connection.execute(
        f"INSERT INTO _withheld {_COLUMNS} SELECT ?, series, min(ts), max(ts) + 1, ?, ?, 0"
        f" FROM {rows_of(shape, piece)} WHERE seq BETWEEN ? AND ? AND series > 0 GROUP BY series{_TOGETHER}",
        (cursor, low, high, low, high),
    )


def withhold_numbers(
    connection: sqlite3.Connection, shape: Shape, cursor: int, low: int, high: int, every: int
) -> None:
    """Note all rows ``low..high`` of the journal, which went into averages. Stretches that end right before `low` go
    on, so that an upstream that never gets anything else has one for each series."""
    connection.execute(
        "UPDATE _withheld SET high = ? WHERE cursor = ? AND high = ? AND every = ?", (high, cursor, low - 1, every)
    )
    for piece in shape.pieces_between(low, high):
        found = connection.execute(
            f"SELECT series, min(ts), max(ts) + 1 FROM {rows_of(shape, piece)}"
            " WHERE seq BETWEEN ? AND ? AND series > 0 GROUP BY series",
            (low, high),
        ).fetchall()
        for series, start, stop in found:
            before = connection.execute(
                "DELETE FROM _withheld WHERE cursor = ? AND series = ? AND high = ? AND every = ?"
                " RETURNING start, stop, low",
                (cursor, series, high, every),
            ).fetchall()
            starts, stops, lows = zip((start, stop, low), *before, strict=True)
            connection.execute(
                f"INSERT INTO _withheld {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?){_TOGETHER}",
                (cursor, series, min(starts), max(stops), min(lows), high, every),
            )


def withhold_walked(
    connection: sqlite3.Connection,
    shape: Shape,
    layouts: dict[int, Layout],
    cursor: int,
    walk: Walk,
    until: Place,
    every: int,
) -> None:
    """Note all rows of history from where a walk is to a place, which went into averages. Of a series that the walk has
    in hand all goes that is up to there, so that its stretches go on in one another."""
    for layout, partition, table, condition in owed(shape, layouts, walk.place, until):
        found = connection.execute(f"SELECT DISTINCT series FROM {table} WHERE {condition}").fetchall()
        for (series,) in found:
            here = (layout.id, partition.start, series)
            start = walk.place[3] + 1 if walk.place[:3] == here else partition.start
            stop = until[3] + 1 if until[:3] == here else partition.stop
            withhold(connection, cursor, Stretch(series, start, stop, 0, walk.end - 1, every))


def withhold_quarantined(connection: sqlite3.Connection, condition: str, values: list[object]) -> None:
    """Note the quarantined rows of a condition on `_quarantined`."""
    series = (
        "(SELECT s.id FROM _series AS s JOIN _models AS m ON m.id = s.model"
        " WHERE m.name = q.model AND s.device_id = q.device_id)"
    )
    connection.execute(
        f"INSERT INTO _withheld {_COLUMNS} SELECT cursor, {series}, ts, ts + 1, seq, seq, 0 FROM _quarantined AS q"
        f" WHERE {condition}{_TOGETHER}",
        values,
    )


def doomed(connection: sqlite3.Connection, table: str, condition: str, values: list[Any]) -> Iterator[Stretch]:
    """What the rows of a table's condition are when they are deleted, of each series. No row that there is has their
    numbers, and no other stretch begins with them."""
    query = f"SELECT series, min(ts), max(ts) + 1 FROM {table} WHERE {condition} GROUP BY series"
    for series, start, stop in connection.execute(query, values):
        yield Stretch(series, start, stop, MOST, MOST, DELETED)


def note_deleted(
    connection: sqlite3.Connection, cursors: Iterable[int], gone: Iterable[Stretch], *, all_before: bool
) -> None:
    """Note what is deleted at once: of each series one stretch, and one for ever where it is `all_before` a time."""
    found: dict[int, Stretch] = {}
    for one in gone:
        before = found.get(one.series, one)
        start = TIME.low if all_before else min(one.start, before.start)
        found[one.series] = one._replace(start=start, stop=max(one.stop, before.stop))
    for cursor in cursors:
        connection.executemany(
            f"INSERT INTO _withheld {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?, ?){_TOGETHER}",
            [(cursor, *one) for one in found.values()],
        )


def read_withheld(connection: sqlite3.Connection, cursor: int) -> dict[int, list[Stretch]]:
    """What an upstream has not, by series."""
    found: dict[int, list[Stretch]] = {}
    where = "WHERE cursor = ? ORDER BY series, start"
    is_early = connection.execute("PRAGMA user_version").fetchone()[0] < 2  # nobody has written it since
    fields = Stretch._fields[:-1] if is_early else Stretch._fields
    for row in read_records(connection, "_withheld", fields, where, (cursor,)):
        found.setdefault(row[0], []).append(Stretch(*row))
    return found
