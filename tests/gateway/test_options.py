"""Settings against signatures, and `storage_from_settings`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from edgedepot import BaseStorage, ConfigError, InfluxDBStorage, InvalidValue, Reading, SQLiteStorage
from edgedepot.storage.clock import Clock
from edgedepot.storage.engines import ENGINES, storage_from_settings
from edgedepot.storage.hints import Scope, can_be_written, convert, expected, shown
from edgedepot.storage.options import Checker, options_of
from tests.gateway.third_party import ListStorage


class Weather(Reading):
    temperature: float


SCOPE = Scope({"weather": Weather}, Path("/etc/gateway"))
NOON = datetime(2026, 1, 1, 12)


@pytest.mark.parametrize(
    ("value", "hint", "argument"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (3.5, float | None, 3.5),
        ("x", str | None, "x"),
        (True, bool, True),
        ("b", Literal["a", "b"], "b"),
        ([1, 2], list[int], [1, 2]),
        ([1, 2], Sequence[float], [1.0, 2.0]),
        ([1, "x"], tuple[int, str], (1, "x")),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        ([[1, 2], [3, 4]], list[tuple[int, int]], [(1, 2), (3, 4)]),
        ({"a": 1}, Mapping[str, float], {"a": 1.0}),
        ({"a": {"b": [1]}}, dict[str, Any], {"a": {"b": [1]}}),
        ("ca.pem", Path, Path("/etc/gateway/ca.pem")),
        ("/ca.pem", str | os.PathLike[str], Path("/ca.pem")),
        ("10s", str | float | timedelta, "10s"),
        (10, str | float | timedelta, timedelta(seconds=10)),
        ("10s", timedelta, timedelta(seconds=10)),
        (0.5, float | timedelta, 0.5),
        (NOON, datetime, NOON),
        (NOON.date(), date, NOON.date()),
        ("weather", type[Reading], Weather),
        ([1, "x", None], Any, [1, "x", None]),
        (3, int | Clock, 3),
    ],
)
def test_a_value_becomes_the_argument(value: object, hint: Any, argument: object) -> None:
    found = convert(value, hint, SCOPE)
    assert (found, type(found)) == (argument, type(argument))


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3", int, 'found "3", expected a whole number'),
        (3.0, int, "found 3.0, expected a whole number"),
        (True, int, "found true, expected a whole number"),
        (True, float, "found true, expected a number"),
        (1, bool, "found 1, expected true or false"),
        (3, str | int | None, None),
        (3.5, str | int | None, "found 3.5, expected a text or a whole number"),
        ("c", Literal["a", "b"], 'found "c", expected one of "a", "b"'),
        ([1, "x"], list[int], 'found [1, "x"], expected a list, each item a whole number'),
        ("x", Sequence[str], 'found "x", expected a list, each item a text'),
        ([1], tuple[int, str], "found [1], expected a list of 2: a whole number, a text"),
        ({"a": "x"}, Mapping[str, int], '"a": found "x", expected a whole number'),
        ("x", dict[str, Any], 'found "x", expected a table'),
        (3, Path, "found 3, expected a path"),
        ("soon", timedelta, 'found "soon", expected a duration such as "10s", "500 ms", "5 minutes" or "1d"'),
        ("1mo", timedelta, 'found "1mo", expected a duration such as "10s", "500 ms", "5 minutes" or "1d"'),
        (True, timedelta, 'found true, expected a duration such as "10s", "500 ms", "5 minutes" or "1d"'),
        (NOON, date, "found 2026-01-01T12:00:00, expected a date"),
        ("wind", type[Reading], 'found "wind", expected a model declared under [models]: "weather"'),
        ("x" * 100, int, f'found "{"x" * 57}...", expected a whole number'),
        ([1, 2, 3, 4, 5], int, "found [1, 2, 3, 4, ...], expected a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused(value: object, hint: Any, message: str | None) -> None:
    if message is None:
        assert convert(value, hint, SCOPE) == value
        return
    with pytest.raises(InvalidValue) as caught:
        convert(value, hint, SCOPE)
    assert str(caught.value) == message


@pytest.mark.parametrize("hint", [Clock, Callable[[], int], Clock | None, list[Clock], bytes])
def test_what_no_file_can_say(hint: Any) -> None:
    assert not can_be_written(hint)


def test_the_words_for_a_model_where_there_is_none() -> None:
    assert expected(type[Reading]) == "a model, but none is declared under [models]"


def test_the_words_for_a_table() -> None:
    assert shown({"a": 1}) == "a table"


def make(path: Path, size: int = 3, *, clock: Clock | None = None, **others: Any) -> None:
    """A constructor."""


def test_options_are_the_parameters_that_settings_can_give() -> None:
    found, takes_others = options_of(make)
    assert takes_others
    assert [(option.key, option.hint, option.required) for option in found.values()] == [
        ("path", Path, True),
        ("size", int, False),
    ]


def test_what_settings_cannot_say_but_must_be_given() -> None:
    def needs_clock(clock: Clock) -> None: ...

    with pytest.raises(ConfigError, match="needs_clock needs 'clock', which settings cannot say: make it in Python"):
        options_of(needs_clock)


def test_hints_that_cannot_be_read_are_not_checked() -> None:
    def foreign(size: Unknown, path: str) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    checker = Checker()
    assert checker.arguments("", foreign, {"size": [1], "path": 3}) == {"size": [1]}
    assert checker.problems == ["path: found 3, expected a text"]


def test_others_pass_where_the_constructor_takes_any() -> None:
    checker = Checker(SCOPE)
    arguments = checker.arguments("", make, {"path": "x", "colour": "red"})
    assert arguments == {"path": Path("/etc/gateway/x"), "colour": "red"}


def test_storage_in_lower_case(tmp_path: Path) -> None:
    with storage_from_settings({"path": str(tmp_path / "a.db"), "gateway_id": "roof"}) as store:
        assert isinstance(store, SQLiteStorage)
        assert store.gateway_id == "roof"


@pytest.mark.parametrize("engine", ["sqlite", "edgedepot.storage.SQLiteStorage"])
def test_storage_in_upper_case(tmp_path: Path, engine: str) -> None:
    settings = {"ENGINE": engine, "SQLITE_PATH": str(tmp_path / "a.db"), "FLUSH_INTERVAL": "2s"}
    with storage_from_settings(settings) as store:
        assert isinstance(store, SQLiteStorage)
        assert store.path == tmp_path / "a.db"


def test_influxdb_in_upper_case() -> None:
    settings = {
        "ENGINE": "edgedepot.storage.InfluxDBStorage",
        "INFLUXDB_URL": "http://localhost:8086",
        "INFLUXDB_TOKEN": "hush",
        "INFLUXDB_ORG": "farm",
        "INFLUXDB_BUCKET": "iot",
    }
    with storage_from_settings(settings) as store:
        assert isinstance(store, InfluxDBStorage)


def test_a_users_own_storage() -> None:
    store = storage_from_settings({"ENGINE": "tests.gateway.third_party.ListStorage", "LIST_LIMITS": {"rows": 3}})
    assert isinstance(store, ListStorage)
    assert store.limits == {"rows": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "path: missing, expected a path"),
        (
            {"ENGINE": "sqlite", "SQLITE_PATH": 3, "SQLITE_PTH": "x"},
            'pth: unknown key (did you mean "path"?)\npath: found 3, expected a path',
        ),
        (
            {"engine": "timescale"},
            'engine: found "timescale", expected one of influxdb, sqlite, timescaledb, or a dotted path'
            ' (did you mean "timescaledb"?)',
        ),
        (
            {"engine": 3},
            "engine: found 3, expected one of influxdb, sqlite, timescaledb, or a dotted path",
        ),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        storage_from_settings(settings)
    assert str(caught.value) == message


def test_every_shipped_engine_is_there() -> None:
    for name in ENGINES.shipped:
        assert issubclass(ENGINES.find(name), BaseStorage)
