"""Hours of the day in a zone: over midnight, and over changes of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.errors import ConfigError
from edgedepot.sync.limits import Limits
from edgedepot.sync.windows import Schedule, Window

MINUTE = timedelta(minutes=1)


def schedule(*texts: str) -> Schedule:
    return Schedule(tuple(Window.parse(text, "windows") for text in texts))


def changes(found: Schedule, start: datetime, count: int) -> list[str]:
    """The next changes, as UTC."""
    times, moment = [], to_micros(start)
    for _ in range(count):
        following = found.next_change(moment)
        assert following is not None
        moment = following
        times.append(f"{from_micros(moment):%d %H:%M}")
    return times


def open_minutes(found: Schedule, start: datetime, end: datetime) -> int:
    """By asking for each minute."""
    count = round((end - start) / MINUTE)
    return sum(found.is_open(to_micros(start + number * MINUTE)) for number in range(count))


def test_over_midnight() -> None:
    night = schedule("22:00-06:00 Europe/Zurich")
    start = datetime(2026, 1, 10, 12, tzinfo=UTC)
    assert not night.is_open(to_micros(start))
    assert changes(night, start, 4) == ["10 21:00", "11 05:00", "11 21:00", "12 05:00"]


@pytest.mark.parametrize(
    ("hours", "day", "expected"),
    [
        # 29 March 2026: at 01:00 UTC the clocks go from 02:00 to 03:00.
        ("01:00-04:00", datetime(2026, 3, 28, 23), ["29 00:00", "29 02:00"]),
        ("22:00-06:00", datetime(2026, 3, 28, 12), ["28 21:00", "29 04:00"]),
        ("02:30-05:00", datetime(2026, 3, 29), ["29 01:00", "29 03:00"]),
        ("01:30-02:30", datetime(2026, 3, 29), ["29 00:30", "29 01:00"]),
        ("02:00-03:00", datetime(2026, 3, 29), ["30 00:00", "30 01:00"]),  # not there at all that day
        # 25 October 2026: at 01:00 UTC they go from 03:00 back to 02:00.
        ("22:00-06:00", datetime(2026, 10, 24, 12), ["24 20:00", "25 05:00"]),
        ("02:00-03:00", datetime(2026, 10, 25), ["25 02:00", "26 01:00"]),  # open at 00:00 UTC, for two hours
        ("02:15-02:45", datetime(2026, 10, 25), ["25 00:15", "25 00:45", "25 01:15", "25 01:45"]),
        ("02:30-04:00", datetime(2026, 10, 25), ["25 00:30", "25 01:00", "25 01:30", "25 03:00"]),
    ],
)
def test_changes_of_the_clocks(hours: str, day: datetime, expected: list[str]) -> None:
    found = schedule(f"{hours} Europe/Zurich")
    assert changes(found, day.replace(tzinfo=UTC), len(expected)) == expected


@pytest.mark.parametrize("hours", ["22:00-06:00", "02:15-02:45", "00:00-02:30", "23:30-00:30"])
@pytest.mark.parametrize("day", [datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)])
def test_spans_are_the_open_minutes(hours: str, day: datetime) -> None:
    found = schedule(f"{hours} Europe/Zurich")
    end = day + timedelta(days=2)
    spans = found.spans(to_micros(day), to_micros(end))
    assert sum(high - low for low, high in spans) == open_minutes(found, day, end) * 60_000_000


def test_several_windows_and_the_day_of_the_first() -> None:
    both = schedule("12:00-13:00 Europe/Zurich", "12:30-14:00 UTC")
    assert changes(both, datetime(2026, 7, 1, tzinfo=UTC), 4) == ["01 10:00", "01 11:00", "01 12:30", "01 14:00"]
    start, end = both.day(to_micros(datetime(2026, 3, 29, 12, tzinfo=UTC)))
    assert (from_micros(start), (end - start) / 3.6e9) == (datetime(2026, 3, 28, 23, tzinfo=UTC), 23)


def test_always_open() -> None:
    for found in (schedule(), schedule("00:00-24:00 UTC"), schedule("06:00-18:00 UTC", "18:00-06:00 UTC")):
        now = to_micros(datetime(2026, 7, 1, tzinfo=UTC))
        assert found.is_open(now)
        assert found.next_change(now) is None
        assert sum(high - low for low, high in found.spans(now, now + 3_600_000_000)) == 3_600_000_000


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("windows", "22:00-06:00", "a zone"),
        ("windows", ["22:00-06:00 Europe/Zurich", "6-8 UTC"], "'6-8 UTC'"),
        ("windows", "22:00-26:00 UTC", "22:00-26:00"),
        ("windows", "22:00-06:00 Mars/Olympus", "Mars/Olympus"),
        ("windows", [], "expected a list"),
        ("windows", 5, "expected a list"),
        ("max_rate", "20 kB", "20 kB/s"),
        ("max_rate", "5 B/s", "at least 500"),
        ("max_rate", "fast/s", "expected a rate"),
        ("max_per_day", "50", "50 MB"),
        ("max_per_day", True, "50 MB"),
        ("max_per_day", "10 kB", "at least 100 kB"),
        ("max_rate", float("nan"), "expected a rate"),
        ("max_rate", 10**400, "expected a rate"),
        ("max_per_day", float("inf"), "50 MB"),
        ("max_per_day", float("nan"), "50 MB"),
        ("max_per_day", 10**400, "50 MB"),
        ("every", "1 month", "24 hours"),
        ("every", "often", "not understood"),
        ("every", 60, "an interval"),
    ],
)
def test_mistakes_are_named(setting: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits.of("central", **{setting: value})  # type: ignore[arg-type]
    assert f"upstream 'central': {setting}: " in str(caught.value)
    assert words in str(caught.value)


def test_settings_are_read() -> None:
    found = Limits.of("central", "20 kB/s", "50 MB", ["22:00-06:00 Europe/Zurich"], "1 minute")
    assert (found.rate, found.per_day, found.every) == (20_000, 50_000_000, 60_000_000)
    assert Limits.of("central", max_rate=1500.0, max_per_day="1.5 GiB").per_day == 1.5 * 2**30
