"""Drivers' readings in a storage that is no buffer."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Arrival, Intake, Reject
from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import StorageError
from edgedepot.storage.plain import PlainInlet
from tests.examples import load_example
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
Other = load_example("custom_storage").Greenhouse


@pytest.fixture
def storage() -> BaseStorage:
    made: BaseStorage = load_example("custom_storage").DictStorage()
    return made


def arrival(micros: int, temperature: float, *, stamped: bool = True, quality: int | None = None) -> Arrival:
    return Arrival(Weather, "mast", to_micros(T0) + micros, stamped, (quality, temperature, None, None, None, None))


def test_readings_of_a_driver_are_stored_and_its_receipt_is_durable(storage: BaseStorage) -> None:
    intake = Intake("garden", 2, 2, arrivals=[arrival(0, 20.0, stamped=False), arrival(5, 21.0, stamped=False)])
    receipt = PlainInlet(storage).take_in(intake)
    assert (receipt.level, receipt.accepted, receipt.refused) == ("durable", 2, ())
    assert [(r.timestamp, r.temperature) for r in storage.readings(Weather).order_by("timestamp")] == [
        (T0, 20.0),
        (T0 + timedelta(microseconds=5), 21.0),
    ]


def test_stamps_of_the_gateway_stay_apart(storage: BaseStorage) -> None:
    inlet = PlainInlet(storage)
    for value in range(3):
        inlet.take_in(Intake("garden", 1, 1, arrivals=[arrival(0, value)]))
    stamps = [reading.timestamp for reading in storage.readings(Weather).order_by("timestamp")]
    assert stamps == [T0 + timedelta(microseconds=number) for number in range(3)]


def test_readings_of_several_models_are_stored_each_in_its_own(storage: BaseStorage) -> None:
    other = Arrival(Other, "bench", to_micros(T0), True, (None, 19.0, None))
    receipt = PlainInlet(storage).take_in(Intake("garden", 2, 2, arrivals=[arrival(0, 20.0), other]))
    assert (receipt.level, receipt.accepted) == ("durable", 2)
    assert (storage.readings(Weather).count(), storage.readings(Other).count()) == (1, 1)


def test_the_quality_goes_along_where_the_storage_takes_versions() -> None:
    class Versioned(BaseStorage):
        seen: Any = None

        def store_reading(self, *reading: Any, version: Any = None) -> None:
            self.seen = version

        def query_readings(self, *question: Any) -> list[dict[str, Any]]:
            return []

        def aggregate(self, *question: Any) -> dict[str, Any]:
            return {}

    storage = Versioned()
    PlainInlet(storage).take_in(Intake("garden", 1, 1, arrivals=[arrival(0, 20.0, quality=4)]))
    assert (storage.seen.quality, storage.seen.data) == (4, {"temperature": 20.0})


def test_rejects_are_counted_by_source_and_logged_when_their_number_doubles(
    storage: BaseStorage, caplog: pytest.LogCaptureFixture
) -> None:
    inlet = PlainInlet(storage)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            inlet.take_in(Intake("garden", 1, rejects=[Reject("message", "is no JSON", b"{")]))
        unstorable = Arrival(Weather, "mast", to_micros(T0), True, (None, "hot", None, None, None, None))
        inlet.take_in(Intake("cellar", 1, 1, arrivals=[unstorable]))
    assert inlet.rejected == {"garden": 5, "cellar": 1}
    assert [record.getMessage() for record in caplog.records[:3]] == [
        "garden: rejected a message: is no JSON (1 so far)",
        "garden: rejected a message: is no JSON (2 so far)",
        "garden: rejected a message: is no JSON (4 so far)",
    ]
    assert "cellar: rejected a reading: Weather: temperature is str 'hot'" in caplog.records[3].getMessage()
    assert storage.query_readings(Weather) == []


def test_a_storage_that_fails_is_not_hidden_from_the_driver() -> None:
    class Broken(BaseStorage):
        gateway_id = "roof"

        def store_reading(self, *reading: Any) -> None:
            raise StorageError("the tape is full")

        def query_readings(self, *question: Any) -> list[dict[str, Any]]:
            return []

        def aggregate(self, *question: Any) -> dict[str, Any]:
            return {}

    inlet = PlainInlet(Broken())
    assert inlet.gateway_id == "roof"
    with pytest.raises(StorageError, match="the tape is full"):
        inlet.take_in(Intake("garden", 1, 1, arrivals=[arrival(0, 20.0)]))
