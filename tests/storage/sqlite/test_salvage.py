"""A damaged file never stops the store and never silently empties it: each damage by name, at each stage."""

import contextlib
import json
import logging
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Device, SQLiteStorage
from edgedepot.storage.base import StoreRow
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.errors import StorageError, StoreUnusable
from edgedepot.storage.sqlite.backup import restore
from edgedepot.storage.sqlite.report import Salvaged
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.verify import Verification
from edgedepot.storage.sqlite.wal import wal_of
from tests.models import Mixed, Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import (
    DAMAGES,
    PAGE,
    STAGES,
    SUFFIXES,
    T0,
    Identity,
    copy_at_rest,
    deliver,
    leave,
    readings,
    rows,
)
from tests.storage.sqlite.test_writer import advance_until

Key = tuple[str, str, str]
"""Stage, file, damage."""

LOST_IN_LOG: dict[Key, int] = {
    # Nothing but the log has them, and the log is gone.
    **{
        (stage, "-wal", damage): number
        for damage in ("junk", "missing", "swapped")
        for stage, number in (("unfolded", 600), ("folded", 660), ("partitioned", 1283))
    },
    # Of half a log what was committed in it.
    ("unfolded", "-wal", "truncated"): 600,
    ("folded", "-wal", "truncated"): 510,
    ("partitioned", "-wal", "truncated"): 396,
    # The last commit: of an acknowledgement, of 60 readings, of 60 readings.
    ("folded", "-wal", "wrong size"): 60,
    ("partitioned", "-wal", "wrong size"): 60,
}
"""How many readings are lost of a store whose log was never put into the file; of all other cases none."""

LOST_IN_FILE: dict[Key, int] = {
    **{
        (stage, "-wal", damage): 10
        for damage in ("truncated", "junk", "missing", "swapped", "wrong size")
        for stage in STAGES
    },
    **{(stage, "-wal", "zeroed page"): 10 for stage in ("unfolded", "folded", "partitioned")},
}
"""The same of a store whose log holds only the last ten readings."""

LOST_WITH_FILE: dict[Key, int] = {
    **{
        (stage, "", damage): number
        for damage in ("junk", "missing")
        for stage, number in (("unfolded", 560), ("folded", 620), ("partitioned", 1250))
    },
    ("unfolded", "", "truncated"): 560,
    ("folded", "", "truncated"): 620,
    ("partitioned", "", "truncated"): 900,
}
"""At most; what exactly lies in half a file, or in the few pages of the log, is SQLite's affair."""


@pytest.fixture(scope="module", params=[False, True], ids=["in the log", "in the file"])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """The files of each stage, with what is in them, and what another store of the gateway left; whether most is in the
    log or the file."""
    folders: dict[Any, Any] = {"in file": request.param}
    for stage in STAGES:
        folders[stage] = tmp_path_factory.mktemp(stage)
        leave(folders[stage], stage, checkpointed=request.param)
        folders["contents of", stage] = contents(folders[stage], tmp_path_factory.mktemp("copy") / stage)
    folders["other"] = tmp_path_factory.mktemp("other")
    leave(folders["other"], "folded", checkpointed=request.param)
    return folders


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "edgedepot")


@pytest.mark.parametrize("damage", [*DAMAGES, "swapped"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("stage", STAGES)
def test_what_can_be_read_is_kept(
    left: dict[Any, Any], quick_folder: Path, stage: str, suffix: str, damage: str
) -> None:
    before, waiting = left["contents of", stage]
    folder = quick_folder / "damaged"
    shutil.copytree(left[stage], folder)
    file = folder / f"x.db{suffix}"
    if damage == "swapped":
        shutil.copy(left["other"] / file.name, file)
    else:
        DAMAGES[damage](file)
    key = (stage, suffix, damage)
    with SQLiteStorage(folder / "x.db", gateway_id="roof") as store:
        after, report = everything(store), store.salvaged
        if (suffix, damage) == ("", "swapped"):
            judge_another(report, left, stage, folder)
        else:
            lost = (LOST_IN_FILE if left["in file"] else LOST_IN_LOG).get(key, 0)
            at_most = LOST_WITH_FILE.get(key, lost) if left["in file"] else lost
            assert lost <= len(set(before) - set(after)) <= at_most
            judge(before, after, report)
            judge_books(store, waiting, report, key)
        assert store.ledger().problems == []
        assert (report is not None) == (store.store_epoch > 1)
        after |= goes_on(store)
    if suffix == "" and damage in ("zeroed page", "flipped byte") and not is_sound(folder / "x.db"):
        return  # the page is of a table that nobody has read yet
    audit_file(folder / "x.db", verify=suffix != "-shm")  # of the index of the log nothing is kept: all is as it was
    with SQLiteStorage(folder / "x.db") as store:
        assert everything(store) == after
        audit_memory(store)
        assert store.ledger().problems == []


def everything(store: SQLiteStorage) -> dict[Identity, dict[str, Any]]:
    """The readings of both models; no device is of both."""
    return readings(store) | readings(store, Mixed)


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        try:
            return bool(file.execute("PRAGMA integrity_check").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False


def contents(folder: Path, copy: Path) -> tuple[dict[Any, Any], set[Identity]]:
    """The readings, and which of them are to be sent."""
    shutil.copytree(folder, copy)
    with SQLiteStorage(copy / "x.db") as store:
        assert store.salvaged is None
        return everything(store), owed(store)


def judge(before: dict[Any, Any], after: dict[Any, Any], report: Salvaged | None) -> None:
    gone = set(before) - set(after)
    assert report is not None or not gone
    if report is not None:
        assert report.kept is None or report.kept == len(after)
        assert len(gone) <= report.lost or any(word in note for note in report.notes for word in _NOT_KNOWN)
    # Where the log lost the commit of a merge or a deletion there is what was before.
    for identity in after:
        if after[identity] != before.get(identity):
            assert report is not None
            assert after[identity]["temperature"] == after[identity]["count"] / 7
            assert before.get(identity, {"temperature": -1.0})["temperature"] == -1.0


_NOT_KNOWN = ("is not known", "in its log alone", "may not be counted")


def judge_books(store: SQLiteStorage, waiting: set[Identity], report: Salvaged | None, key: Key) -> None:
    """What was to be sent and is there is sent, and of what is gone the books say so, where they are not older."""
    books = store.ledger()
    assert books.problems == []
    if "central" not in books.upstreams:
        assert report is not None
        assert "of upstreams some may be lost" in report.notes or report.kept in (0, None)
        return
    still = owed(store)
    assert books.upstreams["central"]["pending"] == len(still)
    if key[1] == "":
        unbooked = sum(last - first + 1 for first, last in report.numbers) if report else 0  # behind the last book
        assert len(waiting - still) <= books.upstreams["central"]["lost"] + unbooked


def owed(store: SQLiteStorage) -> set[Identity]:
    window = store.pending("central", 10_000)
    return set() if window is None else {(row.device_id, from_micros(row.timestamp)) for row in window.rows}


def judge_another(report: Salvaged | None, left: dict[Any, Any], stage: str, folder: Path) -> None:
    """It is a store like any other. In the file of one that was never checkpointed there is nothing yet."""
    if left["in file"]:
        assert report is not None
        assert report.reason == "the file is another store's than before"
        # Whatever the store had that was here before, as far as it was noted beside it.
        noted = Sidecar(left[stage] / "x.db").seq
        assert report.numbers == (((1, noted),) if noted else ())
        assert any("may not be counted" in note for note in report.notes)
        (logged,) = folder.glob("x.db.damaged-*-wal")
        assert f"the log of the store that was here is {logged.name}" in report.notes


def goes_on(store: SQLiteStorage) -> dict[Any, Any]:
    """It takes readings, folds and forwards, if need be after it has been salvaged."""
    store.add_cursor("central")
    store.store_readings(Weather, rows(5000, 5010)).wait()
    store.fold()
    deliver(store, 100)
    assert store.health_check()["status"] == "pass"
    return {(device, moment): {"humidity": None, "raining": None, **data} for device, moment, data in rows(5000, 5010)}


# -- one by one -----------------------------------------------------------------------------------------------------


def test_the_report_names_reasons_counts_and_files(quick_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of history is zeros: what is lost is known by model, device and hour, and the upstream is told. And what
    people have made in the file is named."""
    path = store_with_history(quick_folder)
    with closing(sqlite3.connect(path)) as file:
        file.executescript("CREATE TABLE notes (text); CREATE INDEX mine ON notes (text); CREATE VIEW two AS SELECT 2")
    caplog.set_level(logging.ERROR, "edgedepot")
    pages = pages_of(path, "_h_weather_1")
    with path.open("r+b") as file:
        for page in pages[len(pages) // 2 :]:
            file.seek((page - 1) * PAGE)
            file.write(bytes(PAGE))
    with SQLiteStorage(path) as store:
        with pytest.raises(StoreUnusable, match="malformed"):
            store.query_readings(Weather)
        store.fold()  # the writer has been told, and salvages the store first
        found, report = readings(store), store.salvaged
        ledger = store.ledger()
    assert report is not None
    assert 0 < len(found) < 3000
    assert report.kept == len(found)
    assert report.lost == sum(span.count for span in report.spans) == 3000 - len(found)
    gone = {(device, moment) for device, moment, _ in rows(0, 3000)} - set(found)
    for device, moment in gone:
        assert any(span.device_id == device and span.start <= moment < span.end for span in report.spans)
    assert report.put_aside is not None
    assert (path.parent / report.put_aside).exists()
    assert report.notes == ("made by others, and in the damaged file alone: notes, mine, two",)
    assert ledger.problems == []
    upstream = ledger.upstreams["central"]
    assert upstream["lost"] == sum(data["count"] >= 1000 for d, t, data in rows(0, 3000) if (d, t) in gone)
    assert upstream["pending"] == 2000 - upstream["lost"]
    assert f"{len(found)} readings kept, {report.lost} lost; weather d1" in caplog.text


def store_with_history(folder: Path) -> Path:
    """3,000 readings, folded, closed; 1,000 of them delivered. The journal holds none of them."""
    path = folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=1000) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 1000)).wait()
        deliver(store, 1000)
        store.fold()
        store.store_readings(Weather, rows(1000, 3000)).wait()
        store.fold()
    with sqlite3.connect(path) as file:
        for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE name LIKE '\\_j\\_%' ESCAPE '\\'").fetchall():
            file.execute(f"DELETE FROM {name}")  # as if these pages were damaged too
    file.close()
    return path


def pages_of(path: Path, table: str) -> list[int]:
    """The leaf pages of a table."""
    with sqlite3.connect(path) as file:
        found = file.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (table,)
        ).fetchall()
    file.close()
    return [page for (page,) in found]


STATEMENTS = [
    "UPDATE _series SET device_id = x'ff' WHERE id = 2",
    "UPDATE _series SET newest = 9223372036854775807 WHERE id = 2",
    "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)",
    "UPDATE _books SET decoded = 'many'",
    "UPDATE _cursors SET acknowledged = '[[7, 3]]'",
    "UPDATE _cursors SET superseded = -5",
    "UPDATE _models SET fields = '[]]'",
    "UPDATE _meta SET value = 'x' WHERE key = 'books_seq'",
    "UPDATE _meta SET value = '{' WHERE key = 'shape'",
    "UPDATE _meta SET key = 'shade' WHERE key = 'shape'",
    "UPDATE _pieces SET live = 'some'",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_record_that_is_not_what_the_store_writes(quick_folder: Path, statement: str) -> None:
    """History has all that there is: whatever record is lost, the readings are there."""
    path = store_with_history(quick_folder)
    expected = readings_of(path)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute(statement).rowcount > 0
        file.commit()
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert readings(store) == expected
        at_most = re.search("lost is not known, at most ([0-9]+)", str(store.salvaged))
        assert bool(at_most) == ("shade" in statement or "'{'" in statement)
        assert at_most is None or 0 <= int(at_most[1]) < 100  # there are records of commits, too
        assert store.ledger().problems == []
        store.add_cursor("central")
        store.store_readings(Weather, rows(3000, 3010)).wait()
        store.fold()
        assert len(readings(store)) == 3010
        audit_memory(store)
    audit_file(path)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE _quarantined SET reason = x'00ff' WHERE seq < 4", "quarantined readings"),
        ("UPDATE _cursors SET lost = -1", "upstreams"),
        ("UPDATE _cursors SET lost = -1", "quarantined readings"),
        ("UPDATE _devices SET metadata = x'00'", "names of devices"),
        ("UPDATE _quarantined SET data = '{' WHERE seq < 4", "quarantined readings"),
        ("UPDATE _devices SET metadata = '{'", "names of devices"),
        ("INSERT INTO _meta VALUES ('choice_1', '[')", "what upstreams chose or could not be given"),
        ("INSERT INTO _meta VALUES ('given_up_1', '[')", "what upstreams chose or could not be given"),
        ("UPDATE _rejected SET kind = x'00'", "rejected messages"),
        ("UPDATE _replaced SET field = x'00'", "replaced values"),
    ],
)
def test_what_is_lost_beside_readings_is_said(quick_folder: Path, statement: str, said: str) -> None:
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.add_cursor("central")
        store.save_device(Device("d1", name="the first"))
        store.store_readings(Weather, rows(0, 20)).wait()
        store.store_readings(Weather, [(*row[:2], {"temperature": -1.0}) for row in rows(19, 20)]).wait()
        window = store.pending("central", 10)
        assert window is not None
        store.quarantine("central", window.rows[:5], "refused")
        store.acknowledge("central", window)
        store.fold()
    with closing(sqlite3.connect(path)) as file:
        if "_rejected" in statement:
            file.execute("INSERT INTO _rejected VALUES (1, 1, 1, 'message', 'x', x'00')")
        assert file.execute(statement).rowcount > 0
        file.execute("UPDATE _sources SET name = x'00ff'")
        file.commit()
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert f"of {said} some may be lost" in store.salvaged.notes
        assert len(readings(store)) == 20
        store.add_cursor("central")
        ledger = store.ledger()
        assert ledger.problems == []
        assert len(store.devices()) == 4
        quarantined = len(store.quarantined("central"))
        assert ledger.upstreams["central"]["quarantined"] == quarantined
        if "_quarantined" in statement:
            assert (quarantined, ledger.upstreams["central"]["lost"]) == (2, 3)


def test_an_index_that_does_not_fit_its_table(quick_folder: Path) -> None:
    """The table knows the model, and who looks it up in the index does not find it."""
    path = store_with_history(quick_folder)
    expected = readings_of(path)
    (page,) = pages_of(path, "sqlite_autoindex__models_1")
    content = bytearray(path.read_bytes())
    place = content.index(b"weather", (page - 1) * PAGE, page * PAGE)
    content[place : place + 7] = b"wealher"
    path.write_bytes(content)
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert readings(store) == expected
    audit_file(path)


@pytest.mark.parametrize("change", ["c3 = CAST(x'ff41' AS TEXT)", f"ts = {2**60}", "ts = 'soon'", "c0 = 'warm'"])
def test_readings_that_nobody_stored_are_found_by_whoever_asks(quick_folder: Path, change: str) -> None:
    path = store_with_history(quick_folder)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute(f"UPDATE _h_weather_1 SET {change} WHERE seq = 1500").rowcount == 1
        file.commit()
    with SQLiteStorage(path) as store:
        if "warm" not in change:
            with pytest.raises(StoreUnusable):
                readings(store)
            store.fold()
            assert len(readings(store)) == 2999
            assert store.salvaged is not None
            assert store.salvaged.lost == 1
    with Verification(path) as verification:
        assert verification.run().sound is ("warm" not in change)


EVERY_BIT = bool(os.environ.get("EDGEDEPOT_TEST_LONG"))
HEADER_BITS = [
    (byte, bit)
    for byte in range(100)
    for bit in range(8)
    # Of some bytes one bit; all of those that say which version it is, of SQLite's format and of ours.
    if EVERY_BIT or byte in (18, 19, 62, 63) or (bit == byte % 8 and byte % 3 == 0)
]


def test_any_bit_of_the_header_may_flip(quick_folder: Path) -> None:
    path = leave(quick_folder, "unfolded", checkpointed=True)
    with SQLiteStorage(path) as store:
        expected = readings(store)
    whole = {file.name: file.read_bytes() for file in quick_folder.iterdir()}
    for byte, bit in HEADER_BITS:
        for file in quick_folder.iterdir():
            file.unlink()
        for name, content in whole.items():
            (quick_folder / name).write_bytes(content)
        changed = bytearray(whole["x.db"])
        changed[byte] ^= 1 << bit
        path.write_bytes(changed)
        with SQLiteStorage(path) as store:
            assert readings(store) == expected, (byte, bit)
            store.add_cursor("central")  # it can be written
            assert store.salvaged is None or store.salvaged.lost == 0


LOST_LOOSE = {"zeroed page": 100, "flipped byte": 60, "wrong size": 60}
"""Of a log of commits that were not synced one by one, at most; of all others what came since it was begun."""


@pytest.mark.parametrize("damage", [*DAMAGES, "swapped"])
def test_a_log_that_is_synced_now_and_then(quick_folder: Path, damage: str) -> None:
    """Behind a frame that cannot be read, what was durable is read all the same; what is gone is reported."""
    path = quick_folder / "x.db"
    (quick_folder / "live").mkdir()
    with SQLiteStorage(quick_folder / "live" / "x.db", gateway_id="roof", durability="process") as store:
        store.add_cursor("central")
        for first in range(0, 600, 20):
            store.store_readings(Weather, rows(first, first + 20)).wait("durable")
        assert store._writing is not None
        store._writing.writer._note_seq()  # as it does now and then
        copy_at_rest(store.path.parent, quick_folder)
    log_file = wal_of(path)
    if damage == "swapped":
        (quick_folder / "other").mkdir()
        shutil.copy(wal_of(leave(quick_folder / "other", "unfolded")), log_file)
    else:
        DAMAGES[damage](log_file)
    with SQLiteStorage(path, durability="process") as store:
        after, report = readings(store), store.salvaged
        assert report is not None
        assert 600 - len(after) <= LOST_LOOSE.get(damage, 600)
        assert 600 - len(after) <= report.lost
        assert store.ledger().problems == []
        after |= goes_on(store)
    audit_file(path)
    with SQLiteStorage(path) as store:
        assert readings(store) == after


def readings_of(path: Path) -> dict[Any, Any]:
    with SQLiteStorage(path, read_only=True) as store:
        return readings(store)


def test_damage_found_while_it_runs_is_salvaged_without_a_restart(quick_folder: Path) -> None:
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof") as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 600)).wait()
        store.fold()
        damage_page(store)
        store.store_readings(Weather, late(-5.0)).wait()
        assert store.salvaged is not None
        assert store.store_epoch == 2
        found = readings(store)
        assert {row["temperature"] for row in found.values()} == {-5.0}
        assert len(found) == 600
        assert store.ledger().problems == []
        store.fold()
        audit_memory(store)
    audit_file(quick_folder / "x.db")


def test_a_salvage_that_failed_is_done_again_also_where_the_damage_has_passed(quick_folder: Path) -> None:
    """The store is closed for it: nothing can be written to what it was."""
    clock = ManualClock(T0)
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", clock=clock) as store:
        store.store_readings(Weather, rows(0, 600)).wait()
        store.fold()
        store.flush()
        whole = damage_page(store)
        catalogue = Sidecar(store.path).path
        catalogue.rename(quick_folder / "catalogue")
        (catalogue / "something").mkdir(parents=True)
        receipt = store.store_readings(Weather, late(-5.0))
        advance_until(clock, lambda: "cannot be salvaged" in store.health_check()["message"])
        store.path.write_bytes(whole)
        shutil.rmtree(catalogue)
        (quick_folder / "catalogue").rename(catalogue)
        advance_until(clock, lambda: receipt.level == "durable" or receipt.error is not None)
        assert receipt.error is None
        assert {row["temperature"] for row in readings(store).values()} == {-5.0}
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(quick_folder / "x.db")


def test_a_salvage_that_failed_at_its_very_end_goes_on(quick_folder: Path) -> None:
    """The new file is in place by then, and nothing is to be seen of the damage any more."""
    clock = ManualClock(T0)
    in_the_way = quick_folder / "x.db.salvaging-pages"
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", clock=clock) as store:
        store.store_readings(Weather, rows(0, 600)).wait()
        store.fold()
        damage_page(store)
        in_the_way.mkdir()  # where the salvage removes a file
        receipt = store.store_readings(Weather, late(-5.0))
        advance_until(clock, lambda: "cannot be salvaged" in str(store.health_check()))
        assert receipt.level == "queued"
        in_the_way.rmdir()
        advance_until(clock, lambda: receipt.level == "durable")
        store.store_readings(Weather, rows(600, 610)).wait()
        assert len(readings(store)) == 610
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(quick_folder / "x.db")


def damage_page(store: SQLiteStorage, table: str = "_h_weather_1") -> bytes:
    """One in the middle of a table; what the file was before."""
    assert store._writing is not None
    store._writing._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = store.path.read_bytes()
    page = pages_of(store.path, table)[2]
    with store.path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    store._writing._connection.execute("PRAGMA shrink_memory")  # it remembers pages
    return whole


def late(temperature: float) -> list[StoreRow]:
    """Other values for what is in history."""
    return [(device, moment, {"temperature": temperature, "count": 7}) for device, moment, _ in rows(0, 600)]


def test_a_salvage_calls_nothing_durable_that_it_did_not_find(quick_folder: Path) -> None:
    """Of what was committed and not synced yet when the damage was found."""
    clock = ManualClock(T0)
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", durability="process", clock=clock) as store:
        parts = [rows(first, first + 20) for first in range(0, 600, 20)]
        receipts = [store.store_readings(Weather, part).wait("committed") for part in parts]
        damage_page(store, "_j_1")
        with pytest.raises(StorageError):
            readings(store)
        advance_until(
            clock, lambda: not any(receipt.level == "committed" and not receipt.error for receipt in receipts)
        )
        there = readings(store).keys()
        assert 0 < len(there) < 600
        for receipt, part in zip(receipts, parts, strict=True):
            is_whole = {row[:2] for row in part} <= there
            assert is_whole or "lost" in str(receipt.error)
            assert receipt.error or receipt.level == "durable"
        assert {bool(receipt.error) for receipt in receipts} == {True, False}


def test_who_waits_for_a_store_that_is_damaged_again_is_told(quick_folder: Path) -> None:
    """What comes then waits until it may be salvaged once more; whoever waits for more than that is not kept."""
    clock = ManualClock(T0)
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", clock=clock) as store:
        store.store_readings(Weather, rows(0, 600)).wait()
        store.fold()
        damage_page(store)
        receipt = store.store_readings(Weather, late(-5.0))
        advance_until(clock, lambda: receipt.level == "durable")
        store.fold()
        damage_page(store)
        receipt = store.store_readings(Weather, late(-6.0))
        told: list[str] = []

        def wait_for(call: Callable[[], object]) -> None:
            with pytest.raises(StorageError) as found:
                call()
            told.append(str(found.value))

        calls = (store.flush, store.fold, store.retain)
        waiting = [threading.Thread(target=wait_for, args=(call,)) for call in calls]
        for thread in waiting:
            thread.start()
        advance_until(clock, lambda: not any(thread.is_alive() for thread in waiting))
        assert len([text for text in told if "damaged again, right after it was salvaged" in text]) == len(calls)
        assert receipt.level == "queued"
        assert store.backup(quick_folder / "copy.db") > 0  # of what can be read nobody waits for anything
        clock.advance(600)
        advance_until(clock, lambda: receipt.level == "durable")
        assert {row["temperature"] for row in readings(store).values()} == {-6.0}
        assert store.store_epoch == 3
        assert store.ledger().problems == []
        store.fold()
    audit_file(quick_folder / "x.db")


OLD_ROWS = [
    "UPDATE _h_weather_1 SET quality = 'junk' WHERE series = 1",
    "UPDATE _j_1 SET quality = 'junk' WHERE series = 1",
    "INSERT INTO _j_1 (seq, series, ts) SELECT max(seq) + 1, 1, 1767225600000001 FROM _j_1",  # a second writer's
]


@pytest.mark.parametrize("statement", OLD_ROWS)
def test_what_is_there_is_no_fault_of_what_comes(quick_folder: Path, statement: str) -> None:
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof") as store:
        store.store_readings(Weather, rows(0, 600)).wait()
        if "_h_" in statement:
            store.fold()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as file:
            assert file.execute(statement).rowcount > 0
        store.store_readings(Weather, late(-5.0)).wait()
        assert store.salvaged is not None
        found = readings(store)
        assert [row["temperature"] for row in found.values()].count(-5.0) == 600
        assert len(found) == (601 if "INSERT" in statement else 600)
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(quick_folder / "x.db")


class FaultyClock(ManualClock):
    """A clock that can fail as a record that cannot be read does."""

    is_faulty = False

    def now(self) -> int:
        if self.is_faulty:
            raise TypeError("no clock")
        return super().now()


def test_a_fault_of_the_program_is_no_reason_to_salvage_a_sound_file(
    quick_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "edgedepot")
    clock = FaultyClock(T0)
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", clock=clock, keep_bytes="1 MB") as store:
        store.store_readings(Weather, rows(0, 50)).wait()
        clock.is_faulty = True  # in a write's transaction
        receipt = store.store_readings(Weather, rows(50, 60))
        advance_until(clock, lambda: receipt.error is not None)
        assert "not stored: no clock" in str(receipt.error)
        retaining = threading.Thread(target=suppressed, args=(store.retain,))  # and beside them
        retaining.start()
        advance_until(clock, lambda: not retaining.is_alive())
        assert "a fault of the program's own keeps the store" in caplog.text
        clock.is_faulty = False
        advance_until(clock, lambda: store.health_check()["status"] == "pass")
        store.store_readings(Weather, rows(60, 70)).wait()
        store.retain()
        assert (len(readings(store)), store.salvaged, store.store_epoch) == (60, None, 1)
    audit_file(quick_folder / "x.db")


def test_two_salvages_that_do_not_help_are_enough(quick_folder: Path) -> None:
    """A value that has changed is not made right by them: so the file is not sound, and the fault another's."""
    clock = ManualClock(T0)
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", clock=clock) as store:
        store.store_readings(Weather, rows(0, 50)).wait()
        store.fold()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as file:
            assert file.execute("UPDATE _h_weather_1 SET c0 = c0 + 1 WHERE seq = 7").rowcount == 1
        for _ in range(2):
            failing = threading.Thread(target=suppressed, args=(lambda: store._do(lambda _: int("none")),))
            failing.start()
            advance_until(clock, lambda: not failing.is_alive(), step=20)  # noqa: B023
            assert store.store_epoch == 3
        store.store_readings(Weather, rows(50, 60)).wait()
        assert len(readings(store)) == 60


def suppressed(call: Callable[[], object]) -> None:
    with contextlib.suppress(StorageError):
        call()


def test_rows_keep_the_epoch_in_which_they_were_written(quick_folder: Path) -> None:
    """So that what is sent again loses against what was sent before."""
    path = leave(quick_folder, "unfolded")
    path.unlink()
    with SQLiteStorage(path) as store:
        store.store_readings(Weather, rows(700, 710)).wait()
        window = store.pending("central", 1000)
        assert window is not None
        epochs = [store.epoch_of(row.seq) for row in window.rows]
        assert epochs == [1] * 400 + [2] * 10
        assert [row.seq for row in window.rows] == sorted({row.seq for row in window.rows})


def test_a_file_of_another_gateway_is_put_aside(quick_folder: Path) -> None:
    for gateway in ("roof", "cellar"):
        with SQLiteStorage(quick_folder / f"{gateway}.db", gateway_id=gateway) as store:
            store.store_readings(Weather, rows(0, 10))
    (quick_folder / "cellar.db").replace(quick_folder / "roof.db")
    with SQLiteStorage(quick_folder / "roof.db", gateway_id="roof") as store:
        assert readings(store) == {}
        assert store.salvaged is not None
        assert "another gateway's store, cellar" in store.salvaged.reason
        store.store_readings(Weather, rows(0, 10)).wait()
    (theirs,) = quick_folder.glob("roof.db.of-*")
    with SQLiteStorage(theirs, gateway_id="cellar") as store:
        assert len(readings(store)) == 10


def test_an_older_copy_put_back_is_noticed(quick_folder: Path) -> None:
    """Its numbers were given out again otherwise, and upstreams would take what is new for what is old."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.store_readings(Weather, rows(0, 10))
    copy = path.read_bytes()
    with SQLiteStorage(path) as store:
        store.store_readings(Weather, rows(10, 100))
    path.write_bytes(copy)
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert store.salvaged.reason == "the file is older than it was"
        assert store.store_epoch == 2
        store.add_cursor("central")
        store.store_reading(Weather, "new", T0, {"temperature": 1.0}).wait()
        window = store.pending("central", 100)
        assert window is not None
        assert [store.epoch_of(row.seq) for row in window.rows] == [1] * 10 + [2]
        assert window.rows[-1].seq > 100
        audit_memory(store)
    audit_file(path)


@pytest.mark.parametrize("damage", ["missing", "emptied"])
def test_all_of_a_store_that_was_closed_and_is_gone_counts_as_lost(quick_folder: Path, damage: str) -> None:
    """Only the copy of the catalogue beside it tells what there was: as many readings as numbers, at most."""
    path = store_with_history(quick_folder)
    path.write_bytes(b"")
    if damage == "missing":
        path.unlink()
    with SQLiteStorage(path) as store:
        assert readings(store) == {}
        assert store.salvaged is not None
        assert store.salvaged.lost >= 3000
        assert store.salvaged.numbers == ((1, store.salvaged.lost),)
        assert store.store_epoch == 2


ASIDE = "x.db.damaged-20260101T000000Z"


def put_aside(path: Path) -> None:
    """As a salvage does it that then fails, or is interrupted."""
    Sidecar(path).mark(("salvaging", ASIDE))
    path.rename(path.with_name(ASIDE))
    path.with_name("x.db-wal").rename(path.with_name(ASIDE + "-wal"))


def test_a_salvage_that_was_interrupted_is_done_again(quick_folder: Path) -> None:
    """After each of its steps: both files renamed or one, the new file half made; junk came into its place."""
    folder = quick_folder / "left"
    folder.mkdir()
    original = leave(folder, "folded")
    with SQLiteStorage(shutil.copytree(folder, quick_folder / "whole") / "x.db") as store:
        expected = readings(store)
    for step in range(5):
        path = shutil.copytree(folder, quick_folder / f"step {step}") / original.name
        if step >= 2:
            put_aside(path)
        else:
            Sidecar(path).mark(("salvaging", ASIDE))
        if step == 1:
            path.rename(path.with_name(ASIDE))
        if step == 3:
            path.with_name("x.db.salvaging").write_bytes(b"half of it")
        if step == 4:
            path.write_bytes(b"junk")
        with SQLiteStorage(path) as store:
            assert readings(store) == expected
            assert store.salvaged is not None
            assert store.salvaged.put_aside == ASIDE
            assert store.salvaged.reason == "its salvage was interrupted"  # an older program said no more
            assert store.ledger().problems == []
        with SQLiteStorage(path) as store:
            assert store.store_epoch == 2
        junk = [file.read_bytes() for file in path.parent.glob("x.db.damaged-*") if not file.name.startswith(ASIDE)]
        assert junk == ([b"junk"] if step == 4 else [])


def test_a_salvage_that_was_interrupted_says_what_it_is_about(quick_folder: Path) -> None:
    """Also of a file and a log that are of two times, which cannot be seen any more."""
    path = leave(quick_folder, "folded")
    Sidecar(path).mark(("damage", "its file is older than its log", True, False))
    put_aside(path)
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert store.salvaged.reason == "its file is older than its log; its salvage was interrupted"
        assert "how many more are lost is not known" in store.salvaged.notes


@pytest.mark.parametrize("file", [True, False], ids=["file and log", "log alone"])
def test_a_salvage_whose_end_could_not_be_noted_is_not_done_again(quick_folder: Path, file: bool) -> None:
    """What was stored since is there, and nothing of what was put aside is read into it once more."""
    path = leave(quick_folder, "folded")
    put_aside(path)
    if not file:
        path.with_name(ASIDE).unlink()
    with SQLiteStorage(path) as store:
        store.store_readings(Weather, rows(1000, 1010)).wait()
        expected = readings(store)
    Sidecar(path).mark(("salvaging", ASIDE))
    for _ in range(2):
        with SQLiteStorage(path) as store:
            assert readings(store) == expected
            assert store.store_epoch == 2
    assert Sidecar(path).salvaging is None
    assert path.with_name(ASIDE + "-wal").exists()


def test_a_store_that_is_restored_after_a_salvage_that_failed_stays(quick_folder: Path) -> None:
    with SQLiteStorage(quick_folder / "other.db", gateway_id="roof") as store:
        store.store_readings(Weather, rows(0, 40)).wait()
        store.backup(quick_folder / "copy.db")
    for by_hand in (False, True):
        folder = quick_folder / f"by hand {by_hand}"
        folder.mkdir()
        path = leave(folder, "folded")
        put_aside(path)
        if by_hand:
            shutil.copy(quick_folder / "copy.db", path)
        else:
            assert restore(quick_folder / "copy.db", path, 0, force=False) is None
        for _ in range(2):
            with SQLiteStorage(path) as store:
                assert len(readings(store)) == 40
                assert store.salvaged is not None
                assert store.salvaged.reason == "restored from a backup"
        assert path.with_name(ASIDE).exists()


def test_nothing_is_put_aside_where_nobody_would_know_of_it(quick_folder: Path) -> None:
    path = leave(quick_folder, "folded", checkpointed=True)
    Sidecar(path).path.unlink()
    Sidecar(path).path.mkdir()
    (Sidecar(path).path / "something").touch()
    DAMAGES["truncated"](path)
    content = path.read_bytes()
    with pytest.raises(StorageError, match=r"catalogue is a folder, expected a file"):
        SQLiteStorage(path)
    assert path.read_bytes() == content
    (Sidecar(path).path / "something").unlink()
    Sidecar(path).path.rmdir()
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert store.salvaged.put_aside is not None


def test_a_log_that_is_missing_is_missed_after_any_opening(quick_folder: Path, tmp_path: Path) -> None:
    path = quick_folder / "x.db"
    for opened in range(3):
        with SQLiteStorage(path, gateway_id="roof") as store:
            store.store_readings(Weather, rows(10 * opened, 10 * opened + 10)).wait()
            copy = tmp_path / str(opened)
            copy.mkdir()
            for one in quick_folder.iterdir():
                if not one.name.endswith(("-wal", "-shm")):
                    shutil.copy(one, copy)
        with SQLiteStorage(copy / "x.db") as left:
            assert left.salvaged is not None
            assert "its log is missing" in left.salvaged.reason


def test_a_file_that_is_gone_with_its_log_is_told_of_once(quick_folder: Path) -> None:
    path = leave(quick_folder, "unfolded")
    Sidecar(path).note(("seq", 250))  # as it does each minute
    for one in (path, *quick_folder.glob("x.db-*")):
        one.unlink()
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert store.salvaged.reason.startswith("the file is missing; its log is missing")
        assert store.salvaged.numbers == ((1, 250),)
        assert store.store_epoch == 2


def test_a_device_that_could_not_be_noted_is_noted_later(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        known = Sidecar(path).path
        known.rename(known.with_name("elsewhere"))
        known.mkdir()
        store.store_readings(Weather, [("unnoted", T0, {"temperature": 1.0, "count": 1})]).wait()
        known.rmdir()
        known.with_name("elsewhere").rename(known)
        store.store_readings(Weather, [("unnoted", T0.replace(hour=5), {"temperature": 1.0, "count": 2})]).wait()
        store.flush()
        assert "unnoted" in {row[-1] for row in Sidecar(path).rows("series")}


def test_a_reader_is_told_and_changes_nothing(quick_folder: Path) -> None:
    path = store_with_history(quick_folder)
    path.write_bytes(path.read_bytes()[: 10 * PAGE])
    content = path.read_bytes()
    with pytest.raises(StorageError, match="malformed"), SQLiteStorage(path, read_only=True) as store:
        store.query_readings(Weather)
    assert path.read_bytes() == content


@pytest.mark.parametrize("sent", [False, True])
def test_a_piece_that_has_lost_readings_is_not_sent_nor_let_go_of_without_a_word(
    quick_folder: Path, sent: bool
) -> None:
    """SQLite finds nothing wrong with a page that says that fewer rows are on it. They are in history too, and an
    upstream that awaits them gets them from there."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=100) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 500)).wait()
        store.fold()
        store.store_readings(Weather, rows(500, 510)).wait()
        if sent:
            deliver(store, 1000)
    lose_rows(path, "_j_1", 20)
    with SQLiteStorage(path) as store:
        if not sent:
            with pytest.raises(StoreUnusable, match="_j_1 has 480 readings, and 500 on record"):
                store.pending("central", 1000)
        store.store_readings(Weather, rows(510, 511)).wait()
        store.fold()
        assert "_j_1 has 480 readings, and 500 on record" in str(store.salvaged)
        assert store.salvaged is not None
        assert store.salvaged.lost == 0
        assert len(store.query_readings(Weather)) == 511
        assert len(owed(store)) == (1 if sent else 511)
        deliver(store, 1000)
        books = store.ledger()
        assert books.problems == []
        assert (books.upstreams["central"]["delivered"], books.upstreams["central"]["lost"]) == (511, 0)
    audit_file(path)


def lose_rows(path: Path, table: str, number: int) -> None:
    """Have a leaf of a table say that it has so many rows less than it has."""
    with path.open("r+b") as file:
        file.seek((pages_of(path, table)[2] - 1) * PAGE + 3)
        cells = int.from_bytes(file.read(2), "big")
        file.seek(-2, os.SEEK_CUR)
        file.write((cells - number).to_bytes(2, "big"))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE _pieces SET live = 5", "_j_1 has 500 readings, and 5 on record"),
        ("DELETE FROM _books", "the books do not balance for central"),
    ],
)
def test_books_that_do_not_balance_as_records_are_wrong_are_salvaged(
    quick_folder: Path, statement: str, reason: str
) -> None:
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=100) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 500)).wait()
        store.fold()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute(statement).rowcount > 0
        file.commit()
    with SQLiteStorage(path) as store:
        assert store.salvaged is not None
        assert store.salvaged.reason == reason
        assert len(store.query_readings(Weather)) == len(owed(store)) == 500
        assert store.ledger().problems == []
    audit_file(path)


@pytest.fixture
def delivered(quick_folder: Path) -> Path:
    """A store of 300 readings in history and some pieces, all sent."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=100) as store:
        store.add_cursor("central")
        for first in range(0, 300, 100):
            store.store_readings(Weather, rows(first, first + 100)).wait()
            store.fold()
        window = store.pending("central", 1000)
        assert window is not None
        store.acknowledge("central", window)
    return path


def shape_in(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as file:
        (text,) = file.execute("SELECT value FROM _meta WHERE key = 'shape'").fetchone()
    return dict(json.loads(text))


def test_a_record_of_the_tables_that_names_others_is_damage(delivered: Path) -> None:
    """Queries would find nothing, and each fold would fail."""
    shape = shape_in(delivered)
    shape["partitions"] = {str(int(model) + 2): found for model, found in shape["partitions"].items()}
    with closing(sqlite3.connect(delivered, isolation_level=None)) as file:
        file.execute("UPDATE _meta SET value = ? WHERE key = 'shape'", (json.dumps(shape),))
    with Verification(delivered) as verification:
        assert [one.kind for one in verification.run().problems][:1] == ["records"]
    with SQLiteStorage(delivered) as store:
        assert "a partition is on record as of model 3, which is not" in str(store.salvaged)
        assert len(store.query_readings(Weather)) == 300
        store.store_readings(Weather, rows(300, 400)).wait()
        store.fold()
        assert store.ledger().problems == []
    audit_file(delivered)


def test_a_table_that_is_on_no_record_is_damage(delivered: Path) -> None:
    with closing(sqlite3.connect(delivered, isolation_level=None)) as file:
        file.execute("ALTER TABLE _h_weather_1 RENAME TO _h_weather_3")
    with SQLiteStorage(delivered) as store:
        assert "_h_weather_1, _h_weather_3: 2 tables are there and not on record" in str(store.salvaged)
        assert len(store.query_readings(Weather)) == 300
    audit_file(delivered)


def test_records_that_contradict_each_other_are_damage(quick_folder: Path) -> None:
    """A piece is closed for the numbers that were given out since the copy was made, and is on record as that."""
    path, copy = quick_folder / "x.db", quick_folder / "copy.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=100) as store:
        store.add_cursor("central")
        for first in range(0, 300, 100):
            store.store_readings(Weather, rows(first, first + 100)).wait()
            store.fold()
        store.backup(copy)
        store.store_readings(Weather, rows(300, 350)).wait()
    last = max(piece[0] for piece in shape_in(copy)["pieces"])
    with closing(sqlite3.connect(copy, isolation_level=None)) as file:
        file.execute("INSERT INTO _pieces VALUES (?, 3)", (last,))
    restore(copy, path, 1_800_000_000_000_000, True)
    with SQLiteStorage(path) as store:
        assert any("damaged" in one.name for one in quick_folder.iterdir())
        assert len(store.query_readings(Weather)) == 300
        assert store.ledger().problems == []
    audit_file(path)


def test_a_model_without_a_name_is_damage(delivered: Path) -> None:
    """It would be named by its title, as the next that comes, and share its tables."""
    Sidecar(delivered).path.unlink()
    with closing(sqlite3.connect(delivered, isolation_level=None)) as file:
        file.execute("UPDATE _models SET name = ''")
    with SQLiteStorage(delivered) as store:
        assert "the record of the model  cannot be read" in str(store.salvaged)
        store.store_readings(Weather, rows(300, 400)).wait()
        store.fold()
        assert len(store.query_readings(Weather)) >= 100
