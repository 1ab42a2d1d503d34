"""Random readings and calls: SQLiteStorage and TimescaleDBStorage answer alike, also without the extension."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedepot import SQLiteStorage, TimescaleDBStorage
from tests.servers.timescale import PlainPostgres, TimescaleServer
from tests.storage.test_model_based import (
    Pool,
    Probe,
    assert_same,
    calculations,
    exactly,
    is_narrow,
    pools,
    questions,
    writes,
    written,
)

EXAMPLES = 100


@pytest.fixture(scope="module", params=["TimescaleDB", "PostgreSQL 15"])
def pair(
    request: pytest.FixtureRequest, timescale_server: TimescaleServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SQLiteStorage, TimescaleDBStorage]]:
    """One of each for all examples: each begins by deleting what the one before left."""
    folder: Path = tmp_path_factory.mktemp("sqlite")
    with ExitStack() as opened:
        server = timescale_server
        if request.param == "PostgreSQL 15":
            server = opened.enter_context(PlainPostgres())
        elif not server.running:
            server.start()
        database = server.create_database()
        opened.callback(server.drop_database, database)
        upstream = opened.enter_context(TimescaleDBStorage(server.url(database), gateway_id="roof"))
        if request.param == "TimescaleDB":
            upstream.create_hypertable(Probe, "10 years")  # examples are far apart: one chunk for many of them
        yield opened.enter_context(SQLiteStorage(folder / "local.db")), upstream


@given(
    pools,
    st.lists(writes, min_size=1, max_size=4),
    st.lists(questions, max_size=2),
    st.lists(calculations, min_size=1, max_size=4),
)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_both_answer_alike(
    pair: tuple[SQLiteStorage, TimescaleDBStorage],
    pool: Pool,
    calls: list[Any],
    asked: list[Any],
    calculated: list[Any],
) -> None:
    local, upstream = pair
    local.delete_readings(Probe)
    upstream.delete_readings(Probe)
    for kind, what in calls:
        _write(local, upstream, pool, kind, what)
    rows = local.query_readings(Probe)
    for numbers, fields, limit, order in asked:
        question = {**pool.scope(numbers), "fields": fields, "limit": limit, "order": order}
        assert exactly(upstream.query_readings(Probe, **question)) == exactly(local.query_readings(Probe, **question))
    for numbers, (name, function), width, way, tz, by_device, fill in calculated:
        question = {"field": name, "function": function, **pool.scope(numbers), "tz": tz}
        question |= {"fill": None if is_narrow(width) else fill, "group_by": "device" if by_device else None}
        question["interval"] = width and written(width, way)
        scale = sum(abs(row[name] or 0) for row in rows) if name in ("temperature", "pulses") else 0
        assert_same(upstream.aggregate(Probe, **question), local.aggregate(Probe, **question), scale)


def _write(local: SQLiteStorage, upstream: TimescaleDBStorage, pool: Pool, kind: str, what: Any) -> None:
    if kind == "fold":
        return
    if kind == "delete":
        scope = pool.scope(what)
        assert upstream.delete_readings(Probe, **scope) == local.delete_readings(Probe, **scope)
        return
    readings = [
        (pool.device(device), pool.moment(moment), values)
        for device, moment, values in (what if kind == "many" else [what])
    ]
    here, there = local.store_readings(Probe, readings), upstream.store_readings(Probe, readings)
    assert there.duplicates is not None
    assert there.accepted + there.duplicates == len(readings)
    if len({reading[:2] for reading in readings}) == len(readings):  # others are merged before they are counted
        assert (there.accepted, there.duplicates) == (here.accepted, here.duplicates)
    assert there.refused == here.refused == ()
