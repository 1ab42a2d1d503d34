"""What somebody found wrong with the store's file, until it is salvaged or turns out to be whole.

A sector that cannot be read looks like damage (SQLite makes SQLITE_CORRUPT of EIO inside a statement). It may be well
again a moment later: a cable or a controller was at fault, and a salvage would lose what is sound.
"""

from __future__ import annotations

import sqlite3
import threading
import traceback
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import CodeType

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite.connection import is_damage, is_unread, open_reader
from edgedepot.storage.sqlite.records import BadRecord
from edgedepot.storage.sqlite.salvage import UNREADABLE

ATTEMPTS = 5
"""So often in a row the device may not give a file back, and so often in a while it may be whole, with somebody running
into it again, until it counts as damaged all the same."""
PAUSE = 1.0
WHILE = 600.0
"""In seconds."""
_Place = tuple[type[BaseException], tuple[tuple[CodeType, int], ...]]
"""Which error it is, and the lines that led to it."""


def pause(clock: Clock) -> None:
    """Before something is read again."""
    condition = threading.Condition()
    with condition:
        clock.wait(condition, PAUSE)


class Suspicion:
    """Of one store. Not thread-safe: the writer's condition is held for `note`, and by nobody else."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._may_pass = False
        self.is_acted_on = False
        """Whether the store is closed for it."""
        self._attempts = 0
        self._passed: list[float] = []
        self._cause: _Place | None = None
        self._faults: set[_Place] = set()
        self._salvaged_for: Counter[_Place] = Counter()

    def note(self, exc: BaseException) -> None:
        """Somebody ran into this. Full disks and locks are no reason."""
        if not self.concerns(exc):
            return
        self._cause = _place_of(exc)  # not itself: it holds on to what somebody reads with
        if isinstance(exc, UNREADABLE):
            self.reason, self._may_pass = f"a record cannot be read: {exc!r}", False
        else:
            self.reason, self._may_pass = str(exc), is_unread(exc) or _is_of_the_structure(exc)

    def concerns(self, exc: BaseException) -> bool:
        """Whether this may lie in the file."""
        kinds = (*UNREADABLE, sqlite3.IntegrityError)  # the latter where two tables contradict
        return is_unread(exc) or is_damage(exc) or (isinstance(exc, kinds) and _place_of(exc) not in self._faults)

    def is_unfounded(self, path: Path, is_fresh: bool) -> bool:
        """Whether it is a fault of the program's, of which nothing is to be seen in the file, or that two salvages have
        not mended; what comes from there is no reason any more. Reads the whole file. What contradicts it may lie in
        our memory as well: that is told once the file `is_fresh`, and we are too."""
        cause = self._cause
        kinds = (*UNREADABLE, sqlite3.IntegrityError) if is_fresh else UNREADABLE
        if cause is None or self.is_acted_on or not issubclass(cause[0], kinds):
            return False
        if not (is_fresh and self._salvaged_for[cause] > 1) and not _is_sound(path):
            return False
        self._faults.add(cause)
        return True

    def has_passed(self, path: Path, now: float) -> bool:
        """Whether there is nothing to be seen of it any more, at a monotonic time. Reads the whole file. Raises
        `sqlite3.DatabaseError` where the device does not give it back yet: ask again after a pause."""
        self._passed = [then for then in self._passed if now - then < WHILE]
        if self.is_acted_on or not self._may_pass or ATTEMPTS in (self._attempts, len(self._passed)):
            return False
        self._attempts += 1
        if not is_whole(path):
            return False
        self._passed.append(now)
        return True

    def act(self) -> None:
        """The store is closed for it, and cannot go on as it was."""
        self.is_acted_on = True

    def clear(self) -> None:
        """It has passed, or the file is another."""
        if self.is_acted_on and self._cause is not None:
            self._salvaged_for[self._cause] += 1
        self.reason, self.is_acted_on, self._attempts, self._cause = None, False, 0, None


def _place_of(exc: BaseException) -> _Place:
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(exc.__traceback__)]
    return type(exc), tuple(frames[-3:])


def _is_sound(path: Path) -> bool:
    """Whether a look through all of the store finds nothing wrong. Raises `StorageError` where it cannot be read."""
    from edgedepot.storage.sqlite.verify import Verification  # here, as hardly a store needs it

    try:
        with Verification(path) as verification:
            return verification.run().sound
    except StoreUnusable:
        return False


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
    except MemoryError:
        return False
    if "unable to get the page" in found:
        raise sqlite3.OperationalError(found)
    return bool(found == "ok")
