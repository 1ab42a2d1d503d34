"""History: a model's readings clustered by series and time, a table for each period.

    _h_weather_1   30 days       _h_weather_2   30 days       _h_weather_3   30 days       ...

A range of one device lies together, an identity is found with one probe, and the oldest goes by dropping a table. Here
is the writer's part; queries are in select.py and aggregate.py. Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from edgedepot.storage.clock import HOUR
from edgedepot.storage.query import Scope
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.digest import row_digest
from edgedepot.storage.sqlite.shape import Partition, Shape
from edgedepot.storage.sqlite.tables import cell, history_table
from edgedepot.storage.sqlite.walk import NEVER, Place, place_of
from edgedepot.storage.sqlite.withheld import Stretch, doomed
from edgedepot.storage.values import Row


class History:
    """Finds, takes out and deletes rows that the fold has put into history."""

    def __init__(self, connection: sqlite3.Connection, shape: Shape) -> None:
        self.connection = connection
        self.shape = shape

    def find(self, layout: Layout, columns: tuple[str, ...], series: int, ts: int) -> tuple[int, Row] | None:
        """Number and row of an identity, where it is there."""
        partition = self.shape.partition_of(layout.id, ts)
        if partition is None:
            return None
        cells = (cell(column, partition.width) for column in columns)
        found = self.connection.execute(
            f"SELECT {', '.join(('seq', 'quality', *cells))} FROM {history_table(layout, partition)}"
            " WHERE series = ? AND ts = ?",
            (series, ts),
        ).fetchone()
        return None if found is None else (found[0], tuple(found[1:]))

    def latest(self, layout: Layout, series: int, after: int, until: int) -> int:
        """The latest time of a row with ``after < ts <= until``, which is less than a period; `NEVER` for none."""
        found = [self.shape.partition_of(layout.id, ts) for ts in (after, until)]
        times = [NEVER]
        for partition in {one.id: one for one in found if one is not None}.values():
            query = f"SELECT max(ts) FROM {history_table(layout, partition)} WHERE series = ? AND ts > ? AND ts <= ?"
            (ts,) = self.connection.execute(query, (series, after, until)).fetchone()
            times.append(NEVER if ts is None else ts)
        return max(times)

    def take_out(self, layout: Layout, series: int, ts: int) -> Place:
        """Remove a row, and say where it was; what its hour comes to has to be computed again."""
        partition = self.shape.partition_of(layout.id, ts)
        assert partition is not None
        self.shape.touched(layout.id, partition)
        doomed = f"FROM {history_table(layout, partition)} WHERE series = ? AND ts = ?"
        self.connection.execute(_taking(layout, partition, doomed), (series, ts))
        self.connection.execute(f"DELETE {doomed}", (series, ts))
        return place_of(layout.id, partition, series, ts)

    def places_before(self, layout: Layout, scope: Scope, before: int) -> list[tuple[int, Place]]:
        """Number and place of the scope's rows that are numbered below `before`."""
        condition, values = scope_condition(scope)
        found: list[tuple[int, Place]] = []
        for partition in self.shape.partitions.get(layout.id, []):
            query = f"SELECT seq, series, ts FROM {history_table(layout, partition)} WHERE {condition} AND seq < ?"
            for seq, series, ts in self.connection.execute(query, (*values, before)):
                found.append((seq, place_of(layout.id, partition, series, ts)))
        return found

    def doomed(self, layout: Layout, scope: Scope) -> Iterator[Stretch]:
        """What the scope's rows are when they are deleted, of each series and partition."""
        for partition in self.shape.partitions.get(layout.id, []):
            yield from doomed(self.connection, history_table(layout, partition), *scope_condition(scope))

    def delete(self, layout: Layout, scope: Scope) -> int:
        """Remove the rows of a scope; how many."""
        condition, values = scope_condition(scope)
        count = 0
        for partition in self.shape.partitions.get(layout.id, []):
            if (scope.start is None or scope.start < partition.stop) and (
                scope.end is None or scope.end > partition.start
            ):
                self.shape.touched(layout.id, partition)
                doomed = f"FROM {history_table(layout, partition)} WHERE {condition}"
                self.connection.execute(_taking(layout, partition, doomed), values)
                count += self.connection.execute(f"DELETE {doomed}", values).rowcount
        return count


def _taking(layout: Layout, partition: Partition, doomed: str) -> str:
    """The SQL that notes the hours out of which rows are taken, of which partition, and what their digests come to."""
    taken = f"sum({row_digest(layout, partition)})"
    return (
        f"INSERT INTO _dirty (series, hour, part, digest)"
        f" SELECT series, {hour_of('ts')}, {partition.start}, {taken} {doomed}"
        f" GROUP BY 1, 2 ON CONFLICT (series, hour, part) DO UPDATE SET digest = digest + excluded.digest"
    )


def hour_of(ts: str) -> str:
    """The SQL of the hour that a timestamp lies in, rounded down before 1970 too."""
    return f"(({ts} - (({ts} % {HOUR}) + {HOUR}) % {HOUR}) / {HOUR})"


def series_of(scope: Scope) -> tuple[str, list[Any]]:
    """The SQL that selects the ids of a scope's series, with its values."""
    sql = "SELECT s.id FROM _series AS s JOIN _models AS m ON m.id = s.model WHERE m.name = ?"
    if scope.device_id is None:
        return sql, [scope.model.__measurement__]
    return sql + " AND s.device_id = ?", [scope.model.__measurement__, scope.device_id]


def scope_condition(scope: Scope) -> tuple[str, list[Any]]:
    """The SQL condition of a scope on a table with series and ts, with its values."""
    sql, values = series_of(scope)
    condition = f"series IN ({sql})"
    if scope.start is not None:
        condition += " AND ts >= ?"
        values.append(scope.start)
    if scope.end is not None:
        condition += " AND ts < ?"
        values.append(scope.end)
    return condition, values
