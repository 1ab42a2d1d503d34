"""The same reading again: equal, merged, replaced; receipts; versions; quality."""

from __future__ import annotations

import threading
from datetime import timedelta, timezone
from typing import Any

import pytest

from edgedepot.storage.base import BaseStorage, StoreRow, Version
from edgedepot.storage.conformance.base import (
    MONDAY,
    Contract,
    Level,
    Station,
    Switch,
    put,
    value_error,
    values_of,
)
from edgedepot.storage.receipt import LEVELS

FULL = {"temperature": 1.0, "humidity": 0.5, "raining": False, "note": "first", "pulses": 1}


def stored(storage: BaseStorage) -> dict[str, Any]:
    """The one `Station` reading there is, without what identifies it."""
    (row,) = storage.query_readings(Station)
    assert (row.pop("device_id"), row.pop("timestamp")) == ("a", MONDAY)
    return row


class Identity(Contract):
    def test_an_equal_reading_again_changes_nothing(self, storage: BaseStorage) -> None:
        first = storage.store_readings(Station, [("a", MONDAY, FULL)])
        again = storage.store_readings(Station, [("a", MONDAY.astimezone(timezone(timedelta(hours=5))), FULL)])
        assert first is not None
        assert again is not None
        assert stored(storage) == FULL
        assert (first.accepted, first.duplicates) in [(1, 0), (1, None)]
        assert (again.accepted, again.duplicates) in [(0, 1), (1, None)]
        assert storage.aggregate(Station, "temperature", "count") == {"result": 1}

    def test_other_fields_are_merged_into_what_is_there(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1, "note": "first"})
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1, "raining": False})
        assert stored(storage) == {
            "temperature": 1.0, "humidity": None, "raining": False, "note": "first", "pulses": None
        }  # fmt: skip

    def test_another_value_replaces_the_one_there(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, FULL)
        other = {"temperature": 2.0, "humidity": -0.5, "raining": True, "note": "", "pulses": 0}
        storage.store_reading(Station, "a", MONDAY, other)
        assert stored(storage) == other

    def test_null_replaces_nothing(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, FULL)
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1, "humidity": None, "note": None})
        assert stored(storage) == FULL

    def test_a_reading_with_only_a_new_field_needs_no_other(self, storage: BaseStorage) -> None:
        storage.store_reading(Switch, "a", MONDAY, {"closed": True})
        storage.store_reading(Switch, "a", MONDAY, {"label": "door"})
        assert storage.query_readings(Switch) == [
            {"device_id": "a", "timestamp": MONDAY, "closed": True, "label": "door"}
        ]

    def test_within_one_call_later_rows_are_merged_into_earlier_ones(self, storage: BaseStorage) -> None:
        rows: list[StoreRow] = [
            ("a", MONDAY, {"temperature": 1, "note": "first"}),
            ("a", MONDAY, {"temperature": 2}),
            ("a", MONDAY, {"temperature": 2, "pulses": 7}),
        ]
        storage.store_readings(Station, rows)
        assert stored(storage) == {
            "temperature": 2.0, "humidity": None, "raining": None, "note": "first", "pulses": 7
        }  # fmt: skip

    def test_another_device_time_or_model_is_another_reading(self, storage: BaseStorage) -> None:
        put(storage, ("a", MONDAY, 1), ("A", MONDAY, 2), ("b", MONDAY, 3), ("a", MONDAY + timedelta(seconds=1), 4))
        storage.store_reading(Station, "a", MONDAY, {"temperature": 5})
        assert values_of(storage, "height", Level, order="height") == [1, 2, 3, 4]
        assert values_of(storage, "temperature") == [5]

    def test_late_readings_take_their_place(self, storage: BaseStorage) -> None:
        for minute in (5, 1, 3, 2, 4):
            put(storage, ("a", MONDAY + timedelta(minutes=minute), minute))
        assert values_of(storage, "height", Level) == [1, 2, 3, 4, 5]
        assert storage.aggregate(Level, "height", "first") == {"result": 1}
        assert storage.aggregate(Level, "height", "last") == {"result": 5}

    def test_aggregates_see_a_merged_reading_once(self, storage: BaseStorage) -> None:
        put(storage, ("a", MONDAY, 1), ("b", MONDAY, 10))
        put(storage, ("a", MONDAY, 5))
        assert storage.aggregate(Level, "height", "sum") == {"result": 15.0}
        assert storage.aggregate(Level, "height", "count") == {"result": 2}
        assert storage.aggregate(Level, "height", "min") == {"result": 5.0}

    # -- receipts ---------------------------------------------------------------------------------------------------

    def test_a_query_sees_what_was_stored_though_nobody_waited(self, storage: BaseStorage) -> None:
        for number in range(3):
            storage.store_reading(Level, "a", MONDAY + timedelta(seconds=number), {"height": number})
            assert len(storage.query_readings(Level)) == number + 1
            assert storage.aggregate(Level, "height", "count") == {"result": number + 1}

    def test_a_receipt_rises_to_durable_and_keeps_its_numbers(self, storage: BaseStorage) -> None:
        receipt = storage.store_reading(Level, "a", MONDAY, {"height": 1})
        if receipt is None:  # durable, says the contract
            return
        assert receipt.level in LEVELS
        assert receipt.wait("committed", timeout=60).level in ("committed", "durable")
        assert receipt.wait(timeout=60).level == "durable"
        assert receipt.accepted == 1
        assert receipt.duplicates in (0, None)
        assert receipt.refused == ()

    def test_a_receipt_calls_back_once_when_durable(self, storage: BaseStorage) -> None:
        receipt = storage.store_readings(Level, [("a", MONDAY, {"height": 1})])
        assert receipt is not None
        durable = threading.Event()
        receipt.then(durable.set)
        receipt.hasten()
        assert durable.wait(60)
        assert receipt.level == "durable"

    def test_a_receipt_knows_its_levels_only(self, storage: BaseStorage) -> None:
        receipt = storage.store_readings(Level, [("a", MONDAY, {"height": 1})])
        assert receipt is not None
        with value_error():
            receipt.wait("certain")  # type: ignore[arg-type]

    def test_no_rows_are_no_trouble(self, storage: BaseStorage) -> None:
        receipt = storage.store_readings(Level, [])
        assert receipt is not None
        assert (receipt.wait(timeout=60).accepted, receipt.refused) == (0, ())

    def test_flush_returns_when_all_is_durable(self, storage: BaseStorage) -> None:
        receipt = storage.store_reading(Level, "a", MONDAY, {"height": 1})
        storage.flush()
        assert receipt is None or receipt.level == "durable"

    # -- versions ---------------------------------------------------------------------------------------------------

    def test_a_newer_version_takes_the_place_of_an_older_one(self, storage: BaseStorage) -> None:
        storage.store_readings(Level, [Version("a", MONDAY, {"height": 1}, None, 1, 5)])
        storage.store_readings(Level, [Version("a", MONDAY, {"height": 2}, None, 1, 6)])
        storage.store_readings(Level, [Version("a", MONDAY, {"height": 3}, None, 2, 1)])
        assert values_of(storage, "height", Level) == [3]

    @pytest.mark.parametrize("older", [(1, 5), (1, 6), (0, 9)])
    def test_nothing_older_overwrites_newer(self, storage: BaseStorage, older: tuple[int, int]) -> None:
        storage.store_readings(Level, [Version("a", MONDAY, {"height": 2}, None, 1, 6)])
        storage.store_readings(Level, [Version("a", MONDAY, {"height": 1}, None, *older)])
        assert values_of(storage, "height", Level) == [2.0 if "versions" not in self.lacks else 1.0]

    def test_of_versions_in_one_call_the_newest_counts(self, storage: BaseStorage) -> None:
        rows = [Version("a", MONDAY, {"height": number}, None, 1, number) for number in (2, 3, 1)]
        storage.store_readings(Level, rows)
        assert values_of(storage, "height", Level) == [3.0 if "versions" not in self.lacks else 1.0]

    def test_a_version_nulls_nothing(self, storage: BaseStorage) -> None:
        storage.store_readings(Station, [Version("a", MONDAY, FULL, None, 1, 1)])
        storage.store_readings(Station, [Version("a", MONDAY, {"temperature": 2.0}, None, 1, 2)])
        assert stored(storage) == FULL | {"temperature": 2.0}

    # -- quality ----------------------------------------------------------------------------------------------------

    def quality(self, storage: BaseStorage) -> Any:
        (row,) = storage.query_readings(Station, fields=["quality"])
        assert list(row) == ["device_id", "timestamp", "quality"]
        return row["quality"]

    def test_a_value_outside_its_range_is_stored_and_flagged(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 80.5})
        assert stored(storage)["temperature"] == 80.5
        assert self.quality(storage) == (1 if "quality" not in self.lacks else None)

    @pytest.mark.parametrize("edge", [-40, 80])
    def test_both_ends_of_a_range_belong_to_it(self, storage: BaseStorage, edge: int) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": edge})
        assert self.quality(storage) is None

    def test_a_version_brings_its_quality(self, storage: BaseStorage) -> None:
        storage.store_readings(Station, [Version("a", MONDAY, {"temperature": 1}, 6, 1, 1)])
        assert self.quality(storage) == (6 if not self.lacks & {"quality", "version_quality"} else None)
