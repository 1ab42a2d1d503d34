"""Reconcile within what the upstream may cost, and beside a worker that has the same limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.base import Data
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.errors import ConfigError, LimitReached
from edgedepot.storage.query import Function
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits
from edgedepot.sync.reconcile import Reconciliation, Report, reconcile
from tests.sync.reconciling import Own, Power, fill, forward, moment, readings

DAY = 86_400.0
ROWS = readings(600)
COUNT = len(ROWS)


class Counting(Own):
    """Counts the bytes of what it is asked and sent, as a wire would, and when they went."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.sent: list[tuple[float, int]] = []
        self.seconds_a_byte = 0.0

    def once_more(self) -> Counting:
        """The same upstream over connections of its own, as another process has."""
        other = Counting(self._clock)
        other.kept, other.gateway_id = self.kept, self.gateway_id
        return other

    def wire_bytes(self) -> int | None:
        return sum(count for _, count in self.sent)

    def carry(self, count: int) -> None:
        self.sent.append((self._clock.monotonic(), count))
        self._clock.advance(count * self.seconds_a_byte)

    def store_reading(self, reading_model: type[Reading], device: object, timestamp: Any, data: Data) -> None:
        self.carry(100 + size_of(data))
        super().store_reading(reading_model, device, timestamp, data)

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        found = super().query_readings(reading_model, *args, **more)
        self.carry(1_000 + size_of(found))
        return found

    def aggregate(
        self, reading_model: type[Reading], field: str, function: Function = "avg", *args: Any, **more: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        found = super().aggregate(reading_model, field, function, *args, **more)
        self.carry(1_000 + size_of(found))
        return found

    def total(self, start: float, end: float) -> int:
        return sum(count for at, count in self.sent if start <= at < end)


def size_of(found: object) -> int:
    return len(json.dumps(found, default=str))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(moment(0) + timedelta(days=30, hours=12))


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", clock=clock) as store:
        store.add_cursor("central")
        fill(store, ROWS)
        yield store


@pytest.fixture
def own(store: SQLiteStorage, clock: ManualClock) -> Counting:
    """All was delivered, and all is gone."""
    own = Counting(clock)
    forward(store, own)
    store.fold()
    own.kept.clear()
    own.stored.clear()
    own.sent.clear()
    return own


def again(store: SQLiteStorage, own: Counting, clock: ManualClock, **limits: Any) -> Report:
    costs = Limits.of("central", **limits)
    return reconcile(store, "central", own, costs=costs, clock=clock, wait=clock.advance)


def worker(store: SQLiteStorage, own: Counting, clock: ManualClock, **limits: Any) -> Forwarder:
    backoff, costs = Backoff(0.2, 60.0, lambda: 0.5), Limits.of("central", **limits)
    return Forwarder(
        store, "central", own, clock=clock, batch_size=500, poll_interval=60.0, backoff=backoff, limits=costs
    )


def test_only_in_its_hours(store: SQLiteStorage, own: Counting, clock: ManualClock) -> None:
    with pytest.raises(LimitReached, match=r"upstream central: it is not one of its hours \(windows\)"):
        again(store, own, clock, windows=["22:00-06:00 UTC"])
    assert own.sent == []
    clock.advance(11 * 3600)
    assert again(store, own, clock, windows=["22:00-06:00 UTC"]).total().sent == COUNT


def test_no_answer_takes_long_as_hours_end_meanwhile(store: SQLiteStorage, own: Counting, clock: ManualClock) -> None:
    """A link that carries 10 kB a second, and nothing but hours that limit it: the first answer shows that."""
    clock.advance(11 * 3600)
    fill(store, readings(2_000)[COUNT:])
    forward(store, own)
    own.can_aggregate = False
    own.sent.clear()
    own.seconds_a_byte = 1e-4
    assert again(store, own, clock, windows=["22:00-06:00 UTC"]).total().sent == COUNT
    second, first = sorted(count / 10_000 for _, count in own.sent)[-2:]
    assert first > 4
    assert second < 2


def test_at_half_of_the_rate_beside_a_worker_that_has_the_other_half(
    store: SQLiteStorage, own: Counting, clock: ManualClock
) -> None:
    rate = 6_000
    theirs = own.once_more()
    forwarder = worker(store, theirs, clock, max_rate=rate)

    def wait(seconds: float) -> None:
        """Meanwhile the worker has more to send than the link may carry."""
        until = clock.monotonic() + seconds
        while clock.monotonic() < until:
            rows: list[Any] = [("fresh", from_micros(clock.now() + n), {"watts": 1}) for n in range(40)]
            store.store_readings(Power, rows).wait()
            held = forwarder.step()
            clock.advance(min(until, clock.monotonic() + 1 if held is None else held.until) - clock.monotonic())

    report = reconcile(store, "central", own, costs=Limits.of("central", max_rate=rate), clock=clock, wait=wait)
    assert report.total().sent == COUNT
    took = clock.monotonic()
    assert took > 60
    assert own.total(0, took) == pytest.approx(rate / 2 * took, rel=0.1)
    assert theirs.total(0, took) == pytest.approx(rate / 2 * took, rel=0.1)
    before = theirs.total(0, took)
    wait(120)
    assert theirs.total(0, took + 120) - before == pytest.approx(rate * 120, rel=0.1)


def test_a_days_budget_is_shared_and_what_is_spent_is_known(
    store: SQLiteStorage, own: Counting, clock: ManualClock
) -> None:
    clock.advance(DAY / 4)
    limits = {"max_per_day": 100_000}
    theirs = own.once_more()
    forwarder = worker(store, theirs, clock, **limits)
    runs = 0
    while len(own.stored) < COUNT:
        try:
            again(store, own, clock, **limits)
        except LimitReached as exc:
            assert "its day's budget lets nothing more go for now (max_per_day)" in str(exc)  # noqa: PT017
        store.store_reading(Power, "fresh", from_micros(clock.now()), {"watts": 1}).wait()
        assert forwarder.step() is None, "fresh readings always have room"
        since = (clock.monotonic() + DAY / 2) // DAY * DAY - DAY / 2
        used = sum(one.total(since, clock.monotonic() + 1) for one in (own, theirs))
        assert forwarder.status().spent_today == used <= 100_000
        clock.advance(DAY / 2)
        runs += 1
    assert runs > 2


def test_two_at_once_would_go_by_one_budget(store: SQLiteStorage, own: Counting, clock: ManualClock) -> None:
    costs = Limits.of("central", max_per_day="2 MB")
    first = Reconciliation(store, "central", own, costs=costs, clock=clock, wait=clock.advance)
    assert first.find()
    with pytest.raises(ConfigError, match="upstream central: found another that compares it, or was killed"):
        again(store, own.once_more(), clock, max_per_day="2 MB")
    first.close()
    assert again(store, own, clock, max_per_day="2 MB").total().sent == COUNT


def test_a_days_budget_and_an_upstream_that_cannot_count(
    store: SQLiteStorage, own: Counting, clock: ManualClock
) -> None:
    """All has to be read, from the first reading on each time: where a day's budget is too little for that, it would
    never come to the last."""
    clock.advance(DAY / 3)
    own.can_aggregate = False
    fill(store, readings(2_000)[COUNT:])
    forward(store, own)
    own.sent.clear()
    with pytest.raises(ConfigError, match="upstream central: max_per_day is too little to read all that"):
        again(store, own, clock, max_per_day=100_000)
    assert own.sent == []
    assert again(store, own, clock, max_per_day="2 MB").total().sent == COUNT
