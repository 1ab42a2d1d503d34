"""A late upstream's way through history: what it is owed from before the oldest piece of the journal.

_h_pump_1  _h_pump_2  _h_weather_1  _h_weather_2      rows with seq < before, by model, partition, series, time
~~~~~~~~~~~~~~~~~~~~~~~~~~~^
acknowledged              place
"""

from __future__ import annotations

import sqlite3

import msgspec

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.shape import Partition, Shape
from edgedepot.storage.sqlite.tables import history_table

NEVER = -(2**63)
"""Before all timestamps."""
Place = tuple[int, int, int, int]
"""Model, start of the partition, series and timestamp of a row; places compare in the order of the walk."""
START: Place = (0, NEVER, 0, NEVER)
END: Place = (2**62, 0, 0, 0)


class Walk(msgspec.Struct, array_like=True):
    """How far a cursor is in history. `left` is how many rows lie ahead."""

    before: int
    place: Place
    left: int


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
        query = f"SELECT count(*) FROM {table} WHERE {condition} AND seq < :before AND ts >= :since"
        query += "" if series is None else " AND series IN (SELECT value FROM json_each(:series))"
        bound = {"before": walk.before, "since": NEVER if since is None else since, "series": series}
        count += connection.execute(query, bound).fetchone()[0]
    return count


def place_of(model_id: int, partition: Partition, series: int, ts: int) -> Place:
    return (model_id, partition.start, series, ts)
