"""A device without room: a small file system in memory, filled to the page. Mounting it needs root."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage, StorageError
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import rows as numbered
from tests.storage.sqlite.faulty import build, run_faulty
from tests.storage.sqlite.small_disk import SmallDisk
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with SmallDisk() as mounted:
        yield mounted


def test_receipts_say_that_a_full_device_keeps_them_waiting(disk: SmallDisk) -> None:
    clock = ManualClock(T0)
    with SQLiteStorage(disk.path / "x.db", gateway_id="roof", clock=clock) as store:
        store.store_readings(Weather, numbered(0, 50)).wait()
        disk.fill()
        receipts = [store.store_readings(Weather, numbered(first, first + 50)) for first in range(50, 1000, 50)]
        advance_until(clock, lambda: store.health_check()["status"] == "fail")
        assert "full" in store.health_check()["message"]
        assert {receipt.level for receipt in receipts} == {"queued"}
        assert len(store.query_readings(Weather)) == 50
        assert store.aggregate(Weather, "temperature", "count") == {"result": 50}
        disk.clear()
        advance_until(clock, lambda: all(receipt.level == "durable" for receipt in receipts))
        advance_until(clock, lambda: store.health_check()["status"] == "pass")
        assert len(store.query_readings(Weather)) == 1000
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(disk.path / "x.db")


def full_store(disk: SmallDisk, clock: ManualClock, stored: int = 3000, **settings: object) -> SQLiteStorage:
    """A store of so many readings in history with its reserve, on a device that is full since."""
    store = SQLiteStorage(disk.path / "x.db", gateway_id="roof", clock=clock, **settings)  # type: ignore[arg-type]
    for first in range(0, stored, 500):
        store.store_readings(Weather, numbered(first, first + 500)).wait()
    folding = threading.Thread(target=store.fold)
    folding.start()
    advance_until(clock, lambda: not folding.is_alive())
    advance_until(clock, lambda: reserve_of(disk).exists())
    assert reserve_of(disk).stat().st_blocks * 512 >= 100_000  # really there, not a hole
    disk.fill()
    return store


def reserve_of(disk: SmallDisk) -> Path:
    return disk.path / "x.db.reserve"


def write_until_stuck(store: SQLiteStorage, clock: ManualClock, first: int) -> tuple[int, Receipt]:
    """Store batches of 250 until one stays in the queue, though the log was written from its start again; how many
    readings were stored in all, and the last receipt."""
    for number in range(first, first + 25_000, 250):
        receipt = store.store_readings(Weather, numbered(number, number + 250))
        turns = iter(range(20))
        advance_until(clock, lambda: next(turns, None) is None or receipt.level == "durable")  # noqa: B023
        if receipt.level == "queued":
            return number + 250, receipt
    raise AssertionError("the device has room for ever")


def test_deleting_works_on_a_full_device(disk: SmallDisk) -> None:
    """Also behind readings that wait; these find room then, though nobody else made any."""
    clock = ManualClock(T0)
    with full_store(disk, clock) as store:
        stored, receipt = write_until_stuck(store, clock, 3000)
        assert store.health_check()["status"] == "fail"
        assert len(store.query_readings(Weather)) == stored - 250
        deleted: list[int] = []
        end = numbered(2900, 2901)[0][1]
        deleting = threading.Thread(target=lambda: deleted.append(store.delete_readings(Weather, None, T0, end)))
        deleting.start()
        advance_until(clock, lambda: not deleting.is_alive() and receipt.level == "durable")
        assert deleted == [2900]
        assert disk.free < 150, "somebody else made room"
        assert len(store.query_readings(Weather)) == stored - 2900
        assert store.ledger().problems == []
        audit_memory(store)
        disk.clear()
        advance_until(clock, lambda: reserve_of(disk).exists())
    audit_file(disk.path / "x.db")


QUOTA = """
import ctypes
from tests.storage.sqlite.small_disk import SmallDisk
from tests.storage.sqlite.test_full_disk import test_deleting_works_on_a_full_device
ctypes.c_int.in_dll(ctypes.CDLL(None), "fault_quota").value = 1
with SmallDisk() as disk:
    test_deleting_works_on_a_full_device(disk)
"""


def test_deleting_works_where_a_quota_is_used_up(tmp_path: Path) -> None:
    """SQLite says "disk I/O error" then. A shim makes one of a full device; there is no quota for root."""
    run_faulty(build(tmp_path), tmp_path, QUOTA)


def test_a_device_that_takes_no_more_files_is_said_to_be_that() -> None:
    """SQLite says "unable to open database file" then."""
    with SmallDisk(files=16) as disk:
        path = disk.path / "x.db"
        with SQLiteStorage(path, gateway_id="roof") as store:
            store.store_readings(Weather, numbered(0, 50)).wait()
        others = [path.with_name(f"other{number}") for number in range(16)]
        with contextlib.suppress(OSError):
            for one in others:
                one.touch()
        for settings in ({}, {"read_only": True}):
            with pytest.raises(StorageError, match=r"x\.db: its device takes no more files"):
                SQLiteStorage(path, **settings)  # type: ignore[arg-type]
        for one in others:
            one.unlink(missing_ok=True)
        with SQLiteStorage(path) as store:
            assert (store.store_epoch, len(store.query_readings(Weather))) == (1, 50)


def test_without_a_reserve_deleting_waits_for_room(disk: SmallDisk) -> None:
    """What the reserve is for."""
    clock = ManualClock(T0)
    with full_store(disk, clock) as store:
        reserve_of(disk).unlink()
        disk.fill()
        stored, _ = write_until_stuck(store, clock, 3000)
        deleting = threading.Thread(target=store.delete_readings, args=(Weather,))
        deleting.start()
        turns = iter(range(40))
        advance_until(clock, lambda: next(turns, None) is None)
        assert deleting.is_alive()
        assert len(store.query_readings(Weather)) == stored - 250
        disk.clear()
        advance_until(clock, lambda: not deleting.is_alive())
        assert store.query_readings(Weather) == []


def test_retention_goes_on_on_a_full_device(disk: SmallDisk) -> None:
    """What the limits take away makes room for what comes in, hour after hour, with nothing else to be had."""
    clock = ManualClock(T0 + timedelta(days=60))
    with full_store(disk, clock, 30_000, keep_bytes="1 MB") as store:
        assert len(store.query_readings(Weather)) < 30_000
        number = 30_000
        for _ in range(40):
            receipt = store.store_readings(Weather, numbered(number, number + 250))
            number += 250
            advance_until(clock, lambda: receipt.level == "durable")  # noqa: B023
        assert disk.free < 150
        kept = store.query_readings(Weather, order="timestamp")
        assert 250 <= len(kept) < 10_000
        assert kept[-1]["count"] == number - 1
        assert [row["count"] for row in kept] == list(range(number - len(kept), number))
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(disk.path / "x.db")


def test_a_store_opens_on_a_full_device(disk: SmallDisk) -> None:
    clock = ManualClock(T0)
    full_store(disk, clock).close()
    disk.fill()
    with SQLiteStorage(disk.path / "x.db", clock=clock) as store:
        assert len(store.query_readings(Weather)) == 3000
        deleted: list[int] = []
        end = numbered(1000, 1001)[0][1]
        deleting = threading.Thread(target=lambda: deleted.append(store.delete_readings(Weather, None, T0, end)))
        deleting.start()
        advance_until(clock, lambda: not deleting.is_alive())
        assert deleted == [1000]
        receipt = store.store_readings(Weather, numbered(3000, 3100))
        advance_until(clock, lambda: receipt.level == "durable")
        assert disk.free < 150
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(disk.path / "x.db")


def test_where_not_even_the_reserve_suffices_opening_says_so(disk: SmallDisk) -> None:
    SQLiteStorage(disk.path / "x.db").close()
    disk.fill()
    with pytest.raises(StorageError, match="database or disk is full"):
        SQLiteStorage(disk.path / "x.db")
    disk.clear()
    SQLiteStorage(disk.path / "x.db").close()


def damaged_store(disk: SmallDisk, *upstreams: str) -> Path:
    """A store of several partitions, all of it owed to the upstreams, cut off within its last pages."""
    path = disk.path / "x.db"
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0 + timedelta(days=400)), piece_rows=300) as store:
        for name in upstreams:
            store.add_cursor(name)
        for first in range(0, 6000, 1000):
            store.store_readings(Weather, numbered(first, first + 1000, minutes=60)).wait()
            store.fold()
    assert not path.with_name("x.db-wal").exists()
    os.truncate(path, path.stat().st_size - 10 * 4096)
    return path


def test_a_salvage_on_a_device_that_is_nearly_full_keeps_what_there_is_room_for(disk: SmallDisk) -> None:
    """The latest first, and says so; the damaged file stays as it is."""
    path = damaged_store(disk)
    whole = path.read_bytes()
    size = len(whole) // 4096
    kept: list[int] = []
    for pages in (2 * size, size * 3 // 4, size // 2):
        with salvaged(disk, path, whole, pages) as store:
            found = store.salvaged
            assert found is not None
            assert found.put_aside is not None
            assert (disk.path / found.put_aside).read_bytes() == whole
            there = store.query_readings(Weather, order="timestamp")
            assert found.kept == len(there)
            left_out = 6000 - len(there)
            assert found.lost == 0
            assert (f"no room for more: {left_out} older readings" in str(found)) == (pages < size)
            assert there[-1]["count"] == 5999
            assert store.ledger().problems == []
            kept.append(len(there))
    assert kept[0] == 6000
    assert kept[0] > kept[1] > kept[2] > 0


@pytest.mark.parametrize("upstreams", [(), ("central",)])
def test_a_salvage_has_the_room_of_the_reserve_before_it_leaves_anything_out(
    disk: SmallDisk, upstreams: tuple[str, ...]
) -> None:
    """And what it has to leave out of a file that SQLite cannot read is counted: once, also where it is owed still."""
    path = damaged_store(disk, *upstreams)
    whole = bytes(16) + path.read_bytes()[16:]
    size = len(whole) // 4096
    with salvaged(disk, path, whole, size // 2, reserve=size) as store:
        assert not reserve_of(disk).exists()
        assert "no room" not in str(store.salvaged)
        assert len(store.query_readings(Weather)) == 6000
    with salvaged(disk, path, whole, size // 2) as store:
        left_out = 6000 - len(store.query_readings(Weather))
        assert left_out > 0
        assert f"no room for more: {left_out} older readings" in str(store.salvaged)


def test_a_salvage_without_any_room_is_made_up_for_when_there_is(disk: SmallDisk) -> None:
    path = damaged_store(disk)
    with pytest.raises(StorageError, match=r"is damaged \(.*\) and cannot be salvaged: .*(full|space)"):
        salvaged(disk, path, path.read_bytes(), 10)
    disk.clear()
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0 + timedelta(days=400))) as store:
        assert store.salvaged is not None
        assert re.fullmatch(r"it has \d+ pages of \d+; its salvage was interrupted", store.salvaged.reason)
        assert len(store.query_readings(Weather)) == 6000
        assert store.ledger().problems == []


def salvaged(disk: SmallDisk, path: Path, whole: bytes, pages: int, reserve: int = 0) -> SQLiteStorage:
    """The store out of a damaged file, where so many pages of the device are left beside it and the reserve."""
    disk.clear()
    for old in disk.path.iterdir():
        old.unlink()
    path.write_bytes(whole)
    reserve_of(disk).write_bytes(bytes(4096 * reserve))
    disk.fill(leave=pages)
    return SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0 + timedelta(days=400)))
