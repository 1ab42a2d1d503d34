"""The write-ahead log synced, where commits are not."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgedepot.storage.errors import StorageError, StoreUnusable
from edgedepot.storage.sqlite.checkpoint import checkpoint
from edgedepot.storage.sqlite.wal import wal_of


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
            self._file = os.open(wal_of(path), os.O_RDONLY | os.O_CLOEXEC)
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
        log_file = os.open(wal_of(path), os.O_RDONLY | os.O_CLOEXEC)
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
