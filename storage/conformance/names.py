"""Names that are not declared, in every parameter that takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import MONDAY, Contract, Level, Station
from edgedepot.storage.reading import Reading

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
WRONG: list[Any] = [7, True, b"height", ["height"], ("height",), {"height": 1}, Level]


def accepted(ask: Callable[[Any], object], cases: Iterable[Any]) -> list[Any]:
    """Those of the cases for which no ValueError is raised."""
    found = []
    for case in cases:
        try:
            ask(case)
        except ValueError:
            continue
        found.append(case)
    return found


class Names(Contract):
    @pytest.fixture
    def unharmed(self, storage: BaseStorage) -> Iterator[BaseStorage]:
        """The storage with one reading, which has to be there afterwards."""
        storage.store_reading(Level, "a", MONDAY, {"height": 1})
        yield storage
        assert storage.query_readings(Level) == [{"device_id": "a", "timestamp": MONDAY, "height": 1.0}]

    def test_a_field_to_return_that_is_not_declared_is_a_value_error(self, unharmed: BaseStorage) -> None:
        for ask in (
            lambda name: unharmed.query_readings(Level, fields=[name]),
            lambda name: unharmed.query_readings(Level, fields=["height", name]),
            lambda name: unharmed.iter_readings(Level, fields=[name]),
        ):
            assert accepted(ask, [*HOSTILE, 7, None, ["height"]]) == []

    def test_fields_that_are_no_list_of_names_are_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = ["height", 7, True, object, {"height": 1, 7: 1}]
        assert accepted(lambda fields: unharmed.query_readings(Level, fields=fields), wrong) == []
        assert accepted(lambda fields: unharmed.iter_readings(Level, fields=fields), wrong) == []

    def test_an_order_that_is_not_declared_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [*HOSTILE, *WRONG, None, "--height", "+height", "-", "-heigth", "quality", "height DESC"]
        assert accepted(lambda order: unharmed.query_readings(Level, order=order), wrong) == []
        assert accepted(lambda order: unharmed.readings(Level).order_by(order), wrong) == []

    def test_a_field_to_aggregate_that_is_not_declared_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [*HOSTILE, *WRONG, None]
        assert accepted(lambda name: unharmed.aggregate(Level, name, "count"), wrong) == []
        assert accepted(lambda name: unharmed.downsample(Level, name, "1h", "count"), wrong) == []

    def test_a_function_that_is_not_one_of_the_seven_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [*HOSTILE, *WRONG, None, "AVG", "median", "count(*)"]
        assert accepted(lambda function: unharmed.aggregate(Level, "height", function), wrong) == []
        assert accepted(lambda function: unharmed.downsample(Level, "height", "1h", function), wrong) == []

    def test_a_group_that_is_not_device_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [*HOSTILE, *WRONG, "device_id", "Device", "device, height"]
        assert accepted(lambda group: unharmed.aggregate(Level, "height", group_by=group), wrong) == []

    def test_a_fill_that_is_neither_null_nor_previous_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [*HOSTILE, *WRONG, "NULL", "linear", 0]
        assert accepted(lambda fill: unharmed.downsample(Level, "height", "1h", fill=fill), wrong) == []

    def test_a_zone_that_is_not_known_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [
            *HOSTILE, *WRONG, None,
            "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "UTC'; --", "+01:00", "z" * 5000,
        ]  # fmt: skip
        for interval in ("1h", "1d"):
            assert accepted(lambda tz: unharmed.downsample(Level, "height", interval, tz=tz), wrong) == []  # noqa: B023

    def test_an_interval_that_is_not_understood_is_a_value_error(self, unharmed: BaseStorage) -> None:
        wrong = [
            *HOSTILE, *WRONG,
            "0s", "-5m", "+5m", "5 parsecs", "1.5h", "m5", "5ms", "5M", "5MO", "1 hour 30 minutes", "PT5M", "１m",
            "hour; DROP TABLE x", 60, 60.0, timedelta(0), timedelta(seconds=-1), timedelta(microseconds=-1),
            "9999999999 seconds", "999999999y", timedelta.max,
        ]  # fmt: skip
        assert accepted(lambda interval: unharmed.downsample(Level, "height", interval), wrong) == []

    def test_arithmetic_over_what_is_no_number_is_a_value_error(self, unharmed: BaseStorage) -> None:
        for function in ("avg", "sum", "min", "max"):
            assert accepted(partial(_aggregate, unharmed, function), ["raining", "note", "device_id"]) == []

    def test_times_have_no_sum(self, unharmed: BaseStorage) -> None:
        for function in ("avg", "sum"):
            assert accepted(partial(_aggregate, unharmed, function), ["timestamp"]) == []

    def test_what_is_no_reading_model_cannot_be_asked_for(self, unharmed: BaseStorage) -> None:
        wrong = [dict, "conformance_level", None, Reading]
        assert accepted(unharmed.query_readings, wrong) == []
        assert accepted(unharmed.iter_readings, wrong) == []
        assert accepted(lambda model: unharmed.aggregate(model, "height"), wrong) == []
        assert accepted(unharmed.readings, wrong) == []


def _aggregate(storage: BaseStorage, function: Any, field: str) -> Any:
    return storage.aggregate(Station, field, function)
