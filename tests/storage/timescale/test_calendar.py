"""Calendar buckets where the server's differ from the contract's, and how much is asked of the server."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from edgedepot import TimescaleDBStorage
from edgedepot.storage.base import StoreRow
from edgedepot.storage.rows import aggregate_rows
from tests.models import Mixed
from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Connect

# A change of the clocks at or about midnight, in UTC.
CHANGES = {
    "America/Havana": datetime(2026, 11, 1, 5, tzinfo=UTC),  # back from 01:00 to 00:00: the date begins twice
    "Atlantic/Azores": datetime(2026, 10, 25, 1, tzinfo=UTC),
    "America/St_Johns": datetime(2006, 10, 29, 2, 31, tzinfo=UTC),  # back from 00:01 to 23:01: the old date returns
    "America/Sao_Paulo": datetime(2018, 11, 4, 3, tzinfo=UTC),  # on from 00:00 to 01:00
    "America/Toronto": datetime(1919, 3, 31, 4, 30, tzinfo=UTC),  # on from 23:30 to 00:30
    "Pacific/Apia": datetime(2011, 12, 30, 10, tzinfo=UTC),  # a day is left out
    "CET": datetime(2026, 3, 29, 1, tzinfo=UTC),  # an abbreviation to the server
    "US/Eastern": datetime(2026, 3, 8, 7, tzinfo=UTC),  # a name that newer Debians do not have
    "Europe/Zurich": datetime(2026, 3, 29, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("tz", CHANGES)
def test_every_reading_is_in_its_bucket_whatever_the_clocks_do(storage: TimescaleDBStorage, tz: str) -> None:
    rows: list[StoreRow] = [
        (f"d{n % 3}", CHANGES[tz] + timedelta(minutes=10 * n), {"a": float(n)}) for n in range(-1000, 1000)
    ]
    storage.store_readings(Mixed, rows)
    plain = [{"device_id": device, "timestamp": moment, **data} for device, moment, data, *_ in rows]
    for interval in ("1d", "5d", "1w", "1mo", "1y"):
        for function in ("count", "last"):
            question: dict[str, Any] = {"interval": interval, "tz": tz, "group_by": "device", "fill": "null"}
            assert storage.aggregate(Mixed, "a", function, **question) == aggregate_rows(
                plain, Mixed, "a", function, **question
            )


@pytest.mark.parametrize(
    ("interval", "tz"), [(None, "UTC"), ("1h", "UTC"), ("1d", "UTC"), ("1mo", "UTC"), ("1w", "Europe/Zurich")]
)
@pytest.mark.parametrize("function", ["avg", "last"])
def test_an_aggregate_is_one_statement_by_time_bucket(
    connect: Connect, timescale_server: TimescaleServer, timescale_url: str, interval: Any, tz: str, function: Any
) -> None:
    connect().store_readings(
        Mixed, [("mast", CHANGES["Europe/Zurich"] + timedelta(hours=n), {"a": 1.0}) for n in range(-50, 50)]
    )
    storage = connect(url=f"{timescale_url}?options={quote('-clog_statement=all')}")
    storage.health_check()
    before = timescale_server.log.stat().st_size
    assert storage.aggregate(Mixed, "a", function, interval=interval, tz=tz, group_by="device")
    with timescale_server.log.open("rb") as log:
        log.seek(before, os.SEEK_SET)
        asked = log.read().decode()
    assert asked.count('FROM "public"."mixed"') == 1
    assert asked.count("time_bucket") == (interval is not None)


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
