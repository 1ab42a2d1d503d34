import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from edgedepot import Field, InvalidValue, Reading
from edgedepot.storage.reading import define_model, device_id_of
from tests.models import Weather

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_measurement_is_the_lowercase_name_or_the_one_given() -> None:
    class PumpStation(Reading, measurement="pumps"):
        flow: float

    assert Weather.__measurement__ == "weather"
    assert PumpStation.__measurement__ == "pumps"


def test_fields_keep_type_unit_range_and_whether_they_may_be_absent() -> None:
    temperature, humidity = Weather.__fields__[:2]
    assert (temperature.type, temperature.required, temperature.unit) == (float, True, "°C")
    assert (temperature.low, temperature.high) == (-40, 80)
    assert (humidity.type, humidity.required, humidity.unit) == (float, False, None)


def declare(**fields: Any) -> type[Reading]:
    return define_model("Bad", fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timestamp": (float, True, None)}, "field name 'timestamp' is reserved"),
        ({"Gateway_ID": (float, True, None)}, "field name 'Gateway_ID' is reserved"),
        ({"_x": (float, True, None)}, "field name '_x' is not 1 to 55 letters"),
        ({"a b": (float, True, None)}, "field name 'a b' is not 1 to 55 letters"),
        ({"t": (float, True, None), "T": (float, True, None)}, "fields 't' and 'T' differ by case only"),
        ({"t": (bytes, True, None)}, "field 't': found type <class 'bytes'>, expected float, int, bool or str"),
        ({"t": (float, True, 5.0)}, r"field 't': found 5.0, expected Field\(...\)"),
        ({"t": (float, True, Field(range=(2, 1)))}, "expected the lower end first"),
        ({"t": (str, True, Field(range=(1, 2)))}, "a range needs a float or int field, not str"),
        ({"t": (float, True, Field(range=(0, float("inf"))))}, "expected two numbers"),
    ],
)
def test_a_wrong_declaration_is_an_error_at_once(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        declare(**fields)


def test_a_measurement_that_no_table_could_bear_is_an_error() -> None:
    with pytest.raises(InvalidValue, match="measurement 'drop table' is not"):
        define_model("X", {"t": (float, True, None)}, measurement="drop table")


def test_an_instance_prints_compares_and_pickles() -> None:
    reading = Weather(device_id="roof", timestamp=NEW_YEAR, temperature=21.5, count=None)
    assert repr(reading).startswith("Weather(device_id='roof', timestamp='2026-01-01T00:00:00+00:00', temperature=21.5")
    assert pickle.loads(pickle.dumps(reading)) == reading
    assert reading != Weather(device_id="roof", timestamp=NEW_YEAR, temperature=21.6, count=None)
    assert reading.humidity is None


def test_an_instance_has_no_other_fields() -> None:
    with pytest.raises(TypeError, match="Weather has no field 'colour'"):
        Weather(device_id="roof", timestamp=NEW_YEAR, colour="red")  # type: ignore[call-arg]


class Sensor:
    device_id = "s-1"


@pytest.mark.parametrize("device", ["s-1", Sensor()])
def test_a_device_is_a_text_or_has_an_id(device: object) -> None:
    assert device_id_of(device) == "s-1"


@pytest.mark.parametrize("device", ["", 7, None, "x" * 1025, "\ud800", "a\0b"])
def test_anything_else_is_no_device(device: object) -> None:
    with pytest.raises(InvalidValue, match="device"):
        device_id_of(device)
