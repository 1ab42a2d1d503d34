"""aggregate without an interval: the functions, nulls, groups."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import (
    MONDAY,
    Contract,
    Level,
    Station,
    put,
    put_values,
    result_of,
)
from edgedepot.storage.query import FUNCTIONS

MINUTE = timedelta(minutes=1)


class Aggregates(Contract):
    @pytest.mark.parametrize(
        ("function", "expected"),
        [("avg", 2.5), ("min", -1.5), ("max", 8.0), ("sum", 10.0), ("count", 4), ("first", 3.0), ("last", 0.5)],
    )
    def test_every_function_over_floats_skips_null(self, storage: BaseStorage, function: Any, expected: float) -> None:
        put_values(storage, "humidity", None, 3.0, 8.0, None, -1.5, 0.5, None)
        found = result_of(storage, "humidity", function)
        assert found == pytest.approx(expected, rel=1e-9)
        assert type(found) is type(expected)

    @pytest.mark.parametrize(
        ("function", "expected"),
        [("avg", 2.5), ("min", -7), ("max", 9), ("sum", 10), ("count", 4), ("first", 9), ("last", 3)],
    )
    def test_integers_stay_integers_but_for_their_average(
        self, storage: BaseStorage, function: Any, expected: float
    ) -> None:
        put_values(storage, "pulses", 9, -7, None, 5, 3)
        found = result_of(storage, "pulses", function)
        assert found == expected
        assert type(found) is type(expected)

    def test_the_sum_of_integers_is_exact_beyond_64_bits(self, storage: BaseStorage) -> None:
        put_values(storage, "pulses", 2**63 - 1, 2**63 - 1, 3)
        assert result_of(storage, "pulses", "sum") == 2**64 + 1
        assert result_of(storage, "pulses", "avg") == pytest.approx((2**64 + 1) / 3, rel=1e-9)

    @pytest.mark.parametrize("edge", [2**63 - 1, -(2**63)])
    def test_the_extremes_of_integers_keep_all_of_64_bits(self, storage: BaseStorage, edge: int) -> None:
        put_values(storage, "pulses", edge, edge - 1 if edge > 0 else edge + 1)
        assert result_of(storage, "pulses", "max" if edge > 0 else "min") == edge

    def test_sums_of_floats_agree_within_a_billionth(self, storage: BaseStorage) -> None:
        put_values(storage, "humidity", *(number * 0.1 for number in range(500)))
        assert result_of(storage, "humidity", "sum") == pytest.approx(12475.0, rel=1e-9)
        assert result_of(storage, "humidity", "avg") == pytest.approx(24.95, rel=1e-9)

    @pytest.mark.parametrize("function", FUNCTIONS)
    def test_over_nothing_count_is_0_and_all_else_none(self, storage: BaseStorage, function: Any) -> None:
        nothing = 0 if function == "count" else None
        assert result_of(storage, "humidity", function) == nothing
        put_values(storage, "humidity", None, None)
        assert result_of(storage, "humidity", function) == nothing
        assert result_of(storage, "humidity", function, device="nobody") == nothing
        assert storage.aggregate(Station, "humidity", function, group_by="device") == []
        assert storage.downsample(Station, "humidity", "1h", function) == []

    def test_texts_and_booleans_have_count_first_and_last(self, storage: BaseStorage) -> None:
        put_values(storage, "note", None, "b", "a", "", None)
        put_values(storage, "raining", True, None, False, device="b")
        assert [result_of(storage, "note", function) for function in ("count", "first", "last")] == [3, "b", ""]
        found = [result_of(storage, "raining", function) for function in ("count", "first", "last")]
        assert (found[0], found[1] is True, found[2] is False) == (2, True, True)

    def test_device_and_time_can_be_aggregated_too(self, storage: BaseStorage) -> None:
        put(storage, ("b", MONDAY, 1), ("a", MONDAY + MINUTE, 2), ("a", MONDAY + 2 * MINUTE, 3))
        assert result_of(storage, "device_id", "count", Level) == 3
        assert result_of(storage, "device_id", "first", Level) == "b"
        assert result_of(storage, "device_id", "last", Level) == "a"
        assert result_of(storage, "timestamp", "count", Level, device="a") == 2
        for early, late in (("min", "max"), ("first", "last")):
            found: list[datetime] = [result_of(storage, "timestamp", function, Level) for function in (early, late)]
            assert found == [MONDAY, MONDAY + 2 * MINUTE]
            assert [moment.utcoffset() for moment in found] == [timedelta(0), timedelta(0)]

    def test_of_readings_of_one_moment_first_and_last_go_by_device(self, storage: BaseStorage) -> None:
        put(storage, ("b", MONDAY, 2), ("c", MONDAY, 3), ("a", MONDAY, 1))
        assert result_of(storage, "height", "first", Level) == 1
        assert result_of(storage, "height", "last", Level) == 3

    def test_groups_stand_by_device_without_an_interval_as_well(self, storage: BaseStorage) -> None:
        put(storage, ("b", MONDAY, 5), ("a", MONDAY, 1), ("a", MONDAY + MINUTE, 3), ("B", MONDAY, 7))
        assert storage.aggregate(Level, "height", "sum", group_by="device") == [
            {"device_id": "B", "result": 7.0},
            {"device_id": "a", "result": 4.0},
            {"device_id": "b", "result": 5.0},
        ]
        assert storage.aggregate(Level, "height", "last", group_by="device", device="a") == [
            {"device_id": "a", "result": 3.0}
        ]

    def test_a_device_without_values_is_in_no_group(self, storage: BaseStorage) -> None:
        put_values(storage, "pulses", None, None, device="a")
        put_values(storage, "pulses", None, 4, device="b")
        for function, expected in (("count", 1), ("min", 4), ("first", 4)):
            found = storage.aggregate(Station, "pulses", function, group_by="device")  # type: ignore[arg-type]
            assert found == [{"device_id": "b", "result": expected}]

    def test_device_range_and_function_work_together(self, storage: BaseStorage) -> None:
        put(storage, *((device, MONDAY + n * MINUTE, n) for n in range(10) for device in ("a", "b")))
        found = result_of(storage, "height", "sum", Level, device="b", start=MONDAY + MINUTE, end=MONDAY + 4 * MINUTE)
        assert found == 6
