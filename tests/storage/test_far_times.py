"""Readings with times far apart, and at the ends of the calendar: exact, and as quick as any other."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import BaseStorage, InvalidValue, Reading, SQLiteStorage
from tests.examples import load_example

T0 = datetime(2026, 1, 5, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
PATIENCE = 20.0  # seconds; going through all days between takes minutes


class Level(Reading):
    height: float


class _Folding(SQLiteStorage):
    """Has everything in history before it answers."""

    def query_readings(self, *question: Any, **more: Any) -> list[dict[str, Any]]:
        self.fold()
        return super().query_readings(*question, **more)

    def aggregate(self, *question: Any, **more: Any) -> dict[str, Any] | list[dict[str, Any]]:
        self.fold()
        return super().aggregate(*question, **more)


@pytest.fixture(params=["in the journal", "in history", "in a dictionary"])
def storage(request: pytest.FixtureRequest, quick_folder: Path) -> Iterator[BaseStorage]:
    path = quick_folder / "far.db"
    makers: dict[str, Callable[[], BaseStorage]] = {
        "in the journal": lambda: SQLiteStorage(path),
        "in history": lambda: _Folding(path),
        "in a dictionary": load_example("custom_storage").DictStorage,
    }
    with makers[request.param]() as made:
        yield made


def put(storage: BaseStorage, *moments: datetime) -> None:
    storage.store_readings(Level, [("a", moment, {"height": 1}) for moment in moments])


@pytest.mark.parametrize("stray", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2, 1, 1, tzinfo=UTC), LAST])
@pytest.mark.parametrize("interval", ["1d", "1w", "1mo"])
def test_a_stray_year_costs_no_time(storage: BaseStorage, stray: datetime, interval: str) -> None:
    put(storage, stray, *(T0 + timedelta(minutes=number) for number in range(5_000)))
    before = time.monotonic()
    found = storage.downsample(Level, "height", interval, "sum")
    assert time.monotonic() - before < PATIENCE
    assert sum(row["result"] for row in found) == 5_001
    assert len(found) == (5 if interval == "1d" else 2)


def test_many_days_are_found_each_by_itself(storage: BaseStorage) -> None:
    put(storage, *(datetime(1950, 1, 1, 12, tzinfo=UTC) + timedelta(days=number) for number in range(3_000)))
    days = storage.downsample(Level, "height", "1d", "count", tz="Europe/Zurich")
    assert [row["result"] for row in days] == [1] * 3_000
    assert len(storage.downsample(Level, "height", "1y", tz="Europe/Zurich")) == 9


@pytest.mark.parametrize("interval", ["1s", "1h", "1d", "1mo", "1y"])
def test_the_ends_of_the_calendar_have_buckets(storage: BaseStorage, interval: str) -> None:
    put(storage, FIRST, LAST)
    first, last = storage.downsample(Level, "height", interval, "count")
    assert (first["bucket"], first["result"], last["result"]) == (FIRST, 1, 1)
    assert LAST - timedelta(days=366) < last["bucket"] <= LAST
    assert list(storage.readings(Level).order_by("timestamp")) == list(storage.readings(Level))[::-1]
    newest = storage.readings(Level).first()
    assert newest is not None
    assert newest.timestamp == LAST


@pytest.mark.parametrize(
    ("moment", "interval", "zone"),
    [(FIRST, "2w", "UTC"), (FIRST, "7h", "UTC"), (FIRST, "1d", "America/New_York")],
)
def test_a_bucket_that_the_calendar_does_not_have_is_a_value_error(
    storage: BaseStorage, moment: datetime, interval: str, zone: str
) -> None:
    put(storage, moment)
    with pytest.raises(InvalidValue, match="outside the years 1 to 9999"):
        storage.downsample(Level, "height", interval, tz=zone)
