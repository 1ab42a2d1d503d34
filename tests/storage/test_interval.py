import itertools
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import Interval, age_of, seconds_of, zone_of

ZONES = [
    "UTC",
    "Europe/Zurich",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Havana",
    "America/St_Johns",
]


def floor(text: str | timedelta, moment: datetime, zone: str = "UTC") -> datetime:
    tz = zone_of(zone)
    return from_micros(Interval.parse(text).floor(to_micros(moment), tz)).astimezone(tz)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("second", Interval(micros=1_000_000)),
        ("30s", Interval(micros=30_000_000)),
        ("5m", Interval(micros=300_000_000)),
        ("90 minutes", Interval(micros=5_400_000_000)),
        ("1 hour", Interval(micros=3_600_000_000)),
        ("day", Interval(days=1)),
        ("2w", Interval(days=14)),
        ("1mo", Interval(months=1)),
        ("3 months", Interval(months=3)),
        ("1y", Interval(months=12)),
        (timedelta(minutes=1), Interval(micros=60_000_000)),
        (timedelta(days=2), Interval(days=2)),
    ],
)
def test_an_interval_is_read(text: str | timedelta, expected: Interval) -> None:
    assert Interval.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0s", "-5m", "5 parsecs", "1.5h", "m5", "5ms", "5M", timedelta(0), timedelta(-1), 5, None, "５m"]
)
def test_anything_else_is_an_error_that_lists_what_is_understood(text: object) -> None:
    with pytest.raises(ValueError, match=r"understood are .*5 minutes.*timedelta"):
        Interval.parse(text)  # type: ignore[arg-type]


def test_weeks_start_on_monday_and_days_count_from_2000_01_03() -> None:
    assert floor("1w", datetime(2026, 1, 4, tzinfo=UTC)) == datetime(2025, 12, 29, tzinfo=UTC)
    assert floor("2d", datetime(2000, 1, 6, tzinfo=UTC)) == datetime(2000, 1, 5, tzinfo=UTC)
    assert floor("2d", datetime(2000, 1, 2, tzinfo=UTC)) == datetime(2000, 1, 1, tzinfo=UTC)


def test_months_and_years_count_from_2000() -> None:
    assert floor("3mo", datetime(2026, 3, 31, tzinfo=UTC)) == datetime(2026, 1, 1, tzinfo=UTC)
    assert floor("5mo", datetime(1999, 12, 31, tzinfo=UTC)) == datetime(1999, 8, 1, tzinfo=UTC)
    assert floor("10y", datetime(2026, 3, 31, tzinfo=UTC)) == datetime(2020, 1, 1, tzinfo=UTC)


def test_days_follow_the_zone_across_both_changes() -> None:
    zurich = ZoneInfo("Europe/Zurich")
    day = Interval.parse("1d")
    spring = day.starts(
        to_micros(datetime(2026, 3, 28, 12, tzinfo=zurich)), to_micros(datetime(2026, 3, 31, tzinfo=zurich)), zurich
    )
    autumn = day.starts(
        to_micros(datetime(2026, 10, 24, 12, tzinfo=zurich)), to_micros(datetime(2026, 10, 27, tzinfo=zurich)), zurich
    )
    hours = [[(b - a) / 3.6e9 for a, b in itertools.pairwise(days)] for days in (spring, autumn)]
    assert hours == [[24, 23], [24, 25]]


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("America/Havana", datetime(2026, 3, 8, 5, tzinfo=UTC)),  # 0:00 to 1:00
        ("America/Toronto", datetime(1919, 3, 31, 4, 30, tzinfo=UTC)),  # 23:30 to 0:30
        ("America/St_Johns", datetime(2010, 11, 7, 2, 31, tzinfo=UTC)),  # 0:01 to 23:01
        ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),  # over a whole day
    ],
)
def test_around_a_change_at_midnight_each_moment_lies_in_one_day(zone: str, change: datetime) -> None:
    day, tz = Interval.parse("1d"), zone_of(zone)
    moments = [to_micros(change) + minutes * 60_000_000 for minutes in range(-180, 180)]
    floors = [day.floor(moment, tz) for moment in moments]
    assert floors == sorted(floors)
    assert all(start <= moment < day.next(start, tz) for start, moment in zip(floors, moments, strict=True))
    assert sorted(set(floors)) == day.starts(moments[0], moments[-1] + 1, tz)
    assert len(set(floors)) == 2


def test_hours_are_aligned_to_utc_whatever_the_zone() -> None:
    moment = datetime(2026, 1, 1, 5, 50, tzinfo=UTC)
    assert floor("1h", moment, "Asia/Kathmandu") == datetime(2026, 1, 1, 5, tzinfo=UTC)


moments = st.integers(to_micros(datetime(1975, 1, 1, tzinfo=UTC)), to_micros(datetime(2090, 1, 1, tzinfo=UTC)))
intervals = st.one_of(
    st.builds(lambda n: Interval(micros=n), st.integers(1, 10**10)),
    st.builds(lambda n: Interval(days=n), st.integers(1, 40)),
    st.builds(lambda n: Interval(months=n), st.integers(1, 30)),
)


@given(moments, intervals, st.sampled_from(ZONES))
@settings(max_examples=500)
def test_every_moment_lies_in_the_one_bucket_that_floor_names(moment: int, interval: Interval, zone: str) -> None:
    tz = zone_of(zone)
    start = interval.floor(moment, tz)
    assert start <= moment < interval.next(start, tz)
    assert interval.floor(start, tz) == start
    assert interval.floor(interval.next(start, tz), tz) == interval.next(start, tz)
    assert interval.starts(moment, moment + 1, tz) == [start]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("Mars/Olympus", ""),
        ("zurich", ' (did you mean "Europe/Zurich"?)'),
        ("europe/zurich", ' (did you mean "Europe/Zurich"?)'),
        ("New York", ' (did you mean "America/New_York"?)'),
        ("GMT+1", ""),  # Etc/GMT+1 is an hour behind
    ],
)
def test_an_unknown_zone_is_named(name: str, cure: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(f"{name!r} is not known here{cure}; expected an IANA name")):
        zone_of(name)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10s", 10),
        ("500 ms", 0.5),
        ("5 minutes", 300),
        ("1d", 86_400),
        (2, 2),
        (0.25, 0.25),
        (timedelta(hours=1), 3600),
    ],
)
def test_a_duration_is_read(value: str | float | timedelta, seconds: float) -> None:
    assert seconds_of(value, "flush_interval") == seconds


@pytest.mark.parametrize(
    ("value", "days"),
    [("12h", 0.5), ("90 days", 90), ("1 month", 31), ("2 years", 732), ("14mo", 366 + 62), (86_400, 1)],
)
def test_an_age_may_be_one_of_months(value: str | float, days: float) -> None:
    """And is never shorter than they are."""
    assert age_of(value, "keep") == days * 86_400


@pytest.mark.parametrize("value", ["", "soon", "1 month", 0, -1, True, None, float("nan"), float("inf"), []])
def test_a_wrong_duration_names_the_setting(value: object) -> None:
    with pytest.raises(InvalidValue, match=r"flush_interval: found .* expected a duration such as '10s'"):
        seconds_of(value, "flush_interval")  # type: ignore[arg-type]
