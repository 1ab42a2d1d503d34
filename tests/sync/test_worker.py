"""The worker's thread: order, lost answers, restarts, waits, states, the log, and how it stops."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, SQLiteStorage, SyncWorker
from edgedepot.storage.errors import (
    DataRefused,
    Misconfigured,
    NotSupported,
    Overloaded,
    StorageBusy,
    StorageClosed,
    StorageError,
    Unreachable,
)
from tests.sync.scripted import (
    ACCEPT,
    Answer,
    Fail,
    HandClock,
    Power,
    ScriptedUpstream,
    TellingStore,
    Weather,
    eventually,
    fill,
    moment,
    numbers,
    open_store,
    temperatures,
)

Start = Callable[..., SyncWorker]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db", flush_interval="20 ms") as store:
        yield store


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def start(store: TellingStore, clock: HandClock) -> Iterator[Start]:
    """`start(upstream, ...)` makes and starts a worker that is stopped after the test."""
    workers: list[SyncWorker] = []

    def make(upstream: ScriptedUpstream | SQLiteStorage, name: str = "central", **settings: Any) -> SyncWorker:
        settings.setdefault("random", lambda: 0.5)
        worker = SyncWorker(store, name, upstream, clock=clock, **settings)
        workers.append(worker)
        worker.start()
        return worker

    yield make
    assert [worker.stop() for worker in workers] == [True] * len(workers)


def failing(*errors: Exception) -> deque[Answer]:
    return deque(Fail(error) for error in errors)


def until(worker: SyncWorker, state: str) -> None:
    eventually(lambda: worker.status().state == state)


def step_through_waits(worker: SyncWorker, clock: HandClock, count: int) -> list[float]:
    """Let the worker wait so many times; how long each time, in seconds."""
    waits: list[float] = []
    for _ in range(count):
        eventually(lambda: worker.status().retry_at is not None)
        requests, retry_at = worker.status().requests, worker.status().retry_at
        assert retry_at is not None
        waits.append(retry_at - clock.monotonic())
        clock.advance(waits[-1])
        eventually(lambda: worker.status().requests > requests)  # noqa: B023 - called before the next turn
    return waits


def test_everything_arrives_once_and_in_order(store: TellingStore, start: Start) -> None:
    fill(store, 1000)
    upstream = ScriptedUpstream()
    worker = start(upstream, batch_size=64)
    until(worker, "idle")
    eventually(lambda: worker.status().delivered == 1000)
    sent = [row.gateway_seq for request in upstream.requests for row in request.rows]
    assert sent == list(range(1, 1001))
    assert temperatures(upstream) == numbers(1000)
    assert max(len(request.rows) for request in upstream.requests) == 64
    status = worker.status()
    assert (status.requests, status.faults, status.last_error, status.retry_at) == (16, 0, None, None)
    assert status.last_delivery == 1767225600_000000  # the clock has not moved from 2026-01-01
    assert store.ledger().upstreams["central"]["delivered"] == 1000
    assert store.ledger().balanced


def test_new_rows_wake_it_and_it_does_not_poll_meanwhile(store: TellingStore, start: Start, clock: HandClock) -> None:
    upstream = ScriptedUpstream()
    worker = start(upstream, poll_interval="7s")
    eventually(lambda: clock.lain[-1:] == [7.0])
    assert store.windows == [None]
    for number in range(5):
        lain = len(clock.lain)
        store.store_reading(Weather, "mast", moment(number), {"temperature": number})
        eventually(lambda: worker.status().delivered == number + 1)  # noqa: B023 - called before the next turn
        eventually(lambda: clock.lain[lain:][-1:] == [7.0])  # noqa: B023
    assert clock.monotonic() == 0
    assert temperatures(upstream) == numbers(5)


class SilentStore(TellingStore):
    """A store that never says that there is something new."""

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_without_being_told_it_looks_once_in_each_poll_interval(tmp_path: Path, clock: HandClock) -> None:
    upstream = ScriptedUpstream()
    with SilentStore(tmp_path / "silent.db", gateway_id="g") as store:
        store.windows, store.quarantined = [], []
        with SyncWorker(store, "central", upstream, clock=clock, poll_interval="7s") as worker:
            eventually(lambda: clock.lain == [7.0])
            fill(store, 3)
            clock.advance(6.9)
            eventually(lambda: len(clock.lain) == 1)
            assert store.windows == [None]
            clock.advance(0.2)
            eventually(lambda: worker.status().delivered == 3)


def test_a_lost_answer_loses_nothing_and_doubles_nothing(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 200)
    upstream = ScriptedUpstream()
    upstream.script = deque([ACCEPT, Fail(Unreachable("no answer"), applied=True), Fail(Unreachable("down")), ACCEPT])
    worker = start(upstream, batch_size=50)
    step_through_waits(worker, clock, 2)
    eventually(lambda: worker.status().delivered == 200)
    assert temperatures(upstream) == numbers(200)
    assert upstream.duplicates == 50
    until(worker, "idle")
    assert store.ledger().balanced
    assert store.count_pending("central") == 0


def test_a_real_store_as_upstream(store: TellingStore, start: Start, tmp_path: Path) -> None:
    fill(store, 500)
    store.store_reading(Weather, "mast", moment(3), {"temperature": 3, "humidity": 40}).wait()
    with SQLiteStorage(tmp_path / "upstream.db") as upstream:
        worker = start(upstream, batch_size=100)
        eventually(lambda: worker.status().delivered == 500)
        assert worker.stop()
        found = upstream.query_readings(Weather, order="timestamp")
        assert [row["temperature"] for row in found] == numbers(500)
        assert found[3]["humidity"] == 40
        assert upstream.gateway_id == "g"


def test_it_goes_on_after_a_restart_of_the_worker(store: TellingStore, start: Start) -> None:
    fill(store, 100)
    upstream = ScriptedUpstream(script=deque([ACCEPT, ACCEPT, Fail(Unreachable("down"))]))
    first = start(upstream, batch_size=10)
    until(first, "waiting")
    assert first.stop()
    assert first.status().state == "stopped"
    first.start()
    eventually(lambda: first.status().delivered == 100)
    assert temperatures(upstream) == numbers(100)
    assert upstream.duplicates == 0


def test_it_goes_on_after_a_restart_of_the_store(tmp_path: Path, clock: HandClock) -> None:
    upstream = ScriptedUpstream(script=deque([ACCEPT, ACCEPT, Fail(Unreachable("down"), applied=True)]))
    path = tmp_path / "gateway.db"
    with open_store(path) as store:
        fill(store, 100)
        with SyncWorker(store, "central", upstream, batch_size=10, clock=clock) as worker:
            until(worker, "waiting")
    with open_store(path) as store:
        fill(store, 20, start=100)
        with SyncWorker(store, "central", upstream, batch_size=10, clock=clock) as worker:
            eventually(lambda: worker.status().delivered == 100)
        assert store.ledger().balanced
        assert store.ledger().upstreams["central"]["delivered"] == 120
    assert temperatures(upstream) == numbers(120)
    assert upstream.duplicates == 10  # the window whose answer was lost, and no other


def test_waits_grow_with_full_jitter_and_honour_the_server(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 1)
    down = Unreachable("down")
    upstream = ScriptedUpstream(script=failing(down, down, down, Unreachable("busy", retry_after=30), *[down] * 8))
    draws = iter([0.0, 1.0, 0.5, 0.0, *[1.0] * 8])
    worker = start(upstream, random=lambda: next(draws))
    waits = step_through_waits(worker, clock, 12)
    assert waits[:4] == pytest.approx([0.2, 0.8, 0.2 + 0.5 * 1.4, 30.2])
    assert waits[4:8] == pytest.approx([6.4, 12.8, 25.6, 51.2])
    assert waits[8:] == pytest.approx([60] * 4)
    eventually(lambda: worker.status().delivered == 1)
    assert worker.status().last_error == "down"


def test_after_success_waits_are_short_again(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 2)
    down = Fail(Unreachable("down"))
    upstream = ScriptedUpstream(script=deque([down, down, down, ACCEPT, down, ACCEPT]))
    worker = start(upstream, batch_size=1, random=lambda: 1.0)
    assert step_through_waits(worker, clock, 4) == pytest.approx([0.4, 0.8, 1.6, 0.4])
    eventually(lambda: worker.status().delivered == 2)


def test_new_rows_do_not_cut_a_wait_short(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 1)
    upstream = ScriptedUpstream(script=failing(Unreachable("down")))
    worker = start(upstream, random=lambda: 1.0)
    until(worker, "waiting")
    lain = len(clock.lain)
    fill(store, 1, start=1)
    eventually(lambda: len(clock.lain) > lain)  # it was woken, and lay down again
    assert worker.status().requests == 1
    step_through_waits(worker, clock, 1)
    eventually(lambda: worker.status().delivered == 2)


def test_overloaded_means_less_at_once(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 400)
    less = Fail(Overloaded("too many requests", retry_after=5))
    upstream = ScriptedUpstream(script=deque([less, less, less, ACCEPT, ACCEPT]))
    worker = start(upstream, batch_size=160, random=lambda: 0.0)
    assert step_through_waits(worker, clock, 3) == pytest.approx([5.2, 5.2, 5.2])
    eventually(lambda: worker.status().delivered == 400)
    sizes = [len(request.rows) for request in upstream.requests]
    assert sizes[:6] == [160, 80, 40, 20, 30, 40]
    assert temperatures(upstream) == numbers(400)


def test_a_window_without_a_request_says_nothing_of_the_upstream(
    store: TellingStore, start: Start, clock: HandClock
) -> None:
    fill(store, 10)
    store.store_readings(Power, [("inverter", moment(n), {"watts": n}) for n in range(10)]).wait()
    less = Fail(Overloaded("too much"))
    upstream = ScriptedUpstream(script=deque([ACCEPT, less, less, ACCEPT]))
    worker = start(upstream, batch_size=20, random=lambda: 1.0)
    # The shorter window holds only what was accepted already: the wait after the next failure grows all the same.
    assert step_through_waits(worker, clock, 2) == pytest.approx([0.4, 0.8])
    eventually(lambda: worker.status().delivered == 20)
    assert [len(request.rows) for request in upstream.requests[:4]] == [10, 10, 10, 5]


@pytest.mark.parametrize("error", [StorageError("no idea"), NotSupported("cannot"), StorageClosed("closed")])
def test_what_is_not_known_is_retried(store: TellingStore, start: Start, clock: HandClock, error: StorageError) -> None:
    fill(store, 3)
    upstream = ScriptedUpstream(script=failing(error, error, error))
    worker = start(upstream)
    step_through_waits(worker, clock, 3)
    eventually(lambda: worker.status().delivered == 3)
    assert store.quarantined == []


def test_poison_rows_are_set_aside_and_the_rest_arrives(store: TellingStore, start: Start) -> None:
    fill(store, 300)
    upstream = ScriptedUpstream(refuses=lambda row: "too cold" if row.data["temperature"] in (0, 150, 299) else None)
    worker = start(upstream, batch_size=100)
    eventually(lambda: worker.status().delivered == 297)
    until(worker, "idle")
    assert [(row.row[1], reason) for row, reason in store.quarantined] == [
        (0.0, "too cold"), (150.0, "too cold"), (299.0, "too cold"),
    ]  # fmt: skip
    assert store.ledger().upstreams["central"] == {
        "versions": 300, "pending": 0, "delivered": 297, "quarantined": 3, "superseded": 0, "deleted": 0,
    }  # fmt: skip
    assert store.ledger().balanced


def test_misconfigured_is_said_once_tried_slowly_and_mended_without_a_restart(
    store: TellingStore, start: Start, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgedepot.sync")
    fill(store, 5)
    upstream = ScriptedUpstream(script=failing(*[Misconfigured('role "edge" may not insert into weather')] * 4))
    worker = start(upstream)
    until(worker, "misconfigured")
    assert worker.status().last_error == 'role "edge" may not insert into weather'
    assert step_through_waits(worker, clock, 3) == [60, 60, 60]
    until(worker, "misconfigured")
    clock.advance(60)
    eventually(lambda: worker.status().delivered == 5)
    until(worker, "idle")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "ERROR",
            'upstream central needs mending: role "edge" may not insert into weather. Nothing is lost, and it is tried'
            " again every 60 s",
        ),
        ("INFO", "upstream central is back, 0 readings pending"),
    ]
    assert store.quarantined == []


def test_all_refused_for_one_reason_stops_that_upstream_and_quarantines_nothing(
    store: TellingStore, start: Start, clock: HandClock
) -> None:
    fill(store, 500)
    upstream = ScriptedUpstream(refuses=lambda row: 'null value in column "site"')
    worker = start(upstream)
    until(worker, "misconfigured")
    assert "site" in str(worker.status().last_error)
    upstream.refuses = lambda row: None
    clock.advance(60)
    eventually(lambda: worker.status().delivered == 500)
    assert store.quarantined == []
    assert temperatures(upstream) == numbers(500)


def test_a_bug_in_a_users_storage_is_logged_counted_and_survived(
    store: TellingStore, start: Start, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, 5)
    upstream = ScriptedUpstream(script=failing(KeyError("host"), KeyError("host"), ZeroDivisionError()))
    worker = start(upstream)
    step_through_waits(worker, clock, 3)
    eventually(lambda: worker.status().delivered == 5)
    assert worker.status().faults == 3
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info and record.exc_info[0] for record in faults] == [KeyError, ZeroDivisionError]
    assert store.quarantined == []


def test_one_line_when_it_goes_away_and_one_when_it_is_back(
    store: TellingStore, start: Start, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgedepot.sync")
    fill(store, 30)
    upstream = ScriptedUpstream()
    upstream.script = failing(*[Unreachable("connection refused")] * 3, Overloaded("starting up"), Unreachable("reset"))
    worker = start(upstream, batch_size=10)
    step_through_waits(worker, clock, 5)
    eventually(lambda: worker.status().delivered == 30)
    until(worker, "idle")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            "upstream central does not take readings: connection refused. They wait, and are sent again until it does",
        ),
        ("INFO", "upstream central is back, 25 readings pending"),
    ]


def test_an_upstream_that_asks_for_less_now_and_then_is_not_away(
    store: TellingStore, start: Start, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgedepot.sync")
    fill(store, 4)
    less = Fail(Overloaded("too many requests"))
    upstream = ScriptedUpstream(script=deque([less, less, ACCEPT, less, less, less, ACCEPT]))
    worker = start(upstream, batch_size=1)
    step_through_waits(worker, clock, 3)
    assert caplog.records == []
    step_through_waits(worker, clock, 2)
    eventually(lambda: worker.status().delivered == 4)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_dead_upstream_does_not_hold_the_other_up(store: TellingStore, start: Start) -> None:
    fill(store, 100)
    dead = ScriptedUpstream(script=failing(Unreachable("down")))
    alive = ScriptedUpstream()
    waiting = start(dead, "dead")
    working = start(alive, "alive", batch_size=10)
    eventually(lambda: working.status().delivered == 100)
    until(waiting, "waiting")
    assert temperatures(alive) == numbers(100)
    assert dead.kept == {}
    books = store.ledger()
    assert (books.upstreams["dead"]["pending"], books.upstreams["alive"]["pending"]) == (100, 0)
    assert books.balanced


def test_a_stop_ends_a_wait_at_once(store: TellingStore, start: Start, clock: HandClock) -> None:
    fill(store, 1)
    worker = start(ScriptedUpstream(script=failing(Unreachable("down"))))
    until(worker, "waiting")
    assert worker.stop()  # the clock stands still: nothing else ends the wait
    assert (worker.status().state, worker.status().retry_at) == ("stopped", None)
    assert clock.monotonic() == 0


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
        ({"batch_size": 0}, "batch_size is 0, expected a number of rows from 1 up"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"poll_interval": "soon"}, "'central': poll_interval: found 'soon', expected a duration such as '10s'"),
        ({"backoff": 5}, "backoff is 5, expected the shortest and the longest wait"),
        ({"backoff": ("60s", "1s")}, "expected the shorter wait first"),
        ({"backoff": ("0s", "1s")}, "backoff: found '0s'"),
    ],
)
def test_wrong_settings_are_named(store: TellingStore, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        SyncWorker(store, "central", ScriptedUpstream(), **settings)
    assert text in str(raised.value)


def test_a_lone_refusal_is_not_retried(store: TellingStore, start: Start) -> None:
    fill(store, 1)
    upstream = ScriptedUpstream(script=failing(DataRefused("out of range", retry_after=30)))
    worker = start(upstream)
    eventually(lambda: len(store.quarantined) == 1)
    until(worker, "idle")
    assert worker.status().requests == 1
