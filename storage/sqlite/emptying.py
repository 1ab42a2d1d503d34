"""A long write-ahead log goes into the file beside the commits, when those that kept it from that have ended.

    the log     |  in the file  | this portion | later portions |  committed meanwhile
                0             copied         mark          `frames`

SQLite's own checkpoint would do it in one piece, with one sync, and every commit's sync would wait for that: the
device takes one after the other. So it is done in portions, each synced, by a connection of its own on a thread of its
own. A reader of ours keeps the log from beginning anew meanwhile: a checkpoint that another connection's new beginning
meets has destroyed files (https://sqlite.org/wal.html, "The WAL-reset bug"; before 3.51.3).

How far a checkpoint goes is what the readers' marks in the log's index say (https://sqlite.org/walformat.html, 2.3.2):
not beyond the lowest of those that somebody holds. A reader sees the end of the log as it was when it began, and its
mark may be lower than that: SQLite itself gives it a lower one where all are in use. So that of our reader says where
the portion ends, and rises with each. It is never more than what the reader sees: whoever shares it has begun later.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from edgedepot.storage.sqlite.aside import shm_of
from edgedepot.storage.sqlite.checksums import PAGE
from edgedepot.storage.sqlite.connection import open_reader, open_writer
from edgedepot.storage.sqlite.holders import descriptors_of
from edgedepot.storage.sqlite.wal import PROMISE_BYTES, Promise, pages_between, promise_of, wal_of

log = logging.getLogger(__name__)
_MARKS = range(104, 120, 4)
"""Where the index has the marks of readers 1 to 4. Number 0 is for those who read the file alone."""


class Index:
    """The index of a log that is in use here. It is read by SQLite's own descriptor, as to close another would let go
    of all locks that this process has on it. Raises `OSError`, also while it is being written."""

    def __init__(self, path: Path) -> None:
        """Of the store at `path`."""
        self._file = _writable(shm_of(path))

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


class Emptying:
    """What the log has now goes into the file, so many frames in a portion. Made and closed on the writer's thread,
    between two commits; `wake` is called from another when it `is_done`. Raises `OSError`, `sqlite3.Error` and
    `StorageError`."""

    def __init__(self, path: Path, portion: int, wake: Callable[[], None]) -> None:
        self.is_done = False
        self.failure: Exception | None = None
        self._path = path
        self._portion = portion
        self._wake = wake
        self._stops = False
        self._unsure: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        with contextlib.ExitStack() as undo:
            self._guard = open_reader(path)
            undo.callback(self._guard.close)
            self._guard.execute("BEGIN")
            self._guard.execute("PRAGMA schema_version").fetchone()
            self._index = Index(path)
            self._connection = open_writer(path)
            undo.callback(self._connection.close)
            self._connection.execute("PRAGMA schema_version").fetchone()  # SQLite opens the log with the first query
            self._file = _writable(path)
            found = self._index.read()
            self._salts, self._frames = found.salts, found.frames
            self.began_at = self.copied = found.copied
            self._marks = self._index.marks_at(found.frames)
            if found.copied == found.frames:
                raise OSError("all of it is in the file: a reader does not keep the log from beginning anew then")
            if not self._marks:
                raise OSError("others read, as many as its index has room for")
            self.go_on()
            undo.pop_all()

    @property
    def is_unsure(self) -> bool:
        """Whether the device may lack some of what SQLite takes to be in the file: then the log must not begin anew."""
        return self._unsure is not None

    def go_on(self) -> None:
        """Also again, after a failure."""
        self.is_done, self.failure = False, None
        thread = threading.Thread(target=self._run, name="edgedepot-emptying", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as exc:  # the machine has no more threads
            self.failure, self.is_done = exc, True

    # -- another thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_again()
            while self.copied < self._frames and not self._stops and self._copy():
                pass
        except (OSError, sqlite3.Error) as exc:
            self.failure = exc
        except Exception as exc:
            log.exception("the log of %s could not be put into the file", self._path)
            self.failure = exc
        self.is_done = True
        self._wake()

    def _copy(self) -> bool:
        """One portion; whether all of it could be copied: others may read what is before it, or be at the log too."""
        end = min(self.copied + self._portion, self._frames)
        self._index.put(self._marks, end)
        busy, _, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy or copied <= self.copied:
            return False
        self._unsure = self.copied, min(copied, self._frames)
        os.fdatasync(self._file)
        self.copied, self._unsure = self._unsure[1], None
        return self.copied >= end

    def _write_again(self) -> None:
        """What could not be synced: the kernel takes it for written then (https://lwn.net/Articles/752063/)."""
        if self._unsure is None:
            return
        first, last = self._unsure
        pages = {page: content for page, content, _ in pages_between(wal_of(self._path), first, last, self._salts)}
        size = os.fstat(self._file).st_size
        for page, content in pages.items():
            if page * PAGE <= size:  # the file may have become smaller since
                os.pwrite(self._file, content, (page - 1) * PAGE)
        os.fdatasync(self._file)
        self.copied, self._unsure = last, None

    # -- the writer's thread --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the log go. Where this `is_unsure` that is not before nobody has it any more: then it is read again when
        the store is opened."""
        self._stops = True
        if self._thread is not None:
            self._thread.join()
        self._connection.close()
        if not self.is_unsure:
            self._guard.close()


def _writable(path: Path) -> int:
    """A descriptor of a file that is open here to be written: SQLite closes none of those that it has of a store before
    the last connection goes. Raises `OSError`."""
    for number in descriptors_of(path.stat()):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            return number
    raise OSError(f"{path} is not open here to be written, as far as /proc tells")
