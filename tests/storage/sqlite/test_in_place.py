"""Files that another program cuts, removes or moves while the store has them open: what was called durable is there for
the next start, found by its names in the middle of the work."""

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from edgedepot import ReceiptTimeout, SQLiteStorage, StorageError
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.wal import salt_of, wal_of
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import rows
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_left_behind import Program, python
from tests.storage.sqlite.test_writer import advance_until


@pytest.fixture(params=["power", "process"])
def store(request: pytest.FixtureRequest, quick_folder: Path) -> Iterator[SQLiteStorage]:
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0), durability=request.param) as opened:
        opened.add_cursor("central")
        opened.store_readings(Weather, rows(0, 100)).wait("committed")
        yield opened
        audit_memory(opened)
    audit_file(path)


def put(store: SQLiteStorage, first: int, last: int, level: Literal["committed", "durable"] = "committed") -> Receipt:
    receipt = store.store_readings(Weather, rows(first, last))
    clock = store.clock
    assert isinstance(clock, ManualClock)
    receipt.then(lambda: None)
    advance_until(clock, lambda: receipt.level in (level, "durable"))
    return receipt


def check_left(store: SQLiteStorage, folder: Path, count: int) -> None:
    """What a kill would leave now; and a power cut, after which SQLite has no index of the log."""
    for name in ("killed", "power cut"):
        left = folder / f"{name} {count}"
        left.mkdir()
        # Not by this process: to close a file is to lose all locks that it has on it.
        subprocess.run(["cp", *map(str, store.path.parent.glob("x.db*")), str(left)], check=True)
        if name == "power cut":
            (left / "x.db-shm").unlink(missing_ok=True)
        with SQLiteStorage(left / "x.db") as again:
            assert (again.salvaged, again.store_epoch) == (None, 1)
            assert len(again.query_readings(Weather)) == count
            assert again.count_pending("central") == count


@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_a_log_that_another_program_puts_into_the_file_is_this_stores(
    store: SQLiteStorage, tmp_path: Path, mode: str
) -> None:
    other = python(store.path)
    for first in (100, 200, 300):
        assert other.ask(f"PRAGMA wal_checkpoint({mode});").startswith("0 ")
        put(store, first, first + 50)
        check_left(store, tmp_path, first + 50)
        put(store, first + 50, first + 100)
    other.end()
    store.fold()
    check_left(store, tmp_path, 400)


def test_a_log_whose_number_is_drawn_at_random_is_this_stores(quick_folder: Path, tmp_path: Path) -> None:
    """As it is where the log could not begin anew when the store was opened, for one who read."""
    path, clock = quick_folder / "x.db", ManualClock(T0)
    with SQLiteStorage(path, gateway_id="roof", clock=clock) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 100)).wait()
    other = python(path)
    other.say("BEGIN;")
    assert other.ask("SELECT count(*) FROM weather;") == "100"
    with SQLiteStorage(path, clock=clock) as store:
        put(store, 100, 150)
        other.say("COMMIT;")
        before = salt_of(wal_of(path))
        assert other.ask("PRAGMA wal_checkpoint(TRUNCATE);").startswith("0 ")
        put(store, 150, 200)
        after = salt_of(wal_of(path))
        assert before is not None
        assert after not in (None, before, before + 1)
        check_left(store, tmp_path, 200)
        other.end()


@pytest.mark.parametrize("also_index", [False, True])
def test_a_log_that_is_removed_is_put_into_the_file(
    store: SQLiteStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture, also_index: bool
) -> None:
    wal_of(store.path).unlink()
    if also_index:
        store.path.with_name("x.db-shm").unlink()
    with pytest.raises(StorageError):
        store.query_readings(Weather)
    put(store, 100, 200, "durable")
    assert "x.db-wal was removed while it was in use: all that was in it is in the file now" in caplog.text
    check_left(store, tmp_path, 200)
    assert len(store.query_readings(Weather)) == 200
    assert (store.salvaged, store.store_epoch) == (None, 1)


def test_who_still_has_a_log_that_was_removed_harms_nothing(store: SQLiteStorage, tmp_path: Path) -> None:
    """What such a program put into the file would be out of the log that is gone."""
    other = python(store.path)
    assert other.ask("SELECT count(*) FROM weather;") == "100"
    wal_of(store.path).unlink()
    put(store, 100, 200, "durable")
    put(store, 200, 250, "durable")
    check_left(store, tmp_path, 250)
    other.say("PRAGMA wal_checkpoint;")  # which it is refused
    other.end()
    put(store, 250, 300, "durable")
    check_left(store, tmp_path, 300)


def test_who_reads_all_of_a_log_that_was_removed_has_its_like_not_begun(store: SQLiteStorage, tmp_path: Path) -> None:
    """With that reader the log goes on where it was, and what it had before is not in the new one."""
    reader = python(store.path)
    reader.say("BEGIN;")
    assert reader.ask("SELECT count(*) FROM weather;") == "100"
    wal_of(store.path).unlink()
    receipt = store.store_readings(Weather, rows(100, 200))
    wait_for_the_reader(store, receipt, reader)
    check_left(store, tmp_path, 200)


def test_a_log_that_somebody_reads_is_put_into_the_file_when_they_have_ended(store: SQLiteStorage) -> None:
    reader = python(store.path)
    reader.say("BEGIN;")
    assert reader.ask("SELECT count(*) FROM weather;") == "100"
    put(store, 100, 150)
    wal_of(store.path).unlink()
    receipt = store.store_readings(Weather, rows(150, 200))
    wait_for_the_reader(store, receipt, reader)
    assert len(store.query_readings(Weather)) == 200


def wait_for_the_reader(store: SQLiteStorage, receipt: Receipt, reader: Program) -> None:
    """Nothing is called stored before that has ended."""
    clock = store.clock
    assert isinstance(clock, ManualClock)
    advance_until(clock, lambda: "and others read what is in it" in store.health_check()["message"])
    assert receipt.level == "queued"
    reader.end()
    advance_until(clock, lambda: receipt.level != "queued")


def moved(path: Path) -> Callable[[], object]:
    aside = path.rename(path.with_name("aside"))
    return lambda: aside.replace(path)


def replaced(path: Path) -> Callable[[], object]:
    put_back = moved(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    return put_back


@pytest.mark.parametrize("how", [moved, replaced])
def test_what_goes_to_a_file_without_its_name_is_not_called_stored(
    store: SQLiteStorage, tmp_path: Path, how: Callable[[Path], Callable[[], object]]
) -> None:
    put_back = how(store.path)
    receipt = store.store_readings(Weather, rows(100, 200))
    clock = store.clock
    assert isinstance(clock, ManualClock)

    def is_refused() -> bool:
        with pytest.raises(ReceiptTimeout) as refused:
            receipt.wait("committed", timeout=0)
        return "x.db was moved or removed while it was in use: put it back" in str(refused.value)

    advance_until(clock, is_refused)
    assert store.health_check()["status"] == "fail"
    put_back()
    advance_until(clock, lambda: receipt.level != "queued")
    check_left(store, tmp_path, 200)
