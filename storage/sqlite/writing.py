"""What a store that writes holds beside its readers."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import ConfigError
from edgedepot.storage.reading import device_id_of
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.connection import (
    StoreLock,
    open_writer,
    prepare_writer,
    sqlite_errors,
    sync_what_was_left,
)
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.ledger import read_ledger
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.pace import Pace
from edgedepot.storage.sqlite.pending import PendingReader
from edgedepot.storage.sqlite.quarantine import replaying_cursors
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.writer import Writer

log = logging.getLogger(__name__)


class Writing:
    """The lock, the writing connection, the journal and the writer of one file. Raises what `SQLiteStorage` does."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        pace: Pace,
        limits: Limits,
        full_sync: bool,
        gateway_id: str | None,
        hold_uncertain: bool,
    ) -> None:
        self._lock = StoreLock(path)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            with sqlite_errors(path):
                self._connection = open_writer(path)
                undo.callback(self._connection.close)
                prepare_writer(self._connection, full_sync, limits.wal_pages)
                schema.prepare(self._connection, path)
                self.gateway_id = _settled_gateway_id(self._connection, path, gateway_id)
                self.store_epoch = int(str(schema.meta(self._connection, "store_epoch")))
                self.catalogue = Catalogue.load(self._connection)
                journal = Journal(self._connection, self.catalogue, clock, hold_uncertain)
                sync_what_was_left(path)
                _check_books(self._connection, path)
            undo.pop_all()
        self._journal = journal
        self.tail = journal.tail
        self.books = journal.books
        self.cursors = Cursors(journal.books, replaying_cursors(self._connection))
        self.pending_reader = PendingReader(self.catalogue)
        self.writer = Writer(self._connection, journal, path, clock, pace, limits, self.cursors, full_sync)
        self._closed = False

    def held(self) -> list[tuple[int, int]]:
        """The row numbers that wait for somebody to know the time."""
        return self._journal.shape.held()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self.writer.close()
        finally:
            self._connection.close()
            self._lock.release()


def _settled_gateway_id(connection: sqlite3.Connection, path: Path, given: str | None) -> str | None:
    stored = schema.meta(connection, "gateway_id")
    if stored is None or given is None:
        if given is not None:
            schema.set_meta(connection, "gateway_id", device_id_of(given))
        return given if stored is None else str(stored)
    if stored != given:
        raise ConfigError(
            f"{path} holds the readings of gateway {stored!r}, found gateway_id {given!r}: "
            "upstream they would mix; use a new file, or the same id"
        )
    return given


def _check_books(connection: sqlite3.Connection, path: Path) -> None:
    """Say so where the books do not balance. It takes time with the number of the journal's pieces."""
    for problem in read_ledger(View(connection, None)).problems:
        log.error("%s: the books do not balance: %s", path, problem)
