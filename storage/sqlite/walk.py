"""A late upstream's way through history: what it is owed that the journal had no more when it came.

_h_pump_1  _h_pump_2  _h_weather_1  _h_weather_2      such rows, by model, partition, series, time
~~~~~~~~~~~~~~~~~~~~~~~~~~~^
acknowledged              place
"""

from __future__ import annotations

import sqlite3

import msgspec

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.shape import Partition, Shape
from edgedepot.storage.sqlite.tables import any_of, history_table

NEVER = -(2**63)
"""Before all timestamps."""
Place = tuple[int, int, int, int]
"""Model, start of the partition, series and timestamp of a row; places compare in the order of the walk."""
START: Place = (0, NEVER, 0, NEVER)
END: Place = (2**62, 0, 0, 0)


class Walk(msgspec.Struct, array_like=True):
    """How far a cursor is in history. `left` is how many rows lie ahead. It is about the rows numbered below `before`,
    and about those in `gone`: of pieces that were dropped from between others."""

    before: int
    place: Place
    left: int
    gone: list[tuple[int, int]] = []

    def takes(self, seq: int) -> bool:
        """Whether it is about a row, rather than the journal."""
        return seq < self.before or any(low <= seq <= high for low, high in self.gone)

    @property
    def end(self) -> int:
        """It is about no row from this number on."""
        return max((high + 1 for _, high in self.gone), default=self.before)

    def numbers(self) -> str:
        """The SQL condition on `seq` for the rows that it is about."""
        spans = [f"seq BETWEEN {low} AND {high}" for low, high in self.gone]
        return any_of([f"seq < {self.before}", *spans])


def owed(
    shape: Shape, layouts: dict[int, Layout], since: Place, until: Place
) -> list[tuple[Layout, Partition, str, str]]:
    """The history tables between two places, in order, each with the condition for rows ``since < row <= until``."""
    found = []
    for model_id in sorted(shape.partitions):
        for partition in shape.partitions[model_id]:
            here = (model_id, partition.start)
            if since[:2] <= here <= until[:2]:
                condition = "true"
                if since[:2] == here:
                    condition += f" AND (series, ts) > ({since[2]}, {since[3]})"
                if until[:2] == here:
                    condition += f" AND (series, ts) <= ({until[2]}, {until[3]})"
                layout = layouts[model_id]
                found.append((layout, partition, history_table(layout, partition), condition))
    return found


def count_owed(
    connection: sqlite3.Connection,
    shape: Shape,
    layouts: dict[int, Layout],
    walk: Walk,
    until: Place,
    since: int | None,
    series: str | None = None,
) -> int:
    """How many rows lie from where a walk is to a place, without those from before the time `since`, and of those
    series alone that a JSON text lists."""
    count = 0
    for _, _, table, condition in owed(shape, layouts, walk.place, until):
        query = f"SELECT count(*) FROM {table} WHERE {condition} AND {walk.numbers()} AND ts >= :since"
        query += "" if series is None else " AND series IN (SELECT value FROM json_each(:series))"
        bound = {"since": NEVER if since is None else since, "series": series}
        count += connection.execute(query, bound).fetchone()[0]
    return count


def place_of(model_id: int, partition: Partition, series: int, ts: int) -> Place:
    return (model_id, partition.start, series, ts)
