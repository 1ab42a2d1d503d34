"""From put to durable, when 20,000 readings a second are offered and committed every 20 ms.

The floor is a bare loop: a list under a lock, and a thread that commits what is in it into a plain table every 20 ms.
Both are offered 20 readings each millisecond, by a thread of their own, against the clock. What is compared is the
latency that 99 of 100 readings stay below. Beside it stands what a bare fsync of a 4 KiB append takes.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedepot import SQLiteStorage
from tests.benchmarks.report import Comparison, alternate, read_options, report
from tests.benchmarks.store_rows import PlainTable, Row, Station, batches, plain_rows, readings

A_SECOND = 20_000
AT_ONCE = 20
SECONDS = 5
FLUSH = 0.020
SYNCS = 500

Put = Callable[[Sequence[Row], Callable[[], None]], None]
"""Hands rows over, and what to call when they are durable."""


class BareLoop:
    """Commits what it was given every 20 ms."""

    def __init__(self, path: Path) -> None:
        self._table = PlainTable(path)
        self._lock = threading.Lock()
        self._given: list[tuple[Sequence[Row], Callable[[], None]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def put(self, rows: Sequence[Row], durable: Callable[[], None]) -> None:
        with self._lock:
            self._given.append((rows, durable))

    def _run(self) -> None:
        due = time.perf_counter()
        while not self._ended.is_set():
            due += FLUSH
            time.sleep(max(0.0, due - time.perf_counter()))
            self._commit()

    def _commit(self) -> None:
        with self._lock:
            given, self._given = self._given, []
        if given:
            self._table.write([row for rows, _ in given for row in plain_rows(rows)])
            for _, durable in given:
                durable()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._commit()
        self._table.connection.close()


def offer(put: Put, rows: Sequence[Row]) -> list[float]:
    """Offer rows against the clock; milliseconds from put to durable, for each put that has become durable."""
    found: list[float] = []
    began = time.perf_counter()
    for number, some in enumerate(batches(rows, AT_ONCE)):
        time.sleep(max(0.0, began + number * AT_ONCE / A_SECOND - time.perf_counter()))
        moment = time.perf_counter()
        put(some, lambda moment=moment: found.append(1000 * (time.perf_counter() - moment)))  # type: ignore[misc]
    if time.perf_counter() - began > 1.1 * len(rows) / A_SECOND + FLUSH:
        raise RuntimeError("the readings could not be offered at that rate")
    return found


def percentile(values: Sequence[float]) -> float:
    """What 99 of 100 stay below."""
    return sorted(values)[len(values) * 99 // 100]


def floor(path: Path, rows: Sequence[Row]) -> float:
    loop = BareLoop(path)
    found = offer(loop.put, rows)
    loop.close()
    return percentile(found)


def product(path: Path, rows: Sequence[Row]) -> float:
    with SQLiteStorage(path, flush_interval=FLUSH) as store:
        found = offer(lambda some, durable: store.store_readings(Station, some).then(durable), rows)
    return percentile(found)


def bare_syncs(path: Path) -> list[float]:
    """Milliseconds of each append of 4 KiB with its fsync."""
    found = []
    with path.open("ab", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            found.append(1000 * (time.perf_counter() - began))
    return found


def main() -> None:
    options = read_options(__doc__)
    rows = readings(0, options.of(SECONDS * A_SECOND))
    names = count()
    with TemporaryDirectory() as name:
        folder = Path(name)
        found = alternate(
            options,
            "ms",
            {
                "bare loop": lambda: floor(folder / f"{next(names)}.db", rows),
                "product": lambda: product(folder / f"{next(names)}.db", rows),
            },
        )
        syncs = bare_syncs(folder / "appended")
    comparison = Comparison("put to durable, p99", "ms", found["bare loop"], found["product"], 1.5)
    bare = f"{statistics.median(syncs):.2f} ms, p99 {percentile(syncs):.2f} ms"
    report(options, [comparison], readings_a_second=A_SECOND, fsync_of_4_KiB=bare)


if __name__ == "__main__":
    main()
