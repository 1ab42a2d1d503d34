"""Calendar buckets of zones, and how much is asked of the server."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import cycle, product
from typing import Any, get_args
from urllib.parse import quote

import pytest

from edgedepot import TimescaleDBStorage
from edgedepot.storage.base import StoreRow
from edgedepot.storage.query import Function
from edgedepot.storage.rows import aggregate_rows
from tests.models import Mixed
from tests.servers.timescale import PlainPostgres, TimescaleServer

FUNCTIONS: tuple[Function, ...] = get_args(Function)

# A change of the clocks at or about midnight, in UTC; or one of a zone of which the server may know something else.
CHANGES = {
    "America/Havana": datetime(2026, 11, 1, 5, tzinfo=UTC),  # back from 01:00 to 00:00: the date begins twice
    "Atlantic/Azores": datetime(2026, 10, 25, 1, tzinfo=UTC),
    "America/St_Johns": datetime(2006, 10, 29, 2, 31, tzinfo=UTC),  # back from 00:01 to 23:01: the old date returns
    "Africa/Cairo": datetime(2026, 10, 29, 21, tzinfo=UTC),  # back from 24:00 to 23:00
    "Asia/Beirut": datetime(2026, 3, 28, 22, tzinfo=UTC),  # on from 00:00 to 01:00
    "America/Sao_Paulo": datetime(2018, 11, 4, 3, tzinfo=UTC),
    "America/Toronto": datetime(1919, 3, 31, 4, 30, tzinfo=UTC),  # on from 23:30 to 00:30
    "Pacific/Apia": datetime(2011, 12, 30, 10, tzinfo=UTC),  # a day is left out
    "America/Juneau": datetime(1867, 10, 19, 0, 33, tzinfo=UTC),  # a day comes again
    "Africa/Freetown": datetime(1939, 9, 1, tzinfo=UTC),  # for four days only
    "Australia/Lord_Howe": datetime(2026, 4, 4, 15, tzinfo=UTC),  # by half an hour
    "CET": datetime(2026, 3, 29, 1, tzinfo=UTC),  # an abbreviation to the server
    "US/Eastern": datetime(2026, 3, 8, 7, tzinfo=UTC),  # a name that newer Debians do not have
    "Europe/Zurich": datetime(2426, 3, 29, 1, tzinfo=UTC),
    "America/New_York": datetime(9826, 11, 1, 6, tzinfo=UTC),
}


@pytest.fixture(scope="module")
def plain_server() -> Iterator[PlainPostgres]:
    with PlainPostgres() as server:
        yield server


@pytest.fixture(scope="module", params=["TimescaleDB", "PostgreSQL 15"])
def server(request: pytest.FixtureRequest) -> TimescaleServer:
    name = "timescale_server" if request.param == "TimescaleDB" else "plain_server"
    found: TimescaleServer = request.getfixturevalue(name)
    if not found.running:
        found.start()
    return found


@pytest.fixture
def storage(server: TimescaleServer) -> Iterator[TimescaleDBStorage]:
    """In an empty database of a server with the extension, and of one without; the log has every statement."""
    with ExitStack() as opened:
        database = server.create_database()
        opened.callback(server.drop_database, database)
        url = f"{server.url(database)}?options={quote('-clog_statement=all')}"
        yield opened.enter_context(TimescaleDBStorage(url, gateway_id="roof"))


@pytest.mark.parametrize("tz", CHANGES)
def test_every_reading_is_in_its_bucket_whatever_the_clocks_do(storage: TimescaleDBStorage, tz: str) -> None:
    rows: list[StoreRow] = [
        (f"d{n % 3}", CHANGES[tz] + timedelta(minutes=10 * n), {"a": float(n)}) for n in range(-1000, 1000)
    ]
    storage.store_readings(Mixed, rows)
    plain = [{"device_id": device, "timestamp": moment, **data} for device, moment, data, *_ in rows]
    near = {"start": CHANGES[tz] - timedelta(hours=50), "end": CHANGES[tz] + timedelta(minutes=30)}
    for interval, scope in product(("1d", "5d", "1w", "7mo"), ({}, near)):
        for function in ("count", "last"):
            question: dict[str, Any] = {"interval": interval, "tz": tz, "group_by": "device", "fill": "null", **scope}
            assert storage.aggregate(Mixed, "a", function, **question) == aggregate_rows(
                plain, Mixed, "a", function, **question
            )


def test_an_aggregate_is_one_statement(storage: TimescaleDBStorage, server: TimescaleServer) -> None:
    zones = ("UTC", "Europe/Zurich", "America/Havana", "CET", "Pacific/Apia")
    spans = [(None, "UTC"), ("7m", "UTC"), ("1h", "UTC"), *product(("1d", "1w", "5mo", "1y"), zones)]
    storage.store_readings(
        Mixed, [("mast", CHANGES["Pacific/Apia"] + timedelta(hours=n), {"a": 1.0}) for n in range(-30, 30)]
    )
    starts = cycle([None, CHANGES["Pacific/Apia"]])
    fills = cycle([None, "null", "previous"])
    storage.query_readings(Mixed, limit=1)  # connects for queries
    before = server.log.stat().st_size
    calls = list(product(spans, FUNCTIONS, (None, "device")))
    for ((interval, tz), function, group_by), start, fill in zip(calls, starts, fills, strict=False):
        question: dict[str, Any] = {"interval": interval, "tz": tz, "group_by": group_by, "start": start, "fill": fill}
        assert storage.aggregate(Mixed, "a", function, **question)
    with server.log.open("rb") as log:
        log.seek(before)
        said = re.split(r"LOG:  (?:statement|execute [^:]*): ", log.read().decode())[1:]
    # Each call begins a transaction, looks up the columns of the table, aggregates, and commits.
    assert len(said) == 4 * len(calls)
    asked = [statement for statement in said if 'FROM "public"."mixed"' in statement]
    assert len(asked) == len(calls)
    by_time_bucket = sum("time_bucket" in statement for statement in asked)
    assert by_time_bucket == (0 if isinstance(server, PlainPostgres) else len(calls) * (len(spans) - 1) // len(spans))


@pytest.mark.parametrize("tz", ["UTC", "Europe/Zurich", "America/Havana", "CET"])
def test_a_stray_year_makes_no_more_buckets(storage: TimescaleDBStorage, tz: str) -> None:
    moments = [
        datetime(2, 6, 1, tzinfo=UTC),
        datetime(2026, 11, 1, 4, 30, tzinfo=UTC),
        datetime(9998, 6, 1, tzinfo=UTC),
    ]
    storage.store_readings(Mixed, [("mast", moment, {"a": 1.0}) for moment in moments])
    found = storage.downsample(Mixed, "a", "1d", "count", tz=tz)
    assert [(row["bucket"].year, row["result"]) for row in found] == [(2, 1), (2026, 1), (9998, 1)]
