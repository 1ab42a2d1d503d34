"""A process that works on a store until it is killed, somewhere."""

from __future__ import annotations

import multiprocessing
import threading
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from tests.models import Weather

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["edgedepot.storage.sqlite.storage", "tests.models"])
Deed = tuple[Any, ...]
"""``("put", rows)``, ``("delete", device, start, end)`` or ``("fold",)``."""


def work_until_killed(path: Path, now: datetime, deeds: list[Deed], done: int) -> int:
    """Have a process do things one after the other, each until it is durable, and kill it once `done` of them are.
    How many it said were done: at least that many, and the next may be too."""
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(str(path), now, deeds, theirs))
    process.start()
    theirs.close()
    said = -1  # it says 0 when the store is open
    while said < done:
        said = mine.recv()
    process.kill()
    process.join()
    while mine.poll():
        try:
            said = mine.recv()
        except EOFError:
            break
    mine.close()
    return said


def _work(path: str, now: datetime, deeds: list[Deed], say: Connection) -> None:
    store = SQLiteStorage(path, gateway_id="g", clock=ManualClock(now), piece_rows=5)
    say.send(0)
    for number, (what, *details) in enumerate(deeds, 1):
        if what == "put":
            store.store_readings(Weather, details[0]).wait()
        elif what == "delete":
            store.delete_readings(Weather, *details)
            store.flush()
        else:
            store.fold()
        say.send(number)
    threading.Event().wait()  # until it is killed
