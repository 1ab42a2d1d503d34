"""A process that stores is killed: what its receipts promised is there."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from tests.models import Weather

WRITER = """
import itertools, sys
from datetime import UTC, datetime, timedelta
from edgedepot import SQLiteStorage
from tests.models import Weather
path, first, durability = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = SQLiteStorage(path, gateway_id="roof", durability=durability, flush_interval="5 ms")
store.add_cursor("central")
for n in itertools.count(first):
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n)
    receipt = store.store_reading(Weather, f"d{n % 7}", moment, {"temperature": float(n % 50), "count": n})
    if n % 10 == 0:
        receipt.wait("committed")
        print(n, flush=True)
        window = store.pending("central", 25)
        if window is not None:
            store.acknowledge("central", window)
"""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_ten_kills_lose_nothing_that_was_committed_and_store_nothing_twice(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "gateway.db"
    rng = random.Random(20260101)
    promised = -1
    for _ in range(10):
        command = [sys.executable, "-c", WRITER, str(path), str(promised + 1), durability]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(rng.randint(1, 60)):
                line = child.stdout.readline()
                assert line, "the writer ended by itself"
                promised = int(line)
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read()  # what it still had printed by then it had promised too
        promised = max([promised, *(int(line) for line in rest.split("\n")[:-1])])
        with SQLiteStorage(path, read_only=True) as store:
            counts = [row["count"] for row in store.query_readings(Weather, fields=["count"], order="timestamp")]
            ledger = store.ledger()
        assert counts[: promised + 1] == list(range(promised + 1))
        assert len(set(counts)) == len(counts)
        assert ledger.problems == []
