"""Room on the device: what is done when there is none, and what keeps the write-ahead log short.

    full     the log goes into the file and is written from its start again, with the reserve's room where the file has
             to grow for it. What room there is then is shared between the log and the reserve, and the file grows no
             more: readings are stored as long as it has pages to use again. What frees such pages (deletions,
             retention) has the reserve's room. When there is room again, all is as it was.
    a reader the log cannot begin again while a reader sees an old state. Where it has become four times as long as it
             should be, whoever reads is named; when they have ended it is cut.

Used on the writer's thread alone, but for `warning`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgedepot.storage.clock import Clock
from edgedepot.storage.sqlite.holders import holders
from edgedepot.storage.sqlite.reserve import Reserve, is_full
from edgedepot.storage.sqlite.wal import PAGE, wal_of

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
SHORTEN_SECONDS = 10.0
TAKE_SECONDS = 60.0
_TOO_LONG = 4
"""The log is too long when it is so many times what it should be."""
_NO_CAP = 2**30
_CAP = 1
"""SQLite takes the pages that there are for it."""


class Room:
    """`warning` says who keeps the log from beginning again, None while it is no longer than it should be."""

    def __init__(self, path: Path, clock: Clock, reserve: Reserve) -> None:
        self.warning: str | None = None
        self._wal = wal_of(path)
        self._path = path
        self._clock = clock
        self._reserve = reserve
        self._longest = _TOO_LONG * reserve.wal_pages * PAGE
        self._look_at = clock.monotonic()
        self._take_at = clock.monotonic() + TAKE_SECONDS
        self._has_reserve = False
        self._is_capped = False

    # -- a full device --------------------------------------------------------------------------------------------

    def make(self, connection: sqlite3.Connection) -> None:
        """Have the log begin again. Raises `sqlite3.Error` where not even the reserve suffices."""
        if self._lift(connection):
            return
        try:
            checkpoint(connection, "PASSIVE")
        except sqlite3.Error as exc:
            if not (is_full(exc) and self._reserve.give_up()):
                raise
            checkpoint(connection, "PASSIVE")
        self._share(connection)

    @contextlib.contextmanager
    def lent(self, connection: sqlite3.Connection) -> Iterator[None]:
        """With the reserve's room, for what frees more than it takes."""
        self._reserve.give_up()
        if self._is_capped:
            self._cap(connection, _NO_CAP)
        try:
            yield
            checkpoint(connection, "PASSIVE")
        finally:
            self._share(connection)

    def _shared(self) -> int:
        """The room that there is, for the log, the reserve, and the file to grow."""
        return self._reserve.free + self._reserve.held + self._log_bytes()

    def _share(self, connection: sqlite3.Connection) -> None:
        """Take the reserve again before readings take its room."""
        shared = self._shared()
        if shared < 2 * self._reserve.size:
            self._cap(connection, _CAP)
        wanted = min(self._reserve.size, shared // 2)
        if self._reserve.free + self._reserve.held < wanted:
            with contextlib.suppress(sqlite3.Error):
                checkpoint(connection, "TRUNCATE")
        self._has_reserve = self._reserve.take(wanted) and wanted == self._reserve.size

    def _lift(self, connection: sqlite3.Connection) -> bool:
        """Let the file grow again where there is room; whether it may from now on."""
        if not self._is_capped or self._shared() < 2 * self._reserve.size:
            return False
        self._cap(connection, _NO_CAP)
        return True

    def _cap(self, connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")
        self._is_capped = pages == _CAP

    def renew(self) -> None:
        """The connection is another from now on."""
        self._is_capped = False

    # -- now and then ---------------------------------------------------------------------------------------------

    def look(self, connection: sqlite3.Connection) -> None:
        """After commits: the reserve is taken where it is missing, and the log's length seen to."""
        now = self._clock.monotonic()
        self._lift(connection)
        if now >= self._take_at:
            self._take_at = now + TAKE_SECONDS
            self._has_reserve = self._reserve.take_where_roomy()
        if now >= self._look_at:
            is_long = self.warning is not None or self._log_bytes() > self._longest
            self._look_at = now + (SHORTEN_SECONDS if is_long else LOOK_SECONDS)
            if is_long:
                self._shorten(connection)

    @property
    def due_at(self) -> float | None:
        """When to look again though nothing is written; None while that need not be."""
        times = ([] if self.warning is None else [self._look_at]) + ([] if self._has_reserve else [self._take_at])
        return min(times, default=None)

    def _shorten(self, connection: sqlite3.Connection) -> None:
        if checkpoint(connection, "TRUNCATE"):
            if self.warning is not None:
                log.warning("%s: its write-ahead log is short again", self._path)
            self.warning = None
            return
        names = ", ".join(holders(self._path)) or "a process that cannot be seen from here"
        size = f"{self._log_bytes() / 1e6:.0f} MB"
        held = f"the write-ahead log has grown to {size}: {names} has been reading for long and keeps it from being cut"
        if self.warning is None:
            log.warning("%s: %s", self._path, held)
        self.warning = held

    def _log_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0


def checkpoint(connection: sqlite3.Connection, mode: str) -> bool:
    """Put the log into the file, waiting for nobody; whether all of it is there. Raises `sqlite3.Error`."""
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        busy, frames, copied = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")
    return not busy and frames == copied
