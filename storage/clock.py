"""The clock seam: whatever asks for the time or waits for it takes a `Clock`, so that tests step it."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
"""Microseconds, as all times of the stores; `MINUTE` and `HOUR` too."""
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It goes on while the machine sleeps, as the wall clock does: Linux's monotonic clock stands still then, and the wall
clock would seem to step. Other systems have no such clock."""


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC of an aware datetime, exactly."""
    return (moment - EPOCH) // _MICROSECOND


EARLIEST = to_micros(datetime(2020, 1, 1, tzinfo=UTC))
"""A device's time before that, or later than a day from now, cannot be right: its clock was never set."""


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
        """Seconds that never step, from an arbitrary start; they go on while the machine sleeps."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether the wall time is known to be right. Once it is, it stays so for this boot."""
        ...

    @property
    def boot(self) -> str:
        """The boot of the machine, for as long as which monotonic seconds count on, whatever process asks."""
        ...

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        """Wait on a held condition for at most `timeout` seconds of this clock; False when the time ran out."""
        ...


class SystemClock:
    """The machine's own clocks. The wall time is trusted."""

    trusted = True

    @cached_property
    def boot(self) -> str:
        """What Linux says; elsewhere every clock is a boot of its own."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return uuid.uuid4().hex

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.clock_gettime(_SINCE_BOOT)

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
        self.trusted = True
        self._boots = 1

    @property
    def boot(self) -> str:
        return f"boot {self._boots}"

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

    def reboot(self, start: datetime) -> None:
        """The machine starts anew, not knowing the time; its clock says `start`. Nobody waits on it then."""
        with self._lock:
            self._micros = to_micros(start)
            self._elapsed = 0.0
            self._boots += 1
            self.trusted = False

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
