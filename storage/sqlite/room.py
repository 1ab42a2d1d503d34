"""Room on the device: what is done when there is none.

The log goes into the file and is written from its start again, with the reserve's room where the file has to grow for
it. What room there is then is shared between the log and the reserve, and the file grows no more: readings are stored
as long as it has pages to use again. What frees such pages (deletions, retention) has the reserve's room. When there is
room again, all is as it was.

Used on the writer's thread alone.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgedepot.storage.clock import Clock
from edgedepot.storage.sqlite.checkpoint import checkpoint, cut, log_bytes
from edgedepot.storage.sqlite.reserve import Reserve, is_full

TAKE_SECONDS = 60.0
_NO_CAP = 2**30
_CAP = 1
"""SQLite takes the pages that there are for it."""


class Room:
    """Of one store."""

    def __init__(self, path: Path, clock: Clock, reserve: Reserve) -> None:
        self._path = path
        self._clock = clock
        self._reserve = reserve
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
            if not (is_full(exc, self._path.parent) and self._reserve.give_up()):
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
        return self._reserve.free + self._reserve.held + log_bytes(self._path)

    def _share(self, connection: sqlite3.Connection) -> None:
        """Take the reserve again before readings take its room."""
        shared = self._shared()
        if shared < 2 * self._reserve.size:
            self._cap(connection, _CAP)
        wanted = min(self._reserve.size, shared // 2)
        if self._reserve.free + self._reserve.held < wanted:
            with contextlib.suppress(sqlite3.Error):
                cut(connection)
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
        """After commits: the reserve is taken where it is missing."""
        now = self._clock.monotonic()
        self._lift(connection)
        if now >= self._take_at:
            self._take_at = now + TAKE_SECONDS
            self._has_reserve = self._reserve.take_where_roomy()

    @property
    def due_at(self) -> float | None:
        """When to look again though nothing is written; None while that need not be."""
        return None if self._has_reserve else self._take_at
