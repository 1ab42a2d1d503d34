"""The worker's thread: order, lost answers, restarts, waits, states, and the log."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage, SyncWorker
from edgedepot.storage.errors import (
    DataRefused,
    Misconfigured,
    NotSupported,
    Overloaded,
    StorageClosed,
    StorageError,
    Unreachable,
)
from tests.books import upstream_books
from tests.sync.conftest import Start
from tests.sync.scripted import (
    ACCEPT,
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
    step_through_waits,
    temperatures,
    until,
)


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
        store.windows, store.read_before, store.refusals = [], [], []
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


def test_an_upstream_that_hangs_has_a_person_called(
    store: TellingStore, start: Start, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A storage of one's own without a timeout: nobody can end its call."""
    caplog.set_level(logging.INFO, logger="edgedepot.sync")
    upstream = ScriptedUpstream()
    worker = start(upstream)
    eventually(lambda: len(clock.lain) > 0)
    upstream.open.clear()
    fill(store, 1)
    eventually(lambda: len(upstream.requests) == 1)
    clock.advance(29)
    fill(store, 1, start=1)
    assert (worker.status().alarm, worker.status().limited_by) == (None, None)
    clock.advance(2)
    status = worker.status()
    assert (status.state, status.limited_by, str(status.alarm)[:34]) == (
        *("sending", "backend", "no answer to a request for 30 s, a"),
    )
    for number in range(2, 5):
        fill(store, 1, start=number)
    upstream.open.set()
    until(worker, "idle")
    assert worker.status().alarm is None
    lines = [record.getMessage()[:63] for record in caplog.records if record.name == "edgedepot.sync"]
    assert lines[0] == "upstream central does not take readings: no answer to a request"
    assert lines[1:] == ["upstream central is back, 4 readings pending"]
    assert temperatures(upstream) == numbers(5)


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
    assert store.refusals == []


def test_poison_rows_are_set_aside_and_the_rest_arrives(store: TellingStore, start: Start) -> None:
    fill(store, 300)
    upstream = ScriptedUpstream(refuses=lambda row: "too cold" if row.data["temperature"] in (0, 150, 299) else None)
    worker = start(upstream, batch_size=100)
    eventually(lambda: worker.status().delivered == 297)
    until(worker, "idle")
    assert [(row.row[1], reason) for row, reason in store.refusals] == [
        (0.0, "too cold"), (150.0, "too cold"), (299.0, "too cold"),
    ]  # fmt: skip
    assert store.ledger().upstreams["central"] == upstream_books(versions=300, delivered=297, quarantined=3)
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
    assert store.refusals == []


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
    assert store.refusals == []
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
    assert store.refusals == []


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


def test_a_lone_refusal_is_not_retried(store: TellingStore, start: Start) -> None:
    fill(store, 1)
    upstream = ScriptedUpstream(script=failing(DataRefused("out of range", retry_after=30)))
    worker = start(upstream)
    eventually(lambda: len(store.refusals) == 1)
    until(worker, "idle")
    assert worker.status().requests == 1
