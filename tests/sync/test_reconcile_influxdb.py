"""Reconcile against InfluxDB 2, as far as it goes without Flux; and against what takes its writes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import InfluxDBStorage, SQLiteStorage
from edgedepot.storage.errors import Misconfigured
from edgedepot.sync.reconcile import reconcile
from tests.servers.victoria import VictoriaMetrics
from tests.storage.influxdb.scripted import BUCKET, ORG, TOKEN, Identity
from tests.sync.answering_influxdb import AnsweringInfluxDB
from tests.sync.reconciling import START, fill, forward, forward_averages, readings

HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "local.db", gateway_id="g") as store:
        store.add_cursor("central")
        fill(store, readings())
        yield store


@pytest.fixture
def server() -> Iterator[AnsweringInfluxDB]:
    with AnsweringInfluxDB() as server:
        yield server


@pytest.fixture
def upstream(server: AnsweringInfluxDB) -> Iterator[InfluxDBStorage]:
    with InfluxDBStorage(server.url, TOKEN, ORG, BUCKET) as upstream:
        yield upstream


def device_of(point: Identity) -> str:
    return dict(point[1])["device_id"]


def nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp()) * 10**9


LOSSES: dict[str, Callable[[Identity], bool]] = {
    "one": lambda point: point[0] == "weather" and device_of(point) == "mast" and point[2] == nanoseconds(START),
    "some": lambda point: point[2] // 600_000_000_000 % 17 == 0,
    "an hour": lambda point: nanoseconds(START + 30 * HOUR) <= point[2] < nanoseconds(START + 31 * HOUR),
    "a device": lambda point: device_of(point) == "roof (north)",
    "everything": lambda point: True,
}


@pytest.mark.parametrize(("loss", "every"), [*((loss, None) for loss in LOSSES), ("an hour", "1 hour")])
def test_what_is_gone_is_there_again(
    store: SQLiteStorage, server: AnsweringInfluxDB, upstream: InfluxDBStorage, loss: str, every: str | None
) -> None:
    if every is None:
        forward(store, upstream)
    else:
        forward_averages(store, upstream, every, limit=400)
    before = dict(server.points)
    gone = [point for point in before if LOSSES[loss](point)]
    for point in gone:
        del server.points[point]
    writes = len(server.writes)
    found = reconcile(store, "central", upstream, dry_run=True)
    assert (found.total().missing, found.total().sent) == (len(gone), 0)
    assert len(server.writes) == writes
    assert len(server.points) == len(before) - len(gone)
    report = reconcile(store, "central", upstream)
    assert report.total().sent == report.total().missing == len(gone)
    assert server.points == before
    written = sum(body.count(b"\n") + 1 for body in server.writes[writes:])
    assert written == len(gone), "nothing else was touched"
    server.queries.clear()
    assert reconcile(store, "central", upstream).total().missing == 0
    assert len(server.queries) == 5 + 3  # for each field the count, and the extremes of numbers


def test_what_takes_writes_alone_is_named(store: SQLiteStorage) -> None:
    """VictoriaMetrics cannot be asked; the error says what could."""
    with VictoriaMetrics() as server, InfluxDBStorage(f"http://127.0.0.1:{server.port}", "t", "o", "b") as upstream:
        forward(store, upstream)
        with pytest.raises(Misconfigured, match="queries need InfluxDB 2, not InfluxDB 3 or VictoriaMetrics"):
            reconcile(store, "central", upstream)
    assert store.ledger().upstreams["central"]["pending"] == 0


def test_a_wrong_token_is_named(store: SQLiteStorage, server: AnsweringInfluxDB, upstream: InfluxDBStorage) -> None:
    forward(store, upstream)
    other = InfluxDBStorage(server.url, "another", ORG, BUCKET)
    with other, pytest.raises(Misconfigured, match="does not know the token: give a valid one"):
        reconcile(store, "central", other)
