"""What people make in a store's file themselves is left alone, as far as the store can be written with it."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.sqlite.verify import Verification
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file
from tests.storage.sqlite.damaged import T0, rows
from tests.storage.sqlite.test_in_place import put
from tests.storage.sqlite.test_writer import advance_until


@pytest.fixture
def path(quick_folder: Path) -> Path:
    path = quick_folder / "x.db"
    with opened(path) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 150)).wait()
        store.fold()
    return path


def opened(path: Path) -> SQLiteStorage:
    return SQLiteStorage(path, gateway_id="roof", piece_rows=100, clock=ManualClock(T0 + timedelta(days=1)))


def make(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.executescript(sql)


def check_unharmed(path: Path, first: int, last: int) -> None:
    """Opened, written, folded and looked through, without a salvage."""
    with opened(path) as store:
        store.store_readings(Weather, rows(first, last)).wait()
        store.fold()
        assert (store.salvaged, store.store_epoch) == (None, 1)
        assert len(store.query_readings(Weather)) == last
    with Verification(path) as verification:
        assert verification.run().problems == []


@pytest.mark.parametrize("name", ["_j_77", "_h_weather_77", "_hour_weather_77", "_d_weather_77"])
def test_a_table_by_a_name_of_the_stores_is_left_alone(path: Path, name: str) -> None:
    make(path, f"CREATE TABLE {name} (series, seq); INSERT INTO {name} VALUES (1, 2)")
    check_unharmed(path, 150, 160)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute(f"SELECT * FROM {name}").fetchall() == [(1, 2)]


@pytest.mark.parametrize("made", ["TABLE {} (a)", "VIEW {} AS SELECT 1", "INDEX {} ON _series (device_id)"])
def test_a_name_that_the_store_needs_is_made_free_by_a_salvage(
    path: Path, made: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rather than that nothing is stored any more."""
    with closing(sqlite3.connect(path)) as other:
        (pieces,) = other.execute("SELECT count(*) FROM sqlite_schema WHERE name GLOB '_j_*'").fetchone()
    make(path, "CREATE " + made.format(f"_j_{pieces + 1}"))
    with opened(path) as store:
        clock = store.clock
        assert isinstance(clock, ManualClock)
        put(store, 150, 400)
        advance_until(clock, lambda: "was salvaged" in caplog.text, step=60)
        put(store, 400, 500)
        assert store.salvaged is not None
        assert f"_j_{pieces + 1}" in store.salvaged.reason
        assert store.salvaged.notes == (f"made by others, and in the damaged file alone: _j_{pieces + 1}",)
        store.fold()
        assert len(store.query_readings(Weather)) == 500
    audit_file(path)


def test_a_trigger_that_cannot_run_is_not_read_into_the_new_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would let nothing be stored. The report names it, and nothing is lost."""
    make(path, "CREATE TRIGGER theirs AFTER INSERT ON _pieces BEGIN INSERT INTO nothere VALUES (1); END")
    with opened(path) as store:
        clock = store.clock
        assert isinstance(clock, ManualClock)
        put(store, 150, 400)
        advance_until(clock, lambda: "was salvaged" in caplog.text, step=60)
        report = store.salvaged
        assert report is not None
        assert (report.reason, report.lost) == ("no such table: main.nothere", 0)
        assert report.notes == ("made by others, and in the damaged file alone: theirs",)
        assert len(store.query_readings(Weather)) == 400
    audit_file(path)
