"""iter_readings, and the ORM style over it."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import (
    MONDAY,
    Contract,
    Level,
    Station,
    put,
    put_series,
    put_values,
    value_error,
)
from edgedepot.storage.paging import PAGE

MINUTE = timedelta(minutes=1)


def position_of(row: dict[str, Any]) -> tuple[datetime, str | None, str]:
    return row["timestamp"], row.get("gateway_id"), row["device_id"]


class Paging(Contract):
    @pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
    def test_iterating_gives_what_the_query_gives(self, storage: BaseStorage, order: str) -> None:
        put(storage, *((device, MONDAY + minute * MINUTE, 1) for minute in range(4) for device in ("b", "a", "ä")))
        questions: list[dict[str, Any]] = [
            {},
            {"device": "a"},
            {"start": MONDAY + MINUTE, "end": MONDAY + 3 * MINUTE},
            {"limit": 5},
            {"limit": 0},
            {"fields": []},
        ]
        for question in questions:
            rows = storage.query_readings(Level, order=order, **question)
            assert list(storage.iter_readings(Level, order=order, **question)) == rows

    @pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
    def test_after_goes_on_behind_any_row_also_among_those_of_one_moment(
        self, storage: BaseStorage, order: str
    ) -> None:
        put(storage, *((device, MONDAY + minute * MINUTE, 1) for minute in range(3) for device in ("b", "a", "ä", "B")))
        rows = storage.query_readings(Level, order=order)
        for index, row in enumerate(rows):
            after = position_of(row)
            assert list(storage.iter_readings(Level, order=order, after=after)) == rows[index + 1 :]
            assert list(storage.iter_readings(Level, order=order, after=after, limit=2)) == rows[index + 1 : index + 3]

    @pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
    def test_pages_join_without_gap_or_repeat(self, storage: BaseStorage, order: str) -> None:
        moments = 1 + PAGE // 2
        put(storage, *((device, MONDAY + n * MINUTE, n) for n in range(moments) for device in ("a", "b", "c")))
        found = [(row["height"], row["device_id"]) for row in storage.iter_readings(Level, order=order)]
        numbers = range(moments) if order == "timestamp" else reversed(range(moments))
        assert found == [(number, device) for number in numbers for device in ("a", "b", "c")]

    def test_more_readings_of_one_moment_than_a_page_holds_all_come(self, storage: BaseStorage) -> None:
        devices = [f"d{number:05}" for number in range(2 * PAGE + 10)]
        put(storage, *((device, MONDAY, 1) for device in devices))
        assert [row["device_id"] for row in storage.iter_readings(Level)] == devices

    @pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
    def test_after_may_be_given_in_a_zone_whose_hour_repeats(self, storage: BaseStorage, order: str) -> None:
        zurich = ZoneInfo("Europe/Zurich")
        put_series(storage, datetime(2026, 10, 25, 1, tzinfo=zurich), timedelta(minutes=30), 6)
        rows = storage.query_readings(Level, order=order)
        for index, row in enumerate(rows):
            after = (row["timestamp"].astimezone(zurich), None, "a")
            assert list(storage.iter_readings(Level, order=order, after=after)) == rows[index + 1 :]

    @pytest.mark.parametrize(
        "after",
        [
            (datetime(2026, 1, 5, 12), None, "a"),
            ("2026-01-05", None, "a"),
            (MONDAY, "a"),
            (MONDAY, None, 7),
            (MONDAY, 7, "a"),
            [MONDAY, None, "a"],
            MONDAY,
            "a",
        ],
        ids=["naive", "text", "two parts", "no device", "no gateway", "a list", "a time", "a device"],
    )
    def test_what_is_no_position_is_a_value_error_at_once(self, storage: BaseStorage, after: Any) -> None:
        with value_error():
            storage.iter_readings(Level, after=after)

    @pytest.mark.parametrize("order", ["height", "-device_id", "height; DROP TABLE x"])
    def test_pages_follow_time_only(self, storage: BaseStorage, order: str) -> None:
        with value_error():
            storage.iter_readings(Level, order=order)

    # -- ORM style --------------------------------------------------------------------------------------------------

    def test_readings_are_instances_of_their_model(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 20, "note": "dry"})
        (reading,) = storage.readings(Station)
        assert reading == Station(
            device_id="a", timestamp=MONDAY, temperature=20.0, humidity=None, raining=None, note="dry", pulses=None
        )
        assert type(reading) is Station

    def test_a_reading_knows_its_quality(self, storage: BaseStorage) -> None:
        put_values(storage, "temperature", 20, 100)
        qualities = [reading.quality for reading in storage.readings(Station).order_by("timestamp")]
        assert qualities == [None, 1 if "quality" not in self.lacks else None]

    def test_filters_narrow_one_another(self, storage: BaseStorage) -> None:
        put_series(storage, MONDAY, MINUTE, 6)
        put_series(storage, MONDAY, MINUTE, 6, device="b")
        asked = storage.readings(Level).filter(device="a", start=MONDAY + MINUTE)
        narrower = asked.filter(start=MONDAY, end=MONDAY + 4 * MINUTE).filter(end=MONDAY + 5 * MINUTE)
        assert [reading.height for reading in narrower.order_by("timestamp")] == [1, 2, 3]
        assert asked.count() == 5
        with value_error():
            asked.filter(device="b")

    def test_order_limit_first_last_and_count(self, storage: BaseStorage) -> None:
        put(storage, *((device, MONDAY + n * MINUTE, 10 - n) for n in range(3) for device in ("b", "a")))
        asked = storage.readings(Level)
        assert [(reading.device_id, reading.height) for reading in asked.order_by("height").limit(3)] == [
            ("a", 8.0),
            ("b", 8.0),
            ("a", 9.0),
        ]
        ends = [asked.first(), asked.last(), asked.order_by("timestamp").first(), asked.order_by("timestamp").last()]
        assert [(end.device_id, end.height) for end in ends if end] == [("a", 8), ("b", 10), ("a", 10), ("b", 8)]
        assert (asked.count(), asked.limit(4).count(), asked.limit(0).count()) == (6, 4, 0)
        limited = asked.limit(2).last()
        assert limited is not None
        assert (limited.device_id, limited.height) == ("b", 8)
        assert asked.limit(0).first() is None

    def test_of_nothing_there_is_no_first_and_no_last(self, storage: BaseStorage) -> None:
        asked = storage.readings(Level)
        assert (asked.first(), asked.last(), asked.order_by("height").last(), asked.count()) == (None, None, None, 0)

    def test_a_question_is_asked_anew_each_time_it_is_iterated(self, storage: BaseStorage) -> None:
        asked = storage.readings(Level)
        assert list(asked) == []
        put(storage, ("a", MONDAY, 1))
        assert [reading.height for reading in asked] == [1]
        assert len(list(islice(asked, 5))) == 1

    def test_questions_aggregate_and_downsample_too(self, storage: BaseStorage) -> None:
        put_series(storage, MONDAY, MINUTE, 4)
        asked = storage.readings(Level).filter(start=MONDAY + MINUTE)
        assert asked.aggregate("height", "sum") == {"result": 6.0}
        assert asked.aggregate("height", group_by="device") == [{"device_id": "a", "result": 2.0}]
        assert [row["result"] for row in asked.downsample("height", "2m", "max", fill="null")] == [1, 3]
