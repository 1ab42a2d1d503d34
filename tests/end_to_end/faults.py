"""Faults: a plan is a plain list of moments and names; one thread carries it out while a load runs."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Fault(NamedTuple):
    """What happens when this fraction of the load has been sent."""

    moment: float
    name: str


FIRST, LAST = 0.04, 0.94
"""No fault comes before or after these fractions of the load."""
GAP = 0.02
"""The least fraction between the end of a fault and the next of its kind."""


@dataclass(frozen=True)
class Kind:
    """A fault with its end: how often, and for which fraction of the load it lasts (from, to)."""

    begin: str
    end: str
    times: int
    lasts: tuple[float, float]


GATEWAY = Kind("kill gateway", "start gateway", 6, (0.0, 0.02))
DATABASE = Kind("kill database", "start database", 1, (0.02, 0.06))
BROKER = Kind("kill broker", "start broker", 1, (0.005, 0.04))
LINK = Kind("cut link", "mend link", 3, (0.01, 0.08))
ALL = (GATEWAY, DATABASE, BROKER, LINK)


def make_plan(seed: int, kinds: Sequence[Kind] = ALL) -> list[Fault]:
    """Faults at random moments in the order they happen; those of one kind never overlap, those of different kinds
    may. One gateway is killed again right after its start."""
    dice = random.Random(seed)
    plan: list[Fault] = []
    for kind in kinds:
        # One in each slot of the load, anywhere in it: spread out, random, and never two of a kind at once.
        slot = (LAST - FIRST) / kind.times
        for number in range(kind.times):
            length = dice.uniform(*kind.lasts)
            begin = FIRST + number * slot + dice.uniform(0, slot - length - GAP)
            plan += [Fault(begin, kind.begin), Fault(begin + length, kind.end)]
        if kind is GATEWAY:
            started = dice.choice([fault.moment for fault in plan if fault.name == kind.end])
            plan += [Fault(started + GAP / 4, kind.begin), Fault(started + GAP / 2, kind.end)]
    return sorted(plan)


class Saboteur:
    """The thread that carries out a plan: each fault once `progress()` has reached its moment.

    `join` returns what was done as (monotonic time, name) and raises what an action raised.
    """

    def __init__(
        self, plan: Sequence[Fault], progress: Callable[[], float], actions: Mapping[str, Callable[[], None]]
    ) -> None:
        self._plan = plan
        self._progress = progress
        self._actions = actions
        self._given_up = threading.Event()
        self._done: list[tuple[float, str]] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="saboteur", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float) -> list[tuple[float, str]]:
        self._thread.join(timeout)
        if self._error:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"only {len(self._done)} of {len(self._plan)} faults within {timeout:g} s")
        return self._done

    def stop(self) -> None:
        """Leave out what has not happened yet."""
        self._given_up.set()
        self._thread.join(60)

    def _run(self) -> None:
        try:
            for fault in self._plan:
                while self._progress() < fault.moment:
                    if self._given_up.wait(0.005):
                        return
                self._done.append((time.monotonic(), fault.name))
                self._actions[fault.name]()
        except Exception as exc:  # noqa: BLE001  (a thread's outermost edge: `join` raises it)
            self._error = exc
