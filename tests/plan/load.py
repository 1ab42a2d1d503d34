"""The load that `edgedepot plan` speaks of, run in simulated time: devices that each send a reading now and then."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgedepot import SQLiteStorage
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.reading import define_model
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits


@dataclass
class Load:
    """`devices` each send a reading of `fields` floats `every` so many seconds, two decimals each; commits happen each
    `flush` seconds. Devices send one after the other, as those of a site do."""

    path: Path
    devices: int
    every: float
    fields: int
    flush: float = 1.0
    keep_bytes: int | None = None

    def __post_init__(self) -> None:
        self.clock = ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.store = SQLiteStorage(
            self.path,
            gateway_id="roof",
            clock=self.clock,
            flush_interval="1d",
            fold_interval="10 minutes",
            keep_bytes=self.keep_bytes,
        )
        self.names = [f"field_{number}" for number in range(self.fields)]
        self.model = define_model(f"Load{self.fields}", dict.fromkeys(self.names, (float, True, None)))
        self.store.add_cursor("central")
        self.forwarder: Forwarder | None = None
        self.count = 0
        self._random = random.Random(1)
        self._sent = 0.0

    def forward(self, upstream: BaseStorage, limits: Limits | None = None) -> None:
        """From now on what is committed goes there at once, as far as limits say."""
        upstream.gateway_id = "roof"
        self.forwarder = Forwarder(
            self.store,
            "central",
            upstream,
            clock=self.clock,
            batch_size=5000,
            poll_interval=5.0,
            backoff=Backoff(0.2, 60.0, lambda: 0.5),
            limits=limits,
        )

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.monotonic() + seconds
        apart = self.every / self.devices
        while self.clock.monotonic() < end:
            until = self.clock.monotonic() + self.flush
            rows = []
            while self._sent < until:
                moment = from_micros(self.clock.now() + round((self._sent - self.clock.monotonic()) * 1e6))
                data = {name: round(20 + self._random.gauss(0, 3), 2) for name in self.names}
                rows.append((f"device-{self.count % self.devices}", moment, data))
                self.count += 1
                self._sent += apart
            receipt = self.store.store_readings(self.model, rows) if rows else None
            self.clock.advance(self.flush)
            if receipt is not None:
                receipt.wait()
            while self.forwarder is not None and self.forwarder.step() is None:
                pass
