"""A process that works on a store until it is killed, somewhere."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.buffer import Arrival, Choice, Intake
from edgedepot.storage.clock import Clock, ManualClock, from_micros, to_micros

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["edgedepot.storage.sqlite.storage", "tests.models"])
Deed = tuple[Any, ...]
"""``("put", (model, rows))``, ``("delete", scope)``, ``("fold",)``, ``("stamp", (model, device, values))``,
``("take in", rows)`` or ``("set", seconds, trust)``, which sets the clock; ``("retain",)``, ``("thin", before)`` or
``("acknowledge", cursor, choice, limit, refused)``."""
Offsets = dict[str, timedelta]
"""By how much the first stamps of boots were off, as far as that is known."""


@dataclass(frozen=True)
class State:
    """A store, and the clock of its machine."""

    path: Path
    now: datetime
    boots: int = 1
    elapsed: float = 0.0
    trusted: bool = True
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, path: Path, clock: ManualClock, **options: Any) -> Self:
        now, boots = from_micros(clock.now()), int(clock.boot.split()[-1])
        return cls(path, now, boots, clock.monotonic(), clock.trusted, tuple(options.items()))

    def clock(self) -> ManualClock:
        clock = ManualClock(self.now)
        for _ in range(self.boots - 1):
            clock.reboot(self.now - timedelta(seconds=self.elapsed))
        clock.advance(self.elapsed)
        clock.step((self.now - from_micros(clock.now())).total_seconds())
        clock.trusted = self.trusted
        return clock

    def open(self, clock: ManualClock) -> SQLiteStorage:
        return SQLiteStorage(self.path, gateway_id="g", clock=clock, piece_rows=5, **dict(self.options))


def work_until_killed(state: State, deeds: list[Deed], done: int) -> tuple[int, Offsets]:
    """Have a process do things one after the other, each until it is durable, and kill it once `done` of them are.
    How many it said were done: at least that many, and the next may be too; and what it said of boots."""
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(state, deeds, theirs))
    process.start()
    theirs.close()
    said, offsets = -1, Offsets()  # it says 0 when the store is open
    while said < done:
        said, offsets = mine.recv()
    process.kill()
    process.join()
    while mine.poll():
        try:
            said, offsets = mine.recv()
        except EOFError:
            break
    mine.close()
    return said, offsets


def _work(state: State, deeds: list[Deed], say: Connection) -> None:
    clock = state.clock()
    store = state.open(clock)
    store.flush()
    offsets = known_offsets(store)
    say.send((0, offsets))
    for number, deed in enumerate(deeds, 1):
        _do(store, clock, deed)
        offsets = {**offsets, **known_offsets(store)}
        say.send((number, offsets))
    threading.Event().wait()  # until it is killed


def _do(store: SQLiteStorage, clock: ManualClock, deed: Deed) -> None:
    what, *details = deed
    if what == "put":
        store.store_readings(*details[0]).wait()
    elif what == "delete":
        store.delete_readings(*details[0])
    elif what == "stamp":
        stamp(store, *details[0])
    elif what == "take in":
        store.take_in(intake(details[0], clock))
    elif what == "set":
        clock.step(details[0])
        clock.trusted = clock.trusted or details[1]
    elif what == "retain":
        store.retain()
    elif what == "thin":
        store.thin(details[0])
    elif what == "acknowledge":
        acknowledge(store, *details)
    else:
        store.fold()
    store.flush()


def stamp(store: SQLiteStorage, model: type[Reading], device: str, values: dict[str, Any]) -> None:
    store.store_reading(model, device, None, values)


def acknowledge(store: SQLiteStorage, cursor: str, choice: Choice, limit: int, refused: int) -> None:
    """What comes next in the backlog is received, but for the first few, which are refused for good."""
    store.add_cursor(cursor, "oldest", choice)
    window = store.pending(cursor, limit, "backlog")
    if window is not None:
        store.quarantine(cursor, window.rows[:refused], "refused")
        store.acknowledge(cursor, window)


def known_offsets(store: SQLiteStorage) -> Offsets:
    """What an open store says of the boots whose readings it has, by their first base."""
    assert store._writing is not None
    found: Offsets = {}
    for base in store._writing.opened.journal.shape.bases:
        if base.offset is not None:
            found.setdefault(base.boot, timedelta(microseconds=base.offset))
    return found


def intake(rows: list[tuple[type[Reading], str, datetime, dict[str, Any]]], clock: Clock) -> Intake:
    """Readings of devices that have clocks, as a driver takes them in now."""
    arrivals = [
        Arrival(model, device, to_micros(moment), False, model.__rows__.make(values))
        for model, device, moment, values in rows
    ]
    at = None if clock.trusted else clock.now()
    return Intake("driver", len(rows), len(rows), arrivals=arrivals, unchecked_at=at)
