"""What a model's whole hours come to, per series: rows and their digest, and of each field n, sum, min, max, first and
last."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from edgedepot.storage.clock import HOUR
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.digest import row_digest
from edgedepot.storage.sqlite.ranges import LAST
from edgedepot.storage.sqlite.shape import Partition
from edgedepot.storage.sqlite.tables import HOUR_COLUMNS, cell, history_table, hour_table


class Span(NamedTuple):
    """Rows of one series in one hour: first and last timestamp; only those numbered ``first_seq..last_seq``."""

    series: int
    hour: int
    low: int
    high: int
    first_seq: int = 0
    last_seq: int = LAST


def add_hours(connection: sqlite3.Connection, layout: Layout, partition: Partition, spans: Iterable[Span]) -> None:
    """Add rows that are in a partition to what their hours come to.

    Each span is read along the table's key, which is several times cheaper than to have SQLite sort and group them.
    The times of first and last values are looked for from both ends, and the values once the times are known.
    """
    table, hours = history_table(layout, partition), hour_table(layout, partition)
    source = (
        f"FROM {table} WHERE series = :series AND ts BETWEEN :low AND :high AND seq BETWEEN :first_seq AND :last_seq"
    )
    columns, values, updates, edges = [*HOUR_COLUMNS], ["count(*)", "min(ts)", "max(ts)"], [], []
    values.append(f"sum({row_digest(layout, partition)})")
    updates += ["rows = rows + excluded.rows", "low = min(low, excluded.low)", "high = max(high, excluded.high)"]
    updates.append("digest = digest + excluded.digest")
    for index, spec in enumerate(layout.written):
        value = cell(f"c{index}", partition.width)
        parts = {f"n{index}": f"count({value})"}
        for edge, order in (("first", "ASC"), ("last", "DESC")):
            parts[f"{edge}_ts{index}"] = f"(SELECT ts {source} AND {value} IS NOT NULL ORDER BY ts {order} LIMIT 1)"
        if spec.type in (float, int):
            parts |= {f"min{index}": f"min({value})", f"max{index}": f"max({value})"}
        if spec.type is float:
            parts[f"sum{index}"] = f"total({value})"
        if spec.type is int:  # the halves of 64 bits apart: SQLite gives up where a sum exceeds them
            parts |= {f"sum{index}": f"sum({value} >> 32)", f"rest{index}": f"sum({value} & 4294967295)"}
        for name, expression in parts.items():
            columns.append(name)
            values.append(expression)
            updates.append(f"{name} = {_combined(name)}")
        for edge in ("first", "last"):
            place = f"h.series = :series AND h.ts = {edge}_ts{index}"
            edges.append(f"{edge}{index} = (SELECT {value} FROM {table} AS h WHERE {place})")
    bound = [span._asdict() for span in spans]
    connection.executemany(
        f"INSERT INTO {hours} (series, hour, {', '.join(columns)})"
        f" SELECT :series, :hour, {', '.join(values)} {source} HAVING count(*) > 0"
        f" ON CONFLICT (series, hour) DO UPDATE SET {', '.join(updates)}",
        bound,
    )
    connection.executemany(f"UPDATE {hours} SET {', '.join(edges)} WHERE series = :series AND hour = :hour", bound)


def add_hour_again(
    connection: sqlite3.Connection, layout: Layout, partition: Partition, series: int, hour: int, taken: int
) -> None:
    """Compute an hour anew out of which rows were taken, but its digest: that is what it was without the rows'. Were it
    computed from what is there, a value that had changed on the card would be right from then on."""
    hours = hour_table(layout, partition)
    one = (series, hour)
    before = connection.execute(f"SELECT digest FROM {hours} WHERE series = ? AND hour = ?", one).fetchone()
    connection.execute(f"DELETE FROM {hours} WHERE series = ? AND hour = ?", one)
    add_hours(connection, layout, partition, [whole_hour(series, hour)])
    if before is not None:
        connection.execute(f"UPDATE {hours} SET digest = ? WHERE series = ? AND hour = ?", (before[0] - taken, *one))


def whole_hour(series: int, hour: int) -> Span:
    return Span(series, hour, hour * HOUR, (hour + 1) * HOUR - 1)


def _combined(name: str) -> str:
    """Old and new of a column together. SQLite's two-argument min and max are null where one is: hence coalesce."""
    if name.startswith(("n", "sum", "rest")):
        return f"coalesce({name}, 0) + coalesce(excluded.{name}, 0)"
    function = "min" if name.startswith(("min", "first")) else "max"
    return f"{function}(coalesce({name}, excluded.{name}), coalesce(excluded.{name}, {name}))"
