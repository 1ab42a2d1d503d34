"""Real servers: VictoriaMetrics takes our writes, InfluxDB 1 our lines; both give back what was written."""

import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedepot import InfluxDBStorage, SQLiteStorage, SyncWorker
from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import Misconfigured
from edgedepot.storage.influxdb.line import encoder_of, head_of, id_of
from edgedepot.storage.reading import Reading
from tests.models import Weather
from tests.servers.influxdb1 import InfluxDB1
from tests.servers.process import wait_until
from tests.servers.victoria import VictoriaMetrics
from tests.storage.influxdb.test_line import Options, ids, values

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
numbers = count()

Series = dict[tuple[str, str], dict[int, float]]
"""Values by time in milliseconds, by measurement_field and device."""


def series(server: VictoriaMetrics, gateway: str) -> Series:
    found = server.export(f'{{gateway_id="{gateway}"}}')
    return {
        (entry["metric"]["__name__"], entry["metric"]["device_id"]): dict(
            zip(entry["timestamps"], entry["values"], strict=True)
        )
        for entry in found
    }


# -- VictoriaMetrics: the whole way of a write ----------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
def test_ten_thousand_readings_come_back_equal(victoria_metrics: VictoriaMetrics, compressed: bool) -> None:
    gateway = f"roof-{next(numbers)}"
    rows: list[tuple[str, datetime, dict[str, Any]]] = [
        (f"dev {number % 7},a=b", START + timedelta(milliseconds=137 * number), {
            "temperature": number / 8 - 100, "humidity": None if number % 3 else number % 1000 / 10, "count": number,
            "raining": number % 5 == 0, "note": None if number % 4 else f'text {number}, "quoted" \\'})
        for number in range(10_000)
    ]  # fmt: skip
    place = ("any", "any", "any")
    with InfluxDBStorage(
        victoria_metrics.url, *place, gateway_id=gateway, gzip=compressed, batch_lines=3000
    ) as storage:
        receipt = storage.store_readings(Weather, iter(rows))
        assert (receipt.level, receipt.accepted, receipt.refused) == ("durable", 10_000, ())

    expected: Series = defaultdict(dict)
    for device, moment, data in rows:
        quality = {"quality": 1} if not -40 <= data["temperature"] <= 80 else {}
        for name, value in {**data, **quality}.items():
            if value is not None:  # it keeps numbers: true is 1, and every text is 0
                expected[f"weather_{name}", device][to_micros(moment) // 1000] = 0 if type(value) is str else value
    assert series(victoria_metrics, gateway) == expected


def test_tls_where_there_is_none(victoria_metrics: VictoriaMetrics) -> None:
    url = victoria_metrics.url.replace("http:", "https:")
    with InfluxDBStorage(url, "any", "any", "any", gateway_id="roof") as storage:
        with pytest.raises(Misconfigured, match=r"speaks no TLS there: begin the url with http://"):
            storage.store_reading(Weather, "mast", START, {"temperature": 1})
        assert storage.health_check()["error"] == "Misconfigured"


def test_sync_forwards_to_it(victoria_metrics: VictoriaMetrics, tmp_path: Path) -> None:
    gateway = f"roof-{next(numbers)}"
    upstream = InfluxDBStorage(victoria_metrics.url, bucket="iot")
    store = SQLiteStorage(tmp_path / "store.db", gateway_id=gateway, flush_interval=0.01)
    with store, upstream, SyncWorker(store, "central", upstream) as worker:
        receipt = store.store_readings(
            Weather, [("mast", START + timedelta(seconds=number), {"temperature": number}) for number in range(100)]
        )
        assert receipt.wait().accepted == 100
        wait_until(lambda: worker.status().delivered == 100, "all is delivered", 20)
    assert upstream.gateway_id == gateway
    found = series(victoria_metrics, gateway)
    assert list(found["weather_temperature", "mast"].values()) == list(range(100))
    # 0 when good, so that a flag of an earlier version does not stay
    assert list(found["weather_quality", "mast"].values()) == [0] * 81 + [1] * 19


def test_a_merge_clears_the_flag_of_an_earlier_version(victoria_metrics: VictoriaMetrics, tmp_path: Path) -> None:
    gateway = f"roof-{next(numbers)}"
    upstream = InfluxDBStorage(victoria_metrics.url, bucket="iot")
    store = SQLiteStorage(tmp_path / "store.db", gateway_id=gateway, flush_interval=0.01)
    with store, upstream, SyncWorker(store, "central", upstream) as worker:
        for delivered, temperature in ((1, 99), (2, 21)):
            moment = START + timedelta(milliseconds=delivered - 1)  # VictoriaMetrics keeps no two values of one moment
            store.store_reading(Weather, "mast", moment, {"temperature": temperature}).wait()
            wait_until(lambda wanted=delivered: worker.status().delivered == wanted, "it is delivered", 20)  # type: ignore[misc]
    assert list(series(victoria_metrics, gateway)["weather_quality", "mast"].values()) == [1, 0]


def test_health_says_that_writes_are_taken(victoria_metrics: VictoriaMetrics) -> None:
    with InfluxDBStorage(victoria_metrics.url, bucket="iot") as storage:
        health = storage.health_check()
    assert health["status"] == "pass"
    assert "takes writes" in health["message"]


def test_the_server_says_what_time_it_is(influxdb1: InfluxDB1) -> None:
    with InfluxDBStorage(influxdb1.url, token="t", org="o", bucket="iot") as storage:
        found = storage.server_time()
    assert found is not None
    assert abs(datetime.now(UTC) - found) < timedelta(seconds=5)


def test_it_answers_no_queries_and_makes_no_bucket(victoria_metrics: VictoriaMetrics) -> None:
    with InfluxDBStorage(victoria_metrics.url, bucket="iot", org="any") as storage:
        for call in (lambda: storage.query_readings(Weather), storage.create_bucket):
            with pytest.raises(Misconfigured, match="queries need InfluxDB 2, not InfluxDB 3 or VictoriaMetrics"):
                call()


# -- InfluxDB 1: the lines, strictly --------------------------------------------------------------------------------


def read_back(server: InfluxDB1, measurement: str) -> list[dict[str, Any]]:
    found = server.query(f'SELECT * FROM "{measurement}"')
    return [dict(zip(entry["columns"], row, strict=True)) for entry in found for row in entry["values"]]


@settings(max_examples=200)
@given(
    data=st.fixed_dictionaries({}, optional={
        "number": values[float] | st.sampled_from([5e-324, -0.0, 1.7976931348623157e308]),
        "count": values[int] | st.sampled_from([2**63 - 1, -(2**63)]),
        "on": values[bool],
        "text": values[str],
    }).filter(bool),
    device=ids,
    gateway=ids,
    quality=st.none() | st.integers(0, 31),
)  # fmt: skip
def test_influxdb_reads_a_line_as_it_was_meant(
    influxdb1: InfluxDB1, data: dict[str, Any], device: str, gateway: str, quality: int | None
) -> None:
    micros = to_micros(START) + next(numbers)
    row = (quality, *Options.__rows__.make(data)[1:])
    line = encoder_of(Options)(head_of(Options, device, gateway), micros, row)
    influxdb1.write(line.encode())
    (found,) = influxdb1.query(f"SELECT * FROM options WHERE time = {micros * 1000} GROUP BY *")
    assert {name: id_of(tag) for name, tag in found["tags"].items()} == {"device_id": device, "gateway_id": gateway}
    (values_found,) = found["values"]
    fields = dict(zip(found["columns"], values_found, strict=True))
    assert fields.pop("time") == micros * 1000
    if fields.get("number") is not None:
        fields["number"] = float(fields["number"])  # its JSON has large floats without a point
    expected = data if quality is None else data | {"quality": quality}
    assert {name: value for name, value in fields.items() if value is not None} == expected


def test_what_the_product_sends_is_taken_whole(influxdb1: InfluxDB1) -> None:
    class Sent(Reading):
        number: float
        text: str | None = None

    encode = encoder_of(Sent)
    lines = []
    for number in range(5000):
        head = head_of(Sent, f"dev {number % 5}\\,=", "ünï 雪")
        row = (0, float(number), 'two\nlines "quoted" \\' if number % 2 else None)
        lines.append(encode(head, to_micros(START) + number, row))
    influxdb1.write("\n".join(lines).encode())
    rows = read_back(influxdb1, "sent")
    assert sorted(row["number"] for row in rows) == [float(number) for number in range(5000)]
    assert {row["text"] for row in rows} == {None, 'two\nlines "quoted" \\'}
    assert {row["device_id"] for row in rows} == {f"dev {number}\\,=" for number in range(5)}


def test_it_says_what_our_errors_are_made_of(influxdb1: InfluxDB1) -> None:
    """The text of a type conflict, of which InfluxDB 2 has the same."""
    influxdb1.write(b"conflict,device_id=a number=1.5 1")
    with pytest.raises(ValueError, match=r'partial write: field type conflict: input field ."number." on measurement '
                       r'."conflict." is type integer, already exists as type float dropped=1'):  # fmt: skip
        influxdb1.write(b"conflict,device_id=a number=1i 2\nconflict,device_id=a number=2.5 3")
    assert [row["number"] for row in read_back(influxdb1, "conflict")] == [1.5, 2.5]  # the good point is kept


def test_it_has_no_api_of_ours(influxdb1: InfluxDB1) -> None:
    with InfluxDBStorage(influxdb1.url, bucket="iot") as storage:
        health = storage.health_check()
    assert health["status"] == "fail"
    assert health["version"].startswith("1.6")


def test_nobody_there() -> None:
    began = time.monotonic()
    with InfluxDBStorage("http://127.0.0.1:9", bucket="iot") as storage:
        health = storage.health_check()
    assert (health["status"], health["version"]) == ("fail", None)
    assert time.monotonic() - began < 5
