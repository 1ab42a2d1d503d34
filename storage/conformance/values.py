"""What comes in: the values and times that are stored, and those that are refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.conformance.base import (
    MICROSECOND,
    MONDAY,
    Contract,
    Level,
    Select,
    Station,
    Switch,
    put,
    put_values,
    value_error,
    values_of,
)
from edgedepot.storage.reading import Reading

FLOATS = [0.1 + 0.2, -1.5, 1e-9, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 1e15]
INTEGERS = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
TEXTS = [
    "", " ", "dry", "ünï – 雪 🎈", "two\nlines", "tab\there", "'; DROP TABLE select; --", 'say "no"', "back\\slash\\",
    "a,b=c d", "{} %s %(x)s $1 ?", "NULL", "x" * 1024, "ä" * 512,
]  # fmt: skip

REFUSED: dict[str, tuple[type[Reading], dict[Any, Any]]] = {
    "NaN": (Station, {"temperature": math.nan}),
    "infinity": (Station, {"temperature": math.inf}),
    "minus infinity": (Station, {"temperature": -math.inf}),
    "an integer beyond all floats": (Station, {"temperature": 10**400}),
    "a bool for a float": (Station, {"temperature": True}),
    "text for a float": (Station, {"temperature": "21"}),
    "bytes": (Station, {"temperature": b"21"}),
    "a time for a float": (Station, {"temperature": MONDAY}),
    "a list": (Station, {"temperature": [21.0]}),
    "null in a required field": (Station, {"temperature": None}),
    "no data": (Station, {}),
    "a required field absent": (Station, {"humidity": 1.0}),
    "NaN in an optional field": (Station, {"temperature": 1, "humidity": math.nan}),
    "1 for a bool": (Station, {"temperature": 1, "raining": 1}),
    "0.0 for a bool": (Station, {"temperature": 1, "raining": 0.0}),
    "text for a bool": (Station, {"temperature": 1, "raining": "true"}),
    "2^63": (Station, {"temperature": 1, "pulses": 2**63}),
    "-2^63 - 1": (Station, {"temperature": 1, "pulses": -(2**63) - 1}),
    "a float for an int": (Station, {"temperature": 1, "pulses": 1.0}),
    "a bool for an int": (Station, {"temperature": 1, "pulses": False}),
    "a number for text": (Station, {"temperature": 1, "note": 1}),
    "a lone surrogate": (Station, {"temperature": 1, "note": "\ud800"}),
    "a NUL in a text": (Station, {"temperature": 1, "note": "a\0b"}),
    "a NUL in a long text": (Station, {"temperature": 1, "note": "ä\0" + "x" * 500}),
    "text over 1 KiB": (Station, {"temperature": 1, "note": "x" * 1025}),
    "text over 1 KiB in UTF-8": (Station, {"temperature": 1, "note": "ä" * 513}),
    "an unknown field": (Station, {"temperature": 1, "temprature": 1}),
    "device_id as a field": (Station, {"temperature": 1, "device_id": "b"}),
    "timestamp as a field": (Station, {"temperature": 1, "timestamp": MONDAY}),
    "SQL for a field": (Station, {"temperature": 1, "note; DROP TABLE x": 1}),
    "a number for a field": (Station, {"temperature": 1, 7: 1}),
    "no value at all": (Switch, {}),
    "nothing but nulls": (Switch, {"closed": None, "label": None}),
}

DEVICES = [
    "a", "0", " ", "ünï/雪🎈", "a b,c=d", "it's", '"quoted"', "back\\", "two\nlines", "x'); DROP TABLE select; --",
    "%s {} $1 ?", "NULL", "d" * 1024,
]  # fmt: skip


class _Pump:
    """Somebody's object with an id."""

    device_id = "pump-1"


class Values(Contract):
    def test_every_type_comes_back_as_it_went_in(self, storage: BaseStorage) -> None:
        data = {"temperature": 21.5, "humidity": 0.5, "raining": False, "note": "dry", "pulses": 3}
        storage.store_reading(Station, "a", MONDAY, data)
        (row,) = storage.query_readings(Station)
        assert row == {"device_id": "a", "timestamp": MONDAY, **data}
        assert [type(row[name]) for name in data] == [float, float, bool, str, int]

    def test_a_whole_number_becomes_a_float_where_the_field_is_one(self, storage: BaseStorage) -> None:
        put_values(storage, "temperature", 21, -3)
        found = values_of(storage, "temperature")
        assert found == [21.0, -3.0]
        assert [type(value) for value in found] == [float, float]

    def test_floats_keep_every_bit(self, storage: BaseStorage) -> None:
        put_values(storage, "humidity", *FLOATS)
        assert values_of(storage, "humidity") == FLOATS

    def test_integers_keep_all_of_64_bits(self, storage: BaseStorage) -> None:
        put_values(storage, "pulses", *INTEGERS)
        found = values_of(storage, "pulses")
        assert found == INTEGERS
        assert {type(value) for value in found} == {int}

    def test_texts_of_any_script_and_up_to_a_kilobyte_come_back_whole(self, storage: BaseStorage) -> None:
        put_values(storage, "note", *TEXTS)
        assert values_of(storage, "note") == TEXTS

    def test_true_is_not_1_and_1_is_not_true(self, storage: BaseStorage) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1, "raining": True, "pulses": 1})
        (row,) = storage.query_readings(Station, fields=["raining", "pulses"])
        assert (row["raining"] is True, type(row["pulses"])) == (True, int)

    @pytest.mark.parametrize("absent", [{}, {"humidity": None, "raining": None, "note": None, "pulses": None}])
    def test_an_absent_field_and_a_null_one_read_as_none(self, storage: BaseStorage, absent: dict[str, Any]) -> None:
        storage.store_reading(Station, "a", MONDAY, {"temperature": 1} | absent)
        (row,) = storage.query_readings(Station)
        nothing = {"humidity": None, "raining": None, "note": None, "pulses": None}
        assert row == {"device_id": "a", "timestamp": MONDAY, "temperature": 1.0, **nothing}

    def test_fields_may_have_names_that_query_languages_know(self, storage: BaseStorage) -> None:
        data = {"order": 1.5, "group": 2, "user": "me", "From": True, "test": "a", "table": 3}
        storage.store_reading(Select, "a", MONDAY, data)
        assert storage.query_readings(Select, order="From") == [{"device_id": "a", "timestamp": MONDAY, **data}]
        assert storage.aggregate(Select, "order", "max") == {"result": 1.5}
        assert storage.aggregate(Select, "table", "sum") == {"result": 3}
        assert storage.aggregate(Select, "test", "first") == {"result": "a"}
        assert storage.aggregate(Select, "user", "last", group_by="device") == [{"device_id": "a", "result": "me"}]

    @pytest.mark.parametrize(("model", "data"), REFUSED.values(), ids=REFUSED)
    def test_what_is_not_storable_is_a_value_error(self, storage: BaseStorage, model: Any, data: Any) -> None:
        with value_error():
            storage.store_reading(model, "a", MONDAY, data)
        assert storage.query_readings(model) == []

    @pytest.mark.parametrize("data", [None, [("temperature", 1)], 21.5, "temperature=1"])
    def test_data_that_is_no_mapping_is_a_value_error(self, storage: BaseStorage, data: Any) -> None:
        with value_error():
            storage.store_reading(Station, "a", MONDAY, data)

    @pytest.mark.parametrize("model", [dict, "conformance_station", None, Reading])
    def test_what_is_no_reading_model_is_a_value_error(self, storage: BaseStorage, model: Any) -> None:
        with value_error():
            storage.store_reading(model, "a", MONDAY, {"temperature": 1})

    def test_of_many_rows_the_good_ones_are_stored_and_the_bad_ones_are_named(self, storage: BaseStorage) -> None:
        rows: list[Any] = [
            ("a", MONDAY, {"height": 1}),
            ("a", MONDAY + timedelta(seconds=1), {"height": math.nan}),
            ("", MONDAY, {"height": 1}),
            ("a", datetime(2026, 1, 5, 12), {"height": 1}),
            ("a", MONDAY + timedelta(seconds=2), {"heigth": 1}),
            ("a", MONDAY + timedelta(seconds=3), {"height": 2}),
        ]
        receipt = storage.store_readings(Level, iter(rows))
        assert receipt is not None
        assert [refusal.index for refusal in receipt.refused] == [1, 2, 3, 4]
        assert all(refusal.reason for refusal in receipt.refused)
        assert receipt.accepted == 2
        assert values_of(storage, "height", Level) == [1.0, 2.0]

    # -- times ------------------------------------------------------------------------------------------------------

    def test_times_come_back_in_utc_to_the_microsecond(self, storage: BaseStorage) -> None:
        moment = datetime(2026, 7, 1, 3, 4, 5, 678_901, tzinfo=ZoneInfo("America/New_York"))
        put(storage, ("a", moment, 1))
        (row,) = storage.query_readings(Level)
        assert row["timestamp"] == moment
        assert row["timestamp"].isoformat() == "2026-07-01T07:04:05.678901+00:00"

    def test_one_microsecond_tells_readings_apart(self, storage: BaseStorage) -> None:
        moments = [MONDAY - MICROSECOND, MONDAY, MONDAY + MICROSECOND]
        put(storage, *(("a", moment, number) for number, moment in enumerate(moments)))
        assert [row["timestamp"] for row in storage.query_readings(Level, order="timestamp")] == moments

    def test_both_passes_of_a_repeated_hour_are_kept_apart(self, storage: BaseStorage) -> None:
        first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Zurich"))
        put(storage, ("a", first, 1), ("a", first.replace(fold=1), 2))
        stamps = [row["timestamp"].isoformat() for row in storage.query_readings(Level, order="timestamp")]
        assert stamps == ["2026-10-25T00:30:00+00:00", "2026-10-25T01:30:00+00:00"]

    @pytest.mark.parametrize("year", [1700, 1899, 1969, 1970, 2037, 2039, 2250])
    def test_times_long_ago_and_far_ahead_are_kept(self, storage: BaseStorage, year: int) -> None:
        moment = datetime(year, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        put(storage, ("a", moment, 1))
        assert [row["timestamp"] for row in storage.query_readings(Level)] == [moment]
        assert storage.query_readings(Level, end=moment) == []

    @pytest.mark.parametrize(
        "moment", [datetime.min, datetime.max, datetime(1600, 1, 1), datetime(2300, 1, 1)], ids=str
    )
    def test_the_years_1_to_9999_are_kept(self, storage: BaseStorage, moment: datetime) -> None:
        distant = moment.replace(tzinfo=UTC)
        if "distant_times" in self.lacks:
            with value_error():
                storage.store_reading(Level, "a", distant, {"height": 1})
            return
        put(storage, ("a", distant, 1))
        assert [row["timestamp"] for row in storage.query_readings(Level)] == [distant]
        assert [row["timestamp"] for row in storage.iter_readings(Level)] == [distant]

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2026, 1, 5, 12),
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
            MONDAY.isoformat(),
            MONDAY.timestamp(),
            MONDAY.date(),
        ],
        ids=["naive", "before the year 1", "after the year 9999", "text", "a number", "a date"],
    )
    def test_a_naive_time_and_what_is_none_is_a_value_error(self, storage: BaseStorage, moment: Any) -> None:
        with value_error():
            storage.store_reading(Level, "a", moment, {"height": 1})
        with value_error():
            storage.query_readings(Level, start=moment)
        with value_error():
            storage.iter_readings(Level, end=moment)
        with value_error():
            storage.aggregate(Level, "height", end=moment)
        with value_error():
            storage.readings(Level).filter(start=moment)
        assert storage.query_readings(Level) == []

    def test_readings_without_a_time_are_stamped_one_after_the_other(self, storage: BaseStorage) -> None:
        before = datetime.now(UTC)
        for number in range(5):
            storage.store_reading(Level, "a", None, {"height": number})
        rows = storage.query_readings(Level, order="timestamp")
        stamps = [row["timestamp"] for row in rows]
        assert [row["height"] for row in rows] == [0, 1, 2, 3, 4]
        assert len(set(stamps)) == 5
        assert before - timedelta(minutes=1) <= stamps[0] <= stamps[-1] <= datetime.now(UTC) + timedelta(minutes=1)

    # -- devices ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("device", DEVICES)
    def test_a_device_may_be_called_anything(self, storage: BaseStorage, device: str) -> None:
        put(storage, (device, MONDAY, 1), ("other", MONDAY, 2))
        assert storage.query_readings(Level, device) == [{"device_id": device, "timestamp": MONDAY, "height": 1.0}]
        assert storage.aggregate(Level, "height", "sum", device) == {"result": 1.0}
        assert len(storage.query_readings(Level)) == 2

    def test_a_device_may_be_an_object_with_an_id(self, storage: BaseStorage) -> None:
        storage.store_reading(Level, _Pump(), MONDAY, {"height": 1})
        assert [row["device_id"] for row in storage.query_readings(Level, device=_Pump())] == ["pump-1"]
        assert storage.aggregate(Level, "height", "count", device=_Pump()) == {"result": 1}
        assert [reading.device_id for reading in storage.readings(Level).filter(device=_Pump())] == ["pump-1"]
        assert storage.query_readings(Level, device="pump-2") == []

    @pytest.mark.parametrize("device", ["", 7, object(), "\ud800", "a\0b", "d" * 1025, ["a"], b"a"])
    def test_what_is_no_device_is_a_value_error(self, storage: BaseStorage, device: Any) -> None:
        with value_error():
            storage.store_reading(Level, device, MONDAY, {"height": 1})
        with value_error():
            storage.query_readings(Level, device)
        with value_error():
            storage.aggregate(Level, "height", device=device)

    def test_none_is_no_device_to_store_for(self, storage: BaseStorage) -> None:
        with value_error():
            storage.store_reading(Level, None, MONDAY, {"height": 1})
