"""Hypertables, and what the Apache edition says of what it lacks (test_community.py has that)."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edgedepot import InvalidValue, Reading, TimescaleDBStorage
from edgedepot.storage.errors import Misconfigured, NotSupported, StorageClosed
from edgedepot.storage.timescale.hypertable import CreateHypertable, interval_text
from tests.models import Mixed
from tests.servers.process import wait_until
from tests.storage.timescale.conftest import Connect, Look

T0 = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


class Tank(Reading, measurement="tank"):
    level: float | None = None


def fill(storage: TimescaleDBStorage, days: int, step: timedelta = timedelta(hours=6), start: datetime = T0) -> None:
    rows = [("north", start + n * step, {"level": float(n)}) for n in range(int(days * DAY / step))]
    storage.store_readings(Tank, rows)


# -- hypertables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ("7 days", "7 days"),
        (timedelta(minutes=90), "90 minutes"),
        ("2w", "14 days"),
        ("1 hour", "1 hours"),
        ("1y", "12 months"),
        (timedelta(milliseconds=1500), "1500000 microseconds"),
        (timedelta(seconds=90), "90 seconds"),
    ],
)
def test_intervals_in_the_words_of_postgresql(interval: str | timedelta, text: str) -> None:
    assert interval_text(interval) == text


def test_a_hypertable_as_a_step_of_a_migration(timescale_url: str, look: Look) -> None:
    step = CreateHypertable("Farm.log of '26", "when", timedelta(hours=12))
    look('CREATE SCHEMA IF NOT EXISTS "Farm"')
    look('CREATE TABLE "Farm"."log of \'26" ("when" timestamptz NOT NULL, what text)')
    try:
        look("INSERT INTO \"Farm\".\"log of '26\" VALUES ('2026-01-01Z', 'a'), ('2026-01-05Z', 'b')")
        with psycopg.connect(timescale_url) as connection:
            step.apply(connection)
            step.apply(connection)
        assert look("SELECT hypertable_name, num_chunks FROM timescaledb_information.hypertables") == [
            ("log of '26", 2)
        ]
        assert look("SELECT time_interval FROM timescaledb_information.dimensions") == [(timedelta(hours=12),)]
        with psycopg.connect(timescale_url) as connection:
            step.reverse(connection)
            with pytest.raises(psycopg.Error, match="already a hypertable"):
                CreateHypertable("Farm.log of '26", "when", if_not_exists=False).apply(connection)
        assert look('SELECT count(*) FROM "Farm"."log of \'26"') == [(2,)]
    finally:
        look('DROP SCHEMA "Farm" CASCADE')


def test_the_statement_of_a_step_is_text_to_read() -> None:
    assert re.sub(r"\s+", " ", CreateHypertable("weather", chunk_time_interval="1d").sql()) == (
        "SELECT \"create_hypertable\"( '\"weather\"'::regclass, 'timestamp', chunk_time_interval => interval '1 days',"
        " if_not_exists => true, migrate_data => true )"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"table_name": ""},
        {"table_name": "a\0b"},
        {"table_name": "x" * 64},
        {"table_name": 7},
        {"table_name": "\ud800"},
        {"table_name": "a", "time_column": ""},
        {"table_name": "a", "time_column": None},
        {"table_name": "a", "chunk_time_interval": "7; DROP TABLE x"},
        {"table_name": "a", "chunk_time_interval": "0s"},
        {"table_name": "a", "if_not_exists": "true); DROP TABLE x; --"},
    ],
)
def test_a_step_that_cannot_be_right_is_a_value_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        CreateHypertable(**arguments)


def test_a_models_hypertable_with_chunks_of_its_own_length(storage: TimescaleDBStorage, look: Look) -> None:
    assert storage.hypertable_info(Tank) is None
    storage.create_hypertable(Tank, "1 day")
    storage.create_hypertable(Tank, "1 day")
    fill(storage, 3)
    info = storage.hypertable_info(Tank)
    assert info is not None
    assert info["hypertable_name"] == "tank"
    assert (info["num_chunks"], info["chunk_time_interval"]) == (3, DAY)
    assert info["total_bytes"] > 10_000
    assert re.fullmatch(r"\d+ kB", info["total_size"])
    with pytest.raises(Misconfigured, match="already a hypertable"):
        storage.create_hypertable(Tank, if_not_exists=False)


def test_a_table_with_readings_becomes_a_hypertable(storage: TimescaleDBStorage, look: Look) -> None:
    fill(storage, 1)
    look("CREATE TABLE copied (LIKE tank INCLUDING ALL)")
    look("INSERT INTO copied SELECT * FROM tank")
    look("DROP TABLE tank")
    look("ALTER TABLE copied RENAME TO tank")
    assert storage.hypertable_info(Tank) is None
    storage.create_hypertable(Tank)
    info = storage.hypertable_info(Tank)
    assert info is not None
    assert info["num_chunks"] == 1
    assert storage.aggregate(Tank, "level", "count") == {"result": 4}


def test_chunks_are_dropped_by_age_on_every_edition(storage: TimescaleDBStorage) -> None:
    storage.create_hypertable(Tank, "1 day")
    fill(storage, 4)
    fill(storage, 1, start=datetime.now(UTC) - timedelta(hours=12))
    assert storage.drop_chunks(Tank, T0 + 2 * DAY) == 2
    assert [row["timestamp"] for row in storage.query_readings(Tank, order="timestamp", limit=1)] == [T0 + 2 * DAY]
    assert storage.drop_chunks(Tank, timedelta(days=30)) == 2
    assert storage.drop_chunks(Tank, "30 days") == 0
    assert storage.aggregate(Tank, "level", "count") == {"result": 4}
    with pytest.raises(InvalidValue):
        storage.drop_chunks(Tank, datetime(2026, 1, 1))


def test_upkeep_takes_longer_than_other_statements_may(connect: Connect, look: Look, timescale_url: str) -> None:
    storage = connect(statement_timeout="20 ms")
    fill(storage, 1)
    look(storage.schema_sql([Mixed], extension=False))
    calls: tuple[Callable[[], object], ...] = (
        lambda: storage.create_hypertable(Mixed),
        lambda: storage.drop_chunks(Tank, T0),
    )
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'edgedepot' AND wait_event_type = 'Lock' AND now() - query_start > interval '60 ms'
    """
    with ThreadPoolExecutor() as pool:
        with psycopg.connect(timescale_url) as other:
            other.execute("LOCK TABLE tank, mixed IN ACCESS EXCLUSIVE MODE")
            done = [pool.submit(call) for call in calls]
            wait_until(lambda: look(waiting) == [(2,)], "both wait")
        assert [one.result(10) for one in done] == [None, 0]


# -- the Apache-licensed edition ------------------------------------------------------------------------------------


def test_the_apache_edition_says_what_it_takes(storage: TimescaleDBStorage) -> None:
    fill(storage, 1)
    calls: tuple[Callable[[], object], ...] = (
        lambda: storage.continuous_aggregate("hours", Tank, "level"),
        lambda: storage.create_retention_policy(Tank, "90 days"),
        lambda: storage.create_compression_policy(Tank, "7 days"),
    )
    for call in calls:
        with pytest.raises(NotSupported, match=r"need TimescaleDB's community edition; .*SQLSTATE 0A000"):
            call()
    assert storage.continuous_aggregates() == []
    assert storage.aggregate(Tank, "level", "count") == {"result": 4}


def test_upkeep_ends_with_the_storage(storage: TimescaleDBStorage) -> None:
    storage.close()
    with pytest.raises(StorageClosed):
        storage.create_hypertable(Tank)


@pytest.mark.parametrize("name", ["", "a; DROP TABLE tank", 'a"b', "Upper", "x" * 56, "_a", None, 7])
def test_a_name_that_is_none_is_a_value_error(storage: TimescaleDBStorage, name: Any) -> None:
    for call in (
        lambda: storage.continuous_aggregate(name, Tank, "level"),
        lambda: storage.refresh_continuous_aggregate(name),
        lambda: storage.drop_continuous_aggregate(name),
        lambda: storage.query_continuous_aggregate(name),
    ):
        with pytest.raises(InvalidValue, match="name: found"):
            call()
