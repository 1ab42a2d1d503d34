"""Readings from dicts, and from JSON messages, to durable in the local store.

The floor is `executemany` of rows that are ready to be bound, into a plain table with UNIQUE (device_id, ts) and the
same columns, pragmas and batches. The product begins with dicts, or with the bytes of messages that it decodes as a
driver does and stamps itself; it looks for duplicates, keeps its books, and folds and adds up hours meanwhile. All go
on with files that have rows already, so that as many rows are folded as come in, and that in the middle of a round:
no other's time is spent on it. Each batch is durable before the next.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedepot import SQLiteStorage
from edgedepot.drivers.decoding import Decoder
from edgedepot.drivers.formats.json import JsonFormat
from edgedepot.storage.base import Intake
from edgedepot.storage.clock import to_micros
from tests.benchmarks.report import Comparison, Options, alternate, read_options, report
from tests.benchmarks.store_rows import PlainTable, Row, Station, batches, fill, plain_rows, readings, seconds_for_each

BEFORE, UNFOLDED = 60_000, 15_000
"""Readings that are there before, and how many of them are not folded: a fold begins when there are 30,000."""
ROWS = {1_000: 60_000, 50: 30_000}
"""Rows of a round by the size of the batches: as many as are folded at a time, or twice that."""
BARS = {1_000: (0.45, 0.4), 50: (1.1, 0.95)}
"""For dicts and for JSON."""

Message = tuple[bytes, str, int]
"""What a driver hands on: the bytes, the device, and when they came."""


class Contestant:
    """One way to write; `rate` writes the next rows, readings per second."""

    def __init__(self, first: int, write: Callable[[Sequence[Row], int], float]) -> None:
        self._next = first
        self._write = write

    def rate(self, count: int, size: int) -> float:
        rows = readings(self._next, count)
        self._next += count
        return count / self._write(rows, size)


def write_plain(table: PlainTable) -> Callable[[Sequence[Row], int], float]:
    def write(rows: Sequence[Row], size: int) -> float:
        ready = list(batches(plain_rows(rows), size))
        return seconds_for_each(table.write, ready)

    return write


def write_dicts(store: SQLiteStorage) -> Callable[[Sequence[Row], int], float]:
    def write(rows: Sequence[Row], size: int) -> float:
        ready = list(batches(rows, size))
        return seconds_for_each(lambda batch: store.store_readings(Station, batch).wait(), ready)

    return write


def write_json(store: SQLiteStorage) -> Callable[[Sequence[Row], int], float]:
    decoder = Decoder(Station, JsonFormat())

    def take_in(messages: Sequence[Message]) -> None:
        intake = Intake("mqtt")
        for raw, device, moment in messages:
            decoder.add(intake, raw, device, moment)
        store.take_in(intake).wait()

    def write(rows: Sequence[Row], size: int) -> float:
        messages = [(json.dumps(data).encode(), device, to_micros(moment)) for device, moment, data in rows]
        ready = list(batches(messages, size))
        return seconds_for_each(take_in, ready)

    return write


def measure(options: Options, folder: Path, size: int) -> list[Comparison]:
    before, unfolded, count = options.of(BEFORE), options.of(UNFOLDED), options.of(ROWS[size])
    table = PlainTable(folder / f"plain {size}.db")
    for batch in batches(plain_rows(readings(0, before)), 1_000):
        table.write(batch)
    with (
        SQLiteStorage(folder / f"dicts {size}.db") as of_dicts,
        SQLiteStorage(folder / f"json {size}.db") as of_json,
    ):
        for store in (of_dicts, of_json):
            fill(store, 0, before - unfolded)
            store.store_readings(Station, readings(before - unfolded, unfolded)).wait()
        plain, dicts, bytes_ = (
            Contestant(before, write) for write in (write_plain(table), write_dicts(of_dicts), write_json(of_json))
        )
        rates = alternate(
            options,
            f"readings/s in batches of {size}",
            {
                "plain table": lambda: plain.rate(count, size),
                "dicts": lambda: dicts.rate(count, size),
                "JSON": lambda: bytes_.rate(count, size),
            },
        )
    table.connection.close()
    return [
        Comparison(f"{name}, batch {size}", "readings/s", rates["plain table"], rates[name], bar, at_least=True)
        for name, bar in zip(("dicts", "JSON"), BARS[size], strict=True)
    ]


def main() -> None:
    options = read_options(__doc__)
    with TemporaryDirectory() as folder:
        comparisons = [one for size in BARS for one in measure(options, Path(folder), size)]
    report(options, comparisons, rows={str(size): options.of(count) for size, count in ROWS.items()})


if __name__ == "__main__":
    main()
