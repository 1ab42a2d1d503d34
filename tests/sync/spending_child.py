"""The process that `test_limits` kills: forwards within a day's budget, and kills itself right after some request."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from edgedepot import InfluxDBStorage, Reading
from edgedepot.storage.base import StoreRow
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.storage import SQLiteStorage
from edgedepot.sync.limits import Limits
from tests.sync.simulated import forwarder_to

LATE = datetime(2026, 2, 1, 23, tzinfo=UTC)
"""So late that a backlog may use nearly all of the day's budget at once."""
BATCH = 20


class KilledUpstream(InfluxDBStorage):
    """An upstream; after so many requests, which it has taken, the process ends as from a power cut."""

    left = 0

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        receipt = super().store_readings(reading_model, rows)
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return receipt


def main() -> None:
    path, port, requests, budget = Path(sys.argv[1]), *map(int, sys.argv[2:])
    clock = ManualClock(LATE)
    with SQLiteStorage(path, gateway_id="g", clock=clock, flush_interval="1d") as store:
        upstream = KilledUpstream(f"http://127.0.0.1:{port}", "t", "o", "b", gateway_id="g")
        upstream.left = requests
        limits = Limits.of("central", max_per_day=budget)
        forwarder = forwarder_to(store, upstream, clock, batch_size=BATCH, limits=limits)
        while clock.monotonic() < 3500:
            wait = forwarder.step()
            if wait is not None:
                clock.advance(max(1e-3, min(wait.until, 3500.0) - clock.monotonic()))
    print("the day's budget is spent", flush=True)


if __name__ == "__main__":
    main()
