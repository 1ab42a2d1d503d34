"""A field that was int is float from now on: all that is stored of it changes with that, in one transaction.

    journal, history      5                                       5.0
    hours, kept           sum 0, rest 12 (halves of 64 bits)      sum 12.0
    digests               less what the rows came to before,      more what they come to now

The only place where rows change, so nobody has to know of what was before. A digest is not computed from what is there:
a value that had changed on the card would be right from then on. Runs on the writer's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.digest import row_digest
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.shape import Partition, Rule, Shape
from edgedepot.storage.sqlite.tables import counted, history_table, hour_table, kept_table

_ALONE = ("min", "max", "first", "last")


def of_type(value: Any, kind: type) -> Any:
    """A value that may be from before its field became float."""
    return float(value) if kind is float and type(value) is int else value


def turn_to_float(connection: sqlite3.Connection, shape: Shape, layout: Layout, turned: Layout) -> None:
    """Change all that is stored of a model, from what a layout says to what another does."""
    before = {spec.name: spec.type for spec in layout.written}
    places = [place for place, spec in enumerate(turned.written) if spec.type is not before[spec.name]]
    mine = f"series IN (SELECT id FROM _series WHERE model = {layout.id})"
    for piece in shape.pieces:
        cast_to_float(connection, piece.table, [f"c{place}" for place in places if place < piece.width], mine)
    for partition in shape.partitions.get(layout.id, []):
        with counted(connection, partition):
            _turn_partition(connection, partition, layout, turned, places)
    for rule in shape.rules_of(layout.id):
        with counted(connection, rule):
            turn_kept(connection, layout, rule, places)


def _turn_partition(
    connection: sqlite3.Connection, partition: Partition, layout: Layout, turned: Layout, places: list[int]
) -> None:
    values = [f"c{place}" for place in places if place < partition.width]
    if values:
        _add_digests(connection, layout, partition, "-")
        cast_to_float(connection, history_table(layout, partition), values)
        _add_digests(connection, turned, partition, "+")
    hours = [place for place in places if place < (partition.hours or 0)]
    _turn_sums(connection, hour_table(layout, partition), hours)
    cast_to_float(connection, hour_table(layout, partition), [f"{part}{place}" for place in hours for part in _ALONE])


def _add_digests(connection: sqlite3.Connection, layout: Layout, partition: Partition, sign: str) -> None:
    """Add what rows come to now to the hours that have them, or subtract it."""
    if partition.hours is not None:
        connection.execute(
            f"UPDATE {hour_table(layout, partition)} AS o SET digest = o.digest {sign} found.digest"
            f" FROM (SELECT series, {hour_of('ts')} AS hour, sum({row_digest(layout, partition)}) AS digest"
            f" FROM {history_table(layout, partition)} GROUP BY 1, 2) AS found"
            " WHERE o.series = found.series AND o.hour = found.hour"
        )


def turn_kept(connection: sqlite3.Connection, layout: Layout, rule: Rule, places: list[int]) -> None:
    """Change what is kept downsampled by a rule."""
    table, columns = kept_table(layout, rule), set(rule.columns)
    _turn_sums(connection, table, [place for place in places if f"rest{place}" in columns])
    alone = [f"{part}{place}" for place in places for part in _ALONE]
    cast_to_float(connection, table, [column for column in alone if column in columns])
    rule.columns = [column for column in rule.columns if column not in {f"rest{place}" for place in places}]


def _turn_sums(connection: sqlite3.Connection, table: str, places: Iterable[int]) -> None:
    """Put the halves of sums together; the column of the lower ones stays, empty."""
    for place in places:
        connection.execute(
            f"UPDATE {table} SET sum{place} = sum{place} * 4294967296.0 + rest{place}, rest{place} = NULL"
            f" WHERE rest{place} IS NOT NULL"
        )


def cast_to_float(connection: sqlite3.Connection, table: str, columns: list[str], condition: str = "true") -> int:
    """Have these columns hold floats where they hold integers; in how many rows they did."""
    if columns:
        sets = ", ".join(f"{one} = iif(typeof({one}) = 'integer', CAST({one} AS REAL), {one})" for one in columns)
        there = " OR ".join(f"typeof({one}) = 'integer'" for one in columns)
        return connection.execute(f"UPDATE {table} SET {sets} WHERE {condition} AND ({there})").rowcount
    return 0
