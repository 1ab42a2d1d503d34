"""What a real TimescaleDB may have against rows or be up to itself: each kind of trouble, by its outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from edgedepot import SyncWorker, TimescaleDBStorage
from tests.books import upstream_books
from tests.servers.proxy import TcpProxy
from tests.sync.scripted import TellingStore, eventually, fill, open_store
from tests.sync.test_timescale import found, link

__all__ = ["link"]
BACKOFF = ("5 ms", "50 ms")
ROWS = 500


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db") as store:
        fill(store, 1)
        yield store


@pytest.fixture
def upstream(timescale_url: str) -> Iterator[TimescaleDBStorage]:
    with TimescaleDBStorage(timescale_url) as storage:
        yield storage


def run_sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def first_delivered(worker: SyncWorker) -> None:
    eventually(lambda: worker.status().delivered == 1)


@pytest.mark.parametrize("kind", ["text", "real", "bigint"])
def test_a_column_of_the_wrong_type_is_a_wrong_set_up(store: TellingStore, timescale_url: str, kind: str) -> None:
    """Nothing is set aside for it, hardly a request is spent on it, and once it is mended everything arrives."""
    with TimescaleDBStorage(timescale_url) as upstream, SyncWorker(store, "central", upstream) as worker:
        first_delivered(worker)
    run_sql(timescale_url, f"ALTER TABLE weather ALTER COLUMN temperature TYPE {kind}")
    fill(store, ROWS, start=1)
    with (
        TimescaleDBStorage(timescale_url) as upstream,
        SyncWorker(store, "central", upstream, backoff=BACKOFF) as worker,
    ):
        eventually(lambda: worker.status().state == "misconfigured")
        assert "temperature" in str(worker.status().last_error)
        assert worker.status().alarm == worker.status().last_error
        assert worker.status().requests < 80
        assert worker.status().delivered == 0
        run_sql(timescale_url, "ALTER TABLE weather ALTER COLUMN temperature TYPE double precision USING 0")
        eventually(lambda: worker.status().delivered == ROWS)
        assert worker.status().alarm is None
    assert store.refusals == []
    assert store.ledger().upstreams["central"] == upstream_books(versions=1 + ROWS, delivered=1 + ROWS)
    assert found(timescale_url) == (1 + ROWS, 1 + ROWS, sum(range(1 + ROWS)))


def test_an_answer_that_is_not_known_is_retried_and_has_a_person_called(
    store: TellingStore, upstream: TimescaleDBStorage, timescale_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SyncWorker(store, "central", upstream, backoff=BACKOFF) as worker:
        first_delivered(worker)
        run_sql(
            timescale_url,
            "CREATE FUNCTION strange() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'the moon is full' USING ERRCODE = 'ZZ999'; END $$",
            "CREATE TRIGGER strange BEFORE INSERT ON weather FOR EACH ROW EXECUTE FUNCTION strange()",
        )
        requests = worker.status().requests
        fill(store, ROWS, start=1)
        eventually(lambda: worker.status().alarm is not None)
        assert "the moon is full (SQLSTATE ZZ999)" in str(worker.status().alarm)
        eventually(lambda: worker.status().requests > requests + 5)
        assert store.count_pending("central") == ROWS
        run_sql(timescale_url, "DROP TRIGGER strange ON weather")
        eventually(lambda: worker.status().delivered == 1 + ROWS)
        assert worker.status().alarm is None
    alarms = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["the moon is full" in record.message for record in alarms] == [True]
    assert store.refusals == []
    assert found(timescale_url) == (1 + ROWS, 1 + ROWS, sum(range(1 + ROWS)))


def test_a_link_that_swallows_everything_is_noticed_and_what_went_into_it_is_not_delivered(
    store: TellingStore, timescale_url: str, link: TcpProxy
) -> None:
    """Both ends take the connection for whole. The storage's own times end that: here 2 s and 3 s, together."""
    url = timescale_url.replace(timescale_url.rpartition("@")[2].partition("/")[0], f"127.0.0.1:{link.port}")
    with (
        TimescaleDBStorage(url, connect_timeout="2s", write_timeout="3s") as upstream,
        SyncWorker(store, "central", upstream, backoff=BACKOFF) as worker,
    ):
        first_delivered(worker)
        link.blackhole()
        began = time.monotonic()
        fill(store, ROWS, start=1)
        eventually(lambda: worker.status().state == "waiting")
        assert time.monotonic() - began < 30
        assert worker.status().delivered == 1
        assert store.count_pending("central") == ROWS
        link.mend()
        eventually(lambda: worker.status().delivered == 1 + ROWS)
    assert found(timescale_url) == (1 + ROWS, 1 + ROWS, sum(range(1 + ROWS)))
    assert store.ledger().problems == []


def test_a_link_that_is_back_carries_everything_within_two_seconds_of_the_first_success(
    store: TellingStore, timescale_url: str, link: TcpProxy
) -> None:
    url = timescale_url.replace(timescale_url.rpartition("@")[2].partition("/")[0], f"127.0.0.1:{link.port}")
    with (
        TimescaleDBStorage(url, connect_timeout="2s") as upstream,
        SyncWorker(store, "central", upstream, backoff=("100 ms", "500 ms")) as worker,
    ):
        first_delivered(worker)
        link.cut()
        fill(store, 20_000, start=1)
        eventually(lambda: worker.status().state == "waiting")
        tries = worker.status().requests
        eventually(lambda: worker.status().requests > tries + 3)
        link.mend()
        eventually(lambda: worker.status().delivered > 1)
        back = time.monotonic()
        eventually(lambda: worker.status().delivered > 2000)
        assert time.monotonic() - back < 2
        eventually(lambda: worker.status().delivered == 20_001)
