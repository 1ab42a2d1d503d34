"""How a worker is made, started and stopped."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, SQLiteStorage, SyncWorker
from edgedepot.storage.errors import (
    StorageBusy,
    Unreachable,
)
from edgedepot.storage.sqlite.records import BadRecord
from tests.sync.conftest import Start
from tests.sync.scripted import (
    Fail,
    HandClock,
    Power,
    ScriptedUpstream,
    TellingStore,
    Weather,
    eventually,
    failing,
    fill,
    moment,
    numbers,
    open_store,
    temperatures,
    until,
)


def test_a_stop_ends_a_wait_at_once(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 1)
    worker = start(ScriptedUpstream(script=failing(Unreachable("down"))))
    until(worker, "waiting")
    assert worker.stop()  # the clock stands still: nothing else ends the wait
    assert (worker.status().state, worker.status().retry_at) == ("stopped", None)
    assert clock.monotonic() == 0


@pytest.mark.parametrize("lost", [True, False], ids=["its cursor is lost", "its cursor is older"])
def test_a_worker_goes_on_across_a_salvage(
    store: TellingStore, start: Start, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With a request in flight: all arrives, the books know it, and nobody takes it for owed after a restart."""
    caplog.set_level(logging.CRITICAL, "edgedepot")
    fill(store, 20)
    upstream = ScriptedUpstream()
    worker = start(upstream, batch_size=10)
    eventually(lambda: store.count_pending("central") == 0)
    upstream.open.clear()
    fill(store, 20, start=20)
    eventually(lambda: len(upstream.requests) == 3)
    store.flush()
    with sqlite3.connect(store.path) as file:
        if lost:
            file.execute("UPDATE _cursors SET acknowledged = '[[7, 3]]'")
        else:  # as where the log lost what was acknowledged
            file.execute("UPDATE _cursors SET acknowledged = '[]', delivered = 0")
            file.execute("UPDATE _sources SET name = x'00ff'")
            for (piece,) in file.execute("SELECT name FROM sqlite_schema WHERE name GLOB '_j_*'").fetchall():
                file.execute(f"DELETE FROM {piece} WHERE series IS NULL")
    file.close()
    assert store._writing is not None
    store._writing.writer.suspect(BadRecord("somebody came upon it"))
    store.fold()
    assert store.salvaged is not None
    upstream.open.set()
    eventually(lambda: store.count_pending("central") == 0)
    fill(store, 5, start=40)
    eventually(lambda: len(upstream.kept) == 45)
    assert worker.stop()
    store.fold()
    assert store.ledger().problems == []
    store.close()
    with SQLiteStorage(store.path, read_only=True) as closed:
        assert closed.cursors() == ["central"]
        assert closed.count_pending("central") == 0
        assert closed.ledger().upstreams["central"]["pending"] == 0
        assert closed.ledger().problems == []


def test_a_stop_awaits_the_request_in_flight(store: TellingStore, start: Start) -> None:
    fill(store, 20)
    upstream = ScriptedUpstream()
    upstream.open.clear()
    worker = start(upstream, batch_size=10)
    eventually(lambda: len(upstream.requests) == 1)
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(worker.stop()))
    stopping.start()
    upstream.open.set()
    stopping.join()
    assert stopped == [True]
    assert worker.status().delivered == 10
    assert store.count_pending("central") == 10
    assert len(upstream.requests) == 1


def test_a_request_that_outlasts_the_stop_is_left_and_its_rows_stay_pending(
    store: TellingStore, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, 20)
    upstream = ScriptedUpstream()
    upstream.open.clear()
    worker = start(upstream)
    eventually(lambda: len(upstream.requests) == 1)
    assert not worker.stop(timeout=0.01)
    assert "did not answer within 0.01 s" in caplog.text
    assert store.count_pending("central") == 20
    with pytest.raises(StorageBusy, match="'central'"):
        worker.start()
    upstream.script.append(Fail(Unreachable("no answer"), applied=True))
    upstream.open.set()
    until(worker, "stopped")
    assert worker.stop()
    assert store.count_pending("central") == 20
    worker.start()
    eventually(lambda: worker.status().delivered == 20)
    assert temperatures(upstream) == numbers(20)


def test_starting_and_stopping_twice_do_no_harm(store: TellingStore, clock: HandClock) -> None:
    upstream = ScriptedUpstream()
    worker = SyncWorker(store, "central", upstream, clock=clock)
    assert worker.stop()
    assert worker.status().state == "stopped"
    before = set(threading.enumerate())
    worker.start()
    worker.start()
    ours = set(threading.enumerate()) - before
    assert [(thread.name, thread.daemon) for thread in ours] == [("edgedepot-sync-central", True)]
    assert worker.stop()
    assert worker.stop()
    assert not ours & set(threading.enumerate())


def test_a_store_that_closes_first_ends_it_in_peace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(tmp_path / "local.db")
    fill(store, 1)
    worker = SyncWorker(store, "central", ScriptedUpstream(), poll_interval="1 ms")
    worker.start()
    eventually(lambda: worker.status().delivered == 1)
    store.close()
    until(worker, "stopped")
    assert worker.status().faults == 0
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert worker.stop()


def test_the_example_of_the_design(tmp_path: Path) -> None:
    upstream = SQLiteStorage(tmp_path / "upstream.db")
    store = SQLiteStorage(tmp_path / "greenhouse.db", gateway_id="farm-3", flush_interval="10 ms")
    with upstream, store, SyncWorker(store, "central", upstream):
        store.store_reading(Weather, "bench-1", None, {"temperature": 21.5})
        store.store_reading(Power, "pump", None, {"watts": 300})
        eventually(lambda: len(upstream.query_readings(Power)) == 1)
        assert [row["temperature"] for row in upstream.query_readings(Weather)] == [21.5]


def test_who_cannot_forward_is_told_why(store: TellingStore, tmp_path: Path) -> None:
    upstream = ScriptedUpstream()
    nameless = SQLiteStorage(tmp_path / "nameless.db")
    with nameless, pytest.raises(ConfigError, match=r"no gateway_id.*gateway_id=\"farm-3\""):
        SyncWorker(nameless, "central", upstream)
    assert upstream.gateway_id is None
    with pytest.raises(ConfigError, match="from a ScriptedUpstream, expected a local store, such as SQLiteStorage"):
        SyncWorker(ScriptedUpstream(), "central", upstream)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="to a str, expected a storage, such as TimescaleDBStorage"):
        SyncWorker(store, "central", "postgresql://localhost")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is the local store itself"):
        SyncWorker(store, "central", store)
    with pytest.raises(ConfigError, match="gateway_id is 'other', expected the local store's, 'g'"):
        SyncWorker(store, "central", ScriptedUpstream(gateway_id="other"))
    with pytest.raises(ConfigError, match="found '', expected a text"):
        SyncWorker(store, "", upstream)


def test_an_upstream_is_bound_to_the_stores_gateway(store: TellingStore) -> None:
    nameless, same = ScriptedUpstream(), ScriptedUpstream(gateway_id="g")
    SyncWorker(store, "one", nameless)
    SyncWorker(store, "two", same)
    assert (nameless.gateway_id, same.gateway_id) == ("g", "g")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"batch_size": 0}, "batch_size: found 0, expected a number of rows from 1 up"),
        ({"batch_size": "many"}, "batch_size: found 'many'"),
        ({"poll_interval": "soon"}, "'central': poll_interval: found 'soon', expected a duration such as '10s'"),
        ({"backoff": 5}, "backoff: found 5, expected the shortest and the longest wait"),
        ({"backoff": ("60s", "1s")}, "expected the shorter wait first"),
        ({"backoff": ("0s", "1s")}, "backoff: found '0s'"),
    ],
)
def test_wrong_settings_are_named(store: TellingStore, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        SyncWorker(store, "central", ScriptedUpstream(), **settings)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ("oldest", "now", 'upstream central: start is "now", but it began with "oldest"'),
        ("now", "oldest", 'upstream central: start is "oldest", but it began with "now"'),
        (moment(5), "oldest", 'start is "oldest", but it began with readings from 2026-01-01T00:00:05+00:00 on'),
        ("oldest", moment(5), 'start is readings from 2026-01-01T00:00:05+00:00 on, but it began with "oldest"'),
    ],
)
def test_another_start_of_a_known_upstream_is_warned_of(
    store: TellingStore, start: Start, caplog: pytest.LogCaptureFixture, first: Any, then: Any, words: str
) -> None:
    start(ScriptedUpstream(), start=first).stop()
    start(ScriptedUpstream(), start=first).stop()
    assert [record for record in caplog.records if "began" in record.message] == []
    start(ScriptedUpstream(), start=then).stop()
    (line,) = [record.message for record in caplog.records if "began" in record.message]
    assert words in line
    assert "To begin anew, remove it first" in line
    store.remove_cursor("central")
    caplog.clear()
    start(ScriptedUpstream(), start=then)
    assert caplog.records == []
