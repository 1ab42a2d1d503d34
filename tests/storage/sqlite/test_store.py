"""What the local store does with readings, through its public calls."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, InvalidValue, Reading, SQLiteStorage, Version
from edgedepot.storage.buffer import Arrival, Intake, Reject
from edgedepot.storage.clock import ManualClock, to_micros
from edgedepot.storage.errors import NotSupported, StorageClosed, StorageLocked, StoreUnusable
from edgedepot.storage.reading import define_model
from edgedepot.storage.sqlite.connection import sqlite_errors
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.readers import Readers
from edgedepot.storage.sqlite.schema import VERSION
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0)) as opened:
        yield opened


def temperatures(store: SQLiteStorage, **question: Any) -> list[float]:
    return [row["temperature"] for row in store.query_readings(Weather, **question)]


# -- receipts -------------------------------------------------------------------------------------------------------


def test_a_receipt_is_queued_until_the_flush_interval_is_over(store: SQLiteStorage) -> None:
    clock = store.clock
    assert isinstance(clock, ManualClock)
    receipt = store.store_reading(Weather, "a", T0, {"temperature": 1})
    durable = threading.Event()
    receipt.then(durable.set)
    assert [receipt.level] == ["queued"]
    clock.advance(0.9)
    assert not durable.is_set()
    clock.advance(0.2)
    assert durable.wait(10)
    assert receipt.level == "durable"


def test_who_waits_on_a_receipt_has_the_commit_at_once(store: SQLiteStorage) -> None:
    receipt = store.store_reading(Weather, "a", T0, {"temperature": 1})
    assert receipt.wait("durable", timeout=None).level == "durable"
    assert (receipt.accepted, receipt.duplicates, receipt.refused) == (1, 0, ())


def test_bad_rows_are_refused_and_good_ones_stored(store: SQLiteStorage) -> None:
    receipt = store.store_readings(
        Weather,
        [
            ("a", at(0), {"temperature": 1}),
            ("a", datetime(2026, 1, 1), {"temperature": 2}),
            ("a", at(2), {"temperature": "hot"}),
            ("", at(3), {"temperature": 3}),
            ("a", at(4)),  # type: ignore[list-item]
            ("a", at(5), {"temperature": 5}),
        ],
    )
    assert receipt.accepted == 2
    assert [refusal.index for refusal in receipt.refused] == [1, 2, 3, 4]
    assert "has no time zone" in receipt.refused[0].reason
    assert temperatures(store) == [5.0, 1.0]


def test_one_bad_reading_is_a_value_error(store: SQLiteStorage) -> None:
    with pytest.raises(ValueError, match="temperature is missing"):
        store.store_reading(Weather, "a", T0, {})
    with pytest.raises(ValueError, match="is no reading model"):
        store.store_reading(dict, "a", T0, {})  # type: ignore[arg-type]


def test_a_row_that_only_sqlite_refuses_is_set_aside_and_the_others_get_in(store: SQLiteStorage) -> None:
    good = Arrival(Weather, "a", to_micros(at(0)), False, (None, 1.0, None, None, None, None))
    huge = Arrival(Weather, "a", to_micros(at(1)), False, (None, 2.0, None, None, None, 2**70))
    short = Arrival(Weather, "a", to_micros(at(2)), False, (None, 3.0))
    other = store.store_reading(Weather, "b", T0, {"temperature": 9})
    receipt = store.take_in(Intake("driver", messages=3, decoded=3, arrivals=[good, huge, short]))
    assert [refusal.index for refusal in receipt.refused] == [1, 2]
    assert (receipt.accepted, other.accepted) == (1, 1)
    ledger = store.ledger()
    assert ledger.problems == []
    assert ledger.sources["driver"]["rejected_readings"] == 2
    assert "beyond 64 bits" in store.rejected()[1]["reason"]


# -- identity -------------------------------------------------------------------------------------------------------


def test_an_equal_reading_again_is_a_duplicate(store: SQLiteStorage) -> None:
    store.store_reading(Weather, "a", T0, {"temperature": 1.0})
    again = store.store_reading(Weather, "a", T0.astimezone(timezone(timedelta(hours=5))), {"temperature": 1})
    assert (again.accepted, again.duplicates) == (0, 1)
    assert len(store.query_readings(Weather)) == 1


def test_other_values_are_merged_and_a_replaced_one_is_kept(store: SQLiteStorage, path: Path) -> None:
    store.store_reading(Weather, "a", T0, {"temperature": 100.0, "note": "first"})
    store.store_reading(Weather, "a", T0, {"temperature": 20.0, "raining": True}).wait()
    (row,) = store.query_readings(Weather, fields=["temperature", "note", "raining", "quality"])
    assert row == {
        "device_id": "a", "timestamp": T0, "temperature": 20.0, "note": "first", "raining": True, "quality": None
    }  # fmt: skip
    books = store.ledger().sources["direct"]
    assert (books["new"], books["merged"], books["replaced"]) == (1, 1, 1)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT field, value FROM _replaced").fetchall() == [("temperature", 100.0)]


def test_the_same_identity_twice_in_one_call_is_one_reading(store: SQLiteStorage) -> None:
    rows = [("a", T0, {"temperature": 1}), ("a", T0, {"temperature": 1}), ("a", T0, {"temperature": 1, "count": 2})]
    receipt = store.store_readings(Weather, rows)
    assert (receipt.accepted, receipt.duplicates) == (2, 1)
    assert store.query_readings(Weather, fields=["count"])[0]["count"] == 2


def test_late_readings_take_their_place(store: SQLiteStorage) -> None:
    for second in (5, 1, 3, 2, 4):
        store.store_reading(Weather, "a", at(second), {"temperature": second})
    assert temperatures(store, order="timestamp") == [1, 2, 3, 4, 5]


def test_gateway_stamps_increase_strictly_per_device(store: SQLiteStorage, path: Path) -> None:
    for value in range(3):
        store.store_reading(Weather, "a", None, {"temperature": value})
    stamps = [row["timestamp"] for row in store.query_readings(Weather, order="timestamp")]
    assert stamps == [T0 + timedelta(microseconds=n) for n in range(3)]
    store.close()
    with SQLiteStorage(path, clock=ManualClock(T0)) as reopened:
        reopened.store_reading(Weather, "a", None, {"temperature": 3})
        assert temperatures(reopened, order="timestamp") == [0, 1, 2, 3]


@pytest.mark.parametrize("folded", [False, True])
def test_gateway_stamps_go_on_after_a_restart_though_the_clock_was_slewed_back(path: Path, folded: bool) -> None:
    clock = ManualClock(T0)
    with SQLiteStorage(path, clock=clock) as store:
        store.store_readings(Weather, [("a", None, {"temperature": 0}), ("a", at(3600), {"temperature": 9})])
        if folded:
            store.fold()
    clock.step(-0.4)
    with SQLiteStorage(path, clock=clock) as store:
        store.store_reading(Weather, "a", None, {"temperature": 1})
        store.store_reading(Weather, "a", None, {"temperature": 2})
        assert temperatures(store, order="timestamp") == [0, 1, 2, 9]


def test_a_version_brings_its_quality(store: SQLiteStorage) -> None:
    store.store_readings(Weather, [Version("a", T0, {"temperature": 100.0}, quality=4)])
    assert store.query_readings(Weather, fields=["quality"])[0]["quality"] == 5


# -- queries --------------------------------------------------------------------------------------------------------


def test_a_query_sees_what_was_stored_before_it(store: SQLiteStorage) -> None:
    store.store_reading(Weather, "a", T0, {"temperature": 1}).wait()
    store.store_reading(Weather, "a", at(1), {"temperature": 2})
    assert temperatures(store, fresh=False) == [1]
    assert temperatures(store) == [2, 1]


def test_ranges_are_half_open_to_the_microsecond(store: SQLiteStorage) -> None:
    micro = timedelta(microseconds=1)
    for moment in (T0 - micro, T0, T0 + micro):
        store.store_reading(Weather, "a", moment, {"temperature": 1})
    found = store.query_readings(Weather, start=T0, end=T0 + micro)
    assert [row["timestamp"] for row in found] == [T0]


def test_order_fields_and_limit(store: SQLiteStorage) -> None:
    for device, second, value in (("b", 0, 3), ("a", 0, 1), ("a", 1, 2)):
        store.store_reading(Weather, device, at(second), {"temperature": value})
    assert temperatures(store, order="-temperature", limit=2) == [3, 2]
    assert [row["device_id"] for row in store.query_readings(Weather, order="-timestamp")] == ["a", "a", "b"]
    assert store.query_readings(Weather, limit=0) == []
    row = store.query_readings(Weather, fields=["temperature"], limit=1)[0]
    assert list(row) == ["device_id", "timestamp", "temperature"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"fields": ["temprature"]}, "no field 'temprature'"),
        ({"fields": "temperature"}, "expected a list of names"),
        ({"order": "x; DROP TABLE journal"}, "no field 'x; DROP TABLE journal'"),
        ({"order": None}, "order is None"),
        ({"limit": -1}, "limit is -1"),
        ({"limit": True}, "limit is True"),
        ({"start": datetime(2026, 1, 1)}, "start 2026-01-01T00:00:00 has no time zone"),
        ({"end": "2026"}, "end is '2026', expected an aware datetime"),
        ({"device": 5}, "device 5 is neither"),
    ],
)
def test_a_wrong_question_is_a_value_error(store: SQLiteStorage, question: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        store.query_readings(Weather, **question)


def test_a_model_of_which_nothing_was_stored_is_empty(store: SQLiteStorage) -> None:
    assert store.query_readings(Weather) == []
    assert store.aggregate(Weather, "temperature") == {"result": None}
    assert store.aggregate(Weather, "temperature", "count") == {"result": 0}
    assert store.downsample(Weather, "temperature", "1h") == []


def filled(store: SQLiteStorage) -> None:
    values = [(0, "a", 1.0), (1800, "a", 3.0), (3600, "b", 5.0), (3600, "a", 7.0), (10_800, "b", None)]
    for second, device, value in values:
        store.store_reading(Weather, device, at(second), {"temperature": 0, "humidity": value})


@pytest.mark.parametrize(
    ("function", "result"),
    [("avg", 4.0), ("min", 1.0), ("max", 7.0), ("sum", 16.0), ("count", 4), ("first", 1.0), ("last", 5.0)],
)
def test_every_function_skips_nulls(store: SQLiteStorage, function: Any, result: float) -> None:
    filled(store)
    assert store.aggregate(Weather, "humidity", function) == {"result": result}


def test_buckets_are_labelled_by_their_start_also_where_the_range_cuts_them(store: SQLiteStorage) -> None:
    filled(store)
    buckets = store.downsample(Weather, "humidity", "1 hour", "sum", start=at(900))
    assert buckets == [{"bucket": at(0), "result": 3.0}, {"bucket": at(3600), "result": 12.0}]


def test_groups_by_device(store: SQLiteStorage) -> None:
    filled(store)
    assert store.aggregate(Weather, "humidity", "max", group_by="device") == [
        {"device_id": "a", "result": 7.0},
        {"device_id": "b", "result": 5.0},
    ]
    buckets = store.downsample(Weather, "humidity", "1h", "last", group_by="device")
    assert [(row["device_id"], row["bucket"], row["result"]) for row in buckets] == [
        ("a", at(0), 3.0),
        ("a", at(3600), 7.0),
        ("b", at(3600), 5.0),
    ]


def test_empty_buckets_are_filled_on_request(store: SQLiteStorage) -> None:
    filled(store)
    span = {"start": at(-3600), "end": at(4 * 3600)}
    for fill, count, expected in [
        ("null", "avg", [None, 2.0, 6.0, None, None]),
        ("previous", "avg", [None, 2.0, 6.0, 6.0, 6.0]),
        ("null", "count", [0, 2, 2, 0, 0]),
    ]:
        buckets = store.downsample(Weather, "humidity", "1h", count, fill=fill, **span)  # type: ignore[arg-type]
        assert [row["result"] for row in buckets] == expected


def test_calendar_buckets_follow_the_zone(store: SQLiteStorage) -> None:
    for hour in range(72):
        store.store_reading(Weather, "a", datetime(2026, 3, 28, tzinfo=UTC) + timedelta(hours=hour), {"temperature": 1})
    days = store.downsample(Weather, "temperature", "1d", "count", tz="Europe/Zurich")
    assert [(str(day["bucket"]), day["result"]) for day in days] == [
        ("2026-03-28 00:00:00+01:00", 23),
        ("2026-03-29 00:00:00+01:00", 23),
        ("2026-03-30 00:00:00+02:00", 24),
        ("2026-03-31 00:00:00+02:00", 2),
    ]


@pytest.mark.parametrize("function", ["avg", "sum", "min", "max"])
def test_arithmetic_needs_numbers(store: SQLiteStorage, function: Any) -> None:
    with pytest.raises(InvalidValue, match="needs a float or int field; raining is bool"):
        store.aggregate(Weather, "raining", function)
    store.store_reading(Weather, "a", T0, {"temperature": 1, "raining": True})
    assert store.aggregate(Weather, "raining", "last") == {"result": True}


def test_deleted_readings_are_gone_from_queries_and_on_the_books(store: SQLiteStorage) -> None:
    store.add_cursor("central")
    filled(store)
    assert store.delete_readings(Weather, "a", end=at(3600)) == 2
    assert store.aggregate(Weather, "humidity", "count") == {"result": 2}
    assert store.ledger().upstreams["central"]["deleted"] == 2
    assert store.ledger().problems == []


def test_devices_are_listed_with_the_times_they_were_seen(store: SQLiteStorage) -> None:
    filled(store)
    assert [(d.device_id, d.first_seen, d.last_seen) for d in store.devices()] == [
        ("a", at(0), at(3600)),
        ("b", at(3600), at(10_800)),
    ]


# -- models ---------------------------------------------------------------------------------------------------------


def test_a_model_may_gain_fields(store: SQLiteStorage, path: Path) -> None:
    before = define_model("Pump", {"flow": (float, True, None)})
    store.store_reading(before, "p", at(0), {"flow": 1.0}).wait()
    after = define_model("Pump", {f"extra{n}": (int, False, None) for n in range(12)} | {"flow": (float, True, None)})
    assert store.query_readings(after, fields=["flow", "extra11"])[0]["extra11"] is None
    store.store_reading(after, "p", at(1), {"flow": 2.0, "extra11": 7})
    assert [row["flow"] for row in store.query_readings(before)] == [2.0, 1.0]
    assert store.query_readings(after, fields=["extra11"])[0]["extra11"] == 7
    with SQLiteStorage(path, read_only=True) as reader:
        assert [spec.name for spec in reader.models()["pump"].__fields__][:2] == ["flow", "extra0"]


def test_a_field_may_not_change_its_type(store: SQLiteStorage) -> None:
    store.store_reading(define_model("Pump", {"flow": (float, True, None)}), "p", T0, {"flow": 1.0})
    other = define_model("Pump", {"flow": (str, True, None)})
    with pytest.raises(InvalidValue, match=r"Pump.flow is str, but this store keeps pump.flow as float"):
        store.store_reading(other, "p", T0, {"flow": "much"})
    rows = [("p", T0, {"flow": text}) for text in ("much", 1, "little")]
    receipt = store.store_readings(other, rows)
    assert [(refusal.index, refusal.reason.partition(" ")[0]) for refusal in receipt.refused] == [
        (0, "Pump.flow"),
        (1, "Pump:"),
        (2, "Pump.flow"),
    ]
    assert receipt.accepted == 0


@pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
@pytest.mark.parametrize("device", [None, "a"])
def test_the_first_rows_of_an_order_are_right_whatever_is_folded(
    store: SQLiteStorage, order: str, device: str | None
) -> None:
    for seconds in [3, 9, 5, 1]:
        store.store_readings(Weather, [(name, at(seconds), {"temperature": seconds}) for name in "ab"])
    store.fold()
    for seconds in [11, 4, 10, 2, 12]:  # two of them late
        store.store_readings(Weather, [(name, at(seconds), {"temperature": seconds}) for name in "ab"])
    expected = sorted([1, 2, 3, 4, 5, 9, 10, 11, 12] * (1 if device else 2), reverse=order.startswith("-"))
    for limit in range(1, len(expected) + 2):
        assert temperatures(store, device=device, order=order, limit=limit) == expected[:limit]
    assert temperatures(store, device=device, order=order) == expected


def test_models_are_known_from_the_file_alone(store: SQLiteStorage, path: Path) -> None:
    store.store_reading(Weather, "a", T0, {"temperature": 21.5, "raining": True}).wait()
    with SQLiteStorage(path, read_only=True) as reader:
        model: type[Reading] = reader.models()["weather"]
        assert model.__fields__ == Weather.__fields__
        assert reader.query_readings(model)[0]["raining"] is True
        with pytest.raises(NotSupported, match="open read-only"):
            reader.store_reading(model, "a", T0, {"temperature": 1})


# -- what came in beside readings -----------------------------------------------------------------------------------


def test_messages_are_on_the_books_and_rejects_are_kept(store: SQLiteStorage) -> None:
    row = (None, 1.0, None, None, None, None)
    store.take_in(
        Intake(
            "garden", messages=4, decoded=2, ignored=1,
            arrivals=[Arrival(Weather, "a", to_micros(T0), False, row)],
            rejects=[Reject("message", "no JSON", b"{" * 5000), Reject("reading", "lacks x", b"{}"),
                     Reject("field", "humidity is text", b"{}")],
        )
    )  # fmt: skip
    counts = store.ledger().sources["garden"]
    assert {name: count for name, count in counts.items() if count} == {
        "messages": 4, "decoded": 2, "ignored": 1, "rejected": 1, "readings": 2, "new": 1, "rejected_readings": 1,
        "rejected_fields": 1,
    }  # fmt: skip
    assert store.ledger().problems == []
    newest, *_, oldest = store.rejected("garden")
    assert (newest["kind"], oldest["kind"], len(oldest["raw"])) == ("field", "message", 1024)


def test_at_most_10_000_rejects_of_a_source_are_kept_and_all_are_counted(store: SQLiteStorage) -> None:
    for _ in range(3):
        rejects = [Reject("message", f"reason {n}", b"?") for n in range(4000)]
        store.take_in(Intake("garden", messages=4000, rejects=rejects))
    store.take_in(Intake("other", messages=1, rejects=[Reject("message", "mine", b"!")]))
    assert len(store.rejected("garden", limit=20_000)) == 10_000
    assert store.ledger().sources["garden"]["rejected"] == 12_000
    assert len(store.rejected("other")) == 1


# -- the file -------------------------------------------------------------------------------------------------------


def test_a_second_writer_in_this_process_is_told_that_it_is_this_one(store: SQLiteStorage, path: Path) -> None:
    words = f"is being written by process {os.getpid()}, which is this one; use the object that has it open, or "
    with pytest.raises(StorageLocked, match=words):
        SQLiteStorage(path)


def test_a_folder_that_cannot_be_written_is_named(path: Path) -> None:
    """A store on a medium that is mounted to be read only."""
    refused = sqlite3.OperationalError("attempt to write a readonly database")
    refused.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
    with (
        pytest.raises(StoreUnusable, match=r"its folder cannot be written, .* copy it to one that can"),
        sqlite_errors(path),
    ):
        raise refused


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="is a folder, expected a store's file"):
        SQLiteStorage(tmp_path)


def test_a_second_writer_is_refused_and_told_who_writes(store: SQLiteStorage, path: Path) -> None:
    code = f"from edgedepot import SQLiteStorage; SQLiteStorage({str(path)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert other.returncode == 1
    assert "is being written by process" in other.stderr
    with pytest.raises(StorageLocked):
        SQLiteStorage(path)


def test_everything_is_there_after_closing_and_opening(path: Path) -> None:
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.add_cursor("central")
        store.store_reading(Weather, "a", T0, {"temperature": 1})
    with SQLiteStorage(path) as store:
        assert store.gateway_id == "roof"
        assert temperatures(store) == [1]
        assert store.count_pending("central") == 1
        assert store.ledger().problems == []


def test_a_store_belongs_to_one_gateway(path: Path) -> None:
    SQLiteStorage(path, gateway_id="roof").close()
    with pytest.raises(ConfigError, match="holds the readings of gateway 'roof', found gateway_id 'cellar'"):
        SQLiteStorage(path, gateway_id="cellar")
    SQLiteStorage(path, gateway_id="roof").close()  # the refused one let go of its lock


@pytest.mark.parametrize("content", [b"not a database, but long enough to be told apart" * 99, b"\0" * 8192])
def test_a_file_that_is_no_store_is_said_to_be_none(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(StoreUnusable, match=r"gateway.db cannot be read as a store"):
            SQLiteStorage(path, read_only=read_only)
    assert path.read_bytes() == content


def test_a_model_has_a_view_for_people_with_other_tools(store: SQLiteStorage, path: Path) -> None:
    old = datetime(1969, 12, 31, 23, 59, 58, 999_999, tzinfo=UTC)
    store.store_reading(Weather, "a", old, {"temperature": 1.5, "note": "x"})
    store.fold()
    store.store_reading(Weather, "b", at(1), {"temperature": 100.0, "raining": True}).wait()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT * FROM weather ORDER BY timestamp").fetchall() == [
            ("a", "1969-12-31T23:59:58.999999Z", None, 1.5, None, None, "x", None),
            ("b", "2026-01-01T00:00:01.000000Z", 1, 100.0, None, 1, None, None),
        ]


@pytest.mark.parametrize("made", ["CREATE TABLE Weather (x)", "CREATE VIEW weather AS SELECT 1 AS x"])
def test_what_somebody_else_made_of_that_name_is_left_alone(
    store: SQLiteStorage, path: Path, made: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(made)
        store.store_reading(Weather, "a", at(0), {"temperature": 1.5}).wait(timeout=30)
        store.fold()
        store.store_reading(Weather, "a", at(1), {"temperature": 1.5}).wait()
        assert [name for (name, *_) in other.execute("SELECT * FROM weather").description] == ["x"]
    assert len(store.query_readings(Weather)) == 2
    assert caplog.text.count("of somebody else's, so the readings of that name get no view") == 1


KINDS: list[tuple[str, Callable[[Path], None]]] = [
    ("a folder", Path.mkdir),
    ("a pipe", os.mkfifo),
    ("a link to itself", lambda path: path.symlink_to(path.name)),
]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", ".lock", ".catalogue"])
@pytest.mark.parametrize(("kind", "make"), KINDS)
def test_what_is_no_file_is_named(store: SQLiteStorage, path: Path, suffix: str, kind: str, make: Any) -> None:
    """SQLite would wait for a pipe, and take a folder for a device that fails."""
    store.close()
    other = path.with_name(path.name + suffix)
    other.unlink(missing_ok=True)
    make(other)
    before = sorted(path.parent.iterdir())
    for read_only in (False, True)[: 1 if suffix in (".lock", ".catalogue") else 2]:
        with pytest.raises(StoreUnusable, match=f"{re.escape(str(other))} is {kind}, expected a .*file"):
            SQLiteStorage(path, read_only=read_only)
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("epochs", ["[[1e999, 1]]", "[" * 100_000])
def test_epochs_that_are_none(store: SQLiteStorage, path: Path, epochs: str) -> None:
    store.store_reading(Weather, "a", at(0), {"temperature": 1.5})
    store.close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("INSERT OR REPLACE INTO _meta VALUES ('epochs', ?)", (epochs,))
        file.commit()
    with SQLiteStorage(path) as again:
        assert len(again.query_readings(Weather)) == 1


FORKING = """
import multiprocessing, os, sys, time
from edgedepot import SQLiteStorage
def child():
    print(os.getpid(), flush=True)
    time.sleep(600)
store = SQLiteStorage(sys.argv[1])
forked = multiprocessing.get_context("fork").Process(target=child)
forked.start()
forked.join()
"""


def test_a_child_of_a_killed_process_is_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    command = [sys.executable, "-c", FORKING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        child = int(gateway.stdout.readline())
        gateway.kill()
        gateway.wait()
        try:
            SQLiteStorage(path).close()
        finally:
            os.kill(child, signal.SIGKILL)


CHILD = """
import os, sys, threading
from datetime import UTC, datetime
from pathlib import Path
from edgedepot import Reading, SQLiteStorage, StorageError
from edgedepot.storage.sqlite.verify import Verification
class Tank(Reading):
    level: float
def forked(work):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        work(lambda text: os.write(tell, text.encode()))
        sys.exit(0)
    os.close(tell)
    with open(told) as said:
        text = said.read()
    assert os.waitpid(child, 0)[1] == 0
    return text
path = Path(sys.argv[1])
T = datetime(2026, 1, 1, tzinfo=UTC)
other = SQLiteStorage(path.with_name("closed.db"))
other.close()
store = SQLiteStorage(path, flush_interval="1 hour")
receipt = store.store_reading(Tank, "parent", T, {"level": 1.0})
calls = [
    lambda: store.store_reading(Tank, "child", T, {"level": 2.0}),
    lambda: store.store_readings(Tank, [("child", T, {"level": 2.0})]),
    lambda: store.query_readings(Tank),
    lambda: store.query_readings(Tank, fresh=False),
    lambda: receipt.wait(),
    lambda: receipt.then(print),
    store.flush,
    store.fold,
    lambda: store.backup(path.with_name("copy.db")),
    lambda: SQLiteStorage(path, read_only=True),
    lambda: SQLiteStorage(path),
    lambda: Verification(path),
]
def use(tell):
    for number, call in enumerate(calls):
        try:
            call()
            tell(f"{number} did not raise")
        except StorageError as exc:
            assert f"{path} was opened in process {os.getppid()}," in str(exc), exc
    assert store.health_check()["status"] == "fail"
    store.close()
    with SQLiteStorage(other.path) as mine:
        mine.store_reading(Tank, "child", T, {"level": 2.0}).wait()
    tell("used")
assert forked(use) == "used"
assert receipt.level == "queued"
assert [row["device_id"] for row in store.query_readings(Tank)] == ["parent"]
# In the middle of a transaction, with every lock of the writer's held.
held, go_on = threading.Event(), threading.Event()
def act(journal):
    journal.connection.execute("UPDATE _series SET newest = newest")
    with store._writing.writer._condition:
        held.set()
        go_on.wait()
transaction = threading.Thread(target=store._do, args=(act,))
transaction.start()
held.wait()
assert forked(lambda tell: tell("ended")) == "ended"
go_on.set()
transaction.join()
store.store_reading(Tank, "parent", None, {"level": 1.0}).wait()
store.close()
with Verification(path) as verification:
    assert verification.run().problems == []
with SQLiteStorage(path) as store:
    assert len(store.query_readings(Tank)) == 2
    assert store.salvaged is None
print("whole")
"""


def test_a_store_that_was_open_at_a_fork_is_the_parents(tmp_path: Path) -> None:
    """The child is told, ends, and disturbs nothing."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "x.db")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.stdout, found.stderr) == ("whole\n", "")


LOCKING = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_no_dead_process_is_named_for_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "x.db.lock"
    lock.write_text(f"{2**22 + 1:<10}\nopen\n")  # more than there ever are
    command = [sys.executable, "-c", LOCKING, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StorageLocked, match=rf"is being written by process {other.pid} \(.*\); stop it first"):
            SQLiteStorage(tmp_path / "x.db")
        other.communicate()


def test_another_name_of_a_file_leads_to_the_same_lock(store: SQLiteStorage, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path.name)
    with pytest.raises(StorageLocked):
        SQLiteStorage(link)
    store.store_reading(Weather, "mast", None, {"temperature": 20.0}).wait()
    with SQLiteStorage(link, read_only=True) as read:
        assert read.path.samefile(path)
        assert len(read.query_readings(Weather)) == 1


def test_a_store_is_one_whatever_folder_leads_to_it(store: SQLiteStorage, path: Path) -> None:
    """Or a file that is opened and closed under the one name loses the locks that SQLite has under the other."""
    (path.parent / "link").symlink_to(path.parent)
    store.store_reading(Weather, "mast", None, {"temperature": 20.0}).wait()
    assert not Readers.has(path)
    with SQLiteStorage(path.parent / "link" / path.name, read_only=True) as read:
        assert read.path == store.path
        assert Readers.has(path)


def test_a_store_that_gets_a_new_file_keeps_no_other_from_being_opened(store: SQLiteStorage, tmp_path: Path) -> None:
    """Nor one that somebody has locked: SQLite waits for that with the lock held."""
    store.store_reading(Weather, "mast", None, {"temperature": 20.0}).wait()
    asking = threading.Thread(target=lambda: temperatures(store), daemon=True)
    with names_of(tmp_path / "other.db").lock:
        asking.start()
        asking.join(30)
        assert not asking.is_alive()


CHANGES_FOLDER = """
import os, sys
from edgedepot import SQLiteStorage
from tests.models import Weather

os.chdir(sys.argv[1])
with SQLiteStorage("x.db") as store:
    os.chdir(sys.argv[2])
    store.store_reading(Weather, "a", None, {"temperature": 1}).wait()
    store.fold()
    assert store.query_readings(Weather)
"""


def test_a_process_may_go_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    child = [sys.executable, "-c", CHANGES_FOLDER, str(tmp_path), str(tmp_path / "there")]
    subprocess.run(child, check=True)
    assert not list((tmp_path / "there").iterdir())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["there", "x.db", "x.db.catalogue", "x.db.lock"]


def test_a_link_to_no_file_yet_is_followed(tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "link.db").symlink_to("card/store.db")
    with SQLiteStorage(tmp_path / "link.db", durability="process", sync_interval="10 ms") as store:
        store.store_reading(Weather, "mast", None, {"temperature": 20.0}).wait("durable", timeout=10)
    assert (tmp_path / "card" / "store.db").exists()


def test_a_file_of_another_program_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(StoreUnusable, match="SQLite file of another program"):
        SQLiteStorage(path)


@pytest.mark.parametrize("version", [7, 97])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_file_of_a_newer_program_is_refused(path: Path, version: int, is_damaged: bool) -> None:
    """Also where it is damaged: this one would salvage what it knows of, and leave out the rest."""
    SQLiteStorage(path).close()
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {version}")
    newer.close()
    if is_damaged:
        os.truncate(path, path.stat().st_size - 4096)
    before = sorted(path.parent.iterdir())
    with pytest.raises(
        StoreUnusable, match=f"schema version {version}, this edgedepot knows up to {VERSION}: update it"
    ):
        SQLiteStorage(path)
    assert sorted(path.parent.iterdir()) == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"missing/gateway.db"):
        SQLiteStorage(tmp_path / "missing" / "gateway.db")
    with pytest.raises(StoreUnusable, match="does not exist"):
        SQLiteStorage(tmp_path / "gateway.db", read_only=True)


def test_a_closed_store_is_one_file(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "store.db") as store:
        store.store_reading(Weather, "mast", None, {"temperature": 20.0})
        assert len(store.query_readings(Weather)) == 1
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "store.db").read_bytes())
    with SQLiteStorage(copy, read_only=True) as read:
        assert len(read.query_readings(Weather)) == 1
    assert not list(tmp_path.glob("store.db-*"))


def test_a_closed_store_says_so(store: SQLiteStorage) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageClosed):
        store.store_reading(Weather, "a", T0, {"temperature": 1})
    with pytest.raises(StorageClosed):
        store.query_readings(Weather)


def test_what_was_queued_is_stored_at_interpreter_exit(path: Path) -> None:
    code = (
        "from edgedepot import SQLiteStorage; from tests.models import Weather\n"
        f"SQLiteStorage({str(path)!r}, flush_interval='1h').store_reading(Weather, 'a', None, {{'temperature': 1}})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with SQLiteStorage(path, read_only=True) as reader:
        assert len(reader.query_readings(Weather)) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"durability": "hope"}, "durability is 'hope', expected 'power' or 'process'"),
        ({"flush_interval": "soon"}, "flush_interval: found 'soon'"),
    ],
)
def test_a_wrong_setting_is_named(path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, InvalidValue), match=message):
        SQLiteStorage(path, **setting)


def test_health(store: SQLiteStorage) -> None:
    assert store.health_check()["status"] == "pass"
    store.close()
    health = store.health_check()
    assert (health["status"], health["version"]) == ("fail", sqlite3.sqlite_version)
