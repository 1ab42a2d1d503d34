"""Files of every released schema open, are brought up to date once, and hold what they held."""

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import DAY, ManualClock
from edgedepot.storage.delivered import Measure
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.reading import define_model
from edgedepot.storage.sqlite import migrations, schema
from edgedepot.storage.sqlite.migrations import migrate
from tests.models import Mixed, Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import T0, readings, rows

RELEASED = sorted(Path(__file__).with_name("released").glob("*.sql"))


def test_every_version_has_its_dump_and_its_step() -> None:
    versions = [number for number in range(1, schema.VERSION + 1) if schema.may_be_a_version(number)]
    assert [int(dump.stem) for dump in RELEASED] == versions
    assert sorted(migrations.STEPS) == versions[1:]


def test_a_bit_that_flips_makes_no_version_of_another() -> None:
    versions = [number for number in range(1, 1_000) if schema.may_be_a_version(number)]
    flipped = {version ^ 1 << bit for version in versions for bit in range(31)}
    assert schema.VERSION in versions
    assert flipped.isdisjoint(versions)


@pytest.mark.parametrize("dump", RELEASED, ids=lambda dump: dump.stem)
def test_a_file_of_a_released_schema_opens_twice(quick_folder: Path, dump: Path) -> None:
    path = quick_folder / "x.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(dump.read_text())
    with SQLiteStorage(path, read_only=True) as store:
        days = store.delivered("central").tallies(Weather, None, None, None, DAY)
        assert sum(tally[Measure("temperature", "count")] for tally in days.values()) == 7
    for _ in range(2):
        with SQLiteStorage(path, gateway_id="roof", piece_rows=10) as store:
            assert store.salvaged is None
            expected = {(device, moment): data for device, moment, data in rows(0, 30)}
            found = {key: {name: row[name] for name in expected[key]} for key, row in readings(store).items()}
            assert found == expected
            mixed = {"a": 1.5, "b": None, "text": "x'y", "number": 7, "flag": True}
            assert store.query_readings(Mixed) == [{"device_id": "m", "timestamp": T0, **mixed}]
            ledger = store.ledger()
            assert ledger.problems == []
            assert ledger.upstreams["central"]["quarantined"] == 1
            assert store.count_pending("central") == 31 - 8
            store.fold()
            audit_memory(store)
        audit_file(path)
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
            assert _shape_of(file) == _shape_of_a_new_file(quick_folder)


def test_what_was_not_sent_is_still_noted_after_the_second_step(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    noted = (1, 1, 1767225600000000, 1767225660000000, 3, 5)
    with closing(sqlite3.connect(path)) as file:
        file.executescript(RELEASED[0].read_text())
        file.execute("INSERT INTO _withheld VALUES (?, ?, ?, ?, ?, ?)", noted)
        file.commit()
    SQLiteStorage(path, gateway_id="roof").close()
    with closing(sqlite3.connect(path)) as file:
        assert (*noted, 0) in file.execute("SELECT * FROM _withheld").fetchall()


def test_a_held_piece_ends_where_its_rows_do_after_the_fourth_step(quick_folder: Path) -> None:
    """Of those behind it some have gone: once it is released nothing is folded that is of theirs."""
    path, clock = quick_folder / "x.db", ManualClock(T0)
    held, others = [
        [row for n, row in enumerate(rows(0, 80)) if n // 4 % 2 == one] for one in (0, 1)
    ]  # among each other
    settings: dict[str, Any] = {"gateway_id": "roof", "piece_rows": 10, "clock": clock, "uncertain_times": "hold"}
    clock.trusted = False
    with SQLiteStorage(path, **settings) as store:
        store.store_readings(Weather, held).wait()
    clock.reboot(T0 + timedelta(days=1))
    with SQLiteStorage(path, **settings) as store:
        clock.trusted = True
        for first in range(0, 40, 10):
            store.store_readings(Weather, others[first : first + 10]).wait()
            store.fold()
    with closing(sqlite3.connect(path)) as file:
        shape = json.loads(file.execute("SELECT value FROM _meta WHERE key = 'shape'").fetchone()[0])
        assert len(shape["pieces"]) == 2  # the held one, and the last
        shape["pieces"] = [piece[:5] for piece in shape["pieces"]]
        file.execute("UPDATE _meta SET value = ? WHERE key = 'shape'", (json.dumps(shape),))
        file.execute("PRAGMA user_version = 2")
        file.commit()
    with SQLiteStorage(path, **settings) as store:
        assert store.salvaged is None
        store.release_held()
        store.fold()
        assert store.aggregate(Weather, "temperature", "count") == {"result": len(readings(store))} == {"result": 80}
        audit_memory(store)
    audit_file(path)


def _shape_of(file: sqlite3.Connection) -> list[tuple[str, str]]:
    """The columns of the tables that every store has."""
    tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    own = sorted(name for name in tables if not name.startswith(("_j_", "_h_", "_hour_", "sqlite_")))
    return [(name, str(file.execute(f"PRAGMA table_info({name})").fetchall())) for name in own]


def _shape_of_a_new_file(folder: Path) -> list[tuple[str, str]]:
    path = folder / "new.db"
    with SQLiteStorage(path):
        pass
    with closing(sqlite3.connect(path)) as file:
        return _shape_of(file)


def add_a_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE _devices ADD COLUMN place TEXT")


def fail_half_way(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE _devices ADD COLUMN lost TEXT")
    raise sqlite3.OperationalError("database or disk is full")


def test_a_step_is_committed_with_its_record_once_or_not_at_all(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    SQLiteStorage(path).close()
    first, second = schema.VERSION + 1, schema.VERSION + 2
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        steps = {second: fail_half_way, first: add_a_column}
        with pytest.raises(sqlite3.OperationalError):
            migrate(file, steps)
        assert file.execute("PRAGMA user_version").fetchone() == (first,)
        columns = [row[1] for row in file.execute("PRAGMA table_info(_devices)")]
        assert columns[-1] == "place"
        migrate(file, {**steps, second: lambda connection: None})
        migrate(file, {**steps, second: fail_half_way})
        assert file.execute("PRAGMA user_version").fetchone() == (second,)


def test_models_that_gain_and_lose_fields_read_old_rows(quick_folder: Path) -> None:
    """The rest of it is in test_evolution.py."""
    with SQLiteStorage(quick_folder / "x.db") as store:
        store.store_readings(Weather, rows(0, 10)).wait()
        store.fold()
        other = define_model("Weather", {"temperature": (float, True, None), "wind": (float, False, None)})
        found = store.query_readings(other, limit=1)
        assert found == [{"device_id": "d1", "timestamp": rows(9, 10)[0][1], "temperature": 9 / 7, "wind": None}]
        retyped = define_model("Weather", {"temperature": (str, True, None)})
        with pytest.raises(InvalidValue, match=r"temperature is str, but this store keeps .* as float"):
            store.query_readings(retyped)
