"""What is spent of a day's bytes, where the day or who spends them is not as usual."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from edgedepot.storage.clock import HOUR, ManualClock
from edgedepot.storage.errors import ConfigError
from edgedepot.storage.receipt import Receipt
from edgedepot.sync.budget import Budget, Held
from edgedepot.sync.cost import Cost
from edgedepot.sync.limits import Limits
from edgedepot.sync.notes import Spent
from edgedepot.sync.spending import Spending
from tests.sync.scripted import ScriptedUpstream


class Kept:
    """Notes that are kept as long as this is."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def remember(self, key: str, text: str) -> Receipt | None:
        self._texts[key] = text
        return None

    def recall(self, key: str) -> str | None:
        return self._texts.get(key)


class Metered(ScriptedUpstream):
    """Says how many bytes went."""

    went = 0

    def wire_bytes(self) -> int:
        return self.went


def test_a_day_of_another_zone_begins_with_what_was_spent() -> None:
    """Somebody has changed the zone of the first window."""
    day = 480 * HOUR
    spending = Spending(Kept(), "spent central", 200_000, ManualClock())
    spending.load()
    spending.turn_to(day)
    spending.add(150_000)
    spending.turn_to(day + 5 * HOUR)
    assert spending.today == Spent(day + 5 * HOUR, 150_000)
    spending.turn_to(day)
    assert spending.today == Spent(day, 150_000)


def test_a_day_of_another_zone_has_what_both_that_it_overlaps_have() -> None:
    day = 480 * HOUR
    spending = Spending(Kept(), "spent central", 200_000, ManualClock())
    spending.load()
    spending.turn_to(day)
    spending.add(150_000)
    spending.turn_to(day + 23 * HOUR)  # the clocks went forward
    assert spending.today == Spent(day + 23 * HOUR, 0)
    spending.add(10_000)
    spending.turn_to(day + 5 * HOUR)  # two hours after midnight it became New York's
    assert spending.today == Spent(day + 5 * HOUR, 160_000)


def test_what_was_spent_counts_once_however_often_the_zone_changes() -> None:
    notes, clock, went = Kept(), ManualClock(datetime(2026, 2, 1, 12, tzinfo=UTC)), 50_000
    for zone in ("UTC", "Asia/Tokyo", "America/New_York", "UTC", "Asia/Tokyo"):
        limits = Limits.of("central", max_per_day=200_000, windows=f"00:00-24:00 {zone}")
        for is_beside in (True, False):
            budget = Budget(limits, notes, "central", ScriptedUpstream(), clock, is_beside)
            budget.left()
            budget.count(went)
            spent = budget.spent_today
            budget.close()
        went = 0
        assert spent == 100_000


@pytest.mark.parametrize("per_day", [None, "1 GB"])
def test_who_goes_beside_has_half_of_the_rate_for_as_long_as_it_is_at_work(per_day: str | None) -> None:
    clock, notes = ManualClock(datetime(2026, 2, 1, 12, tzinfo=UTC)), Kept()
    limits = Limits.of("central", max_rate=20_000, max_per_day=per_day)
    upstreams = [Metered(), Metered()]
    budgets = [Budget(limits, notes, "central", one, clock, is_beside=one is upstreams[1]) for one in upstreams]
    minutes: Counter[int] = Counter()
    while clock.monotonic() < 600:
        for budget, upstream in zip(budgets, upstreams, strict=True):
            try:
                budget.admit_bytes(5_000)
            except Held:
                continue
            upstream.went += 5_000
            minutes[int(clock.monotonic() // 60)] += 5_000
            budget.count(5_000)
        clock.advance(0.25)
    assert all(bytes_ <= 1.05 * 60 * 20_000 for bytes_ in minutes.values())
    assert sum(minutes.values()) >= 0.9 * 600 * 20_000


def test_a_request_that_no_day_has_room_for_is_a_mistake_in_the_settings() -> None:
    clock = ManualClock(datetime(2026, 2, 1, 12, tzinfo=UTC))
    budget = Budget(Limits.of("central", max_per_day=100_000), Kept(), "central", Metered(), clock)
    with pytest.raises(ConfigError, match="max_per_day is too little for the next reading: that may take 120,0"):
        budget.admit_bytes(120_000)
    budget.admit_bytes(80_000)


def test_a_request_that_connects_anew_does_not_make_every_byte_dear() -> None:
    cost = Cost()
    for _ in range(10):
        cost.note(150, 4_000)
    cost.note(220, 14_000)
    assert cost.of(1_000) < 15_000
