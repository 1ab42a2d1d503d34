"""Drivers that do what a test says, and a clock on which waiting takes no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from edgedepot import Reading
from edgedepot.drivers.base import Driver, Sink
from edgedepot.storage.buffer import Arrival
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt

DEADLINE = 20.0


class Weather(Reading):
    temperature: float


def eventually(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "did not happen within the deadline"
        threading.Event().wait(0.001)


class SkippingClock(ManualClock):
    """Who waits for a time is at once there. `waits` are the seconds that were waited, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        if timeout is None:
            return condition.wait(DEADLINE)
        self.waits.append(timeout)
        self.advance(timeout)
        return False


Step = Callable[[Sink], None]


class ScriptedDriver(Driver):
    """Each `run` does the next step; after the last it waits for the stop."""

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        super().__init__()
        self._steps = list(steps)
        self.runs = 0
        self.stopped = threading.Event()

    def run(self, sink: Sink) -> None:
        with self._progress.running(sink.clock):
            self._progress.enter("running")
            self.runs += 1
            if self.runs <= len(self._steps):
                self._steps[self.runs - 1](sink)
                return
            assert self._stopping.wait(DEADLINE)
        self.stopped.set()

    @property
    def is_through(self) -> bool:
        """Whether all steps are done and it waits for the stop."""
        return self.runs > len(self._steps)

    def hear(self, sink: Sink, temperature: float = 20.0) -> Receipt:
        """Take one reading in, as a driver does."""
        self._progress.heard()
        intake = sink.intake()
        intake.messages = intake.decoded = 1
        row = Weather.__rows__.make({"temperature": temperature})
        intake.arrivals.append(Arrival(Weather, "mast", sink.clock.now(), True, row))
        return sink.take_in(intake)

    def say(self, sink: Sink) -> None:
        """Take one reading in and see it stored."""
        self.hear(sink).wait("durable", DEADLINE)
