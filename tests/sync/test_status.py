"""What the status says of an upstream that is behind, and of a local store that fails."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Reading
from edgedepot.storage.base import StoreRow
from edgedepot.storage.buffer import Lane, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import Misconfigured, Overloaded, StorageError, Unreachable
from edgedepot.storage.receipt import Receipt
from edgedepot.sync.forwarder import PROBE, Forwarder
from edgedepot.sync.limits import Limits
from edgedepot.sync.status import SyncStatus
from tests.sync.scarce import Metered
from tests.sync.scripted import ACCEPT, Answer, Fail, ScriptedUpstream, TellingStore, fill, moment, open_store
from tests.sync.simulated import forwarder_to

DAY = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(moment(3600))


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db", clock=clock) as store:
        yield store


@dataclass
class Seen(ScriptedUpstream):
    """`takes` its time for its answers once somebody has a `look` at the end of that; `seen` is what there was."""

    clock: ManualClock | None = None
    takes: float = 20.0
    look: Callable[[], SyncStatus] | None = None
    seen: list[SyncStatus] = field(default_factory=list)

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        if self.look is not None and self.clock is not None:
            self.clock.advance(self.takes)
            self.seen.append(self.look())
        return super().store_readings(reading_model, rows)


@pytest.mark.parametrize(
    ("error", "limit", "state"),
    [
        (Unreachable("no route"), "link", "waiting"),
        (Overloaded("429", code="429"), "server", "waiting"),
        (Misconfigured("no such table"), "server", "misconfigured"),
        (KeyError("x"), "server", "waiting"),
    ],
)
def test_what_holds_it_up(store: TellingStore, clock: ManualClock, error: Exception, limit: str, state: str) -> None:
    fill(store, 100)
    upstream = Seen(gateway_id="g", script=deque([Fail(error)]))
    forwarder = forwarder_to(store, upstream, clock)
    wait = forwarder.step()
    assert wait is not None
    status = forwarder.status()
    assert (status.limited_by, status.lag) == (limit, 3600)
    upstream.script.append(Fail(error))
    clock.advance(wait.until - clock.monotonic())
    upstream.clock, upstream.look = clock, forwarder.status
    wait = forwarder.step()
    assert wait is not None
    (seen,) = upstream.seen
    assert (seen.state, seen.limited_by, seen.retry_at) == (state, limit, None), "while it is tried again, for 20 s"
    upstream.look = None
    assert 100 <= status.waiting <= 105
    assert status.eta is None
    clock.advance(wait.until - clock.monotonic())
    while forwarder.step() is None:
        pass
    clock.advance(10)
    status = forwarder.status()
    assert (status.state, status.limited_by, status.waiting, status.lag, status.eta) == ("idle", None, 0, 0, 0)


def test_how_long_still(store: TellingStore, clock: ManualClock) -> None:
    fill(store, 30_000)
    upstream = ScriptedUpstream(gateway_id="g")
    forwarder = forwarder_to(store, upstream, clock, batch_size=100)
    for _ in range(60):
        assert forwarder.step() is None
        clock.advance(2)  # 50 a second
    status = forwarder.status()
    assert status.waiting == pytest.approx(24_000, rel=0.02)
    assert status.eta == pytest.approx(480, rel=0.1)
    fill(store, 4_000, start=30_000)
    assert forwarder.status().eta == pytest.approx(28_000 / (50 - 4_000 / 120), rel=0.1), "more comes in of late"
    fill(store, 4_000, start=34_000)
    assert forwarder.status().eta is None, "more than goes out"


@pytest.mark.parametrize(
    ("limits", "error", "state"),
    [
        (Limits.of("central", windows=["22:00-23:30 UTC"]), None, "held"),
        (Limits(), Overloaded("503", retry_after=3000.0, code="503"), "waiting"),
        (Limits(), Misconfigured("no such table"), "misconfigured"),
    ],
)
def test_what_comes_in_while_nothing_goes_out_waits_too(
    store: TellingStore, clock: ManualClock, limits: Limits, error: Exception | None, state: str
) -> None:
    fill(store, 10)
    upstream = ScriptedUpstream(gateway_id="g", script=deque([Fail(error)] if error else []))
    forwarder = forwarder_to(store, upstream, clock, limits=limits)
    forwarder.step()
    fill(store, 5_000, start=10)
    clock.advance(50)
    status = forwarder.status()
    assert (status.state, status.lag) == (state, 3650)
    assert 5_010 <= status.waiting <= 5_013
    store.close()
    assert forwarder.status().waiting == status.waiting


def test_what_comes_in_after_all_went_out_waits(store: TellingStore, clock: ManualClock) -> None:
    """Before the worker looks again, too: of what the store counts then some are rows of its books."""
    forwarder = forwarder_to(store, ScriptedUpstream(gateway_id="g"), clock)
    fill(store, 10)
    while forwarder.step() is None:
        pass
    assert (forwarder.status().waiting, forwarder.status().eta) == (0, 0.0)
    fill(store, 20, start=10)
    assert 20 <= forwarder.status().waiting <= 22


class FailingStore(TellingStore):
    """A local store that cannot be read for a while."""

    failures = 0

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        if self.failures:
            self.failures -= 1
            raise StorageError("gateway.db cannot be read: disk I/O error")
        return super().pending(cursor, limit, lane)


@pytest.mark.parametrize(
    ("error", "took", "first", "lasts"),
    [
        (Unreachable("no answer"), 30, 5, 600),
        (Unreachable("no link yet"), 30, 0, 40),
        (Overloaded("503", code="503"), 1, 5, 600),
        (Misconfigured("no such table"), 1, 5, 600),
        (KeyError("x"), 1, 5, 600),
        (None, 0, 5, 600),
    ],
)
def test_how_long_still_after_an_outage(
    tmp_path: Path, clock: ManualClock, error: Exception | None, took: float, first: int, lasts: float
) -> None:
    """Of any kind, the local store's too, or while the link comes up: its time says nothing of the pace since."""
    with FailingStore(tmp_path / "x.db", gateway_id="g", clock=clock) as store:
        store.windows, store.read_before, store.refusals = [], [], []
        fill(store, 3_000)
        upstream = Seen(gateway_id="g", clock=clock)
        forwarder = forwarder_to(store, upstream, clock, batch_size=100)
        upstream.look = forwarder.status
        before = drained(upstream, forwarder, steps=first)
        upstream.takes, back_at = took, clock.monotonic() + lasts
        while clock.monotonic() < back_at:
            upstream.script.extend([Fail(error)] if error else [])
            store.failures = 0 if error else 1
            wait = forwarder.step()
            assert wait is not None
            clock.advance(wait.until - clock.monotonic())
        after = drained(upstream, forwarder, steps=10)
        pace = (before[0] + after[0]) / (before[1] + after[1])
        assert forwarder.status().eta == pytest.approx(forwarder.status().waiting / pace, rel=0.1)


def test_how_long_still_where_the_upstream_asks_for_pauses(store: TellingStore, clock: ManualClock) -> None:
    """Again and again it takes a window and asks for less: that is the pace it keeps."""
    fill(store, 3_000)
    script: deque[Answer] = deque([ACCEPT, Fail(Overloaded("429", retry_after=8.0))] * 10)
    upstream = Seen(gateway_id="g", clock=clock, script=script)
    forwarder = forwarder_to(store, upstream, clock, batch_size=100)
    upstream.look = forwarder.status
    rows, seconds = drained(upstream, forwarder, steps=20)
    assert forwarder.status().eta == pytest.approx(forwarder.status().waiting * seconds / rows, rel=0.1)


def drained(upstream: Seen, forwarder: Forwarder, steps: int) -> tuple[int, float]:
    """Take these, of 2 s each and what is to be waited for then; how many rows went, and in how many seconds."""
    assert upstream.clock is not None
    upstream.takes = 2.0
    since, before = upstream.clock.monotonic(), forwarder.status().delivered
    for _ in range(steps):
        wait = forwarder.step()
        upstream.clock.advance(0 if wait is None else wait.until - upstream.clock.monotonic())
    return forwarder.status().delivered - before, upstream.clock.monotonic() - since


def test_how_long_still_where_all_went_out_until_hours_closed(store: TellingStore, clock: ManualClock) -> None:
    """Readings of each minute go together, in no time: how often an idle worker looks does not slow their pace."""
    limits = Limits.of("central", windows=["00:00-01:05 UTC"])
    upstream = Seen(gateway_id="g", clock=clock, takes=0.5)
    forwarder = forwarder_to(store, upstream, clock, limits=limits)
    upstream.look = forwarder.status
    for minute in range(35):
        fill(store, 20, start=100 * minute)
        while clock.monotonic() < 60 * (minute + 1):
            wait = forwarder.step()
            clock.advance(0 if wait is None else min(5, wait.until - clock.monotonic()))
    status = forwarder.status()
    assert (status.state, status.limited_by, status.waiting // 100) == ("held", "window", 6)
    assert status.eta == pytest.approx(DAY - 3600 - 35 * 60, rel=0.02)


@pytest.mark.parametrize("rows", [0, 3])
def test_the_local_stores_trouble_is_not_said_to_be_the_upstreams(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture, rows: int
) -> None:
    caplog.set_level(logging.INFO, logger="edgedepot.sync")
    with FailingStore(tmp_path / "x.db", gateway_id="g") as store:
        store.windows, store.read_before, store.refusals = [], [], []
        forwarder = forwarder_to(store, ScriptedUpstream(), clock)
        fill(store, rows)
        store.failures = 5
        for _ in range(5):
            wait = forwarder.step()
            status = forwarder.status()
            assert wait is not None
            assert (status.state, status.alarm, status.limited_by, status.retry_at) == (
                *("waiting", "the local store fails: gateway.db cannot be read: disk I/O error", None, wait.until),
            )
            clock.advance(wait.until - clock.monotonic())
        forwarder.step()
        assert (forwarder.status().alarm, forwarder.status().delivered) == (None, rows)
    assert [record.getMessage() for record in caplog.records if record.name == "edgedepot.sync"] == [
        "upstream central gets nothing, as the local store fails: gateway.db cannot be read: disk I/O error. It is "
        "tried again for ever",
        "upstream central: the local store is read again",
    ]


def test_how_long_still_with_hours(store: TellingStore, clock: ManualClock) -> None:
    """Three minutes a day: what is closed counts, and the pace is that of the open time, also hours later."""
    fill(store, 30_000)
    clock.step((moment(12 * 3600) - moment(3600)).total_seconds())
    limits = Limits.of("central", windows=["12:00-12:03 UTC"])
    forwarder = forwarder_to(store, ScriptedUpstream(gateway_id="g"), clock, batch_size=100, limits=limits)
    for _ in range(60):
        assert forwarder.step() is None
        clock.advance(2)  # 50 a second
    whole = 3 * DAY - 60  # 480 s open from here on: 60, then 180 on each of two days, then 60
    assert forwarder.status().eta == pytest.approx(whole, abs=30)
    while (wait := forwarder.step()) is None:
        clock.advance(2)
    for passed in (60, 60 + DAY / 2):
        clock.advance(120 + passed - clock.monotonic())
        forwarder.step()
        status = forwarder.status()
        assert (status.state, status.limited_by) == ("held", "window")
        assert status.eta == pytest.approx(whole - passed, abs=30)
    clock.trusted = False
    assert wait is not None
    assert forwarder.status().eta is None


def test_how_long_still_with_hours_and_what_comes_in_meanwhile(store: TellingStore, clock: ManualClock) -> None:
    """9,000 a day can go, in three minutes, and 6,000 come in, at all hours: each day 3,000 become less."""
    fill(store, 14_000)
    clock.step(11 * 3600)
    limits = Limits.of("central", windows=["12:30-12:33 UTC"])
    forwarder = forwarder_to(store, ScriptedUpstream(gateway_id="g"), clock, batch_size=100, limits=limits)
    foretold: list[float] = []
    wait, hours = forwarder.step(), 0
    assert (forwarder.status().state, forwarder.status().eta) == ("held", None), "nothing went yet"
    while forwarder.status().state != "idle":
        if clock.monotonic() >= 3600 * (hours + 1):
            hours += 1
            fill(store, 250, start=40_000 + 3600 * hours)
            eta = forwarder.status().eta
            assert eta is not None
            foretold.append(clock.monotonic() + eta)
        clock.advance(2 if wait is None else min(wait.until, 3600.0 * (hours + 1)) - clock.monotonic())
        if wait is None or clock.monotonic() >= wait.until:
            wait = forwarder.step()
    done = clock.monotonic()
    assert done == pytest.approx(2 * DAY + 1800 + 165, abs=15)
    assert foretold == pytest.approx([done] * 48, abs=120)


@pytest.mark.parametrize("more", [0, 160])
def test_how_long_still_with_a_days_budget(store: TellingStore, clock: ManualClock, more: int) -> None:
    """The pieces of a backlog lie far apart, and what comes in has its share of the days to come."""
    fill(store, 6_000)
    clock.step(-3600)
    limits = Limits.of("central", max_per_day="200 kB")
    forwarder = forwarder_to(store, Metered(clock, limits), clock, limits=limits)
    foretold: list[tuple[float, float]] = []
    wait = forwarder.step()
    assert wait is not None
    assert (forwarder.status().state, forwarder.status().waiting) == ("held", 6_001)
    fills = 0
    while forwarder.status().state != "idle":
        if more and clock.monotonic() > 4 * 3600 * (fills + 1):
            fills += 1
            fill(store, more, start=4 * 3600 * fills)
        if wait is not None:
            clock.advance(max(1e-3, min(wait.until - clock.monotonic(), 4 * 3600 if more else DAY)))
        wait = forwarder.step()
        status = forwarder.status()
        if status.eta is not None and status.waiting:
            foretold.append((clock.monotonic(), clock.monotonic() + status.eta))
    done = clock.monotonic()
    late = [end for at, end in foretold if done / 3 < at]
    assert done > 2 * DAY
    assert late == pytest.approx([done] * len(late), rel=0.15)


@dataclass
class Asked(ScriptedUpstream):
    """Says how it is as scripted, then that it is well; `asked` is how often."""

    health: deque[dict[str, str]] = field(default_factory=deque)
    asked: int = 0

    def health_check(self) -> dict[str, Any]:
        self.asked += 1
        return self.health.popleft() if self.health else {"status": "pass", "message": "is well", "version": None}


@pytest.mark.parametrize(
    ("error", "state", "level"), [("Misconfigured", "misconfigured", "ERROR"), ("Unreachable", "waiting", "WARNING")]
)
def test_a_wrong_upstream_is_known_before_the_first_reading(
    store: TellingStore, clock: ManualClock, caplog: pytest.LogCaptureFixture, error: str, state: str, level: str
) -> None:
    """One line says so, however often it is asked; once it is well it is not asked again."""
    caplog.set_level(logging.INFO, logger="edgedepot.sync")
    upstream = Asked(health=deque([{"status": "fail", "message": "no such token", "error": error}] * 3))
    forwarder = forwarder_to(store, upstream, clock)
    for _ in range(3):
        wait = forwarder.step()
        assert wait is not None
        status = forwarder.status()
        assert (status.state, status.last_error, status.retry_at) == (state, "no such token", wait.until)
        assert (status.alarm is None) == (state == "waiting")
        clock.advance(wait.until - clock.monotonic())
    for _ in range(3):
        forwarder.step()
        assert (forwarder.status().state, forwarder.status().alarm, forwarder.status().retry_at) == ("idle", None, None)
    assert upstream.asked == 4
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [line[0] for line in lines] == [level, "INFO"]
    assert "no such token" in lines[0][1]
    assert lines[1][1] == "upstream central is back, 0 readings pending"
    fill(store, 80)
    assert forwarder.step() is None
    assert forwarder.status().delivered == (PROBE if state == "waiting" else 80), "only rows show that it takes rows"


def test_who_has_readings_to_send_does_not_ask(store: TellingStore, clock: ManualClock) -> None:
    fill(store, 3)
    upstream = Asked()
    forwarder = forwarder_to(store, upstream, clock)
    while forwarder.step() is None:
        pass
    assert (upstream.asked, forwarder.status().delivered) == (0, 3)


@pytest.mark.parametrize(
    ("limits", "later"),
    [
        (Limits.of("central", windows=["00:00-00:59 UTC"]), 23 * 3600),
        (Limits.of("central", max_rate="1 kB/s"), 12),
        (Limits.of("central", max_per_day="1 MB"), None),
    ],
)
def test_nobody_is_asked_beyond_the_limits(
    store: TellingStore, clock: ManualClock, limits: Limits, later: float | None
) -> None:
    """Not out of hours, once its bytes a second suffice, and of a day's bytes never."""
    upstream = Asked()
    forwarder = forwarder_to(store, upstream, clock, limits=limits)
    forwarder.step()
    assert (upstream.asked, forwarder.status().state) == (0, "idle")
    clock.advance(later or DAY)
    forwarder.step()
    assert (upstream.asked, forwarder.status().spent_today) == ((1, None) if later else (0, 0))
