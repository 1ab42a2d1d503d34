"""The one thread that writes: a bounded queue in front, group commit behind.

    submit -> [item, item, item, ...] -> BEGIN; apply each; COMMIT (and sync) -> receipts settle, callbacks run

A commit happens when the oldest item has waited for the flush interval, when enough waits, and at once when somebody
waits on a receipt. When the disk refuses, the items stay where they are and the commit is tried again: nothing
is dropped, receipts stay `queued`, and once the queue is full callers wait (`StorageBusy`).
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import ReceiptTimeout, StorageBusy, StorageClosed, StorageError
from edgedepot.storage.receipt import COMMITTED, DURABLE, LEVELS, QUEUED, Receipt
from edgedepot.storage.sqlite.callers import Callers
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.forks import Home
from edgedepot.storage.sqlite.items import Item, Task, Write
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.lock import why_refused
from edgedepot.storage.sqlite.log_length import LogLength
from edgedepot.storage.sqlite.moves import Moves
from edgedepot.storage.sqlite.opening import Opened
from edgedepot.storage.sqlite.pace import Pace
from edgedepot.storage.sqlite.queue import Queue
from edgedepot.storage.sqlite.reserve import is_full
from edgedepot.storage.sqlite.room import Room
from edgedepot.storage.sqlite.salvage import UNREADABLE
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.unsynced import Unsynced
from edgedepot.storage.sqlite.upkeep import Upkeep, transact

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
NOTE_SECONDS = 60.0
# What the data of an item can cause; any other error of SQLite lies in the disk or the file.
_DATA_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    *UNREADABLE,
)


class Writer:
    """Owns the writing connection. `submit` and the receipts' calls come from any thread."""

    def __init__(
        self,
        opened: Opened,
        path: Path,
        clock: Clock,
        *,
        pace: Pace,
        limits: Limits,
        cursors: Cursors,
        sidecar: Sidecar,
        room: Room,
        log_length: LogLength,
        moves: Moves,
    ) -> None:
        self._connection = opened.connection
        self._journal = opened.journal
        self._sidecar = sidecar
        self._moves = moves
        self._note_at = clock.monotonic()
        self._path = path
        self._home = Home(path)
        self._clock = clock
        self._pace = pace
        self._condition = threading.Condition()
        self._queue = Queue(clock, pace)
        self._wanted = QUEUED  # the highest rank that somebody waits for now
        self._retry_at = 0.0
        self._attempts: dict[int, int] = {}  # how many items a commit that failed had, by its last number
        last = self._journal.committed_seq
        self._unsynced = Unsynced(clock, self._condition, pace, opened.log_sync, last)
        self._callers = Callers(self._condition)
        self._closing = False
        self.trouble: StorageError | None = None
        self._upkeep = Upkeep(opened, clock, pace, limits, cursors, self._condition, self._note_seq)
        self.room = room
        self.log_length = log_length
        log_length.begin(self._connection)
        self._thread = threading.Thread(target=self._run, name="edgedepot-writer", daemon=True)
        self._thread.start()

    # -- called from any thread -----------------------------------------------------------------------------------

    @property
    def durable_seq(self) -> int:
        """Up to which number all is on the device."""
        return self._unsynced.durable_seq

    def submit(self, item: Item) -> Receipt:
        """Queue an item. Blocks while the queue is full; after the timeout `StorageBusy`, nothing queued then."""
        self._home.check()
        with self._condition:
            if self._refuses(item):
                self._wait_for_room(item)
            if self._closing:
                raise StorageClosed("the store is closed")
            if self._queue.add(item):
                self._condition.notify_all()
        return item.receipt

    def _refuses(self, item: Item) -> bool:
        """Whether there is no room: in the queue, among what awaits a sync, or for readings in the store."""
        if not isinstance(item, Write):
            return False  # they are few, whoever asks for one waits for it, and deletions make room
        return self.full is not None or self._queue.is_full or self._unsynced.is_full

    def _wait_for_room(self, item: Item) -> None:
        deadline = self._clock.monotonic() + self._pace.busy_timeout
        while self._refuses(item) and not self._closing:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise StorageBusy(self._why_refused())
            self._clock.wait(self._condition, left)

    @property
    def full(self) -> str | None:
        """Why the store takes no readings, where it is to hold on to what upstreams await; else None."""
        return self._upkeep.full

    def _why_refused(self) -> str:
        if self.full is not None:
            return self.full
        why = f": {self.trouble}" if self.trouble else ""
        what = self._unsynced if self._unsynced.is_full else self._queue
        return f"{what}, as much as may{why}"

    def await_receipt(self, receipt: Receipt, rank: int, timeout: float | None) -> None:
        """Have a commit now, also with no time to wait, and block until the receipt has that rank or an error."""
        self._home.check()
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        with self._condition:
            while receipt.rank < rank and receipt.error is None:
                self._want(rank)
                left = None if deadline is None else deadline - self._clock.monotonic()
                if left is not None and left <= 0:
                    why = f": {self.trouble}" if self.trouble else ""
                    raise ReceiptTimeout(f"not {LEVELS[rank]} within {timeout} s, still {receipt.level}{why}")
                self._clock.wait(self._condition, left)

    def _want(self, rank: int) -> None:
        if self._wanted < rank:
            self._wanted = rank
            self._condition.notify_all()

    def call_when_durable(self, receipt: Receipt, callback: Callable[[], None]) -> None:
        self._home.check()
        self._callers.call_when_durable(receipt, callback)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after rows became durable, from the writer's thread; returns what ends that."""
        return self._callers.watch(callback)

    def settle_all(self) -> None:
        """Block until everything submitted before is committed. Returns at once when nothing waits, and when the store
        cannot be written: what is in it can be read."""
        self._home.check()
        with self._condition:
            last = self._queue.items[-1].receipt if self._queue else None
            while last is not None and last.rank < COMMITTED and last.error is None and self.trouble is None:
                self._want(COMMITTED)
                self._clock.wait(self._condition, None)

    def suspect(self, exc: BaseException) -> None:
        """Somebody ran into an error of SQLite's. Where the file is damaged it is salvaged, and the store goes on with
        what that leaves."""
        self._moves.suspect(exc)
        self._wake()

    def flush(self) -> None:
        """Return when everything submitted before is durable. While the store cannot be written that raises
        `ReceiptTimeout`, after as long as callers wait for room."""
        receipt = self.submit(Task(Receipt(self), lambda journal: None))
        while receipt.rank < DURABLE and receipt.error is None:
            try:
                self.await_receipt(receipt, DURABLE, self._pace.busy_timeout)
            except ReceiptTimeout:
                if self.trouble is not None:
                    raise
        receipt.wait()

    def fold(self) -> None:
        """Fold what is committed, and return when that is done. Raises `StorageClosed` when the store closes first, and
        what keeps it from being written, after as long as callers wait for room."""
        self._upkeep.call(self._upkeep.folds, self._patience())

    def retain(self) -> None:
        """Let go of what the limits do not allow, and return when that is done. Raises as `fold`."""
        self._upkeep.call(self._upkeep.retains, self._patience())

    def _patience(self) -> Callable[[], None]:
        """What raises where there is no sense in waiting any longer."""
        until = self._clock.monotonic() + self._pace.busy_timeout

        def check() -> None:
            if self._closing:
                raise StorageClosed("the store is closed")
            if self.trouble is not None and self._clock.monotonic() >= until:
                raise self.trouble

        return check

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
            with contextlib.ExitStack() as ends:  # whoever waits on a receipt is told, whatever cannot be closed
                ends.callback(self._abandon_queue)
                ends.callback(self.log_length.let_go)

    def _work(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                while (left := self._time_left()) is None or left > 0:
                    self._clock.wait(self._condition, left)
                is_due = self._commit_due()
                wanted, self._wanted = self._wanted, QUEUED
                closing = self._closing
            started_at = self._clock.monotonic()
            try:
                self._go_on(self._moves.followed(self._connection, self.durable_seq, self.trouble is not None))
                if self._moves.expects_heir:
                    self._inherit()
                self._go_on(self._moves.salvaged())
                self._journal.recover()
                if is_due and self._queue:
                    self._commit(self._queue.items[:])
                    with self._condition:
                        self._queue.committed_since(started_at)
                    self._upkeep.look_for_room()
                sync_at = self._unsynced.due_at
                if sync_at is not None and (wanted == DURABLE or closing or started_at >= sync_at):
                    self._sync()
                if not closing:
                    self.room.look(self._connection)
                    self.log_length.look(self._connection, self._wake)
                    self._upkeep.fold_on()
                    self._upkeep.retain_on()
            except (sqlite3.Error, OSError, StorageError) as exc:
                self.suspect(exc)
                self._note_trouble(exc)
                if is_full(exc, self._path.parent):
                    self._make_room()
            except UNREADABLE as exc:
                if not self._moves.may_be_damage(exc):
                    log.exception("a fault of the program's own keeps the store from being looked after")
                    self._upkeep.put_off()
                self.suspect(exc)
                self._note_trouble(exc)
            else:
                self._end_trouble()
            closing = closing and (not self._queue or self.trouble is not None)

    def _go_on(self, opened: Opened | None) -> None:
        if opened is not None:
            self._renew(opened)

    def _renew(self, opened: Opened) -> None:
        """Go on with a store that was opened anew: all that is there is on the device. Nothing here may fail: what is
        done half would not be done again."""
        before = self._journal.committed_seq
        self._connection, self._journal = opened.connection, opened.journal
        self._upkeep.renew(opened, self.full)
        self.room.renew()
        self.log_length.begin(self._connection)
        last = self._journal.committed_seq
        self._unsynced.renew(opened.log_sync, last, opened.report)
        self._moves.renewed()
        with self._condition:
            done = self._queue.items[: self._attempts.get(last, 0)] if last > before else []
        if done:  # a commit that failed is there all the same
            self._settle(done)
        self._tell()

    def _inherit(self) -> None:
        """Where the file is left to a long reader, go on in the copy that has taken its place."""
        try:
            opened = self._moves.inherited(self._connection, self._put_on_device)
        finally:
            self._tell()  # not before: who is called back may wait for somebody that opens the store to read
        if opened is not None:
            self._renew(opened)
            self.log_length.inherited()
            self._upkeep.retain_soon()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _commit_due(self) -> bool:
        return self._closing or self._wanted > QUEUED or self._queue.is_due

    def _time_left(self) -> float | None:
        """Seconds until there is something to do, none left where there is now; None where there will be nothing."""
        if self.trouble is not None and not self._closing:
            return self._retry_at - self._clock.monotonic()
        if self._moves.suspected is not None or self._commit_due():
            return 0.0
        mine = (self._queue.due_at, self._unsynced.due_at, self.room.due_at, self.log_length.due_at)
        times = [at for at in (*mine, *self._upkeep.times()) if at is not None]
        return min(times) - self._clock.monotonic() if times else None

    def _commit(self, items: list[Item]) -> None:
        """Commit the items together; where one's data is the obstacle, one by one, so that the others get in. What is
        not in its data may lie in the file, in a row that it meets there: then it waits for the salvage."""
        try:
            transact(self._connection, self._journal, (item.apply for item in items))
        except _DATA_ERRORS as exc:
            if len(items) > 1:
                for item in items:
                    self._commit([item])
            elif items[0].reject_unstorable():
                self._commit(items)
            elif self._moves.may_be_damage(exc):
                raise
            else:
                log.exception("a write failed for a reason that is not in its data; its readings are not stored")
                items[0].receipt.error = StorageError(f"not stored: {exc}")
                self._end_trouble()
                self._done(items)
        except (sqlite3.Error, OSError):
            self._attempts.setdefault(self._journal.tried_seq, len(items))
            raise
        else:
            self._settle(items)

    def _settle(self, items: list[Item]) -> None:
        self._end_trouble()  # before: who sees a receipt settled finds no trouble any more
        self._unsynced.committed(self._journal.committed_seq)
        for item in items:
            item.settle(self._unsynced.rank)
        self._done(items)

    def _done(self, items: list[Item]) -> None:
        """Items are out of the queue, for good or ill."""
        self._attempts.clear()
        with self._condition:
            self._queue.drop(len(items))
            self._unsynced.add([item.receipt for item in items], self._journal.committed_seq)
        self._note_progress()
        self._tell()

    def _note_progress(self) -> None:
        """Have the sidecar know what is new in the catalogue once that is on the device (a name that a power cut takes
        may come again with another number), and now and then how far the numbers are."""
        if not self._unsynced:
            self._sidecar.note(*self._journal.catalogue.take_news())
        if self._clock.monotonic() >= self._note_at:
            self._note_at = self._clock.monotonic() + NOTE_SECONDS
            self._note_seq()

    def _note_seq(self) -> None:
        self._sidecar.note(("seq", self.durable_seq))

    def _sync(self) -> None:
        self._put_on_device()
        self._note_progress()
        self._tell()

    def _put_on_device(self) -> None:
        """The commits so far: with `durability="process"` a commit does not."""
        if self._unsynced.needs_file and not self._closing and self.log_length.is_much_waiting:
            self.log_length.look(self._connection, self._wake)  # here, as what comes next is a pause
            if self.log_length.is_much_waiting:
                raise StorageError(f"{self._path}: its log could not be synced, and is not in the file yet")
        self._unsynced.sync(self._connection, self._journal.committed_seq)

    def _tell(self) -> None:
        self._callers.tell(all_durable=not self._unsynced)

    def _note_trouble(self, exc: Exception) -> None:
        reason = why_refused(self._path)
        why = f"{exc} ({reason})" if reason else str(exc)
        with self._condition:
            if self.trouble is None:
                log.error("the store cannot be written, readings wait in memory until it can: %s", why)
            self.trouble = StorageError(f"the store cannot be written: {why}")
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
            self._condition.notify_all()

    def _make_room(self) -> None:
        """The device is full: what frees room goes before what waits for it, deletions also out of turn. They are done
        again in their turn, for what came before them in the queue."""
        self._upkeep.put_fold_off()
        try:
            self.log_length.drop()
            self.room.make(self._connection)
            with self._condition:
                deletions = self._queue.deletions()
            if not deletions and not self._upkeep.has_limits:
                return
            with self.room.lent(self._connection):
                self._journal.recover()
                for deletion in deletions:
                    transact(self._connection, self._journal, [deletion.apply])
                    deletion.done_early()
                self._upkeep.retain_soon()
                self._upkeep.retain_on()
        except (sqlite3.Error, OSError, StorageError) as exc:
            log.debug("no room could be made: %s", exc)

    def _end_trouble(self) -> None:
        if self.trouble is not None:
            log.warning("the store can be written again")
            self.trouble = None

    def _abandon_queue(self) -> None:
        """The store closes with items left, or with commits that were not synced, as the disk refuses: say so to
        whoever holds a receipt."""
        with self._condition:
            for item in self._queue.items:
                item.receipt.error = self.trouble
            self._queue.drop(len(self._queue.items))
            self._unsynced.abandon(self.trouble)
        self._tell()
