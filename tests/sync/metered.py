"""A forwarder in simulated time towards a real server, with the bytes in between counted by a proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits
from tests.servers.proxy import TcpProxy
from tests.sync.scripted import TellingStore


class Carried:
    """`sent` says what went over the wire, and when: seconds of the clock, bytes both ways."""

    clock: ManualClock
    link: TcpProxy
    sent: list[tuple[float, int]]
    counted: int

    def note(self) -> None:
        """What has gone since the last time went now."""
        now = self.on_the_wire()  # counted before it is handed on, so all that was answered is in it
        if now > self.counted:
            self.sent.append((self.clock.monotonic(), now - self.counted))
            self.counted = now

    def on_the_wire(self) -> int:
        """Bytes so far."""
        return self.link.bytes_up + self.link.bytes_down

    def most_in(self, seconds: float) -> int:
        """The most bytes in any stretch of that length."""
        sums = [0, *accumulate(count for _, count in self.sent)]
        most, first = 0, 0
        for last, (moment, _) in enumerate(self.sent):
            while moment - self.sent[first][0] >= seconds:
                first += 1
            most = max(most, sums[last + 1] - sums[first])
        return most

    def total(self, start: float, end: float) -> int:
        """The bytes in a stretch of time."""
        return sum(count for moment, count in self.sent if start <= moment < end)


@dataclass
class Metered(Carried):
    """A forwarder at work."""

    store: TellingStore
    clock: ManualClock
    link: TcpProxy
    upstream: BaseStorage
    limits: Limits
    sent: list[tuple[float, int]] = field(default_factory=list)
    here: list[tuple[float, int]] = field(default_factory=list)
    """What the upstream's storage had counted after each step, and when."""
    on_time: Callable[[], None] = lambda: None
    """Called after each step of the clock."""
    longest: float = 600.0
    """Seconds that the clock moves on at once."""
    name: str = "central"

    def __post_init__(self) -> None:
        self.store.add_cursor(self.name)
        self.counted = self.on_the_wire()
        self.start()

    def start(self) -> None:
        """Make the forwarder anew, as a process that starts."""
        self.forwarder = Forwarder(
            self.store,
            self.name,
            self.upstream,
            clock=self.clock,
            batch_size=5000,
            poll_interval=60.0,
            backoff=Backoff(0.2, 60.0, lambda: 0.5),
            limits=self.limits,
        )

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let so much time pass, or less once the condition holds."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end and not until():
            wait = self.forwarder.step()
            self.note()
            self.here.append((self.clock.monotonic(), self.upstream.wire_bytes() or 0))
            if wait is not None:
                left = min(wait.until, end) - self.clock.monotonic()
                self.clock.advance(max(1e-6, min(left, self.longest)))
                self.on_time()

    def counted_here(self) -> int:
        """The bytes as the upstream's storage counts them: with what a busy kernel sent once more."""
        found = self.upstream.wire_bytes()
        assert found is not None
        return found

    def least_here(self, seconds: float, start: float, end: float) -> int:
        """The fewest bytes, as the upstream's storage counts them, in any stretch of that length between two times."""
        here = [(moment, count) for moment, count in self.here if start <= moment < end]
        least, last = here[-1][1], 0
        for moment, count in here:
            while last < len(here) and here[last][0] < moment + seconds:
                last += 1
            if last == len(here):
                break
            least = min(least, here[last - 1][1] - count)
        return least
