"""Averages of a year of one device, by hour, day and month in New York.

The floor is `GROUP BY` on a plain table with UNIQUE (device_id, ts) and the same rows; days and months of a zone it
joins with the bounds of the buckets, and reads each of them through the index. The product has the hours of what is
folded, and a few rows that are not. The answers must be equal. Then the product alone: a year with ten times the rows
must not take it ten times as long. A tenth of the year's 2.5 million rows is compared with all of them; with `--long`
all of them are compared with 25 million. DuckDB answers too, where it is installed, from a table of its own.
"""

import importlib.util
import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.interval import Interval, zone_of
from tests.benchmarks.report import Comparison, Options, alternate, progress, read_options, report
from tests.benchmarks.store_rows import FIRST, PlainTable, Station, fill, plain_rows, readings, seconds

ROWS = 2_500_000
UNFOLDED = 2_000
YEAR = timedelta(days=365)
ZONE = "America/New_York"
DEVICE = "station 0"
BARS = {"hour": 0.12, "day": 0.06, "month": 0.04}
CALLS = 3
HOUR = 3_600_000_000
BY_HOUR = f"""
SELECT ts - ts % {HOUR} AS bucket, avg(temperature) FROM readings WHERE device_id = ? GROUP BY bucket ORDER BY bucket
"""
BY_BOUNDS = """
SELECT value ->> 0 AS bucket, avg(temperature) FROM json_each(?) AS bounds CROSS JOIN readings
ON device_id = ? AND ts >= bounds.value ->> 0 AND ts < bounds.value ->> 1 GROUP BY bucket ORDER BY bucket
"""
BY_BOUNDS_DUCKDB = """
SELECT low, avg(temperature) FROM readings ASOF JOIN bounds ON ts >= low WHERE device_id = ? GROUP BY low ORDER BY low
"""
Answer = list[tuple[int, float]]


def step(rows: int) -> timedelta:
    return YEAR / rows


def bounds(interval: str) -> list[tuple[int, int]]:
    """The buckets of the year, first and last whole."""
    low, high = to_micros(FIRST), to_micros(FIRST + YEAR)
    width, zone = Interval.parse(interval), zone_of(ZONE)
    return [(start, width.next(start, zone)) for start in width.starts(low, high, zone)]


def fill_plain(folder: Path, rows: int) -> PlainTable:
    progress(f"writing {rows:,} rows into the plain table")
    table = PlainTable(folder / "plain.db")
    for first in range(0, rows, 5_000):
        table.write(plain_rows(readings(first, min(5_000, rows - first), 1, step(rows))))
    return table


def fill_store(path: Path, rows: int) -> SQLiteStorage:
    progress(f"writing {rows:,} rows into the product")
    store = SQLiteStorage(path)
    unfolded = min(UNFOLDED, rows // 2)
    fill(store, 0, rows - unfolded, 1, step(rows))
    store.store_readings(Station, readings(rows - unfolded, unfolded, 1, step(rows))).wait()
    return store


def ask_plain(table: PlainTable, interval: str) -> Answer:
    if interval == "hour":
        return table.connection.execute(BY_HOUR, (DEVICE,)).fetchall()
    return table.connection.execute(BY_BOUNDS, (json.dumps(bounds(interval)), DEVICE)).fetchall()


def ask_product(store: SQLiteStorage, interval: str) -> list[dict[str, Any]]:
    return store.downsample(Station, "temperature", interval, device=DEVICE, tz=ZONE)


def milliseconds(ask: Callable[[], object]) -> float:
    """The quickest of a few calls."""
    return 1000 * min(seconds(ask) for _ in range(CALLS))


def check(plain: Answer, product: list[dict[str, Any]]) -> None:
    same = len(plain) == len(product) and all(
        from_micros(bucket) == row["bucket"] and math.isclose(result, row["result"], rel_tol=1e-9)
        for (bucket, result), row in zip(plain, product, strict=True)
    )
    if not same:
        raise RuntimeError("the answers differ")


def beside_floor(options: Options, folder: Path, rows: int, store: SQLiteStorage) -> tuple[list[Comparison], Any]:
    table = fill_plain(folder, rows)
    comparisons = []
    for interval, bar in BARS.items():
        check(ask_plain(table, interval), ask_product(store, interval))
        found = alternate(
            options,
            f"ms by {interval}",
            {
                "GROUP BY": lambda interval=interval: milliseconds(lambda: ask_plain(table, interval)),  # type: ignore[misc]
                "product": lambda interval=interval: milliseconds(lambda: ask_product(store, interval)),  # type: ignore[misc]
            },
        )
        comparisons.append(Comparison(f"by {interval}", "ms", found["GROUP BY"], found["product"], bar))
    table.connection.close()
    return comparisons, duckdb_milliseconds(folder, rows)


def beside_itself(options: Options, few: SQLiteStorage, many: SQLiteStorage) -> list[Comparison]:
    comparisons = []
    for interval in BARS:
        found = alternate(
            options,
            f"ms by {interval}",
            {
                "few": lambda interval=interval: milliseconds(lambda: ask_product(few, interval)),  # type: ignore[misc]
                "many": lambda interval=interval: milliseconds(lambda: ask_product(many, interval)),  # type: ignore[misc]
            },
        )
        comparisons.append(Comparison(f"by {interval}, ten times the rows", "ms", found["few"], found["many"], 1.3))
    return comparisons


def duckdb_milliseconds(folder: Path, rows: int) -> Any:
    """Milliseconds by interval, where DuckDB is installed."""
    if importlib.util.find_spec("duckdb") is None:
        return "not installed (see `make bench`)"
    import duckdb

    csv = folder / "readings.csv"
    with csv.open("w") as file:
        for first in range(0, rows, 5_000):
            for device, ts, _, *cells in plain_rows(readings(first, min(5_000, rows - first), 1, step(rows))):
                file.write(f"{device},{ts},{','.join(map(repr, cells))}\n")
    found = {}
    with duckdb.connect(str(folder / "duck.db")) as connection:
        names = "names = ['device_id', 'ts', 'temperature', 'humidity', 'pressure', 'wind']"
        connection.execute(f"CREATE TABLE readings AS SELECT * FROM read_csv('{csv}', header = false, {names})")
        for interval in BARS:
            connection.execute("CREATE OR REPLACE TABLE bounds (low BIGINT)")
            connection.executemany("INSERT INTO bounds VALUES (?)", [(low,) for low, _ in bounds(interval)])
            question = BY_HOUR if interval == "hour" else BY_BOUNDS_DUCKDB
            found[interval] = round(milliseconds(lambda: connection.execute(question, (DEVICE,)).fetchall()), 1)  # noqa: B023
    return found


def main() -> None:
    options = read_options(__doc__)
    rows = options.of(ROWS)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with fill_store(folder / "year.db", rows) as year:
            comparisons, duckdb = beside_floor(options, folder, rows, year)
            with fill_store(folder / "other.db", rows * 10 if options.long else rows // 10) as other:
                comparisons += beside_itself(options, *((year, other) if options.long else (other, year)))
    report(options, comparisons, rows=rows, duckdb_ms=duckdb)


if __name__ == "__main__":
    main()
