"""A device that fills up at any write of anything a store does: a small file system in memory, with no page left, one,
two, ... until the room suffices. Mounting it needs root."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgedepot import ReceiptTimeout, SQLiteStorage, StorageError
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.reading import Reading
from edgedepot.storage.receipt import Receipt
from tests.models import Weather
from tests.storage.sqlite import test_retyped
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import leave
from tests.storage.sqlite.small_disk import SmallDisk
from tests.storage.sqlite.test_failures import ACTIONS, T0, Action, act, make_original, rows, state
from tests.storage.sqlite.test_schema import RELEASED

EVERY_PAGE = bool(os.environ.get("EDGEDEPOT_TEST_LONG"))
MOST_PAGES = 250
FULL = re.compile(r"full|No space")
ENOUGH = 3
"""So often in a row the room has to suffice."""
STEP = 5.0
"""By so many seconds time passes."""
LOOKS = 1_000
"""After so many at the latest a store is at rest."""


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with SmallDisk() as mounted:
        yield mounted


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], object]], Path]:
    """The file that a function makes, which makes it once."""
    made: dict[Callable[[Path], object], Path] = {}

    def original(make: Callable[[Path], object]) -> Path:
        if make not in made:
            made[make] = tmp_path_factory.mktemp("original") / "x.db"
            make(made[make])
        return made[make]

    return original


def sweep(attempt: Callable[[int], bool], every_page: bool) -> None:
    """Try with ever more pages, until they suffice; `attempt` says whether they did not."""
    pages, failures, successes = 0, 0, 0
    while successes < ENOUGH:
        assert pages < MOST_PAGES
        failed = attempt(pages)
        failures += failed
        successes = 0 if failed else successes + 1
        pages += 1 if every_page or EVERY_PAGE else max(1, pages // 4)
    assert failures > 2


def put(original: Path, disk: SmallDisk) -> Path:
    """A store's files in place of what is there."""
    disk.clear()
    for old in disk.path.iterdir():
        old.unlink()
    for file in original.parent.glob(f"{original.name}*"):
        shutil.copy(file, disk.path / file.name)
    return disk.path / original.name


class Work(NamedTuple):
    """What is done with a store."""

    act: Action
    make: Callable[[Path], object] = make_original
    settings: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    model: type[Reading] = Weather
    knows_time: bool = True
    every_page: bool = False
    """Whether it is tried with any number of pages, also in haste."""
    in_steps: bool = False
    """What readers see between two of its transactions is neither what was before nor what is after."""
    makes_room: bool = False
    """Where there is none it goes before the reading that waits for some."""

    def open(self, path: Path) -> SQLiteStorage:
        clock = ManualClock(T0)
        if not self.knows_time:
            clock.reboot(T0)
        store = SQLiteStorage(path, gateway_id="roof", clock=clock, piece_rows=30, busy_timeout="9d", **self.settings)
        if not self.knows_time:
            store.store_reading(Weather, "d0", None, {"temperature": 2.0}).wait()
        return store


def clock_of(store: SQLiteStorage) -> ManualClock:
    assert isinstance(store.clock, ManualClock)
    return store.clock


def store_and_fold(store: SQLiteStorage) -> None:
    """What a device does all day."""
    ACTIONS["store"](store)
    store.fold()


def grow_old(store: SQLiteStorage) -> None:
    """All of it is too old; of what upstreams await nothing is kept either."""
    clock_of(store).advance(100 * 86_400)
    store.retain()
    store.fold()  # with few pieces left it ends the last
    store.retain()


def keep_hours(store: SQLiteStorage) -> None:
    store.keep_downsampled(Weather, "1 hour", functions=("avg", "sum", "min", "max", "count"))
    grow_old(store)


def make_seconds(path: Path) -> None:
    """Twenty minutes that an upstream awaits, of six readings each."""
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0), piece_rows=30) as store:
        store.add_cursor("central")
        moments = [T0 + timedelta(seconds=10 * number) for number in range(120)]
        store.store_readings(Weather, [("mast", at, {"temperature": 1.0, "count": 1}) for at in moments])
        store.fold()


def thin(store: SQLiteStorage) -> None:
    assert store.thin(T0 + timedelta(minutes=15)) == 15 * 5


def make_held(path: Path) -> None:
    """Rows of a boot in which nobody ever knew the time, and of the time before it."""
    clock = ManualClock(T0)
    with SQLiteStorage(path, gateway_id="roof", clock=clock, piece_rows=30) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(*range(40)))
        store.fold()
        clock.trusted = False
        for number in range(50):
            store.store_reading(Weather, f"d{number % 3}", None, {"temperature": 1.0, "count": number})
            clock.advance(1)


def know_the_time(store: SQLiteStorage) -> None:
    """What came in before is put right, and what nobody can date is handed on as well."""
    clock_of(store).step(86_400)
    clock_of(store).trusted = True
    store.store_readings(Weather, rows(201))
    store.release_held()
    store.fold()


AGES: dict[str, Any] = {"keep": "80 days", "keep_pending": False}
WORKS = {
    name: Work(action, every_page=True, makes_room=name.startswith("delete")) for name, action in ACTIONS.items()
} | {
    "store and fold": Work(store_and_fold, every_page=True),
    "retain and evict": Work(grow_old, settings=AGES, in_steps=True),
    "retain downsampled": Work(keep_hours, settings=AGES, in_steps=True),
    "thin": Work(thin, make_seconds),
    "retype": Work(
        test_retyped.retype, test_retyped.make_original, settings={"keep": "90 days"}, model=test_retyped.FLOAT
    ),
    "release": Work(know_the_time, make_held, {"uncertain_times": "hold"}, knows_time=False, in_steps=True),
}


def readings(store: SQLiteStorage, model: type[Reading]) -> set[str]:
    """What queries find, and what hours come to, without waiting for what is queued."""
    field = model.__fields__[0].name
    there = store.query_readings(model, order="timestamp", fresh=False)
    hours = store.aggregate(model, field, "sum", interval="1h", group_by="device", fresh=False)
    assert isinstance(hours, list)
    return {json.dumps(row, default=str, sort_keys=True) for row in [*there, *hours]}


def at_one_moment(store: SQLiteStorage, model: type[Reading]) -> set[str]:
    """The same where what is deleted out of turn may go between the two questions."""
    found = readings(store, model)
    for _ in range(LOOKS):
        found, before = readings(store, model), found
        if found == before:
            return found
    pytest.fail("a store that has no room never comes to rest")


@pytest.mark.parametrize("name", WORKS)
def test_a_device_that_is_full_at_any_write_loses_nothing(
    originals: Callable[[Callable[[Path], object]], Path], disk: SmallDisk, name: str
) -> None:
    """The failure falls on each write in turn, of a reading and of the work behind it."""
    work = WORKS[name]
    original = originals(work.make)
    with work.open(put(original, disk)) as store:
        stages = [readings(store, work.model)]
        act(store, store_one)
        stages.append(readings(store, work.model))
        act(store, work.act)
        stages.append(readings(store, work.model))
        expected = state(store)
    early = []
    if work.makes_room:
        with work.open(put(original, disk)) as store:
            act(store, work.act)
            early.append(readings(store, work.model))
    sweep(lambda pages: attempt(put(original, disk), disk, pages, work, expected, stages, early), work.every_page)


def store_one(store: SQLiteStorage) -> Receipt:
    return store.store_readings(Weather, rows(200))


def attempt(
    path: Path,
    disk: SmallDisk,
    pages: int,
    work: Work,
    expected: str,
    stages: list[set[str]],
    early: list[set[str]],
) -> bool:
    """Whether the room did not suffice. `stages` are what is there before, with the reading, and in the end; `early` is
    what there is where the work went before the reading."""
    with work.open(path) as store:
        disk.fill(leave=pages)
        receipt = store_one(store)
        acting = threading.Thread(target=act, args=(store, work.act, STEP))
        acting.start()
        health = store.health_check()
        while acting.is_alive() and health["status"] == "pass":
            acting.join(0.002)
            health = store.health_check()
        failed = bool(health["status"] == "fail")
        if failed:
            assert FULL.search(health["message"])
            left = stages[1:] if is_durable(receipt) else [*stages, *early]
            found = at_one_moment(store, work.model)  # with no wait for what cannot be written
            assert set.intersection(*left) <= found <= set.union(*left)
            assert work.in_steps or found in left
        disk.clear()
        acting.join(60)
        assert not acting.is_alive()
        assert store.health_check()["status"] == "pass"
        assert receipt.level == "durable"
        assert state(store) == expected
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path, verify=pages % 4 == 0)
    return failed


def is_durable(receipt: Receipt) -> bool:
    """What it says, also to who will not wait."""
    try:
        receipt.wait("durable", timeout=0)
    except ReceiptTimeout:
        return False
    return True


# -- opening and closing ----------------------------------------------------------------------------------------------


def make_closed(path: Path) -> None:
    """With neither a log nor the file of its locks."""
    make_original(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def make_cut_off(path: Path) -> None:
    """What a power cut leaves, with nearly all of it in the log alone."""
    leave(path.parent, "folded")
    path.with_name(path.name + "-shm").unlink()


def make_old(path: Path) -> None:
    """Of the first schema that was released."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executescript(RELEASED[0].read_text())


def make_nothing(path: Path) -> None:
    """There is no store yet."""


@pytest.mark.parametrize("make", [make_nothing, make_closed, make_cut_off, make_old])
def test_a_store_opens_and_closes_with_whatever_room_there_is(
    originals: Callable[[Callable[[Path], object]], Path], disk: SmallDisk, make: Callable[[Path], object]
) -> None:
    """Or says that there is none; what it was given is durable or was refused, and nothing is taken for damage."""
    work = Work(store_one, make)
    original = originals(make)
    with work.open(put(original, disk)) as store:
        stages = [readings(store, Weather)]
        act(store, store_one)
        stages.append(readings(store, Weather))

    def attempt(pages: int) -> bool:
        path = put(original, disk)
        disk.fill(leave=pages)
        refused = opened_and_closed(work, path, stages)
        disk.clear()
        with work.open(path) as store:
            assert store.salvaged is None
            assert readings(store, Weather) in (stages if refused else stages[1:])
            act(store, store_one)
            assert readings(store, Weather) == stages[1]
            assert store.ledger().problems == []
            audit_memory(store)
        audit_file(path)
        return refused

    sweep(attempt, every_page=make is not make_nothing)


def opened_and_closed(work: Work, path: Path, stages: list[set[str]]) -> bool:
    """Whether there was no room to open it, or for a reading. (There may have been room for that in the end, but not
    to say so.)"""
    try:
        store = work.open(path)
    except StorageError as exc:
        return says_full(exc)
    assert store.salvaged is None
    assert readings(store, Weather) == stages[0]
    receipt = store_one(store)
    try:
        store.close()
    except StorageError as exc:
        return says_full(exc) and says_full(receipt.error)
    assert receipt.level == "durable"
    return False


def says_full(exc: BaseException | None) -> bool:
    assert isinstance(exc, StorageError)
    assert FULL.search(str(exc))
    return True
