"""What other libraries take to write the same readings into SQLite, printed and not judged.

Each is used through its own API, at its defaults, in a file of its own: Django's ORM, SQLAlchemy, peewee, the SQLite
storage of the ThingsBoard gateway, persist-queue. Those that are not installed are left out; `make bench` installs
them. One at a time means that the call returns when the reading is as safe as the library makes it at its defaults;
together means 1,000 in a call, or in a transaction. The product is `store_reading` and `store_readings`, awaited until
durable; what `store_reading` does where nobody waits stands beside it.
"""

import statistics
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedepot import SQLiteStorage
from tests.benchmarks.others import OTHERS, Writers
from tests.benchmarks.report import Comparison, alternate, progress, read_options, report
from tests.benchmarks.store_rows import Row, Station, batches, readings, seconds

ONE_BY_ONE = 1_000
TOGETHER = 20_000
FIRST_TOGETHER = 1_000_000
"""Behind all those that are written one by one."""
BATCH = 1_000
Write = Callable[[Sequence[Row]], None]


def product(store: SQLiteStorage) -> Writers:
    def one_by_one(rows: Sequence[Row]) -> None:
        for device, moment, data in rows:
            store.store_reading(Station, device, moment, data).wait()

    def together(rows: Sequence[Row]) -> None:
        for batch in batches(rows, BATCH):
            store.store_readings(Station, batch).wait()

    return Writers(one_by_one, together, store.close)


def unawaited(store: SQLiteStorage, rows: Sequence[Row]) -> None:
    for device, moment, data in rows:
        store.store_reading(Station, device, moment, data)
    store.flush()


class Course:
    """Gives every contestant rows that it has not had yet."""

    def __init__(self, first: int, rows: int) -> None:
        self._rows = rows
        self._firsts = count(first, rows)

    def run(self, write: Write) -> float:
        """Readings per second."""
        rows = readings(next(self._firsts), self._rows)
        return self._rows / seconds(lambda: write(rows))


def main() -> None:
    options = read_options(__doc__)
    one_by_one, together = Course(0, options.of(ONE_BY_ONE)), Course(FIRST_TOGETHER, options.of(TOGETHER))
    with TemporaryDirectory() as folder:
        store = SQLiteStorage(Path(folder) / "product.db")
        all_writers: dict[str, Writers] = {"product": product(store)}
        missing = []
        for name, make in OTHERS.items():
            try:
                all_writers[name] = make(Path(folder) / name)
            except ImportError as exc:
                missing.append(name)
                progress(f"{name} is left out: {exc}")
        alone: dict[str, Callable[[], float]] = {
            name: lambda write=writers.one_by_one: one_by_one.run(write)  # type: ignore[misc]
            for name, writers in all_writers.items()
            if writers.one_by_one is not None
        }
        many: dict[str, Callable[[], float]] = {
            name: lambda write=writers.together: together.run(write)  # type: ignore[misc]
            for name, writers in all_writers.items()
            if writers.together is not None
        }
        found_alone = alternate(options, "readings/s, one by one", alone)
        found_many = alternate(options, "readings/s, together", many)
        calls = alternate(
            options, "readings/s", {"unawaited": lambda: together.run(lambda rows: unawaited(store, rows))}
        )
        for writers in all_writers.values():
            writers.close()
    comparisons = [
        Comparison(f"{name}, {how}", "readings/s", rates, found["product"], None)
        for how, found in (("one by one", found_alone), ("together", found_many))
        for name, rates in found.items()
        if name != "product"
    ]
    rate = f"{statistics.median(calls['unawaited']):,.0f} readings/s"
    report(options, comparisons, floor="the other library", unawaited=rate, not_installed=missing or "none")


if __name__ == "__main__":
    main()
