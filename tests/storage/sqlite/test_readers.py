"""Readers beside a writer at full speed: whatever moves meanwhile, each query sees the state that a commit left."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DEVICES = [f"d{number}" for number in range(5)]
READERS = 3
Check = Callable[[SQLiteStorage], None]


def at(second: int) -> datetime:
    return T0 + timedelta(seconds=second)


@pytest.fixture(autouse=True)
def many_turns() -> Iterator[None]:
    """Threads take turns a hundred times as often as usual, so that they meet in the middle of things."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture
def store(quick_folder: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(quick_folder / "x.db", gateway_id="roof", flush_interval="2 ms", piece_rows=500) as opened:
        yield opened


@contextmanager
def readers(store: SQLiteStorage, check: Check) -> Iterator[None]:
    """Threads that check over and over, on the store's own memory and on another view of the file, until the end."""
    stop = threading.Event()
    failures: list[BaseException] = []
    checks = [0] * READERS
    file_alone = SQLiteStorage(store.path, read_only=True)

    def run(number: int) -> None:
        try:
            while not stop.is_set():
                check(file_alone if number == 0 else store)
                checks[number] += 1
        except BaseException as exc:  # noqa: BLE001 - handed on below
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        file_alone.close()
    for failure in failures:
        raise failure
    assert min(checks) > 0


def check_pairs(store: SQLiteStorage) -> None:
    """Readings come and go in pairs that add up to nothing, in one call each."""
    rows = store.query_readings(Weather, fields=["temperature"], fresh=False)
    assert sum(row["temperature"] for row in rows) == 0
    assert len({(row["device_id"], row["timestamp"]) for row in rows}) == len(rows)
    total = store.aggregate(Weather, "temperature", "sum", fresh=False)
    assert total in ({"result": 0.0}, {"result": None})
    for bucket in store.downsample(Weather, "temperature", "1h", "sum", fresh=False):
        assert bucket["result"] == 0


def pair(device: str, second: int, value: float) -> list[tuple[str, datetime, dict[str, float]]]:
    """Two readings of two devices that add up to nothing."""
    return [(device, at(second), {"temperature": value}), (f"anti-{device}", at(second), {"temperature": -value})]


def test_pairs_are_seen_whole_while_they_are_stored_and_folded(store: SQLiteStorage) -> None:
    with readers(store, check_pairs):
        for number in range(1500):
            device = f"d{number % 100}"
            store.store_readings(Weather, pair(device, 2 * number, 1.0 + number % 9))
            if number % 60 == 30:  # late, into what may be history by now
                store.store_readings(Weather, pair(device, -2 * number, 3.0))
            if number % 30 == 0:
                store.fold()


def test_merges_are_seen_whole(store: SQLiteStorage) -> None:
    """Each call gives all readings the same new value; before and after a fold, and in the middle of one."""
    rows = [(DEVICES[number % 5], at(number)) for number in range(300)]
    store.store_readings(Weather, [(*row, {"temperature": 0, "count": 0}) for row in rows]).wait()

    def check(reader: SQLiteStorage) -> None:
        found = [row["count"] for row in reader.query_readings(Weather, fields=["count"], fresh=False)]
        assert (len(found), len(set(found))) == (300, 1)
        assert reader.aggregate(Weather, "count", "count", fresh=False) == {"result": 300}

    with readers(store, check):
        for number in range(1, 30):
            store.store_readings(Weather, [(*row, {"temperature": 0, "count": number}) for row in rows]).wait()
            if number % 3 == 0:
                store.fold()


def test_deletions_are_seen_whole(store: SQLiteStorage) -> None:
    """One reading of each pair lies in history, the other not any more, when both are deleted."""
    with readers(store, check_pairs):
        for number in range(60):
            rows = [row for device in DEVICES for row in pair(device, 10 * number, 2.0)]
            store.store_readings(Weather, rows).wait("committed")
            store.fold()
            again = [(*row[:2], {**row[2], "count": 1}) for row in rows if row[2]["temperature"] < 0]
            store.store_readings(Weather, again).wait("committed")
            store.delete_readings(Weather, start=at(10 * number - 30), end=at(10 * number - 10))


def test_the_number_of_readings_never_goes_down_and_groups_add_up(store: SQLiteStorage) -> None:
    def check(reader: SQLiteStorage) -> None:
        groups = reader.aggregate(Weather, "temperature", "count", group_by="device", fresh=False)
        assert isinstance(groups, list)
        total = reader.aggregate(Weather, "temperature", "count", fresh=False)
        assert isinstance(total, dict)
        buckets = reader.downsample(Weather, "temperature", "1d", "count", tz="America/New_York", fresh=False)
        counts = [sum(group["result"] for group in groups), total["result"], sum(day["result"] for day in buckets)]
        assert counts == sorted(counts)

    with readers(store, check):
        for number in range(100):
            rows = [(DEVICES[n % 5], at(100 * number + n), {"temperature": n}) for n in range(50)]
            store.store_readings(Weather, rows).wait()
            if number % 10 == 0:
                store.fold()


def test_lazy_reading_yields_each_reading_once_while_a_fold_runs(store: SQLiteStorage) -> None:
    rows = [(DEVICES[number % 5], at(number), {"temperature": 1}) for number in range(2000)]
    for begin in range(0, 2000, 500):
        store.store_readings(Weather, rows[begin : begin + 500])
    store.flush()

    def check(reader: SQLiteStorage) -> None:
        found = [(row["device_id"], row["timestamp"]) for row in reader.iter_readings(Weather, order="timestamp")]
        assert [moment for _, moment in found[:2000]] == [at(number) for number in range(2000)]
        assert len(set(found)) == len(found)

    with readers(store, check):
        for number in range(2000, 6000, 100):
            store.store_readings(Weather, [("d0", at(number + n), {"temperature": 1}) for n in range(100)]).wait()
            if number % 1000 == 0:
                store.fold()


READER = """
import sys, threading
from edgedepot import SQLiteStorage
from tests.storage.sqlite.test_readers import check_pairs
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
checks = 0
with SQLiteStorage(sys.argv[1], read_only=True) as store:
    print("ready", flush=True)
    while not stop.is_set():
        check_pairs(store)
        store.ledger()
        assert store.ledger().problems == []
        checks += 1
print(checks)
"""


def test_other_processes_see_what_commits_left(store: SQLiteStorage) -> None:
    store.add_cursor("central")
    command = [sys.executable, "-c", READER, str(store.path)]
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n", reader.communicate()
    for number in range(400):
        for device in DEVICES:
            store.store_readings(Weather, pair(device, 2 * number, 1.0 + number % 9)).wait("committed")
        if number % 7 == 0:
            store.delete_readings(Weather, start=at(number), end=at(number + 200))
        if number % 25 == 0:
            store.fold()
        if number % 5 == 0 and (window := store.pending("central", 300)):
            store.acknowledge("central", window)
    for reader in readers:
        printed, complaint = reader.communicate("", timeout=60)
        assert reader.returncode == 0, complaint
        assert int(printed) > 3
