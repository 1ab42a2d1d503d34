import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot import InvalidValue
from edgedepot.storage.values import Quality, RowMaker
from tests.models import Weather

ROWS: RowMaker = Weather.__rows__


def test_values_come_in_the_order_of_the_fields() -> None:
    row = ROWS.make({"count": 3, "temperature": 20, "note": "dry", "raining": False, "humidity": 0.5})
    assert row == (None, 20.0, 0.5, False, "dry", 3)
    assert type(row[1]) is float


def test_a_value_outside_its_range_is_kept_and_flagged() -> None:
    assert ROWS.make({"temperature": 80.0})[0] is None
    assert ROWS.make({"temperature": 80.1})[0] == Quality.OUT_OF_RANGE
    assert ROWS.make({"temperature": 1, "count": -1})[0] == Quality.OUT_OF_RANGE


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "temperature is missing"),
    ({"temperature": None}, "temperature is missing"),
    ({"temperature": "21"}, "temperature is str '21', expected float"),
    ({"temperature": True}, "temperature is True, expected float"),
    ({"temperature": math.nan}, "temperature is nan, expected a finite number"),
    ({"temperature": -math.inf}, "temperature is -inf, expected a finite number"),
    ({"temperature": 10**400}, "temperature is .*, expected a finite number"),
    ({"temperature": 1, "count": 2**63}, "count is 9223372036854775808, beyond 64 bits"),
    ({"temperature": 1, "count": 1.0}, "count is 1.0, expected int"),
    ({"temperature": 1, "raining": 1}, "raining is int, expected bool"),
    ({"temperature": 1, "note": "\ud800"}, "note holds a lone surrogate"),
    ({"temperature": 1, "note": "a\0b"}, "note holds a NUL"),
    ({"temperature": 1, "note": "ä" * 513}, "note is 1026 bytes long, at most 1024"),
    ({"temperature": 1, "temprature": 1}, "has no field 'temprature'; its fields are temperature, humidity"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_what_python_code_may_not_store_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        ROWS.make(data)


def test_data_that_is_no_mapping_is_named() -> None:
    with pytest.raises(InvalidValue, match="data is list, expected a mapping"):
        ROWS.make([1.0])  # type: ignore[arg-type]


def test_a_device_may_send_text_for_numbers_and_more_than_is_asked_for() -> None:
    row, flaws = ROWS.sift({"temperature": " 2.15e1 ", "count": "7", "raining": "on", "rssi": -70})
    assert (row, flaws) == ((None, 21.5, None, True, None, 7), [])


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1_000", "0x10", "", "٣", "--1"])
def test_text_that_is_no_finite_number_is_a_flaw(text: str) -> None:
    row, flaws = ROWS.sift({"temperature": text})
    assert row is None
    assert [flaw.field for flaw in flaws] == ["temperature"]


def test_a_bad_optional_field_leaves_the_good_ones() -> None:
    row, flaws = ROWS.sift({"temperature": 20.0, "humidity": "wet", "count": 2**70})
    assert row == (None, 20.0, None, None, None, None)
    assert [flaw.field for flaw in flaws] == ["humidity", "count"]


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["temperature", "humidity", "raining", "note", "count"]), values))
def test_what_make_takes_sift_takes_alike_and_neither_lets_anything_unstorable_through(data: dict[str, Any]) -> None:
    sifted, _ = ROWS.sift(data)
    try:
        made = ROWS.make(data)
    except InvalidValue:
        made = None
    if made is not None:
        assert sifted == made
    for row in (made, sifted):
        for spec, value in zip(Weather.__fields__, (row or ())[1:], strict=False):
            assert value is None or type(value) is spec.type
            assert not isinstance(value, float) or math.isfinite(value)
            assert not isinstance(value, int) or -(2**63) <= value < 2**63
            assert not isinstance(value, str) or len(value.encode()) <= 1024
