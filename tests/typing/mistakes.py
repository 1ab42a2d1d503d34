"""Mistakes that a type checker finds: one on each line that is marked for both. Nothing here is run.

mypy and pyright report a mark that no mistake stands behind; test_typing.py takes the marks away and expects an error
on each of these lines and on no other.
"""

from datetime import UTC, datetime

from edgedepot import BaseStorage, Field, Reading, SQLiteStorage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class WeatherStation(Reading):
    temperature: float = Field(unit="°C")
    raining: bool | None = None


def names(storage: BaseStorage) -> None:
    for reading in storage.readings(WeatherStation):
        print(reading.temprature)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        print(reading.temperature.upper())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        print(reading.raining + 1)  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand]
    storage.readings(WeatherStation).filter(devise="mast")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    print(storage.readings(WeatherStation).first().temperature)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def types(storage: BaseStorage) -> None:
    storage.readings(dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    storage.query_readings("weatherstation")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.query_readings(WeatherStation, start="2026-01-01")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.query_readings(WeatherStation, limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.query_readings(WeatherStation, fields=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    storage.readings(WeatherStation).limit("10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.readings(WeatherStation).order_by(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.iter_readings(WeatherStation, after=NOON)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.store_reading(WeatherStation, "mast", NOON, 21.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.store_reading(WeatherStation, "mast", "now", {"temperature": 21.5})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def choices(storage: BaseStorage) -> None:
    storage.aggregate(WeatherStation, "temperature", "median")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.aggregate(WeatherStation, "temperature", group_by="gateway")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.downsample(WeatherStation, "temperature", 300)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.readings(WeatherStation).downsample("temperature", "1h", fill="linear")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SQLiteStorage("gateway.db", durability="maybe")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    storage.store_reading(WeatherStation, "mast", NOON, {}).wait()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def instances() -> None:
    WeatherStation(device_id="mast", timestamp=NOON)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WeatherStation(device_id="mast", timestamp=NOON, temperature="21")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WeatherStation(device_id="mast", timestamp=NOON, temperature=21.5, colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WeatherStation("mast", timestamp=NOON, temperature=21.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
