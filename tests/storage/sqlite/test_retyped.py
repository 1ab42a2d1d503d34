"""A field that was int is float from then on: whatever was stored of it before, wherever that lies by now."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import InvalidValue, Reading, SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.reading import define_model
from edgedepot.storage.sqlite.verify import Verification
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.test_failures import Failing, act, on_writer

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400
KINDS: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


def tank(level: str, more: str = "int") -> type[Reading]:
    """A model with fields of these types; the second may be absent."""
    return define_model("Tank", {"level": (KINDS[level], True, None), "more": (KINDS[more], False, None)})


INT, FLOAT = tank("int"), tank("float", "float")
OTHER = define_model("Other", {"count": (int, True, None)})


def at(second: float) -> datetime:
    return T0 + timedelta(seconds=second)


def opened(path: Path, **settings: Any) -> SQLiteStorage:
    return SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0), piece_rows=30, **settings)


def value_of(number: int) -> int:
    """Some of them not exact in either half of 64 bits, nor in the 53 bits of a float."""
    return (-(2**33) + 7, 2**60 + 1, -5, 0, number)[number % 5]


def row(number: int, more: int | None) -> dict[str, int]:
    return {"level": value_of(number)} if more is None else {"level": value_of(number), "more": more}


def fill(store: SQLiteStorage, model: type[Reading] = INT) -> None:
    """History in partitions, pieces, rows to fold, merged, late and deleted ones, hours to be computed again, rows that
    an upstream refused, and what is kept of rows that are gone."""
    store.keep_downsampled(model, "1 hour", functions=("avg", "sum", "min", "max", "first", "last"))
    store.keep_downsampled(model, "1 minute", functions=("max", "count"))
    store.store_readings(model, [(f"d{n % 3}", at(600 * n - 100 * DAY), row(n, n)) for n in range(60)])
    store.store_readings(model, [(f"d{n % 3}", at(600 * n), row(n, None)) for n in range(60)])
    store.store_readings(OTHER, [("d0", at(n), {"count": n}) for n in range(5)])
    store.add_cursor("central")
    store.fold()
    store.store_readings(model, [(f"d{n % 3}", at(600 * n), row(n + 1, n)) for n in range(50, 90)])  # ten are merged
    store.delete_readings(model, "d1", at(0), at(4000))
    store.flush()
    window = store.pending("central", 30)
    assert window is not None
    store.quarantine("central", [one for one in window.rows if one.model.__measurement__ == "tank"][:2], "refused")
    store.acknowledge("central", window)
    store.store_readings(model, [("d0", at(-200 * DAY), row(9, 1)), ("new", at(9), row(9, None))])
    store.flush()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original") / "x.db")


def make_original(path: Path) -> Path:
    with opened(path, keep="90 days") as store:
        fill(store)
        store.retain()
    found = audit_file(path)
    assert min(found["history"], found["unfolded"], found["in both"], found["dirty hours"]) > 0
    return path


def seen(store: SQLiteStorage, model: type[Reading] = FLOAT) -> list[Any]:
    """What a class sees of its readings, and with which types."""
    asked: list[Any] = [store.query_readings(model, order=order) for order in ("timestamp", "level")]
    for field in ("level", "more"):
        for function in ("avg", "min", "max", "sum", "count", "first", "last"):
            for interval in (None, "20m", "1h", "1d"):
                try:
                    asked.append(store.aggregate(model, field, function, interval=interval, group_by="device"))
                except InvalidValue as exc:
                    asked.append(str(exc))
    return asked


def typed(found: Any) -> Any:
    """With the types of numbers, and sums as they are added up in any order."""
    if isinstance(found, dict):
        return {key: typed(value) for key, value in found.items()}
    if isinstance(found, list):
        return [typed(one) for one in found]
    return f"float {found:.9e}" if isinstance(found, float) else f"int {found}" if isinstance(found, int) else found


def retype(store: SQLiteStorage) -> None:
    store.store_readings(FLOAT, [("d0", at(3 * DAY), {"level": 0.5}), ("d0", at(0), {"level": 7.5})])


@pytest.fixture(scope="module")
def expected(original: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a store says that had floats from the start."""
    with opened(tmp_path_factory.mktemp("expected") / "x.db", keep="90 days") as store:
        fill(store, FLOAT)
        store.retain()
        before = typed(seen(store))
        retype(store)
        after = typed(seen(store))
    return [before, after]


def test_what_was_int_is_float_everywhere(original: Path, quick_folder: Path, expected: list[Any]) -> None:
    path = quick_folder / "x.db"
    shutil.copy(original, path)
    with opened(path, keep="90 days") as store, SQLiteStorage(path, read_only=True) as other:
        assert typed(seen(store)) == typed(seen(other)) == expected[0]
        assert type(seen(store, INT)[0][0]["level"]) is int  # a class that asks changes nothing
        retype(store)
        for reader in (store, other):
            assert typed(seen(reader)) == expected[1]
            with pytest.raises(InvalidValue, match=r"Tank.level is int, but this store keeps tank.level as float"):
                seen(reader, INT)
        assert store.query_readings(OTHER)[0]["count"] == 4
        assert type(store.query_readings(OTHER)[0]["count"]) is int
        with pytest.raises(InvalidValue, match=r"Tank.level is int, but this store keeps tank.level as float"):
            store.store_reading(INT, "d0", at(0), {"level": 1})
        audit_memory(store)
        assert store.replay_quarantined("central") == 2
        while window := store.pending("central", 1000):
            for one in window.rows:
                assert one.model.__measurement__ == "other" or type(one.row[1]) is float
                assert one.model.__measurement__ == "other" or one.row[2] is None or type(one.row[2]) is float
            store.acknowledge("central", window)
            store.flush()
        store.fold()
        assert typed(seen(store)) == expected[1]
        audit_memory(store)
        assert store.ledger().problems == []
    audit_file(path)
    with sqlite3.connect(path) as file:
        assert {kind for (kind,) in file.execute('SELECT DISTINCT typeof(level) FROM "tank"')} == {"real"}
    file.close()
    with opened(path, keep="90 days") as store:
        assert typed(seen(store)) == expected[1]


def test_a_change_that_fails_anywhere_is_done_once_in_the_end(
    original: Path, quick_folder: Path, expected: list[Any]
) -> None:
    """And readers see what was before or what is after at every moment, through the store and with the file alone."""
    path = quick_folder / "x.db"

    def attempt(place: float) -> Failing:
        shutil.copy(original, path)
        with opened(path, keep="90 days") as store:
            with Failing(store, place, 3) as failing:
                act(store, retype)
            assert store.health_check()["status"] == "pass"
            assert typed(seen(store)) == expected[1]
            audit_memory(store)
            assert store.ledger().problems == []
        audit_file(path, verify=place == float("inf"))
        return failing

    instructions = attempt(float("inf")).instructions
    assert sum(attempt(1 + number * instructions // 8).failed for number in range(8)) > 4


def test_readers_see_what_was_before_or_what_is_after_at_every_moment(
    original: Path, quick_folder: Path, expected: list[Any]
) -> None:
    path = quick_folder / "x.db"
    shutil.copy(original, path)
    found: list[bool] = []
    with opened(path, keep="90 days", fold_interval="1000d") as store, SQLiteStorage(path, read_only=True) as other:
        asked = [("sum", "1h"), ("first", "1d"), ("max", None)]

        def answers(reader: SQLiteStorage) -> Any:
            rows = reader.query_readings(FLOAT, order="level", fresh=False)
            return typed([rows, *(reader.aggregate(FLOAT, "level", f, interval=i, fresh=False) for f, i in asked)])  # type: ignore[arg-type]

        before = answers(store)
        assert store._writing is not None
        inside = False

        def look() -> int:
            nonlocal inside
            if not inside:
                inside = True
                found.append(answers(store) == answers(other) == before)
                window = store.pending("central", 5)
                assert window is not None
                inside = False
            return 0

        store._writing._connection.set_progress_handler(look, 400)
        act(store, lambda store: store.store_reading(FLOAT, "d0", at(3 * DAY), {"level": 0.5}).wait())
        connection = store._writing._connection
        on_writer(store, lambda: connection.set_progress_handler(None, 0))
        assert len(found) > 10
        assert all(found)
        assert answers(store) == answers(other) != before


def test_what_was_taken_in_as_int_before_the_change_is_stored_as_float(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    with opened(path) as store:
        store.store_reading(INT, "d0", at(0), {"level": 1}).wait()
        for number in range(1, 40, 3):
            store.store_reading(INT, "d0", at(number), {"level": number, "more": 1})
            store.store_reading(FLOAT, "d0", at(number + 1), {"level": number + 0.5})
            store.store_reading(INT, "d0", at(number + 2), {"level": number})
            store.store_reading(INT, "d0", at(number + 1), {"level": number, "more": 2})
        store.flush()
        levels = [row["level"] for row in store.query_readings(FLOAT, order="timestamp")]
        assert levels == [1.0, *(float(number) for number in range(1, 40, 3) for _ in range(3))]
        assert {type(level) for level in levels} == {float}
        with pytest.raises(InvalidValue, match=r"Tank.level is int"):
            store.store_reading(INT, "d0", at(50), {"level": 1})
        store.fold()
        audit_memory(store)
    audit_file(path)


def test_a_value_that_changed_on_the_card_before_shows_after(original: Path, quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    shutil.copy(original, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        (table,) = file.execute("SELECT max(name) FROM sqlite_schema WHERE name GLOB '_h_tank_*'").fetchone()
        series, ts = file.execute(f"SELECT series, ts FROM {table} ORDER BY ts DESC LIMIT 1").fetchone()
        file.execute(f"UPDATE {table} SET c0 = c0 + 1 WHERE series = ? AND ts = ?", (series, ts))
    with opened(path, keep="90 days") as store:
        store.store_readings(FLOAT, [("another", at(3 * DAY), {"level": 0.5})]).wait()
    with Verification(path) as verification:
        (problem,) = (one for one in verification.run().problems if one.kind == "hours")
    assert "are not those that were stored" in problem.text


def test_readings_of_an_unknown_time_become_float_too(quick_folder: Path) -> None:
    clock = ManualClock(T0)
    clock.trusted = False
    with SQLiteStorage(quick_folder / "x.db", clock=clock, piece_rows=5) as store:
        for number in range(12):
            store.store_reading(INT, "d0", None if number % 2 else at(number), {"level": number}).wait()
        store.store_reading(FLOAT, "d0", None, {"level": 0.5}).wait()
        before = sorted(row["level"] for row in store.query_readings(FLOAT))
        clock.step(1000)
        clock.trusted = True
        store.fold()
        after = sorted(row["level"] for row in store.query_readings(FLOAT))
    assert [typed(one) for one in before] == [typed(one) for one in after]
    assert before == [0.0, 0.5, *map(float, range(1, 12))]
    audit_file(quick_folder / "x.db")


@pytest.mark.parametrize("old", ["catalogue", "rows"])
def test_a_salvage_of_what_is_in_part_of_before_keeps_all(
    original: Path, quick_folder: Path, expected: list[Any], old: str
) -> None:
    path = quick_folder / "x.db"
    texts = list[str]()
    for name in ("y.db", "x.db"):
        shutil.copy(original, quick_folder / name)
        with opened(quick_folder / name, keep="90 days") as store:
            if name == "y.db" or old == "catalogue":
                retype(store)
    for source in (original, quick_folder / "y.db"):
        with closing(sqlite3.connect(source)) as file:
            texts += file.execute("SELECT fields FROM _models WHERE name = 'tank'").fetchone()
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE _models SET fields = ? WHERE name = 'tank'", (texts[old == "rows"],))
        file.execute("PRAGMA application_id = 0")
    with opened(path, keep="90 days") as store:
        report = store.salvaged
        assert report is not None
        assert report.lost == 0
        assert not [note for note in report.notes if "not those that were stored" in note]
        assert typed(seen(store)) == expected[old == "catalogue"]
        store.store_reading(FLOAT, "d0", at(4 * DAY), {"level": 0.5}).wait()
        store.fold()
        audit_memory(store)
    audit_file(path)


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("float", "int"), ("str", "float"), ("bool", "int"), ("bool", "float"), ("int", "bool"), ("int", "str")],
)
def test_no_other_change_is_possible(quick_folder: Path, stored: str, asked: str) -> None:
    values: dict[str, Any] = {"float": 1.0, "int": 1, "bool": True, "str": "1"}
    with opened(quick_folder / "x.db") as store:
        store.store_reading(tank(stored), "d0", at(0), {"level": values[stored]}).wait()
        attempts: list[Callable[[], object]] = [
            lambda: store.store_reading(tank(asked), "d0", at(1), {"level": values[asked]}),
            lambda: store.query_readings(tank(asked)),
            lambda: store.aggregate(tank(asked), "level", "count"),
        ]
        for attempt in attempts:
            with pytest.raises(InvalidValue, match=rf"Tank.level is {asked}, but .* keeps tank.level as {stored}"):
                attempt()
