"""The one thread that writes: a bounded queue in front, group commit behind.

    submit -> [item, item, item, ...] -> BEGIN; apply each; COMMIT (and sync) -> receipts settle, callbacks run

A commit happens when the oldest item has waited for the flush interval, when enough rows wait, and at once when
somebody waits on a receipt. When the disk refuses, the items stay where they are and the commit is tried again: nothing
is dropped, receipts stay `queued`, and once the queue is full callers wait (`StorageBusy`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import ReceiptTimeout, StorageBusy, StorageClosed, StorageError
from edgedepot.storage.receipt import COMMITTED, DURABLE, LEVELS, QUEUED, Receipt
from edgedepot.storage.sqlite.connection import is_damage, sync_wal
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.fold import Fold
from edgedepot.storage.sqlite.items import Item, Write
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.opening import Opened
from edgedepot.storage.sqlite.pace import Calls, Pace
from edgedepot.storage.sqlite.retention import Deed, Retention
from edgedepot.storage.sqlite.sidecar import Sidecar

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
SALVAGE_SECONDS = 600.0
NOTE_SECONDS = 60.0
RETAIN_SECONDS = 300.0
ROOM_SECONDS = 0.05
PRESSED_SECONDS = 10.0
"""How soon the store looks again for room where it found too little."""
# What the data of an item can cause; any other error of SQLite lies in the disk or the file.
_DATA_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)


class Writer:
    """Owns the writing connection. `submit` and the receipts' calls come from any thread."""

    def __init__(
        self,
        opened: Opened,
        path: Path,
        clock: Clock,
        pace: Pace,
        limits: Limits,
        cursors: Cursors,
        full_sync: bool,
        sidecar: Sidecar,
        salvage: Callable[[str], Opened],
    ) -> None:
        self._connection = opened.connection
        self._journal = opened.journal
        self._sidecar = sidecar
        self._salvage = salvage
        self._suspicion: str | None = None
        self._salvage_at = self._note_at = clock.monotonic()
        self._path = path
        self._clock = clock
        self._pace = pace
        self._full_sync = full_sync
        self._condition = threading.Condition()
        self._queue: list[Item] = []
        self._queued_rows = 0
        self._wanted = QUEUED  # the highest rank that somebody waits for now
        self._flush_at = 0.0
        self._commit_took = 0.0
        self._retry_at = 0.0
        self._sync_at = 0.0
        self._unsynced: list[Receipt] = []
        self._callbacks: list[tuple[Receipt, Callable[[], None]]] = []
        self._watchers: list[Callable[[], None]] = []
        self._closing = False
        self.durable_seq = self._journal.committed_seq
        self.trouble: StorageError | None = None
        self._fold = Fold(self._connection, self._journal, pace.piece_rows, limits)
        self._fold_at = clock.monotonic() + pace.fold_interval
        self._folds = Calls()
        self._limits = limits
        self._cursors = cursors
        self._retention = Retention(self._connection, self._journal, cursors, limits)
        self._retains = Calls()
        self._retain_at = clock.monotonic() if limits else None
        self._thread = threading.Thread(target=self._run, name="edgedepot-writer", daemon=True)
        self._thread.start()

    # -- called from any thread -----------------------------------------------------------------------------------

    def submit(self, item: Item) -> Receipt:
        """Queue an item. Blocks while the queue is full; after the timeout `StorageBusy`, nothing queued then."""
        with self._condition:
            if self._refuses(item):
                self._wait_for_room(item)
            if self._closing:
                raise StorageClosed("the store is closed")
            self._queue.append(item)
            self._queued_rows += item.weight
            if len(self._queue) == 1:
                self._flush_at = self._flush_after(self._clock.monotonic())
                self._condition.notify_all()
            elif self._queued_rows >= self._pace.commit_rows:
                self._condition.notify_all()
        return item.receipt

    def _refuses(self, item: Item) -> bool:
        """Whether there is no room: in the queue, or for readings in the store."""
        is_full = self._retention.full is not None and isinstance(item, Write)
        return is_full or self._queued_rows >= self._pace.queue_rows

    def _wait_for_room(self, item: Item) -> None:
        deadline = self._clock.monotonic() + self._pace.busy_timeout
        while self._refuses(item) and not self._closing:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise StorageBusy(self._why_refused())
            self._clock.wait(self._condition, left)

    def _why_refused(self) -> str:
        if self._retention.full is not None:
            return self._retention.full
        why = f": {self.trouble}" if self.trouble else ""
        return f"{self._queued_rows} rows wait to be written, as many as may{why}"

    def await_receipt(self, receipt: Receipt, rank: int, timeout: float | None) -> None:
        """Have a commit now, also with no time to wait, and block until the receipt has that rank or an error."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        with self._condition:
            while receipt.rank < rank and receipt.error is None:
                if self._wanted < rank:
                    self._wanted = rank
                    self._condition.notify_all()
                left = None if deadline is None else deadline - self._clock.monotonic()
                if left is not None and left <= 0:
                    why = f": {self.trouble}" if self.trouble else ""
                    raise ReceiptTimeout(f"not {LEVELS[rank]} within {timeout} s, still {receipt.level}{why}")
                self._clock.wait(self._condition, left)

    def call_when_durable(self, receipt: Receipt, callback: Callable[[], None]) -> None:
        with self._condition:
            if receipt.rank < DURABLE and receipt.error is None:
                self._callbacks.append((receipt, callback))
                return
        callback()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after rows became durable, from the writer's thread; returns what ends that."""
        with self._condition:
            self._watchers.append(callback)

        def unwatch() -> None:
            with self._condition, contextlib.suppress(ValueError):
                self._watchers.remove(callback)

        return unwatch

    def settle_all(self) -> None:
        """Block until everything submitted before is committed. Returns at once when nothing waits."""
        with self._condition:
            last = self._queue[-1].receipt if self._queue else None
        if last is not None:
            self.await_receipt(last, COMMITTED, None)

    def suspect(self, reason: str) -> None:
        """Somebody found the file damaged: it is salvaged, and the store goes on with what that leaves."""
        with self._condition:
            self._suspicion = self._suspicion or reason
            self._condition.notify_all()

    def fold(self) -> None:
        """Fold what is committed, and return when that is done. Raises `StorageClosed` when the store closes first."""
        self._call(self._folds)

    def retain(self) -> None:
        """Let go of what the limits do not allow, and return when that is done. Raises `StorageClosed` as `fold`."""
        self._call(self._retains)

    def _call(self, calls: Calls) -> None:
        with self._condition:
            calls.wanted += 1
            mine = calls.wanted
            self._condition.notify_all()
            while calls.done < mine:
                if self._closing:
                    raise StorageClosed("the store is closed")
                self._clock.wait(self._condition, None)

    def close(self) -> None:
        """Commit what is queued and end the thread. Raises `StorageError` when the last commit failed."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()
        if self.trouble is not None:
            raise self.trouble

    # -- the writer's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except Exception as exc:
            log.exception("the store's writer failed; it stores nothing more")
            with self._condition:
                self._closing = True
                self.trouble = StorageError(f"the store cannot be written any more: {exc!r}")
        finally:
            self._abandon_queue()

    def _work(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                while not self._due():
                    self._clock.wait(self._condition, self._time_left())
                items = self._queue[:] if self._commit_due() else []
                wanted, self._wanted = self._wanted, QUEUED
                closing = self._closing
            started_at = self._clock.monotonic()
            try:
                self._salvage_where_needed()
                self._journal.recover()
                if items:
                    self._commit(items)
                    self._committed_within(started_at)
                    self._look_for_room()
                if self._unsynced and (wanted == DURABLE or closing or started_at >= self._sync_at):
                    self._sync()
                if not closing:
                    self._fold_on()
                    self._retain_on()
            except (sqlite3.Error, OSError, StorageError) as exc:
                if is_damage(exc):
                    self.suspect(str(exc))
                self._note_trouble(exc)
            else:
                self._end_trouble()
            closing = closing and (not self._queue or self.trouble is not None)

    def _salvage_where_needed(self) -> None:
        """Where the file is damaged, go on with a new one. Not again and again: a card that loses what was just written
        is beyond help, and what waits here is safer where it is."""
        if self._suspicion is None:
            return
        if self._clock.monotonic() < self._salvage_at:
            raise StorageError(f"damaged again, right after it was salvaged: {self._suspicion}")
        opened = self._salvage(self._suspicion)
        self._connection, self._journal = opened.connection, opened.journal
        self._fold = Fold(self._connection, self._journal, self._pace.piece_rows, self._limits)
        self._retention = Retention(self._connection, self._journal, self._cursors, self._limits)
        self._salvage_at = self._clock.monotonic() + SALVAGE_SECONDS
        with self._condition:
            self.durable_seq = self._journal.committed_seq
            self._suspicion = None

    def _committed_within(self, started_at: float) -> None:
        with self._condition:
            self._commit_took = self._clock.monotonic() - started_at
            self._flush_at = self._flush_after(started_at)

    def _due(self) -> bool:
        if self.trouble is not None and not self._closing:
            return self._clock.monotonic() >= self._retry_at
        left = self._time_left()
        if self._suspicion is not None:
            return True
        return self._commit_due() or self._fold_due() or self._retain_due() or (left is not None and left <= 0)

    def _commit_due(self) -> bool:
        if self._closing or self._wanted > QUEUED or self._queued_rows >= self._pace.commit_rows:
            return True
        return bool(self._queue) and self._clock.monotonic() >= self._flush_at

    def _fold_due(self) -> bool:
        """Also in the middle of one: it goes on between commits."""
        if self._fold.active or self._folds.waiting:
            return True
        rows = self._journal.tail.rows - self._journal.tail.held
        return rows >= self._pace.fold_rows or (rows > 0 and self._clock.monotonic() >= self._fold_at)

    def _fold_on(self) -> None:
        """One step of the fold, where it is due: commits must not wait for the whole. More when it lags behind what
        comes in: the unfolded rows are in memory, and readers of other processes scan them."""
        while self._fold_due():
            self._fold_step()
            if self._journal.tail.rows - self._journal.tail.held < 2 * self._pace.fold_rows:
                return

    def _fold_step(self) -> None:
        if not self._fold.active:
            self._folds.begun = self._folds.wanted
            self._fold.begin()
        if self._fold.active:
            began = self._clock.monotonic()
            self._fold.step()
            self._fold.took(self._clock.monotonic() - began, self._pace.flush_interval)
        if not self._fold.active:
            self._fold_at = self._clock.monotonic() + self._pace.fold_interval
            self._retain_at = None if self._retain_at is None else self._clock.monotonic()
            self._sidecar.note(("seq", self.durable_seq))
            self._answer(self._folds)

    def _answer(self, calls: Calls) -> None:
        with self._condition:
            calls.done = calls.begun
            self._condition.notify_all()

    def _retain_due(self) -> bool:
        return self._retains.waiting or (self._retain_at is not None and self._clock.monotonic() >= self._retain_at)

    def _look_for_room(self) -> None:
        """Have retention look at once where a commit went beyond the limit; or where one may have made room."""
        over = self._retention.full is not None or (not self._retention.is_over and self._retention.exceeds())
        if self._retain_at is not None and over:
            self._retain_at = self._clock.monotonic()

    def _retain_on(self) -> None:
        """One step of retention, where it is due; some more where there is no room."""
        until = self._clock.monotonic() + ROOM_SECONDS
        while self._retain_due():
            self._retain_step()
            if self._clock.monotonic() >= until or not self._retention.exceeds(headroom=False):
                return

    def _retain_step(self) -> None:
        self._retains.begun = self._retains.wanted
        deed = self._retention.next(self._clock.now() if self._clock.trusted else None)
        if deed is not None:
            self._transact([deed])
            return
        if self._retain_at is not None:
            now, is_over = self._clock.monotonic(), self._retention.is_over
            self._retain_at = now + (PRESSED_SECONDS if is_over else RETAIN_SECONDS)
            self._fold_at = now if is_over else self._fold_at  # what is not in history cannot go
        self._answer(self._retains)

    def _time_left(self) -> float | None:
        if self.trouble is not None:
            return self._retry_at - self._clock.monotonic()
        times = ([self._flush_at] if self._queue else []) + ([self._sync_at] if self._unsynced else [])
        times += [self._fold_at] if self._journal.tail.rows > self._journal.tail.held else []
        times += [] if self._retain_at is None else [self._retain_at]
        return min(times) - self._clock.monotonic() if times else None

    def _flush_after(self, moment: float) -> float:
        """When to begin the commit of what came at that moment: so early that it is done within the flush interval,
        for only that long a reading may be unsafe. The commit before tells how long one takes, within bounds."""
        interval = self._pace.flush_interval
        return moment + interval - min(2 * self._commit_took, interval / 4)

    def _commit(self, items: list[Item]) -> None:
        """Commit the items together; where one's data is the obstacle, one by one, so that the others get in."""
        try:
            self._transact([item.apply for item in items])
        except _DATA_ERRORS as exc:
            if len(items) > 1:
                for item in items:
                    self._commit([item])
            elif items[0].reject_unstorable():
                self._commit(items)
            else:
                log.exception("a write failed for a reason that is not in its data; its readings are not stored")
                items[0].receipt.error = StorageError(f"not stored: {exc}")
                self._done(items)
        else:
            for item in items:
                item.settle(DURABLE if self._full_sync else COMMITTED)
            self._done(items)

    def _transact(self, deeds: Iterable[Deed]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._journal.begin()
            for deed in deeds:
                deed(self._journal)
            self._journal.finish()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._journal.rolled_back()
            raise
        self._journal.committed()

    def _done(self, items: list[Item]) -> None:
        """Items are out of the queue, for good or ill."""
        self._end_trouble()
        self._note_progress()
        with self._condition:
            del self._queue[: len(items)]
            self._queued_rows -= sum(item.weight for item in items)
            if self._full_sync:
                self.durable_seq = self._journal.committed_seq
            else:
                if not self._unsynced:
                    self._sync_at = self._clock.monotonic() + self._pace.sync_interval
                self._unsynced += [item.receipt for item in items]
        self._tell()

    def _note_progress(self) -> None:
        """Have the sidecar know what is new in the catalogue, and now and then how far the numbers are."""
        self._sidecar.note(*self._journal.catalogue.take_news())
        if self._clock.monotonic() >= self._note_at:
            self._note_at = self._clock.monotonic() + NOTE_SECONDS
            self._sidecar.note(("seq", self.durable_seq))

    def _sync(self) -> None:
        """Put the commits so far on the device. Only with `durability="process"`, where a commit does not."""
        sync_wal(self._path)
        with self._condition:
            for receipt in self._unsynced:
                receipt.raise_to(DURABLE)
            self._unsynced.clear()
            self.durable_seq = self._journal.committed_seq
        self._tell()

    def _tell(self) -> None:
        """Wake who waits, and call back for what became durable."""
        with self._condition:
            ripe = [call for receipt, call in self._callbacks if receipt.rank == DURABLE or receipt.error]
            if ripe:
                self._callbacks = [entry for entry in self._callbacks if entry[0].rank < DURABLE and not entry[0].error]
            watchers = self._watchers[:] if not self._unsynced else []
            self._condition.notify_all()
        for call in ripe + watchers:
            try:
                call()
            except Exception:  # the caller's own: it must not end the thread that writes
                log.exception("a callback on what became durable failed")

    def _note_trouble(self, exc: Exception) -> None:
        with self._condition:
            if self.trouble is None:
                log.error("the store cannot be written, readings wait in memory until it can: %s", exc)
            self.trouble = StorageError(f"the store cannot be written: {exc}")
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS

    def _end_trouble(self) -> None:
        if self.trouble is not None:
            log.warning("the store can be written again")
            self.trouble = None

    def _abandon_queue(self) -> None:
        """The store closes with items left, as the disk refuses: say so to whoever holds a receipt."""
        with self._condition:
            for item in self._queue:
                item.receipt.error = self.trouble
            self._queue.clear()
        self._tell()
