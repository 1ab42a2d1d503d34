"""Stretches of a zone's clock, against `Interval`, which all storages share: the same days, to the microsecond."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot.storage.clock import to_micros
from edgedepot.storage.influxdb.zones import Stretch, moment_of, stretches
from edgedepot.storage.interval import Interval

HOUR = 3_600_000_000
ZONES = [
    "Europe/Zurich", "America/New_York", "America/St_Johns", "America/Havana", "America/Nuuk", "America/Sao_Paulo",
    "Africa/Casablanca", "Asia/Kathmandu", "Asia/Tokyo", "Australia/Lord_Howe", "Pacific/Apia", "Etc/UTC",
]  # fmt: skip
INTERVALS = [Interval.parse(text) for text in ("1d", "3d", "1w", "2w", "1mo", "7mo", "1y")]


def at(*parts: int) -> int:
    return to_micros(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


moments = st.datetimes(datetime(1890, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(to_micros)


@given(st.sampled_from(ZONES), moments, st.integers(1, 800 * 24 * HOUR), st.data())
def test_a_day_of_shifted_time_is_a_day_of_the_zone(name: str, start: int, length: int, data: st.DataObject) -> None:
    zone = ZoneInfo(name)
    found = stretches(zone, start, start + length)
    assert [one.start for one in found] == [start, *(one.stop for one in found[:-1])]
    assert found[-1].stop == start + length
    assert all(one.start < one.stop for one in found)
    one = data.draw(st.sampled_from(found))
    near = st.sampled_from(
        [one.start, one.stop - 1, min(one.start + HOUR, one.stop - 1), max(one.stop - HOUR, one.start)]
    )
    moment = data.draw(near | st.integers(one.start, one.stop - 1))
    for interval in INTERVALS:
        assert moment_of(interval.floor(moment + one.shift), zone) == interval.floor(moment, zone)


@pytest.mark.parametrize(
    ("name", "low", "high", "expected"),
    [
        ("Europe/Zurich", (2026, 3, 28), (2026, 3, 30), [((2026, 3, 29, 1), 1), ((2026, 3, 30), 2)]),
        # At 00:01 it is 23:01 again: the day that had begun goes on, until midnight comes for the second time.
        ("America/St_Johns", (2010, 11, 7), (2010, 11, 8), [((2010, 11, 7, 3, 30), -2.5), ((2010, 11, 8), -3.5)]),
        # What would have been midnight is 23:00: no day had begun.
        ("America/Nuuk", (2026, 10, 24), (2026, 10, 26), [((2026, 10, 25, 1), -1), ((2026, 10, 26), -2)]),
        ("Pacific/Apia", (2011, 12, 30), (2012, 1, 1), [((2011, 12, 30, 10), -10), ((2012, 1, 1), 14)]),
        ("Asia/Tokyo", (2026, 1, 1), (2036, 1, 1), [((2036, 1, 1), 9)]),
    ],
)
def test_where_clocks_change(
    name: str, low: tuple[int, ...], high: tuple[int, ...], expected: list[tuple[tuple[int, ...], float]]
) -> None:
    found = stretches(ZoneInfo(name), at(*low), at(*high))
    starts = [at(*low), *(at(*stop) for stop, _ in expected[:-1])]
    assert found == [
        Stretch(start, at(*stop), round(hours * HOUR)) for start, (stop, hours) in zip(starts, expected, strict=True)
    ]


def test_a_change_at_either_edge_is_not_a_stretch() -> None:
    zone, change = ZoneInfo("Europe/Zurich"), at(2026, 3, 29, 1)
    assert stretches(zone, change, change + 1) == [Stretch(change, change + 1, 2 * HOUR)]
    assert stretches(zone, change - 1, change) == [Stretch(change - 1, change, HOUR)]
    assert [one.shift for one in stretches(zone, change - 1, change + 1)] == [HOUR, 2 * HOUR]


def test_twenty_years_are_few_stretches() -> None:
    assert len(stretches(ZoneInfo("Europe/Zurich"), at(2000, 1, 1), at(2020, 1, 1))) == 41
