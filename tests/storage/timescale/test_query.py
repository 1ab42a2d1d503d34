"""Reads: against small cases by hand, and against the contract's own arithmetic over the same rows."""

import math
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from edgedepot import Device, InvalidValue, TimescaleDBStorage, Version
from edgedepot.storage.base import StoreRow
from edgedepot.storage.clock import to_micros
from edgedepot.storage.interval import Interval, zone_of
from edgedepot.storage.query import Function
from edgedepot.storage.rows import aggregate_rows, select_rows
from tests.models import Mixed
from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Connect

T0 = datetime(2026, 1, 1, tzinfo=UTC)
FUNCTIONS: tuple[Function, ...] = get_args(Function)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def filled(timescale_server: TimescaleServer) -> Iterator[TimescaleDBStorage]:
    """Two gateways with equal device names and timestamps; reads span both. Nothing writes to it after that.

    The database sorts texts as English dictionaries do: its order is not the contract's.
    """
    if not timescale_server.running:
        timescale_server.start()
    database = "english"
    timescale_server.sql(f"CREATE DATABASE {database} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    timescale_server.sql("CREATE EXTENSION timescaledb", database)
    url = timescale_server.url(database)
    for gateway_id, rows in ROWS.items():
        with TimescaleDBStorage(url, gateway_id=gateway_id) as storage:
            storage.store_readings(Mixed, rows)
    with TimescaleDBStorage(url) as storage:
        yield storage
    timescale_server.drop_database(database)


def _row(rng: random.Random, moment: datetime) -> StoreRow:
    values: dict[str, Any] = {
        "a": rng.choice([None, rng.uniform(-50, 90)]),
        "b": rng.choice([None, 1.0, 2.0]),
        "text": rng.choice([None, "a", "B", "b", "Ä", "_"]),
        "number": rng.randrange(-5, 2**53),
        "flag": rng.choice([None, True, False]),
    }
    return rng.choice(["east", "West", "_mid"]), moment, values


def _moments(rng: random.Random) -> Iterator[datetime]:
    """Around changes of the clocks, over years, before 1970, and some that are the same for several devices."""
    for day in (
        datetime(2026, 3, 29, tzinfo=UTC),
        datetime(2026, 10, 25, tzinfo=UTC),
        datetime(2018, 11, 4, tzinfo=UTC),
    ):
        yield from (day + timedelta(seconds=rng.uniform(-2e5, 2e5)) for _ in range(60))
    yield from (datetime(1969, 12, 20, tzinfo=UTC) + timedelta(days=rng.uniform(0, 30)) for _ in range(30))
    yield from (datetime(2010, 1, 1, tzinfo=UTC) + timedelta(days=rng.uniform(0, 5_900)) for _ in range(60))
    yield from (T0 + timedelta(minutes=rng.randrange(20)) for _ in range(60))


def _rows(seed: int) -> list[StoreRow]:
    rng = random.Random(seed)
    by_identity = {row[:2]: row for row in (_row(rng, moment) for moment in _moments(rng))}
    return list(by_identity.values())


ROWS = {"roof": _rows(1), "cellar": _rows(2)}
PLAIN = [
    {"gateway_id": gateway, "device_id": device, "timestamp": moment, **data}
    for gateway, rows in ROWS.items()
    for device, moment, data, *_ in rows
]


# -- by hand --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(storage: TimescaleDBStorage) -> TimescaleDBStorage:
    rows: list[StoreRow] = [
        ("a", at(0), {"a": 1.0, "number": 10}),
        ("b", at(0), {"a": 2.0, "flag": True}),
        ("a", at(30), {"a": 4.0, "text": "x"}),
        ("a", at(60), {"b": 1.0}),
        ("b", at(150), {"a": 8.0, "number": 2**53}),
    ]
    storage.store_readings(Mixed, rows)
    return storage


def test_readings_come_newest_first_with_ties_by_device(small: TimescaleDBStorage) -> None:
    assert small.query_readings(Mixed, fields=["a"], limit=3) == [
        {"device_id": "b", "timestamp": at(150), "a": 8.0},
        {"device_id": "a", "timestamp": at(60), "a": None},
        {"device_id": "a", "timestamp": at(30), "a": 4.0},
    ]
    oldest = small.query_readings(Mixed, order="timestamp", limit=2, fields=[])
    assert oldest == [{"device_id": "a", "timestamp": at(0)}, {"device_id": "b", "timestamp": at(0)}]
    assert small.query_readings(Mixed, limit=0) == []


def test_ranges_are_half_open(small: TimescaleDBStorage) -> None:
    found = small.query_readings(Mixed, "a", start=at(0), end=at(60), order="timestamp")
    assert [row["timestamp"] for row in found] == [at(0), at(30)]
    assert small.aggregate(Mixed, "a", "sum", start=at(30), end=at(150)) == {"result": 4.0}


def test_quality_comes_on_request(storage: TimescaleDBStorage) -> None:
    storage.store_readings(Mixed, [Version("a", at(0), {"a": 1.0}, 2, 1, 1)])
    assert storage.query_readings(Mixed, fields=["quality"]) == [{"device_id": "a", "timestamp": at(0), "quality": 2}]


def test_aggregates_by_hand(small: TimescaleDBStorage) -> None:
    results = {function: small.aggregate(Mixed, "a", function) for function in FUNCTIONS}
    assert results == {
        "avg": {"result": 3.75},
        "min": {"result": 1.0},
        "max": {"result": 8.0},
        "sum": {"result": 15.0},
        "count": {"result": 4},
        "first": {"result": 1.0},
        "last": {"result": 8.0},
    }
    assert small.aggregate(Mixed, "number", "sum") == {"result": 2**53 + 10}
    assert isinstance(small.downsample(Mixed, "number", "1d", "sum")[0]["result"], int)
    assert small.aggregate(Mixed, "flag", "last") == {"result": True}
    assert small.aggregate(Mixed, "timestamp", "max") == {"result": at(150)}
    assert small.aggregate(Mixed, "device_id", "count") == {"result": 5}
    assert small.aggregate(Mixed, "text", "first", device="b") == {"result": None}
    assert small.aggregate(Mixed, "a", "count", start=at(1000)) == {"result": 0}
    assert small.aggregate(Mixed, "a", "max", group_by="device") == [
        {"device_id": "a", "result": 4.0},
        {"device_id": "b", "result": 8.0},
    ]
    assert small.downsample(Mixed, "a", "minute", "count", end=at(240), fill="null") == [
        {"bucket": at(0), "result": 3},
        {"bucket": at(60), "result": 0},
        {"bucket": at(120), "result": 1},
        {"bucket": at(180), "result": 0},
    ]
    assert small.downsample(Mixed, "a", "minute", "avg", fill="previous") == [
        {"bucket": at(0), "result": 7.0 / 3},
        {"bucket": at(60), "result": 7.0 / 3},
        {"bucket": at(120), "result": 8.0},
    ]


def test_sums_of_integers_are_exact_beyond_64_bits(storage: TimescaleDBStorage) -> None:
    storage.store_readings(Mixed, [("a", at(n), {"number": 2**63 - 1}) for n in range(3)])
    assert storage.aggregate(Mixed, "number", "sum") == {"result": 3 * (2**63 - 1)}
    assert storage.aggregate(Mixed, "number", "avg") == {"result": pytest.approx(2.0**63)}


def test_sums_beyond_all_floats_are_infinite(storage: TimescaleDBStorage) -> None:
    rows: list[StoreRow] = [("up", at(n), {"b": 1.7e308}) for n in range(3)]
    rows += [("down", at(n), {"b": -1.7e308}) for n in range(2)]
    rows += [("calm", at(n), {"b": 1.7e308 / 4, "number": 2**62}) for n in range(3)]
    rows += [("tiny", at(n), {"b": 5e-324}) for n in range(3)]
    rows += [("both", at(n), {"b": value}) for n, value in enumerate((1e300, 7.5, -1e300))]
    storage.store_readings(Mixed, rows)
    plain = [{"device_id": device, "timestamp": moment, **data} for device, moment, data, *_ in rows]
    for function in ("sum", "avg", "max"):
        question: dict[str, Any] = {"function": function, "group_by": "device", "interval": "1h"}
        answers: list[Any] = [storage.aggregate(Mixed, "b", **question), aggregate_rows(plain, Mixed, "b", **question)]
        found, expected = ({row["device_id"]: row["result"] for row in answer} for answer in answers)
        assert found.pop("both") in (7.5, 2.5, 1e300)  # as the order of addition has it
        assert found == {device: expected[device] for device in found}
    assert storage.aggregate(Mixed, "b", "sum", device="up") == {"result": math.inf}
    assert storage.aggregate(Mixed, "number", "sum") == {"result": 3 * 2**62}


def test_what_cannot_be_asked_is_an_invalid_value(storage: TimescaleDBStorage) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: storage.query_readings(Mixed, fields=["a; DROP TABLE mixed"]),
        lambda: storage.query_readings(Mixed, order="received_at"),
        lambda: storage.query_readings(Mixed, start=datetime(2026, 1, 1)),
        lambda: storage.aggregate(Mixed, "text", "avg"),
        lambda: storage.aggregate(Mixed, "a", "median"),  # type: ignore[arg-type]
        lambda: storage.aggregate(Mixed, "a", interval="0s"),
        lambda: storage.aggregate(Mixed, "a", interval="1d", tz="Mars/Olympus"),
        lambda: storage.query_readings(dict),  # type: ignore[arg-type]
    )
    for call in calls:
        with pytest.raises(InvalidValue):
            call()


# -- against the contract's own arithmetic --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [f"{sign}{name}" for name in ("timestamp", "device_id", "a", "text", "number", "flag") for sign in ("", "-")],
)
def test_readings_are_ordered_as_everywhere(filled: TimescaleDBStorage, order: str) -> None:
    question: dict[str, Any] = {"order": order, "start": datetime(2018, 1, 1, tzinfo=UTC)}
    assert filled.query_readings(Mixed, **question) == select_rows(PLAIN, Mixed, **question)
    assert filled.query_readings(Mixed, limit=7, **question) == select_rows(PLAIN, Mixed, limit=7, **question)


def test_lazy_reading_pages_over_all_gateways(filled: TimescaleDBStorage) -> None:
    assert list(filled.iter_readings(Mixed)) == select_rows(PLAIN, Mixed)


@pytest.mark.parametrize(
    ("interval", "tz"),
    [
        ("7m", "UTC"),
        ("1h", "UTC"),
        ("5h", "UTC"),
        ("1d", "UTC"),
        ("1d", "Europe/Zurich"),
        ("1d", "America/Havana"),  # midnight happens twice, or not at all
        ("1d", "America/Sao_Paulo"),
        ("1d", "Asia/Kathmandu"),
        ("3d", "Australia/Lord_Howe"),
        ("1w", "Europe/Zurich"),
        ("2w", "America/New_York"),
        ("1mo", "Pacific/Apia"),  # which skipped a day
        ("5mo", "Europe/Zurich"),
        ("1y", "America/New_York"),
        (timedelta(hours=36), "UTC"),
    ],
)
@pytest.mark.parametrize("by_device", [None, "device"])
def test_buckets_and_results_are_those_of_everywhere(
    filled: TimescaleDBStorage, interval: str | timedelta, tz: str, by_device: Any
) -> None:
    start = datetime(2009, 1, 1, tzinfo=UTC) if Interval.parse(interval).is_calendar else None
    for function in FUNCTIONS:
        for name in ("a", "number"):
            question: dict[str, Any] = {"interval": interval, "tz": tz, "group_by": by_device, "start": start}
            found = filled.aggregate(Mixed, name, function, **question)
            expected = aggregate_rows(PLAIN, Mixed, name, function, **question)
            assert isinstance(found, list)
            assert isinstance(expected, list)
            assert len(expected) > 10
            assert [_keys(row) for row in found] == [_keys(row) for row in expected]
            assert [row["result"] for row in found] == [_close(row["result"]) for row in expected]
            assert {row["bucket"].tzinfo for row in found} == {UTC if tz == "UTC" else ZoneInfo(tz)}


def test_every_bucket_starts_where_interval_says(filled: TimescaleDBStorage) -> None:
    for tz in ("America/Havana", "Africa/Cairo", "Asia/Beirut"):
        width = Interval.parse("1d")
        starts = {width.floor(to_micros(row["timestamp"]), zone_of(tz)) for row in PLAIN}
        found = filled.downsample(Mixed, "number", "1d", "count", tz=tz)
        assert [to_micros(row["bucket"]) for row in found] == sorted(starts)
        assert sum(row["result"] for row in found) == len(PLAIN)


def _keys(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "result"}


def _close(result: Any) -> Any:
    return pytest.approx(result, rel=1e-9, abs=1e-9) if isinstance(result, float) else result


# -- what the server is set to --------------------------------------------------------------------------------------


SETTINGS = (
    "datestyle=SQL,DMY intervalstyle=iso_8601 timezone=Asia/Kathmandu extra_float_digits=0 bytea_output=escape"
    " standard_conforming_strings=off escape_string_warning=off default_transaction_isolation=serializable"
)


def test_settings_of_a_server_change_no_answer(connect: Connect, timescale_url: str) -> None:
    options = quote(" ".join(f"-c{setting}" for setting in SETTINGS.split()))
    usual, odd = connect("usual"), connect("odd", url=f"{timescale_url}?options={options}")
    rows: list[StoreRow] = [
        ("\\'mast", T0 + timedelta(hours=11 * n), {"a": n / 3, "text": "\\'", "number": n}) for n in range(50)
    ]
    again: list[StoreRow] = [("\\'mast", T0, {"a": 0.1}), *rows[1:]]

    def answers(storage: TimescaleDBStorage) -> list[Any]:
        receipts = [storage.store_readings(Mixed, some) for some in (rows, again)]
        storage.save_device(Device("\\'mast", "\\'", {"\\'": ["\\'"]}))
        before = datetime.now(UTC)
        assert before <= storage.server_time() <= datetime.now(UTC)
        return [
            [(receipt.accepted, receipt.duplicates) for receipt in receipts],
            storage.query_readings(Mixed, "\\'mast"),
            *(storage.downsample(Mixed, "a", width, "last", tz="America/Havana") for width in ("7m", "1d", "2mo")),
            storage.devices(),
            storage.hypertable_info(Mixed),
        ]

    found, expected = answers(odd), answers(usual)
    assert found[0] == [(50, 0), (1, 49)]
    assert found[-1]["chunk_time_interval"] == timedelta(days=7)
    assert found[:-1] == expected[:-1]


# -- gateways -------------------------------------------------------------------------------------------------------


def test_a_gateway_sees_and_deletes_its_own_only(connect: Connect) -> None:
    roof, cellar, everybody = connect("roof"), connect("cellar"), connect(None)
    roof.store_readings(Mixed, [("mast", at(0), {"a": 1.0}), ("mast", at(1), {"a": 2.0})])
    cellar.store_readings(Mixed, [("mast", at(0), {"a": 5.0}), ("tank", at(2), {"a": 7.0})])
    assert [row["a"] for row in roof.query_readings(Mixed)] == [2.0, 1.0]
    assert "gateway_id" not in roof.query_readings(Mixed)[0]
    assert [device.device_id for device in roof.devices()] == ["mast"]
    assert roof.aggregate(Mixed, "a", "sum") == {"result": 3.0}
    assert cellar.aggregate(Mixed, "a", "sum", interval="1d") == [{"bucket": T0, "result": 12.0}]
    assert everybody.query_readings(Mixed, fields=["a"], order="timestamp") == [
        {"gateway_id": "cellar", "device_id": "mast", "timestamp": at(0), "a": 5.0},
        {"gateway_id": "roof", "device_id": "mast", "timestamp": at(0), "a": 1.0},
        {"gateway_id": "roof", "device_id": "mast", "timestamp": at(1), "a": 2.0},
        {"gateway_id": "cellar", "device_id": "tank", "timestamp": at(2), "a": 7.0},
    ]
    assert everybody.aggregate(Mixed, "a", "first") == {"result": 5.0}
    assert everybody.aggregate(Mixed, "a", "last", end=at(1)) == {"result": 1.0}
    assert [(d.device_id, d.first_seen, d.last_seen) for d in everybody.devices()] == [
        ("mast", at(0), at(1)),
        ("tank", at(2), at(2)),
    ]
    assert roof.delete_readings(Mixed, "mast", end=at(1)) == 1
    assert roof.delete_readings(Mixed) == 1
    assert [row["gateway_id"] for row in everybody.query_readings(Mixed)] == ["cellar", "cellar"]
