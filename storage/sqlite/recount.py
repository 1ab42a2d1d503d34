"""Computes the hours of a partition again, as the fold would, and compares them with those that are written down."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.hours import add_hours, whole_hour
from edgedepot.storage.sqlite.shape import Partition
from edgedepot.storage.sqlite.tables import HOUR_COLUMNS, all_of, history_table, hour_columns, hour_table

_TOGETHER = 5_000
"""Hours that are held in memory."""
_CHANGED = "its readings are not those that were stored"
_SUMS = "what was added up of its readings is not right"
_LOST = "its readings are gone"
_UNCOUNTED = "it has readings that were never stored"


class WrongHours(NamedTuple):
    """Hours of one series after one another with the same fault, and how many readings they have."""

    series: int
    first: int
    last: int
    rows: int
    text: str


class Recount:
    """The hours of one partition, through a connection that reads; inside a read transaction."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout, partition: Partition) -> None:
        self._connection = connection
        self._layout = layout
        self._partition = partition
        self._table = hour_table(layout, partition)
        self.hours = 0

    def run(self, series: list[int]) -> Iterator[WrongHours]:
        """Compare all hours of the partition, whose rows are of these series, in order."""
        # Of their type, or SQLite would not look for one by the key.
        names = ", ".join(("series INTEGER", "hour INTEGER", *HOUR_COLUMNS, *hour_columns(self._layout, 0)))
        # A temporary table goes before one of the file with its name: so the fold's own arithmetic fills it.
        self._connection.execute(f"CREATE TEMP TABLE {self._table} ({names}, PRIMARY KEY (series, hour))")
        try:
            yield from self._compare_all(series)
        finally:
            self._connection.execute(f"DROP TABLE temp.{self._table}")

    def _compare_all(self, series: list[int]) -> Iterator[WrongHours]:
        history = history_table(self._layout, self._partition)
        low, together = -(2**63), 0
        for one in series:
            query = f"SELECT DISTINCT {hour_of('ts')} FROM {history} WHERE series = ?"
            hours = [hour for (hour,) in self._connection.execute(query, (one,))]
            add_hours(self._connection, self._layout, self._partition, [whole_hour(one, hour) for hour in hours])
            together += len(hours)
            if together >= _TOGETHER:
                yield from self._compare(low, one)
                self._connection.execute(f"DELETE FROM temp.{self._table}")
                low, together = one + 1, 0
        yield from self._compare(low, 2**63 - 1)

    def _compare(self, low: int, high: int) -> Iterator[WrongHours]:
        """The wrong hours of the series ``low..high``, which the temporary table has."""
        self.hours += self._connection.execute(f"SELECT count(*) FROM temp.{self._table}").fetchone()[0]
        between = "BETWEEN ? AND ?"
        dirty = f"LEFT JOIN _dirty AS d ON d.series = o.series AND d.hour = o.hour AND d.part = {self._partition.start}"
        both = "n.series = o.series AND n.hour = o.hour"
        fault = (
            f"CASE WHEN n.series IS NULL THEN iif(d.hour IS NULL, '{_LOST}', NULL)"
            f" WHEN o.digest - coalesce(d.digest, 0) IS NOT n.digest THEN '{_CHANGED}'"
            f" WHEN d.hour IS NULL AND NOT ({self._same()}) THEN '{_SUMS}' END"
        )
        query = (
            f"SELECT series, hour, rows, fault FROM ("
            f" SELECT o.series, o.hour, coalesce(n.rows, o.rows) AS rows, {fault} AS fault FROM main.{self._table} AS o"
            f" LEFT JOIN temp.{self._table} AS n ON {both} {dirty} WHERE o.series {between}"
            f" UNION ALL SELECT n.series, n.hour, n.rows, '{_UNCOUNTED}' FROM temp.{self._table} AS n"
            f" WHERE n.series {between} AND NOT EXISTS (SELECT 1 FROM main.{self._table} AS o WHERE {both})"
            ") WHERE fault IS NOT NULL ORDER BY series, fault, hour"
        )
        found = self._connection.execute(query, (low, high, low, high)).fetchall()
        # Hours after one another have the same difference to their place in the list.
        for (series, fault, _), group in groupby(
            enumerate(found), key=lambda item: (item[1][0], item[1][3], item[1][1] - item[0])
        ):
            rows = [row for _, row in group]
            yield WrongHours(series, rows[0][1], rows[-1][1], sum(row[2] for row in rows), fault)

    def _same(self) -> str:
        """That all columns of an hour are the same; sums of floats, which were added in another order, nearly so."""
        conditions = [f"o.{name} IS n.{name}" for name in HOUR_COLUMNS if name != "digest"]
        known = {row[1] for row in self._connection.execute(f"PRAGMA main.table_info({self._table})")}
        floats = {f"sum{index}" for index, spec in enumerate(self._layout.written) if spec.type is float}
        for name in hour_columns(self._layout, 0):
            if name not in known:
                continue  # the hours are older than the field
            if name in floats:
                conditions.append(_near(name, name.removeprefix("sum")))
            elif name.startswith(("n", "sum", "rest")):
                conditions.append(f"coalesce(o.{name}, 0) = coalesce(n.{name}, 0)")
            else:
                conditions.append(f"o.{name} IS n.{name}")
        return all_of(conditions)


def _near(name: str, index: str) -> str:
    old, new = f"coalesce(o.{name}, 0.0)", f"coalesce(n.{name}, 0.0)"
    largest = f"n.n{index} * max(abs(n.min{index}), abs(n.max{index}))"
    return f"coalesce(abs({old} - {new}) <= 1e-9 * {largest}, {old} = {new})"
