"""Opening the store's file: pragmas, the lock against a second writer, and SQLite's errors on our tree."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from edgedepot.storage.errors import StorageClosed, StorageError, StorageLocked, StoreUnusable
from edgedepot.storage.sqlite.checkpoint import checkpoint, let_in
from edgedepot.storage.sqlite.claim import claim, claimant, end_claim
from edgedepot.storage.sqlite.digest import prepare_digests
from edgedepot.storage.sqlite.files import check_files, why_no_more
from edgedepot.storage.sqlite.forks import Connection, Home
from edgedepot.storage.sqlite.holders import openers
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.reserve import is_full

log = logging.getLogger(__name__)
_BUSY_SECONDS = 10.0
WAL_PAGES = 4500
"""With so many pages (18 MB) the log goes into the file and begins anew. The longer it is, the less is written to the
card: a page goes into the file once in that time, however often it changed. (Commits of each second and each 10 seconds
took 617 and 289 bytes a reading, and with 4,000 pages 621 and 294.) It costs that much room on the device, half as much
again for the reserve, and opening after a crash reads it."""
_LOCK_BYTES = 64


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """The one place where SQLite's errors become ours."""
    try:
        yield
    except UnicodeDecodeError as exc:  # an error of SQLite's that quotes what is no text
        raise StoreUnusable(f"{path} cannot be read as a store: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        code = code_of(exc) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise StoreUnusable(f"{path} cannot be read as a store: {exc}") from exc
        if code == sqlite3.SQLITE_CANTOPEN and path.is_dir():
            raise StoreUnusable(f"{path} is a folder, expected a store's file") from exc
        if is_full(exc, path.parent):
            full = "its device takes no more files" if code == sqlite3.SQLITE_CANTOPEN else "database or disk is full"
            raise StorageError(f"{path}: {full}") from exc
        if code == sqlite3.SQLITE_CANTOPEN:
            raise StoreUnusable(f"{path} cannot be opened: no such file, or no right to use it or its folder") from exc
        if code_of(exc) == sqlite3.SQLITE_READONLY_DIRECTORY:
            raise StoreUnusable(
                f"{path}: its folder cannot be written, where SQLite keeps files also to read: copy it to one that can"
            ) from exc
        raise StorageError(f"{path}: {exc}") from exc


def code_of(exc: BaseException) -> int:
    """SQLite's extended error code; 0 for what is no error of SQLite. Python's module gives none for a text in the file
    that is not UTF-8."""
    undecodable = sqlite3.SQLITE_CORRUPT if isinstance(exc, sqlite3.OperationalError) else 0
    return int(getattr(exc, "sqlite_errorcode", undecodable))


def is_damage(exc: BaseException) -> bool:
    """Whether an error of SQLite lies in the file's structure, or in a record that names tables or columns that are not
    there. Full disks and locks do not."""
    code = code_of(exc)
    if code == sqlite3.SQLITE_ERROR:
        return any(words in str(exc) for words in ("no such table", "no such column", "has no column named"))
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unread(exc: BaseException) -> bool:
    """Whether the device did not give something back: for good, or a cable or a controller is well again soon."""
    return code_of(exc) in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)


def why_refused(path: Path) -> str | None:
    """What the device itself says to a write, None where it takes one: SQLite says no more than "disk I/O error"."""
    try:
        file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(file, os.pread(file, _LOCK_BYTES, 0), 0)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as exc:
        return exc.strerror
    more = why_no_more(path.parent)
    return None if more is None else more.strerror


def open_writer(path: Path) -> sqlite3.Connection:
    """A connection that may write, yet to be prepared. One does, but for a long log that goes into the file."""
    return Connection(path, timeout=_BUSY_SECONDS)


def reading_uri(path: Path) -> str:
    """What `sqlite3.connect` takes to read a store. Where there is no log SQLite would make one, with its index: on a
    file system that is read-only it has to be told that there is nothing but the file."""
    alone = is_read_only(path) and not path.with_name(path.name + "-wal").exists()
    return path.absolute().as_uri() + ("?mode=ro&immutable=1" if alone else "?mode=ro")


def is_read_only(path: Path) -> bool:
    """Whether a file's file system is mounted read-only. Others may have it writable all the same, in containers."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, for one thread at a time. It has read already: SQLite opens the log with the
    first query, and the file may be another by then (see successor.py): while that is half done it raises
    `StorageError`."""
    check_files(path)
    names = names_of(path)
    while True:
        with names.lock:
            if names.bar is not None:
                raise StorageError(names.bar)
            before = files_of(path)
            connection = _connected(path)
            if files_of(path)[0] == before[0]:
                return connection
            connection.close()


def _connected(path: Path) -> sqlite3.Connection:
    connection = Connection(path, reading_uri(path), timeout=_BUSY_SECONDS)
    try:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA schema_version").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def files_of(path: Path) -> tuple[int, int]:
    """Which file a store is, and which its log: no file that is open shares its number with another. 0 for none."""
    return _number_of(path), _number_of(path.with_name(path.name + "-wal"))


def _number_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def prepare_writer(connection: sqlite3.Connection, full_sync: bool, wal_pages: int = WAL_PAGES) -> None:
    """Set the writing connection up. With `full_sync` a commit is on the device when it returns. The WAL goes into the
    file when it has `wal_pages`."""
    prepare_digests(connection)
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
    # Debian builds SQLite with secure_delete on, which writes every page that is let go of.
    connection.execute("PRAGMA secure_delete = OFF")
    # A checkpoint writes a page once however often it changed since the last: journal pages that were let go of and
    # used again cost nothing. It is also what opening after a crash has to read.
    let_in(connection, wal_pages)
    connection.execute("PRAGMA temp_store = MEMORY")  # the fold sorts; its files would lie on the same card
    # What a fold goes through in the order of series lies in the order of arrival: all of it has to fit.
    connection.execute("PRAGMA cache_size = -4000")
    _check_writable(connection)


def _check_writable(connection: sqlite3.Connection) -> None:
    """SQLite opens a file to read alone that it cannot open to write, without a word: no commit would ever succeed.
    Raises `sqlite3.OperationalError`."""
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as exc:
        if code_of(exc) & 0xFF != sqlite3.SQLITE_BUSY:  # another program writes: so it can be written
            raise
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")


class LogSync:
    """Puts what is committed on the device, where a commit does not.

    After a sync that failed the kernel takes the pages for written, and the next one succeeds without them
    (https://lwn.net/Articles/752063/). So what was committed is written once more then: into the file, by a checkpoint.
    One descriptor throughout is told of every failure, also of one that a checkpoint of SQLite's own ran into.
    """

    def __init__(self, path: Path) -> None:
        """Raises `StoreUnusable`."""
        self._path = path
        with _opening_log(path):
            self._file = os.open(path.with_name(path.name + "-wal"), os.O_RDONLY | os.O_CLOEXEC)
        self.has_failed = False
        """Whether what is committed has to be in the file before it is on the device."""

    def sync(self, connection: sqlite3.Connection) -> None:
        """Raises `OSError`, `sqlite3.Error`, and `StorageError` while a reader is in the way of a checkpoint."""
        if not self.has_failed:
            try:
                os.fdatasync(self._file)
            except OSError:
                self.has_failed = True
                raise
            return
        if not checkpoint(connection, "FULL").is_whole:
            raise StorageError(f"{self._path}: its log could not be synced, and a reader keeps it out of the file")
        self.has_failed = False

    def close(self) -> None:
        """Idempotent."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def sync_what_was_left(path: Path) -> None:
    """At opening: what a killed process committed is read like all the rest, and the device may have nothing of it."""
    with _opening_log(path):
        log_file = os.open(path.with_name(path.name + "-wal"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(log_file)
        finally:
            os.close(log_file)


@contextlib.contextmanager
def _opening_log(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreUnusable(f"{path} cannot be opened for writing: {exc.strerror} ({path}-wal)") from exc


class Readers:
    """Read-only connections, lent to one thread at a time and kept for the next. Thread-safe."""

    _all: ClassVar[weakref.WeakSet[Readers]] = weakref.WeakSet()

    def __init__(self, path: Path, on_error: Callable[[sqlite3.DatabaseError], None] | None = None) -> None:
        self._path = path
        self._home = Home(path)
        self._on_error = on_error
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._retired: set[sqlite3.Connection] = set()
        self._lent: set[sqlite3.Connection] = set()
        self.barred: str | None = None
        """Why there is nothing to read for now, if that is so."""
        self._files = (0, 0)
        self._renewals = 0
        self._closed = False
        self._all.add(self)

    @classmethod
    def has(cls, path: Path) -> bool:
        """Whether this process has connections to that store."""
        path = path.absolute()
        return any(one._path.absolute() == path and one._has_open() for one in list(cls._all))

    def _has_open(self) -> bool:
        with self._lock:
            return bool(self._idle or self._lent - self._retired)

    @contextlib.contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one read transaction: all that is read through it belongs together."""
        with sqlite_errors(self._path):
            connection: sqlite3.Connection | None = None
            try:
                connection = self._take()
                connection.execute("BEGIN")
                yield connection
            except sqlite3.DatabaseError as exc:
                if self._on_error is not None and connection not in self._retired:
                    self._on_error(exc)
                raise
            finally:
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):  # where BEGIN itself failed
                        connection.execute("ROLLBACK")
                    self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        self._home.check()
        self._look()
        with self._lock:
            if self._closed:
                raise StorageClosed(f"{self._path} was closed")
            if self.barred is not None:
                raise StorageError(self.barred)
            if self._idle:
                connection = self._idle.pop()
                self._lent.add(connection)
                return connection
            renewals = self._renewals
        connection = open_reader(self._path)
        with self._lock:
            self._lent.add(connection)
            if renewals != self._renewals:  # it may be to the file before
                self._retired.add(connection)
        return connection

    def _look(self) -> None:
        """Where the process that writes has gone on in another file, so do we."""
        (file, log_file), found = self._files, files_of(self._path)
        self._files = found
        if found != (file, log_file or found[1]):  # where there was no log a reader makes one
            self.renew()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._lent.discard(connection)
            # On a read-only file system it may be of a file whose log it does not know of by the next time.
            is_kept = not self._closed and not is_read_only(self._path)
            if is_kept and connection not in self._retired:
                self._idle.append(connection)
                return
            self._retired.discard(connection)
        connection.close()

    def renew(self) -> None:
        """The file is another from now on: connections to the old one are lent no more."""
        with self._lock:
            self._renewals += 1
            self._retired |= self._lent
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class StoreLock:
    """Keeps a second process from writing one store. The kernel lets go of it when the holder dies."""

    _all: ClassVar[weakref.WeakSet[StoreLock]] = weakref.WeakSet()

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._store = path
        self._claimed: os.stat_result | None = None
        self.take()
        self._all.add(self)

    def take(self) -> None:
        """Take it, also again after `release`. Raises `StoreUnusable` and `StorageLocked`."""
        path = self._store
        check_files(path, to_write=True)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StoreUnusable(f"{path} cannot be opened for writing: {exc.strerror} ({self.path})") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            here = self._read()[0] == str(os.getpid())
            holder = self._holder()
            self.release()
            cure = ", which is this one; use the object that has it open" if here else "; stop it first"
            raise StorageLocked(f"{path} is being written by {holder}{cure}, or open the store read-only") from exc
        self._look_by_other_names()
        self.found = self._read()[1]
        """What was noted last; at first by the last holder: "" where it closed the store for good."""
        self.note(self.found)

    def _look_by_other_names(self) -> None:
        """The file may have one by which this lock is not found."""
        process = os.getpid() if any(one._has(self._store) for one in list(self._all)) else claimant(self._store)
        if process is not None:
            self.release()
            raise self._refusal(process)

    def _has(self, path: Path) -> bool:
        """Whether this is the lock of that file."""
        with contextlib.suppress(OSError):
            return self._file >= 0 and self._store != path and self._store.samefile(path)
        return False

    def _refusal(self, process: int) -> StorageLocked:
        holder = f"process {process}" if process else "a process in another container"
        cure = "use the object that has it open" if process == os.getpid() else "stop it first"
        return StorageLocked(f"{self._store} is being written under another name by {holder}; {cure}")

    def hold_file(self) -> None:
        """Keep others from it by its other names too, once SQLite has it open to write. Raises `StorageLocked`."""
        if not claim(self._store):
            raise self._refusal(claimant(self._store) or 0)
        with contextlib.suppress(OSError):
            self._claimed = self._store.stat()

    def _holder(self) -> str:
        """Who has it: who says so, or a child of that which outlives it."""
        number = self._read()[0]
        named = f"process {number or 'unknown'}"
        is_there = number.isdigit() and Path("/proc", number).exists()
        return named if is_there else ", ".join(openers(os.fstat(self._file))) or named

    def _read(self) -> list[str]:
        lines = os.pread(self._file, _LOCK_BYTES, 0).decode("ascii", "replace").split("\n")
        return [line.strip() for line in (*lines, "", "")[:2]]

    def note(self, text: str, *, sync: bool = False) -> None:
        """Leave a word for the next holder. Always of one size: that works on a full disk too."""
        self.found = text
        line = f"{os.getpid():<10}\n{text[: _LOCK_BYTES - 12]:<{_LOCK_BYTES - 12}}\n".encode()
        try:
            os.pwrite(self._file, line, 0)
            if sync:
                os.fsync(self._file)
        except OSError as exc:
            log.warning("%s cannot be written, the store does without: %s", self.path, exc)

    def release(self) -> None:
        """Idempotent."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            end_claim(claimed)
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    @classmethod
    def _forked(cls) -> None:
        """In the child: it would have the lock for as long as it lives."""
        for lock in list(cls._all):
            lock.release()


os.register_at_fork(after_in_child=StoreLock._forked)


def writing_process(path: Path) -> int | None:
    """The process that has the store open for writing, None where there is none."""
    lock = path.with_name(path.name + ".lock")
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        text = lock.read_bytes().split(b"\n")[0].strip()
        return int(text) if text.isdigit() else None
    except OSError:
        return None
