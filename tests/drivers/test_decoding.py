"""One message becomes a reading, or a reject with its reason and raw bytes; hostile ones harm nobody."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from edgedepot import Reading
from edgedepot.drivers.decoding import Decoder
from edgedepot.drivers.formats import make_format
from edgedepot.storage.buffer import Intake
from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.values import Quality
from tests.models import Weather

NOW = to_micros(datetime(2026, 7, 1, tzinfo=UTC))
THEN = "2026-06-30T12:00:00.000001Z"
FIELDS = [spec.name for spec in Weather.__fields__]


def decode(raw: bytes, *, format: str = "json", **options: Any) -> Intake:
    """An intake with this one message of a device "mast"."""
    settings = {key: options.pop(key) for key in ("timestamp", "max_payload") if key in options}
    decoder = Decoder(Weather, make_format(format, options, Decoder), **settings)
    intake = Intake("garden")
    became_arrival = decoder.add(intake, raw, "mast", NOW)
    assert became_arrival == bool(intake.arrivals)
    assert intake.messages == 1
    rejected = sum(reject.kind == "message" for reject in intake.rejects)
    readings = sum(reject.kind == "reading" for reject in intake.rejects)
    assert intake.decoded + rejected == 1
    assert len(intake.arrivals) + readings == intake.decoded
    return intake


def values(intake: Intake) -> dict[str, Any]:
    """The fields of the one reading that have a value."""
    (arrival,) = intake.arrivals
    return {name: cell for name, cell in zip(FIELDS, arrival.row[1:], strict=True) if cell is not None}


def test_a_reading_with_its_own_time() -> None:
    intake = decode(b'{"timestamp": "%s", "temperature": 21.5, "humidity": 40, "model": "x"}' % THEN.encode())
    (arrival,) = intake.arrivals
    assert arrival[:4] == (Weather, "mast", to_micros(datetime.fromisoformat(THEN)), False)
    assert values(intake) == {"temperature": 21.5, "humidity": 40.0}
    assert arrival.row[0] is None
    assert intake.rejects == []


def test_without_a_time_the_gateways_stands() -> None:
    for raw in (b'{"temperature": 21.5}', b'{"timestamp": null, "temperature": 21.5}'):
        (arrival,) = decode(raw).arrivals
        assert (arrival.timestamp, arrival.stamped, arrival.row[0]) == (NOW, True, None)


@pytest.mark.parametrize(
    "value", ['"2026-06-30T12:00:00"', '"2019-12-31T00:00:00Z"', '"2027-01-01T00:00:00Z"', "[]", "1e999"]
)
def test_a_time_that_cannot_be_used_is_replaced_flagged_and_told(value: str) -> None:
    raw = f'{{"timestamp": {value}, "temperature": 99}}'.encode()
    intake = decode(raw)
    (arrival,) = intake.arrivals
    assert (arrival.timestamp, arrival.stamped) == (NOW, True)
    assert arrival.row[0] == Quality.TIME_REPLACED | Quality.OUT_OF_RANGE
    (reject,) = intake.rejects
    assert (reject.kind, reject.raw) == ("field", raw)
    assert reject.reason.startswith("timestamp is ")


def test_another_key_for_the_time_or_none() -> None:
    raw = f'{{"ts": "{THEN}", "timestamp": "nonsense", "temperature": 1}}'.encode()
    assert decode(raw, timestamp="ts").arrivals[0].timestamp == to_micros(datetime.fromisoformat(THEN))
    unasked = decode(raw, timestamp=None)
    assert (unasked.arrivals[0].stamped, unasked.rejects) == (True, [])


def test_a_bad_field_is_rejected_and_the_good_ones_stay() -> None:
    raw = b'{"temperature": 21.5, "humidity": "wet", "raining": "off", "count": 3.5}'
    intake = decode(raw)
    assert values(intake) == {"temperature": 21.5, "raining": False}
    assert {(reject.kind, reject.reason.split()[0], reject.raw) for reject in intake.rejects} == {
        ("field", "humidity", raw),
        ("field", "count", raw),
    }


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"humidity": 40}', "temperature is missing"),
        (b'{"temperature": "warm"}', "temperature is str 'warm', expected float"),
        (b'{"temperature": true}', "temperature is True"),
        (b'{"temperature": [], "x": 1}', "temperature is list, expected float"),
        (b'{"temperature": NaN, "humidity": 40}', "temperature is nan, expected a finite number"),
        (b"{}", "temperature is missing"),
        (
            b'{"Temperature": 21, "humidity": 40, "timestamp": 1767225600, "\\ud800": 1}',
            "temperature is missing; no fields are 'Temperature', '\\ud800'",
        ),
        (
            json.dumps(dict.fromkeys(["a" * 50, *"bcdefgh"], 0)).encode(),
            f"temperature is missing; no fields are '{'a' * 30}', 'b', 'c', 'd', 'e', ...",
        ),
    ],
)
def test_a_reading_without_what_is_required_is_rejected(raw: bytes, reason: str) -> None:
    (reject,) = decode(raw).rejects
    assert (reject.kind, reject.raw) == ("reading", raw)
    assert reject.reason.startswith(reason)
    assert ("no fields" in reject.reason) == ("no fields" in reason)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("humidity", "NaN"),
        ("humidity", "-Infinity"),
        ("humidity", "1e999"),
        ("humidity", "9" * 5000),
        ("note", '"\\ud800"'),
        ("note", f'"{"ä" * 600}"'),
        ("note", "{}"),
        ("count", "9223372036854775808"),
        ("count", "-9223372036854775809"),
        ("count", "1e400"),
        ("count", "9" * 5000),
        ("raining", "2"),
        ("raining", '"maybe"'),
    ],
)
def test_hostile_values_cost_their_field_alone(field: str, value: str) -> None:
    raw = f'{{"temperature": 21.5, "{field}": {value}}}'.encode()
    intake = decode(raw)
    assert values(intake) == {"temperature": 21.5}
    (reject,) = intake.rejects
    assert reject.kind == "field"
    assert reject.reason.startswith(f"{field} ")
    assert len(reject.reason) < 200
    assert reject.raw == raw[:1024]


def test_the_greatest_values_that_fit_are_kept() -> None:
    raw = f'{{"temperature": -1.7976931348623157e308, "count": {2**63 - 1}, "note": "{"x" * 1024}"}}'.encode()
    found = values(decode(raw))
    assert found == {"temperature": -1.7976931348623157e308, "count": 2**63 - 1, "note": "x" * 1024}
    assert math.isfinite(found["temperature"])


@pytest.mark.parametrize("raw", [b"no reading", b"\xff\xfe", b"[" * 60_000, b"", b'{"temperature": 21.5'])
def test_what_cannot_be_decoded_is_rejected_with_its_beginning(raw: bytes) -> None:
    (reject,) = decode(raw).rejects
    assert (reject.kind, reject.raw) == ("message", raw[:1024])
    assert reject.reason


def test_a_payload_over_the_cap_is_not_even_read() -> None:
    whole = b'{"temperature": 21.5, "note": "%s"}'
    assert decode(whole % b"", max_payload=len(whole) - 2).arrivals
    (reject,) = decode(whole % b"x", max_payload=len(whole) - 2).rejects
    assert (reject.kind, reject.reason) == ("message", f"is longer than {len(whole) - 2} bytes")
    (reject,) = decode(whole % (b"x" * 1_000_000)).rejects
    assert (reject.kind, reject.reason, len(reject.raw)) == ("message", "is longer than 65536 bytes", 1024)


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        (b"21.5", {"format": "value", "field": "temperature"}),
        (THEN.encode() + b",21.5", {"format": "csv", "columns": ["timestamp", "temperature"]}),
        (b"temperature=21.5 timestamp=1782820800.000001", {"format": "keyvalue"}),
    ],
)
def test_the_other_formats(raw: bytes, options: dict[str, Any]) -> None:
    intake = decode(raw, **options)
    assert values(intake) == {"temperature": 21.5}
    assert intake.rejects == []
    if options["format"] != "value":
        assert intake.arrivals[0].timestamp == to_micros(datetime.fromisoformat(THEN))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "value", "field": "temprature"}, "'temprature', expected a field of Weather .temperature, "),
        ({"format": "value", "field": "humidity"}, "requires temperature"),
        ({"format": "csv", "columns": ["timestamp", "humidity"]}, "requires temperature"),
        ({"format": "csv", "columns": ["ts", "temperature"]}, "'ts'.*'timestamp' for the device's time"),
    ],
)
def test_a_format_that_cannot_give_the_model_is_a_wrong_setting(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        decode(b"", **options)


def test_only_reading_models_are_models() -> None:
    with pytest.raises(InvalidValue, match="no reading model"):
        Decoder(Reading, make_format("json", {}, Decoder))
