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
"""What comes in one."""


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
_random = random.Random(1)


def _values(*names: str) -> dict[str, float]:
    return {name: round(20 + _random.gauss(0, 3), 2) for name in names}


def sparse(second: int) -> Iterator[Came]:
    """One value at a time, as of devices that have a topic for each."""
    for number in range(4):
        yield Room, f"device-{number}", number / 10, _values(_NAMES[(second + number) % 4])


def of_two_rates(second: int) -> Iterator[Came]:
    """Of a model two a second, of another one a minute."""
    yield from ((Meter, "meter", half, _values(*_NAMES)) for half in (0.0, 0.5))
    if second % 60 == 7:
        yield Tank, "tank", 0.2, _values(*_NAMES)


def polled(second: int) -> Iterator[Came]:
    """20 devices that are asked one after the other, once a minute."""
    for number in range(20 if second % 60 == 5 else 0):
        yield Meter, f"device-{number}", number / 100, _values(*_NAMES)


def gathered(second: int) -> Iterator[Came]:
    """Devices that send a minute's readings together."""
    for number in range(5 if second % 60 == 5 else 0):
        yield from ((Meter, f"device-{number}", after - 60.0, _values(*_NAMES)) for after in range(60))
