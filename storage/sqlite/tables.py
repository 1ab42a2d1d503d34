"""Making and widening the tables that hold rows, and the views for people. Inside the writer's transaction."""

from __future__ import annotations

import sqlite3

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.shape import Partition, Piece, Shape

HOUR = 3_600_000_000
_PARTS: dict[type, tuple[str, ...]] = {
    float: ("n", "sum", "min", "max"),
    int: ("n", "sum", "rest", "min", "max"),
    bool: ("n",),
    str: ("n",),
}
_EDGE_PARTS = ("first", "first_ts", "last", "last_ts")


def history_table(layout: Layout, partition: Partition) -> str:
    return f"_h_{layout.name}_{partition.id}"


def hour_table(layout: Layout) -> str:
    return f"_hour_{layout.name}"


def add_piece(connection: sqlite3.Connection, shape: Shape, first: int) -> None:
    """Begin a new piece of the journal with row number `first`; the one before gets no more rows."""
    if shape.pieces:
        last = shape.pieces[-1]
        connection.execute(f"INSERT INTO _pieces (id, live) SELECT ?, count(series) FROM {last.table}", (last.id,))
    # As few columns as the models need: a row spends a byte on each, also where it is null. Book rows need one.
    width = max([1, *(piece.width for piece in shape.pieces[-1:])])
    piece = Piece(shape.pieces[-1].id + 1 if shape.pieces else 1, first, width)
    values = ", ".join(f"c{index}" for index in range(width))
    connection.execute(
        f"CREATE TABLE {piece.table} (seq INTEGER PRIMARY KEY, series INTEGER, ts INTEGER, quality INTEGER, {values})"
    )
    shape.pieces.append(piece)


def widen_piece(connection: sqlite3.Connection, shape: Shape, width: int) -> None:
    """Give the last piece that many value columns."""
    piece = shape.pieces[-1]
    for index in range(piece.width, width):
        connection.execute(f"ALTER TABLE {piece.table} ADD COLUMN c{index}")
    piece.width = max(piece.width, width)


def add_partition(connection: sqlite3.Connection, shape: Shape, layout: Layout, ts: int) -> Partition:
    """A partition of a model's history for a timestamp that none holds yet."""
    partition = shape.new_partition(layout.id, ts)
    values = "".join(f", c{index}" for index in range(len(layout.stored)))
    connection.execute(
        f"CREATE TABLE {history_table(layout, partition)} (series INTEGER, ts INTEGER, seq INTEGER, quality INTEGER"
        f"{values}, PRIMARY KEY (series, ts)) WITHOUT ROWID"
    )
    return partition


def hour_columns(layout: Layout) -> list[str]:
    """The columns of a model's hours, behind their key."""
    columns = ["rows", "low", "high"]
    for index, spec in enumerate(layout.stored):
        columns += [f"{part}{index}" for part in (*_PARTS[spec.type], *_EDGE_PARTS)]
    return columns


def widen_model(connection: sqlite3.Connection, shape: Shape, layout: Layout) -> None:
    """Give a model's history and hours the columns of all its fields."""
    wanted = [f"c{index}" for index in range(len(layout.stored))]
    for partition in shape.partitions.get(layout.id, []):
        _add_columns(connection, history_table(layout, partition), wanted)
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {hour_table(layout)} (series INTEGER, hour INTEGER,"
        f" {', '.join(hour_columns(layout))}, PRIMARY KEY (series, hour)) WITHOUT ROWID"
    )
    _add_columns(connection, hour_table(layout), hour_columns(layout))


def _add_columns(connection: sqlite3.Connection, table: str, wanted: list[str]) -> None:
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    for column in wanted:
        if column not in present:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def unfolded_condition(shape: Shape) -> str:
    """The SQL condition for journal rows that are not in history."""
    folded = shape.folded
    if folded.high <= folded.low:
        return f"series > 0 AND seq > {folded.low}"
    return (
        f"series > 0 AND seq > {folded.low} AND (seq > {folded.high} OR series > {folded.series}"
        f" OR series = {folded.series} AND ts > {folded.ts})"
    )


def refresh_view(connection: sqlite3.Connection, shape: Shape, layout: Layout) -> None:
    """The view of a model's readings for people with other tools: device, ISO time, quality, fields."""
    values = [f"c{index}" for index in range(len(layout.stored))]
    sources = [
        f"SELECT series, ts, quality, {', '.join(values)} FROM {history_table(layout, partition)}"
        for partition in shape.partitions.get(layout.id, [])
    ]
    for piece in shape.unfolded():
        present = ", ".join(value if index < piece.width else "NULL" for index, value in enumerate(values))
        sources.append(
            f"SELECT series, ts, quality, {present} FROM {piece.table} WHERE {unfolded_condition(shape)}"
            f" AND series IN (SELECT id FROM _series WHERE model = {layout.id})"
        )
    names = ", ".join(f'r.c{index} AS "{spec.name}"' for index, spec in enumerate(layout.stored))
    micros = "((r.ts % 1000000 + 1000000) % 1000000)"  # of the second, before 1970 too
    connection.execute(f'DROP VIEW IF EXISTS "{layout.name}"')
    connection.execute(
        f'CREATE VIEW "{layout.name}" AS SELECT device_id,'
        f" strftime('%Y-%m-%dT%H:%M:%S', (r.ts - {micros}) / 1000000, 'unixepoch')"
        f" || printf('.%06dZ', {micros}) AS timestamp,"
        f" r.quality, {names} FROM ({' UNION ALL '.join(sources)}) AS r JOIN _series ON _series.id = r.series"
    )
