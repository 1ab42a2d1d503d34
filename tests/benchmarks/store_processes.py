"""The processes that `store_open` measures: `ingest`, `open`, `drain`."""

import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from tests.benchmarks.child import say, settings_from_command_line
from tests.benchmarks.memory_limit import obey, resident

BATCH = 1_000


def ingest(settings: Mapping[str, Any]) -> None:
    """Store readings until killed; says so when there are as many as asked for."""
    from edgedepot import SQLiteStorage
    from tests.benchmarks.store_rows import Station, readings

    store = SQLiteStorage(settings["store"])
    enough = settings["first"] + settings["rows"]
    for first in count(settings["first"], BATCH):
        store.store_readings(Station, readings(first, BATCH)).wait()
        if first < enough <= first + BATCH:
            say(rows=first + BATCH)


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
