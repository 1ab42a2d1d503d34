"""Models that change while the store is in use, names that SQLite has uses for, and the edges of time and size."""

import random
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, InvalidValue, Reading, SQLiteStorage
from edgedepot.storage.buffer import Choice, Intake, Reject
from edgedepot.storage.reading import define_model
from edgedepot.storage.sqlite.shape import Shape
from edgedepot.storage.sqlite.verify import Verification

T0 = datetime(2026, 1, 1, tzinfo=UTC)
FLOW = (float, True, None)
KINDS: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


def at(second: float) -> datetime:
    return T0 + timedelta(seconds=second)


def pump(**fields: str) -> type[Reading]:
    """A model of the measurement ``pump``: a required flow, and optional fields by type; ``!`` behind it: required."""
    more = {name: (KINDS[kind.rstrip("!")], kind.endswith("!"), None) for name, kind in fields.items()}
    return define_model("Pump", {"flow": FLOW, **more})


@pytest.fixture
def store(quick_folder: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", flush_interval="5 ms", piece_rows=20) as opened:
        yield opened


def folded(store: SQLiteStorage) -> SQLiteStorage:
    """The store after a fold that must come to its end."""
    folding = threading.Thread(target=store.fold, daemon=True)
    folding.start()
    folding.join(20)
    assert not folding.is_alive(), store.health_check()
    return store


@pytest.mark.parametrize("fold_first", [False, True])
def test_a_class_with_more_fields_may_ask_before_it_stores(store: SQLiteStorage, fold_first: bool) -> None:
    store.store_reading(pump(), "p", T0, {"flow": 1.0}).wait()
    if fold_first:
        folded(store)
    wide = pump(level="int", note="str")
    with SQLiteStorage(store.path, read_only=True) as file_alone:
        for reader in (store, file_alone):
            expected = [{"device_id": "p", "timestamp": T0, "flow": 1.0, "level": None, "note": None}]
            assert reader.query_readings(wide) == expected
            assert reader.query_readings(wide, order="level") == expected
            assert reader.aggregate(wide, "level", "sum") == {"result": None}
            assert reader.aggregate(wide, "note", "count", interval="1d") == []
            assert reader.aggregate(wide, "flow", "sum") == {"result": 1.0}
    store.store_reading(pump(), "p", at(1), {"flow": 1.0}).wait()
    folded(store)
    assert store.health_check()["status"] == "pass"


def test_fields_come_between_folds_pieces_and_partitions(store: SQLiteStorage) -> None:
    """Ten classes, each with a field more, store early and late rows; each class sees all rows."""
    kinds = list(KINDS)
    values: dict[str, Any] = {"float": 0.5, "int": 2**40, "bool": True, "str": "x"}
    models: list[type[Reading]] = []
    expected: dict[datetime, dict[str, Any]] = {}
    for number in range(10):
        fields = {f"f{n}": kinds[n % 4] for n in range(number)}
        model = pump(**fields)
        models.append(model)
        data = {"flow": float(number), **{name: values[kind] for name, kind in fields.items()}}
        for day in (number, -40 * number, 3):  # in partitions of their own, some of them old; the third is one identity
            moment = at(86_400 * day + (0 if day == 3 else number / 10))
            store.store_readings(model, [("p", moment, data)])
            expected[moment] = {**expected.get(moment, {}), **data}
        if number % 3 != 1:
            folded(store)
    last = models[-1]
    names = [spec.name for spec in last.__fields__]
    with SQLiteStorage(store.path, read_only=True) as file_alone:
        for reader in (store, file_alone, folded(store)):
            found = {row.pop("timestamp"): row for row in reader.query_readings(last)}
            assert found == {
                moment: {"device_id": "p", **dict.fromkeys(names), **data} for moment, data in expected.items()
            }
            for number, model in enumerate(models[1:], 1):
                name = f"f{number - 1}"
                there = sum(name in data for data in expected.values())
                assert reader.aggregate(model, name, "count") == {"result": there}
                days = reader.aggregate(model, name, "count", interval="1d")
                assert isinstance(days, list)
                assert sum(day["result"] for day in days) == there
                if KINDS[kinds[(number - 1) % 4]] in (int, float):
                    total = reader.aggregate(model, name, "sum", interval="1000y")
                    assert isinstance(total, list)
                    assert total[0]["result"] == there * values[kinds[(number - 1) % 4]]


@pytest.mark.parametrize("fold", [False, True])
def test_a_merge_by_a_class_with_fewer_fields_keeps_the_others(store: SQLiteStorage, fold: bool) -> None:
    wide, narrow = pump(level="int", open="bool"), pump()
    store.store_reading(wide, "p", T0, {"flow": 1.0, "level": 7, "open": True}).wait()
    if fold:
        folded(store)
    store.store_reading(narrow, "p", T0, {"flow": 2.0}).wait()
    assert store.store_reading(narrow, "p", T0, {"flow": 2.0}).duplicates == 1
    row = {"device_id": "p", "timestamp": T0, "flow": 2.0, "level": 7, "open": True}
    assert store.query_readings(wide) == [row]
    assert folded(store).query_readings(wide) == [row]
    assert store.aggregate(wide, "level", "sum", interval="1h") == [{"bucket": T0, "result": 7}]


def test_two_classes_in_turn_do_not_write_the_catalogue_each_time(store: SQLiteStorage) -> None:
    one, other = pump(level="int"), pump(level="int", open="bool")
    for number in range(4):
        store.store_reading((one, other)[number % 2], "p", at(number), {"flow": 1.0}).wait()
    with sqlite3.connect(store.path) as file:
        before = file.execute("PRAGMA schema_version").fetchone()
    for number in range(4, 20):
        store.store_reading((one, other)[number % 2], "p", at(number), {"flow": 1.0}).wait()
    with sqlite3.connect(store.path) as file:
        assert file.execute("PRAGMA schema_version").fetchone() == before
    file.close()


@pytest.mark.parametrize("fold", [False, True])
def test_rows_from_before_a_new_required_field_are_forwarded(
    store: SQLiteStorage, quick_folder: Path, fold: bool
) -> None:
    """And values of a field that the class in use has no more go with them."""
    store.store_reading(pump(old="int"), "p", at(0), {"flow": 1.0, "old": 5}).wait()
    if fold:
        for number in range(30):  # so that the piece is dropped, and the cursor walks through history
            store.store_reading(pump(old="int"), "q", at(number), {"flow": 1.0})
        folded(store)
    latest = pump(level="int!")
    store.store_reading(latest, "p", at(1), {"flow": 2.0, "level": 3}).wait()
    store.add_cursor("central")
    with SQLiteStorage(quick_folder / "upstream.db", gateway_id="central") as upstream:
        while window := store.pending("central", 1000):
            for row in window.rows:
                receipt = upstream.store_readings(row.model, [row.version(1)])
                assert receipt is not None
                assert receipt.refused == ()
            store.acknowledge("central", window)
            store.flush()
        rows = upstream.query_readings(upstream.models()["pump"], device="p", order="timestamp")
    assert rows == [
        {"device_id": "p", "timestamp": at(0), "flow": 1.0, "old": 5, "level": None},
        {"device_id": "p", "timestamp": at(1), "flow": 2.0, "old": None, "level": 3},
    ]


def test_the_class_in_use_is_handed_to_sync_where_it_fits(store: SQLiteStorage) -> None:
    model = pump(level="int")
    store.store_reading(model, "p", T0, {"flow": 1.0}).wait()
    store.add_cursor("central")
    window = store.pending("central", 10)
    assert window is not None
    assert window.rows[0].model is model


def test_more_fields_than_a_table_can_have_are_refused(store: SQLiteStorage) -> None:
    names = [f"f{number}" for number in range(199)]
    model = pump(**dict.fromkeys(names, "int"))
    store.store_reading(model, "p", T0, {"flow": 1.0, "f198": 7}).wait()
    folded(store)
    assert store.aggregate(model, "f198", "sum", interval="1d") == [{"bucket": T0, "result": 7}]
    with pytest.raises(InvalidValue, match="pump would have 201 fields"):
        store.store_reading(pump(one_more="int"), "p", T0, {"flow": 1.0})
    store.store_reading(model, "p", at(1), {"flow": 1.0}).wait()


# SQL words, names of the store's own and of SQLite's, functions that the store uses.
NAMES = [
    "journal", "table", "select", "index", "view", "main", "temp", "rowid", "json_each", "json_tree", "sqlite_x",
    "sqlite", "pragma_table_info", "dbstat", "span", "given", "one", "excluded", "folded", "series", "ts", "h",
    "hour_x", "x", "x_1", "x_1_1", "a" * 55,
]  # fmt: skip
FIELD_NAMES = ["select", "rowid", "series", "ts", "seq", "c0", "C1", "Flow2", "value", "key", "rows", "low", "hour"]


def test_names_that_have_other_uses(store: SQLiteStorage) -> None:
    fields = dict.fromkeys(FIELD_NAMES, (int, False, None))
    models = {name: define_model("Named", {"flow": FLOW, **fields}, measurement=name) for name in NAMES}
    for number in range(3):
        for model in models.values():
            data = {"flow": 1.0, **{field: place for place, field in enumerate(FIELD_NAMES)}}
            store.store_reading(model, "select", at(number), data)
            store.store_reading(model, '"; DROP TABLE _j_1; --', at(number), data)
        folded(store)
    store.delete_readings(models["main"], "select")
    with sqlite3.connect(store.path) as file:
        views = {name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")}
        assert views == set(NAMES) - {"json_each", "json_tree", "sqlite_x", "pragma_table_info", "dbstat"}
        for name in views:
            counted = file.execute(f'SELECT count(*), sum("Flow2") FROM "{name}"').fetchone()
            assert counted == ((3, 21) if name == "main" else (6, 42))
    file.close()
    for name, model in models.items():
        for field in FIELD_NAMES:
            count = 3 if name == "main" else 6
            assert len(store.query_readings(model, order=field, fields=[field])) == count
            assert store.aggregate(model, field, "count", interval="1h") == [{"bucket": T0, "result": count}]


def test_a_field_whose_name_differs_by_case_only_is_refused(store: SQLiteStorage) -> None:
    """SQLite takes the two for one. Also by the class of a later start; what is there stays, and is forwarded."""
    store.add_cursor("central")
    store.store_reading(pump(level="int"), "p", T0, {"flow": 1.0, "level": 3}).wait()
    folded(store)
    renamed, both = pump(Level="int"), r"Pump.Level differs by case only from pump.level, which this store keeps"
    with pytest.raises(InvalidValue, match=both):
        store.store_reading(renamed, "p", at(1), {"flow": 1.0, "Level": 4})
    assert (
        store.store_readings(renamed, [("p", at(1), {"flow": 1.0})]).refused[0].reason.startswith("Pump.Level differs")
    )
    with pytest.raises(InvalidValue, match=both):
        store.query_readings(renamed)
    store.close()
    with SQLiteStorage(store.path) as again:
        with pytest.raises(InvalidValue, match=both):
            again.store_reading(renamed, "p", at(1), {"flow": 1.0, "Level": 4})
        assert again.query_readings(pump(level="int"))[0]["level"] == 3
        window = again.pending("central", 10)
        assert window is not None
        assert len(window.rows) == 1
        assert again.salvaged is None


NO_NAMES = ["", "a\0b", "a\udcffb", "x" * 1025, b"x", 5, None]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_told_before_it_comes_to_the_file(store: SQLiteStorage, name: Any) -> None:
    """It must not look like damage later."""
    with pytest.raises(InvalidValue, match="upstream "):
        store.add_cursor(name)
    with pytest.raises(InvalidValue, match="what upstream central is to get: "):
        store.add_cursor("central", choice=Choice(devices=(name,)))
    with pytest.raises(InvalidValue, match="what upstream central is to get: "):
        store.add_cursor("central", choice=Choice(measurements=frozenset([name])))
    with pytest.raises(InvalidValue, match="the key of a note "):
        store.remember(name, "text")
    with pytest.raises(InvalidValue, match="source "):
        store.take_in(Intake(name, 1, 1))
    store.flush()
    store.close()
    if name is not None:
        with pytest.raises(ConfigError, match="gateway_id "):
            SQLiteStorage(store.path.with_name("y.db"), gateway_id=name)
    with SQLiteStorage(store.path) as again:
        assert again.salvaged is None
    with Verification(store.path) as verification:
        assert verification.run().sound


def test_what_a_reject_may_be(store: SQLiteStorage) -> None:
    for reason, raw in ((None, b""), (b"x", b""), ("x", "text"), ("x", None)):
        with pytest.raises(InvalidValue, match="expected a text as the reason, and bytes as what came"):
            store.take_in(Intake("mqtt", 1, rejects=[Reject("message", reason, raw)]))  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="a note is bytes, expected a text"):
        store.remember("key", b"x")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="a note holds a lone surrogate"):
        store.remember("key", "\udcff")
    store.take_in(Intake("mqtt", 1, rejects=[Reject("message", "odd: \udcff", b"raw")])).wait()
    assert store.rejected()[0]["reason"] == r"odd: \udcff"


def test_the_view_shows_each_reading_once_in_the_middle_of_a_fold(store: SQLiteStorage) -> None:
    """A fold goes on in chunks of 3,000 rows, and other programs look at the file between them."""
    model = pump()
    store.store_readings(model, [(f"d{n % 7}", at(n), {"flow": 1.0}) for n in range(20_000)]).wait()
    stop, counts = threading.Event(), set()

    def look() -> None:
        file = sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)
        while not stop.is_set():
            counts.add(file.execute("SELECT count(*), count(DISTINCT device_id || timestamp) FROM pump").fetchone())
        file.close()

    looking = threading.Thread(target=look)
    looking.start()
    folded(store)
    store.store_reading(model, "d0", at(-1), {"flow": 1.0}).wait()
    folded(store)
    stop.set()
    looking.join()
    assert counts <= {(20_000, 20_000), (20_001, 20_001)}


def test_any_time_from_year_1_to_9999(store: SQLiteStorage) -> None:
    """In an order and in portions that make as many partitions as there can be."""
    rng = random.Random(20260101)
    model = pump()
    first, days = datetime(1, 1, 1, tzinfo=UTC), 3_652_058
    moments = {first + timedelta(days=rng.randint(0, days)) for _ in range(900)}
    moments |= {first, datetime.max.replace(tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)}
    for number, moment in enumerate(rng.sample(sorted(moments), len(moments))):
        store.store_reading(model, "p", moment, {"flow": 1.0})
        if number % 30 == 0:
            folded(store)
    folded(store)
    for order in ("timestamp", "flow"):
        assert [row["timestamp"] for row in store.query_readings(model, order=order)] == sorted(moments)
    for interval in ("1h", "1d", "1mo", "1y"):
        buckets = store.aggregate(model, "flow", "count", interval=interval)
        assert isinstance(buckets, list)
        assert sum(bucket["result"] for bucket in buckets) == len(moments)
    with sqlite3.connect(store.path) as file:
        assert file.execute("SELECT count(*), min(timestamp), max(timestamp) FROM pump").fetchone() == (
            len(moments), "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"
        )  # fmt: skip
    file.close()
    assert store.delete_readings(model, start=datetime(5000, 1, 1, tzinfo=UTC)) == len(
        [moment for moment in moments if moment.year >= 5000]
    )
    assert store.ledger().problems == []


@pytest.mark.parametrize("gap_days", [None, 8_700])
def test_there_are_few_partitions_whatever_times_come(gap_days: int | None) -> None:
    """Far fewer than the 500 terms that a compound query may have."""
    rng = random.Random(1)
    shape = Shape()
    first, days, day = -719_162, 3_652_058, 86_400_000_000
    moments = [first + rng.randint(0, days) for _ in range(20_000)]
    if gap_days is not None:  # as far apart as can be first, and then what lies between
        moments = [*range(first, first + days, gap_days), *range(first, first + days, 30)]
    for moment in moments:
        if shape.partition_of(1, moment * day) is None:
            shape.new_partition(1, moment * day, 1)
    partitions = shape.partitions[1]
    assert len(partitions) < 300
    assert all(one.stop <= next_one.start for one, next_one in pairwise(partitions))


def test_many_models_and_devices(store: SQLiteStorage) -> None:
    models = [define_model(f"M{number}", {"flow": FLOW}) for number in range(60)]
    for model in models:
        rows = [(f"d{number}", at(number % 50), {"flow": 1.0}) for number in range(100)]
        store.store_readings(model, rows)
    many = [(f"device {number}", at(second), {"flow": 1.0}) for second in range(2) for number in range(5000)]
    for begin in range(0, len(many), 1000):
        store.store_readings(models[0], many[begin : begin + 1000])
    folded(store)
    store.store_readings(models[0], [(f"device {number}", at(60), {"flow": 2.0}) for number in range(5000)])
    assert len(store.devices()) == 5100
    assert store.aggregate(models[0], "flow", "count") == {"result": 15_100}
    latest = store.query_readings(models[0], limit=5000)
    assert {row["flow"] for row in latest} == {2.0}
    groups = store.aggregate(models[0], "flow", "sum", group_by="device")
    assert isinstance(groups, list)
    assert len(groups) == 5100
    assert all(store.aggregate(model, "flow", "count") == {"result": 100} for model in models[1:])
