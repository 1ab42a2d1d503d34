"""Rows that are larger than those before do not go beyond the rate."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits
from tests.models import Weather
from tests.sync.scarce import Metered

T0 = datetime(2026, 3, 2, tzinfo=UTC)


def test_large_rows_after_small_ones(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    limits = Limits.of("central", max_rate="2 kB/s")
    link = Metered(clock, limits)
    with SQLiteStorage(tmp_path / "x.db", gateway_id="g", clock=clock) as store:
        link.gateway_id = "g"
        store.add_cursor("central")
        for start, notes in ((0, 0), (1000, 1000), (1300, 0), (2300, 1000)):
            count = 300 if notes else 1000
            rows: list[Any] = [
                ("mast", T0 + timedelta(seconds=number), {"temperature": 1.0, "note": "x" * notes})
                for number in range(start, start + count)
            ]
            store.store_readings(Weather, rows).wait()
        forwarder = Forwarder(
            store,
            "central",
            link,
            clock=clock,
            batch_size=1000,
            poll_interval=60.0,
            backoff=Backoff(0.2, 60.0, lambda: 0.5),
            limits=limits,
        )
        while store.count_pending("central"):
            wait = forwarder.step()
            if wait is not None:
                clock.advance(max(0.0, wait.until - clock.monotonic()))
        assert store.ledger().upstreams["central"]["delivered"] == 2600
    link.check()
    carried = sum(count for _, _, count in link.sent)
    assert carried >= 0.9 * 2000 * (link.sent[-1][0] - link.sent[0][0])
