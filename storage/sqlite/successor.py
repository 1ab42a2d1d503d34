"""A file to go on in, while a reader keeps the write-ahead log of the old one from beginning again.

    gateway.db.next     the pages as a reader of ours sees them      1. `_copy`, in a thread: commits go on
                        what was committed since, out of the log     2. `_write`, again until little is left; synced
                        the rest of that                             3. `catch_up`, between two commits; synced
    gateway.db          is that file                                 4. `rename`; the folder synced
    gateway.db-wal      and its index: these names go                5. `take_place`; the folder synced

The old file and its log have no names then. They are there for those that have them open, and go with the last of
them: a connection whose file has moved neither puts its log into a file nor removes one by name when it closes.

Interrupted before step 4, what was copied is removed at the next start. After it SQLite reads the old log over the new
file, which changes nothing: what is in the log is in the file as well. All of the log has to be there (it was synced
before): of a part of it old pages would lie over newer ones. And without the log the old file would lack commits: so
its name goes last. Whoever opened the file between 4 and 5 would have it with the old log for good: a lock keeps others
waiting meanwhile, and that of its `Names` keeps us.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from edgedepot.storage.sqlite.aside import next_of, remove_next
from edgedepot.storage.sqlite.beside import Beside
from edgedepot.storage.sqlite.checksums import PAGE
from edgedepot.storage.sqlite.connection import open_reader
from edgedepot.storage.sqlite.files import be_like
from edgedepot.storage.sqlite.left import lock_for
from edgedepot.storage.sqlite.sidecar import sync_folder
from edgedepot.storage.sqlite.wal import pages_between, salts_of, shm_of, wal_of

_STEP = 256
"""So many pages are copied before they are synced: a commit's own sync waits for what else is on its way."""
_PAUSE = 1000
"""So many pages at most are copied while commits wait."""
_LOCKED = 512
"""All bytes that SQLite locks: https://sqlite.org/lockingv3.html"""


class Successor:
    """A copy on its way. Made and used on the writer's thread, between two commits; `wake` is called from another when
    there is something to do. Raises `OSError` and `sqlite3.Error`."""

    def __init__(self, path: Path, frames: int, wake: Callable[[], None]) -> None:
        """`frames` is how many the log has now, not all of them in the file as well: where they are a reader does not
        keep the log from beginning anew."""
        self.frames = frames
        """How many the log had at first: its readers hold back no more than these when the older ones have ended."""
        self.failures = 0
        """How often the file could not be opened by its new name."""
        self.is_in_place = False
        self._path = path
        self._next = next_of(path)
        self._copied = frames
        self._beside = Beside("successor", wake)
        remove_next(path)
        # Its transaction lasts until all is copied: what is copied out of the log has to stay there.
        self._reader = open_reader(path)
        self._salts = b""
        self._file: int | None = None
        self._names_are_clear = False
        try:
            self._reader.execute("BEGIN")
            self._reader.execute("PRAGMA schema_version").fetchone()
            self._salts = salts_of(wal_of(path))
            self._file = os.open(self._next, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            be_like(self._file, path.stat())
        except (OSError, sqlite3.Error):
            self.close()
            raise
        self._beside.start(self._copy)

    # -- another thread -------------------------------------------------------------------------------------------

    def _copy(self) -> None:
        with contextlib.closing(sqlite3.connect(self._next, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            self._reader.backup(target, pages=_STEP, progress=lambda *_: self._sync())
        self._sync()

    def _sync(self) -> None:
        self._beside.go_on()
        assert self._file is not None
        os.fdatasync(self._file)

    def _write(self, frames: int) -> None:
        """What the log has from the last time up to that frame."""
        assert self._file is not None
        size = None
        missing = pages_between(wal_of(self._path), self._copied, frames, self._salts)
        for number, (page, content, pages) in enumerate(missing):
            os.pwrite(self._file, content, (page - 1) * PAGE)
            size = pages * PAGE if pages else size
            if number % _STEP == 0:
                self._sync()
        if size is not None:
            os.ftruncate(self._file, size)
        os.fsync(self._file)
        self._copied = frames

    # -- the writer's thread --------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether it is the writer's turn."""
        return self._beside.is_done

    @property
    def size(self) -> int:
        """How much of it there is, in bytes."""
        return 0 if self._file is None else os.fstat(self._file).st_size

    def check(self) -> None:
        """Raises `OSError` where the other thread's part failed: then there is no whole copy, and none will be."""
        if self._beside.failure is not None:
            raise OSError(f"{self._beside.failure}") from self._beside.failure

    def catch_up(self, frames: int) -> bool:
        """Have it contain what was committed, up to that frame of the log. False where that will take a while: then it
        is for the next time. Nothing may be committed between True and `take_place`."""
        if frames > self._copied + _PAUSE:
            self._beside.start(lambda: self._write(frames))
            return False
        self._write(frames)
        return True

    def let_log_go(self) -> None:
        """Keep the log from beginning anew no more: all of it has been copied."""
        self._reader.close()

    def rename(self, pages: int) -> None:
        """Be the store's file, which has so many pages, by its name. From here on there is no way back."""
        assert self._file is not None
        self.check()
        if self.size != pages * PAGE:
            raise OSError(f"it has {self.size} bytes and not {pages} pages")
        lock_for(self._file, _LOCKED)
        try:
            self._next.replace(self._path)
        except OSError:
            if not os.path.samestat(os.fstat(self._file), self._path.stat()):  # it may have happened all the same
                raise
        self.is_in_place = True

    def take_place(self, note: Callable[[], None]) -> None:
        """Let nobody find the old log; `note` writes down that there is none. To be done again where it fails."""
        if not self._names_are_clear:
            sync_folder(self._path)
            note()
            wal_of(self._path).unlink(missing_ok=True)
            shm_of(self._path).unlink(missing_ok=True)
            sync_folder(self._path)
            self._names_are_clear = True
        self._close_file()  # before SQLite opens it: that would lose its locks by this

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def close(self) -> None:
        """Be done with it: where it has not come to its place it is removed."""
        self._beside.close()
        self._reader.close()
        self._close_file()
        if not self.is_in_place:
            remove_next(self._path)
