"""Readings from dicts, and from JSON messages, to durable in the local store.

The floor is `executemany` of rows that are ready to be bound, into a plain table with UNIQUE (device_id, ts) and the
same columns, pragmas and batches. The product begins with dicts, or with the bytes of messages that it decodes as a
driver does and stamps itself; it looks for duplicates and keeps its books. All go on with files that have rows already.

The product is called as drivers call it, batch after batch through its queue, and the clock stops when all is durable,
folded and added up, so that nothing is left for another's time. It commits together what has come in by then, where the
floor commits each batch. Beside it each batch is awaited before the next, so that both commit equally often; the same
is demanded of both ways. How that ends is up to what a sync costs, so small batches are written once more to a device
that is as fast as an SD card has to be.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from edgedepot import SQLiteStorage
from edgedepot.drivers.decoding import Decoder
from edgedepot.drivers.formats.json import JsonFormat
from edgedepot.storage.buffer import Intake
from edgedepot.storage.clock import to_micros
from edgedepot.storage.receipt import Receipt
from tests.benchmarks.loop_mount import CARD, LoopMount, NoLoopMount
from tests.benchmarks.report import Comparison, Options, alternate, read_options, report
from tests.benchmarks.store_rows import (
    PlainTable,
    Row,
    Station,
    batches,
    fill,
    plain_rows,
    readings,
    seconds,
    seconds_for_each,
)

BEFORE = 200_000
"""Readings that are there before: so many that the log has its full length in all, as it has soon after a start. While
it grows a sync takes longer."""
ROWS = {1_000: 60_000, 50: 30_000}
"""Rows of a round by the size of the batches."""
BARS = {1_000: {"dicts": 0.45, "JSON": 0.4}, 50: {"dicts": 1.1, "JSON": 0.95}}
FLOOR = "plain table"
T = TypeVar("T")

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


def write_dicts(store: SQLiteStorage, awaited: bool) -> Callable[[Sequence[Row], int], float]:
    def write(rows: Sequence[Row], size: int) -> float:
        ready = list(batches(rows, size))
        return until_folded(store, lambda batch: store.store_readings(Station, batch), ready, awaited)

    return write


def write_json(store: SQLiteStorage, awaited: bool) -> Callable[[Sequence[Row], int], float]:
    decoder = Decoder(Station, JsonFormat())

    def take_in(messages: Sequence[Message]) -> Receipt:
        intake = Intake("mqtt")
        for raw, device, moment in messages:
            decoder.add(intake, raw, device, moment)
        return store.take_in(intake)

    def write(rows: Sequence[Row], size: int) -> float:
        messages = [(json.dumps(data).encode(), device, to_micros(moment)) for device, moment, data in rows]
        return until_folded(store, take_in, list(batches(messages, size)), awaited)

    return write


def until_folded(store: SQLiteStorage, write: Callable[[T], Receipt], ready: Sequence[T], awaited: bool) -> float:
    """How long it takes until all is durable and folded, with each batch `awaited` before the next."""

    def run() -> None:
        for batch in ready:
            receipt = write(batch)
            if awaited:
                receipt.wait()
        receipt.wait()
        store.fold()

    return seconds(run)


def measure(options: Options, folder: Path, size: int, where: str = "") -> list[Comparison]:
    before, count = options.of(BEFORE), options.of(ROWS[size])
    table = PlainTable(folder / f"plain {size}.db")
    for batch in batches(plain_rows(readings(0, before)), 1_000):
        table.write(batch)
    with ExitStack() as stack:
        ways = {FLOOR: write_plain(table)}
        for name, write in {"dicts": write_dicts, "JSON": write_json}.items():
            for awaited in (False, True):
                way = f"{name}, each awaited" if awaited else name
                store = stack.enter_context(SQLiteStorage(folder / f"{way} {size}.db"))
                fill(store, 0, before)
                ways[way] = write(store, awaited)
        contestants = {name: Contestant(before, write) for name, write in ways.items()}
        rounds = {name: partial(it.rate, count, size) for name, it in contestants.items()}
        rates = alternate(options, f"readings/s in batches of {size}{where}", rounds)
    table.connection.close()
    floor = rates.pop(FLOOR)
    bars = {name: BARS[size][name.partition(",")[0]] for name in rates}
    return [
        Comparison(f"{name}, batch {size}{where}", "readings/s", floor, found, bars[name], at_least=True)
        for name, found in rates.items()
    ]


def at_the_speed_of_a_card(options: Options) -> tuple[list[Comparison], dict[str, str]]:
    """What is found there, or else why nothing was measured."""
    try:
        with LoopMount(limits=CARD) as mount:
            return measure(options, mount.path, 50, ", card"), {}
    except NoLoopMount as exc:
        return [], {"card_not_run": str(exc)}


def main() -> None:
    options = read_options(__doc__)
    with TemporaryDirectory() as folder:
        comparisons = [one for size in BARS for one in measure(options, Path(folder), size)]
    more, notes = at_the_speed_of_a_card(options)
    report(options, comparisons + more, rows={str(size): options.of(count) for size, count in ROWS.items()}, **notes)


if __name__ == "__main__":
    main()
