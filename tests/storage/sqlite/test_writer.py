"""Group commit, back-pressure and trouble, with a clock that the tests move."""

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from edgedepot import Reading, ReceiptTimeout, SQLiteStorage, StorageBusy, StorageError
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import StorageClosed
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.arrivals import check_rows
from edgedepot.storage.sqlite.items import Task, Write
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.open_rows import MANY
from edgedepot.storage.sqlite.sidecar import Sidecar
from tests.models import Weather, Wordy

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BIG = "x" * 1000
Data = dict[str, Any]
WORDY: Data = {spec.name: BIG for spec in Wordy.__fields__}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof", clock=clock, busy_timeout="5s") as opened:
        yield opened


def advance_until(clock: ManualClock, done: Callable[[], bool], step: float = 0.5) -> None:
    """Let time pass in small steps until something has happened; it is another thread's turn in between."""
    turn = threading.Event()
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        clock.advance(step)
        turn.wait(0.005)


def limit_pages(store: SQLiteStorage, pages: int) -> None:
    """Have SQLite itself answer SQLITE_FULL, as it does when the device is full."""
    assert store._writing is not None
    store._writing._connection.execute(f"PRAGMA max_page_count = {pages}")


def test_readings_of_one_interval_share_a_commit(store: SQLiteStorage, clock: ManualClock) -> None:
    commits = threading.Semaphore(0)
    store.watch(commits.release)
    receipts = [store.store_reading(Weather, "a", None, {"temperature": n}) for n in range(100)]
    clock.advance(1.0)
    assert commits.acquire(timeout=10)
    assert {receipt.level for receipt in receipts} == {"durable"}
    assert not commits.acquire(blocking=False)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_what_a_receipt_calls_durable_is_handed_out(tmp_path: Path, durability: Literal["power", "process"]) -> None:
    handed_out: list[bool] = []
    with SQLiteStorage(tmp_path / "x.db", gateway_id="roof", clock=ManualClock(T0), durability=durability) as opened:
        opened.add_cursor("central")

        class Witness(Receipt):
            """Sees what there is to send at the moment at which it becomes durable itself."""

            def settle(self, rank: int, *found: Any) -> None:
                super().settle(rank, *found)
                self.raise_to(rank)

            def raise_to(self, rank: int) -> None:
                super().raise_to(rank)
                if self.level == "durable":
                    handed_out.append(opened.pending("central", 1) is not None)

        assert opened._writing is not None
        writer = opened._writing.writer
        opened.store_reading(Weather, "a", None, {"temperature": 1.0})
        writer.submit(Task(Witness(writer), lambda journal: None)).wait()
    assert handed_out == [True]


@pytest.mark.parametrize(("model", "data", "count"), [(Weather, {"temperature": 1}, 5000), (Wordy, WORDY, 50)])
def test_what_is_much_is_committed_before_the_interval_is_over(
    store: SQLiteStorage, model: type[Reading], data: Data, count: int
) -> None:
    committed = threading.Event()
    store.watch(committed.set)
    store.store_readings(model, [("a", T0 + timedelta(seconds=n), data) for n in range(count)])
    assert committed.wait(10)


def test_a_long_transaction_inserts_as_it_goes(store: SQLiteStorage, clock: ManualClock) -> None:
    waiting: list[int] = []
    assert store._writing is not None
    writer, catalogue = store._writing.writer, store._writing.catalogue

    def write(journal: Journal) -> None:
        for start in range(0, 20_000, 1000):
            rows = [("a", T0 + timedelta(seconds=n), {"temperature": n}) for n in range(start, start + 1000)]
            Write(Receipt(), "direct", check_rows(catalogue, Weather, rows, clock)[0]).apply(journal)
            waiting.append(sum(map(len, journal._rows._cells.values())))

    writer.submit(Task(Receipt(writer), write)).wait()
    assert MANY / 2 < max(waiting) < MANY
    assert store.aggregate(Weather, "temperature", "count") == {"result": 20_000}


def test_the_fold_keeps_up_with_what_comes_in(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "x.db", durability="process") as store:
        for start in range(0, 400_000, 5000):
            rows = [(f"d{n % 7}", T0 + timedelta(seconds=n), {"temperature": 1.0}) for n in range(start, start + 5000)]
            store.store_readings(Weather, rows)
        store.flush()
        assert store._writing is not None
        assert store._writing.tail.rows <= 60_000 + 50_000  # twice what starts a fold, and a full queue
        assert store.aggregate(Weather, "temperature", "count") == {"result": 400_000}


def test_process_durability_is_committed_first_and_durable_after_the_sync(tmp_path: Path, clock: ManualClock) -> None:
    with SQLiteStorage(tmp_path / "x.db", durability="process", sync_interval="10s", clock=clock) as store:
        store.add_cursor("central")
        receipt = store.store_reading(Weather, "a", T0, {"temperature": 1}).wait("committed")
        assert receipt.level == "committed"
        assert store.pending("central", 10) is None
        advance_until(clock, lambda: receipt.level == "durable")
        assert store.pending("central", 10) is not None
        assert store.store_reading(Weather, "a", None, {"temperature": 2}).wait("durable").level == "durable"


def test_a_name_is_copied_beside_the_store_when_it_is_on_the_device(tmp_path: Path, clock: ManualClock) -> None:
    """A power cut may take it before, and it gets another number when it comes again: the copy would contradict."""
    path = tmp_path / "x.db"
    with SQLiteStorage(path, durability="process", clock=clock) as store:
        store.store_reading(Weather, "mast", None, {"temperature": 1.0}).wait("committed")
        assert store._writing is not None
        store._writing.writer.fold()  # which it gets to when it is done with that
        assert Sidecar(path).rows("series") == []
        store.flush()
        store._writing.writer.fold()
        assert Sidecar(path).rows("series") == [(1, 1, "mast")]


def test_what_is_much_is_synced_before_the_interval_is_over(tmp_path: Path, clock: ManualClock) -> None:
    with SQLiteStorage(tmp_path / "x.db", durability="process", clock=clock) as store:
        durable = threading.Event()
        store.store_reading(Weather, "a", None, {"temperature": 1}).then(durable.set)
        for _ in range(47_000):  # of which the last do not make a commit
            store.store_reading(Weather, "a", None, {"temperature": 1})
        assert durable.wait(10)


def test_what_cannot_be_synced_makes_callers_wait(tmp_path: Path, clock: ManualClock) -> None:
    """Commits go on meanwhile. Of calls that bring nothing but refusals few are much."""
    bad: list[Any] = [("a", T0, {"x" * 80: 1})] * 4000
    outcome: list[BaseException] = []
    with SQLiteStorage(tmp_path / "x.db", durability="process", clock=clock, busy_timeout="5s") as store:
        assert store._writing is not None
        assert store._writing.opened.log_sync is not None
        synced = store._writing.opened.log_sync._file
        with Path(os.devnull).open() as null:
            os.dup2(null.fileno(), synced)  # to sync that is an error
        with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # keeps the log from going into the file
            first = store.store_reading(Weather, "a", T0, {"temperature": 1})

            def store_more() -> None:
                try:
                    for _ in range(100):
                        store.store_readings(Weather, bad).wait("committed")
                except StorageBusy as exc:
                    outcome.append(exc)

            caller = threading.Thread(target=store_more)
            caller.start()
            advance_until(clock, lambda: not caller.is_alive())
            assert re.search(r"\d writes are committed and not on the device yet, 1\d MB .*: .*synced", str(outcome))
            assert first.level == "committed"
        with (tmp_path / "x.db-wal").open() as log:
            os.dup2(log.fileno(), synced)
        advance_until(clock, lambda: first.level == "durable")
        assert store.store_reading(Weather, "b", T0, {"temperature": 1}).wait("committed").accepted == 1


@pytest.mark.parametrize(
    ("model", "data", "count", "why"),
    [
        (Weather, {"temperature": 1}, 50_000, "50000 rows wait to be written"),
        (Wordy, WORDY, 200, r"200 rows wait to be written, 2\d MB in memory, as much as may"),
    ],
)
def test_a_full_queue_makes_callers_wait_and_then_says_busy(
    store: SQLiteStorage, clock: ManualClock, model: type[Reading], data: Data, count: int, why: str
) -> None:
    limit_pages(store, 1)
    waiting = store.store_readings(model, [("a", T0 + timedelta(seconds=n), data) for n in range(count)])
    outcome: list[BaseException] = []

    def store_one_more() -> None:
        try:
            store.store_reading(Weather, "b", T0, {"temperature": 1})
        except StorageBusy as exc:
            outcome.append(exc)

    caller = threading.Thread(target=store_one_more)
    caller.start()
    advance_until(clock, lambda: not caller.is_alive())
    assert re.search(why, str(outcome[0]))
    assert "full" in str(outcome[0])
    limit_pages(store, 2**30)
    advance_until(clock, lambda: waiting.level == "durable")
    assert waiting.accepted == count
    assert store.store_reading(Weather, "b", T0, {"temperature": 1}).wait().accepted == 1


def test_nothing_is_lost_while_the_device_is_full(store: SQLiteStorage, clock: ManualClock) -> None:
    limit_pages(store, 1)
    receipts = [
        store.store_reading(Weather, "a", T0 + timedelta(seconds=n), {"temperature": n, "note": BIG}) for n in range(50)
    ]
    advance_until(clock, lambda: store.health_check()["status"] == "fail")
    assert "full" in store.health_check()["message"]
    assert {receipt.level for receipt in receipts} == {"queued"}
    assert store.query_readings(Weather, fresh=False) == []
    limit_pages(store, 2**30)
    advance_until(clock, lambda: receipts[-1].level == "durable")
    assert store.health_check()["status"] == "pass"
    assert len(store.query_readings(Weather)) == 50
    assert store.ledger().problems == []


def test_a_receipt_that_takes_too_long_says_why(store: SQLiteStorage, clock: ManualClock) -> None:
    limit_pages(store, 1)
    receipt = store.store_readings(
        Weather, [("a", T0 + timedelta(seconds=n), {"temperature": 1, "note": BIG}) for n in range(50)]
    )
    errors: list[str] = []

    def wait() -> None:
        try:
            receipt.wait("durable", timeout=3)
        except ReceiptTimeout as exc:
            errors.append(str(exc))

    waiter = threading.Thread(target=wait)
    waiter.start()
    advance_until(clock, lambda: not waiter.is_alive())
    assert "not durable within 3 s, still queued" in errors[0]
    assert "full" in errors[0]
    limit_pages(store, 2**30)


def test_closing_while_the_device_is_full_raises_and_tells_the_receipts(tmp_path: Path, clock: ManualClock) -> None:
    store = SQLiteStorage(tmp_path / "x.db", clock=clock)
    limit_pages(store, 1)
    receipt = store.store_readings(
        Weather, [("a", T0 + timedelta(seconds=n), {"temperature": 1, "note": BIG}) for n in range(50)]
    )
    with pytest.raises(StorageError, match="cannot be written"):
        store.close()
    with pytest.raises(StorageError, match="cannot be written"):
        receipt.wait()
    store.close()
    with SQLiteStorage(tmp_path / "x.db") as again:
        assert again.query_readings(Weather) == []


def test_a_fold_that_failed_is_made_up_for_and_the_trouble_is_over(store: SQLiteStorage, clock: ManualClock) -> None:
    store.store_readings(
        Weather, [("a", T0 + timedelta(seconds=n), {"temperature": 1, "note": BIG}) for n in range(50)]
    ).wait()
    limit_pages(store, 1)
    folding = threading.Thread(target=store.fold)
    folding.start()
    advance_until(clock, lambda: store.health_check()["status"] == "fail")
    limit_pages(store, 2**30)
    advance_until(clock, lambda: not folding.is_alive())
    advance_until(clock, lambda: store.health_check()["status"] == "pass")
    assert len(store.query_readings(Weather)) == 50


def test_a_callback_that_fails_does_not_end_the_writer(store: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("of the caller's own")

    store.watch(fail)
    store.store_reading(Weather, "a", T0, {"temperature": 1}).wait()
    assert store.store_reading(Weather, "b", T0, {"temperature": 1}).wait(timeout=None).accepted == 1
    assert "of the caller's own" in caplog.text


class BrokenClock(ManualClock):
    """A clock that can fail, as no code of ours expects."""

    broken = False

    def now(self) -> int:
        if self.broken:
            raise RuntimeError("no clock")
        return super().now()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_writer_that_failed_tells_whoever_waits(tmp_path: Path, durability: Literal["power", "process"]) -> None:
    clock = BrokenClock(T0)
    store = SQLiteStorage(tmp_path / "x.db", clock=clock, durability=durability)
    committed = store.store_reading(Weather, "z", T0, {"temperature": 1}).wait("committed")
    receipt = store.store_reading(Weather, "a", T0, {"temperature": 1})
    clock.broken = True
    with pytest.raises(StorageError, match="cannot be written any more: RuntimeError"):
        receipt.wait()
    told: list[str] = []
    committed.then(lambda: told.append(committed.level))
    assert told == ["durable" if durability == "power" else "committed"]
    assert committed.wait("committed").accepted == 1
    if durability == "process":
        with pytest.raises(StorageError, match="cannot be written any more"):
            committed.wait()
    with pytest.raises(StorageClosed):
        store.store_reading(Weather, "b", T0, {"temperature": 1})
    assert store.health_check()["status"] == "fail"
    with pytest.raises(StorageError, match="cannot be written any more"):
        store.close()
    SQLiteStorage(tmp_path / "x.db").close()
