"""A driver that runs in a thread, and a store that keeps its receipts back until it is told."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from edgedepot.drivers.base import Driver, Sink
from edgedepot.storage.buffer import Arrival, Inlet, Intake
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import EdgeDepotError, ReceiptTimeout, StorageBusy, StorageError, TransportError
from edgedepot.storage.receipt import DURABLE, Receipt
from tests.servers.process import wait_until

END = 20.0


@contextmanager
def file_numbers_from(least: int) -> Iterator[None]:
    """Whatever is opened meanwhile gets a file number of at least `least`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2 * least, hard)), hard))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while taken[-1] < least:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Running:
    """One `run` of a driver in a thread, as the supervisor does it. As a context manager it stops the driver."""

    def __init__(self, driver: Driver, inlet: Inlet, source: str = "garden", clock: Clock | None = None) -> None:
        self.driver = driver
        self.error: EdgeDepotError | None = None
        self._sink = Sink(inlet, source, clock)
        self._thread = threading.Thread(target=self._run, name=f"test-{source}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.driver.run(self._sink)
        except EdgeDepotError as exc:
            self.error = exc

    def wait_for(self, state: str) -> Self:
        """Wait until the driver says that it is in this state; fails at once when its run has ended."""
        wait_until(lambda: self.ended or self.driver.status().state == state, f"the driver is {state!r}")
        assert not self.ended, f"ended with {self.error!r}"
        return self

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def wait_error(self) -> EdgeDepotError:
        """Wait until the run has ended by itself, and return what it raised."""
        self._thread.join(END)
        assert self.ended, "runs on"
        assert self.error is not None, "ended without an error"
        return self.error

    def stop(self) -> None:
        """Stop the driver and wait for the end of its run."""
        self.driver.stop()
        self._thread.join(END)
        assert not self._thread.is_alive(), "runs on after stop()"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def error_of(driver: Driver, inlet: Inlet) -> str:
    """What the driver's run raises, which must be a TransportError."""
    error = Running(driver, inlet).wait_error()
    assert isinstance(error, TransportError)
    status = driver.status()
    assert (status.state, status.last_error) == ("failed", str(error))
    return str(error)


class HeldInlet:
    """A store in memory that makes nothing durable before `settle`. It knows no identities and no books: it is for what
    a driver does between `take_in` and the receipt, everything else is tested with the real store."""

    gateway_id: str | None = "test"

    def __init__(self) -> None:
        self.intakes: list[Intake] = []
        self.hastened = 0
        """How often a commit was asked for."""
        self.settles_when_hastened = False
        """Whether everything becomes durable as soon as a commit is asked for."""
        self.busy = 0
        """How many of the next calls of `take_in` find no room."""
        self._changed = threading.Condition()
        self._open: list[tuple[Receipt, list[Callable[[], None]]]] = []

    def take_in(self, intake: Intake) -> Receipt:
        with self._changed:
            if self.busy:
                self.busy -= 1
                raise StorageBusy("full")
            receipt = Receipt(self)
            self.intakes.append(intake)
            self._open.append((receipt, []))
        return receipt

    def settle(self, count: int | None = None, error: StorageError | None = None) -> None:
        """Make the oldest `count` intakes durable (None: all), or give them up."""
        with self._changed:
            done, self._open = self._open[:count], self._open[len(self._open) if count is None else count :]
            for receipt, _ in done:
                receipt.error = error
                if error is None:
                    receipt.settle(DURABLE, 0, 0)
        for _, callbacks in done:
            for callback in callbacks:
                callback()

    def settle_last(self) -> None:
        """Make the newest intake durable, before all others."""
        with self._changed:
            self._open.insert(0, self._open.pop())
        self.settle(1)

    def await_receipt(self, receipt: Receipt, rank: int, timeout: float | None) -> None:
        assert timeout == 0, "a driver must not block on a receipt"
        with self._changed:
            self.hastened += 1
        if self.settles_when_hastened:
            self.settle()
        else:
            raise ReceiptTimeout("held back")

    def call_when_durable(self, receipt: Receipt, callback: Callable[[], None]) -> None:
        with self._changed:
            for held, callbacks in self._open:
                if held is receipt:
                    callbacks.append(callback)
                    return
        callback()

    @property
    def arrivals(self) -> list[Arrival]:
        return [arrival for intake in list(self.intakes) for arrival in intake.arrivals]

    @property
    def messages(self) -> int:
        return sum(intake.messages for intake in list(self.intakes))

    def wait_messages(self, count: int) -> None:
        """Wait until that many messages were taken in, and not one more."""
        wait_until(lambda: self.messages >= count, f"{count} messages are taken in, not {self.messages}")
        assert self.messages == count
