"""Continuous aggregates and policies, on the community edition of TimescaleDB."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edgedepot import Device, TimescaleDBStorage
from edgedepot.storage.base import StoreRow
from edgedepot.storage.errors import DataRefused, Misconfigured
from tests.models import Mixed
from tests.servers.pglite import PgliteServer
from tests.storage.timescale.test_injection import GOOD, attack
from tests.storage.timescale.test_upkeep import DAY, T0, Tank, fill


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


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, prepare_threshold=None, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def jobs(url: str) -> list[tuple[Any, ...]]:
    return run(
        url, "SELECT job_id, proc_name, config FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 1"
    )


def run_job(url: str, job: int) -> None:
    run(url, f"CALL run_job({job})")


@pytest.mark.parametrize("function", ["avg", "min", "max", "sum", "count", "first", "last"])
def test_a_continuous_aggregate_has_the_buckets_of_aggregate(community: TimescaleDBStorage, function: Any) -> None:
    """Of floats, whole numbers, and floats that are together beyond all floats."""
    steps = [n * timedelta(minutes=11) for n in range(100)] + [n * timedelta(hours=31) for n in range(1, 60)]
    rows: list[StoreRow] = [
        (device, T0 + step, {"a": n * 0.5 if n % 3 else None, "number": n, "b": 1.5e308})
        for n, step in enumerate(steps)
        for device in ("north", "south")
    ]
    community.store_readings(Mixed, rows)
    views = (("short", "a", "7m"), ("daily", "number", "1d"), ("weekly", "b", "1w"), ("monthly", "number", "1mo"))
    for name, field, interval in views:
        community.continuous_aggregate(name, Mixed, field, function, interval)
        found = community.query_continuous_aggregate(name)
        expected = community.downsample(Mixed, field, interval, function, group_by="device")
        expected.sort(key=lambda row: (row["bucket"], row["device_id"]))
        assert found == expected
        assert [type(row["result"]) for row in found] == [type(row["result"]) for row in expected]
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


_RUNS = """
    INSERT INTO _timescaledb_internal.bgw_job_stat
    VALUES ({job}, '{start}', '{end}', '2100-01-01Z', '-infinity', false, 1, '0', '0', 0, 1, 0, 0, 0)
    ON CONFLICT (job_id) DO UPDATE SET last_start = excluded.last_start, last_finish = excluded.last_finish
"""


def test_a_policy_keeps_a_continuous_aggregate_fresh(community: TimescaleDBStorage, pglite: PgliteServer) -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=0) - 5 * DAY

    def newest() -> Any:
        return community.query_continuous_aggregate("days")[-1]["result"]

    fill(community, 1)
    community.continuous_aggregate("days", Tank, "level", "max", "1 day", start_offset="90 days", end_offset="1h")
    [(job, procedure, _)] = jobs(pglite.url)
    assert procedure == "policy_refresh_continuous_aggregate"
    community.store_reading(Tank, "north", noon, {"level": 1.0})
    assert newest() == 1.0
    run_job(pglite.url, job)
    community.store_reading(Tank, "north", noon + timedelta(hours=1), {"level": 2.0})
    assert newest() == 1.0  # it is the policy's answer that is kept
    run_job(pglite.url, job)
    assert newest() == 2.0


def test_the_runs_of_a_policy_are_listed(community: TimescaleDBStorage, pglite: PgliteServer) -> None:
    """Written down here as the scheduler does it, which this build has not."""
    fill(community, 1)
    community.continuous_aggregate("days", Tank, "level")
    [(job, *_)] = jobs(pglite.url)
    found = []
    for start, end in ((None, None), ("-infinity", "-infinity"), (T0, T0 + DAY)):
        if start:
            run(pglite.url, _RUNS.format(job=job, start=start, end=end))
        [listed] = community.continuous_aggregates()
        found.append((listed["last_run"], listed["last_run_status"]))
    assert found == [(None, None), (None, None), (T0, "Failed")]


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
    for after in ("30 days", "7 days"):  # of which each takes the place of the one before
        community.create_compression_policy(Tank, after)
        [(job, procedure, config)] = jobs(pglite.url)
        assert (procedure, config["compress_after"]) == ("policy_compression", after)
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


@pytest.mark.parametrize("name", [name for name in GOOD if "policy" in name or "continuous" in name])
def test_a_hostile_text_is_refused_or_a_value(community: TimescaleDBStorage, pglite: PgliteServer, name: str) -> None:
    community.store_reading(Mixed, "d", T0, {"a": 1.0})
    community.save_device(Device("d"))
    community.continuous_aggregate("hours", Mixed, "a")
    attack(community, name, lambda statement: run(pglite.url, statement))
