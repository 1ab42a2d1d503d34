"""Programs that read for long, and processes that write one store: real ones."""

import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import StorageLocked
from edgedepot.storage.sqlite.aside import next_of
from edgedepot.storage.sqlite.backup import restore
from edgedepot.storage.sqlite.connection import open_writer
from edgedepot.storage.sqlite.lock import StoreLock, writing_process
from edgedepot.storage.sqlite.opening import GOING_ON
from edgedepot.storage.sqlite.wal import shm_of, wal_of
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import copy_at_rest, rows
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until

READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM _meta").fetchone()
print("reading", flush=True)
sys.stdin.readline()
"""
WRITER = """
import sys, threading
from edgedepot import SQLiteStorage
from tests.models import Weather
from tests.storage.sqlite.damaged import rows
store = SQLiteStorage(sys.argv[1], gateway_id="roof")
store.store_readings(Weather, rows(0, 100)).wait()
print("writing", flush=True)
threading.Event().wait()
"""
CLAIMING = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0x40000200)
print("claimed", flush=True)
sys.stdin.read()
"""
# What a program that opens the file would ask for, to find out whether it is the first, whether it is the last, and
# whether another process writes the file.
LOCKS = """
import fcntl, os, sys
for name, start, length in (("x.db-shm", 128, 1), ("x.db", 0x40000002, 510), ("x.db", 0x40000200, 1)):
    file = os.open(os.path.join(sys.argv[1], name), os.O_RDWR)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        print(name, "is held")
"""


def in_use(store: SQLiteStorage) -> str:
    """Which files of the store other programs take to be in use."""
    command = [sys.executable, "-c", LOCKS, str(store.path.parent)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def child(program: str, path: Path, said: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == said + "\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def store(quick_folder: Path) -> Iterator[SQLiteStorage]:
    """With a log of 30 pages, so that what is tested of long ones takes little."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0), keep_bytes="1 MB") as opened:
        opened.store_readings(Weather, rows(0, 10)).wait()
        yield opened


def log_bytes(store: SQLiteStorage) -> int:
    return store.path.with_name("x.db-wal").stat().st_size


def test_a_long_reader_blocks_nothing_and_is_named(store: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    """Where it keeps the log from beginning again, and no copy of the file can be made; once it has ended the log is
    short, with nothing written since."""
    next_of(store.path).mkdir()
    clock = store.clock
    assert isinstance(clock, ManualClock)
    assert store._writing is not None
    store._writing._connection.execute("PRAGMA busy_timeout = 0")  # a commit that had to wait for anybody would fail
    reader = child(READER, store.path, "reading")
    try:
        for number in range(10, 2010, 10):
            store.store_readings(Weather, rows(number, number + 10)).wait()
        advance_until(clock, lambda: "write-ahead log" in store.health_check()["message"])
        health = store.health_check()
        assert health["status"] == "pass"
        assert f"process {reader.pid} (python" in health["message"]
        for number in range(2010, 2110, 10):  # it goes on, and says it once
            clock.advance(20)
            store.store_readings(Weather, rows(number, number + 10)).wait()
        grown = log_bytes(store)
        assert grown > 4 * 30 * 4096
        said = [one.message for one in caplog.records if "write-ahead log has grown" in one.message]
        assert len(said) == 1
        assert f"process {reader.pid} (python" in said[0]
    finally:
        end(reader)
    with caplog.at_level(logging.WARNING):
        advance_until(clock, lambda: "write-ahead log" not in store.health_check()["message"])
    assert log_bytes(store) < grown // 4
    assert "short again" in caplog.text
    assert "cannot be written" not in caplog.text
    assert len(store.query_readings(Weather)) == 2110
    audit_memory(store)


def test_a_log_that_nobody_holds_is_cut_without_a_word(store: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    store.store_readings(Weather, rows(10, 12_000)).wait()
    clock = store.clock
    assert isinstance(clock, ManualClock)
    advance_until(clock, lambda: log_bytes(store) <= 4 * 30 * 4096)
    assert "write-ahead log" not in caplog.text


def test_a_short_log_in_a_long_file_is_held_by_nobody(store: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    """One large commit made it so long; it has begun again since, and somebody reads what is new."""
    store.store_readings(Weather, rows(10, 12_000)).wait()
    store.store_readings(Weather, rows(12_000, 12_010)).wait()
    clock = store.clock
    assert isinstance(clock, ManualClock)
    reader = child(READER, store.path, "reading")
    try:
        for number in range(12_010, 12_050, 10):
            clock.advance(20)
            store.store_readings(Weather, rows(number, number + 10)).wait()
        assert log_bytes(store) > 4 * 30 * 4096
        assert "write-ahead log" not in caplog.text + store.health_check()["message"]
    finally:
        end(reader)
    advance_until(clock, lambda: log_bytes(store) <= 4 * 30 * 4096)
    assert "write-ahead log" not in caplog.text


@pytest.mark.parametrize("has_index", [True, False], ids=["killed", "power cut"])
def test_a_log_that_was_cut_is_not_missing(store: SQLiteStorage, tmp_path: Path, has_index: bool) -> None:
    store.store_readings(Weather, rows(10, 12_000)).wait()
    clock = store.clock
    assert isinstance(clock, ManualClock)
    advance_until(clock, lambda: log_bytes(store) <= 4 * 30 * 4096)
    left_by = copy_at_rest(store.path.parent, tmp_path / "left")
    if not has_index:  # which nobody syncs
        shm_of(left_by / store.path.name).unlink()
    with SQLiteStorage(left_by / store.path.name) as left:
        assert (left.store_epoch, left.salvaged) == (1, None)
        assert len(left.query_readings(Weather)) == 12_000


def test_a_second_writer_is_told_who_the_first_is(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    writer = child(WRITER, path, "writing")
    try:
        with pytest.raises(StorageLocked, match=f"is being written by process {writer.pid};"):
            SQLiteStorage(path)
        assert writing_process(path) == writer.pid
        with SQLiteStorage(path, read_only=True) as beside:
            assert len(beside.query_readings(Weather)) == 100
    finally:
        end(writer)


SECOND = """
import sys
from edgedepot import SQLiteStorage, StorageError
try:
    SQLiteStorage(sys.argv[1])
except StorageError as exc:
    print(exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of its own needs root")
def test_a_writer_in_another_container_is_not_taken_for_somebody_else(quick_folder: Path) -> None:
    """Both have the number 1, as has the machine's own first process."""
    path = quick_folder / "x.db"
    contained = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", sys.executable, "-c"]
    writer = subprocess.Popen([*contained, WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (number,) = Path(f"/proc/{writer.pid}/task/{writer.pid}/children").read_text().split()
        with pytest.raises(StorageLocked, match=f"is being written by process {number}; stop it first"):
            SQLiteStorage(path)
        second = subprocess.run([*contained, SECOND, str(path)], stdout=subprocess.PIPE, text=True, check=True)
        assert "is being written by a process in another container; stop it first" in second.stdout
    finally:
        end(writer)


def test_so_is_one_that_has_another_name_of_the_file(quick_folder: Path) -> None:
    """By which it finds neither the lock nor the log of the first: so nothing of what it finds may be mended."""
    path, other = quick_folder / "x.db", quick_folder / "other.db"
    writer = child(WRITER, path, "writing")
    os.link(path, other)
    try:
        whose = f"other.db is being written under another name by process {writer.pid}; stop it first"
        with pytest.raises(StorageLocked, match=whose):
            SQLiteStorage(other)
        with pytest.raises(StorageLocked, match=whose):
            restore(path, other, 0, force=True)
        assert {one.name for one in quick_folder.glob("other*")} == {"other.db", "other.db.lock"}
    finally:
        end(writer)
    with SQLiteStorage(path) as store:
        assert len(store.query_readings(Weather)) == 100
    with SQLiteStorage(other) as store:
        assert (len(store.query_readings(Weather)), store.salvaged) == (100, None)
        with pytest.raises(StorageLocked, match=f"under another name by process {os.getpid()}; use the object"):
            SQLiteStorage(path)


def test_of_two_that_begin_at_once_under_two_names_one_is_refused(quick_folder: Path) -> None:
    """Neither has seen the other when it looked; whoever has the file first keeps it."""
    path = quick_folder / "x.db"
    SQLiteStorage(path).close()
    lock = StoreLock(path)
    first = child(CLAIMING, path, "claimed")
    try:
        with contextlib.closing(open_writer(path)):
            with pytest.raises(StorageLocked, match=f"under another name by process {first.pid}; stop it first"):
                lock.hold_file()
            end(first)
            lock.hold_file()
    finally:
        end(first)
        lock.release()


def test_who_has_closed_a_store_and_still_reads_it_is_in_nobodys_way(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    with SQLiteStorage(path) as store, SQLiteStorage(path, read_only=True) as beside:
        store.store_readings(Weather, rows(0, 10)).wait()
        assert len(beside.query_readings(Weather)) == 10
        store.close()
        end(child(WRITER, path, "writing"))
        assert len(beside.query_readings(Weather)) == 100


def test_what_a_killed_process_leaves_locked_is_in_nobodys_way(quick_folder: Path) -> None:
    """A writer, and a reader in the middle of its transaction."""
    path = quick_folder / "x.db"
    writer = child(WRITER, path, "writing")
    reader = child(READER, path, "reading")
    for process in (reader, writer):
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert writing_process(path) is None
    with SQLiteStorage(path, gateway_id="roof") as store:
        assert len(store.query_readings(Weather)) == 100
        store.store_readings(Weather, rows(100, 200)).wait()
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)
    with SQLiteStorage(path, gateway_id="roof") as store:
        assert len(store.query_readings(Weather)) == 200


BOTH = "x.db-shm is held\n" + 2 * "x.db is held\n"


def test_other_programs_see_that_the_store_is_in_use(quick_folder: Path) -> None:
    """One that took itself for the first would cut off the log's index, which is mapped here; one that took itself for
    the last would delete the log."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        assert in_use(store) == BOTH
        store.store_readings(Weather, rows(0, 100)).wait()
        store.fold()
        assert len(store.query_readings(Weather)) == 100
        store.backup(path.with_name("copy.db"))
        assert in_use(store) == BOTH
    with SQLiteStorage(path) as store:
        assert in_use(store) == BOTH


def test_so_they_do_after_a_crash(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    end(child(WRITER, path, "writing"))
    with SQLiteStorage(path) as store:
        assert in_use(store) == BOTH


@pytest.mark.parametrize("dies_before", [True, False])
def test_so_they_do_where_the_process_has_read_it_before(quick_folder: Path, dies_before: bool) -> None:
    path = quick_folder / "x.db"
    writer = child(WRITER, path, "writing")
    if dies_before:
        end(writer)
    with SQLiteStorage(path, read_only=True) as beside:
        assert len(beside.query_readings(Weather)) == 100
        end(writer)
        with SQLiteStorage(path) as store:
            assert in_use(store) == BOTH
            assert len(store.query_readings(Weather)) == 100


@pytest.mark.parametrize("library", ["sqlite3", "another spelling"])
def test_so_they_do_where_it_is_open_here_in_another_way(quick_folder: Path, library: str) -> None:
    path = quick_folder / "x.db"
    end(child(WRITER, path, "writing"))
    (quick_folder / "beside").mkdir()
    spelled = quick_folder / "beside" / ".." / "x.db"
    with contextlib.closing(
        sqlite3.connect(path) if library == "sqlite3" else SQLiteStorage(spelled, read_only=True)
    ) as other:
        if isinstance(other, SQLiteStorage):
            assert len(other.query_readings(Weather)) == 100
        else:
            assert other.execute("SELECT count(*) FROM weather").fetchone() == (100,)
        with SQLiteStorage(path) as store:
            assert in_use(store) == BOTH
            assert len(store.query_readings(Weather)) == 100


def test_a_killed_process_that_had_removed_the_log_alone(quick_folder: Path) -> None:
    """When it went on in a copy: the reader whom it left behind keeps the index of the log that is gone in use."""
    path, copy = quick_folder / "x.db", quick_folder / "copy.db"
    writer = child(WRITER, path, "writing")
    reader = child(READER, path, "reading")
    end(writer)
    with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    lock = StoreLock(path)
    lock.note(GOING_ON)
    lock.release()
    copy.replace(path)
    wal_of(path).unlink()
    try:
        with SQLiteStorage(path) as store:
            assert len(store.query_readings(Weather)) == 100
            assert store.salvaged is None
    finally:
        end(reader)
