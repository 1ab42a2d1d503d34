"""The clock seam: whatever asks for the time or waits for it takes a `Clock`, so that tests step it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC of an aware datetime, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of a number of microseconds since 1970-01-01 UTC."""
    return EPOCH + timedelta(microseconds=micros)


class Clock(Protocol):
    """Wall time for stamps, monotonic time for schedules, and a way to wait that a test can end.

    All methods may be called from any thread.
    """

    def now(self) -> int:
        """Wall time in microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step, from an arbitrary start."""
        ...

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        """Wait on a held condition for at most `timeout` seconds of this clock; False when the time ran out."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        return condition.wait(timeout)


class ManualClock:
    """A clock that stands still until `advance` moves it. For tests and simulations.

    Who waits on it is woken by `advance`, and by whoever notifies the condition.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._micros = to_micros(start)
        self._elapsed = 0.0
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, threading.Condition]] = []

    def now(self) -> int:
        with self._lock:
            return self._micros

    def monotonic(self) -> float:
        with self._lock:
            return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move both clocks on and wake every waiter whose time has come."""
        with self._lock:
            self._micros += round(seconds * 1_000_000)
            self._elapsed += seconds
            due = [condition for deadline, condition in self._waiting if deadline <= self._elapsed]
        for condition in due:
            with condition:
                condition.notify_all()

    def step(self, seconds: float) -> None:
        """Step the wall clock alone, as a time server does."""
        with self._lock:
            self._micros += round(seconds * 1_000_000)

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        if timeout is None:
            return condition.wait()
        with self._lock:
            deadline = self._elapsed + timeout
            if timeout <= 0:
                return False
            entry = (deadline, condition)
            self._waiting.append(entry)
        condition.wait()
        with self._lock:
            self._waiting.remove(entry)
            return self._elapsed < deadline
