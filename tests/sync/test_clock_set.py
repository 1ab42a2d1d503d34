"""Limits of hours and days where the clock on the wall is wrong at first, and is set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgedepot.storage.clock import ManualClock
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits
from tests.sync.conftest import Start
from tests.sync.scripted import HandClock, ScriptedUpstream, TellingStore, eventually, fill, open_store

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = 3600.0


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def full(tmp_path: Path, manual: ManualClock) -> Iterator[TellingStore]:
    """A store in which more waits than a day's budget lets through."""
    with open_store(tmp_path / "local.db", clock=manual) as store:
        store.add_cursor("central")
        fill(store, 6_000)
        yield store


class Counted(ScriptedUpstream):
    """Counts `asked` bytes beside those for `each` request."""

    asked, each = 0, 1_000

    def wire_bytes(self) -> int:
        return self.asked + self.each * len(self.requests)


def forwarder_with(store: TellingStore, upstream: ScriptedUpstream, clock: ManualClock, **limits: Any) -> Forwarder:
    return Forwarder(
        store,
        "central",
        upstream,
        clock=clock,
        batch_size=500,
        poll_interval=60.0,
        backoff=Backoff(0.2, 60.0, lambda: 0.5),
        limits=Limits.of("central", **limits),
    )


def run(forwarder: Forwarder, clock: ManualClock, seconds: float) -> None:
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        wait = forwarder.step()
        if wait is not None:
            clock.advance(max(1e-3, min(wait.until, end) - clock.monotonic()))


@pytest.mark.parametrize("limits", [{"windows": ["00:00-24:00 UTC"]}, {"max_per_day": "1 MB"}])
def test_nothing_goes_while_nobody_knows_the_time(
    full: TellingStore, manual: ManualClock, limits: dict[str, Any]
) -> None:
    upstream = ScriptedUpstream(gateway_id="g")
    forwarder = forwarder_with(full, upstream, manual, **limits)
    manual.trusted = False
    run(forwarder, manual, HOUR)
    status = forwarder.status()
    assert (status.state, status.limited_by, upstream.requests) == ("held", "clock", [])
    assert status.waiting >= 6_000
    manual.trusted = True
    run(forwarder, manual, HOUR)
    assert upstream.requests


def test_what_goes_while_nobody_knows_the_time_is_of_the_day_that_it_turns_out_to_be(
    full: TellingStore, manual: ManualClock
) -> None:
    """As when the upstream is asked for its time."""
    upstream = Counted(gateway_id="g")
    forwarder = forwarder_with(full, upstream, manual, max_per_day="100 kB")
    manual.trusted = False
    manual.step(-86_400 * 365)
    for asked in (3_000, 7_000):
        forwarder.step()
        upstream.asked = asked
    manual.step(86_400 * 365)
    manual.trusted = True
    forwarder.step()
    assert forwarder.status().spent_today == 7_000 + 1_000 * len(upstream.requests)


@pytest.mark.parametrize("in_order", [False, True])
def test_a_gateway_that_is_started_again_and_again_without_a_clock_spends_no_more_than_its_day(
    full: TellingStore, manual: ManualClock, in_order: bool
) -> None:
    """Each time the upstream is asked for its time, and then the process ends."""
    manual.trusted = False
    starts = [Counted(gateway_id="g") for _ in range(6)]
    for upstream in starts:
        forwarder = forwarder_with(full, upstream, manual, max_per_day="100 kB")
        upstream.asked = 3_000
        forwarder.step()
        upstream.asked = 6_000
        if in_order:
            forwarder.step()
            forwarder.close()
    manual.trusted = True
    upstream = Counted(gateway_id="g")
    upstream.each = 5_000
    run(forwarder_with(full, upstream, manual, max_per_day="100 kB"), manual, 11.9 * HOUR)
    assert 10_000 < upstream.wire_bytes() <= 100_000 - 6 * 6_000


def test_a_rate_needs_no_time_of_day(full: TellingStore, manual: ManualClock) -> None:
    upstream = ScriptedUpstream(gateway_id="g")
    manual.trusted = False
    run(forwarder_with(full, upstream, manual, max_rate="20 kB/s"), manual, 60)
    assert upstream.requests


@pytest.mark.parametrize("wrong", [datetime(1970, 1, 1, 5, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("starts_again", [False, True])
def test_no_days_budget_is_spent_twice(
    full: TellingStore, manual: ManualClock, wrong: datetime, starts_again: bool
) -> None:
    """Neither where a clock that was taken for right goes wrong and comes back."""
    upstream = ScriptedUpstream(gateway_id="g")

    def start() -> Forwarder:
        return forwarder_with(full, upstream, manual, max_per_day="100 kB")

    def run_today(seconds: float) -> int:
        before = len(upstream.kept)
        run(forwarder, manual, seconds)
        return len(upstream.kept) - before

    forwarder = start()
    first = run_today(11 * HOUR)
    for _ in range(2):
        away = (wrong - NOON).total_seconds() - manual.monotonic()
        manual.step(away)
        forwarder = start() if starts_again else forwarder
        run(forwarder, manual, 60)
        manual.step(-away)
        forwarder = start() if starts_again else forwarder
        assert run_today(60) < first / 10
    assert 0 < first < full.waiting("central", "backlog"), "more waited than a day's budget let through"


def test_a_worker_that_sleeps_until_a_window_notices_that_the_clock_was_set(
    store: TellingStore, start: Start, clock: HandClock
) -> None:
    fill(store, 100)
    upstream = ScriptedUpstream()
    worker = start(upstream, windows=["20:00-23:00 UTC"])
    eventually(lambda: worker.status().retry_at == pytest.approx(20 * HOUR, abs=1))  # it is midnight
    clock.step(20 * HOUR - 300)
    clock.advance(60)
    eventually(lambda: worker.status().retry_at == pytest.approx(300, abs=1))
    assert (worker.status().state, upstream.requests) == ("held", [])
    clock.advance(241)
    eventually(lambda: worker.status().delivered == 100)
