"""Known devices, and deleting readings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import (
    MICROSECOND,
    MONDAY,
    Contract,
    Level,
    Station,
    buckets_of,
    put,
    put_series,
    value_error,
    values_of,
)
from edgedepot.storage.reading import Device

MINUTE = timedelta(minutes=1)


class Devices(Contract):
    def test_devices_are_listed_by_id_with_the_times_they_were_seen(self, storage: BaseStorage) -> None:
        if not self.can("devices", storage):
            return
        assert storage.devices() == []
        put(storage, ("b", MONDAY, 1), ("a", MONDAY, 2), ("a", MONDAY - MINUTE, 3), ("B", MONDAY, 4))
        storage.store_reading(Station, "a", MONDAY + MINUTE, {"temperature": 1})
        found = storage.devices()
        assert [(device.device_id, device.first_seen, device.last_seen) for device in found] == [
            ("B", MONDAY, MONDAY),
            ("a", MONDAY - MINUTE, MONDAY + MINUTE),
            ("b", MONDAY, MONDAY),
        ]

    def test_a_saved_device_keeps_name_and_metadata(self, storage: BaseStorage) -> None:
        if not self.can("save_device", storage):
            return
        put(storage, ("a", MONDAY, 1))
        metadata = {"floor": 3, "tags": ["ünï", None, "\\u0000"], "place": {"lat": 47.4}}
        storage.save_device(Device("a", "the mast", metadata))
        storage.save_device(Device("silent; DROP TABLE devices", "never heard", {}))
        mast, silent = storage.devices()
        assert mast == Device("a", "the mast", metadata, MONDAY, MONDAY)
        assert silent == Device("silent; DROP TABLE devices", "never heard", {}, None, None)
        storage.save_device(Device("a", "the pole"))
        assert storage.devices()[0] == Device("a", "the pole", {}, MONDAY, MONDAY)

    @pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 1025, 7])
    def test_a_name_that_cannot_be_stored_is_a_value_error(self, storage: BaseStorage, name: Any) -> None:
        if self.can("save_device", storage):
            with value_error():
                storage.save_device(Device("a", name))

    @pytest.mark.parametrize(
        "metadata",
        [{"x": object()}, {"x": float("nan")}, {"x": {1, 2}}, {"x": ["a\0b"]}, {"\\\0": 1}, {"x": "\ud800"}],
    )
    def test_metadata_that_json_cannot_say_is_a_value_error(self, storage: BaseStorage, metadata: Any) -> None:
        if self.can("save_device", storage):
            with value_error():
                storage.save_device(Device("a", None, metadata))
            assert storage.devices() == []

    # -- deleting ---------------------------------------------------------------------------------------------------

    def test_deleted_readings_are_gone_from_queries_and_aggregates(self, storage: BaseStorage) -> None:
        if not self.can("delete_readings", storage):
            return
        put_series(storage, MONDAY, timedelta(minutes=20), 6)
        put(storage, ("b", MONDAY, 100))
        span: dict[str, Any] = {"start": MONDAY + 20 * MINUTE, "end": MONDAY + 60 * MINUTE}
        assert storage.delete_readings(Level, "a", **span) in (2, None)
        assert values_of(storage, "height", Level, device="a") == [0, 3, 4, 5]
        assert storage.aggregate(Level, "height", "sum") == {"result": 112.0}
        assert storage.aggregate(Level, "height", "count", **span) == {"result": 0}
        assert buckets_of(storage, "1h", "max") == [
            ("2026-01-05 12:00:00+00:00", 100.0),
            ("2026-01-05 13:00:00+00:00", 5.0),
        ]
        assert buckets_of(storage, "1d", "min", device="a") == [("2026-01-05 00:00:00+00:00", 0.0)]

    def test_a_delete_is_half_open_to_the_microsecond(self, storage: BaseStorage) -> None:
        if not self.can("delete_readings", storage):
            return
        put(storage, *(("a", MONDAY + number * MICROSECOND, number) for number in (-1, 0, 1)))
        assert storage.delete_readings(Level, start=MONDAY, end=MONDAY + MICROSECOND) in (1, None)
        assert values_of(storage, "height", Level) == [-1, 1]

    def test_a_delete_without_bounds_takes_all_of_the_model_and_nothing_of_another(self, storage: BaseStorage) -> None:
        if not self.can("delete_readings", storage):
            return
        put(storage, ("a", datetime(1980, 1, 1, tzinfo=UTC), 1), ("b", MONDAY, 2))
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1})
        assert storage.delete_readings(Level) in (2, None)
        assert storage.query_readings(Level) == []
        assert values_of(storage, "temperature") == [1]
        assert storage.delete_readings(Level) in (0, None)

    def test_the_extremes_are_those_of_what_is_left(self, storage: BaseStorage) -> None:
        if not self.can("delete_readings", storage):
            return
        put_series(storage, MONDAY, MINUTE, 5)
        storage.delete_readings(Level, end=MONDAY + MINUTE)
        storage.delete_readings(Level, start=MONDAY + 4 * MINUTE)
        for function, expected in (("min", 1), ("max", 3), ("first", 1), ("last", 3), ("count", 3), ("avg", 2)):
            assert storage.aggregate(Level, "height", function) == {"result": expected}  # type: ignore[arg-type]

    def test_what_was_deleted_may_come_again(self, storage: BaseStorage) -> None:
        if not self.can("delete_readings", storage):
            return
        put(storage, ("a", MONDAY, 1))
        storage.delete_readings(Level, "a")
        put(storage, ("a", MONDAY, 2))
        assert values_of(storage, "height", Level) == [2]

    def test_a_delete_sees_what_was_stored_before_it(self, storage: BaseStorage) -> None:
        if not self.can("delete_readings", storage):
            return
        storage.store_reading(Level, "a", MONDAY, {"height": 1})
        assert storage.delete_readings(Level) in (1, None)
        assert storage.query_readings(Level) == []

    @pytest.mark.parametrize(
        "scope",
        [{"device": ""}, {"device": 7}, {"start": datetime(2026, 1, 1)}, {"end": "2026"}],
        ids=["no device", "a number", "naive", "text"],
    )
    def test_a_delete_with_a_wrong_scope_is_a_value_error_and_deletes_nothing(
        self, storage: BaseStorage, scope: dict[str, Any]
    ) -> None:
        if not self.can("delete_readings", storage):
            return
        put(storage, ("a", MONDAY, 1))
        with value_error():
            storage.delete_readings(Level, **scope)
        assert values_of(storage, "height", Level) == [1]
