"""Loads that are not of one device after the other: what some gateways get."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from edgedepot import Reading
from edgedepot.storage.clock import from_micros
from edgedepot.storage.reading import define_model
from tests.plan.load import Load

Came = tuple[type[Reading], str, float, dict[str, float]]
"""A reading: of which model and device, how many seconds after the second begins its device says, and its values."""
Second = Callable[[int], Iterator[Came]]
"""What comes in one; the same whatever was asked before."""


@dataclass
class Uneven(Load):
    """As `Load`, of what comes in each second."""

    second: Second = lambda _: iter(())

    def _coming(self, until: float) -> dict[type[Reading], list[Any]]:
        found: dict[type[Reading], list[Any]] = {}
        for number in range(int(self._sent), int(until)):
            begin = from_micros(self.clock.now()) + timedelta(seconds=number - self.clock.monotonic())
            for model, device, after, data in self.second(number):
                found.setdefault(model, []).append((device, begin + timedelta(seconds=after), data))
                self.count += 1
        self._sent = until
        return found


_NAMES = [f"f{number}" for number in range(4)]
Room = define_model("Room", dict.fromkeys(_NAMES, (float, False, None)))
Meter = define_model("Meter", dict.fromkeys(_NAMES, (float, True, None)))
Tank = define_model("Tank", dict.fromkeys(_NAMES, (float, True, None)))


def _values(chance: random.Random, *names: str) -> dict[str, float]:
    return {name: round(20 + chance.gauss(0, 3), 2) for name in names or _NAMES}


def sparse(second: int) -> Iterator[Came]:
    """One value at a time, as of devices that have a topic for each."""
    chance = random.Random(second)
    for number in range(4):
        yield Room, f"device-{number}", number / 10, _values(chance, _NAMES[(second + number) % 4])


def of_two_rates(second: int) -> Iterator[Came]:
    """Of a model two a second, of another one a minute."""
    chance = random.Random(second)
    yield from ((Meter, "meter", half, _values(chance)) for half in (0.0, 0.5))
    if second % 60 == 7:
        yield Tank, "tank", 0.2, _values(chance)


def polled(second: int) -> Iterator[Came]:
    """20 devices that are asked one after the other, once a minute."""
    chance = random.Random(second)
    for number in range(20 if second % 60 == 5 else 0):
        yield Meter, f"device-{number}", number / 100, _values(chance)


def gathered(second: int) -> Iterator[Came]:
    """Devices that send a minute's readings together."""
    chance = random.Random(second)
    for number in range(5 if second % 60 == 5 else 0):
        yield from ((Meter, f"device-{number}", after - 60.0, _values(chance)) for after in range(60))
