"""Every statement of every kind of write may fail: nothing is lost, nothing is there twice, memory is what the file is.

SQLite asks a progress handler every few instructions whether to go on; one that says no once is a failure at that
place, whose transaction is undone. Disks that are full and locks that others hold are real here.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.reading import define_model
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.test_writer import advance_until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = (
    300 if os.environ.get("EDGEDEPOT_TEST_LONG") else 12
)  # where each action fails: so many of its instructions, evenly spread
Action = Callable[[SQLiteStorage], object]


def at(second: float) -> datetime:
    return T0 + timedelta(seconds=second)


def rows(*seconds: int, value: float = 1.0) -> list[tuple[str, datetime, dict[str, Any]]]:
    return [(f"d{second % 3}", at(second * 60), {"temperature": value, "count": second}) for second in seconds]


def opened(path: Path, **settings: Any) -> SQLiteStorage:
    return SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0), piece_rows=30, **settings)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something of everything: history in two partitions, pieces, rows to fold, some of them late, an hour
    to compute again, and cursors in the journal and on their way through history."""
    return make_original(tmp_path_factory.mktemp("original") / "x.db")


def make_original(path: Path) -> Path:
    with opened(path) as store:
        store.store_readings(Weather, rows(*range(60)))
        store.store_readings(Weather, rows(-90_000, -89_999))
        store.fold()
        store.add_cursor("early")
        store.store_readings(Weather, rows(*range(60, 100)))
        store.fold()
        take(store, "early", 70)
        take(store, "early", 20)
        store.add_cursor("late")
        take(store, "late", 10)
        store.store_readings(Weather, rows(*range(95, 130), 7, 8, 9, value=2.0))
        store.delete_readings(Weather, "d1", at(60), at(1200))
        store.fold()
        store.store_readings(Weather, rows(*range(130, 160), 20, -5))
        store.delete_readings(Weather, "d2", at(60), at(1200))
    found = audit_file(path)
    assert found["pieces"] > 1
    assert min(found["history"], found["unfolded"], found["in both"], found["dirty hours"]) > 0
    return path


def take(store: SQLiteStorage, cursor: str, limit: int) -> None:
    store.flush()
    window = store.pending(cursor, limit)
    assert window is not None
    store.quarantine(cursor, window.rows[:2], "refused")
    store.acknowledge(cursor, window)


def store_all_kinds(store: SQLiteStorage) -> None:
    """New devices, fields and models, merges with rows in history and in the journal, duplicates."""
    store.store_readings(Weather, [("new", at(5), {"temperature": 1}), *rows(3, 10, 159, value=3.0), *rows(61, 158)])
    wider = define_model("Weather", {"temperature": (float, True, None), "wind": (float, False, None)})
    store.store_readings(wider, [("d0", at(9e5), {"temperature": 1.0, "wind": 5.0})])
    store.store_readings(define_model("Other", {"x": (str, True, None)}), [("d0", at(0), {"x": "y"})])


ACTIONS: dict[str, Action] = {
    "fold": lambda store: store.fold(),
    "store": store_all_kinds,
    "delete": lambda store: store.delete_readings(Weather, None, at(0), at(9000)),
    "delete all": lambda store: store.delete_readings(Weather),
    "add a cursor": lambda store: store.add_cursor("another"),
    "acknowledge": lambda store: take(store, "early", 25),
    "acknowledge history": lambda store: take(store, "late", 25),
}


def state(store: SQLiteStorage) -> str:
    """All that can be seen of a store, through its public calls."""
    models = store.models()
    seen: list[Any] = [
        [
            store.query_readings(model, order="timestamp"),
            store.aggregate(model, next(iter(fields)), "count", interval="1h"),
        ]
        for model in models.values()
        if (fields := [spec.name for spec in model.__fields__])
    ]
    pending = {name: window_rows(store, name) for name in store.cursors()}
    return json.dumps([seen, pending, store.ledger().upstreams, store.ledger().sources], default=str, sort_keys=True)


def window_rows(store: SQLiteStorage, cursor: str) -> list[Any]:
    window = store.pending(cursor, 1000)
    return [] if window is None else [(row.device_id, row.timestamp, row.row) for row in window.rows]


class Failing:
    """Fails a connection's statements once, at an instruction, for a number of instructions."""

    def __init__(self, store: SQLiteStorage, place: float, length: int) -> None:
        assert store._writing is not None
        self._store = store
        self._connection = store._writing._connection
        self._place, self._end = place, place + length
        self.instructions = 0
        self._spared = self._is_over = False
        self.failed = False

    def __enter__(self) -> "Failing":
        self._connection.set_trace_callback(self._begin)
        self._connection.set_progress_handler(self._count, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        on_writer(self._store, lambda: self._connection.set_progress_handler(None, 1))
        on_writer(self._store, lambda: self._connection.set_trace_callback(None))

    def _begin(self, statement: str) -> None:
        # A commit that fails after it has happened, which is what this handler would make of it, does not happen.
        self._spared = statement.startswith(("COMMIT", "ROLLBACK", "BEGIN"))

    def _count(self) -> int:
        if self._is_over:
            return 0
        self.instructions += 1
        fails = self._place <= self.instructions < self._end and not self._spared
        self.failed = self.failed or fails
        return int(fails)


def on_writer(store: SQLiteStorage, action: Callable[[], None]) -> None:
    """Do it between two statements of the writer: one in the middle of which it calls back would wait for us, and we
    for it, as SQLite lets one thread at a connection and Python one at its code."""
    store._do(lambda journal: action())


def act(store: SQLiteStorage, action: Action, step: float = 0.5) -> None:
    """Do it, and let time pass until it has succeeded."""
    clock = store.clock
    assert isinstance(clock, ManualClock)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            action(store)
            store.flush()
        except BaseException as exc:  # noqa: BLE001 - handed on
            failures.append(exc)

    acting = threading.Thread(target=run)
    acting.start()
    advance_until(clock, lambda: not acting.is_alive(), step)
    for failure in failures:
        raise failure


def whatever_fails(attempt: Callable[[float], tuple[str, Failing]], places: int) -> None:
    """What fails at any of so many places, evenly over all of it, ends as if it had not; most of them do fail."""
    expected, undisturbed = attempt(float("inf"))
    assert not undisturbed.failed
    failures = 0
    for number in range(places):
        seen, failing = attempt(1 + number * undisturbed.instructions // places)
        assert seen == expected
        failures += failing.failed
    assert failures > places // 2


@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_write_that_fails_anywhere_is_done_once_in_the_end(
    original: Path, quick_folder: Path, name: str, length: int
) -> None:
    """Also where what follows on a failure fails for a while."""
    path = quick_folder / "x.db"

    def attempt(place: float) -> tuple[str, Failing]:
        for old in quick_folder.iterdir():
            old.unlink()
        shutil.copy(original, path)
        with opened(path) as store:
            with Failing(store, place, length) as failing:
                act(store, ACTIONS[name])
            assert store.health_check()["status"] == "pass"
            audit_memory(store)
            assert store.ledger().problems == []
            seen = state(store)
            act(store, lambda store: store.fold())
            audit_memory(store)
        audit_file(path)
        return seen, failing

    whatever_fails(attempt, PLACES)


@pytest.mark.parametrize("name", ACTIONS)
def test_readers_see_what_was_before_or_what_is_after_at_every_moment(
    original: Path, quick_folder: Path, name: str
) -> None:
    """A reader asks in the middle of each statement, on the store and with an own view of the file."""
    path = quick_folder / "x.db"
    shutil.copy(original, path)
    seen: list[str] = []
    # Nothing happens by itself: the handler cannot be taken off a connection that is at work.
    with opened(path, fold_interval="1000d") as store, SQLiteStorage(path, read_only=True) as file_alone:
        before = readings(store)
        connection = store._writing._connection if store._writing else None
        assert connection is not None
        inside = False

        def look() -> int:
            nonlocal inside
            if not inside:  # reading has the writing connection do nothing, but be sure
                inside = True
                seen.append(readings(file_alone if len(seen) % 3 == 0 else store))
                inside = False
            return 0

        connection.set_progress_handler(look, 50 if name == "fold" else 7)
        act(store, ACTIONS[name])
        on_writer(store, lambda: connection.set_progress_handler(None, 0))
        assert len(seen) > 3
        assert set(seen) <= {before, readings(store)}


def readings(store: SQLiteStorage) -> str:
    """What queries find, and what hours come to, without waiting for what is queued."""
    rows = store.query_readings(Weather, order="timestamp", fresh=False)
    hours = store.aggregate(Weather, "temperature", "sum", interval="1h", fresh=False)
    return json.dumps([rows, hours], default=str)


def test_while_another_program_holds_the_lock_nothing_is_lost(original: Path, quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    shutil.copy(original, path)
    with opened(path) as store:
        clock = store.clock
        assert isinstance(clock, ManualClock)
        assert store._writing is not None
        store._writing._connection.execute("PRAGMA busy_timeout = 5")
        other = sqlite3.connect(path, isolation_level=None)
        for name in ("fold", "store", "delete", "acknowledge"):
            other.execute("BEGIN IMMEDIATE")
            acting = threading.Thread(target=ACTIONS[name], args=(store,))
            acting.start()
            flushing = threading.Thread(target=store.flush)
            flushing.start()
            advance_until(clock, lambda: "locked" in store.health_check()["message"])
            assert flushing.is_alive()
            other.execute("ROLLBACK")
            advance_until(clock, lambda: not acting.is_alive() and not flushing.is_alive())  # noqa: B023
            assert store.health_check()["status"] == "pass"
            audit_memory(store)
            assert store.ledger().problems == []
        other.close()
    audit_file(path)


FULL = """
import resource, signal, sys, threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from tests.models import Weather
from tests.storage.sqlite.audit import audit_memory
from tests.storage.sqlite.test_writer import advance_until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
path, clock = Path(sys.argv[1]), ManualClock(T0)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
store = SQLiteStorage(path, gateway_id="roof", clock=clock, piece_rows=200)
store.add_cursor("central")
troubles = 0
for number in range(60):
    largest = max(one.stat().st_size for one in path.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 997 * (number % 7), hard))
    minutes = range(50 * number, 50 * number + 60)
    rows = [(f"d{n % 4}", T0 + timedelta(minutes=n), {"temperature": 1.0, "note": 100 * "x"}) for n in minutes]
    receipt = store.store_readings(Weather, rows)
    folding = threading.Thread(target=store.fold)
    folding.start()
    turns = iter(range(20))
    advance_until(clock, lambda: next(turns, None) is None or store.health_check()["status"] == "fail")
    troubles += store.health_check()["status"] == "fail"
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    advance_until(clock, lambda: receipt.level == "durable" and not folding.is_alive())
    assert store.health_check()["status"] == "pass"
    audit_memory(store)
    if window := store.pending("central", 500):
        store.acknowledge("central", window)
store.flush()
assert store.ledger().problems == [], store.ledger().problems
print(troubles, len(store.query_readings(Weather)), store.count_pending("central"))
store.close()
"""


def test_files_that_cannot_grow_lose_nothing(quick_folder: Path) -> None:
    """The kernel refuses writes beyond a size: of commits, of folds, of checkpoints."""
    path = quick_folder / "x.db"
    command = [sys.executable, "-c", FULL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    troubles, rows, pending = (int(word) for word in done.stdout.split())
    assert troubles > 10
    assert (rows, pending) == (59 * 50 + 60, 0)
    audit_file(path)
