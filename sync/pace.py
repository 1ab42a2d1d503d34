"""Keeps what `reconcile` asks and sends within the limits of its upstream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import LimitReached
from edgedepot.sync.budget import Budget, Held

LONGEST = 60.0
"""Seconds that a rate may have it wait; for hours and days it does not."""
_REQUEST = 1_500
"""Bytes of a question, and of an answer without rows."""
_ROW = 60
"""Bytes of a row of an answer."""
_REASONS = {
    "budget": "its day's budget lets nothing more go for now (max_per_day)",
    "window": "it is not one of its hours (windows)",
    "clock": "nobody knows the time yet, and so neither its hours nor its day's budget",
}
Answer = TypeVar("Answer")


class Pace:
    """Waits where a rate says so, and raises `LimitReached` where it would be for longer. For one thread; `wait` sleeps
    for so many seconds."""

    def __init__(self, budget: Budget, name: str, clock: Clock, wait: Callable[[float], object] | None = None) -> None:
        self._budget = budget
        self._name = name
        self._clock = clock
        self._wait = wait or self._sleep

    def ask(self, rows: int, question: Callable[[], Answer]) -> Answer:
        """Ask when it may be asked, for about so many rows."""
        size = _REQUEST + _ROW * rows
        self.until_free(lambda: self._budget.admit_bytes(size))
        try:
            return question()
        finally:
            self._budget.count(size)

    def until_free(self, step: Callable[[], object]) -> None:
        """Take a step as soon as it does not raise `Held`."""
        while True:
            try:
                step()
                return
            except Held as held:
                left = held.until - self._clock.monotonic()
                if left > LONGEST or held.reason == "clock":
                    why = _REASONS[held.reason or "budget"]
                    raise LimitReached(f"upstream {self._name}: {why}. Started again later, it goes on") from held
                self._wait(left)

    def _sleep(self, seconds: float) -> None:
        condition = threading.Condition()
        with condition:
            self._clock.wait(condition, seconds)
