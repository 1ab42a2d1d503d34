"""What the lock says of the store's log, for the next opening: whether commits are synced one by one, the log's salt,
which tells it from another store's, and which generation of the tables' record the file had without it. ``open
3735928559 41``; ``open`` alone while the log may begin with any.

SQLite counts the salt up when it begins the log anew. Only where another program has cut the log to nothing
(``PRAGMA wal_checkpoint(TRUNCATE)``) our next commit may begin it with a random one. To the next opening that would be
another store's log, with all that was promised since. So it is looked for in each transaction, where nobody else can
cut the log any more, and at each commit, before its receipts say anything.

The log holds no more than what has changed since it began; SQLite reads it over any file. All of what was before is in
the file then. So one whose record of the tables is of an earlier generation has been put in its place.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from edgedepot.storage.sqlite.lock import StoreLock
from edgedepot.storage.sqlite.wal import HEADER, salt_in, wal_of

SYNCED, LOOSE = "open", "loose"
"""The lock's word for a store that is written, with each commit synced, or only now and then."""
_ROUNDS = 1 << 20
"""A log begins anew at most so often between the note of its salt and now."""


class Noted(NamedTuple):
    """The lock's word; the log's salt and the generation that the file has at least, None where they are not known."""

    word: str
    salt: int | None = None
    generation: int | None = None

    def __str__(self) -> str:
        numbers = (number for number in self[1:] if number is not None)
        return " ".join([self.word, *map(str, numbers)]) if self.salt is not None else self.word

    def may_be(self, salt: int) -> bool:
        """Whether a log with that salt may be the one whose salt was noted, some rounds later."""
        return self.salt is not None and (salt - self.salt) % 2**32 < _ROUNDS

    def was(self, salt: int) -> bool:
        """Whether it may be that one some rounds earlier."""
        return self.salt is not None and (self.salt - salt) % 2**32 < _ROUNDS


def parsed(text: str) -> Noted:
    """What the lock says."""
    word, *numbers = text.split() or [""]
    return Noted(word, *(int(number) for number in numbers[:2] if number.isdigit()))


class LogNote:
    """Of one store that is written. Used on the writer's thread."""

    def __init__(self, path: Path, lock: StoreLock, word: str) -> None:
        self._log = wal_of(path)
        self._lock = lock
        self._word = word
        self._generation: int | None = None
        self._salt: int | None = None
        self.is_new = True
        """Whether the next commit is to be of a new generation: one in each round of the log is, at least."""

    def begin(self) -> None:
        """In a transaction: where the log is empty this begins it. Raises `OSError` where that cannot be noted."""
        try:
            is_empty = self._log.stat().st_size == 0
        except OSError:
            return
        if is_empty:
            self._lock.mark(self._word)

    def committed(self, generation: int) -> None:
        """After it, of that generation: note the log that it began. Where its salt is another than was to be expected
        it is on the device before: with an older one there the note would have that taken for another store's."""
        noted = parsed(self._lock.found)
        with contextlib.suppress(OSError):
            file = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
            try:
                salt = salt_in(os.pread(file, HEADER, 0))
                self.is_new, self._salt = self._salt not in (None, salt), salt
                if salt is not None and salt != noted.salt:
                    is_new = not noted.may_be(salt)
                    if is_new:
                        os.fdatasync(file)
                    self._lock.note(str(Noted(self._word, salt, self._generation)), sync=is_new)
            finally:
                os.close(file)
        self._generation = generation
