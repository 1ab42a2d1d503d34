"""Averages alone over what waited: an outage, history, readings of which only the journal has anything left."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.buffer import WINDOW_BYTES, Buffer, Choice
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.errors import Unreachable
from edgedepot.storage.sqlite.books import Books
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder, Wait
from edgedepot.sync.limits import Limits
from tests.books import upstream_books
from tests.sync.scripted import ScriptedUpstream, Weather, failing

T0 = datetime(2026, 5, 4, tzinfo=UTC)
DEVICES = [f"d{number}" for number in range(5)]
SECONDS = 3600
Point = tuple[str, datetime]


class Noted(Reading):
    note: str


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0 + timedelta(seconds=SECONDS + 100))


def open_store(folder: Path, clock: ManualClock, **settings: Any) -> SQLiteStorage:
    return SQLiteStorage(folder / "x.db", gateway_id="g", clock=clock, **settings)


def value(device: str, second: int) -> float:
    return second % 61 / 7 + len(device) + DEVICES.index(device)


def fill(store: SQLiteStorage, since: int = 0, until: int = SECONDS) -> None:
    """A reading a second of each device, all in turn."""
    for first in range(since, until, 1000):
        rows: list[Any] = [
            (device, T0 + timedelta(seconds=second), {"temperature": value(device, second)})
            for second in range(first, min(until, first + 1000))
            for device in DEVICES
        ]
        store.store_readings(Weather, rows).wait()


def averages(every: int, seconds: int = SECONDS) -> dict[Point, Any]:
    return averages_of(every, [(device, second) for second in range(seconds) for device in DEVICES])


def averages_of(every: int, came: Iterable[tuple[str, int]]) -> dict[Point, Any]:
    found: dict[Point, list[float]] = defaultdict(list)
    for device, second in came:
        found[device, T0 + timedelta(seconds=second - second % every)].append(value(device, second))
    return {point: pytest.approx(math.fsum(values) / len(values), rel=1e-12) for point, values in found.items()}


def forwarder_with(
    store: Buffer, upstream: ScriptedUpstream, clock: ManualClock, batch_size: int = 5000, **limits: Any
) -> Forwarder:
    return Forwarder(
        store,
        "central",
        upstream,
        clock=clock,
        batch_size=batch_size,
        poll_interval=5.0,
        backoff=Backoff(0.2, 60.0, lambda: 0.5),
        limits=Limits.of("central", **limits),
    )


def run(store: SQLiteStorage, forwarder: Forwarder, clock: ManualClock, most: int = 2000) -> None:
    """Until nothing waits."""
    for _ in range(most):
        if not store.count_pending("central"):
            return
        wait = forwarder.step()
        if wait is not None:
            clock.advance(max(0.001, wait.until - clock.monotonic()))
    raise AssertionError("still pending")


def sent(upstream: ScriptedUpstream) -> Counter[Point]:
    """How many times each point went out."""
    return Counter((row.device, row.timestamp) for request in upstream.requests for row in request.rows)


def kept(upstream: ScriptedUpstream) -> dict[Point, Any]:
    assert all(row.quality == 8 for row in upstream.kept.values())
    return {(device, at): row.data["temperature"] for (_, device, at), row in upstream.kept.items()}


@pytest.mark.parametrize("every", [60, 1800])
def test_an_outage_has_each_average_sent_once(tmp_path: Path, clock: ManualClock, every: int) -> None:
    upstream = ScriptedUpstream(gateway_id="g", script=failing(Unreachable("away"), Unreachable("away")))
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        fill(store)
        run(store, forwarder_with(store, upstream, clock, every=f"{every}s"), clock)
        tried, answered = upstream.requests[:2], upstream.requests[2:]
        assert len(tried) == 2
        upstream.requests = answered
        assert set(sent(upstream).values()) == {1}
        assert kept(upstream) == averages(every)
        books = store.ledger()
        assert books.problems == []
        rows, points = SECONDS * len(DEVICES), SECONDS // every * len(DEVICES)
        expected = upstream_books(versions=rows, delivered=points, skipped=rows - points)
        assert books.upstreams["central"] == expected
    assert len(answered) <= 20


@pytest.mark.parametrize(("every", "costs"), [(60, {}), (1800, {}), (1800, {"max_rate": 500})])
def test_history_gone_what_waits_is_averaged(
    tmp_path: Path, clock: ManualClock, every: int, costs: dict[str, Any]
) -> None:
    """Also where not all averages of an interval may go at once."""
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock, keep="1 hour") as store:
        store.add_cursor("central")
        fill(store)
        clock.advance(86_400)
        store.fold()
        store.retain()
        assert store.query_readings(Weather) == []
        run(store, forwarder_with(store, upstream, clock, every=f"{every}s", **costs), clock)
    assert set(sent(upstream).values()) == {1}
    assert kept(upstream) == averages(every)
    assert not costs or len(upstream.requests) > 2


def test_history_gone_of_devices_that_send_many_at_once(tmp_path: Path, clock: ManualClock) -> None:
    """Wherever a window ended, an interval would lie on both sides; and what follows would have the rest alone."""
    upstream, came = ScriptedUpstream(gateway_id="g"), list[tuple[str, int]]()
    for until in range(10, SECONDS, 10):
        came += [("d0", second) for second in range(until - 10, until)]
        for device, offset in [("d1", 100), ("d2", 200)]:
            if until % 300 == offset:
                came += [(device, second) for second in range(max(0, until - 300), until)]
    with open_store(tmp_path, clock, keep="1 hour") as store:
        store.add_cursor("central")
        rows: list[Any] = [(one, T0 + timedelta(seconds=at), {"temperature": value(one, at)}) for one, at in came]
        store.store_readings(Weather, rows).wait()
        clock.advance(86_400)
        store.fold()
        store.retain()
        assert store.query_readings(Weather) == []
        run(store, forwarder_with(store, upstream, clock, batch_size=500, every="1 minute"), clock)
    assert set(sent(upstream).values()) == {1}
    assert kept(upstream) == averages_of(60, came)


def test_history_gone_of_readings_whose_bytes_fill_a_window(tmp_path: Path, clock: ManualClock) -> None:
    """It ends where an interval does."""
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock, keep="1 hour") as store:
        store.add_cursor("central")
        text, count = "x" * 1000, WINDOW_BYTES // 1000 + 300
        rows: list[Any] = [("d0", T0 + timedelta(seconds=second), {"note": text}) for second in range(count)]
        store.store_readings(Noted, rows).wait()
        clock.advance(86_400)
        store.fold()
        store.retain()
        run(store, forwarder_with(store, upstream, clock, batch_size=500, every="1 minute"), clock)
    assert len(upstream.requests) > 1
    assert set(sent(upstream).values()) == {1}


def test_thinned_minutes_are_their_own_averages(tmp_path: Path, clock: ManualClock) -> None:
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock, keep="1 hour", piece_rows=1000) as store:
        store.add_cursor("central")
        fill(store)
        store.fold()
        fill(store, SECONDS, SECONDS + 60)  # the piece before is closed
        store.fold()
        assert store.thin(T0 + timedelta(seconds=SECONDS)) == SECONDS // 60 * 59 * len(DEVICES)
        clock.advance(86_400)
        store.retain()
        assert store.query_readings(Weather) == []
        run(store, forwarder_with(store, upstream, clock, every="1 minute"), clock)
    assert kept(upstream) == averages(60, SECONDS + 60)


@pytest.mark.parametrize("is_salvaged", [False, True])
def test_a_late_upstream_gets_the_averages_of_history(tmp_path: Path, clock: ManualClock, is_salvaged: bool) -> None:
    upstream, first = ScriptedUpstream(gateway_id="g"), ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock, piece_rows=1000) as store:
        store.add_cursor("first")
        fill(store)
        deliver_all(store, first, clock)
        store.fold()
        fill(store, SECONDS, SECONDS + 60)
        store.fold()
        deliver_all(store, first, clock)
        store.fold()
        store.add_cursor("central")
        forwarder = forwarder_with(store, upstream, clock, every="1 minute")
        if is_salvaged:
            assert store._writing is not None
            with store._reading(False) as (view, _):
                books = Books.load(view.connection, view.shape)
            store._writing.cursors.renew(books, set(), store._writing.writer.durable_seq)
        run(store, forwarder, clock)
        assert store.ledger().problems == []
    assert kept(upstream) == averages(60, SECONDS + 60)
    twice = [point for point, times in sent(upstream).items() if times > 1]
    assert len(twice) <= len(upstream.requests)  # those that a window's end cut


def test_the_average_of_vast_values_is_finite(tmp_path: Path, clock: ManualClock) -> None:
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        vast = [1.5e308, 1.7e308, 1.6e308]
        rows: list[Any] = [("d0", T0 + timedelta(seconds=n), {"temperature": value}) for n, value in enumerate(vast)]
        store.store_readings(Weather, rows).wait()
        run(store, forwarder_with(store, upstream, clock, every="1 minute"), clock)
    assert kept(upstream) == {("d0", T0): pytest.approx(1.6e308)}


@pytest.mark.parametrize("is_late", [False, True])
def test_a_refused_average_is_quarantined(tmp_path: Path, clock: ManualClock, is_late: bool) -> None:
    """Also of history, where no reading has its identity: the average bears the interval's start."""
    refused = T0 + timedelta(minutes=1)
    upstream = ScriptedUpstream(gateway_id="g", refuses=lambda row: "no" if row.timestamp == refused else None)
    with open_store(tmp_path, clock, piece_rows=1000) as store:
        rows: list[Any] = [("d0", T0 + timedelta(seconds=second + 0.5), {"temperature": 1.0}) for second in range(1200)]
        store.add_cursor("first" if is_late else "central")
        store.store_readings(Weather, rows).wait()
        store.fold()
        if is_late:
            deliver_all(store, upstream, clock)
            fill(store, SECONDS, SECONDS + 300)  # the piece before is closed, and goes
            deliver_all(store, upstream, clock)
            store.fold()
            store.add_cursor("central")
        run(store, forwarder_with(store, upstream, clock, every="1 minute"), clock)
        assert [row["timestamp"] for row in store.quarantined()] == [refused]
        books = store.ledger()
        assert (books.upstreams["central"]["quarantined"], books.problems) == (1, [])


def deliver_all(store: SQLiteStorage, upstream: ScriptedUpstream, clock: ManualClock) -> None:
    while (window := store.pending("first", 5000)) is not None:
        store.acknowledge("first", window)
        store.flush()


def test_a_days_budget_goes_into_averages(tmp_path: Path, clock: ManualClock) -> None:
    """The backlog's pace follows from what goes out, not from what waits."""
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        fill(store)
        clock.step(-from_midnight(clock))
        forwarder = forwarder_with(store, upstream, clock, every="1 minute", max_per_day="200 kB")
        run(store, forwarder, clock)
        assert clock.monotonic() < 86_400
        spent = forwarder.status().spent_today
        assert spent is not None
        assert spent <= 200_000
    assert kept(upstream) == averages(60)


def from_midnight(clock: ManualClock) -> float:
    return clock.now() / 1e6 % 86_400


@pytest.mark.parametrize("costs", [{}, {"max_rate": 4_000}, {"max_per_day": "300 kB"}])
@pytest.mark.parametrize("starts_again", [False, True])
def test_fresh_averages_of_many_devices_go_once(
    tmp_path: Path, clock: ManualClock, costs: dict[str, Any], starts_again: bool
) -> None:
    """Though more readings come in while an interval lasts than windows have."""
    upstream, devices = ScriptedUpstream(gateway_id="g"), [f"d{number}" for number in range(200)]
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        forwarder, until = forwarder_with(store, upstream, clock, every="1 minute", **costs), clock.monotonic()
        intervals = {(clock.now() // 10**6 + second) // 60 for second in range(0, 400, 10)}
        for second in range(0, 400, 10):
            rows: list[Any] = [(device, None, {"temperature": float(second)}) for device in devices]
            store.store_readings(Weather, rows).wait()
            until += 10
            while clock.monotonic() < until:
                requests = len(upstream.requests)
                wait = forwarder.step()
                if wait is not None:
                    clock.advance(max(0.001, min(wait.until, until) - clock.monotonic()))
                if starts_again and len(upstream.requests) > requests:
                    store.flush()
                    forwarder = forwarder_with(store, upstream, clock, every="1 minute", **costs)
        run(store, forwarder, clock)
        books = store.ledger()
        assert books.problems == []
        delivered = books.upstreams["central"]["delivered"]
    assert set(sent(upstream).values()) == {1}
    assert len(upstream.kept) == delivered == len(intervals) * len(devices)


def test_a_window_in_which_nothing_is_left(tmp_path: Path, clock: ManualClock) -> None:
    """All that waited was deleted, or is of another model."""
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central", choice=Choice(devices=("d1",)))
        forwarder = forwarder_with(store, upstream, clock, every="1 minute", max_rate=2_000)
        for device in ("d0", "d1"):
            store.store_reading(Weather, device, T0, {"temperature": 1.0}).wait()
            run(store, forwarder, clock)
        assert forwarder.status().faults == 0
    assert kept(upstream) == {("d1", T0): 1.0}


def test_how_far_behind_while_an_interval_lasts(tmp_path: Path, clock: ManualClock) -> None:
    """As many readings as are waiting by now, and since the first of them; not those of the interval before."""
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        forwarder = forwarder_with(store, upstream, clock, every="1 minute")
        clock.advance(60 - clock.now() / 1e6 % 60)
        for _ in range(9):
            store.store_readings(Weather, [(device, None, {"temperature": 1.0}) for device in DEVICES]).wait()
            clock.advance(10)
            forwarder.step()
        assert upstream.requests
        status = forwarder.status()
        assert status.state == "idle"
        assert status.lag == pytest.approx(30, abs=1)
        assert 3 * len(DEVICES) <= status.waiting <= 4 * len(DEVICES)  # the books' rows count too


@pytest.mark.parametrize(("ahead", "most"), [(0.0, 10), (2.0, 10), (59.0, 11), (3600.0, 600)])
def test_a_device_whose_clock_is_a_little_fast_is_waited_for(
    tmp_path: Path, clock: ManualClock, ahead: float, most: int
) -> None:
    """Not one whose clock is wrong."""
    upstream = ScriptedUpstream(gateway_id="g")
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        forwarder = forwarder_with(store, upstream, clock, every="1 minute")
        wait: Wait | None = None
        for _ in range(600):
            moment = from_micros(clock.now() + int(ahead * 1e6))
            store.store_readings(Weather, [("mast", moment, {"temperature": 1.0})]).wait()
            while wait is None or wait.for_news or wait.until <= clock.monotonic():
                wait = forwarder.step()
                if wait is not None:
                    break
            clock.advance(1)
        assert 8 <= len(upstream.requests) <= most


def test_a_quarantined_average_is_sent_once_more_while_readings_come_in(tmp_path: Path, clock: ManualClock) -> None:
    """Though readings of the latest interval wait all the time."""
    upstream = ScriptedUpstream(gateway_id="g", refuses=lambda row: "no")
    with open_store(tmp_path, clock) as store:
        store.add_cursor("central")
        forwarder = forwarder_with(store, upstream, clock, every="1 minute")
        for second in range(240):
            store.store_reading(Weather, "d0", None, {"temperature": 1.0}).wait()
            clock.advance(1)
            forwarder.step()
            if second == 120:
                upstream.refuses = lambda row: None
                assert store.replay_quarantined("central") == 2
        assert store.quarantined() == []
        assert len(upstream.kept) == 4
