"""The load that `edgedepot plan` speaks of, run in simulated time: devices that each send a reading now and then."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.reading import define_model
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits

TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


@dataclass
class Load:
    """`devices` each send a reading `every` so many seconds; of `kinds` are its fields: floats of two decimals, ints
    below 1,000, bools, and texts of `length` letters. The devices are of so many `models`. Commits happen each `flush`
    seconds. History goes when it is older than `keep`. Devices send one after the other, as those of a site do."""

    path: Path
    devices: int
    every: float
    kinds: tuple[str, ...]
    flush: float = 1.0
    keep_bytes: int | None = None
    models: int = 1
    length: int = 12
    upstreams: int = 1
    keep: str | None = None
    start: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    count: int = 0
    forwarders: list[Forwarder] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = ManualClock(self.start)
        self.store = SQLiteStorage(
            self.path,
            gateway_id="roof",
            clock=self.clock,
            flush_interval="1d",
            fold_interval="10 minutes",
            keep_bytes=self.keep_bytes,
            keep=self.keep,
        )
        types: dict[str, Any] = {f"field_{n}": (TYPES[kind], True, None) for n, kind in enumerate(self.kinds)}
        self.types = [define_model(f"Load{number}", types) for number in range(self.models)]
        self.names = ["central", *(f"other-{number}" for number in range(1, self.upstreams))]
        for name in self.names:
            self.store.add_cursor(name)
        self._random = random.Random(1)
        self._sent = 0.0

    def forward(self, upstream: BaseStorage, limits: Limits | None = None) -> None:
        """From now on what is committed goes there at once, as far as limits say."""
        upstream.gateway_id = "roof"
        self.forwarders.append(
            Forwarder(
                self.store,
                self.names[len(self.forwarders)],
                upstream,
                clock=self.clock,
                batch_size=5000,
                poll_interval=5.0,
                backoff=Backoff(0.2, 60.0, lambda: 0.5),
                limits=limits,
            )
        )

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            idle = min(self._sent, end) - self.clock.monotonic()
            self.clock.advance(self.flush * max(0, int(idle / self.flush)))
            until = self.clock.monotonic() + self.flush
            receipts = [self.store.store_readings(model, rows) for model, rows in self._coming(until).items()]
            self.clock.advance(self.flush)
            for receipt in receipts:
                receipt.wait()
            for forwarder in self.forwarders:
                while forwarder.step() is None:
                    pass

    def drain(self, seconds: float) -> int:
        """Let time pass in which nothing more comes. How many readings went to the first upstream."""
        end, before = self.clock.monotonic() + seconds, self.store.count_pending(self.names[0])
        while self.clock.monotonic() < end:
            wait = self.forwarders[0].step()
            if wait is not None:
                self.clock.advance(min(wait.until, end) - self.clock.monotonic())
        return before - self.store.count_pending(self.names[0])

    def _coming(self, until: float) -> dict[type[Reading], list[Any]]:
        """The readings from the last time on, by model."""
        found: dict[type[Reading], list[Any]] = {}
        while self._sent < until:
            moment = from_micros(self.clock.now()) + timedelta(seconds=self._sent - self.clock.monotonic())
            device = self.count % self.devices
            data = {f"field_{number}": self._value(kind) for number, kind in enumerate(self.kinds)}
            found.setdefault(self.types[device % self.models], []).append((f"device-{device}", moment, data))
            self.count += 1
            self._sent += self.every / self.devices
        return found

    def _value(self, kind: str) -> Any:
        if kind == "float":
            return round(20 + self._random.gauss(0, 3), 2)
        if kind == "int":
            return self._random.randrange(1000)
        if kind == "bool":
            return self._random.random() < 0.5
        return "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz", k=self.length))
