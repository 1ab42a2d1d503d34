"""Names that are not declared, in every parameter that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import MONDAY, Contract, Level, Station, value_error

HOSTILE = [
    "",
    " ",
    "heigth",
    "Height",
    "height ",
    "height; DROP TABLE conformance_level; --",
    'height" FROM conformance_level; --',
    "height') OR ('1'='1",
    "1",
    "*",
    "height, height",
    "max(height)",
    "rowid",
    "ctid",
    "_value",
    "gateway_id",
    "store_epoch",
    "received_at",
    "__class__",
    "height\0",
    "\ud800",
    "{}",
    "%s",
]
WRONG: list[Any] = [None, 7, True, b"height", ["height"], ("height",), {"height": 1}, Level]


class Names(Contract):
    @pytest.fixture
    def unharmed(self, storage: BaseStorage) -> Iterator[BaseStorage]:
        """The storage with one reading, which has to be there afterwards."""
        storage.store_reading(Level, "a", MONDAY, {"height": 1})
        yield storage
        assert storage.query_readings(Level) == [{"device_id": "a", "timestamp": MONDAY, "height": 1.0}]

    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_field_to_return_that_is_not_declared_is_a_value_error(self, unharmed: BaseStorage, name: str) -> None:
        with value_error():
            unharmed.query_readings(Level, fields=[name])
        with value_error():
            unharmed.query_readings(Level, fields=["height", name])
        with value_error():
            unharmed.iter_readings(Level, fields=[name])

    @pytest.mark.parametrize("fields", ["height", 7, [7], [None], [["height"]], {"height": 1, 7: 1}, object])
    def test_fields_that_are_no_names_are_a_value_error(self, unharmed: BaseStorage, fields: Any) -> None:
        with value_error():
            unharmed.query_readings(Level, fields=fields)

    @pytest.mark.parametrize("name", [*HOSTILE, *WRONG, "--height", "+height", "-", "quality", "height DESC"])
    def test_an_order_that_is_not_declared_is_a_value_error(self, unharmed: BaseStorage, name: Any) -> None:
        with value_error():
            unharmed.query_readings(Level, order=name)
        with value_error():
            unharmed.readings(Level).order_by(name)

    @pytest.mark.parametrize("name", [*HOSTILE, *WRONG])
    def test_a_field_to_aggregate_that_is_not_declared_is_a_value_error(self, unharmed: BaseStorage, name: Any) -> None:
        with value_error():
            unharmed.aggregate(Level, name)
        with value_error():
            unharmed.downsample(Level, name, "1h", "count")

    @pytest.mark.parametrize("function", [*HOSTILE, *WRONG, "AVG", "median", "count(*)"])
    def test_a_function_that_is_not_one_of_the_seven_is_a_value_error(
        self, unharmed: BaseStorage, function: Any
    ) -> None:
        with value_error():
            unharmed.aggregate(Level, "height", function)

    @pytest.mark.parametrize("group_by", [*HOSTILE, *(wrong for wrong in WRONG if wrong is not None), "device_id"])
    def test_a_group_that_is_not_device_is_a_value_error(self, unharmed: BaseStorage, group_by: Any) -> None:
        with value_error():
            unharmed.aggregate(Level, "height", group_by=group_by)

    @pytest.mark.parametrize("fill", [*HOSTILE, *(wrong for wrong in WRONG if wrong is not None), "NULL", "linear"])
    def test_a_fill_that_is_neither_null_nor_previous_is_a_value_error(self, unharmed: BaseStorage, fill: Any) -> None:
        with value_error():
            unharmed.downsample(Level, "height", "1h", fill=fill)

    @pytest.mark.parametrize(
        "tz",
        [*HOSTILE, *WRONG, "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "UTC'; --", "+01:00", "z" * 5000],
        ids=lambda tz: repr(tz)[:30],
    )
    def test_a_zone_that_is_not_known_is_a_value_error(self, unharmed: BaseStorage, tz: Any) -> None:
        with value_error():
            unharmed.downsample(Level, "height", "1d", tz=tz)

    @pytest.mark.parametrize(
        "interval",
        [
            *HOSTILE, *(wrong for wrong in WRONG if wrong is not None),
            "0s", "-5m", "+5m", "5 parsecs", "1.5h", "m5", "5ms", "5M", "5MO", "1 hour 30 minutes", "PT5M", "１m",
            "hour; DROP TABLE x", 60, 60.0, timedelta(0), timedelta(seconds=-1), timedelta(microseconds=-1),
            "9999999999 seconds", "999999999y", timedelta.max,
        ],
        ids=lambda interval: repr(interval)[:30],
    )  # fmt: skip
    def test_an_interval_that_is_not_understood_is_a_value_error(self, unharmed: BaseStorage, interval: Any) -> None:
        with value_error():
            unharmed.downsample(Level, "height", interval)

    @pytest.mark.parametrize("function", ["avg", "sum", "min", "max"])
    @pytest.mark.parametrize("field", ["raining", "note", "device_id"])
    def test_arithmetic_over_what_is_no_number_is_a_value_error(
        self, unharmed: BaseStorage, field: str, function: Any
    ) -> None:
        with value_error():
            unharmed.aggregate(Station, field, function)

    @pytest.mark.parametrize("function", ["avg", "sum"])
    def test_times_have_no_sum(self, unharmed: BaseStorage, function: Any) -> None:
        with value_error():
            unharmed.aggregate(Station, "timestamp", function)

    @pytest.mark.parametrize("model", [dict, "conformance_level", None])
    def test_what_is_no_reading_model_cannot_be_asked_for(self, unharmed: BaseStorage, model: Any) -> None:
        with value_error():
            unharmed.query_readings(model)
        with value_error():
            unharmed.aggregate(model, "height")
        with value_error():
            unharmed.readings(model)
