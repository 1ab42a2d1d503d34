"""The connections by which a store is read."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from edgedepot.storage.errors import StorageClosed, StorageError
from edgedepot.storage.sqlite.connection import files_of, is_read_only, open_reader, sqlite_errors
from edgedepot.storage.sqlite.forks import Home


class Readers:
    """Read-only connections, lent to one thread at a time and kept for the next. Thread-safe."""

    _all: ClassVar[weakref.WeakSet[Readers]] = weakref.WeakSet()

    def __init__(self, path: Path, on_error: Callable[[Exception], None] | None = None) -> None:
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
            except (sqlite3.DatabaseError, MemoryError) as exc:
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
