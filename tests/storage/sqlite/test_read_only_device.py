"""A device that becomes read-only, or refuses writes for a while, under an open store: ext4 in a file of its own.

``mount -o remount,ro`` is refused while files are open for writing, so nobody makes a device read-only under a store
but the kernel, when the file system has errors. It takes no writes then until it is unmounted; ``remount,rw`` is
refused too. Files that may not be changed (chattr +i) are refused and come back. Mounting needs root and a loop device.
"""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from edgedepot import SQLiteStorage, StorageError
from edgedepot.storage.buffer import Intake
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import ReceiptTimeout
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.verify import Verification
from tests.benchmarks.loop_mount import LoopMount, NoLoopMount
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import leave, rows
from tests.storage.sqlite.small_disk import SmallDisk
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until

SIZE = 64_000_000
OPTIONS = "noatime,errors=remount-ro"


@pytest.fixture
def device() -> Iterator[LoopMount]:
    try:
        with LoopMount(SIZE, OPTIONS) as mounted:
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


@pytest.fixture
def failing(request: pytest.FixtureRequest) -> Iterator[tuple[LoopMount, Callable[[], None], Callable[[], None]]]:
    """A device, what ends it, and what has to be done before it can be checked. The file system has an error, or the
    device gives I/O errors: its file has no room left to grow."""
    if request.param == "an error in the file system":
        device = request.getfixturevalue("device")
        yield device, lambda: make_read_only(device), lambda: None
        return
    try:
        with SmallDisk(SIZE // 2) as disk, LoopMount(SIZE, OPTIONS, within=disk.path) as device:
            yield device, disk.fill, disk.clear
    except NoLoopMount as exc:
        pytest.skip(f"no file system of its own can be mounted here: {exc}")


@pytest.mark.parametrize(
    ("failing", "durability"),
    [
        ("an error in the file system", "power"),
        ("an error in the file system", "process"),
        ("I/O errors", "power"),
    ],
    indirect=["failing"],
)
def test_a_file_system_that_is_checked_and_mounted_again_under_an_open_store(
    failing: tuple[LoopMount, Callable[[], None], Callable[[], None]], durability: Literal["power", "process"]
) -> None:
    """Without a restart. It lets go of the file system, or the kernel would mount the same one again."""
    device, fail, mend = failing
    clock = ManualClock(T0)
    with opened(device, clock, durability) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 100)).wait()
        fail()
        receipt = store.store_readings(Weather, rows(100, 200))
        acknowledged: list[Receipt] = []
        taken = store.take_in(Intake("mqtt", messages=1, ignored=1))
        taken.then(lambda: acknowledged.append(taken))  # as drivers do
        deleting = threading.Thread(target=store.delete_readings, args=(Weather, "d1"))
        deleting.start()
        advance_until(clock, lambda: store.health_check()["status"] == "fail")
        with pytest.raises(ReceiptTimeout, match=r"still queued: the store cannot be written: .*Read-only file system"):
            receipt.wait(timeout=0)
        check_that_reads_go_on(store, 100)
        assert is_refused(device.path, "remount,rw")
        device.detach()
        advance_until(clock, lambda: "not mounted any more" in store.health_check()["message"])
        with pytest.raises(StorageError, match="not mounted any more"):
            store.query_readings(Weather)
        assert (receipt.level, acknowledged) == ("queued", [])
        assert list(device.path.iterdir()) == []  # nothing is made where it was
        mend()
        device.check()
        device.mount()
        advance_until(clock, lambda: receipt.level == "durable" and not deleting.is_alive())
        advance_until(clock, lambda: store.health_check()["status"] == "pass" and acknowledged != [])
        assert {row["device_id"] for row in store.query_readings(Weather)} == {"d0", "d2", "d3"}
        assert (receipt.accepted, receipt.duplicates) == (100, 0)
        assert store.count_pending("central") == 150
        assert store.ledger().problems == []
        assert store.ledger().sources["mqtt"]["messages"] == 1
        assert (store.salvaged, store.store_epoch) == (None, 1)
        store.fold()
        audit_memory(store)
    audit_file(store.path)


def test_a_store_whose_file_system_is_away_can_be_closed(device: LoopMount) -> None:
    clock = ManualClock(T0)
    store = opened(device, clock, "power")
    store.store_readings(Weather, rows(0, 100)).wait()
    make_read_only(device)
    receipt = store.store_readings(Weather, rows(100, 200))
    advance_until(clock, lambda: store.health_check()["status"] == "fail")
    device.detach()
    advance_until(clock, lambda: "not mounted any more" in store.health_check()["message"])
    with pytest.raises(StorageError, match="not mounted any more"):
        store.close()
    assert "not mounted any more" in str(receipt.error)
    store.close()
    assert list(device.path.iterdir()) == []
    device.check()
    device.mount()
    with opened(device, clock, "power") as store:
        assert len(store.query_readings(Weather)) == 100
        assert store.salvaged is None


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "overlay"])
def test_nobody_makes_a_file_system_read_only_under_an_open_store(device: LoopMount, kind: str) -> None:
    """The kernel says that it is busy. Mounted read-only once more over itself, it is so for files opened from then on:
    the store goes on in those that it has."""
    with mounted(kind, device) as folder, SQLiteStorage(folder / "x.db", gateway_id="roof") as store:
        store.store_readings(Weather, rows(0, 100)).wait()
        assert "busy" in is_refused(folder, "remount,ro")
        assert "busy" in is_refused(folder, "remount,bind,ro")
        with covered(folder):
            with pytest.raises(OSError, match="Read-only file system"):
                (folder / "new").touch()
            store.store_readings(Weather, rows(100, 200)).wait()
            store.fold()
            check_that_reads_go_on(store, 200)
        store.store_readings(Weather, rows(200, 300)).wait()
        assert store.health_check()["status"] == "pass"
        assert store.ledger().problems == []
        audit_memory(store)
        audit_file(store.path)


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
        with SQLiteStorage(path, read_only=True) as reader:
            assert len(reader.query_readings(Weather)) == 660
            disk.make_writable()
            with SQLiteStorage(path) as store:
                store.store_readings(Weather, rows(2000, 2010)).wait()
                assert store.ledger().problems == []
                assert len(reader.query_readings(Weather)) == len(store.query_readings(Weather)) == 670


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


def is_refused(folder: Path, how: str) -> str:
    """What mount(8) says where it does not; nothing where it does."""
    done = subprocess.run(["mount", "-o", how, str(folder)], capture_output=True, text=True, check=False)
    return done.stderr


@contextlib.contextmanager
def mounted(kind: str, device: LoopMount) -> Iterator[Path]:
    """A folder on a file system of that kind; an overlay lies on the device."""
    if kind == "tmpfs":
        with SmallDisk() as disk:
            yield disk.path.parent
        return
    if kind == "ext4":
        yield device.path
        return
    lower, upper, work, merged = (device.path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", str(merged)], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", "--lazy", str(merged)], check=True)


@contextlib.contextmanager
def covered(folder: Path) -> Iterator[None]:
    """The same file system mounted once more over itself, read-only."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        assert not is_refused(folder, "remount,bind,ro")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # files that were opened meanwhile are in it


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
