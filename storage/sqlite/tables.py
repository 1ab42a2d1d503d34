"""Making and widening the tables that hold rows, and the views for people. Inside the writer's transaction."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

from edgedepot.storage.clock import HOUR
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.records import SEQ, TIME, BadRecord, read_records
from edgedepot.storage.sqlite.shape import Partition, Piece, Rule, Shape, in_order
from edgedepot.storage.values import Quality

log = logging.getLogger(__name__)
_PARTS: dict[type, tuple[str, ...]] = {
    float: ("n", "sum", "min", "max"),
    int: ("n", "sum", "rest", "min", "max"),
    bool: ("n",),
    str: ("n",),
}
_EDGE_PARTS = ("first", "first_ts", "last", "last_ts")
HOUR_COLUMNS = ("rows", "low", "high", "digest")
"""Of all readings of an hour: their number, the times of the first and the last, and a checksum; see digest.py."""


def history_table(layout: Layout, partition: Partition) -> str:
    return f"_h_{layout.name}_{partition.id}"


def hour_table(layout: Layout, partition: Partition) -> str:
    return f"_hour_{layout.name}_{partition.id}"


def kept_table(layout: Layout, rule: Rule) -> str:
    return f"_d_{layout.name}_{rule.id}"


_OF_READINGS = ("_j_", "_h_", "_hour_", "_d_")
"""How the names begin of the tables that have a row for each reading, or for some together."""


def check_tables(connection: sqlite3.Connection, shape: Shape, layouts: Mapping[int, Layout]) -> None:
    """Raises `BadRecord` where the tables of readings that there are, and those on record, are not the same: what is in
    one that no record names would not be there."""
    known = {piece.table for piece in shape.pieces}
    known |= {kept_table(layouts[rule.model], rule) for rule in shape.rules if rule.model in layouts}
    for model, partitions in shape.partitions.items():
        if in_order(partitions) != partitions:
            raise BadRecord(f"the partitions of model {model} are on record as not following on one another")
        for partition in partitions:
            if model not in layouts:
                raise BadRecord(f"a partition is on record as of model {model}, which is not")
            known.add(history_table(layouts[model], partition))
            if partition.hours is not None:
                known.add(hour_table(layouts[model], partition))
    patterns = " OR ".join(f"name GLOB '{start}*'" for start in _OF_READINGS)
    tables = connection.execute(f"SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND ({patterns})")
    found = {name for name, sql in tables if name in known or is_ours(name, str(sql))}
    for piece, after in pairwise(shape.pieces):
        (last,) = connection.execute(f"SELECT max(seq) FROM {piece.table}").fetchone() if piece.last else (None,)
        if piece.last >= after.first or (last is not None and last > piece.last):
            raise BadRecord(f"{piece.table} is on record as ending with row {piece.last}, before or behind what it has")
    if found != known:
        odd = sorted(found ^ known)
        raise BadRecord(f"{', '.join(odd[:3])}: {len(odd)} tables are there and not on record, or the other way round")


_SAMPLE = 200
OWN_STAMP = 0
"""In a held piece's column `received`: the time is the gateway's own. Null says that code gave the time; anything else
is when a device's reading came, whose time is to be checked against that."""


def time_of(shape: Shape, piece: Piece) -> str:
    """A row's time, as an expression on a piece's table; see timebase.py."""
    base = shape.base_of(piece) if piece.base else None
    if base is None or base.offset is None:
        return "ts"
    return f"iif(received = {OWN_STAMP}, ts + {base.offset}, ts)"


def rows_of(shape: Shape, piece: Piece) -> str:
    """What to select a piece's rows from: its table, with the times as they are known by now."""
    base = shape.base_of(piece) if piece.base else None
    if base is None or base.offset is None:
        return piece.table
    cells = "".join(f", c{index}" for index in range(piece.width))
    quality = f"coalesce(quality, 0) | {Quality.TIME_UNCERTAIN:d}" if base.uncertain else "quality"
    return f"(SELECT seq, series, {time_of(shape, piece)} AS ts, {quality} AS quality{cells} FROM {piece.table})"


def add_piece(connection: sqlite3.Connection, shape: Shape, first: int, base: int = 0) -> None:
    """Begin a new piece of the journal with row number `first`; the one before gets no more rows. `base` is its time
    base, where time is not trusted: then it says of each row how its time came about."""
    if shape.pieces:
        before = shape.pieces[-1]
        connection.execute(f"INSERT INTO _pieces (id, live) SELECT ?, count(series) FROM {before.table}", (before.id,))
        before.last = first - 1
    # As few columns as the models need: a row spends a byte on each, also where it is null. Book rows need one.
    width = max([1, *(piece.width for piece in shape.pieces[-1:])])
    piece = Piece(shape.pieces[-1].id + 1 if shape.pieces else 1, first, width, base, aside=base > 0)
    create_piece(connection, piece)
    shape.pieces.append(piece)


def create_piece(connection: sqlite3.Connection, piece: Piece) -> None:
    """The table of a piece."""
    values = ("received INTEGER, " if piece.base else "") + ", ".join(f"c{index}" for index in range(piece.width))
    connection.execute(
        f"CREATE TABLE {piece.table} (seq INTEGER PRIMARY KEY, series INTEGER, ts INTEGER, quality INTEGER, {values})"
    )


def rows_in(connection: sqlite3.Connection, piece: Piece) -> int:
    """How many readings a piece has that gets no more."""
    for (live,) in read_records(connection, "_pieces", ("live",), "WHERE id = ?", (piece.id,)):
        return int(live)
    raise BadRecord(f"how many readings {piece.table} has is missing")


def readings_in(connection: sqlite3.Connection, piece: Piece) -> int:
    """The same, counted: it takes time with the piece."""
    (count,) = connection.execute(f"SELECT count(series) FROM {piece.table}").fetchone()
    return int(count)


def check_piece(connection: sqlite3.Connection, piece: Piece) -> None:
    """Raises `BadRecord` where a piece that gets no more rows has not the readings that it should: nobody would miss
    them where SQLite finds nothing wrong with its pages. It takes time with the piece."""
    there, expected = readings_in(connection, piece), rows_in(connection, piece)
    if there != expected:
        raise BadRecord(f"{piece.table} has {there} readings, and {expected} on record")


def widen_piece(connection: sqlite3.Connection, shape: Shape, width: int) -> None:
    """Give the last piece that many value columns."""
    piece = shape.pieces[-1]
    for index in range(piece.width, width):
        connection.execute(f"ALTER TABLE {piece.table} ADD COLUMN c{index}")
    piece.width = max(piece.width, width)


def add_partition(connection: sqlite3.Connection, shape: Shape, layout: Layout, ts: int, period: int) -> Partition:
    """A partition of a model's history for a timestamp that none holds yet."""
    partition = shape.new_partition(layout.id, ts, len(layout.written), period)
    create_partition(connection, layout, partition)
    return partition


def create_partition(connection: sqlite3.Connection, layout: Layout, partition: Partition) -> None:
    """The table of a partition, with columns for all the model's fields."""
    values = "".join(f", {value}" for value in value_columns(layout))
    connection.execute(
        f"CREATE TABLE {history_table(layout, partition)} (series INTEGER, ts INTEGER, seq INTEGER, quality INTEGER"
        f"{values}, PRIMARY KEY (series, ts)) WITHOUT ROWID"
    )


def rows_end(connection: sqlite3.Connection, layout: Layout, partition: Partition) -> int:
    """Right behind a partition's newest row; its start where it has none."""
    newest = f"SELECT max((SELECT max(ts) FROM {history_table(layout, partition)} WHERE series = s.id))"
    (ts,) = connection.execute(f"{newest} FROM _series AS s WHERE model = ?", (layout.id,)).fetchone()
    return partition.start if ts is None else int(ts) + 1


def hours_of(partition: Partition) -> tuple[int, int]:
    """The first hour of a partition, and the one behind its last. The first and the last may have rows in the
    neighbours too: what they come to is in each partition that of its own rows."""
    return partition.start // HOUR, -(-partition.stop // HOUR)


def pages_used(connection: sqlite3.Connection) -> int:
    """How many pages of the file hold something, in the open transaction too."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return int(pages) - pages_free(connection)


def pages_free(connection: sqlite3.Connection) -> int:
    """How many pages of the file hold nothing any more: they are used again before it grows."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)


@contextmanager
def counted(connection: sqlite3.Connection, one: Partition | Rule) -> Iterator[None]:
    """Count the pages that are taken and freed meanwhile as those of a partition, or of what is kept by a rule."""
    before = pages_used(connection)
    yield
    one.pages += pages_used(connection) - before


def bytes_each(connection: sqlite3.Connection, piece: Piece) -> float:
    """About how many bytes a row of a piece takes, by its latest ones; those of the books are among them."""
    return 8 + mean_bytes(
        connection.execute(f"SELECT * FROM {piece.table} ORDER BY seq DESC LIMIT {_SAMPLE}").fetchall()
    )


def mean_bytes(rows: Sequence[Sequence[object]]) -> float:
    """About how many bytes the cells of a row take."""
    return sum(_size(cell) for row in rows for cell in row) / max(1, len(rows))


def _size(cell: object) -> int:
    if isinstance(cell, bytes):
        return len(cell)
    return len(cell.encode()) if isinstance(cell, str) else 1 if cell is None else 8


def widen_partition(connection: sqlite3.Connection, layout: Layout, partition: Partition) -> None:
    """Give a partition the columns of all fields, before it gets rows that may have them: most never do."""
    for column in value_columns(layout)[partition.width :]:
        connection.execute(f"ALTER TABLE {history_table(layout, partition)} ADD COLUMN {column}")
    partition.width = len(layout.written)


def widen_hours(connection: sqlite3.Connection, layout: Layout, partition: Partition) -> None:
    """Give a partition's hours the columns of all fields."""
    if partition.hours is None:
        connection.execute(
            f"CREATE TABLE {hour_table(layout, partition)} (series INTEGER, hour INTEGER,"
            f" {', '.join((*HOUR_COLUMNS, *hour_columns(layout, 0)))}, PRIMARY KEY (series, hour)) WITHOUT ROWID"
        )
    for column in [] if partition.hours is None else hour_columns(layout, partition.hours):
        connection.execute(f"ALTER TABLE {hour_table(layout, partition)} ADD COLUMN {column}")
    partition.hours = len(layout.written)


def value_columns(layout: Layout) -> list[str]:
    """The columns of a model's fields."""
    return [f"c{index}" for index in range(len(layout.written))]


def hour_columns(layout: Layout, first: int) -> list[str]:
    """The columns of a model's hours for its fields from that one on."""
    fields = list(enumerate(layout.written))[first:]
    return [f"{part}{index}" for index, spec in fields for part in (*_PARTS[spec.type], *_EDGE_PARTS)]


def cell(column: str, width: int) -> str:
    """A column as an expression on a table with so many value columns: null where the table is older than the field."""
    return column if not column[1:].isdigit() or int(column[1:]) < width else "NULL"


def all_of(conditions: Sequence[str]) -> str:
    """The SQL condition that all hold, in parentheses; true where there are none."""
    return _tree(conditions, "AND") if conditions else "true"


def any_of(conditions: Sequence[str]) -> str:
    """The SQL condition that one holds, in parentheses; false where there are none."""
    return _tree(conditions, "OR") if conditions else "false"


def _tree(conditions: Sequence[str], word: str) -> str:
    """SQLite takes no expression of more than 1,000 levels, and one after the other each is a level:
    https://sqlite.org/limits.html#max_expr_depth"""
    half = len(conditions) // 2
    if not half:
        return f"({conditions[0]})"
    return f"({_tree(conditions[:half], word)} {word} {_tree(conditions[half:], word)})"


_AFFINITY = {float: "real", int: "integer", bool: "integer", str: "text"}


def holdable(layout: Layout, width: int, *, before: bool = False) -> str:
    """The SQL condition for a row of history of so many value columns that can have been stored, for a connection that
    `prepare_digests` has seen; with `before` also one from before a field became float."""
    either = layout.turned if before else frozenset[int]()
    kinds = [
        f"typeof(c{index}) IN ('null', '{_AFFINITY[spec.type]}', '{_AFFINITY[int if index in either else spec.type]}')"
        + (f" AND _is_text(CAST(c{index} AS BLOB))" if spec.type is str else "")
        for index, spec in enumerate(layout.written[:width])
    ]
    whole = (
        "typeof(series) || typeof(ts) || typeof(seq) = 'integerintegerinteger'"
        f" AND seq BETWEEN {SEQ.low} AND {SEQ.high} AND ts BETWEEN {TIME.low} AND {TIME.high}"
    )
    return all_of([whole, "quality IS NULL OR quality BETWEEN 1 AND 255", *kinds])


def unfolded_condition(shape: Shape, piece: Piece) -> str:
    """The SQL condition for a piece's rows that are not in history, on `rows_of` it."""
    folded = shape.folded
    if piece.aside and folded.piece != piece.id:
        return "series > 0"
    if piece.aside:
        return f"(series > {folded.series} OR series = {folded.series} AND ts > {folded.ts})"
    if folded.high <= folded.low:
        return f"series > 0 AND seq > {folded.low}"
    return (
        f"series > 0 AND seq > {folded.low} AND (seq > {folded.high} OR series > {folded.series}"
        f" OR series = {folded.series} AND ts > {folded.ts})"
    )


def seen_condition(shape: Shape, piece: Piece, model: int) -> str:
    """As `unfolded_condition`, for the rows of a model that queries see: from before its horizon none, but where nobody
    knows yet when they are from."""
    return unfolded_condition(shape, piece) + _past_horizon(shape, piece, model)


def _past_horizon(shape: Shape, piece: Piece, model: int) -> str:
    is_open = model not in shape.horizons or shape.is_held(piece)
    return "" if is_open else f" AND ts >= {shape.horizon(model)}"


def _folded(place: int) -> str:
    return f"(SELECT json_extract(value, '$.folded[{place}]') FROM _meta WHERE key = 'shape')"


def _unfolded_now(piece: Piece) -> str:
    """As `unfolded_condition`, whenever it is asked."""
    behind = f"(series > {_folded(2)} OR series = {_folded(2)} AND ts > {_folded(3)})"
    if piece.aside:
        return f"series > 0 AND ({_folded(4)} <> {piece.id} OR {behind})"
    return f"series > 0 AND seq > {_folded(0)} AND (seq > {_folded(1)} OR {behind})"


def refresh_view(connection: sqlite3.Connection, shape: Shape, layout: Layout) -> None:
    """The view of a model's readings for people with other tools: device, ISO time, quality, fields. It changes with
    the tables that it names; how far the fold is it looks up, so that it is right in the middle of one too."""
    if not _may_name_a_view(connection, layout.name):
        return
    values = value_columns(layout)
    sources = [
        f"SELECT series, ts, quality, {', '.join(cell(value, partition.width) for value in values)}"
        f" FROM {history_table(layout, partition)}"
        for partition in shape.partitions.get(layout.id, [])
    ]
    mine = f"series IN (SELECT id FROM _series WHERE model = {layout.id})"
    sources += [
        f"SELECT series, ts, quality, {', '.join(cell(value, piece.width) for value in values)}"
        f" FROM {rows_of(shape, piece)} WHERE {_unfolded_now(piece)}{_past_horizon(shape, piece, layout.id)} AND {mine}"
        for piece in shape.unfolded()
    ]
    names = ", ".join(f'r.{value} AS "{spec.name}"' for value, spec in zip(values, layout.written, strict=True))
    united = " UNION ALL ".join(sources)
    heads = ", ".join(("series", "ts", "quality", *values))
    micros = "((r.ts % 1000000 + 1000000) % 1000000)"  # of the second, before 1970 too
    connection.execute(f'DROP VIEW IF EXISTS "{layout.name}"')
    connection.execute(
        f'CREATE VIEW "{layout.name}" AS WITH _r ({heads}) AS ({united}) SELECT device_id,'
        f" strftime('%Y-%m-%dT%H:%M:%S', (r.ts - {micros}) / 1000000, 'unixepoch')"
        f" || printf('.%06dZ', {micros}) AS timestamp,"
        f" r.quality, {names} FROM _r AS r JOIN _series ON _series.id = r.series"
    )


def _is_view(name: str, sql: str) -> bool:
    """Whether that makes the view of a reading model."""
    return sql.startswith(f'CREATE VIEW "{name}" AS WITH _r (')


def is_ours(name: str, sql: str) -> bool:
    """Whether what a file has by that name is the store's, or SQLite's."""
    if name.startswith(_OF_READINGS):
        return "series INTEGER" in sql  # which all of them have; `ALTER TABLE` leaves it as it was written
    return name.startswith(("_", "sqlite_")) or _is_view(name, sql)


def _may_name_a_view(connection: sqlite3.Connection, name: str) -> bool:
    """SQLite keeps some names to itself; a view would hide a table function of its name, of which we use some; and
    people may have made something else of that name in the file."""
    functions = {found for (found,) in connection.execute("PRAGMA module_list")}
    if name.startswith(("sqlite_", "pragma_")) or name in functions:
        return False
    named = "SELECT type, coalesce(sql, '') FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type <> 'trigger'"
    for kind, sql in connection.execute(named, (name,)):
        if not _is_view(name, sql):
            (file,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
            _say_taken(file, kind, name)
            return False
    return True


@functools.cache
def _say_taken(file: str, kind: str, name: str) -> None:
    """Once: it is asked for again and again."""
    log.warning("%s: there is a %s %s of somebody else's, so the readings of that name get no view", file, kind, name)
