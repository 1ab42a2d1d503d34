"""A store's write-ahead log put into its file, by SQLite's own checkpoint."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgedepot.storage.sqlite.schema import APPLICATION_ID
from edgedepot.storage.sqlite.wal import wal_of


def log_bytes(path: Path) -> int:
    """How large a store's log is."""
    try:
        return wal_of(path).stat().st_size
    except OSError:
        return 0


class Checkpoint(NamedTuple):
    """What came of one: how many frames the log has, and how many of them the file has too."""

    busy: int
    frames: int
    copied: int

    @property
    def is_whole(self) -> bool:
        """Whether all of the log is in the file."""
        return not self.busy and self.frames == self.copied


def checkpoint(connection: sqlite3.Connection, mode: str, patience: float = 0) -> Checkpoint:
    """Put the log into the file, waiting for others so many seconds at most. Raises `sqlite3.Error`."""
    with waiting(connection, patience):
        return Checkpoint(*connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone())


@contextlib.contextmanager
def waiting(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Have SQLite wait for others so long at most."""
    (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {usual}")


def cut(connection: sqlite3.Connection, patience: float = 0) -> Checkpoint:
    """The same, and have it begin again, short. There is a log at any moment: a store in the middle of its work that
    has none has lost it. SQLite's own way (``TRUNCATE``) leaves none until the next commit; what a new beginning writes
    over the log is cut to its length after that is safe, where a limit says so. Raises `sqlite3.Error`."""
    connection.execute("PRAGMA journal_size_limit = 0")
    try:
        found = checkpoint(connection, "RESTART", patience)
        if found.is_whole:
            begin_log(connection)
    finally:
        connection.execute("PRAGMA journal_size_limit = -1")
    return found


def keep_out(connection: sqlite3.Connection) -> None:
    """Have no commit put the log into the file."""
    let_in(connection, 0)


def let_in(connection: sqlite3.Connection, pages: int) -> None:
    """Have a commit put the log into the file from so many pages on."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")


def begin_log(connection: sqlite3.Connection) -> None:
    """SQLite makes the log with its first write, and writes no row that is the same as before. Raises
    `sqlite3.Error`."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
