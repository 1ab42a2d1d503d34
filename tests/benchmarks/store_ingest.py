"""Ingest into a local store of a million rows, ten million with `--long`, and into an empty one.

Both get the same readings in batches of 1,000, each durable before the next. The time runs until all are folded into
history and the store is closed: so neither leaves anything in the WAL.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedepot import SQLiteStorage
from tests.benchmarks.report import Comparison, alternate, progress, read_options, report
from tests.benchmarks.store_rows import Row, Station, batches, fill, readings, seconds

BEFORE = 1_000_000
LONG = 10
ROWS = 120_000
BATCH = 1_000


def ingest(path: Path, rows: Sequence[Row]) -> float:
    """Readings per second until all are in history."""
    ready = list(batches(rows, BATCH))
    store = SQLiteStorage(path)

    def write() -> None:
        for batch in ready:
            store.store_readings(Station, batch).wait()
        store.fold()
        store.close()

    return len(rows) / seconds(write)


def main() -> None:
    options = read_options(__doc__)
    before, rows = options.of(BEFORE * (LONG if options.long else 1)), options.of(ROWS)
    names = count()
    with TemporaryDirectory() as folder:
        progress(f"writing {before:,} rows")
        large = Path(folder) / "large.db"
        with SQLiteStorage(large) as store:
            fill(store, 0, before)
        starts = count(before, rows)
        rates = alternate(
            options,
            "readings/s",
            {
                "empty": lambda: ingest(Path(folder) / f"empty {next(names)}.db", readings(before, rows)),
                "large": lambda: ingest(large, readings(next(starts), rows)),
            },
        )
    comparison = Comparison(
        f"ingest at {before:,} rows", "readings/s", rates["empty"], rates["large"], 0.9, at_least=True
    )
    report(options, [comparison], rows_of_a_round=rows)


if __name__ == "__main__":
    main()
