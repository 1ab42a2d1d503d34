"""The url is checked without a server, and its password is shown to nobody."""

import traceback

import pytest

from edgedepot import ConfigError, TimescaleDBStorage

SECRET = "gehe1m"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"mysql://me:{SECRET}@host/db", "expected postgresql://"),
        (f"host=db password={SECRET} user=me", "expected postgresql://"),
        ("", "expected postgresql://"),
        (f"postgresql://me:{SECRET}@x@host/db", "%40"),
        (f"postgresql://me:{SECRET}/x@host/db", "%2F"),
        (f"postgresql://me:{SECRET}%zz@host/db", "begins a code"),
        (f"postgresql://me:{SECRET}@host:0/db", "port"),
        (f"postgresql://me:{SECRET}@host:65536/db", "port"),
        (f"postgresql://me:{SECRET}?x@y@host:5432/db", "%40"),
        (f"postgresql://me:{SECRET}", "port"),
        (f"postgresql://me:{SECRET}@a..b/db", "the host is no name or address"),
        (f"postgresql://me:{SECRET}@[::1/db", "expected postgresql://"),
        (f"postgresql://me:{SECRET}@ho\0st/db", "expected postgresql://"),
        (f"postgresql://me:{SECRET}\ud800@host/db", "expected postgresql://"),
        (f"postgresql://host/db?password={SECRET}&sslmod=require", "found the option 'sslmod', which libpq"),
        (f"postgresql://me:pass%zz?{SECRET}=x@host/db", "begins a code"),
    ],
)
def test_a_url_that_cannot_be_right_is_named_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TimescaleDBStorage(url)
    assert problem in str(caught.value)
    assert "TimescaleDB url" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_something_else_than_a_text_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="is int, expected postgresql://"):
        TimescaleDBStorage(5432)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@db.example:6543/iot?sslmode=require",
        f"postgres://me:{SECRET}@db.example:6543/iot",
        f"postgresql://db.example:6543/iot?user=me&password={SECRET}",
        f"postgresql://me:{SECRET}@db.example:6543/iot?keepalives_idle=60",
        f"postgresql://me:{SECRET}?x@db.example:6543/iot",
    ],
)
def test_a_storage_shows_where_it_writes_but_not_the_password(url: str) -> None:
    storage = TimescaleDBStorage(url, gateway_id="roof")
    assert repr(storage) == "<TimescaleDBStorage postgresql://me@db.example:6543/iot gateway_id='roof'>"
    assert SECRET not in repr(vars(storage))


@pytest.mark.parametrize(
    ("options", "expected"),
    [("?sslmode=require", True), ("?sslmode=verify-full", True), ("?sslmode=disable", False), ("?sslmode=allow", None)],
)
def test_whether_there_is_tls(options: str, expected: bool | None) -> None:
    assert TimescaleDBStorage(f"postgresql://db.example/iot{options}").uses_tls is expected


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"connect_timeout": "soon"}, "connect_timeout: found 'soon'"),
        ({"statement_timeout": 0}, "statement_timeout: found 0"),
        ({"gateway_id": ""}, "gateway_id: device id '' is empty"),
        ({"gateway_id": "a\0b"}, "NUL"),
        ({"gateway_id": "x" * 1025}, "1025 bytes"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TimescaleDBStorage("postgresql://host/db", **settings)  # type: ignore[arg-type]
    assert problem in str(caught.value)
