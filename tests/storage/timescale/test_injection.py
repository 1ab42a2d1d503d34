"""Hostile texts in every parameter of every call: a `ValueError`, or a value like any other. Nothing else."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.sql import SQL, Identifier

from edgedepot import Device, TimescaleDBStorage, Version
from edgedepot.storage.errors import Misconfigured, NotSupported
from tests.models import Mixed
from tests.storage.timescale.conftest import Connect, Look

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = (
    "'; DROP TABLE mixed; --",
    '"; DROP TABLE mixed; --',
    "mixed; DELETE FROM mixed",
    "%s %(a)s %",
    "{a} {}",
    "\\",
    "a) OR true --",
    "$$; DROP TABLE mixed; $$",
    "-- \n; DROP TABLE mixed;",
    "\0",
    "\ud800",
    "x" * 2000,
)
SCOPE = {"device": "d", "start": T0, "end": None}
GOOD: dict[str, dict[str, Any]] = {
    "store_reading": {"reading_model": Mixed, "device": "d", "timestamp": T0, "data": {"a": 1.0}, "version": None},
    "store_readings": {"reading_model": Mixed, "rows": [("d", T0, {"a": 1.0})]},
    "query_readings": {"reading_model": Mixed, **SCOPE, "fields": ["a"], "limit": 1, "order": "a"},
    "iter_readings": {"reading_model": Mixed, **SCOPE, "fields": ["a"], "limit": 1, "order": "a", "after": None},
    "readings": {"reading_model": Mixed},
    "aggregate": {
        "reading_model": Mixed, "field": "a", "function": "avg", **SCOPE, "interval": "1d", "tz": "Europe/Zurich",
        "group_by": "device", "fill": "null",
    },
    "downsample": {"reading_model": Mixed, "field": "a", "interval": "1d", "function": "avg"},
    "delete_readings": {"reading_model": Mixed, "device": "nobody", "start": T0, "end": None},
    "save_device": {"device": Device("d", "name", {"at": "roof"})},
    "schema_sql": {"models": [Mixed], "role": "writer", "extension": True},
    "create_hypertable": {"reading_model": Mixed, "chunk_time_interval": "1d", "if_not_exists": True},
    "hypertable_info": {"reading_model": Mixed},
    "drop_chunks": {"reading_model": Mixed, "older_than": "100y"},
    "create_retention_policy": {"reading_model": Mixed, "drop_after": "1y"},
    "remove_retention_policy": {"reading_model": Mixed},
    "create_compression_policy": {"reading_model": Mixed, "compress_after": "1d"},
    "remove_compression_policy": {"reading_model": Mixed},
    "continuous_aggregate": {
        "name": "hours", "reading_model": Mixed, "field": "a", "function": "avg", "interval": "1h",
        "start_offset": "1d", "end_offset": "1h", "schedule_interval": "1h", "with_data": True,
    },
    "continuous_aggregates": {},
    "refresh_continuous_aggregate": {"name": "hours", "start": T0, "end": None},
    "drop_continuous_aggregate": {"name": "hours"},
    "query_continuous_aggregate": {"name": "hours", **SCOPE},
    "devices": {}, "health_check": {}, "server_time": {}, "wire_bytes": {}, "wire_waits": {}, "flush": {}, "close": {},
}  # fmt: skip
FREE = {
    ("query_readings", "device"), ("iter_readings", "device"), ("aggregate", "device"), ("delete_readings", "device"),
    ("query_continuous_aggregate", "device"), ("store_reading", "device"), ("schema_sql", "role"),
    ("store_readings", "rows"),  # of which each is refused by itself
}  # fmt: skip
"""What may be any text that can be stored."""
FLAGS = {("schema_sql", "extension"), ("continuous_aggregate", "with_data")}
"""Whose truth alone counts."""
RELATIONS = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1
"""
VIEW = 'CREATE VIEW hours AS SELECT "timestamp" AS bucket, gateway_id, device_id, a AS result FROM mixed'


@pytest.fixture
def storage(connect: Connect, look: Look) -> Iterator[TimescaleDBStorage]:
    """With a reading, a device, and what passes for a continuous aggregate where there are none."""
    made = connect()
    made.store_reading(Mixed, "d", T0, {"a": 1.0})
    made.save_device(Device("d"))
    look(VIEW)
    yield made
    look("DROP VIEW hours")


def test_no_parameter_is_left_out() -> None:
    """Of the public calls; what `**` takes stands for all that `aggregate` does."""
    calls = {
        name: set(inspect.signature(call).parameters) - {"self", "more"}
        for name, call in inspect.getmembers(TimescaleDBStorage, inspect.isfunction)
        if not name.startswith("_")
    }
    assert {name: set(arguments) for name, arguments in GOOD.items()} == calls


def hostile(call: str, parameter: str, text: str) -> list[Any]:
    """What a call may be given for a parameter, with the text in each place of it. A `Device` or a `Version` is never a
    text itself."""
    inside: dict[tuple[str, str], list[Any]] = {
        ("store_reading", "data"): [{text: 1.0}, {"text": text}],
        ("store_readings", "rows"): [
            [(text, T0, {"a": 1.0})],
            [("e", text, {"a": 1.0})],
            [("e", T0, {text: 1.0})],
            [("e", T0, {"text": text, "flag": text})],
            [Version(text, T0, {"text": text}, text, text, text)],  # type: ignore[arg-type]
        ],
        ("query_readings", "fields"): [[text]],
        ("iter_readings", "fields"): [[text]],
        ("iter_readings", "after"): [(T0, text, text), (text, text, text)],
        ("store_reading", "version"): [Version("e", T0, {}, text, text, text)],  # type: ignore[arg-type]
        ("save_device", "device"): [Device(text), Device("e", text), Device("e", None, {text: text})],
        ("schema_sql", "models"): [[text]],
    }
    found = inside.get((call, parameter), [])
    return found if parameter == "version" or call == "save_device" else [text, *found]


def is_allowed(call: str, parameter: str, given: object) -> bool:
    """Whether the call may take it: as a value, or as something with values in it."""
    return (call, parameter) in FREE | FLAGS or not isinstance(given, str)


def attack(storage: TimescaleDBStorage, name: str, look: Callable[[str], list[tuple[Any, ...]]]) -> None:
    """Give a call every hostile text in every parameter: each is refused, or a value, and the tables stay as they are.

    They hold the reading and the device of `storage` above, and there is a view or continuous aggregate `hours`.
    """
    call: Callable[..., Any] = getattr(storage, name)
    for parameter in GOOD[name]:
        # Where the call is none for this server, or was made before, it must have been refused first, or be a flag.
        flags = [NotSupported, Misconfigured] if (name, parameter) in FLAGS else []
        for text in HOSTILE:
            for given in hostile(name, parameter, text):
                with suppress(ValueError, *flags):
                    found = call(**{**GOOD[name], parameter: given})
                    if name == "iter_readings":
                        list(found)
                    assert is_allowed(name, parameter, given), (parameter, given)
    assert look("SELECT a FROM mixed WHERE device_id = 'd'") == [(1.0,)]
    assert look("SELECT device_id FROM _devices WHERE device_id = 'd'") == [("d",)]
    assert look(RELATIONS) == [("_devices",), ("hours",), ("mixed",)]


@pytest.mark.parametrize("name", [name for name, arguments in GOOD.items() if arguments])
def test_a_hostile_text_is_refused_or_a_value(storage: TimescaleDBStorage, look: Look, name: str) -> None:
    attack(storage, name, look)


@pytest.mark.parametrize("schema", ['a"; DROP TABLE mixed; --', "'; DROP TABLE mixed; -- {a} {} \\"])
def test_a_schema_of_a_hostile_name_is_a_schema_like_any_other(connect: Connect, look: Look, schema: str) -> None:
    look("CREATE TABLE mixed (a text)")
    storage = connect(schema=schema)
    assert storage.query_readings(Mixed) == []
    storage.store_reading(Mixed, "d", T0, {"a": 1.0})
    storage.save_device(Device("e"))
    look(storage.schema_sql([Mixed]))
    storage.create_hypertable(Mixed, "1d")
    assert storage.hypertable_info(Mixed) is not None
    assert storage.drop_chunks(Mixed, "100y") == 0
    assert [device.device_id for device in storage.devices()] == ["d", "e"]
    assert storage.aggregate(Mixed, "a", interval="1d") == [{"bucket": T0, "result": 1.0}]
    assert storage.delete_readings(Mixed) == 1
    assert look("SELECT count(*) FROM mixed") == [(0,)]
    assert look("SELECT hypertable_schema FROM timescaledb_information.hypertables") == [(schema,)]
    look(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)).as_string(None))


def test_a_hostile_text_comes_back_as_it_was(storage: TimescaleDBStorage, connect: Connect, look: Look) -> None:
    texts = [text for text in HOSTILE if text.isprintable() and len(text) < 100]
    assert len(texts) == 8
    for text in texts:
        for gateway in (storage, connect(text)):
            gateway.store_reading(Mixed, text, T0, {"text": text})
            gateway.save_device(Device(text, text, {text: text}))
            assert gateway.query_readings(Mixed, text, fields=["text"]) == [
                {"device_id": text, "timestamp": T0, "text": text}
            ]
            assert gateway.aggregate(Mixed, "text", "last", device=text) == {"result": text}
            [device] = [one for one in gateway.devices() if one.device_id == text]
            assert (device.name, device.metadata) == (text, {text: text})
        made = look(connect(text).schema_sql([Mixed], role=text).replace("%", "%%").replace("GRANT", "-- GRANT"))
        assert made == []
    assert look("SELECT count(*), count(DISTINCT gateway_id) FROM mixed") == [(1 + 2 * len(texts), 1 + len(texts))]
