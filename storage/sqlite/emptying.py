"""A long write-ahead log goes into the file beside the commits, when those that kept it from that have ended.

    the log     |  in the file  | this portion | later portions |  committed meanwhile
                0             copied         mark          `frames`

SQLite's own checkpoint would do it in one piece, with one sync, and every commit's sync would wait for that: the
device takes one after the other. So it is done in portions, each synced, by a connection of its own on a thread of its
own. A reader of ours keeps the log from beginning anew meanwhile: a checkpoint that another connection's new beginning
meets has destroyed files (https://sqlite.org/wal.html, "The WAL-reset bug"; before 3.51.3).

Where a sync fails, what SQLite takes to be in the file is not there for sure, and the kernel takes for written what it
could not write (https://lwn.net/Articles/752063/). So the index is told otherwise, and SQLite writes it once more.

How far a checkpoint goes is what the readers' marks in the log's index say (https://sqlite.org/walformat.html, 2.3.2):
not beyond the lowest of those that somebody holds. A reader sees the end of the log as it was when it began, and its
mark may be lower than that: SQLite itself gives it a lower one where all are in use. So that of our reader says where
the portion ends, and rises with each. It is never more than what the reader sees: whoever shares it has begun later.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

from edgedepot.storage.sqlite.beside import Beside
from edgedepot.storage.sqlite.checkpoint import checkpoint
from edgedepot.storage.sqlite.connection import open_reader, open_writer
from edgedepot.storage.sqlite.holders import writable
from edgedepot.storage.sqlite.wal import PROMISE_BYTES, Promise, promise_of, shm_of

_MARKS = range(104, 120, 4)
"""Where the index has the marks of readers 1 to 4. Number 0 is for those who read the file alone."""
_COPIED = 96
"""And how many frames the file has too."""


class Index:
    """The index of a log that is in use here. It is read by SQLite's own descriptor, as to close another would let go
    of all locks that this process has on it. Raises `OSError`, also while it is being written."""

    def __init__(self, path: Path) -> None:
        """Of the store at `path`."""
        self._file = writable(shm_of(path))

    def read(self) -> Promise:
        """What the log has, and how much of it the file has too."""
        found = promise_of(os.pread(self._file, PROMISE_BYTES, 0))
        if found is None:
            raise OSError("the index of the log is being written")
        return found

    def marks_at(self, frames: int) -> list[int]:
        """Which readers' marks are there."""
        return [place for place in _MARKS if os.pread(self._file, 4, place) == struct.pack("I", frames)]

    def put(self, marks: list[int], frames: int) -> None:
        """Have them there: not beyond what their readers see."""
        for place in marks:
            os.pwrite(self._file, struct.pack("I", frames), place)

    def put_copied(self, frames: int) -> None:
        """Have SQLite put what comes after these into the file once more. While a reader's mark keeps other checkpoints
        from going further than the last that was copied."""
        os.pwrite(self._file, struct.pack("I", frames), _COPIED)


class Emptying:
    """What the log has now goes into the file, so many frames in a portion. Made and closed on the writer's thread,
    between two commits; `wake` is called from another when it `is_done`. Raises `OSError`, `sqlite3.Error` and
    `StorageError`."""

    def __init__(self, path: Path, portion: int, wake: Callable[[], None]) -> None:
        self._portion = portion
        self._beside = Beside("emptying", wake)
        self._safe = 0
        """So many frames the device has in the file for sure. What was there before may not have been synced."""
        with contextlib.ExitStack() as undo:
            self._guard = open_reader(path)
            undo.callback(self._guard.close)
            self._guard.execute("BEGIN")
            self._guard.execute("PRAGMA schema_version").fetchone()
            self._index = Index(path)
            self._connection = open_writer(path)
            undo.callback(self._connection.close)
            self._connection.execute("PRAGMA schema_version").fetchone()  # SQLite opens the log with the first query
            self._file = writable(path)
            found = self._index.read()
            self._frames = found.frames
            self.began_at = self.copied = found.copied
            self._marks = self._index.marks_at(found.frames)
            if found.copied == found.frames:
                raise OSError("all of it is in the file: a reader does not keep the log from beginning anew then")
            if not self._marks:
                raise OSError("others read, as many as its index has room for")
            self.go_on()
            undo.pop_all()

    @property
    def is_done(self) -> bool:
        return self._beside.is_done

    @property
    def failure(self) -> Exception | None:
        return self._beside.failure

    def go_on(self) -> None:
        """Also again, where others kept it from going on."""
        self._beside.start(self._empty)

    # -- another thread -------------------------------------------------------------------------------------------

    def _empty(self) -> None:
        while self.copied < self._frames and self._copy():
            self._beside.go_on()

    def _copy(self) -> bool:
        """One portion; whether all of it could be copied: others may read what is before it, or be at the log too."""
        end = min(self.copied + self._portion, self._frames)
        self._index.put(self._marks, end)
        found = checkpoint(self._connection, "PASSIVE")
        if found.busy or found.copied <= self.copied:
            return False
        try:
            os.fdatasync(self._file)
        except OSError:
            self._index.put_copied(self._safe)
            raise
        self.copied = self._safe = min(found.copied, self._frames)
        return self.copied >= end

    # -- the writer's thread --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the log go."""
        self._beside.close()
        self._connection.close()
        self._guard.close()
