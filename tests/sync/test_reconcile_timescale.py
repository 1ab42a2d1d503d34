"""Reconcile against a real TimescaleDB: what was lost is back as it was, versions too; nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from edgedepot import SQLiteStorage, SyncWorker, TimescaleDBStorage, Version
from edgedepot.storage.delivered import measures_of
from edgedepot.sync.reconcile import Finding, reconcile
from tests.sync.reconciling import DAYS, PER_DAY, Power, Weather, fill, forward, forward_averages, moment, readings
from tests.sync.scripted import eventually

Table = list[tuple[Any, ...]]
Look = Callable[[str], Table]
LOSSES = {
    "random rows": "('x' || substr(md5(device_id || timestamp), 1, 6))::bit(24)::int % 23 = 0",
    "a day": "timestamp >= '2026-01-03Z' AND timestamp < '2026-01-04Z'",
    "a device": "device_id = 'roof (north)'",
    "everything": "true",
}


@pytest.fixture
def look(timescale_url: str) -> Look:
    def run(statement: str) -> Table:
        with psycopg.connect(timescale_url) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def upstream(timescale_url: str) -> Iterator[TimescaleDBStorage]:
    with TimescaleDBStorage(timescale_url) as storage:
        yield storage


@pytest.fixture
def store(tmp_path: Path, upstream: TimescaleDBStorage, timescale_url: str) -> Iterator[SQLiteStorage]:
    """All delivered, most of it in history, some of it merged; and another gateway's readings are there too."""
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof") as store:
        store.add_cursor("central")
        rows = readings()
        fill(store, rows[:-300])
        forward(store, upstream)
        store.fold()
        fill(store, rows[-300:])
        store.store_reading(Weather, "mast", moment(100), {"temperature": 1.5, "note": "mended"}).wait()
        forward(store, upstream)
        with TimescaleDBStorage(timescale_url, gateway_id="cellar") as other:
            other.store_readings(Weather, [("mast", moment(number), {"temperature": 99.0}) for number in range(50)])
        yield store


def contents(look: Look) -> dict[str, Table]:
    columns = "gateway_id, device_id, timestamp, quality, store_epoch, gateway_seq"
    return {
        "weather": look(f"SELECT {columns}, temperature, raining, note FROM weather ORDER BY 1, 2, 3"),
        "power": look(f"SELECT {columns}, watts FROM power ORDER BY 1, 2, 3"),
    }


def lose(look: Look, condition: str) -> int:
    found = 0
    for table in ("weather", "power"):
        where = f"FROM {table} WHERE gateway_id = 'roof' AND {condition}"
        found += look(f"SELECT count(*) {where}")[0][0]
        look(f"DELETE {where}")
    return found


def test_nothing_is_lost(store: SQLiteStorage, upstream: TimescaleDBStorage) -> None:
    report = reconcile(store, "central", upstream)
    assert report.total() == Finding()
    assert report.requests == len(measures_of(Weather)) + len(measures_of(Power))


@pytest.mark.parametrize("loss", LOSSES)
def test_all_is_back_as_it_was(store: SQLiteStorage, upstream: TimescaleDBStorage, look: Look, loss: str) -> None:
    before = contents(look)
    lost = lose(look, LOSSES[loss])
    assert lost > 50
    less = contents(look)
    assert reconcile(store, "central", upstream, dry_run=True).total() == Finding(missing=lost)
    assert contents(look) == less
    report = reconcile(store, "central", upstream)
    assert report.total() == Finding(missing=lost, sent=lost)
    assert contents(look) == before
    assert store.ledger().problems == []
    rows = len(before["weather"]) + len(before["power"])
    assert report.requests < 60 < rows / 30
    if loss in ("a device", "everything"):
        assert report.read == 0, "where nothing is there nothing is read"


@pytest.mark.parametrize("loss", ["random rows", "everything"])
def test_averages_are_back_as_they_were(tmp_path: Path, upstream: TimescaleDBStorage, look: Look, loss: str) -> None:
    """Beside readings that went before there were any; some of them in history, and of some a reading came late."""
    with SQLiteStorage(tmp_path / "averages.db", gateway_id="roof") as store:
        store.add_cursor("central")
        rows = readings()
        fill(store, rows[:600])
        forward(store, upstream)
        fill(store, rows[600:-300])
        forward_averages(store, upstream, "1 hour", limit=400)
        store.fold()
        fill(store, rows[-300:])
        store.store_reading(Weather, "mast", moment(400), {"temperature": 1.5, "note": "late"}).wait()
        forward_averages(store, upstream, "1 hour", limit=400)
        assert store.count_pending("central") == 0
        before = contents(look)
        lost = lose(look, LOSSES[loss])
        assert lost > 15
        report = reconcile(store, "central", upstream)
        assert report.total() == Finding(missing=lost, sent=lost)
        assert contents(look) == before
        assert report.requests < 60
        assert store.ledger().problems == []


def test_what_was_deleted_here_stays_there(store: SQLiteStorage, upstream: TimescaleDBStorage, look: Look) -> None:
    """And as many others of that day, which are gone there, are back."""
    before = contents(look)
    assert store.delete_readings(Weather, "mast", moment(151), moment(154)) == 3
    lose(look, f"device_id = 'mast' AND timestamp >= {sql(200)} AND timestamp < {sql(203)}")
    assert reconcile(store, "central", upstream).total() == Finding(missing=3, sent=3, only_there=3)
    assert contents(look) == before


def test_a_newer_version_there_is_kept(store: SQLiteStorage, upstream: TimescaleDBStorage, look: Look) -> None:
    """As after this store was put back to an older copy."""
    newer = Version("mast", moment(200), {"temperature": 500.0}, None, 9, 1)
    upstream.store_readings(Weather, [newer])
    look("UPDATE weather SET temperature = 600, gateway_seq = 0 WHERE device_id = 'mast' AND timestamp = " + sql(201))
    before = contents(look)
    report = reconcile(store, "central", upstream)
    assert report.total() == Finding(different=2, sent=1, kept=1)
    changed = [new for old, new in zip(before["weather"], contents(look)["weather"], strict=True) if old != new]
    assert [row[:3] for row in changed] == [("roof", "mast", moment(201))]
    assert look("SELECT temperature FROM weather WHERE timestamp = " + sql(200) + " AND device_id = 'mast'") == [(500,)]


def test_a_merge_that_is_not_there_yet(store: SQLiteStorage, upstream: TimescaleDBStorage, look: Look) -> None:
    """The old version is not sent again: the worker has the new one."""
    store.store_reading(Weather, "mast", moment(300), {"temperature": -0.5}).wait()
    lose(look, "device_id = 'mast' AND timestamp = " + sql(300))
    before = contents(look)
    assert reconcile(store, "central", upstream).total() == Finding()
    assert contents(look) == before
    forward(store, upstream)
    lose(look, "device_id = 'mast' AND timestamp = " + sql(300))
    assert reconcile(store, "central", upstream).total() == Finding(missing=1, sent=1)
    assert look("SELECT temperature FROM weather WHERE device_id = 'mast' AND timestamp = " + sql(300)) == [(-0.5,)]


def test_while_a_worker_forwards(store: SQLiteStorage, upstream: TimescaleDBStorage, look: Look) -> None:
    """Readings that come, and that change, meanwhile: in the end all is there as it is here."""
    with SyncWorker(store, "central", upstream, backoff=("5 ms", "50 ms")) as worker:
        lose(look, "true")
        for turn in range(5):
            later = [("mast", moment(DAYS * PER_DAY + 50 * turn + n), {"temperature": n / 3}) for n in range(50)]
            merged = [("roof (north)", moment(20 * turn + n), {"temperature": turn + n / 7}) for n in range(40)]
            store.store_readings(Weather, [*later, *merged]).wait()
            reconcile(store, "central", upstream, end=moment(150 * (turn + 1)))
        reconcile(store, "central", upstream)
        eventually(lambda: store.count_pending("central") == 0)
        assert worker.status().faults == 0
    for model in (Weather, Power):
        assert upstream.query_readings(model) == store.query_readings(model)
    assert reconcile(store, "central", upstream).total() == Finding()
    assert store.ledger().problems == []


def sql(number: int) -> str:
    return f"'{moment(number).isoformat()}'"


def test_many_readings_take_few_requests(tmp_path: Path, timescale_url: str, look: Look) -> None:
    """Thirty days of a reading a minute from four devices: a hole in one of them is found by a dozen requests."""
    with (
        SQLiteStorage(tmp_path / "many.db", gateway_id="roof") as store,
        TimescaleDBStorage(timescale_url, gateway_id="roof") as upstream,
    ):
        store.add_cursor("central")
        for device in ("a", "b", "c", "d"):
            times = (moment(0) + timedelta(minutes=minute) for minute in range(30 * 1440))
            store.store_readings(Weather, [(device, at, {"temperature": at.hour + at.minute / 60}) for at in times])
        forward(store, upstream)
        store.fold()
        hole: tuple[datetime, datetime] = (moment(1500), moment(1500) + timedelta(minutes=7))
        look(f"DELETE FROM weather WHERE device_id = 'c' AND timestamp >= '{hole[0]}' AND timestamp < '{hole[1]}'")
        report = reconcile(store, "central", upstream)
        assert report.total() == Finding(missing=7, sent=7)
        assert report.requests <= len(measures_of(Weather)) + 3 + 2
        assert reconcile(store, "central", upstream).requests == len(measures_of(Weather))
