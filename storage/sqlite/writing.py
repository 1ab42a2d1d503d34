"""What a store that writes holds beside its readers."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.acknowledge import add_cursor
from edgedepot.storage.sqlite.books import Books
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.choices import note_choice
from edgedepot.storage.sqlite.connection import is_damage, is_unread
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.in_place import InPlace
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.lock import StoreLock
from edgedepot.storage.sqlite.log_length import CARD, PATIENCE, LogLength
from edgedepot.storage.sqlite.mount import Mount
from edgedepot.storage.sqlite.moves import Moves
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.opening import GOING_ON, Opened, Opening
from edgedepot.storage.sqlite.pace import Pace
from edgedepot.storage.sqlite.pending import PendingReader
from edgedepot.storage.sqlite.quarantine import replaying_cursors
from edgedepot.storage.sqlite.readers import Readers
from edgedepot.storage.sqlite.reserve import Reserve, is_full
from edgedepot.storage.sqlite.room import Room
from edgedepot.storage.sqlite.salvage import UNREADABLE
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.suspicion import ATTEMPTS
from edgedepot.storage.sqlite.tail import Tail
from edgedepot.storage.sqlite.upkeep import transact
from edgedepot.storage.sqlite.wal import wal_of
from edgedepot.storage.sqlite.walk import NEVER
from edgedepot.storage.sqlite.writer import Writer

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.successor import Successor


class Writing:
    """The lock, the writing connection, the journal and the writer of one file. Raises what `SQLiteStorage` does."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        pace: Pace,
        limits: Limits,
        full_sync: bool,
        gateway_id: str | None,
        hold_uncertain: bool,
        readers: Readers,
    ) -> None:
        self._path = path
        self._readers = readers
        self._names = names_of(path)
        self._lock = StoreLock(path)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            self._sidecar = Sidecar(path)
            self._reserve = reserve = Reserve(path, limits.wal_pages)
            self._opening = Opening(
                path,
                self._lock,
                self._sidecar,
                clock,
                full_sync=full_sync,
                gateway_id=gateway_id,
                wal_pages=reserve.wal_pages,
                hold_uncertain=hold_uncertain,
            )
            self._opened = self._open(reserve)
            undo.callback(self._opened.close)
            self.cursors = Cursors(self.books, replaying_cursors(self._connection))
            self.pending_reader = PendingReader(self.catalogue)
            store_id = schema.text(self._connection, "store_id")
            self._mount = Mount(path, store_id, self._let_go, self._open_again)
            length = LogLength(path, clock, reserve, min(PATIENCE, pace.busy_timeout), pace.busy_timeout * CARD)
            in_place = InPlace(path, self._lock)
            self.writer = Writer(
                self._opened,
                path,
                clock,
                pace=pace,
                limits=limits,
                cursors=self.cursors,
                sidecar=self._sidecar,
                room=Room(path, clock, reserve),
                log_length=length,
                moves=Moves(path, clock, length, self._mount, in_place, self._salvage, self._go_on),
            )
            undo.pop_all()
        self._closed = self._is_half_salvaged = False

    def _open(self, reserve: Reserve) -> Opened:
        """Also on a full device: SQLite makes files."""
        try:
            return self._opening.open()
        except StorageError as exc:
            if not (is_full(exc.__cause__, self._path.parent) and reserve.give_up()):
                raise
        return self._opening.open()

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._opened.connection

    @property
    def opened(self) -> Opened:
        """The store as it was opened last: a salvage opens another file."""
        return self._opened

    @property
    def catalogue(self) -> Catalogue:
        return self._opened.catalogue

    @property
    def tail(self) -> Tail:
        return self._opened.journal.tail

    @property
    def books(self) -> Books:
        return self._opened.journal.books

    def epoch_of(self, seq: int) -> int:
        """The epoch in which a row was written."""
        return schema.epoch_of(seq, self._opened.epochs)

    def _salvage(self, reason: str) -> Opened:
        """Go on with what can be read of the file, which is damaged; where that failed half way, with what it has left.
        On the writer's thread."""
        self._opened.close()
        self._names.bar = None
        if self._is_half_salvaged:
            self._readers.renew()
            self._opened = self._open(self._reserve)
        else:
            self._is_half_salvaged = True
            self._opened = self._opening.salvage(reason)
        self._renew()
        self._is_half_salvaged = False
        return self._opened

    def _renew(self) -> None:
        self._readers.renew()
        self._renew_cursors()
        self.pending_reader = PendingReader(self.catalogue)

    def _let_go(self, why: str) -> None:
        """Close all files. On the writer's thread. The readers go last: as long as there is one SQLite does not put the
        log into the file, and does not remove what has the log's name by now."""
        self._readers.barred = why
        self._names.bar = None
        self._opened.close()
        self._readers.renew()
        self._lock.release()

    def _open_again(self, durable: int) -> Opened:
        """Open them after that, as they are found. On the writer's thread."""
        self._lock.take()
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            self._sidecar.load()
            self._sidecar.note(("seq", durable))  # a file that has less than that is older than it was
            self._opened = self._opening.open()
            undo.callback(self._opened.close)
            self._renew()
            undo.pop_all()
        self._readers.barred = None
        return self._opened

    def _go_on(self, successor: Successor) -> Opened:
        """Go on in the file that has taken the place of the old one, which is left to those that read it. On the
        writer's thread, with the lock of `Names` held since the file has its name; to be called again where that
        raises `StorageError`. All else is damage: the file is to be salvaged, and nothing written to the old one."""
        old = self._opened
        self._readers.renew()
        try:
            successor.take_place(lambda: self._lock.note(GOING_ON, sync=True))
            self._opened = self._opening.go_on(old)
        except (OSError, sqlite3.Error, StorageError, *UNREADABLE) as exc:
            successor.failures += 1
            if successor.failures >= ATTEMPTS and (is_damage(exc) or is_unread(exc) or isinstance(exc, UNREADABLE)):
                self._names.bar = None
                raise
            self._names.bar = why = f"{self._path} has a new file that cannot be opened: {exc}"
            if is_full(exc, self._path.parent):
                self._reserve.give_up()
            raise StorageError(why) from exc
        self._names.bar = None
        old.journal.go_on(self._opened.connection)
        old.close()
        return self._opened

    def _renew_cursors(self) -> None:
        """Upstreams whose record is lost are added again: from the oldest reading there is, rather twice than never."""
        journal = self._opened.journal
        lost = self.cursors.lost(journal.books)

        def add(journal: Journal) -> None:
            for name, position in lost.items():
                add_cursor(journal, name, None if position.since == NEVER else position.since, now=False)
                note_choice(journal, name, position.choice)

        if lost:
            transact(self._opened.connection, journal, [add])
        self.cursors.renew(journal.books, replaying_cursors(self._opened.connection), journal.committed_seq)

    def held(self) -> list[tuple[int, int]]:
        """The row numbers that wait for somebody to know the time."""
        return self._opened.journal.shape.held()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self.writer.close()
        finally:
            if not self._mount.is_away:
                self._close()

    def _close(self) -> None:
        self._sidecar.note(("seq", self._opened.journal.committed_seq))
        state = self._lock.found
        self._lock.note("closing", sync=True)  # SQLite removes the log, and that it is gone is no damage then
        self._opened.close()
        self._names.bar = None
        self._lock.note(state if wal_of(self._path).exists() else "")
        self._lock.release()
