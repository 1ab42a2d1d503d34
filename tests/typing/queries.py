"""Typed queries, as a type checker sees them: nothing here is run, mypy and pyright read it. See test_typing.py."""

from datetime import UTC, datetime
from typing import Any, assert_type

from edgedepot import BaseStorage, Field, Reading, Receipt, SQLiteStorage, TimescaleDBStorage
from edgedepot.storage.buffer import Ledger
from edgedepot.storage.reading import Device
from edgedepot.storage.readings import Readings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class WeatherStation(Reading):
    temperature: float = Field(unit="°C", range=(-40, 80))
    gusts: int
    raining: bool | None = None
    note: str | None = Field(description="what the observer says")


class Pump(Reading, measurement="pumps"):
    flow: float


def a_reading_has_the_types_of_its_fields(storage: BaseStorage) -> None:
    for reading in storage.readings(WeatherStation):
        assert_type(reading, WeatherStation)
        assert_type(reading.temperature, float)
        assert_type(reading.gusts, int)
        assert_type(reading.raining, bool | None)
        assert_type(reading.note, str | None)
        assert_type(reading.device_id, str)
        assert_type(reading.timestamp, datetime)
        assert_type(reading.quality, int | None)
        assert_type(reading.gateway_id, str | None)


def each_step_keeps_the_model(storage: BaseStorage) -> None:
    asked = storage.readings(Pump).filter(device="p-1", start=NOON).order_by("-timestamp").limit(10)
    assert_type(asked, Readings[Pump])
    assert_type(asked.first(), Pump | None)
    assert_type(asked.last(), Pump | None)
    assert_type(asked.count(), int)
    assert_type([pump.flow for pump in asked], list[float])
    assert_type({pump.device_id: pump for pump in asked.limit(None)}, dict[str, Pump])


def a_model_may_be_a_parameter(storage: BaseStorage, model: type[WeatherStation]) -> WeatherStation | None:
    return storage.readings(model).first()


def a_reading_can_be_made(storage: BaseStorage) -> None:
    reading = WeatherStation(device_id="mast", timestamp=NOON, temperature=21.5, gusts=3, note=None)
    assert_type(reading.temperature, float)


def rows_are_dictionaries(storage: BaseStorage) -> None:
    assert_type(storage.query_readings(Pump, "p-1", NOON, fields=["flow"], limit=1), list[dict[str, Any]])
    assert_type(next(storage.iter_readings(Pump, after=(NOON, None, "p-1"))), dict[str, Any])
    assert_type(storage.aggregate(Pump, "flow", "max", group_by="device"), dict[str, Any] | list[dict[str, Any]])
    assert_type(storage.downsample(Pump, "flow", "5 minutes", tz="Europe/Zurich"), list[dict[str, Any]])
    assert_type(storage.readings(Pump).downsample("flow", "1h", fill="previous"), list[dict[str, Any]])


def writes_return_receipts(store: SQLiteStorage, upstream: TimescaleDBStorage, any_storage: BaseStorage) -> None:
    assert_type(store.store_reading(Pump, "p-1", None, {"flow": 1.5}), Receipt)
    assert_type(store.store_readings(Pump, [("p-1", NOON, {"flow": 1.5})]), Receipt)
    assert_type(upstream.store_reading(Pump, Device("p-1"), NOON, {"flow": 1.5}), Receipt)
    assert_type(any_storage.store_reading(Pump, "p-1", NOON, {"flow": 1.5}), Receipt | None)
    assert_type(any_storage.delete_readings(Pump, end=NOON), int | None)
    assert_type(any_storage.devices(), list[Device])
    assert_type(store.ledger(), Ledger)


def a_storage_entered_is_itself() -> None:
    with SQLiteStorage("gateway.db", durability="process", flush_interval="10s") as store:
        assert_type(store, SQLiteStorage)
