"""The state machine of sync under scarcity gets to where it is scarce: fixed sequences of its steps, and what must have
happened in them."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from edgedepot.sync.reconcile import Finding
from tests.storage.sqlite.states import T0
from tests.sync.test_scarce_states import Scarce

FULL: dict[str, Any] = {"keep_bytes": "1 MB"}
Play = Callable[..., Scarce]


@pytest.fixture
def play() -> Iterator[Play]:
    """`play(room, **link)` is the machine at its beginning, with such a store and such a link to "one"; "two" gets
    averages."""
    machines: list[Scarce] = []

    def made(room: dict[str, Any] | None = None, **link: Any) -> Scarce:
        machine = Scarce()
        machines.append(machine)
        machine.begin(room or {}, (link, {"every": "10 minutes"}))
        return machine

    yield made
    for machine in machines:
        look(machine)
        machine.teardown()


def look(machine: Scarce) -> None:
    """All that holds after every step."""
    for invariant in machine.invariants:
        invariant.function(machine)


def again(machine: Scarce, step: Callable[[int], object], until: Callable[[], bool]) -> None:
    for turn in range(20):
        if until():
            return
        step(turn)
        look(machine)
    raise AssertionError("it never came to that")


def fill_up(machine: Scarce, turn: int) -> None:
    """Three readings a minute, of which two can be thinned away."""
    machine.fill_up(hours=turn - 48, count=40, size=1000, is_noise=True)


def put(machine: Scarce, turn: int) -> None:
    """One a minute, of which none can."""
    noise = random.Random(turn)
    start = T0 - timedelta(hours=24 - turn)
    notes = [noise.randbytes(500).hex() for _ in range(40)]
    machine.put(
        [("mast", start + timedelta(minutes=n), {"temperature": 1.0, "note": note}) for n, note in enumerate(notes)]
    )
    look(machine)
    machine.fold()


def books(machine: Scarce, name: str = "one") -> dict[str, int]:
    return machine.store.ledger().upstreams[name]


def deliver(machine: Scarce, name: str = "one") -> None:
    again(
        machine,
        lambda turn: machine.forward(name, times=8, hours=30),
        lambda: machine.store.count_pending(name) == 0,
    )


def test_full_of_what_nobody_takes(play: Play) -> None:
    """Thinned first, then evicted."""
    machine = play(FULL)
    for name in ("one", "two"):
        machine.goes_away_or_comes_back(which=name, away=True)
    again(machine, partial(fill_up, machine), lambda: books(machine)["thinned"] > 0)
    assert books(machine)["evicted"] == 0
    again(machine, partial(put, machine), lambda: books(machine)["evicted"] > 0)
    machine.goes_away_or_comes_back(which="one", away=False)
    deliver(machine)
    assert books(machine)["delivered"] > 0
    assert any((row.quality or 0) & 8 for row in machine.links["one"].kept.values()), "averages of minutes arrive"


def test_full_of_what_nobody_takes_where_nothing_may_go(play: Play) -> None:
    machine = play({**FULL, "when_full": "block"})
    for name in ("one", "two"):
        machine.goes_away_or_comes_back(which=name, away=True)
    again(machine, partial(put, machine), lambda: machine.store.health_check()["status"] == "fail")
    assert books(machine)["thinned"] == books(machine)["evicted"] == 0
    for name in ("one", "two"):
        machine.goes_away_or_comes_back(which=name, away=False)
        deliver(machine, name)
    rows = len(machine.rows)
    put(machine, 20)
    assert len(machine.rows) == rows + 40


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ({"max_per_day": "100 kB"}, "budget"),
        ({"max_rate": "20 kB/s"}, "rate"),
        ({"windows": ["00:00-12:00 UTC", "13:00-14:00 UTC"]}, "window"),
    ],
)
def test_what_a_link_may_cost_has_readings_wait(play: Play, link: dict[str, Any], reason: str) -> None:
    machine = play(**link)
    for turn in range(5):
        put(machine, turn)
    machine.forward("one", times=8, hours=0.01)
    assert machine.forwarders["one"].status().limited_by == reason
    assert machine.store.count_pending("one") > 0
    deliver(machine)
    assert books(machine)["delivered"] == 200


def lost(machine: Scarce, name: str = "one", **how: Any) -> tuple[str, Finding]:
    """How reconcile ends then, and what it did."""
    machine.loses_and_reconciles(name, **how)
    look(machine)
    return machine.reconciled[-1]


def test_reconcile_sends_what_was_lost(play: Play) -> None:
    machine = play()
    put(machine, 0)
    deliver(machine)
    assert lost(machine) == ("done", Finding(missing=40, sent=40))
    assert lost(machine, part=2) == ("done", Finding(missing=20, sent=20))
    assert lost(machine, answers=0) == ("away", Finding())
    end, found = lost(machine, part=2, answers=8)
    assert end == "away"
    assert found.sent == 0
    end, found = lost(machine, remainder=9)  # which none has
    assert (end, found.sent) == ("away", 0), "all are refused"


def test_reconcile_sends_averages_that_were_lost(play: Play) -> None:
    machine = play()
    put(machine, 0)
    deliver(machine, "two")
    count = len(machine.links["two"].kept)
    assert count <= 5
    assert lost(machine, "two") == ("done", Finding(missing=count, sent=count))


def test_reconcile_sends_what_thinned_minutes_came_to(play: Play) -> None:
    machine = play()
    fill_up(machine, 0)
    fill_up(machine, 1)
    machine.thin()
    deliver(machine)
    assert books(machine)["thinned"] > 40
    count = len(machine.links["one"].kept)
    assert lost(machine) == ("done", Finding(missing=count, sent=count))


def test_reconcile_sends_as_much_as_a_days_budget_has(play: Play) -> None:
    machine = play(max_per_day="100 kB")
    for turn in range(3):
        put(machine, turn)
    deliver(machine)
    machine.time_passes(2 * 86_400 - (machine.clock.now() // 10**6 + 3_600) % 86_400)  # to 23:00, of a day unspent
    end, found = lost(machine)
    assert end == "held"
    assert 0 < found.sent < found.missing <= 120
