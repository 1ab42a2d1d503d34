"""Hypertables, continuous aggregates and policies: on the community edition, and what the Apache edition says."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edgedepot import InvalidValue, Reading, TimescaleDBStorage
from edgedepot.storage.errors import DataRefused, Misconfigured, NotSupported, StorageClosed
from edgedepot.storage.timescale.hypertable import CreateHypertable, interval_text
from tests.models import Mixed
from tests.servers.pglite import PgliteServer
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


# -- the community edition ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pglite() -> Iterator[PgliteServer]:
    with PgliteServer() as server:
        yield server


@pytest.fixture
def community(pglite: PgliteServer) -> Iterator[TimescaleDBStorage]:
    """A storage on the community edition, without tables."""
    with psycopg.connect(pglite.url, prepare_threshold=None, autocommit=True) as connection:
        for (view,) in connection.execute("SELECT view_name FROM timescaledb_information.continuous_aggregates"):
            connection.execute(f'DROP MATERIALIZED VIEW "{view}"')
        for table in ("tank", "mixed", "_devices"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
    with TimescaleDBStorage(pglite.url, gateway_id="roof", copy=False) as storage:
        yield storage


def jobs(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, prepare_threshold=None, autocommit=True) as connection:
        return connection.execute(
            "SELECT job_id, proc_name, config FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1"
        ).fetchall()


def run_job(url: str, job: int) -> None:
    with psycopg.connect(url, prepare_threshold=None, autocommit=True) as connection:
        connection.execute(f"CALL run_job({job})")


@pytest.mark.parametrize("function", ["avg", "min", "max", "sum", "count", "first", "last"])
def test_a_continuous_aggregate_has_the_buckets_of_aggregate(community: TimescaleDBStorage, function: Any) -> None:
    rows = [
        (device, T0 + n * timedelta(minutes=11), {"a": n * 0.5 if n % 3 else None, "number": n})
        for n in range(300)
        for device in ("north", "south")
    ]
    community.store_readings(Mixed, rows)
    for name, interval in (("short", "7m"), ("daily", "1d")):
        community.continuous_aggregate(name, Mixed, "a", function, interval)
        found = community.query_continuous_aggregate(name)
        expected = community.downsample(Mixed, "a", interval, function, group_by="device")
        expected.sort(key=lambda row: (row["bucket"], row["device_id"]))
        assert found == expected
        assert len(found) > 4
    some = community.query_continuous_aggregate("short", "north", T0, T0 + timedelta(hours=1))
    assert {row["device_id"] for row in some} == {"north"}
    assert len(some) == 4


def test_a_continuous_aggregate_is_refreshed_listed_and_dropped(
    community: TimescaleDBStorage, pglite: PgliteServer
) -> None:
    fill(community, 4)
    community.continuous_aggregate(
        "days", Tank, "level", "max", "1 day", start_offset="90 days", end_offset="1h", schedule_interval="12h",
        with_data=False,
    )  # fmt: skip
    [listed] = community.continuous_aggregates()
    assert (listed["name"], listed["table"]) == ("days", "tank")
    assert listed["schedule_interval"] == timedelta(hours=12)
    assert (listed["start_offset"], listed["end_offset"]) == (timedelta(days=90), timedelta(hours=1))
    assert [row["result"] for row in community.query_continuous_aggregate("days")] == [3.0, 7.0, 11.0, 15.0]
    community.refresh_continuous_aggregate("days", T0, T0 + 2 * DAY)
    community.store_reading(Tank, "north", T0 + timedelta(hours=1), {"level": 99.0})
    assert community.query_continuous_aggregate("days")[0]["result"] == 3.0
    community.refresh_continuous_aggregate("days")
    assert community.query_continuous_aggregate("days")[0]["result"] == 99.0
    everybody = TimescaleDBStorage(pglite.url, copy=False)
    with everybody:
        assert everybody.query_continuous_aggregate("days")[0]["gateway_id"] == "roof"
    community.drop_continuous_aggregate("days")
    community.drop_continuous_aggregate("days")
    assert community.continuous_aggregates() == []
    with pytest.raises(Misconfigured, match="does not exist"):
        community.query_continuous_aggregate("days")


def test_a_continuous_aggregate_that_cannot_be_kept_fresh_is_not_there(community: TimescaleDBStorage) -> None:
    fill(community, 4)
    with pytest.raises(DataRefused, match="refresh window too small"):
        community.continuous_aggregate("days", Tank, "level", interval="1 day", start_offset="1d", end_offset="1d")
    assert community.continuous_aggregates() == []
    community.continuous_aggregate("days", Tank, "level", interval="1 day", start_offset="3d", end_offset="1d")
    with pytest.raises(Misconfigured, match="already exists"):
        community.continuous_aggregate("days", Tank, "level", interval="1 day")
    assert [one["name"] for one in community.continuous_aggregates()] == ["days"]


def test_a_retention_policy_drops_what_is_old(community: TimescaleDBStorage, pglite: PgliteServer) -> None:
    community.create_hypertable(Tank, "1 day")
    fill(community, 2)
    fill(community, 1, start=datetime.now(UTC) - timedelta(hours=12))
    community.create_retention_policy(Tank, "1y")
    community.create_retention_policy(Tank, timedelta(days=30))
    [(job, procedure, config)] = jobs(pglite.url)
    assert (procedure, config["drop_after"]) == ("policy_retention", "30 days")
    run_job(pglite.url, job)
    assert community.aggregate(Tank, "level", "count") == {"result": 4}
    community.remove_retention_policy(Tank)
    community.remove_retention_policy(Tank)
    assert jobs(pglite.url) == []


def test_a_compression_policy_compresses_and_late_readings_still_come_in(
    community: TimescaleDBStorage, pglite: PgliteServer
) -> None:
    community.create_hypertable(Tank, "1 day")
    fill(community, 2)
    community.create_compression_policy(Tank, "7 days")
    [(job, procedure, _)] = jobs(pglite.url)
    assert procedure == "policy_compression"
    run_job(pglite.url, job)
    with psycopg.connect(pglite.url, prepare_threshold=None, autocommit=True) as connection:
        compressed = connection.execute("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed")
        assert compressed.fetchall() == [(2,)]
        settings = connection.execute("SELECT segmentby FROM timescaledb_information.hypertable_compression_settings")
        assert settings.fetchall()[0] == ("gateway_id,device_id",)
    receipt = community.store_readings(
        Tank,
        [
            ("north", T0, {"level": 0.0}),
            ("north", T0 + timedelta(hours=6), {"level": 50.0}),
            ("south", T0, {"level": 7.0}),
        ],
    )
    assert (receipt.accepted, receipt.duplicates) == (2, 1)
    found = community.query_readings(Tank, order="timestamp", limit=3)
    assert [(row["device_id"], row["level"]) for row in found] == [("north", 0.0), ("south", 7.0), ("north", 50.0)]
    community.remove_compression_policy(Tank)
    assert jobs(pglite.url) == []


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
