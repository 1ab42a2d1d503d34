"""A gateway and its link in simulated time, in one thread: no step of it waits for a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from edgedepot import Reading, Version
from edgedepot.storage.base import BaseStorage, StoreRow
from edgedepot.storage.buffer import Buffer
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.receipt import Receipt
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits
from tests.sync.scripted import ScriptedUpstream, TellingStore, Weather


def forwarder_to(
    store: Buffer,
    upstream: BaseStorage,
    clock: ManualClock,
    name: str = "central",
    batch_size: int = 5000,
    random: Callable[[], float] = lambda: 0.5,
    limits: Limits | None = None,
) -> Forwarder:
    """A forwarder as `SyncWorker` makes it, for the test to step."""
    store.add_cursor(name)
    return Forwarder(
        store,
        name,
        upstream,
        clock=clock,
        batch_size=batch_size,
        poll_interval=5.0,
        backoff=Backoff(0.2, 60.0, random),
        limits=limits,
    )


@dataclass
class Link(ScriptedUpstream):
    """An upstream behind a link that takes its time, in which the world goes on."""

    world: World | None = None
    each: float = 0.0
    """Seconds for a row."""
    fixed: float = 0.0
    """Seconds for a request."""
    seqs: set[int] = field(default_factory=set)
    """The numbers of the versions that have arrived."""
    newest: int = 0
    """The greatest timestamp that has arrived, in microseconds since 1970 UTC."""

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        given = list(rows)
        assert self.world is not None
        self.world.pass_time(self.fixed + self.each * len(given))
        receipt = super().store_readings(reading_model, given)
        self.seqs.update(row.gateway_seq for row in given if isinstance(row, Version))
        times = [row[1] for row in given if row[1] is not None]
        latest = (max(times) - from_micros(0)) // timedelta(microseconds=1)
        self.newest = max(self.newest, latest)
        return receipt


@dataclass
class World:
    """Readings come in and are committed once a second; `ages` says, for each such second, how old the newest reading
    upstream was just before."""

    store: TellingStore
    clock: ManualClock
    link: Link
    rate: int = 0
    """Readings that come in each second."""
    ages: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.link.world = self

    def pass_time(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while int(end) > int(self.clock.monotonic()):
            self.clock.advance(int(self.clock.monotonic()) + 1 - self.clock.monotonic())
            self.ages.append((self.clock.now() - self.link.newest) / 1e6)
            self.arrive(self.rate, 1.0)
        self.clock.advance(end - self.clock.monotonic())

    def arrive(self, count: int, over: float) -> None:
        """So many readings of the last seconds, the newest of right now."""
        if count:
            now, apart = self.clock.now(), round(over * 1e6 / count)
            rows: list[tuple[str, Any, dict[str, float]]] = [
                ("mast", from_micros(now - number * apart), {"temperature": 1.0}) for number in reversed(range(count))
            ]
            self.store.store_readings(Weather, rows).wait()

    def run(self, forwarder: Forwarder, until: Callable[[], bool], seconds: float = 3600) -> None:
        """Step until the condition holds; fail if it does not within so many simulated seconds."""
        deadline = self.clock.monotonic() + seconds
        while not until():
            assert self.clock.monotonic() < deadline, "did not happen in the time it had"
            wait = forwarder.step()
            if wait is not None:
                news = int(self.clock.monotonic()) + 1 - self.clock.monotonic()  # the next commit wakes it
                left = max(0.001, wait.until - self.clock.monotonic())
                self.pass_time(min(left, news) if wait.for_news and self.rate else left)
