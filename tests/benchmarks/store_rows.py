"""What the benchmarks of the local store share: the readings, and the plain table that is their floor.

Reading number n is of device n modulo the devices, whose readings are ten seconds apart.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.clock import to_micros
from edgedepot.storage.sqlite.connection import open_writer, prepare_writer

DEVICES = 20
FIRST = datetime(2025, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=10)
T = TypeVar("T")
FIELDS = ("temperature", "humidity", "pressure", "wind")
Row = tuple[str, datetime, dict[str, float]]
PlainRow = tuple[str, int, None, float, float, float, float]


class Station(Reading):
    temperature: float
    humidity: float
    pressure: float
    wind: float


class Notes(Reading):
    t0: str
    t1: str
    t2: str
    t3: str
    t4: str
    t5: str
    t6: str
    t7: str
    t8: str
    t9: str


def values(number: int) -> tuple[float, float, float, float]:
    """Four values as sensors give them, none of them whole: SQLite would keep that in fewer than eight bytes."""
    return number % 977 / 8 + 1 / 16, number % 101 / 4 + 1 / 8, number % 10_007 / 8 + 1 / 16, number % 53 / 4 + 1 / 8


def readings(first: int, count: int, devices: int = DEVICES, step: timedelta = STEP) -> list[Row]:
    """Readings as Python code stores them, from number `first` on."""
    return [
        (
            f"station {number % devices}",
            FIRST + number // devices * step,
            dict(zip(FIELDS, values(number), strict=True)),
        )
        for number in range(first, first + count)
    ]


def plain_rows(rows: Sequence[Row]) -> list[PlainRow]:
    """The same as rows of the plain table, ready to be bound."""
    return [(device, to_micros(moment), None, *data.values()) for device, moment, data in rows]  # type: ignore[misc]


def batches(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def fill(store: SQLiteStorage, first: int, count: int, devices: int = DEVICES, step: timedelta = STEP) -> None:
    """Store readings as quickly as may be, and fold them."""
    for begin in range(first, first + count, 5_000):
        rows = readings(begin, min(5_000, first + count - begin), devices, step)
        receipt = store.store_readings(Station, rows)
    receipt.wait()
    store.fold()


class PlainTable:
    """A table with UNIQUE (device_id, ts) and the store's own pragmas, written with `executemany`."""

    def __init__(self, path: Path) -> None:
        self.connection: sqlite3.Connection = open_writer(path)
        prepare_writer(self.connection, full_sync=True)
        self.connection.execute(
            "CREATE TABLE readings (device_id TEXT NOT NULL, ts INTEGER NOT NULL, quality INTEGER, temperature REAL,"
            " humidity REAL, pressure REAL, wind REAL, UNIQUE (device_id, ts))"
        )

    def write(self, rows: Sequence[PlainRow]) -> None:
        """One commit, durable."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.connection.execute("COMMIT")


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def seconds_for_each(action: Callable[[T], object], items: Sequence[T]) -> float:
    """How long an action takes for all of them."""
    began = time.perf_counter()
    for item in items:
        action(item)
    return time.perf_counter() - began
