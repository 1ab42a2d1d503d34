"""Opening a store to write: the checks that take no longer for a large one, and what is done about what they find.

Before SQLite sees the file: is it there, is it as long as it says, is its log the one that it had, is it this store?
SQLite makes an empty file where there is none, drops a log that has no file, and reads any log over any file.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edgedepot.storage.clock import Clock, from_micros
from edgedepot.storage.errors import ConfigError, StoreUnusable
from edgedepot.storage.reading import device_id_of
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.aside import remove_next, shm_of
from edgedepot.storage.sqlite.backup import MARK, finish_restore
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.checksums import PAGE
from edgedepot.storage.sqlite.connection import (
    LogSync,
    Readers,
    StoreLock,
    open_reader,
    open_writer,
    prepare_writer,
    sqlite_errors,
    sync_what_was_left,
)
from edgedepot.storage.sqlite.holders import has_open
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.ledger import read_ledger
from edgedepot.storage.sqlite.log_length import begin_log, checkpoint
from edgedepot.storage.sqlite.records import BadRecord
from edgedepot.storage.sqlite.report import UNCOUNTED, Salvaged, read_report, write_report
from edgedepot.storage.sqlite.salvage import (
    MAGIC,
    UNREADABLE,
    Damage,
    finding_damage,
    is_salvaged,
    put_aside_log,
    salvage,
)
from edgedepot.storage.sqlite.sectors import read_file, refused
from edgedepot.storage.sqlite.shape import read_shape
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.suspicion import ATTEMPTS, PAUSE, Suspicion
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.wal import Log, pages_in_log, salt_of, wal_of

log = logging.getLogger(__name__)
_JOURNAL_MODES = (b"\2\2", b"\1\1")
"""A store has a write-ahead log, a copy has none. SQLite does not write to a file that says more."""
_SYNCED, _LOOSE = "open", "loose"
"""The lock's word for a store that is written, with each commit synced, or only now and then."""
GOING_ON = "moving"
"""While a copy takes the file's place."""
_MARK = b"CREATE TABLE _meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID"
_ROUNDS = 1 << 20
"""A log begins anew at most so often between the note of its salt and now."""


class Opened(msgspec.Struct, frozen=True):
    """A store that can be written, with all that going on with it takes: nothing of that can fail any more."""

    connection: sqlite3.Connection
    catalogue: Catalogue
    journal: Journal
    gateway_id: str | None
    store_epoch: int
    epochs: list[tuple[int, int]]
    """From which row number on which epoch holds, in order."""
    report: Salvaged | None
    """Of its last salvage."""
    log_sync: LogSync | None = None
    """Where commits are not synced one by one."""

    def close(self) -> None:
        """Idempotent."""
        if self.log_sync is not None:
            self.log_sync.close()
        self.connection.close()


class Opening:
    """One store to open; keep the lock."""

    def __init__(
        self,
        path: Path,
        lock: StoreLock,
        sidecar: Sidecar,
        clock: Clock,
        *,
        full_sync: bool,
        gateway_id: str | None,
        wal_pages: int,
        hold_uncertain: bool,
    ) -> None:
        self._path = path
        self._lock = lock
        self._sidecar = sidecar
        self._clock = clock
        self._full_sync = full_sync
        self._gateway_id = gateway_id
        self._wal_pages = wal_pages
        self._hold_uncertain = hold_uncertain
        self._before: str | None = None
        self._notes: list[str] = []
        self._log_is_whole = False

    def open(self) -> Opened:
        """Open it, and salvage it where that has to be. Raises what `SQLiteStorage` does."""
        remove_next(self._path)
        self._load_sidecar()
        self._log_is_whole = False  # as far as is known yet
        self._look_from_outside()
        try:
            return self._load_patiently()
        except Damage as exc:
            if not self._was_a_store():
                raise StoreUnusable(f"{self._path} cannot be read as a store: {exc}") from exc
            self._salvage(str(exc))
        return self._load_salvaged()

    def _load_sidecar(self) -> None:
        """Where the device did not give back some of it, again."""
        for _ in range(ATTEMPTS - 1):
            if not self._sidecar.is_doubtful:
                break
            log.warning("%s cannot be read, trying again", self._sidecar.path)
            self._pause()
            self._sidecar.load()

    def _load_patiently(self) -> Opened:
        """What the device does not give back counts as damage only when it does not some seconds later either."""
        suspicion = Suspicion()
        while True:
            try:
                return self._load()
            except Damage as exc:
                suspicion.note(exc.__cause__ or exc)
                if not self._passes(suspicion):
                    raise
                log.warning("%s could not be read for a moment: %s", self._path, exc)
                suspicion.clear()

    def _passes(self, suspicion: Suspicion) -> bool:
        while True:
            try:
                return suspicion.has_passed(self._path, self._clock.monotonic())
            except sqlite3.DatabaseError as exc:
                log.warning("%s cannot be read (%s), trying again", self._path, exc)
            self._pause()

    def _pause(self) -> None:
        pause = threading.Condition()
        with pause:
            self._clock.wait(pause, PAUSE)

    def _load_salvaged(self) -> Opened:
        try:
            return self._load()
        except Damage as exc:
            raise StoreUnusable(f"{self._path} cannot be read, also after its salvage: {exc}") from exc

    def salvage(self, reason: str) -> Opened:
        """Salvage the file of an open store, whose connection is closed, and open the new one."""
        self._salvage(reason)
        return self._load_salvaged()

    def go_on(self, opened: Opened) -> Opened:
        """Open the file that has taken the place of an open store's: with the same pages, and without a log."""
        connection = open_writer(self._path)
        try:
            prepare_writer(connection, self._full_sync, self._wal_pages)
            return self._noted(replace(opened, connection=connection))
        except BaseException:
            connection.close()
            raise

    def _salvage(self, reason: str, *, use_log: bool = True) -> None:
        found = reason if self._before is None else f"{reason}; {self._before}"
        salvage(self._path, self._sidecar, found, self._clock.now(), use_log=use_log)
        self._end_salvage()

    def _end_salvage(self) -> None:
        self._before = None
        self._lock.note("", sync=True)  # the new file has no log
        self._sidecar.note(("salvaging", ""), sync=True)

    # -- before SQLite --------------------------------------------------------------------------------------------

    def _look_from_outside(self) -> None:
        finish_restore(self._path, self._lock, self._sidecar)
        # SQLite has looked at it already; and to close a file here would let go of the locks it has on it (`promised`).
        if Readers.has(self._path) or has_open(self._path):
            return
        if self._lock.found == GOING_ON and not wal_of(self._path).exists():
            shm_of(self._path).unlink(missing_ok=True)  # of the log that is gone; a long reader may keep it in use
        if is_salvaged(self._path, self._sidecar):
            self._end_salvage()
        reason, use_log = self._look_patiently()
        if reason is not None:
            self._salvage(reason, use_log=use_log)

    def _look_patiently(self) -> tuple[str | None, bool]:
        """As `_look`. What the device does not give back counts as damage only when it does not some seconds later."""
        before = refused()
        found = self._look()
        for _ in range(ATTEMPTS - 1):
            if found[0] is None or refused() == before:
                break
            log.warning("%s cannot be read (%s), trying again", self._path, found[0])
            self._pause()
            before = refused()
            found = self._look()
        return found

    def _look(self) -> tuple[str | None, bool]:
        """What is wrong with it, None for nothing, and whether its log is to be used in a salvage."""
        reason, use_log = self._look_at_file(), True
        if reason is None and self._path.exists() and self._sidecar.store_id:
            reason = self._look_whose()
        word, _, noted = self._lock.found.partition(" ")
        # The process ended in the middle. A salvage has put the log aside.
        if word in (_SYNCED, _LOOSE) and not self._sidecar.salvaging:
            flaw, use_log = self._look_at_log(int(noted) if noted.isdigit() else None, word == _SYNCED)
            reason = reason or flaw
        return reason, use_log

    def _look_at_file(self) -> str | None:
        """What is wrong with the file, as far as SQLite need not be asked."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if self._sidecar.salvaging:
            return "its salvage was interrupted"
        if size == 0:
            if self._sidecar.known or salt_of(wal_of(self._path)) is not None:
                return "the file is empty" if self._path.exists() else "the file is missing"
            return None
        return self._flaw(size) if self._was_a_store() else None

    def _look_at_log(self, noted: int | None, is_synced: bool) -> tuple[str | None, bool]:
        """What is wrong with the log, and whether it is this store's. One that is damaged and needed no more is put
        aside: SQLite would read as much of it as it can over the newer pages in the file."""
        salt = salt_of(wal_of(self._path))
        if salt is not None and noted is not None and (salt - noted) % 2**32 >= _ROUNDS:
            return "its log is another store's", False
        found = Log(self._path)
        self._log_is_whole = not found.is_torn
        if not is_synced:
            return self._look_at_loose(found), True
        if salt is None and not found.is_copied:
            if found.missing:
                return "its log is missing", True
            self._before = "its log is missing: what was in it is lost, unless another program has put it in"
        if not found.missing:
            return None, True
        if not found.is_copied:
            pages = "a page" if found.missing == 1 else f"{found.missing} pages"
            return f"{pages} in its log cannot be read", True
        if salt is not None:
            log.warning("%s: a damaged log was put aside, all of it is in the file as well", self._path)
            put_aside_log(self._path, self._clock.now())
        return None, True

    def _look_at_loose(self, found: Log) -> str | None:
        """Where commits were not synced one by one, a power cut may leave any of those since the last sync, and SQLite
        reads on to the first that is not whole. It is damage where that comes before what is known to have been safe:
        then there is more to be read behind it."""
        last = self._last_readable() if found.goes_on else None
        if last is None or last >= self._sidecar.seq:
            return None
        return f"rows {last + 1} to {self._sidecar.seq} in its log cannot be read"

    def _last_readable(self) -> int | None:
        """The last row number that SQLite reads. A connection that only reads leaves the log as it is."""
        with contextlib.suppress(sqlite3.Error, *UNREADABLE), contextlib.closing(open_reader(self._path)) as reader:
            piece = read_shape(reader).pieces[-1]
            (last,) = reader.execute(f"SELECT max(seq) FROM {piece.table}").fetchone()
            return piece.first - 1 if last is None else int(last)
        return None

    def _flaw(self, size: int) -> str | None:
        """What is wrong with the file's head or length."""
        head = read_file(self._path, 100)
        if head[:16] != MAGIC or head[16:18] != b"\x10\0" or head[18:20] not in _JOURNAL_MODES:
            return "its header is not that of an SQLite file"
        short = range(size // PAGE + 1, int.from_bytes(head[28:32], "big") + 1)
        if short and not pages_in_log(self._path).issuperset(short):
            return f"it has {size // PAGE} pages of {short[-1]}"
        return None

    def _look_whose(self) -> str | None:
        """Where the file is another store's: go on with that, or without it where it is of another gateway."""
        found = schema.settings_of(self._path)
        if found.get("store_id") in (None, self._sidecar.store_id):
            return None
        theirs, own = found.get("gateway_id"), self._sidecar.gateway_id
        if theirs is not None and own is not None and theirs != own == (self._gateway_id or own):
            self._path.rename(self._path.with_name(f"{self._path.name}.of-{found['store_id']}"))
            return f"the file was that of another gateway's store, {theirs}"
        if salt_of(wal_of(self._path)) is not None:
            aside = put_aside_log(self._path, self._clock.now())
            self._notes.append(f"the log of the store that was here is {aside.name}")
        self._notes.append(UNCOUNTED)
        self._lock.note("")
        self._lock.found = ""
        self._before = "the file is another store's than before"
        return None

    def _was_a_store(self) -> bool:
        if self._sidecar.known or Readers.has(self._path):
            return True
        for path in (self._path, wal_of(self._path)):
            head = read_file(path, 1 << 18)
            if (head[:16] == MAGIC and head[68:72] == schema.APPLICATION_ID.to_bytes(4, "big")) or _MARK in head:
                return True
        return False

    # -- with SQLite ----------------------------------------------------------------------------------------------

    def _load(self) -> Opened:
        path = self._path
        self._lock.note("opening", sync=True)
        with contextlib.ExitStack() as undo:
            with sqlite_errors(path), finding_damage():
                connection = open_writer(path)
                undo.callback(connection.close)
                prepare_writer(connection, self._full_sync, self._wal_pages)
                self._prepare_schema(connection)
            with sqlite_errors(path), finding_damage():
                gateway_id = self._settled_gateway_id(connection)
                _check_tables(connection)
                catalogue = Catalogue.load(connection)
                journal = Journal(connection, catalogue, self._clock, self._hold_uncertain)
                self._check_age(connection, journal)
                _check_books(connection, path)
                opened = self._noted(Opened(
                    connection, catalogue, journal, gateway_id, schema.known_number(connection, "store_epoch"),
                    schema.epochs(connection), read_report(connection),
                ))  # fmt: skip
            undo.pop_all()
        return opened

    def _prepare_schema(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if self._sidecar.known:
            mark = connection.execute("PRAGMA application_id").fetchone()[0]
            if mark != schema.APPLICATION_ID or not schema.may_be_a_version(version):
                raise Damage("it does not bear the mark of a store")
        schema.prepare(connection, self._path)

    def _check_age(self, connection: sqlite3.Connection, journal: Journal) -> None:
        """An older state of the file, put back by hand: numbers it has given out since must not be used again."""
        sidecar, last = self._sidecar, journal.committed_seq
        top = max(last, sidecar.seq)
        epoch = max(schema.known_number(connection, "store_epoch"), sidecar.store_epoch) + 1
        copied_at = schema.number(connection, MARK)
        reason: str | None = "restored from a backup"
        if copied_at is None:
            reason = self._before or ("the file is older than it was" if last < sidecar.seq else None)
        if reason is None:
            return
        if copied_at is not None:  # a copy may come back more than once, and none of its lives knows of the others
            epoch = max(epoch, self._clock.now() // 1_000_000)
        is_another = sidecar.store_id not in (None, schema.text(connection, "store_id"))
        first = 1 if is_another else last + 1
        gone = ((first, sidecar.seq),) if sidecar.seq >= first else ()
        report = Salvaged(from_micros(self._clock.now()), reason, None, None, (), gone, tuple(self._notes))
        connection.execute("BEGIN IMMEDIATE")
        journal.begin()
        schema.raise_epoch(connection, epoch, top + 1)
        journal.skip_to(top)
        write_report(connection, report)
        connection.execute("DELETE FROM _meta WHERE key = ?", (MARK,))
        connection.execute("COMMIT")
        self._before, self._notes = None, []
        if is_another:
            sidecar.forget()
        log.log(logging.ERROR if copied_at is None else logging.WARNING, "%s: %s", self._path, report)

    def _settled_gateway_id(self, connection: sqlite3.Connection) -> str | None:
        given = self._gateway_id
        stored = schema.text(connection, "gateway_id")
        if stored is None and given is not None:
            schema.set_meta(connection, "gateway_id", device_id_of(given))
        if stored is None or given is None:
            return stored or given
        if stored != given:
            raise ConfigError(
                f"{self._path} holds the readings of gateway {stored!r}, found gateway_id {given!r}: "
                "upstream they would mix; use a new file, or the same id"
            )
        return given

    def _noted(self, opened: Opened) -> Opened:
        self._note(opened)
        return opened if self._full_sync else replace(opened, log_sync=LogSync(self._path))

    def _note(self, opened: Opened) -> None:
        """Write down what the next opening wants to know."""
        connection = opened.connection
        if schema.text(connection, "store_id") is None:
            schema.set_meta(connection, "store_id", schema.new_id())
        if salt_of(wal_of(self._path)) is None:
            begin_log(connection)
        if not self._log_is_whole and Log(self._path).is_torn:
            # What a power cut tore may be of several commits that were not synced. Once it is behind commits that are,
            # it would look like damage: so the log begins anew.
            checkpoint(connection, "TRUNCATE")
        sync_what_was_left(self._path)
        sidecar = self._sidecar
        known = sidecar.known
        lines = [
            ("store_id", str(schema.text(connection, "store_id"))),
            ("epoch", max(opened.store_epoch, sidecar.store_epoch)),
            ("seq", max(opened.journal.committed_seq, sidecar.seq)),
            *opened.catalogue.lines(),
        ]
        if opened.gateway_id is not None:
            lines.append(("gateway_id", opened.gateway_id))
        sidecar.note(*lines)
        if not known or sidecar.grown:
            sidecar.write()
        salt = salt_of(wal_of(self._path))
        self._lock.note(f"{_SYNCED if self._full_sync else _LOOSE} {salt}" if salt is not None else "")


def _check_tables(connection: sqlite3.Connection) -> None:
    """Raise `BadRecord` where there are readings, but no record of the tables that they are in; and where an index does
    not fit its table: what is looked up in it would not be there."""
    if schema.text(connection, "shape") is None:
        found = connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB '_[jh]_*' AND type = 'table'")
        if found.fetchone() is not None:
            raise BadRecord("the record of the tables is missing")
    for table in ("_meta", "_models", "_series", "_sources", "_cursors"):
        (text,) = connection.execute(f"PRAGMA integrity_check({table})").fetchone()
        if text != "ok":
            raise BadRecord(f"{table}: {text}")


def _check_books(connection: sqlite3.Connection, path: Path) -> None:
    """Say so where the books do not balance. It takes time with the number of the journal's pieces."""
    for problem in read_ledger(View(connection, None)).problems:
        log.error("%s: the books do not balance: %s", path, problem)
