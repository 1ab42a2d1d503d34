"""The processes that `influx_writing` measures: `floor` and `product`."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.benchmarks.child import listen, say, settings_from_command_line

START = datetime(2026, 1, 1, tzinfo=UTC)
DEVICES = 20
Row = tuple[str, datetime, dict[str, float]]


def readings(count: int) -> list[Row]:
    return [
        (
            f"string {number % DEVICES}",
            START + timedelta(milliseconds=100 * number),
            {
                "voltage": 300 + number % 977 / 10,
                "current": number % 101 / 8,
                "power": number % 4_001 / 2,
                "temperature": number % 613 / 10 - 10,
            },
        )
        for number in range(count)
    ]


def prepare_floor(settings: Mapping[str, Any], rows: list[Row]) -> Callable[[], None]:
    """influxdb-client's batching WriteApi, from Points, in batches of the published best size."""
    from influxdb_client.client.influxdb_client import InfluxDBClient
    from influxdb_client.client.write.point import Point
    from influxdb_client.client.write_api import WriteOptions

    client: Any = InfluxDBClient(settings["url"], "token", org="org")

    def run() -> None:
        with client, client.write_api(WriteOptions(batch_size=5_000)) as api:
            for device, moment, data in rows:
                point: Any = Point("inverter").tag("device_id", device).tag("gateway_id", settings["gateway"])
                for name, value in data.items():
                    point.field(name, value)
                api.write(bucket="iot", record=point.time(moment))

    return run


def prepare_product(settings: Mapping[str, Any], rows: list[Row]) -> Callable[[], None]:
    from edgedepot import InfluxDBStorage, Reading

    class Inverter(Reading):
        voltage: float
        current: float
        power: float
        temperature: float

    storage = InfluxDBStorage(settings["url"], "token", "org", "iot", gateway_id=settings["gateway"])

    def run() -> None:
        with storage:
            storage.store_readings(Inverter, rows)

    return run


def main() -> None:
    settings = settings_from_command_line()
    rows = readings(settings["readings"])
    run = {"floor": prepare_floor, "product": prepare_product}[settings["kind"]](settings, rows)
    say(ready=True)
    listen("go")
    began = time.perf_counter()
    run()
    say(seconds=time.perf_counter() - began)


if __name__ == "__main__":
    main()
