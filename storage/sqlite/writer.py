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
from typing import TYPE_CHECKING

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import ReceiptTimeout, StorageBusy, StorageClosed, StorageError
from edgedepot.storage.receipt import COMMITTED, DURABLE, LEVELS, QUEUED, Receipt
from edgedepot.storage.sqlite.callers import Callers
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.forks import Home
from edgedepot.storage.sqlite.in_place import InPlace
from edgedepot.storage.sqlite.items import Item, Task, Write
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.lock import why_refused
from edgedepot.storage.sqlite.log_length import LogLength
from edgedepot.storage.sqlite.mount import Mount, not_mounted
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.opening import Opened
from edgedepot.storage.sqlite.pace import Pace
from edgedepot.storage.sqlite.queue import Queue
from edgedepot.storage.sqlite.reserve import is_full
from edgedepot.storage.sqlite.room import Room
from edgedepot.storage.sqlite.salvage import UNREADABLE
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.suspicion import Suspicion
from edgedepot.storage.sqlite.unsynced import Unsynced
from edgedepot.storage.sqlite.upkeep import Upkeep, transact

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.successor import Successor

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
SALVAGE_SECONDS = 600.0
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
        salvage: Callable[[str], Opened],
        mount: Mount,
        in_place: InPlace,
        go_on: Callable[[Successor], Opened],
    ) -> None:
        self._connection = opened.connection
        self._journal = opened.journal
        self._sidecar = sidecar
        self._salvage, self._go_on = salvage, go_on
        self._mount = mount
        self._in_place = in_place
        self._suspicion = Suspicion()
        self._salvage_at = self._note_at = clock.monotonic()
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
        return self._upkeep.retention.full

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
        with self._condition:
            self._suspicion.note(exc)
            self._condition.notify_all()

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
                self._follow_files()
                self._go_on_where_left()
                self._salvage_where_needed()
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
                if not self._suspicion.concerns(exc):
                    log.exception("a fault of the program's own keeps the store from being looked after")
                    self._upkeep.put_off()
                self.suspect(exc)
                self._note_trouble(exc)
            else:
                self._end_trouble()
            closing = closing and (not self._queue or self.trouble is not None)

    def _salvage_where_needed(self) -> None:
        """Where the file is damaged, go on with a new one. Not again and again: a card that loses what was just written
        is beyond help, and what waits here is safer where it is."""
        reason = self._suspicion.reason
        if reason is None:
            return
        if self._suspicion.has_passed(self._path, self._clock.monotonic()):
            log.warning("%s could not be read for a moment: %s", self._path, reason)
            with self._condition:
                self._suspicion.clear()
            return
        is_fresh = self._clock.monotonic() < self._salvage_at
        if self._suspicion.is_unfounded(self._path, is_fresh):
            log.error("%s is whole: the fault is the program's own: %s", self._path, reason)
            with self._condition:
                self._suspicion.clear()
            return
        if is_fresh:
            raise StorageError(f"damaged again, right after it was salvaged: {reason}")
        self.log_length.renew()
        self._suspicion.act()
        self._renew(self._salvage(reason))
        self._salvage_at = self._clock.monotonic() + SALVAGE_SECONDS

    @property
    def _is_between_files(self) -> bool:
        """Whether what has the store's name now is to be opened yet."""
        return self._mount.is_away or self._suspicion.is_acted_on or self.log_length.has_heir_in_place

    def _follow_files(self) -> None:
        """Where the store's file system is mounted no more, or its log has no name: let go of its files, and go on when
        they are there by their names."""
        is_in_trouble = self.trouble is not None or self._suspicion.reason is not None
        if is_in_trouble and self._mount.is_gone():
            log.error("%s: its file system was unmounted", self._path)
            self.log_length.let_go()
            self._mount.let_go(not_mounted(self._path))
        elif not self._is_between_files and self._in_place.has_no_log():
            self.log_length.let_go()  # what it has reads the log
            self._in_place.leave_log(self._connection)
            self._mount.let_go(f"{self._path} is being opened again")
        if self._mount.is_away:
            self._renew(self._mount.come_back(self.durable_seq))
            log.warning("%s is open again", self._path)

    def _renew(self, opened: Opened) -> None:
        """Go on with a store that was opened anew: all that is there is on the device. Nothing here may fail: what is
        done half would not be done again."""
        before = self._journal.committed_seq
        self._connection, self._journal = opened.connection, opened.journal
        self._upkeep.renew(opened, self.full)
        self.room.renew()
        self._in_place.renew()
        self.log_length.begin(self._connection)
        last = self._journal.committed_seq
        self._unsynced.renew(opened.log_sync, last, opened.report)
        with self._condition:
            self._suspicion.clear()
            done = self._queue.items[: self._attempts.get(last, 0)] if last > before else []
        if done:  # a commit that failed is there all the same
            self._settle(done)
        self._tell()

    def _go_on_where_left(self) -> None:
        """Where the file is left to a long reader, go on in the copy that has taken its place."""
        if not self.log_length.expects_heir:
            return
        if self._suspicion.reason is not None and not self.log_length.has_heir_in_place:
            return
        try:
            with names_of(self._path).lock:  # whoever opened the new file with the old log would keep that for good
                successor = self.log_length.heir(self._connection, self._put_on_device)
                opened = None if successor is None else self._inherit(successor)
        finally:
            self._tell()  # not before: who is called back may wait for somebody that opens the store to read
        if opened is not None:
            self._renew(opened)
            self.log_length.inherited()
            self._upkeep.retain_soon()

    def _inherit(self, successor: Successor) -> Opened:
        try:
            return self._go_on(successor)
        except (sqlite3.Error, *UNREADABLE) as exc:  # it is damaged, and what is written to the old file is lost
            self.log_length.renew()
            self.suspect(exc)
            self._suspicion.act()
            raise

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _commit_due(self) -> bool:
        return self._closing or self._wanted > QUEUED or self._queue.is_due

    def _time_left(self) -> float | None:
        """Seconds until there is something to do, none left where there is now; None where there will be nothing."""
        if self.trouble is not None and not self._closing:
            return self._retry_at - self._clock.monotonic()
        if self._suspicion.reason is not None or self._commit_due():
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
            elif self._suspicion.concerns(exc):
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
        self._note_progress()
        with self._condition:
            self._queue.drop(len(items))
            self._unsynced.add([item.receipt for item in items], self._journal.committed_seq)
        self._tell()

    def _note_progress(self) -> None:
        """Have the sidecar know what is new in the catalogue, and now and then how far the numbers are."""
        self._sidecar.note(*self._journal.catalogue.take_news())
        if self._clock.monotonic() >= self._note_at:
            self._note_at = self._clock.monotonic() + NOTE_SECONDS
            self._note_seq()

    def _note_seq(self) -> None:
        self._sidecar.note(("seq", self.durable_seq))

    def _sync(self) -> None:
        self._put_on_device()
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
