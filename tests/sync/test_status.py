"""What the status says of an upstream that is behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import Misconfigured, Overloaded, Unreachable
from tests.sync.scripted import Fail, ScriptedUpstream, TellingStore, fill, moment, open_store
from tests.sync.simulated import forwarder_to


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(moment(3600))


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db", clock=clock) as store:
        yield store


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (Unreachable("no route"), "link"),
        (Overloaded("429", code="429"), "server"),
        (Misconfigured("no such table"), "server"),
        (KeyError("x"), "server"),
    ],
)
def test_what_holds_it_up(store: TellingStore, clock: ManualClock, error: Exception, limit: str) -> None:
    fill(store, 100)
    upstream = ScriptedUpstream(gateway_id="g", script=deque([Fail(error)]))
    forwarder = forwarder_to(store, upstream, clock)
    wait = forwarder.step()
    assert wait is not None
    status = forwarder.status()
    assert (status.limited_by, status.lag) == (limit, 3600)
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
    assert status.limited_by == "link"
    assert status.waiting == pytest.approx(24_000, rel=0.02)
    assert status.eta == pytest.approx(480, rel=0.1)
