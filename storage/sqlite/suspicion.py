"""What somebody found wrong with the store's file, until it is salvaged or turns out to be whole.

A sector that cannot be read looks like damage (SQLite makes SQLITE_CORRUPT of EIO inside a statement). It may be well
again a moment later: a cable or a controller was at fault, and a salvage would lose what is sound.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from edgedepot.storage.sqlite.connection import is_damage, is_unread, open_reader
from edgedepot.storage.sqlite.records import BadRecord
from edgedepot.storage.sqlite.salvage import UNREADABLE

ATTEMPTS = 5
"""So often in a row the device may not give a file back, and so often in a while it may be whole, with somebody running
into it again, until it counts as damaged all the same."""
PAUSE = 1.0
WHILE = 600.0
"""In seconds."""


class Suspicion:
    """Of one store. Not thread-safe: the writer's condition is held for `note`, and by nobody else."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._may_pass = False
        self._is_acted_on = False
        self._attempts = 0
        self._passed: list[float] = []

    def note(self, exc: BaseException) -> None:
        """Somebody ran into this. Full disks and locks are no reason."""
        if isinstance(exc, UNREADABLE):
            self.reason, self._may_pass = f"a record cannot be read: {exc!r}", False
        elif is_unread(exc) or is_damage(exc) or isinstance(exc, sqlite3.IntegrityError):  # two tables contradict
            self.reason, self._may_pass = str(exc), is_unread(exc) or _is_of_the_structure(exc)

    def has_passed(self, path: Path, now: float) -> bool:
        """Whether there is nothing to be seen of it any more, at a monotonic time. Reads the whole file. Raises
        `sqlite3.DatabaseError` where the device does not give it back yet: ask again after a pause."""
        self._passed = [then for then in self._passed if now - then < WHILE]
        if self._is_acted_on or not self._may_pass or ATTEMPTS in (self._attempts, len(self._passed)):
            return False
        self._attempts += 1
        if not is_whole(path):
            return False
        self._passed.append(now)
        return True

    def act(self) -> None:
        """The store is closed for it, and cannot go on as it was."""
        self._is_acted_on = True

    def clear(self) -> None:
        """It has passed, or the file is another."""
        self.reason, self._is_acted_on, self._attempts = None, False, 0


def _is_of_the_structure(exc: BaseException) -> bool:
    """Whether SQLite itself found it, not we or Python's module in what it gave."""
    code: int = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF == sqlite3.SQLITE_CORRUPT and not isinstance(exc, BadRecord)


def is_whole(path: Path) -> bool:
    """Whether all of a file can be read and fits together. Raises `sqlite3.DatabaseError` where the device does not
    give back some of it."""
    try:
        with closing(open_reader(path)) as connection:  # a new one has no page in its cache
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        if is_unread(exc):
            raise
        return False
    if "unable to get the page" in found:
        raise sqlite3.OperationalError(found)
    return bool(found == "ok")
