"""Opening a store to write: the checks that take no longer for a large one, before SQLite sees it (look.py) and with
SQLite, and what is done about what they find.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edgedepot.storage.clock import Clock, from_micros
from edgedepot.storage.errors import ConfigError, StoreUnusable
from edgedepot.storage.reading import device_id_of
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.aside import remove_next
from edgedepot.storage.sqlite.backup import MARK, finish_restore
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.checkpoint import begin_log, cut
from edgedepot.storage.sqlite.connection import open_writer, prepare_writer, sqlite_errors
from edgedepot.storage.sqlite.contradictions import check_gateway, contradictions, is_of_this_life, text_of
from edgedepot.storage.sqlite.holders import has_open
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.ledger import read_ledger
from edgedepot.storage.sqlite.lock import StoreLock
from edgedepot.storage.sqlite.log_note import LOOSE, SYNCED, LogNote, Noted
from edgedepot.storage.sqlite.log_sync import LogSync, sync_what_was_left
from edgedepot.storage.sqlite.look import OLDER, Look
from edgedepot.storage.sqlite.migrations import migrate
from edgedepot.storage.sqlite.readers import Readers
from edgedepot.storage.sqlite.records import BadRecord
from edgedepot.storage.sqlite.report import UNCOUNTED, Salvaged, read_report, write_report
from edgedepot.storage.sqlite.salvage import (
    Damage,
    Flaw,
    finding_damage,
    is_salvaged,
    salvage,
)
from edgedepot.storage.sqlite.shape import read_shape
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.suspicion import ATTEMPTS, Suspicion, pause
from edgedepot.storage.sqlite.tables import check_piece, check_tables
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.wal import Log, salt_of, shm_of, wal_of

log = logging.getLogger(__name__)
_UNBALANCED = "the books do not balance"
GOING_ON = "moving"
"""While a copy takes the file's place."""


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
        self._word = SYNCED if full_sync else LOOSE
        self._gateway_id = gateway_id
        self._wal_pages = wal_pages
        self._hold_uncertain = hold_uncertain
        self._look = Look(path, lock, sidecar, clock, gateway_id)
        self._aged: Salvaged | None = None
        """What this opening has said of the file's age: a salvage that follows says it as well."""

    def open(self) -> Opened:
        """Open it, and salvage it where that has to be. Raises what `SQLiteStorage` does."""
        remove_next(self._path)
        self._load_sidecar()
        self._look.log_is_whole, self._look.generation = False, None  # as far as is known yet
        self._aged = None
        self._look_from_outside()
        try:
            return self._load_patiently()
        except Damage as exc:
            if not self._look.was_a_store():
                raise StoreUnusable(f"{self._path} cannot be read as a store: {exc}") from exc
            self._salvage(Flaw(str(exc)))
        return self._load_salvaged()

    def _load_sidecar(self) -> None:
        """Where the device did not give back some of it, again."""
        for _ in range(ATTEMPTS - 1):
            if not self._sidecar.is_doubtful:
                break
            log.warning("%s cannot be read, trying again", self._sidecar.path)
            pause(self._clock)
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
            pause(self._clock)

    def _load_salvaged(self) -> Opened:
        try:
            return self._load(is_salvaged=True)
        except Damage as exc:
            raise StoreUnusable(f"{self._path} cannot be read, also after its salvage: {exc}") from exc

    def salvage(self, reason: str) -> Opened:
        """Salvage the file of an open store, whose connection is closed, and open the new one."""
        self._salvage(Flaw(reason))
        return self._load_salvaged()

    def go_on(self, opened: Opened) -> Opened:
        """Open the file that has taken the place of an open store's: with the same pages, and without a log."""
        connection = open_writer(self._path)
        try:
            prepare_writer(connection, self._full_sync, self._wal_pages)
            self._lock.hold_file()
            return self._noted(replace(opened, connection=connection), opened.journal.shape.generation)
        except BaseException:
            connection.close()
            raise

    def _salvage(self, flaw: Flaw) -> None:
        before = self._look.said if self._aged is None else [str(self._aged)]
        flaw = flaw._replace(reason="; ".join([flaw.reason, *before]))
        salvage(self._path, self._sidecar, flaw, self._clock.now())
        self._end_salvage()

    def _end_salvage(self) -> None:
        self._look.clear()
        self._look.generation = self._aged = None
        self._lock.note("", sync=True)  # the new file has no log
        self._sidecar.note(("salvaging", ""), sync=True)

    def _look_from_outside(self) -> None:
        finish_restore(self._path, self._lock, self._sidecar)
        # SQLite has looked at it already; and to close a file here would let go of the locks it has on it (`promised`).
        if Readers.has(self._path) or has_open(self._path):
            return
        if self._lock.found == GOING_ON and not wal_of(self._path).exists():
            shm_of(self._path).unlink(missing_ok=True)  # of the log that is gone; a long reader may keep it in use
        if is_salvaged(self._path, self._sidecar):
            self._end_salvage()
        try:
            flaw = self._look.patiently()
        except OSError as exc:
            raise StoreUnusable(f"{self._path} cannot be opened for writing: {exc.strerror} ({exc.filename})") from exc
        if flaw is not None:
            self._salvage(flaw)

    # -- with SQLite ----------------------------------------------------------------------------------------------

    def _load(self, *, is_salvaged: bool = False) -> Opened:
        """Once it is salvaged what the sidecar contradicts is as well as it can be made."""
        path = self._path
        self._lock.note("opening", sync=True)
        with contextlib.ExitStack() as undo:
            with sqlite_errors(path), finding_damage():
                connection = open_writer(path)
                undo.callback(connection.close)
                prepare_writer(connection, self._full_sync, self._wal_pages)
                self._lock.hold_file()
                self._prepare_schema(connection)
            with sqlite_errors(path), finding_damage():
                check_gateway(connection, self._sidecar)
                gateway_id = self._settled_gateway_id(connection)
                _check_indexes(connection)
                catalogue = Catalogue.load(connection)
                check_tables(connection, read_shape(connection), catalogue.layouts())
                log_note = LogNote(path, self._lock, self._word)
                journal = Journal(connection, catalogue, self._clock, log_note, self._hold_uncertain)
                # An older file may have gone on elsewhere, and its numbers stand for something else since.
                if not is_salvaged and (self._look.before or journal.committed_seq >= self._sidecar.seq):
                    self._check_names(connection, catalogue)
                self._check_age(connection, journal)
                catalogue.pass_over(*map(self._sidecar.last, ("model", "series", "source")))
                _check_books(connection, path, is_salvaged=is_salvaged)
                opened = self._noted(Opened(
                    connection, catalogue, journal, gateway_id, schema.known_number(connection, "store_epoch"),
                    schema.epochs(connection), read_report(connection),
                ), self._look.generation)  # fmt: skip
            undo.pop_all()
        return opened

    def _prepare_schema(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if self._sidecar.known:
            mark = connection.execute("PRAGMA application_id").fetchone()[0]
            if mark != schema.APPLICATION_ID or not schema.may_be_a_version(version):
                raise Damage("it does not bear the mark of a store")
        schema.prepare(connection, self._path)
        migrate(connection)

    def _check_names(self, connection: sqlite3.Connection, catalogue: Catalogue) -> None:
        """Raise `BadRecord` where what a number stands for has changed on the card."""
        if is_of_this_life(connection, self._sidecar):
            for known, found in contradictions(catalogue.lines(), self._sidecar):
                raise BadRecord(text_of(known, found))

    def _check_age(self, connection: sqlite3.Connection, journal: Journal) -> None:
        """Where it is an older state of the file, put back, numbers that it has given out since are not used again."""
        sidecar, last = self._sidecar, journal.committed_seq
        top = max(last, sidecar.seq)
        epoch = max(schema.known_number(connection, "store_epoch"), sidecar.store_epoch) + 1
        copied_at = schema.number(connection, MARK)
        reason: str | None = "restored from a backup"
        if copied_at is None:
            reason = self._look.before or (OLDER if last < sidecar.seq else None)
        if reason is None:
            return
        notes = (*self._look.notes, *([UNCOUNTED] if reason == OLDER else []))
        if copied_at is not None:  # a copy may come back more than once, and none of its lives knows of the others
            epoch = max(epoch, self._clock.now() // 1_000_000)
        is_another = sidecar.store_id not in (None, schema.text(connection, "store_id"))
        first = 1 if is_another else last + 1
        gone = ((first, sidecar.seq),) if sidecar.seq >= first else ()
        report = Salvaged(from_micros(self._clock.now()), reason, None, None, (), gone, notes)
        connection.execute("BEGIN IMMEDIATE")
        journal.begin()
        schema.raise_epoch(connection, epoch, top + 1)
        journal.skip_to(top)
        write_report(connection, report)
        connection.execute("DELETE FROM _meta WHERE key = ?", (MARK,))
        journal.finish()
        connection.execute("COMMIT")
        journal.committed()
        self._look.clear()
        self._aged = report
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

    def _noted(self, opened: Opened, generation: int | None) -> Opened:
        """With the generation that the file has without its log, where that is known."""
        self._note(opened, generation)
        return opened if self._full_sync else replace(opened, log_sync=LogSync(self._path))

    def _note(self, opened: Opened, generation: int | None) -> None:
        """Write down what the next opening wants to know."""
        connection = opened.connection
        if schema.text(connection, "store_id") is None:
            schema.set_meta(connection, "store_id", schema.new_id())
        if salt_of(wal_of(self._path)) is None:
            begin_log(connection)
        if not self._look.log_is_whole and Log(self._path).is_torn:
            # What a power cut tore may be of several commits that were not synced. Once it is behind commits that are,
            # it would look like damage: so the log begins anew.
            cut(connection)
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
        self._lock.note(str(Noted(self._word, salt, generation)) if salt is not None else "")


def _check_indexes(connection: sqlite3.Connection) -> None:
    """Raise `BadRecord` where an index does not fit its table: what is looked up in it would not be there."""
    for table in ("_meta", "_models", "_series", "_sources", "_cursors"):
        (text,) = connection.execute(f"PRAGMA integrity_check({table})").fetchone()
        if text != "ok":
            raise BadRecord(f"{table}: {text}")


def _check_books(connection: sqlite3.Connection, path: Path, *, is_salvaged: bool) -> None:
    """Say so where the books do not balance, and raise `BadRecord` where a salvage mends that: it finds what SQLite
    does not, and counts the rest as lost. Where it has just been done for that, the fault is another: it would be done
    again at each start. It takes time with the number of the journal's pieces."""
    view = View(connection, None)
    ledger = read_ledger(view)
    for problem in ledger.problems:
        log.error("%s: %s: %s", path, _UNBALANCED, problem)
    report = read_report(connection)
    if is_salvaged or not ledger.problems or (report is not None and _UNBALANCED in report.reason):
        return
    for piece in view.shape.pieces[:-1]:
        check_piece(connection, piece)
    for name, counts in ledger.upstreams.items():
        if sum(counts.values()) != 2 * counts["versions"]:
            raise BadRecord(f"{_UNBALANCED} for {name}")
