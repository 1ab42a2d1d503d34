"""The newest 100 readings of a device, and a range of 1,000, as dicts.

The floor reads the same from a plain table with UNIQUE (device_id, ts) and makes the same dicts. Most of the product's
rows are in history, the newest are not folded yet. The answers must be equal.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import from_micros, to_micros
from tests.benchmarks.report import Comparison, alternate, read_options, report
from tests.benchmarks.store_rows import (
    DEVICES,
    FIELDS,
    FIRST,
    STEP,
    PlainTable,
    Station,
    batches,
    fill,
    plain_rows,
    readings,
    seconds,
)

FOLDED = 400_000
UNFOLDED = 15_000
CALLS = 200
DEVICE = "station 7"
Answer = list[dict[str, Any]]


def read_plain(table: PlainTable, condition: str, *bound: object) -> Answer:
    found = table.connection.execute(
        f"SELECT device_id, ts, {', '.join(FIELDS)} FROM readings WHERE device_id = ? {condition}", (DEVICE, *bound)
    )
    names = ("device_id", "timestamp", *FIELDS)
    return [dict(zip(names, (device, from_micros(ts), *cells))) for device, ts, *cells in found]  # noqa: B905


def milliseconds(ask: Callable[[], Answer], calls: int) -> float:
    """The mean of some calls."""
    return 1000 * seconds(lambda: [ask() for _ in range(calls)]) / calls


def main() -> None:
    options = read_options(__doc__)
    folded, unfolded, calls = options.of(FOLDED), options.of(UNFOLDED), options.of(CALLS)
    with TemporaryDirectory() as folder, SQLiteStorage(Path(folder) / "store.db") as store:
        table = PlainTable(Path(folder) / "plain.db")
        for batch in batches(plain_rows(readings(0, folded + unfolded)), 5_000):
            table.write(batch)
        fill(store, 0, folded)
        store.store_readings(Station, readings(folded, unfolded)).wait()
        start = FIRST + folded // DEVICES // 2 * STEP
        end = start + 1_000 * STEP
        low, high = to_micros(start), to_micros(end)
        questions: dict[str, tuple[Callable[[], Answer], Callable[[], Answer]]] = {
            "newest 100": (
                lambda: read_plain(table, "ORDER BY ts DESC LIMIT 100"),
                lambda: store.query_readings(Station, DEVICE, limit=100),
            ),
            "range of 1,000": (
                lambda: read_plain(table, "AND ts >= ? AND ts < ? ORDER BY ts DESC", low, high),
                lambda: store.query_readings(Station, DEVICE, start, end),
            ),
        }
        comparisons = []
        for name, (plain, product) in questions.items():
            if plain() != product():
                raise RuntimeError(f"{name}: the answers differ")
            found = alternate(
                options,
                f"ms for the {name}",
                {
                    "plain table": lambda ask=plain: milliseconds(ask, calls),  # type: ignore[misc]
                    "product": lambda ask=product: milliseconds(ask, calls),  # type: ignore[misc]
                },
            )
            comparisons.append(Comparison(name, "ms", found["plain table"], found["product"], 1.3))
        table.connection.close()
    report(options, comparisons, rows=folded, unfolded=unfolded)


if __name__ == "__main__":
    main()
