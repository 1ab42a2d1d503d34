"""Opens what a power cut left with the product, and says what is not as promised."""

import random
import shutil
import sqlite3
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock, from_micros, to_micros
from edgedepot.storage.sqlite.schema import VERSION
from tests.crash.disk import Files
from tests.crash.promises import Identity, State
from tests.crash.workload import ADDED, ADDED_ROWS, COPY, MODELS, T0
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory

AFTERWARDS: Identity = ("weather", "afterwards", to_micros(T0 + timedelta(days=200)))


class BrokenPromise(Exception):
    """What is wrong with a store after a power cut."""


@dataclass(frozen=True, slots=True)
class Owed:
    """What an upstream is still sent, and what the books say it had."""

    pending: Counter[Identity]
    delivered: int
    refused: list[Identity]


@dataclass(frozen=True, slots=True)
class Found:
    """What the product made of the files."""

    epoch: int
    rows: dict[Identity, dict[str, Any]]
    upstreams: dict[str, Owed]
    copied: bool = False
    """Whether there is a copy, which is whole then."""

    def told(self) -> dict[str, Any]:
        """The same for a mark."""
        upstreams = {
            name: {"pending": list(owed.pending), "refused": owed.refused, "delivered": owed.delivered}
            for name, owed in self.upstreams.items()
        }
        return {"epoch": self.epoch, "rows": [[*row, data] for row, data in self.rows.items()], "upstreams": upstreams}


def examine(files: Files, folder: Path, knows_time: bool = True) -> Found:
    """Put the files into an empty folder, open them, look at everything, and store one more reading. Raises
    `BrokenPromise` where the store does not open or contradicts itself. Where the machine does not know the time at
    first, it learns it in the end."""
    clock = ManualClock()
    for _ in range(0 if knows_time else 9):
        clock.reboot(T0)
    put(files, folder)
    path = folder / "gateway.db"
    stale = zlib.crc32(b"".join(files.values()))
    if stale % 2:  # what SQLite shared between processes may lie there, as of any time
        (folder / "gateway.db-shm").write_bytes(random.Random(stale).randbytes(32768))
    try:
        copied = COPY in files
        if copied:
            audit_file(folder / COPY, verify=False)
        with SQLiteStorage(path, gateway_id="roof", clock=clock) as store:
            found = replace(_look(store), copied=copied)
            if not knows_time:
                clock.advance(10)
                clock.trusted = True
                _look_again(store, len(found.rows))
            return found
    except Exception as exc:  # whatever the product or an audit raises is what is wrong
        raise BrokenPromise(f"the store does not open or is not sound: {exc!r}") from exc


def put(files: Files, folder: Path) -> None:
    """Have these files in the folder, and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _look(store: SQLiteStorage) -> Found:
    audit_file(store.path, verify=False)
    _audit_version(store.path)
    _finish_fold(store)
    audit_memory(store)
    rows = _rows(store)
    ledger = store.ledger()
    assert ledger.problems == []
    _go_on(store)
    upstreams = {}
    for name in store.cursors():
        pending = _drain(store, name) - Counter([AFTERWARDS])
        books = ledger.upstreams[name]
        count = pending.total()
        assert books["pending"] == count, f"{name}: {books['pending']} pending, {count} handed out"
        refused = _refused(store, name)
        assert books["quarantined"] == len(refused)
        upstreams[name] = Owed(pending, books["delivered"], refused)
    assert store.ledger().problems == []
    return Found(store.store_epoch, rows, upstreams)


def _audit_version(path: Path) -> None:
    """A schema step and its record are there, or neither."""
    with closing(sqlite3.connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        is_added = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (ADDED,)).fetchone()[0]
        if is_added:
            assert version == VERSION, "half a schema step is there"
            assert connection.execute(f"SELECT count(*) FROM {ADDED}").fetchone() == (ADDED_ROWS,)


def _finish_fold(store: SQLiteStorage) -> None:
    """A fold that the power cut ended goes on by itself; nothing may be under way while memory is looked at."""
    assert store._writing is not None
    if store._writing.writer._upkeep._fold.active:
        store.fold()


def _look_again(store: SQLiteStorage, count: int) -> None:
    """Once the time is known: what was held is there as before, at other times maybe."""
    store.flush()
    audit_memory(store)
    assert len(_rows(store)) == count + 1, f"there were {count} and one more, now {len(_rows(store))}"
    assert store.ledger().problems == []


def _rows(store: SQLiteStorage) -> dict[Identity, dict[str, Any]]:
    found: dict[Identity, dict[str, Any]] = {}
    for name, model in MODELS.items():
        rows = store.query_readings(model)
        for row in rows:
            identity = (name, row.pop("device_id"), to_micros(row.pop("timestamp")))
            assert identity not in found, f"{identity} is there twice"
            found[identity] = {field: value for field, value in row.items() if value is not None}
        field = model.__fields__[0].name
        there = sum(row[field] is not None for row in rows)
        counted = store.aggregate(model, field, "count")
        assert counted == {"result": there}, f"{name}: {there} values of {field}, counted {counted}"
    return found


def _go_on(store: SQLiteStorage) -> None:
    _, device, ts = AFTERWARDS
    receipt = store.store_reading(Weather, device, from_micros(ts), {"temperature": 1.0}).wait("durable")
    assert receipt.accepted == 1
    assert len(store.query_readings(Weather, device)) == 1


def _drain(store: SQLiteStorage, cursor: str) -> Counter[Identity]:
    found: Counter[Identity] = Counter()
    while (window := store.pending(cursor, 1000) or store.pending(cursor, 1000, "live")) is not None:
        for row in window.rows:
            found[row.model.__measurement__, row.device_id, row.timestamp] += 1
            kinds = [spec.type for spec in row.model.__fields__]
            assert all(value is None or type(value) is kind for value, kind in zip(row.row[1:], kinds, strict=True))
        store.acknowledge(cursor, window)
    return found


def _refused(store: SQLiteStorage, cursor: str) -> list[Identity]:
    rows = store.quarantined(cursor, limit=100_000)
    return sorted(
        (row["measurement"], row["device_id"], to_micros(row["timestamp"])) for row in rows if not row["replayed"]
    )


def compare(found: Found, states: list[State], low: int, high: int) -> int:
    """Which of the states ``low..high`` it is. Raises `BrokenPromise` with the difference to the nearest."""
    for number in range(high, low - 1, -1):
        if not _differences(found, states[number]):
            return number
        if states[number].gradual and number > low and _lies_between(found, states[number - 1], states[number]):
            return number
    nearest = min(range(low, high + 1), key=lambda number: len(_differences(found, states[number])))
    lost = [number for number in range(low) if not _differences(found, states[number])]
    why = f"it is as it was after deed {lost[-1]}; " if lost else ""
    shown = "\n  ".join(_differences(found, states[nearest])[:10])
    raise BrokenPromise(f"{why}promised is deed {low}, begun {high}; against the state after {nearest}:\n  {shown}")


def _lies_between(found: Found, before: State, after: State) -> bool:
    """Whether some of what a gradual deed does is done."""
    now = State(
        {row: data for row, data in before.rows.items() if row in found.rows},
        upstreams={
            name: replace(
                mine, pending=frozenset(one for one in mine.pending if one[0] in found.upstreams[name].pending)
            )
            for name, mine in before.upstreams.items()
            if name in found.upstreams
        },
        epoch=after.epoch,
    )
    too_few = [after.upstreams[name].owed - owed.pending for name, owed in found.upstreams.items()]
    return not _differences(found, now) and after.rows.keys() <= found.rows.keys() and not any(too_few)


def _differences(found: Found, state: State) -> list[str]:
    differences = (
        []
        if 0 <= found.epoch - state.epoch <= state.cut
        else [f"the epoch is {found.epoch}, not {state.epoch}: salvaged?"]
    )
    differences += ["the copy is gone"] if state.copied and not found.copied else []
    differences += [f"lost: {row}" for row in state.rows.keys() - found.rows.keys()]
    differences += [f"not stored, or deleted: {row}" for row in found.rows.keys() - state.rows.keys()]
    for row in state.rows.keys() & found.rows.keys():
        if state.rows[row] != found.rows[row]:
            differences.append(f"{row} is {found.rows[row]}, not {state.rows[row]}")
    if found.upstreams.keys() != state.upstreams.keys():
        return [*differences, f"cursors are {sorted(found.upstreams)}, not {sorted(state.upstreams)}"]
    for name, owed in found.upstreams.items():
        should = state.upstreams[name]
        differences += [f"{name} is not owed {row} any more" for row in should.owed - owed.pending]
        differences += [f"{name} is owed {row} again" for row in owed.pending - should.owed]
        if owed.delivered != should.delivered:
            differences.append(f"{name}: {owed.delivered} are delivered, not {should.delivered}")
        refused = sorted(row for row, _ in should.refused)
        if owed.refused != refused:
            differences.append(f"{name}: quarantined are {owed.refused}, not {refused}")
    return differences
