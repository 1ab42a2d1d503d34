"""The processes that `store_open` measures: `ingest`, `open`, `drain`."""

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from edgedepot.storage.sqlite.checksums import FRAME_HEADER, PAGE
from edgedepot.storage.sqlite.wal import HEADER, wal_of
from tests.benchmarks.child import say, settings_from_command_line
from tests.benchmarks.memory_limit import obey, resident

BATCH = 1_000


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


def drain(settings: Mapping[str, Any]) -> None:
    """Write a backlog and hand it on, new readings coming in meanwhile, within the limit."""
    obey(settings["group"], settings["limit"])
    from edgedepot import SQLiteStorage
    from tests.benchmarks.store_rows import Station, readings

    rows = settings["rows"]
    with SQLiteStorage(settings["store"], gateway_id="roof") as store:
        store.add_cursor("central")
        for first in range(0, rows, BATCH):
            store.store_readings(Station, readings(first, BATCH)).wait()
        handed_on = early = late = 0
        while handed_on < rows:
            window = store.pending("central", BATCH)
            assert window is not None
            store.acknowledge("central", window)
            handed_on += len(window.rows)
            store.store_readings(Station, readings(rows + handed_on // 10, BATCH // 10))
            if handed_on >= rows // 10:
                early = early or resident()
                late = max(late, resident())
    say(handed_on=handed_on, early=early, late=late)


def main() -> None:
    settings = settings_from_command_line()
    tasks: dict[str, Callable[[Mapping[str, Any]], None]] = {"ingest": ingest, "open": open_, "drain": drain}
    tasks[settings["task"]](settings)


if __name__ == "__main__":
    main()
