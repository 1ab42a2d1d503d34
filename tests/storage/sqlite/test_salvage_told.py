"""What is gone is never called nothing: cases in which a report once said less than was lost, or more was lost than had
to be. Found by stores whose files were changed at random (test_fuzz.py)."""

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage, StorageError
from edgedepot.storage.sqlite.pages import Pages
from edgedepot.storage.sqlite.report import UNCOUNTED, Salvaged
from edgedepot.storage.sqlite.wal import wal_of
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file
from tests.storage.sqlite.damaged import PAGE, leave, readings
from tests.storage.sqlite.test_salvage import pages_of, readings_of, store_with_history


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "edgedepot")


def execute(path: Path, statement: str) -> None:
    """Change the file with SQLite, which puts its log into it, and removes that."""
    with closing(sqlite3.connect(path)) as file:
        assert file.execute(statement).rowcount > 0
        file.commit()


def salvaged(path: Path) -> tuple[Salvaged, int]:
    """The report, and how many readings it says are kept."""
    with SQLiteStorage(path) as store:
        assert store.ledger().problems == []
        report = store.salvaged
    assert report is not None
    assert report.kept is not None
    audit_file(path)
    return report, report.kept


def test_rows_beside_a_page_that_lies_there_twice_are_kept(quick_folder: Path) -> None:
    """SQLite finds nothing wrong with such a table, and not all of its rows."""
    path = store_with_history(quick_folder)
    expected = readings_of(path)
    leaves = pages_of(path, "_h_weather_1")
    with closing(Pages(path, wal_of(path), [])) as pages:
        there, instead = pages.page(leaves[2]), len(list(pages.records(leaves[9])))
    with path.open("r+b") as file:
        file.seek((leaves[9] - 1) * PAGE)
        file.write(there)
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    report, kept = salvaged(path)
    assert report.lost == len(expected) - kept == instead
    assert readings_of(path).items() <= expected.items()


def test_a_page_of_something_else_in_the_journal_is_missed(quick_folder: Path) -> None:
    """Here as well SQLite finds nothing wrong: rows of upstreams are rows to it."""
    path = leave(quick_folder, "unfolded", checkpointed=True)
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    content = path.read_bytes()
    (source,) = pages_of(path, "_cursors")
    target = pages_of(path, "_j_1")[0]
    page = content[(source - 1) * PAGE : source * PAGE]
    path.write_bytes(content[: (target - 1) * PAGE] + page + content[target * PAGE :])
    report, kept = salvaged(path)
    assert 0 < 610 - kept <= report.lost


def test_rows_of_a_table_whose_columns_have_names_that_are_none_are_kept(quick_folder: Path) -> None:
    """To SQLite the table is sound, and nobody can read it through SQLite."""
    path = leave(quick_folder, "folded", checkpointed=True)
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    content = path.read_bytes()
    place = content.index(b"ts INTEGER", content.index(b"CREATE TABLE _j_2 "))
    path.write_bytes(content[:place] + b"\xf4" + content[place + 1 :])
    _, kept = salvaged(path)
    assert kept == 670


def test_readings_behind_a_page_of_something_else_are_found_where_the_books_miss_them(quick_folder: Path) -> None:
    """The root of the journal is a leaf of it: most of it is not to be found through SQLite, which finds nothing wrong.
    It is done once: were it of no use, it would be done at each start."""
    path = leave(quick_folder, "unfolded", checkpointed=True)
    execute(path, "UPDATE _sources SET name = 'direct'")  # with all of it in the file
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_schema WHERE name = '_j_1'").fetchone()
    content = path.read_bytes()
    leaf = pages_of(path, "_j_1")[-1]
    page = content[(leaf - 1) * PAGE : leaf * PAGE]
    path.write_bytes(content[: (root - 1) * PAGE] + page + content[root * PAGE :])
    report, kept = salvaged(path)
    assert kept == 610
    assert "the books do not balance for central" in report.reason
    execute(path, "DELETE FROM _books")
    with SQLiteStorage(path) as store:
        assert store.salvaged == report


def test_of_hours_that_readings_went_from_it_is_not_known_how_many_more_are_gone(quick_folder: Path) -> None:
    """They were merged: so these hours had less than was written down of them."""
    path = leave(quick_folder, "partitioned", checkpointed=True)
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    (page,) = pages_of(path, "_h_weather_4")
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))
    report, kept = salvaged(path)
    assert kept < 1293
    assert "how many old readings of weather are lost is not known" in report.notes


def test_rows_on_a_page_that_is_there_in_part_are_kept(quick_folder: Path) -> None:
    """Of the last page its beginning, and the rows that came last are there."""
    path = leave(quick_folder, "folded", checkpointed=True)
    execute(path, "UPDATE _sources SET name = 'direct'")  # with all of it in the file
    expected = len(readings_of(path))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - PAGE + 1800)
    report, kept = salvaged(path)
    assert 600 < kept < expected
    assert kept + report.lost >= expected


def test_of_the_last_piece_of_a_journal_nobody_knows_how_long_it_was(quick_folder: Path) -> None:
    """The log that had the latest rows is gone, and what says that there was one."""
    path = leave(quick_folder, "unfolded", checkpointed=True)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4 * PAGE)
    for suffix in ("-wal", "-shm", ".lock"):
        path.with_name(path.name + suffix).unlink()
    report, kept = salvaged(path)
    assert kept + report.lost < 610
    assert any("how many readings came after row" in note for note in report.notes)


@pytest.mark.parametrize("statement", ["DELETE FROM _models", "UPDATE _series SET device_id = x'ff' WHERE id = 2"])
def test_readings_whose_model_or_device_is_forgotten_are_told_of(quick_folder: Path, statement: str) -> None:
    path = store_with_history(quick_folder)
    execute(path, statement)
    path.with_name(path.name + ".catalogue").unlink()
    report, kept = salvaged(path)
    assert kept < 3000
    assert any("model or device is forgotten is not known" in note for note in report.notes)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM _books", "the books do not balance for central; "),
        ("UPDATE _series SET model = 9 WHERE id = 2", "series 2 is"),
    ],
)
def test_a_salvage_says_also_what_the_same_start_has_said_before(
    quick_folder: Path, statement: str, reason: str
) -> None:
    path = leave(quick_folder, "folded", checkpointed=True)
    execute(path, statement)
    report, kept = salvaged(path)
    assert kept == 670
    assert report.reason.startswith(reason)
    assert "; its log is missing: what was in it is lost, unless another program has put it in" in report.reason


@pytest.mark.parametrize("table", ["_models", "_series", "_sources"])
def test_a_record_whose_number_is_another_takes_no_name_from_the_right_one(quick_folder: Path, table: str) -> None:
    """The copy beside the store knows both the number and the name."""
    path = store_with_history(quick_folder)
    expected = readings_of(path)
    execute(path, f"UPDATE {table} SET id = 77 WHERE id = (SELECT max(id) FROM {table})")
    _, kept = salvaged(path)
    assert kept == 3000
    assert readings_of(path) == expected


def test_a_record_of_a_commit_with_an_absurd_number_is_none(quick_folder: Path) -> None:
    """Nobody could count on from it."""
    path = leave(quick_folder, "unfolded", checkpointed=True)
    last = "(SELECT max(seq) FROM _j_1 WHERE series IS NULL)"
    execute(path, f"UPDATE _j_1 SET seq = {2**60} WHERE seq = {last}")
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    _, kept = salvaged(path)
    assert kept == 610


def test_of_a_number_that_was_a_word_in_an_older_state_the_number_counts(quick_folder: Path) -> None:
    path = leave(quick_folder, "folded", checkpointed=True)
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    execute(path, "INSERT OR REPLACE INTO _meta VALUES ('start_1', 'now')")
    (page,) = pages_of(path, "_meta")
    older = path.read_bytes()[(page - 1) * PAGE : page * PAGE]
    execute(path, "UPDATE _meta SET value = 7 WHERE key = 'start_1'")
    with path.open("ab") as file:
        file.write(older)
    _, kept = salvaged(path)
    assert kept == 670


ABSURD = bytes.fromhex("2a0a0303000000004900fefeffff0025ff01" + 35 * "ff" + "0b29092d014d17")
"""Rows for which SQLite asks for more memory than it takes."""


def test_a_row_that_is_as_large_as_no_memory_is_damage(quick_folder: Path) -> None:
    path = leave(quick_folder, "folded", checkpointed=True)
    execute(path, "UPDATE _meta SET value = value WHERE key = 'store_epoch'")  # the log is in the file
    page = pages_of(path, "_h_weather_1")[-1]
    with path.open("r+b") as file:
        head = os.pread(file.fileno(), 40, (page - 1) * PAGE)
        os.pwrite(file.fileno(), ABSURD, (page - 1) * PAGE + int.from_bytes(head[28:30], "big"))
    with closing(sqlite3.connect(path)) as plain, pytest.raises(MemoryError):
        plain.execute("SELECT * FROM _h_weather_1").fetchall()
    with pytest.raises(StorageError, match="cannot be read as a store"), SQLiteStorage(path, read_only=True) as store:
        readings(store)
    with SQLiteStorage(path) as store:
        with pytest.raises(StorageError, match="cannot be read as a store"):
            readings(store)
        store.store_reading(Weather, "new", None, {"temperature": 1.0}).wait()
        report = store.salvaged
        assert report is not None
        assert (report.kept, report.lost) == (670, 0)
        assert len(readings(store)) == 671


def test_readings_whose_partition_is_on_record_as_ending_before_it_begins_are_kept(quick_folder: Path) -> None:
    path = leave(quick_folder, "folded", checkpointed=True)
    stop = "$.partitions.1[0][2]"
    execute(path, f"UPDATE _meta SET value = json_set(value, '{stop}', json_extract(value, '{stop}') - 20000000000000) "
                  "WHERE key = 'shape'")  # fmt: skip
    report, kept = salvaged(path)
    assert "not following on one another" in report.reason
    assert kept == 670
    assert report.lost == 0


def test_any_bit_of_the_head_of_a_log_may_flip(quick_folder: Path) -> None:
    """Its checksum aside, without which the first page in the log cannot be told from junk."""
    left = quick_folder / "left"
    left.mkdir()
    leave(left, "unfolded", checkpointed=True)
    for byte in range(24):
        folder = quick_folder / str(byte)
        shutil.copytree(left, folder)
        log = bytearray((folder / "x.db-wal").read_bytes())
        log[byte] ^= 1 << byte % 8
        (folder / "x.db-wal").write_bytes(log)
        with SQLiteStorage(folder / "x.db") as store:
            assert len(readings(store)) == 610, byte
            assert store.salvaged is not None


def test_all_that_came_to_light_of_another_store_is_said_where_it_is_salvaged(quick_folder: Path) -> None:
    path = leave(quick_folder, "folded", checkpointed=True)
    execute(path, f"UPDATE _meta SET value = '{'a' * 32}' WHERE key = 'store_id'")
    execute(path, "UPDATE _sources SET name = CAST(x'ff41' AS TEXT)")
    assert salvaged(path)[0].reason.endswith(f"; the file is another store's than before; {UNCOUNTED}")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x'00'", "the store's store_id is "),
        ("'/'", "the store's store_id is "),
        (
            "CASE substr(value, 1, 1) WHEN '0' THEN '1' ELSE '0' END || substr(value, 2)",
            "the store's own mark has changed",
        ),
    ],
)
def test_a_store_whose_own_mark_has_changed_is_not_taken_for_anothers(
    quick_folder: Path, value: str, reason: str
) -> None:
    """Nor is its log, which has the latest readings, or the file put aside under a name that is none."""
    path = quick_folder / "x.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.store_reading(Weather, "d1", None, {"temperature": 1.0})
    execute(path, f"UPDATE _meta SET value = {value} WHERE key = 'store_id'")
    execute(path, "UPDATE _meta SET value = 'moon' WHERE key = 'gateway_id'")
    report, kept = salvaged(path)
    assert kept == 1
    assert report.reason.startswith(reason)


def test_a_file_older_than_it_was_may_have_had_more_than_was_noted(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    with SQLiteStorage(path) as store:
        store.store_reading(Weather, "d1", None, {"temperature": 1.0})
    copy = path.read_bytes()
    with SQLiteStorage(path) as store:
        store.store_reading(Weather, "d1", None, {"temperature": 2.0})
    path.write_bytes(copy)
    with SQLiteStorage(path) as store:
        assert len(readings(store)) == 1
        assert store.salvaged is not None
        assert store.salvaged.notes == (UNCOUNTED,)
