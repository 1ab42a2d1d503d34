"""query_readings: ranges, order, limits, fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import (
    MICROSECOND,
    MONDAY,
    Contract,
    Level,
    Station,
    Switch,
    put,
    put_series,
    put_values,
    value_error,
    values_of,
)

MINUTE = timedelta(minutes=1)


def devices_of(storage: BaseStorage, **question: Any) -> list[str]:
    return [row["device_id"] for row in storage.query_readings(Level, **question)]


class Queries(Contract):
    def test_a_row_has_device_time_and_every_field(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1})
        (row,) = storage.query_readings(Station)
        assert list(row) == ["device_id", "timestamp", "temperature", "humidity", "raining", "note", "pulses"]

    def test_newest_come_first_unless_asked_otherwise(self, storage: BaseStorage) -> None:
        put_series(storage, MONDAY, MINUTE, 3)
        assert [row["height"] for row in storage.query_readings(Level)] == [2, 1, 0]
        assert [row["height"] for row in storage.query_readings(Level, order="timestamp")] == [0, 1, 2]

    def test_a_model_of_which_nothing_was_stored_is_empty(self, storage: BaseStorage) -> None:
        put(storage, ("a", MONDAY, 1))
        assert storage.query_readings(Station) == []
        assert list(storage.iter_readings(Station)) == []
        assert list(storage.readings(Station)) == []

    def test_each_device_is_found_by_itself(self, storage: BaseStorage) -> None:
        for number, device in enumerate(("b", "a", "c")):
            put(storage, (device, MONDAY, number))
        assert values_of(storage, "height", Level, device="a") == [1]
        assert storage.query_readings(Level, device="d") == []

    # -- ranges -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (None, None, [-1, 0, 1]),
            (0, None, [0, 1]),
            (None, 0, [-1]),
            (0, 1, [0]),
            (-1, 1, [-1, 0]),
            (0, 0, []),
            (1, 0, []),
            (2, None, []),
        ],
    )
    def test_a_range_holds_its_start_and_not_its_end(
        self, storage: BaseStorage, start: int | None, end: int | None, expected: list[int]
    ) -> None:
        put(storage, *(("a", MONDAY + number * MICROSECOND, number) for number in (-1, 0, 1)))
        span: dict[str, Any] = {
            "start": None if start is None else MONDAY + start * MICROSECOND,
            "end": None if end is None else MONDAY + end * MICROSECOND,
        }
        assert values_of(storage, "height", Level, **span) == expected
        assert storage.aggregate(Level, "height", "count", **span) == {"result": len(expected)}
        assert storage.readings(Level).filter(**span).count() == len(expected)

    def test_a_range_may_be_given_in_any_zone(self, storage: BaseStorage) -> None:
        put_series(storage, MONDAY, MINUTE, 3)
        start = (MONDAY + MINUTE).astimezone(ZoneInfo("Asia/Kathmandu"))
        assert values_of(storage, "height", Level, start=start) == [1, 2]

    def test_nothing_is_left_out_because_it_is_old(self, storage: BaseStorage) -> None:
        put(storage, ("a", datetime(1995, 1, 1, tzinfo=UTC), 1), ("a", MONDAY, 2))
        assert values_of(storage, "height", Level) == [1, 2]
        assert storage.aggregate(Level, "height", "count") == {"result": 2}

    # -- limits -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("limit", "expected"), [(0, []), (1, [2]), (2, [2, 1]), (3, [2, 1, 0]), (4, [2, 1, 0])])
    def test_a_limit_keeps_the_first_in_the_order(self, storage: BaseStorage, limit: int, expected: list[int]) -> None:
        put_series(storage, MONDAY, MINUTE, 3)
        assert [row["height"] for row in storage.query_readings(Level, limit=limit)] == expected

    @pytest.mark.parametrize("limit", [None, 2**31, 2**63, 10**30])
    def test_no_limit_and_a_huge_one_give_all(self, storage: BaseStorage, limit: int | None) -> None:
        put_series(storage, MONDAY, MINUTE, 3)
        assert len(storage.query_readings(Level, limit=limit)) == 3

    @pytest.mark.parametrize("limit", [-1, True, 1.0, "1", "1; DROP TABLE x"])
    def test_a_limit_that_is_no_number_of_rows_is_a_value_error(self, storage: BaseStorage, limit: Any) -> None:
        with value_error():
            storage.query_readings(Level, limit=limit)
        with value_error():
            storage.iter_readings(Level, limit=limit)
        with value_error():
            storage.readings(Level).limit(limit)

    # -- order ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("field", "values", "expected"),
        [
            ("humidity", [1.5, None, -2.0, 0.0], [None, -2.0, 0.0, 1.5]),
            ("pulses", [2**63 - 1, None, -(2**63), 10, 9], [None, -(2**63), 9, 10, 2**63 - 1]),
            ("raining", [True, None, False], [None, False, True]),
            (
                "note",
                ["b", "a", None, "B", "", "ä", "aa", "\uffff", "🎈", "Z"],
                [None, "", "B", "Z", "a", "aa", "b", "ä", "\uffff", "🎈"],
            ),
        ],
        ids=["floats", "integers", "booleans", "texts by code point"],
    )
    def test_order_by_a_field_has_null_before_all_values(
        self, storage: BaseStorage, field: str, values: list[Any], expected: list[Any]
    ) -> None:
        put_values(storage, field, *values)
        assert values_of(storage, field, order=field) == expected
        assert values_of(storage, field, order="-" + field) == expected[::-1]

    @pytest.mark.parametrize("order", ["timestamp", "-timestamp"])
    def test_readings_of_one_moment_go_upwards_by_device_in_either_order(
        self, storage: BaseStorage, order: str
    ) -> None:
        put(storage, *((device, MONDAY, 1) for device in ("b", "ä", "a", "B", "aa")))
        assert devices_of(storage, order=order) == ["B", "a", "aa", "b", "ä"]

    @pytest.mark.parametrize("order", ["height", "-height"])
    def test_equal_values_go_upwards_by_device_and_then_by_time(self, storage: BaseStorage, order: str) -> None:
        put(storage, ("b", MONDAY, 1), ("a", MONDAY + MINUTE, 1), ("a", MONDAY, 1))
        rows = storage.query_readings(Level, order=order)
        assert [(row["device_id"], row["timestamp"]) for row in rows] == [
            ("a", MONDAY),
            ("a", MONDAY + MINUTE),
            ("b", MONDAY),
        ]

    def test_order_by_device_has_each_device_oldest_first(self, storage: BaseStorage) -> None:
        put(storage, ("b", MONDAY, 1), ("a", MONDAY + MINUTE, 2), ("a", MONDAY, 3))
        assert [row["height"] for row in storage.query_readings(Level, order="device_id")] == [3, 2, 1]
        assert [row["height"] for row in storage.query_readings(Level, order="-device_id")] == [1, 3, 2]

    def test_order_may_name_a_field_that_is_not_returned(self, storage: BaseStorage) -> None:
        put_values(storage, "note", "b", "a")
        rows = storage.query_readings(Station, fields=["temperature"], order="note")
        assert [row["timestamp"] for row in rows] == [MONDAY + MINUTE, MONDAY]

    # -- fields -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            (["note"], ["note"]),
            (("raining", "temperature"), ["raining", "temperature"]),
            (["note", "temperature", "note"], ["note", "temperature"]),
            (["timestamp", "note", "device_id"], ["note"]),
            ([], []),
            (["quality"], ["quality"]),
            (["quality", "pulses"], ["quality", "pulses"]),
        ],
    )
    def test_fields_choose_what_comes_beside_device_and_time(
        self, storage: BaseStorage, fields: Any, expected: list[str]
    ) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1})
        (row,) = storage.query_readings(Station, fields=fields)
        assert list(row) == ["device_id", "timestamp", *expected]
        (row,) = storage.iter_readings(Station, fields=fields)
        assert list(row) == ["device_id", "timestamp", *expected]

    def test_a_reading_of_which_no_chosen_field_has_a_value_is_there_all_the_same(self, storage: BaseStorage) -> None:
        storage.store_reading(Switch, "a", MONDAY, {"closed": True})
        assert storage.query_readings(Switch, fields=["label"]) == [
            {"device_id": "a", "timestamp": MONDAY, "label": None}
        ]
        assert storage.aggregate(Switch, "timestamp", "count") == {"result": 1}
        assert storage.aggregate(Switch, "label", "count") == {"result": 0}
