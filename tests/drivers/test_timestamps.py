"""The devices' own times: exact to the microsecond, or refused with a reason."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot.drivers.timestamps import read_timestamp
from edgedepot.storage.clock import DAY, EARLIEST, from_micros, to_micros
from edgedepot.storage.errors import DecodeError

NOW = to_micros(datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)
MICROS = to_micros(MOMENT)

accepted = st.integers(EARLIEST, NOW + DAY)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-02T03:04:05.123456Z",
        "2026-01-02T03:04:05.123456+00:00",
        "2026-01-02 04:34:05.123456+01:30",
        "2026-01-01T22:04:05.123456-05:00",
        "20260102T030405.123456Z",
        "2026-01-02T03:04:05.123456999Z",
        1767323045.123456,
        1767323045123.456,
        1767323045123456,
        1767323045123456.0,
        1767323045123456999,
        "1767323045.123456",
        "1767323045123456",
        " 1767323045123.456 ",
    ],
)
def test_one_moment_in_every_notation(value: object) -> None:
    assert read_timestamp(value, NOW) == MICROS


@given(accepted)
def test_every_microsecond_survives_every_unit(micros: int) -> None:
    assert read_timestamp(micros, NOW) == micros
    assert read_timestamp(micros * 1000 + 999, NOW) == micros
    assert read_timestamp(micros / 1_000_000, NOW) == micros
    assert read_timestamp(micros / 1_000, NOW) == micros
    assert read_timestamp(from_micros(micros).isoformat(), NOW) == micros
    assert read_timestamp(str(micros), NOW) == micros
    assert read_timestamp(f"{micros // 1_000_000}.{micros % 1_000_000:06d}", NOW) == micros


@given(st.integers(EARLIEST // 1_000_000, NOW // 1_000_000))
def test_whole_seconds_are_exact(seconds: int) -> None:
    assert read_timestamp(seconds, NOW) == seconds * 1_000_000
    assert read_timestamp(seconds * 1000, NOW) == seconds * 1_000_000


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2026-01-02T03:04:05", "no zone"),
        ("2026-01-02", "no zone"),
        ("yesterday", "expected ISO 8601"),
        ("", "expected ISO 8601"),
        ("2026-01-02T03:04:60Z", "expected ISO 8601"),
        ("2019-12-31T23:59:59.999999Z", "outside"),
        ("0001-01-01T00:00:00+23:59", "outside"),
        ("9999-12-31T23:59:59-23:59", "outside"),
        (0, "outside"),
        (-1767323045, "outside"),
        (10**400, "outside"),
        ("9" * 30, "outside"),
        ("9" * 100_000, "expected ISO 8601"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (True, "is bool"),
        ([1767323045], "is list"),
        ({}, "is dict"),
    ],
)
def test_refused_with_a_short_reason(value: object, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as found:
        read_timestamp(value, NOW)
    assert len(str(found.value)) < 200


def test_a_row_of_digits_that_looks_like_a_date_is_a_number() -> None:
    # 16010203 would be a date and 2345 a time of day; it is 2020-09-25 in milliseconds.
    assert datetime.fromisoformat("1601020312345").tzinfo is None
    assert read_timestamp("1601020312345", NOW) == 1601020312345_000


def test_the_ends_of_what_is_accepted() -> None:
    assert read_timestamp("2020-01-01T00:00:00Z", NOW) == EARLIEST
    assert read_timestamp(NOW + DAY, NOW) == NOW + DAY
    for outside in (EARLIEST - 1, NOW + DAY + 1):
        with pytest.raises(DecodeError, match="outside"):
            read_timestamp(outside, NOW)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_anything_is_a_moment_in_the_window_or_a_decode_error(value: object) -> None:
    try:
        micros = read_timestamp(value, NOW)
    except DecodeError:
        return
    assert from_micros(EARLIEST) <= from_micros(micros) <= from_micros(NOW) + timedelta(days=1)
