"""Copies of a store that is being written, and stores out of copies."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Reading, SQLiteStorage, SyncWorker, TimescaleDBStorage
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import ConfigError, NotSupported, StorageError, StorageLocked, StoreUnusable
from edgedepot.storage.sqlite.aside import next_of
from edgedepot.storage.sqlite.backup import restore
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.wal import shm_of, wal_of
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import T0, deliver, leave, readings, rows
from tests.sync.scripted import ScriptedUpstream, eventually

NOW = 1_767_225_600_000_000


def test_a_copy_is_the_store_at_one_moment_while_it_is_written(quick_folder: Path) -> None:
    """Batches of 100 are stored and folded meanwhile; the copy has some of them, each whole."""
    stop = threading.Event()
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", piece_rows=300) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 5_000)).wait()
        store.fold()

        def write() -> None:
            for first in count(5_000, 100):
                if stop.is_set():
                    return
                store.store_readings(Weather, rows(first, first + 100)).wait()
                deliver(store, 70)
                if first % 500 == 0:
                    store.fold()

        writing = threading.Thread(target=write)
        writing.start()
        told: list[tuple[int, int]] = []
        before: dict[Path, int] = {}
        try:
            for number in range(5):
                copied = quick_folder / f"copy {number}.db"
                before[copied] = len(store.query_readings(Weather, fields=["count"]))
                size = store.backup(copied, lambda done, total: told.append((done, total)))
                assert size == copied.stat().st_size
        finally:
            stop.set()
            writing.join()
        for copied, least in before.items():
            audit_file(copied)
            with SQLiteStorage(copied, read_only=True) as copy:
                found = len(copy.query_readings(Weather, fields=["count"]))
                assert found % 100 == 0
                assert found >= least
                assert copy.ledger().problems == []
        assert told[-1][0] == told[-1][1] == size
        assert store.health_check()["status"] == "pass"
        audit_memory(store)
    assert not [file for file in quick_folder.iterdir() if ".part" in file.name]


def store_with_copy(folder: Path) -> tuple[Path, Path]:
    """A store of 300 readings, 100 of them delivered before the copy, 100 after it, and 50 that came after it."""
    path, copy = folder / "x.db", folder / "copy.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 300)).wait()
        deliver(store, 100)
        store.backup(copy)
        deliver(store, 100)
        late = [(device, moment, {"temperature": -1.0}) for device, moment, _ in rows(150, 160)]
        store.store_readings(Weather, [*rows(300, 350), *late]).wait()
    return path, copy


@pytest.mark.parametrize("way", ["restore", "by hand", "by a link"])
def test_a_restored_store_has_what_was_pending_and_sends_it_as_old(quick_folder: Path, way: str) -> None:
    """Also where somebody copied the file over the store, or has it elsewhere and a link to it."""
    path, copy = store_with_copy(quick_folder)
    if way == "by hand":
        shutil.copy(copy, path)
    else:
        link = path
        if way == "by a link":
            (quick_folder / "links").mkdir()
            link = quick_folder / "links" / "y.db"
            link.symlink_to(path)
        aside = restore(copy, link, NOW, force=True)
        assert link.is_symlink() == (way == "by a link")
        assert aside == path.with_name("x.db.replaced-20260101T000000Z")
        with SQLiteStorage(aside, read_only=True) as store:
            assert len(readings(store)) == 350
    for _ in range(2):
        with SQLiteStorage(path, clock=ManualClock(T0)) as store:
            assert store.store_epoch == T0.timestamp()
            assert store.salvaged is not None
            assert store.salvaged.reason == "restored from a backup"
            assert len(readings(store)) == 300
            assert store.count_pending("central") == 200
            assert store.ledger().problems == []
            audit_memory(store)
    with SQLiteStorage(path) as store:
        store.store_readings(Weather, rows(400, 401)).wait()
        window = store.pending("central", 1000)
        assert window is not None
        versions = [(store.epoch_of(row.seq), row.seq) for row in window.rows]
        # What the upstream has since the copy, (1, 301) and more, is newer than all of the old, and older than the new.
        assert [epoch for epoch, _ in versions] == [1] * 200 + [T0.timestamp()]
        assert max(seq for epoch, seq in versions if epoch == 1) == 300
        assert versions[-1][1] > 360
    audit_file(path)


@pytest.mark.parametrize("then", [True, False])
@pytest.mark.parametrize("now", [True, False])
def test_a_copy_may_come_to_a_machine_that_does_not_know_the_time(quick_folder: Path, then: bool, now: bool) -> None:
    """Or does where the other did not; and may end before anything is stored in it."""
    clock = ManualClock(T0 + timedelta(days=1))
    clock.trusted = then
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", clock=clock) as store:
        store.store_readings(Weather, rows(0, 50)).wait()
        store.backup(quick_folder / "copy.db")
    clock.trusted = now
    restore(quick_folder / "copy.db", quick_folder / "y.db", NOW, force=False)
    for _ in range(2):
        with SQLiteStorage(quick_folder / "y.db", clock=clock) as store:
            assert store.salvaged is not None
            assert store.salvaged.reason == "restored from a backup"
            assert len(readings(store)) == 50
            audit_memory(store)
        audit_file(quick_folder / "y.db")


@pytest.mark.parametrize("step", ["marked", "file renamed", "log renamed", "replaced"])
def test_a_restore_that_was_interrupted_is_finished_by_whoever_opens(quick_folder: Path, step: str) -> None:
    """Never is there no store, nor one with the log of another."""
    folder = quick_folder / "left"
    folder.mkdir()
    path = leave(folder, "unfolded")
    _, copy = store_with_copy(quick_folder)
    fresh, aside = path.with_name("x.db.restored"), path.with_name("x.db.replaced-20260101T000000Z")
    copy.rename(fresh)
    sidecar = Sidecar(path)
    sidecar.forget()
    sidecar.mark(("restoring", aside.name))
    if step != "marked":
        path.rename(aside)
    if step in ("log renamed", "replaced"):
        wal_of(path).rename(wal_of(aside))
    if step == "replaced":
        shm_of(path).rename(shm_of(aside))
        fresh.rename(path)
    for _ in range(2):
        with SQLiteStorage(path) as store:
            assert len(readings(store)) == 300
            assert store.store_epoch > 1
            assert store.count_pending("central") == 200
    with SQLiteStorage(aside, read_only=True) as store:
        assert len(readings(store)) == 600
    assert not fresh.exists()


def test_a_restore_is_finished_also_where_the_process_reads_already(quick_folder: Path) -> None:
    """Or what is stored then would go into the store that gives way."""
    path, copy = store_with_copy(quick_folder)
    copy.rename(path.with_name("x.db.restored"))
    Sidecar(path).mark(("restoring", "x.db.replaced-20260101T000000Z"))
    with SQLiteStorage(path, read_only=True) as beside:
        assert len(readings(beside)) == 350
        with SQLiteStorage(path, gateway_id="roof") as store:
            store.store_readings(Weather, rows(400, 410)).wait()
            assert len(readings(store)) == len(readings(beside)) == 310
    with SQLiteStorage(path) as store:
        assert len(readings(store)) == 310


class ToldUpstream(ScriptedUpstream):
    """Can be asked for what it holds, as a server can."""

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        return [
            {"device_id": device, "timestamp": moment, **row.data} for (_, device, moment), row in self.kept.items()
        ]


@pytest.fixture(params=["scripted", "TimescaleDB"])
def upstream(request: pytest.FixtureRequest) -> Iterator[BaseStorage]:
    url = request.getfixturevalue("timescale_url") if request.param == "TimescaleDB" else None
    with ToldUpstream() if url is None else TimescaleDBStorage(url, gateway_id="roof") as storage:
        yield storage


def test_a_restored_store_forwards_what_was_pending_and_overwrites_nothing_newer(
    quick_folder: Path, upstream: BaseStorage
) -> None:
    """All of it to an upstream that has what came after the copy."""
    path, copy = quick_folder / "x.db", quick_folder / "copy.db"
    changed = [(device, moment, {"temperature": -1.0}) for device, moment, _ in rows(150, 160)]
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 300)).wait()
        store.backup(copy)
        store.store_readings(Weather, [*rows(300, 350), *changed]).wait()
        forward(store, upstream)
    restore(copy, path, NOW, force=True)
    with SQLiteStorage(path, gateway_id="roof") as store:
        again = [(device, moment, {"temperature": -2.0}) for device, moment, _ in rows(150, 151)]
        store.store_readings(Weather, [*rows(400, 410), *again]).wait()
        forward(store, upstream)
        assert store.ledger().problems == []
    there = upstream.query_readings(Weather)
    found = {(row["device_id"], row["timestamp"]): row["temperature"] for row in there}
    assert len(found) == len(there) == 360
    stored = [*rows(0, 350), *rows(400, 410), *changed, *again]
    assert found == {(device, moment): data["temperature"] for device, moment, data in stored}


def forward(store: SQLiteStorage, upstream: BaseStorage) -> None:
    with SyncWorker(store, "central", upstream):
        eventually(lambda: store.count_pending("central") == 0)


def test_a_copy_on_a_new_card_raises_the_epoch_once(quick_folder: Path) -> None:
    """A second card knows nothing of the first: what that gave out is older than what this one gives out."""
    _, copy = store_with_copy(quick_folder)
    cards = [quick_folder / name / "gateway.db" for name in ("first", "second")]
    for day, path in enumerate(cards):
        path.parent.mkdir()
        assert restore(copy, path, NOW, force=False) is None
        for _ in range(2):
            clock = ManualClock(T0 + timedelta(days=day))
            with SQLiteStorage(path, gateway_id="roof", clock=clock) as store:
                assert store.store_epoch == T0.timestamp() + 86_400 * day
                assert store.count_pending("central") == 200


def test_what_killed_copies_left_goes_with_the_next(quick_folder: Path) -> None:
    """But not what a process that is there is about."""
    path, _ = store_with_copy(quick_folder)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    gone = [quick_folder / f".new.db.{ended.pid}.{name}" for name in ("part", "part-journal")]
    left = [
        quick_folder / name for name in (f".new.db.{os.getppid()}.part", f".old.db.{ended.pid}.part", ".new.db.x.part")
    ]
    for file in (*gone, *left):
        file.touch()
    stays = quick_folder / f".new.db.{2**22 + 1}.part"  # a number that no process ever has
    stays.mkdir()  # as little to be removed as what is another user's
    with SQLiteStorage(path) as store:
        store.backup(quick_folder / "new.db")
    assert [file.exists() for file in (*gone, *left, stays)] == [False, False, True, True, True, True]


def test_what_is_there_is_not_overwritten(quick_folder: Path) -> None:
    path, copy = store_with_copy(quick_folder)
    with pytest.raises(ConfigError, match="--force"):
        restore(copy, path, NOW, force=False)
    with SQLiteStorage(path) as store:
        with pytest.raises(ConfigError, match=r"copy.db exists"):
            store.backup(copy)
        with pytest.raises(ConfigError, match="a name that the store uses itself"):
            store.backup(next_of(path))
        link = quick_folder / "link.db"
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(StorageLocked):
                restore(copy, name, NOW, force=True)
        assert len(readings(store)) == 350
    (quick_folder / "text").write_text("no store")
    with pytest.raises(StoreUnusable):
        restore(quick_folder / "text", path, NOW, force=True)
    with pytest.raises(StoreUnusable, match="does not exist"):
        restore(quick_folder / "nothing", path, NOW, force=True)
    with SQLiteStorage(path) as store:
        assert len(readings(store)) == 350
        assert store.store_epoch == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of other users")
@pytest.mark.parametrize("way", ["restored", "salvaged"])
def test_the_gateways_file_stays_the_gateways(quick_folder: Path, way: str) -> None:
    """Also where root puts another in its place."""
    path, copy = store_with_copy(quick_folder)
    for file in (path, Sidecar(path).path):
        os.chown(file, 1001, 2000)
        file.chmod(0o640)
    if way == "restored":
        restore(copy, path, NOW, force=True)
    else:
        with path.open("r+b") as opened:
            opened.write(bytes(4096))
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert (store.salvaged.put_aside is not None) == (way == "salvaged")
        files = [path, wal_of(path), shm_of(path), Sidecar(path).path]
        found = [(one.st_uid, one.st_gid, one.st_mode & 0o777) for one in (file.stat() for file in files)]
    assert found == [(1001, 2000, 0o640)] * 4


@pytest.mark.parametrize("gateway_id", ["roof", None])
def test_a_store_of_another_gateway_can_be_restored_in_place(quick_folder: Path, gateway_id: str | None) -> None:
    """Also where whoever opens it does not say whose it is."""
    _, copy = store_with_copy(quick_folder)
    path = quick_folder / "other.db"
    with SQLiteStorage(path, gateway_id="cellar") as store:
        store.store_readings(Weather, rows(0, 5))
    restore(copy, path, NOW, force=True)
    with SQLiteStorage(path, gateway_id=gateway_id) as store:
        assert len(readings(store)) == 300
        assert store.gateway_id == "roof"


def test_a_reader_copies_too(quick_folder: Path) -> None:
    path, _ = store_with_copy(quick_folder)
    with SQLiteStorage(path, read_only=True) as store:
        store.backup(quick_folder / "again.db")
        with pytest.raises(NotSupported):
            store.fold()
    with SQLiteStorage(quick_folder / "again.db", read_only=True) as store:
        assert len(readings(store)) == 350


def test_a_folder_that_takes_no_copy_is_named(tmp_path: Path) -> None:
    with (
        SQLiteStorage(tmp_path / "gateway.db") as store,
        pytest.raises(StorageError, match=r"^/proc/copy\.db cannot be written: "),
    ):
        store.backup("/proc/copy.db")
