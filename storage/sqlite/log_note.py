"""What the lock says of the store's log, for the next opening: whether commits are synced one by one, and the log's
salt, which tells it from another store's. ``open 3735928559``; ``open`` alone while the log may begin with any.

SQLite counts the salt up when it begins the log anew. Only where another program has cut the log to nothing
(``PRAGMA wal_checkpoint(TRUNCATE)``) our next commit may begin it with a random one. To the next opening that would be
another store's log, with all that was promised since. So it is looked for in each transaction, where nobody else can
cut the log any more, and at each commit, before its receipts say anything.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgedepot.storage.sqlite.lock import StoreLock
from edgedepot.storage.sqlite.wal import HEADER, salt_in, wal_of

SYNCED, LOOSE = "open", "loose"
"""The lock's word for a store that is written, with each commit synced, or only now and then."""
_ROUNDS = 1 << 20
"""A log begins anew at most so often between the note of its salt and now."""


def parsed(text: str) -> tuple[str, int | None]:
    """The lock's word, and the salt that it notes."""
    word, _, salt = text.partition(" ")
    return word, int(salt) if salt.isdigit() else None


def follows(salt: int, noted: int) -> bool:
    """Whether a log may be the one whose salt was noted, some rounds later."""
    return (salt - noted) % 2**32 < _ROUNDS


class LogNote:
    """Of one store that is written. Used on the writer's thread."""

    def __init__(self, path: Path, lock: StoreLock, word: str) -> None:
        self._log = wal_of(path)
        self._lock = lock
        self._word = word

    def begin(self) -> None:
        """In a transaction: where the log is empty this begins it. Raises `OSError` where that cannot be noted."""
        try:
            is_empty = self._log.stat().st_size == 0
        except OSError:
            return
        if is_empty:
            self._lock.mark(self._word)

    def committed(self) -> None:
        """After it: note the salt that it made. The log is on the device before: with an older one there the note would
        have that taken for another store's."""
        _, noted = parsed(self._lock.found)
        with contextlib.suppress(OSError):
            file = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
            try:
                salt = salt_in(os.pread(file, HEADER, 0))
                if salt is not None and (noted is None or not follows(salt, noted)):
                    os.fdatasync(file)
                    self._lock.note(f"{self._word} {salt}", sync=True)
            finally:
                os.close(file)
