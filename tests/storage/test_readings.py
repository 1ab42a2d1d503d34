"""ORM style beyond the contract's suite: data frames, pickles, laziness."""

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.paging import PAGE
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(quick_folder: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(quick_folder / "readings.db") as opened:
        yield opened


def put(store: SQLiteStorage, count: int) -> None:
    store.store_readings(
        Weather, [("mast", T0 + timedelta(seconds=second), {"temperature": second}) for second in range(count)]
    )


def test_a_data_frame_has_a_column_for_each_field(store: SQLiteStorage) -> None:
    put(store, 3)
    store.store_reading(Weather, "roof", T0, {"temperature": 99.0, "raining": True, "note": "dry", "count": 2**53 + 1})
    frame = store.readings(Weather).order_by("timestamp").filter(end=T0 + timedelta(seconds=2)).to_pandas()
    assert list(frame.columns) == [
        "device_id", "timestamp", "temperature", "humidity", "raining", "note", "count", "quality"
    ]  # fmt: skip
    assert frame["device_id"].tolist() == ["mast", "roof", "mast"]
    assert frame["timestamp"].tolist() == [T0, T0, T0 + timedelta(seconds=1)]
    assert frame["temperature"].tolist() == [0.0, 99.0, 1.0]
    assert frame["temperature"].mean() == pytest.approx(100 / 3)
    assert store.readings(Weather).limit(0).to_pandas().empty


def test_readings_pickle_and_come_back_equal(store: SQLiteStorage) -> None:
    put(store, 2)
    found = list(store.readings(Weather))
    assert pickle.loads(pickle.dumps(found)) == found


def test_iterating_reads_a_page_at_a_time(store: SQLiteStorage) -> None:
    put(store, PAGE + 1)
    readings = iter(store.readings(Weather).order_by("timestamp"))
    assert next(readings).temperature == 0
    store.delete_readings(Weather, start=T0 + timedelta(seconds=1), end=T0 + timedelta(seconds=PAGE))
    rest = [reading.temperature for reading in readings]
    assert rest == [*range(1, PAGE), PAGE]  # the first page had been read; the last reading is of the second


def test_a_question_is_not_changed_by_the_next_step(store: SQLiteStorage) -> None:
    put(store, 3)
    every = store.readings(Weather)
    assert every.filter(device="nobody").count() == 0
    assert [reading.temperature for reading in every.limit(1)] == [2]
    assert every.count() == 3


def test_filters_compare_moments_and_not_clocks_on_the_wall(store: SQLiteStorage) -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Zurich"))
    second = first.replace(fold=1)  # an hour later
    for moment, value in ((first, 1), (second, 2)):
        store.store_reading(Weather, "mast", moment, {"temperature": value})
    found = store.readings(Weather).filter(start=second).filter(start=first)
    assert [reading.temperature for reading in found] == [2]
