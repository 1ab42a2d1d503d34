"""Connections to a store's file: how they are opened and set up, and SQLite's errors on our tree."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgedepot.storage.errors import StorageError, StoreUnusable
from edgedepot.storage.sqlite.checkpoint import let_in, waiting
from edgedepot.storage.sqlite.digest import prepare_digests
from edgedepot.storage.sqlite.files import check_files
from edgedepot.storage.sqlite.forks import Connection
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.reserve import is_full
from edgedepot.storage.sqlite.wal import wal_of

_BUSY_SECONDS = 10.0
WAL_PAGES = 4500
"""With so many pages (18 MB) the log goes into the file and begins anew. The longer it is, the less is written to the
card: a page goes into the file once in that time, however often it changed. (Commits of each second and each 10 seconds
took 617 and 289 bytes a reading, and with 4,000 pages 621 and 294.) It costs that much room on the device, half as much
again for the reserve, and opening after a crash reads it."""


_CONTRADICTIONS = (
    "no such table", "no such column", "has no column named", "already exists", "there is already an index named"
)  # fmt: skip


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """The one place where SQLite's errors become ours."""
    try:
        yield
    except UnicodeDecodeError as exc:  # an error of SQLite's that quotes what is no text
        raise StoreUnusable(f"{path} cannot be read as a store: {exc}") from exc
    except MemoryError as exc:  # a row that claims to be as large
        raise StoreUnusable(f"{path} cannot be read as a store: SQLite finds no memory for what is in it") from exc
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
    there, or does not name those that are. Full disks and locks do not."""
    code = code_of(exc)
    if code == sqlite3.SQLITE_ERROR:
        return any(words in str(exc) for words in _CONTRADICTIONS)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unread(exc: BaseException) -> bool:
    """Whether the device did not give something back: for good, or a cable or a controller is well again soon."""
    return code_of(exc) in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)


def open_writer(path: Path) -> sqlite3.Connection:
    """A connection that may write, yet to be prepared. One does, but for a long log that goes into the file."""
    return Connection(path, timeout=_BUSY_SECONDS)


def reading_uri(path: Path) -> str:
    """What `sqlite3.connect` takes to read a store. Where there is no log SQLite would make one, with its index: on a
    file system that is read-only it has to be told that there is nothing but the file."""
    alone = is_read_only(path) and not wal_of(path).exists()
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
    return _number_of(path), _number_of(wal_of(path))


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
    with waiting(connection, 0):
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as exc:
            if code_of(exc) & 0xFF != sqlite3.SQLITE_BUSY:  # another program writes: so it can be written
                raise
