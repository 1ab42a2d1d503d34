"""A store's files as they lie there, before SQLite sees them: is the file there, is it as long as it says, is its log
the one that it had, is it this store?

SQLite makes an empty file where there is none, drops a log that has no file, and reads any log over any file. What is
found here takes no longer for a large store; with a log it takes time with its length.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from edgedepot.storage.clock import Clock
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.checksums import PAGE
from edgedepot.storage.sqlite.connection import open_reader
from edgedepot.storage.sqlite.lock import StoreLock
from edgedepot.storage.sqlite.log_note import LOOSE, SYNCED, Noted, parsed
from edgedepot.storage.sqlite.readers import Readers
from edgedepot.storage.sqlite.report import UNCOUNTED
from edgedepot.storage.sqlite.salvage import MAGIC, UNREADABLE, Flaw, interrupted, put_aside_log
from edgedepot.storage.sqlite.sectors import read_file, refused
from edgedepot.storage.sqlite.shape import read_shape, shape_of
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.suspicion import ATTEMPTS, pause
from edgedepot.storage.sqlite.wal import Log, pages_in_log, salt_of, wal_of

log = logging.getLogger(__name__)
OLDER = "the file is older than it was"
_JOURNAL_MODES = (b"\2\2", b"\1\1")
"""A store has a write-ahead log, a copy has none. SQLite does not write to a file that says more."""
_MARK = b"CREATE TABLE _meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID"


class Look:
    """At one store, whose lock is held; nobody here may have it open. Raises `OSError`, and
    `StoreUnusable` where a newer program wrote it."""

    def __init__(self, path: Path, lock: StoreLock, sidecar: Sidecar, clock: Clock, gateway_id: str | None) -> None:
        self.before: str | None = None
        """What came to light that is no damage of what there is now."""
        self.notes: list[str] = []
        """What else is to be said of that."""
        self.log_is_whole = False
        """As far as that is known."""
        self.generation: int | None = None
        """Of the tables' record in the file alone, None where that is not known."""
        self._path = path
        self._lock = lock
        self._sidecar = sidecar
        self._clock = clock
        self._gateway_id = gateway_id

    @property
    def said(self) -> list[str]:
        """All that came to light beside damage."""
        return [*([] if self.before is None else [self.before]), *self.notes]

    def clear(self) -> None:
        """It is in a report."""
        self.before, self.notes = None, []

    def patiently(self) -> Flaw | None:
        """As `once`. What the device does not give back counts as damage only when it does not some seconds later."""
        before = refused()
        found = self.once()
        for _ in range(ATTEMPTS - 1):
            if found is None or refused() == before:
                break
            log.warning("%s cannot be read (%s), trying again", self._path, found.reason)
            pause(self._clock)
            before = refused()
            found = self.once()
        return found

    def once(self) -> Flaw | None:
        """Look at the file and its log."""
        self.generation = None
        if self._sidecar.salvaging:
            return interrupted(self._sidecar)
        reason = self._look_at_file()
        if reason is None and self._path.exists() and self._sidecar.store_id:
            reason = self._look_into_file()
        noted = parsed(self._lock.found)
        flaw = self._look_at_log(noted) if noted.word in (SYNCED, LOOSE) else None  # the process ended in the middle
        if reason is None or flaw is None:
            return flaw if reason is None else Flaw(reason)
        return flaw._replace(reason=reason)

    def _look_at_file(self) -> str | None:
        """What is wrong with the file, as far as SQLite need not be asked."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size == 0:
            if self._sidecar.known or salt_of(wal_of(self._path)) is not None:
                return "the file is empty" if self._path.exists() else "the file is missing"
            return None
        schema.check_head(read_file(self._path, 100), self._path)
        return self._flaw(size) if self.was_a_store() else None

    def _look_at_log(self, noted: Noted) -> Flaw | None:
        """What is wrong with the log. One that is damaged and needed no more is put
        aside: SQLite would read as much of it as it can over the newer pages in the file."""
        found = Log(self._path)
        salt = found.salt
        if salt is not None and noted.salt is not None and not noted.may_be(salt):
            if not self._are_earlier(noted, salt):
                return Flaw("its log is another store's", use_log=False)
            self.before = OLDER
        if salt is not None and salt == noted.salt and self._is_older(noted):
            return Flaw("its file is older than its log", fit=False)
        self.log_is_whole = not found.is_torn
        if noted.word == LOOSE:
            return self._look_at_loose(found)
        if salt is None and not (found.has_commits or found.is_copied):
            if found.missing:
                return Flaw("its log is missing")
            if noted.salt is None:  # it was begun, and nothing of it promised yet
                return None
            self.before = "its log is missing: what was in it is lost, unless another program has put it in"
        if not found.missing:
            return None
        if not found.is_copied:
            pages = "a page" if found.missing == 1 else f"{found.missing} pages"
            return Flaw(f"{pages} in its log cannot be read")
        if salt is not None:
            log.warning("%s: a damaged log was put aside, all of it is in the file as well", self._path)
            put_aside_log(self._path, self._clock.now())
        return None

    def _is_older(self, noted: Noted) -> bool:
        """Whether the file is not even as it was when its log began."""
        return self.generation is not None and noted.generation is not None and self.generation < noted.generation

    def _are_earlier(self, noted: Noted, salt: int) -> bool:
        """Whether file and log are both of one earlier moment, put back together. The log of another file does not make
        its record of the tables a later one."""
        if not noted.was(salt):
            return False
        with contextlib.suppress(sqlite3.Error, *UNREADABLE), contextlib.closing(open_reader(self._path)) as reader:
            is_ours = schema.text(reader, "store_id") == self._sidecar.store_id
            return is_ours and (self.generation is None or read_shape(reader).generation > self.generation)
        return False

    def _look_at_loose(self, found: Log) -> Flaw | None:
        """Where commits were not synced one by one, a power cut may leave any of those since the last sync, and SQLite
        reads on to the first that is not whole. It is damage where that comes before what is known to have been safe:
        then there is more to be read behind it."""
        last = self._last_readable() if found.goes_on else None
        if last is None or last >= self._sidecar.seq:
            return None
        return Flaw(f"rows {last + 1} to {self._sidecar.seq} in its log cannot be read")

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

    def _look_into_file(self) -> str | None:
        """Without its log. Where it is another store's: go on with that, or without it where it is of another
        gateway."""
        found = schema.settings_of(self._path)
        shape = shape_of(found.get("shape"))
        self.generation = None if shape is None else shape.generation
        if found.get("store_id") in (None, self._sidecar.store_id):
            return None
        if _differ_by_one(str(found["store_id"]), self._sidecar.store_id or ""):
            return "the store's own mark has changed"
        theirs, own = found.get("gateway_id"), self._sidecar.gateway_id
        if theirs is not None and own is not None and theirs != own == (self._gateway_id or own):
            self._path.rename(self._path.with_name(f"{self._path.name}.of-{found['store_id']}"))
            return f"the file was that of another gateway's store, {theirs}"
        if salt_of(wal_of(self._path)) is not None:
            aside = put_aside_log(self._path, self._clock.now())
            self.notes.append(f"the log of the store that was here is {aside.name}")
        self.notes.append(UNCOUNTED)
        self._lock.note("")
        self.before = "the file is another store's than before"
        return None

    def was_a_store(self) -> bool:
        if self._sidecar.known or Readers.has(self._path):
            return True
        for path in (self._path, wal_of(self._path)):
            head = read_file(path, 1 << 18)
            if (head[:16] == MAGIC and head[68:72] == schema.APPLICATION_ID.to_bytes(4, "big")) or _MARK in head:
                return True
        return False


def _differ_by_one(one: str, other: str) -> bool:
    """Whether a single character has changed: the marks of two stores are never so much alike."""
    return len(one) == len(other) and sum(map(str.__ne__, one, other)) == 1
