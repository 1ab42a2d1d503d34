"""downsample: intervals, their origins, zones, groups and fill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import (
    MICROSECOND,
    Contract,
    Level,
    buckets_of,
    put,
    put_series,
    value_error,
)

HALF_HOUR = timedelta(minutes=30)
CHANGES = {
    "Zurich, an hour forward": ("Europe/Zurich", "2026-03-28 00:00:00+01:00",
        [("2026-03-29 00:00:00+01:00", 46), ("2026-03-30 00:00:00+02:00", 48)]),
    "Zurich, an hour back": ("Europe/Zurich", "2026-10-24 00:00:00+02:00",
        [("2026-10-25 00:00:00+02:00", 50), ("2026-10-26 00:00:00+01:00", 48)]),
    "New York, an hour forward": ("America/New_York", "2026-03-07 00:00:00-05:00",
        [("2026-03-08 00:00:00-05:00", 46), ("2026-03-09 00:00:00-04:00", 48)]),
    "New York, an hour back": ("America/New_York", "2026-10-31 00:00:00-04:00",
        [("2026-11-01 00:00:00-04:00", 50), ("2026-11-02 00:00:00-05:00", 48)]),
    "Lord Howe, half an hour back": ("Australia/Lord_Howe", "2026-04-04 00:00:00+11:00",
        [("2026-04-05 00:00:00+11:00", 49), ("2026-04-06 00:00:00+10:30", 48)]),
    "Lord Howe, half an hour forward": ("Australia/Lord_Howe", "2026-10-03 00:00:00+10:30",
        [("2026-10-04 00:00:00+10:30", 47), ("2026-10-05 00:00:00+11:00", 48)]),
    "Havana, over midnight": ("America/Havana", "2026-03-07 00:00:00-05:00",
        [("2026-03-08 01:00:00-04:00", 46), ("2026-03-09 00:00:00-04:00", 48)]),
    "Havana, back to midnight": ("America/Havana", "2026-10-31 00:00:00-04:00",
        [("2026-11-01 00:00:00-04:00", 50), ("2026-11-02 00:00:00-05:00", 48)]),
    "St. John's, back over midnight": ("America/St_Johns", "2010-11-06 00:00:00-02:30",
        [("2010-11-07 00:00:00-02:30", 50), ("2010-11-08 00:00:00-03:30", 48)]),
    "Apia, over a whole day": ("Pacific/Apia", "2011-12-29 00:00:00-10:00",
        [("2011-12-31 00:00:00+14:00", 48), ("2012-01-01 00:00:00+14:00", 48)]),
}  # fmt: skip

EQUAL = [
    ["second", "1 second", "1s", "seconds", timedelta(seconds=1)],
    ["minute", "1 minute", "1m", "60s", "60 seconds", timedelta(minutes=1)],
    ["5 minutes", "5m", "5 m", " 5minutes ", "300s", timedelta(minutes=5)],
    ["90 minutes", "90m", timedelta(hours=1.5)],
    ["hour", "1 hour", "1h", "60 minutes", timedelta(hours=1)],
    ["day", "1 day", "1d", timedelta(days=1)],
    ["week", "1w", "7 days", timedelta(days=7)],
    ["month", "1 month", "1mo"],
    ["3 months", "3mo"],
    ["year", "1y", "12 months", "12mo"],
]


def at(text: str) -> datetime:
    """A time from text; in UTC where the text does not say."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Buckets(Contract):
    # -- zones ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("zone", "first", "expected"), CHANGES.values(), ids=CHANGES)
    def test_days_follow_the_clocks(
        self, storage: BaseStorage, zone: str, first: str, expected: list[tuple[str, int]]
    ) -> None:
        days = [(first, 48), *expected]
        put_series(storage, at(first), HALF_HOUR, sum(count for _, count in days))
        assert buckets_of(storage, "1d", tz=zone) == days

    @pytest.mark.parametrize(("first", "count"), [("2026-03-29", 23), ("2026-10-25", 25)])
    def test_hours_are_all_alike_on_a_day_of_change(self, storage: BaseStorage, first: str, count: int) -> None:
        start = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo("Europe/Zurich"))
        put_series(storage, start, HALF_HOUR, 2 * count)
        found = buckets_of(storage, "1h", tz="Europe/Zurich")
        assert found == [
            ((start.astimezone(UTC) + timedelta(hours=number)).isoformat(" "), 2) for number in range(count)
        ]

    def test_hours_are_aligned_to_utc_also_where_clocks_are_not(self, storage: BaseStorage) -> None:
        put(storage, ("a", at("2026-01-01 05:50"), 1))
        assert buckets_of(storage, "1h", tz="Asia/Kathmandu") == [("2026-01-01 05:00:00+00:00", 1)]
        assert buckets_of(storage, "1d", tz="Asia/Kathmandu") == [("2026-01-01 00:00:00+05:45", 1)]
        assert buckets_of(storage, "24h", tz="Asia/Kathmandu") == [("2026-01-01 00:00:00+00:00", 1)]

    @pytest.mark.parametrize(
        ("interval", "expected"),
        [
            ("1d", "2026-01-01 00:00:00+13:00"),
            ("1w", "2025-12-29 00:00:00+13:00"),
            ("1mo", "2026-01-01 00:00:00+13:00"),
            ("1y", "2026-01-01 00:00:00+13:00"),
        ],
    )
    def test_it_is_next_year_already_in_auckland(self, storage: BaseStorage, interval: str, expected: str) -> None:
        put(storage, ("a", at("2025-12-31 11:00"), 1))
        assert buckets_of(storage, interval, tz="Pacific/Auckland") == [(expected, 1)]

    def test_a_month_with_a_change_has_its_length(self, storage: BaseStorage) -> None:
        put_series(storage, at("2026-03-01 00:00:00+01:00"), timedelta(hours=1), 31 * 24 - 1 + 24)
        assert buckets_of(storage, "1mo", tz="Europe/Zurich") == [
            ("2026-03-01 00:00:00+01:00", 31 * 24 - 1),
            ("2026-04-01 00:00:00+02:00", 24),
        ]

    # -- intervals and their origins --------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("interval", "moment", "expected"),
        [
            ("second", "2026-01-05 12:34:56.999999", "2026-01-05 12:34:56+00:00"),
            ("7 seconds", "1970-01-01 00:00:13", "1970-01-01 00:00:07+00:00"),
            ("5 minutes", "2026-01-05 12:34:56", "2026-01-05 12:30:00+00:00"),
            ("90 minutes", "2026-01-05 12:34:56", "2026-01-05 12:00:00+00:00"),
            ("90 minutes", "2026-01-05 13:29:59.999999", "2026-01-05 12:00:00+00:00"),
            ("7 hours", "1970-01-02 00:00", "1970-01-01 21:00:00+00:00"),
            ("36h", "1970-01-04 00:00", "1970-01-04 00:00:00+00:00"),
            ("1000 h", "1970-01-04 00:00", "1970-01-01 00:00:00+00:00"),
            ("5 minutes", "1969-12-31 23:59:59.999999", "1969-12-31 23:55:00+00:00"),
            ("1 hour", "1969-12-31 23:00", "1969-12-31 23:00:00+00:00"),
            ("7 hours", "1969-12-31 23:00", "1969-12-31 17:00:00+00:00"),
            (timedelta(milliseconds=250), "2026-01-05 12:00:00.999", "2026-01-05 12:00:00.750000+00:00"),
            (timedelta(microseconds=1), "2026-01-05 12:00:00.000001", "2026-01-05 12:00:00.000001+00:00"),
            ("1d", "1969-12-31 23:59:59.999999", "1969-12-31 00:00:00+00:00"),
            ("3 days", "2026-01-05 12:00", "2026-01-04 00:00:00+00:00"),
            ("3 days", "2000-01-02 12:00", "1999-12-31 00:00:00+00:00"),
            ("10d", "2026-01-05 12:00", "2025-12-27 00:00:00+00:00"),
            ("1w", "2026-01-04 23:59:59.999999", "2025-12-29 00:00:00+00:00"),
            ("week", "2026-01-05 00:00", "2026-01-05 00:00:00+00:00"),
            ("2w", "2026-01-05 12:00", "2025-12-29 00:00:00+00:00"),
            ("2 weeks", "1999-12-31", "1999-12-20 00:00:00+00:00"),
            ("month", "2024-02-29 23:59:59.999999", "2024-02-01 00:00:00+00:00"),
            ("3mo", "2026-03-31 12:00", "2026-01-01 00:00:00+00:00"),
            ("5 months", "2026-01-05", "2025-11-01 00:00:00+00:00"),
            ("7mo", "1999-12-31", "1999-06-01 00:00:00+00:00"),
            ("year", "2026-12-31 23:59:59.999999", "2026-01-01 00:00:00+00:00"),
            ("3 years", "2026-01-05", "2024-01-01 00:00:00+00:00"),
            ("10y", "1999-12-31", "1990-01-01 00:00:00+00:00"),
            ("18 months", "2026-07-01", "2025-07-01 00:00:00+00:00"),
        ],
    )
    def test_a_bucket_is_labelled_by_its_start(
        self, storage: BaseStorage, interval: Any, moment: str, expected: str
    ) -> None:
        put(storage, ("a", at(moment), 1))
        assert buckets_of(storage, interval) == [(expected, 1)]

    @pytest.mark.parametrize("spellings", EQUAL, ids=lambda spellings: spellings[0])
    def test_an_interval_may_be_written_in_several_ways(self, storage: BaseStorage, spellings: list[Any]) -> None:
        put_series(storage, at("2025-11-29 12:00:00.5"), timedelta(days=13, minutes=7), 5)
        put_series(storage, at("2026-01-04 23:59:59"), timedelta(seconds=0.75), 3)
        found = [buckets_of(storage, spelling, "sum") for spelling in spellings]
        assert found[0] != []
        assert found == [found[0]] * len(found)

    def test_buckets_are_half_open_too(self, storage: BaseStorage) -> None:
        noon = at("2026-01-05 12:00")
        put(storage, ("a", noon - MICROSECOND, 1), ("a", noon, 2), ("a", noon + timedelta(hours=1) - MICROSECOND, 3))
        assert buckets_of(storage, "1h", "sum") == [
            ("2026-01-05 11:00:00+00:00", 1.0),
            ("2026-01-05 12:00:00+00:00", 5.0),
        ]

    def test_a_range_that_cuts_into_buckets_leaves_their_labels(self, storage: BaseStorage) -> None:
        put_series(storage, at("2026-01-05 12:00"), timedelta(minutes=15), 12)
        cut = {"start": at("2026-01-05 12:20"), "end": at("2026-01-05 14:15")}
        assert buckets_of(storage, "1h", "sum", **cut) == [
            ("2026-01-05 12:00:00+00:00", 2 + 3.0),
            ("2026-01-05 13:00:00+00:00", 4 + 5 + 6 + 7.0),
            ("2026-01-05 14:00:00+00:00", 8.0),
        ]
        assert buckets_of(storage, "1d", tz="America/New_York", **cut) == [("2026-01-05 00:00:00-05:00", 7)]
        assert buckets_of(storage, "1mo", "first", **cut) == [("2026-01-01 00:00:00+00:00", 2.0)]

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            ("avg", [1.5, 7.0]),
            ("min", [0, 5]),
            ("max", [3, 9]),
            ("sum", [6, 14]),
            ("count", [4, 2]),
            ("first", [0, 9]),
            ("last", [3, 5]),
        ],
    )
    @pytest.mark.parametrize("interval", ["1h", "1d"])
    def test_every_function_works_in_buckets(
        self, storage: BaseStorage, interval: str, function: Any, expected: list[float]
    ) -> None:
        put_series(storage, at("2026-01-05 12:00"), timedelta(minutes=15), 4)
        put(storage, ("a", at("2026-01-07 15:30"), 5), ("a", at("2026-01-07 15:20"), 9))
        assert [result for _, result in buckets_of(storage, interval, function)] == expected

    def test_years_may_lie_between_two_buckets(self, storage: BaseStorage) -> None:
        put(storage, ("a", at("1971-03-01"), 1), ("a", at("2026-01-05"), 2))
        for interval in ("1s", "1d", "1mo"):
            assert [result for _, result in buckets_of(storage, interval, tz="Europe/Zurich")] == [1, 1]

    # -- groups -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("interval", ["1h", "1d"])
    def test_groups_have_their_own_buckets_device_by_device(self, storage: BaseStorage, interval: str) -> None:
        day, next_day = at("2026-01-05"), at("2026-01-06")
        put(storage, ("b", day, 1), ("a", next_day, 2), ("a", day, 3), ("b", day + HALF_HOUR, 4))
        found = storage.downsample(Level, "height", interval, "sum", group_by="device")
        assert found == [
            {"device_id": "a", "bucket": day, "result": 3.0},
            {"device_id": "a", "bucket": next_day, "result": 2.0},
            {"device_id": "b", "bucket": day, "result": 5.0},
        ]

    # -- fill -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("function", "fill", "expected"),
        [
            ("sum", "null", [None, 3.0, None, 5.0, None]),
            ("sum", "previous", [None, 3.0, 3.0, 5.0, 5.0]),
            ("last", "previous", [None, 2.0, 2.0, 5.0, 5.0]),
            ("count", "null", [0, 2, 0, 1, 0]),
            ("count", "previous", [0, 2, 0, 1, 0]),
        ],
    )
    @pytest.mark.parametrize("width", [timedelta(hours=1), timedelta(days=1)], ids=["1h", "1d"])
    def test_fill_covers_the_range(
        self, storage: BaseStorage, width: timedelta, function: Any, fill: Any, expected: list[Any]
    ) -> None:
        first = at("2026-01-05")
        put(storage, ("a", first - width, 9))  # before the range, where "previous" must not look
        put(storage, ("a", first + width, 1), ("a", first + 1.5 * width, 2), ("a", first + 3 * width, 5))
        found = storage.downsample(
            Level, "height", width, function, fill=fill, start=first, end=first + 4 * width + MICROSECOND
        )
        assert found == [{"bucket": first + number * width, "result": result} for number, result in enumerate(expected)]

    @pytest.mark.parametrize(
        ("bounds", "expected"),
        [
            ({}, ["06", "07", "08"]),
            ({"start": at("2026-01-05 12:00")}, ["05", "06", "07", "08"]),
            ({"end": at("2026-01-10")}, ["06", "07", "08", "09"]),
            ({"end": at("2026-01-08")}, ["06", "07"]),
            ({"start": at("2026-01-07")}, ["07", "08"]),
            ({"start": at("2026-01-08 06:00")}, ["08"]),
        ],
    )
    def test_where_a_bound_is_missing_fill_goes_from_first_to_last_value(
        self, storage: BaseStorage, bounds: dict[str, Any], expected: list[str]
    ) -> None:
        put(storage, ("a", at("2026-01-06 12:00"), 1), ("a", at("2026-01-08 12:00"), 2))
        found = buckets_of(storage, "1d", fill="null", **bounds)
        assert [label for label, _ in found] == [f"2026-01-{day} 00:00:00+00:00" for day in expected]

    def test_fill_of_nothing_covers_a_range_with_both_bounds_and_no_other(self, storage: BaseStorage) -> None:
        start, end = at("2026-01-05"), at("2026-01-07")
        assert buckets_of(storage, "1d", "max", fill="null", start=start, end=end) == [
            ("2026-01-05 00:00:00+00:00", None),
            ("2026-01-06 00:00:00+00:00", None),
        ]
        assert buckets_of(storage, "1d", fill="previous", start=start, end=end) == [
            ("2026-01-05 00:00:00+00:00", 0),
            ("2026-01-06 00:00:00+00:00", 0),
        ]
        for bounds in ({}, {"start": start}, {"end": end}, {"start": end, "end": start}, {"start": end, "end": end}):
            assert buckets_of(storage, "1d", fill="null", **bounds) == []

    def test_fill_follows_the_clocks(self, storage: BaseStorage) -> None:
        put(storage, ("a", at("2026-03-28 12:00"), 1), ("a", at("2026-03-31 12:00"), 2))
        assert buckets_of(storage, "1d", "last", fill="previous", tz="Europe/Zurich") == [
            ("2026-03-28 00:00:00+01:00", 1.0),
            ("2026-03-29 00:00:00+01:00", 1.0),
            ("2026-03-30 00:00:00+02:00", 1.0),
            ("2026-03-31 00:00:00+02:00", 2.0),
        ]

    def test_each_group_is_filled_by_itself(self, storage: BaseStorage) -> None:
        put(storage, *((device, at(f"2026-01-{day:02}"), day) for device, day in (("a", 5), ("a", 7), ("b", 6))))
        found = storage.downsample(Level, "height", "1d", "max", group_by="device", fill="previous")
        assert [(row["device_id"], row["bucket"].day, row["result"]) for row in found] == [
            ("a", 5, 5.0),
            ("a", 6, 5.0),
            ("a", 7, 7.0),
            ("b", 6, 6.0),
        ]

    @pytest.mark.parametrize("bounded", [True, False])
    def test_a_fill_of_a_billion_buckets_is_a_value_error(self, storage: BaseStorage, bounded: bool) -> None:
        start, end = at("1990-01-01"), at("2026-01-01")
        put(storage, ("a", start, 1), ("a", end - MICROSECOND, 2))
        span: dict[str, Any] = {"start": start, "end": end} if bounded else {}
        with value_error():
            storage.downsample(Level, "height", "1s", fill="null", **span)
        assert len(buckets_of(storage, "1s", **span)) == 2
