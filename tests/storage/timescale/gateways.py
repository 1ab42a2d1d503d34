"""A gateway's process of `test_many_gateways.py`."""

from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from edgedepot import TimescaleDBStorage, Version
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BATCHES = 6
BATCH = 50


def run(url: str, number: int, together: Barrier, done: Connection) -> None:
    """Together with the others write batches, half of each sent again with the next; say how many readings were new."""
    accepted = 0
    together.wait(60)
    with TimescaleDBStorage(url, gateway_id=f"gateway {number}") as storage:
        for batch in range(BATCHES):
            rows = [
                Version(f"d{n % 5}", T0 + timedelta(hours=n), {"temperature": float(n)}, None, 1, n + 1)
                for n in range(max(0, batch * BATCH - BATCH // 2), (batch + 1) * BATCH)
            ]
            accepted += storage.store_readings(Weather, rows).accepted
            together.wait(60)
    done.send(accepted)
