"""What goes next: fresh rows beside a backlog, shares, unresolved windows first, restarts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedepot import ConfigError, SyncWorker
from edgedepot.storage.buffer import Lane
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import Misconfigured, Overloaded, ReceiptTimeout, Unreachable
from edgedepot.sync.forwarder import PROBE
from edgedepot.sync.lanes import ROUND, Lanes
from tests.books import upstream_books
from tests.sync.scripted import (
    Fail,
    Power,
    ScriptedUpstream,
    TellingStore,
    Weather,
    failing,
    fill,
    moment,
    numbers,
    open_store,
    temperatures,
)
from tests.sync.simulated import Link, World, forwarder_to

FRESH = 5.0
"""Seconds after which a reading is upstream at the latest, whatever is pending."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db", clock=clock) as store:
        store.add_cursor("central")
        yield store


@pytest.fixture
def link(store: TellingStore, clock: ManualClock) -> Link:
    link = Link()
    World(store, clock, link)
    return link


def world_of(link: Link) -> World:
    assert link.world is not None
    return link.world


def test_after_an_outage_fresh_readings_arrive_at_once_and_the_backlog_in_order(
    store: TellingStore, clock: ManualClock, link: Link
) -> None:
    world = world_of(link)
    link.fixed, link.each = 0.05, 0.001  # 1,000 readings a second and a little less
    world.arrive(30_000, 3000.0)
    world.rate = 300
    forwarder = forwarder_to(store, link, clock)
    world.run(forwarder, lambda: 30_000 in link.seqs)
    seconds = clock.monotonic()
    assert max(world.ages[6:]) <= FRESH
    assert seconds < 30_000 / (0.75 * 1000 - 300)  # three quarters of the link, at least, carried one or the other
    backlog = [row.gateway_seq for request in link.requests for row in request.rows if row.gateway_seq <= 30_000]
    assert backlog == list(range(1, 30_001))
    assert link.duplicates == 0
    world.rate = 0
    world.run(forwarder, lambda: store.count_pending("central") == 0)
    assert store.ledger().problems == []
    assert store.ledger().upstreams["central"]["delivered"] == len(link.kept)


def test_where_live_readings_alone_overfill_the_link_the_newest_arrive_and_the_backlog_keeps_its_share(
    store: TellingStore, clock: ManualClock, link: Link
) -> None:
    world = world_of(link)
    link.fixed, link.each = 0.02, 0.005  # 200 readings a second, of 300 that come in
    world.arrive(20_000, 3000.0)
    world.rate = 300
    forwarder = forwarder_to(store, link, clock)
    world.run(forwarder, lambda: clock.monotonic() > 120)
    assert max(world.ages[8:]) <= FRESH
    old = sum(row.gateway_seq <= 20_000 for request in link.requests for row in request.rows)
    assert old >= 0.2 * sum(len(request.rows) for request in link.requests)
    assert link.duplicates == 0
    assert store.ledger().problems == []


def test_while_it_keeps_up_there_is_one_lane(store: TellingStore, clock: ManualClock, link: Link) -> None:
    world = world_of(link)
    world.rate = 400
    forwarder = forwarder_to(store, link, clock)
    world.run(forwarder, lambda: clock.monotonic() > 20)
    assert store.waiting("central", "live") == 0
    sent = [row.gateway_seq for request in link.requests for row in request.rows]
    assert sent == sorted(sent)
    assert max(world.ages[3:]) <= 1.0


def lanes_of(windows: int, live_rows: int, store: TellingStore, clock: ManualClock) -> list[Lane]:
    """The lanes of the windows that go out, of 10 rows each, while so many fresh rows come for each window."""
    lanes, found = Lanes(store, "central", clock), list[Lane]()
    for number in range(windows):
        clock.advance(1.0)
        if live_rows:
            fill(store, live_rows, start=10_000 + number * live_rows)
        taken = lanes.next(10)
        assert taken is not None
        lane, window = taken
        lanes.sending(lane, window)
        store.acknowledge("central", window)
        lanes.taken(lane, window)
        found.append(lane)
    return found


def test_of_four_windows_one_is_the_backlogs(store: TellingStore, clock: ManualClock) -> None:
    fill(store, 1000)
    found = lanes_of(41, 7, store, clock)
    assert found[:9] == ["backlog", *["live", "live", "live", "backlog"] * 2]
    assert found[1:].count("backlog") == 40 // ROUND


def test_fresh_rows_gather_for_half_a_second_unless_they_fill_a_window(store: TellingStore, clock: ManualClock) -> None:
    fill(store, 3000)
    lanes = Lanes(store, "central", clock)
    found = list[Lane]()
    for number in range(30):
        clock.advance(0.1)
        fill(store, 1, start=10_000 + number)
        taken = lanes.next(50)
        assert taken is not None
        store.acknowledge("central", taken[1])
        lanes.taken(*taken)
        found.append(taken[0])
    assert 4 <= found.count("live") <= 6
    fill(store, 60, start=20_000)
    taken = lanes.next(50)
    assert taken is not None
    assert taken[0] == "live"


def test_a_backlog_that_ended_at_once_leaves_the_next_one_its_lanes(store: TellingStore, clock: ManualClock) -> None:
    """Most of it was deleted, or is not for this upstream: one window passes it all."""
    fill(store, 100)
    lanes = Lanes(store, "central", clock)

    def send() -> tuple[Lane, int]:
        clock.advance(1.0)
        taken = lanes.next(10)
        assert taken is not None
        store.acknowledge("central", taken[1])
        lanes.taken(*taken)
        return taken[0], len(taken[1].rows)

    assert send() == ("backlog", 10)
    store.delete_readings(Weather)
    assert send() == ("backlog", 0)
    fill(store, 100, start=1000)
    assert send() == ("backlog", 10)
    fill(store, 5, start=2000)
    assert send() == ("live", 5)


def test_what_is_unresolved_is_sent_again_before_the_other_lane_sends(store: TellingStore, clock: ManualClock) -> None:
    """In the meantime the reading has a newer version, which is in the live lane and must not be overtaken."""
    upstream = ScriptedUpstream()
    forwarder = forwarder_to(store, upstream, clock, batch_size=100)
    fill(store, 500)
    assert forwarder.step() is None  # splits, and sends the backlog's first 100
    upstream.script = failing(Unreachable("no answer"))
    assert forwarder.step() is not None
    store.store_reading(Weather, "mast", moment(150), {"temperature": 150, "humidity": 1}).wait()
    fill(store, 20, start=1000)
    lost = upstream.requests[-1]
    for _ in range(2):
        clock.advance(60)
        assert forwarder.step() is None
    again = [row.gateway_seq for request in upstream.requests[2:] for row in request.rows]
    assert again[:99] == [row.gateway_seq for row in lost.rows if row.timestamp != moment(150)]
    clock.advance(60)
    assert forwarder.step() is None
    assert upstream.requests[-1].rows[0].data == {"temperature": 150.0, "humidity": 1.0}
    while store.count_pending("central"):
        clock.advance(60)
        forwarder.step()
    assert store.ledger().upstreams["central"] == upstream_books(versions=521, delivered=520, superseded=1)


@pytest.mark.parametrize("error", [Unreachable("no answer"), ReceiptTimeout("no receipt")])
def test_an_unresolved_live_window_keeps_the_backlog_waiting(
    store: TellingStore, clock: ManualClock, error: Exception
) -> None:
    upstream = ScriptedUpstream()
    forwarder = forwarder_to(store, upstream, clock, batch_size=100)
    fill(store, 1000)
    forwarder.step()
    fill(store, 100, start=5000)
    clock.advance(1)
    upstream.script = deque([Fail(error, applied=True)])
    forwarder.step()
    live = [row.gateway_seq for row in upstream.requests[-1].rows]
    assert live[0] > 1000
    fill(store, 400, start=6000)  # more than a couple of windows: the live lane has fallen behind too
    for _ in range(2):
        clock.advance(60)
        forwarder.step()
    again = [row.gateway_seq for request in upstream.requests[2:] for row in request.rows]
    assert again[:100] == live
    assert min(again) > 1000
    clock.advance(60)
    forwarder.step()
    assert upstream.requests[-1].rows[0].gateway_seq == 101  # the backlog, into which the live rows went
    assert upstream.duplicates == 100


@pytest.mark.parametrize("error", [Overloaded("later"), Misconfigured("no such table")])
def test_what_was_turned_away_holds_no_fresh_rows_up(store: TellingStore, clock: ManualClock, error: Exception) -> None:
    upstream = ScriptedUpstream()
    forwarder = forwarder_to(store, upstream, clock, batch_size=100)
    fill(store, 1000)
    forwarder.step()
    upstream.script = failing(error)
    forwarder.step()
    assert upstream.requests[-1].rows[0].gateway_seq == 101
    fill(store, 5, start=5000)
    clock.advance(60)
    forwarder.step()
    assert upstream.requests[-1].rows[0].gateway_seq > 1000


def test_an_unresolved_window_whose_rows_are_gone_holds_nothing_up(store: TellingStore, clock: ManualClock) -> None:
    upstream = ScriptedUpstream(script=failing(Unreachable("down")))
    forwarder = forwarder_to(store, upstream, clock)
    fill(store, 5)
    forwarder.step()
    store.delete_readings(Weather)
    clock.advance(60)
    forwarder.step()
    store.store_reading(Power, "inverter", moment(0), {"watts": 1.0}).wait()
    forwarder.step()
    assert len(upstream.kept) == 1
    assert store.ledger().problems == []


def test_a_link_is_probed_with_few_rows_and_used_in_full_as_soon_as_it_is_back(
    store: TellingStore, clock: ManualClock, link: Link
) -> None:
    world = world_of(link)
    world.arrive(20_000, 100.0)
    forwarder = forwarder_to(store, link, clock)
    world.run(forwarder, lambda: len(link.requests) == 5)
    full = len(link.requests[-1].rows)
    assert full == 5000
    link.script = failing(*[Unreachable("down")] * 8)
    world.run(forwarder, lambda: len(link.requests) == 14)
    sizes = [len(request.rows) for request in link.requests[5:]]
    assert sizes == [5000, *[PROBE] * 8]
    back = clock.monotonic()
    world.run(forwarder, lambda: len(link.requests) == 15)
    assert len(link.requests[-1].rows) == 5000
    assert clock.monotonic() - back < 2


def test_a_window_too_large_for_the_link_to_carry_in_time_becomes_smaller(
    store: TellingStore, clock: ManualClock, link: Link
) -> None:
    """The upstream gives up after 60 s, whatever arrived by then: the same window again would never get there."""
    world = world_of(link)
    link.each = 0.5

    world.arrive(400, 100.0)
    forwarder = forwarder_to(store, Impatient(link), clock)
    world.run(forwarder, lambda: store.count_pending("central") == 0, seconds=3000)
    assert len(link.kept) == 400


class Impatient(ScriptedUpstream):
    """Gives up on a request that would take more than a minute."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link

    def store_readings(self, reading_model: type, rows: object) -> object:  # type: ignore[override]
        given = list(rows)  # type: ignore[call-overload]
        if self.link.each * len(given) > 60:
            world_of(self.link).pass_time(60)
            raise Unreachable("the server said nothing for 60 s")
        return self.link.store_readings(reading_model, given)


def test_both_lanes_go_on_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    upstream = ScriptedUpstream()
    with open_store(tmp_path / "gateway.db", clock=clock) as store:
        forwarder = forwarder_to(store, upstream, clock, batch_size=100)
        fill(store, 1000)
        forwarder.step()
        fill(store, 150, start=5000)
        clock.advance(1)
        forwarder.step()
        assert [request.rows[0].gateway_seq > 1000 for request in upstream.requests] == [False, True]
    with open_store(tmp_path / "gateway.db", clock=clock) as store:
        forwarder = forwarder_to(store, upstream, clock, batch_size=100)
        assert store.waiting("central", "live") >= 50
        forwarder.step()
        assert upstream.requests[-1].rows[0].data["temperature"] == 5100
        while store.count_pending("central"):
            clock.advance(1)
            forwarder.step()
        assert store.ledger().upstreams["central"] == upstream_books(versions=1150, delivered=1150)
    assert temperatures(upstream) == numbers(1000) + [float(number) for number in range(5000, 5150)]
    assert upstream.duplicates == 0


def test_a_late_upstream_gets_fresh_readings_beside_the_history_it_walks(
    store: TellingStore, clock: ManualClock
) -> None:
    fill(store, 3000)
    store.fold()
    while store.count_pending("central"):
        window = store.pending("central", 5000)
        assert window is not None
        store.acknowledge("central", window)
    store.flush()
    for start in (3000, 4000):
        fill(store, 1, start=start)
        store.fold()
    upstream = ScriptedUpstream()
    forwarder = forwarder_to(store, upstream, clock, "late", batch_size=100)
    forwarder.step()
    fill(store, 1, start=9000)
    clock.advance(1)
    forwarder.step()
    assert [row.data["temperature"] for row in upstream.requests[-1].rows] == [9000.0]
    while store.count_pending("late"):
        clock.advance(1)
        forwarder.step()
    assert len(upstream.kept) == 3003
    assert store.ledger().problems == []


def test_an_upstream_gets_the_readings_that_it_was_given_to_get(store: TellingStore, clock: ManualClock) -> None:
    upstream = ScriptedUpstream()
    for device in ("roof-1", "roof-2", "mast"):
        fill(store, 5, device=device)
        store.store_reading(Power, device, moment(0), {"watts": 1.0}).wait()
    worker = SyncWorker(store, "roof", upstream, models=[Weather], devices=["roof-*"], clock=clock)
    with worker:
        while store.count_pending("roof"):
            assert worker.status().faults == 0
    assert {(model, device) for model, device, _ in upstream.kept} == {("weather", "roof-1"), ("weather", "roof-2")}
    assert store.ledger().upstreams["roof"] == upstream_books(versions=18, delivered=10, skipped=8)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"models": []}, "models: found [], expected a list of reading models"),
        ({"models": Weather}, "models: found <class"),
        ({"models": "weather"}, "models: found 'weather', expected a list of reading models, such as [WeatherStation]"),
        ({"models": [5]}, "models: found 5, expected a reading model, or its measurement such as 'weatherstation'"),
        ({"devices": "mast"}, "devices: found 'mast', expected a list of device ids or patterns"),
        ({"devices": ["mast", ""]}, "devices: found '', expected a device or a pattern such as 'roof-*'"),
        ({"devices": 7}, "devices: found 7"),
    ],
)
def test_a_wrong_choice_is_named(store: TellingStore, settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        SyncWorker(store, "central", ScriptedUpstream(), **settings)  # type: ignore[arg-type]
    assert str(raised.value).startswith("upstream 'central': ")
    assert text in str(raised.value)


def test_measurements_may_be_named(store: TellingStore, clock: ManualClock) -> None:
    SyncWorker(store, "central", ScriptedUpstream(), models=["weather", Power], devices=("a", "b*"), clock=clock)


def test_while_a_link_works_the_next_whole_window_is_read(store: TellingStore, clock: ManualClock, link: Link) -> None:
    world = world_of(link)
    world.arrive(13_000, 100.0)
    forwarder = forwarder_to(store, link, clock)
    world.run(forwarder, lambda: store.count_pending("central") == 0)
    assert [len(request.rows) for request in link.requests] == [500, 1000, 2000, 4000, 5000, 500]
    assert [(limit, len(out.rows)) for limit, _, out in store.read_before] == [
        *[(500, 500), (1000, 1000), (2000, 2000), (4000, 4000)]
    ]


def test_nothing_is_read_ahead_where_the_link_does_not_get_it(
    store: TellingStore, clock: ManualClock, link: Link
) -> None:
    world = world_of(link)
    world.arrive(3_000, 100.0)
    link.script = failing(*[Unreachable("down")] * 3)
    forwarder = forwarder_to(store, link, clock)
    world.run(forwarder, lambda: len(link.requests) == 3)
    assert len(store.read_before) == 1  # of the first: only it tells that the link is down
    world.run(forwarder, lambda: store.count_pending("central") == 0)
    assert store.ledger().problems == []
