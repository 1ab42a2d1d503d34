"""A store's files by their names, as the next start will find them.

Another program may remove, move or replace a file that is open here: SQLite goes on in what has no name any more, and
all of it is gone with the process.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite.checkpoint import checkpoint
from edgedepot.storage.sqlite.holders import writable
from edgedepot.storage.sqlite.lock import StoreLock
from edgedepot.storage.sqlite.wal import wal_of

log = logging.getLogger(__name__)


class InPlace:
    """Of one store that is open to be written. Used on the writer's thread alone."""

    def __init__(self, path: Path, lock: StoreLock) -> None:
        self._path = path
        self._names = os.fspath(path), os.fspath(wal_of(path))  # they are looked at with each commit
        self._lock = lock
        self.renew()

    def renew(self) -> None:
        """The store was opened."""
        self._files = [_file_of(name) for name in self._names]

    def has_no_log(self) -> bool:
        """Whether the log has not its name any more. Raises `StorageError` while the file has not its own."""
        file, wal = (_file_of(name) == known for name, known in zip(self._names, self._files, strict=True))
        if file and wal:
            return False
        if not file:
            raise StorageError(
                f"{self._path} was moved or removed while it was in use: put it back where it was; "
                "what is stored in it is there as long as this process is"
            )
        return True

    def leave_log(self, connection: sqlite3.Connection) -> None:
        """Have all of it in the file, which is to be opened again by its name. Raises `StorageError` while somebody
        reads it, beside whom the next one would not begin anew, and `sqlite3.Error`. Cut to nothing it is of no use to
        those who have it open still: they would take it for the next one, and put its old pages into the file.
        """
        if not checkpoint(connection, "TRUNCATE").is_whole:
            raise StorageError(f"{self._names[1]} was removed while it was in use, and others read what is in it")
        os.fdatasync(writable(self._path))
        self._lock.note("closing", sync=True)  # that it is gone is no damage then
        log.error("%s was removed while it was in use: all that was in it is in the file now", self._names[1])


def _file_of(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino
