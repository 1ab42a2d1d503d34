"""The first line after the port was opened: is it whole, or has it lost its front?"""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot.drivers.decoding import Decoder
from edgedepot.drivers.formats import make_format
from edgedepot.drivers.serial import SerialLineDriver
from edgedepot.drivers.timestamps import is_iso_time
from edgedepot.storage import Reading
from edgedepot.storage.clock import to_micros

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = to_micros(NOON)


class Weather(Reading):
    temperature: float
    humidity: float | None = None


def decoder(format: str, timestamp: str | None = "timestamp", **options: object) -> Decoder:
    return Decoder(Weather, make_format(format, options, SerialLineDriver), timestamp=timestamp)


@pytest.mark.parametrize(
    ("columns", "line", "whole"),
    [
        (["timestamp", "temperature"], b"2026-01-01T11:59:00Z,21.5", True),
        (["timestamp", "temperature"], b"6-01-01T11:59:00Z,21.5", False),
        (["timestamp", "temperature"], b"2026-01-01T11:59:00Z,21.5,7", False),
        (["timestamp", "temperature"], b"2026-01-01T11:59:00,21.5", False),
        (["timestamp", "temperature"], b"1767268740,21.5", False),  # maybe the tail of milliseconds
        (["temperature", "timestamp"], b"1.5,2026-01-01T11:59:00Z", False),
        (["_", "timestamp", "temperature"], b"7,2026-01-01T11:59:00Z,1.5", False),
        (["temperature", "humidity"], b"1.5,40", False),
    ],
)
def test_a_csv_line_shows_its_front_by_a_time(columns: list[str], line: bytes, whole: bool) -> None:
    assert decoder("csv", columns=columns).is_whole(line, NOW) is whole


def test_a_json_object_shows_its_front() -> None:
    assert decoder("json").is_whole(b'{"temperature": 21.5}', NOW)
    assert not decoder("json").is_whole(b'perature": 21.5}', NOW)


def test_other_lines_do_not() -> None:
    assert not decoder("keyvalue").is_whole(b"temperature=1.5", NOW)
    assert not decoder("csv", None, columns=["temperature", "humidity"]).is_whole(b"1.5,40", NOW)


MOMENTS = st.datetimes(
    datetime(2020, 1, 2),
    datetime(2026, 1, 1),
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
FORMS = st.sampled_from(["%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%d %H:%M:%S%z", "%Y%m%dT%H%M%S%z", "%G-W%V-%uT%H:%M%z"])


@given(moment=MOMENTS, form=FORMS)
def test_no_tail_of_a_time_is_a_time(moment: datetime, form: str) -> None:
    text = moment.strftime(form)
    assert is_iso_time(text, NOW)
    assert not any(is_iso_time(text[start:], NOW) for start in range(1, len(text)))
