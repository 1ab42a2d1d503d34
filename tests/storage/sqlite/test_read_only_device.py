"""A device that becomes read-only, or refuses writes for a while, under an open store: ext4 in a file of its own.

``mount -o remount,ro`` is refused while files are open for writing, so nobody makes a device read-only under a store
but the kernel, when the file system has errors. It takes no writes then until it is unmounted. Files that may not be
changed (chattr +i) are refused and come back. Mounting needs root and a loop device.
"""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from edgedepot import SQLiteStorage, StorageError
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.sqlite.verify import Verification
from tests.benchmarks.loop_mount import LoopMount, NoLoopMount
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import leave, rows
from tests.storage.sqlite.small_disk import SmallDisk
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until

SIZE = 64_000_000


@pytest.fixture
def device() -> Iterator[LoopMount]:
    try:
        with LoopMount(SIZE, "noatime,errors=remount-ro") as mounted:
            yield mounted
    except NoLoopMount as exc:
        pytest.skip(f"no file system of its own can be mounted here: {exc}")


def opened(device: LoopMount, clock: ManualClock, durability: Literal["power", "process"]) -> SQLiteStorage:
    return SQLiteStorage(device.path / "x.db", gateway_id="roof", durability=durability, clock=clock, piece_rows=60)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_file_system_that_the_kernel_makes_read_only(
    device: LoopMount, durability: Literal["power", "process"]
) -> None:
    clock = ManualClock(T0)
    store = opened(device, clock, durability)
    store.add_cursor("central")
    store.store_readings(Weather, rows(0, 100)).wait()
    make_read_only(device)
    receipt = store.store_readings(Weather, rows(100, 200))
    advance_until(clock, lambda: store.health_check()["status"] == "fail")
    assert "Read-only file system" in store.health_check()["message"]
    assert receipt.level == "queued"
    check_that_reads_go_on(store, 100)
    window = store.pending("central", 1000)
    assert window is not None
    assert len(window.rows) == 100  # what is durable is handed out
    store.acknowledge("central", window)
    with pytest.raises(StorageError, match="Read-only file system"):
        store.close()
    assert isinstance(receipt.error, StorageError)  # it will never be stored
    device.unmount()
    device.check()
    device.mount()
    audit_file(store.path)
    with opened(device, clock, durability) as store:
        assert len(store.query_readings(Weather)) == 100
        store.store_readings(Weather, rows(100, 200)).wait()
        assert store.count_pending("central") == 200  # what was acknowledged meanwhile was not written down
        assert store.ledger().problems == []
        assert store.salvaged is None


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_card_of_another_machine_can_be_read(quick_folder: Path, closed: bool) -> None:
    """Mounted read-only: a store that was closed, where SQLite can make no log, and one with a log."""
    with SmallDisk() as disk:
        path = leave(disk.path, "folded")
        if closed:
            SQLiteStorage(path).close()
        disk.make_read_only()
        with SQLiteStorage(path, read_only=True) as store:
            assert len(store.query_readings(Weather)) == 660
            store.backup(quick_folder / "copy.db")
        with Verification(path) as verification:
            assert verification.run().sound
        with pytest.raises(StorageError, match="Read-only file system"):
            SQLiteStorage(path)
        with SQLiteStorage(quick_folder / "copy.db") as store:
            assert len(store.query_readings(Weather)) == 660


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_device_that_refuses_writes_for_a_while(device: LoopMount, durability: Literal["power", "process"]) -> None:
    clock = ManualClock(T0)
    with opened(device, clock, durability) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 100)).wait()
        protect(device, "+i")
        receipt = store.store_readings(Weather, rows(100, 200))
        deleting = threading.Thread(target=store.delete_readings, args=(Weather, "d1"))
        deleting.start()
        advance_until(clock, lambda: store.health_check()["status"] == "fail")
        assert "Operation not permitted" in store.health_check()["message"]
        assert receipt.level == "queued"
        assert deleting.is_alive()
        check_that_reads_go_on(store, 100)
        protect(device, "-i")
        advance_until(clock, lambda: receipt.level == "durable" and not deleting.is_alive())
        advance_until(clock, lambda: store.health_check()["status"] == "pass")
        assert {row["device_id"] for row in store.query_readings(Weather)} == {"d0", "d2", "d3"}
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(store.path)


def make_read_only(device: LoopMount) -> None:
    """As the kernel does when it finds an error in the file system."""
    name = Path("/sys/fs/ext4") / device.device.name / "trigger_fs_error"
    name.write_text("1")
    with pytest.raises(OSError, match="Read-only file system"):
        (device.path / "new").touch()


def protect(device: LoopMount, how: str) -> None:
    """Have nobody change the files, or anybody again."""
    files = [str(file) for file in device.path.iterdir() if file.is_file() and not file.name.endswith("-shm")]
    subprocess.run(["chattr", how, *files], check=True)


def check_that_reads_go_on(store: SQLiteStorage, count: int) -> None:
    """Without waiting for what cannot be written."""
    assert len(store.query_readings(Weather)) == count
    assert store.aggregate(Weather, "temperature", "count") == {"result": count}
    with SQLiteStorage(store.path, read_only=True) as reader:
        assert len(reader.query_readings(Weather)) == count
