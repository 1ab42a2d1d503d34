"""Processes that are killed while a store lets go of what is old: their readings are a minute apart, and their clock
goes with these."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import to_micros
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
_STEP = 50


class MinuteClock:
    """Says the minute that it was set to."""

    trusted = True
    boot = "boot"

    def __init__(self, minute: int) -> None:
        self.minute = minute

    def now(self) -> int:
        return to_micros(T0 + timedelta(minutes=self.minute))

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        return condition.wait(timeout)


def opened_by_child(**settings: Any) -> tuple[SQLiteStorage, Iterator[int]]:
    """In the process that is killed: a store, and what stores into it for ever. Each step commits some readings more,
    says how many there are, and returns it."""
    path, first = sys.argv[1], int(sys.argv[2])
    clock = MinuteClock(first)
    pace: dict[str, Any] = {"flush_interval": "2 ms", "fold_interval": "5 ms", "piece_rows": 300}
    store = SQLiteStorage(path, gateway_id="roof", clock=clock, durability="process", **pace, **settings)
    return store, _storing(store, clock)


def _storing(store: SQLiteStorage, clock: MinuteClock) -> Iterator[int]:
    for number in itertools.count(clock.minute, _STEP):
        clock.minute = number + _STEP
        moments = ((n, T0 + timedelta(minutes=n)) for n in range(number, number + _STEP))
        rows = [(f"d{n % 7}", moment, {"temperature": 1.0, "count": n}) for n, moment in moments]
        store.store_readings(Weather, rows).wait("committed")
        print(number + _STEP, flush=True)
        yield number + _STEP


def killed_at_some_moment(code: str, path: Path, promised: int, rng: random.Random) -> int:
    """Run such a process on a store that has so many readings, and kill it; how many it said there are."""
    with subprocess.Popen(
        [sys.executable, "-c", code, path, str(promised)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(rng.randint(10, 80)):
            line = child.stdout.readline()
            assert line, "it ended by itself"
            promised = int(line)
        child.kill()
        rest = child.stdout.read()
    return max([promised, *(int(line) for line in rest.split("\n")[:-1])])
