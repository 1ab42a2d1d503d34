"""What every driver keeps, and the sink that it writes into.

    bytes --Decoder--> Intake --Sink--> Inlet.take_in -> Receipt (durable: the driver may acknowledge)

The order of calls: `run(sink)` in a thread of its own; when that raises `TransportError` the supervisor calls it again
after a while, with the same sink, in the same or another thread but never twice at once; `stop()` once, from any
thread, at any time, and then no further `run`. `status()` from any thread, at any time.
"""

from __future__ import annotations

import abc
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from edgedepot.storage.buffer import Inlet, Intake
from edgedepot.storage.clock import Clock, SystemClock
from edgedepot.storage.errors import EdgeDepotError
from edgedepot.storage.receipt import Receipt


class Sink:
    """What one source writes into. Bound to a store, the source's name and a clock; holds no state of its own."""

    __slots__ = ("_inlet", "clock", "source")

    def __init__(self, inlet: Inlet, source: str, clock: Clock | None = None) -> None:
        self._inlet = inlet
        self.source = source
        self.clock: Clock = clock or SystemClock()

    @property
    def gateway_id(self) -> str | None:
        """The name of the gateway that the store belongs to."""
        return self._inlet.gateway_id

    def intake(self) -> Intake:
        """An empty intake of this source; a `Decoder` fills it."""
        return Intake(self.source, unchecked_at=None if self.clock.trusted else self.clock.now())

    def take_in(self, intake: Intake) -> Receipt:
        """Hand an intake to the store. Blocks while the store's queue is full; raises `StorageBusy` after the store's
        own timeout, and then nothing was taken: keep the intake and try again."""
        return self._inlet.take_in(intake)


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """Where a driver stands. Times are monotonic seconds of the sink's clock; None where there was no such moment.

    `state` is a word for people ("connecting", "reading", ...), `counters` what the driver counts beside the books.
    """

    state: str
    since: float | None
    last_message: float | None
    last_error: str | None
    counters: Mapping[str, int]


class Driver(abc.ABC):
    """Reads from one source until it is stopped. See the module for who calls what when.

    A driver that ran into something it cannot mend by itself raises; it does not retry on its own. What cannot be
    decoded is no such thing: it is rejected, and the driver goes on. Own drivers call ``super().__init__()``.
    """

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._progress = Progress()

    @abc.abstractmethod
    def run(self, sink: Sink) -> None:
        """Read and hand over to the sink; blocks until `stop()`, and returns at once after it.

        Raises `TransportError` when the port or the broker is not there or goes away, and the storage's own errors.
        """

    def stop(self) -> None:
        """Have `run` finish in order and return soon. From any thread; does not block; may be called again. Final."""
        self._stopping.set()
        self._wake_up()

    def status(self) -> DriverStatus:
        """Where it stands now."""
        return self._progress.status()

    def _wake_up(self) -> None:
        """End what `run` is waiting for, if it waits."""
        return None


class Progress:
    """Keeps what `DriverStatus` shows. Changed by the thread that runs the driver, read by any."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._clock: Clock = SystemClock()
        self._state: tuple[str, float | None] = ("new", None)
        self._last_message: float | None = None
        self._last_error: str | None = None

    @contextmanager
    def running(self, clock: Clock) -> Iterator[None]:
        """Around one `run`: afterwards the state is "stopped", or "failed" beside the error's text."""
        self._clock = clock
        end = "failed"
        try:
            yield
            end = "stopped"
        except EdgeDepotError as exc:
            self._last_error = str(exc)
            raise
        finally:
            self.enter(end)

    def enter(self, state: str) -> None:
        """Note a new state; the same one again changes nothing."""
        if state != self._state[0]:
            self._state = (state, self._clock.monotonic())

    def heard(self) -> None:
        """Note that a message came just now."""
        self._last_message = self._clock.monotonic()

    def status(self) -> DriverStatus:
        state, since = self._state
        return DriverStatus(state, since, self._last_message, self._last_error, dict(self.counters))
