"""The processes that `store_open` measures: `ingest`, `open`, `drain`, `fill`."""

from __future__ import annotations

import os
import sqlite3
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedepot.storage.sqlite.checksums import FRAME_HEADER, PAGE
from edgedepot.storage.sqlite.wal import HEADER, wal_of
from tests.benchmarks.child import say, settings_from_command_line
from tests.benchmarks.memory_limit import obey, resident

if TYPE_CHECKING:  # what is measured imports it by itself
    from edgedepot import Receipt, SQLiteStorage

BATCH = 1_000
FRESH = 10
"""One reading comes in for so many that are handed on."""
UNAWAITED = 10
"""So many batches of fresh readings are on their way into the store at most: what waits in its queue is never much."""
STRETCHES = 10
TEXTS = tuple(f"text {number} ".ljust(1024, "x") for number in range(10))


def ingest(settings: Mapping[str, Any]) -> None:
    """Store readings until killed, those asked for in batches, and then one by one; says so when the log has as many
    pages as asked for."""
    from edgedepot import SQLiteStorage
    from tests.benchmarks.store_rows import Station, readings

    store = SQLiteStorage(settings["store"])
    enough = settings["first"] + settings["rows"]
    for first in range(settings["first"], enough, BATCH):
        store.store_readings(Station, readings(first, min(BATCH, enough - first))).wait()
    has_said = False
    for first in count(enough):
        store.store_readings(Station, readings(first, 1)).wait()
        if not has_said and pages_logged(wal_of(store.path)) >= settings["logged"]:
            say(rows=first + 1)
            has_said = True


def pages_logged(log: Path) -> int:
    """How many pages are in a log that is being written. Behind them may be those of the round before, which had other
    salts (https://www.sqlite.org/fileformat2.html#walformat)."""
    with log.open("rb") as file:
        whole = (os.fstat(file.fileno()).st_size - HEADER) // (FRAME_HEADER + PAGE)
        salts = os.pread(file.fileno(), 8, 16)

        def is_older(frame: int) -> bool:
            return os.pread(file.fileno(), 8, HEADER + frame * (FRAME_HEADER + PAGE) + 8) != salts

        return bisect_left(range(whole), True, key=is_older)


def open_(settings: Mapping[str, Any]) -> None:
    from edgedepot import SQLiteStorage

    began = time.perf_counter()
    store = SQLiteStorage(settings["store"])
    took = time.perf_counter() - began
    store.close()
    say(seconds=took)


class Backlog:
    """A store that is written and handed on; each returns the most memory that the process had meanwhile."""

    def __init__(self, store: SQLiteStorage) -> None:
        self._store = store
        self._next = 0
        self._fresh: deque[Receipt] = deque()
        self.handed_on = 0

    def write(self, rows: int) -> int:
        most = 0
        for _ in range(0, rows, BATCH):
            self._put(BATCH).wait()
            most = max(most, resident())
        return most

    def hand_on(self, rows: int) -> int:
        """In windows, as sync does, while fresh readings come in, as a driver whose broker awaits acknowledgements."""
        most, enough = 0, self.handed_on + rows
        while self.handed_on < enough:
            window = self._store.pending("central", BATCH)
            assert window is not None
            self._store.acknowledge("central", window)
            self.handed_on += len(window.rows)
            self._fresh.append(self._put(BATCH // FRESH))
            if len(self._fresh) > UNAWAITED:
                self._fresh.popleft().wait()
            most = max(most, resident())
        return most

    def _put(self, rows: int) -> Receipt:
        from tests.benchmarks.store_rows import Station, readings

        receipt = self._store.store_readings(Station, readings(self._next, rows))
        self._next += rows
        return receipt


def drain(settings: Mapping[str, Any]) -> None:
    """Write a backlog and hand it on within the limit: first a tenth of it alone, then all."""
    obey(settings["group"], settings["limit"])
    from edgedepot import SQLiteStorage

    rows = settings["rows"]
    stretch = rows // STRETCHES
    with SQLiteStorage(settings["store"], gateway_id="roof") as store:
        store.add_cursor("central")
        backlog = Backlog(store)
        few = max(backlog.write(stretch), backlog.hand_on(stretch))
        writing = [backlog.write(stretch) for _ in range(STRETCHES)]
        pending = store.count_pending("central")
        handing_on = [backlog.hand_on(stretch) for _ in range(STRETCHES)]
    say(pending=pending, handed_on=backlog.handed_on - stretch, few=few, writing=writing, handing_on=handing_on)


def fill(settings: Mapping[str, Any]) -> None:
    """Within the limit, store readings of a kind that nobody awaits until the queue is full or there are so many, while
    somebody keeps the file from being written; then have them committed."""
    obey(settings["group"], settings["limit"])
    from edgedepot import ReceiptTimeout, SQLiteStorage, StorageBusy
    from tests.benchmarks.store_rows import Station, readings

    size, wanted, path = settings["batch"], settings["rows"], settings["store"]
    with SQLiteStorage(path, busy_timeout="1 ms") as store, closing(sqlite3.connect(path)) as other:
        receipt = store.store_readings(Station, readings(0, BATCH)).wait()
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        before, rows = resident(), 0
        with suppress(StorageBusy):
            while rows < wanted:
                receipt = _put_kind(store, settings["texts"], BATCH + rows, size)
                rows += size
        full = most = resident()
        other.execute("ROLLBACK")
        while receipt.level != "durable":
            with suppress(ReceiptTimeout):
                receipt.wait(timeout=0.005)
            most = max(most, resident())
    say(rows=rows, before=before, full=full, most=most)


def _put_kind(store: SQLiteStorage, has_texts: bool, first: int, size: int) -> Receipt:
    """Of four numbers or of ten texts."""
    from tests.benchmarks.store_rows import Notes, Station, readings

    rows = readings(first, size)
    if has_texts:
        texts = [{f"t{place}": f"{first}{text}"[:1024] for place, text in enumerate(TEXTS)} for _ in rows]
        return store.store_readings(Notes, [(*row[:2], data) for row, data in zip(rows, texts, strict=True)])
    return store.store_reading(Station, *rows[0]) if size == 1 else store.store_readings(Station, rows)


def main() -> None:
    settings = settings_from_command_line()
    tasks: dict[str, Callable[[Mapping[str, Any]], None]] = {
        "ingest": ingest,
        "open": open_,
        "drain": drain,
        "fill": fill,
    }
    tasks[settings["task"]](settings)


if __name__ == "__main__":
    main()
