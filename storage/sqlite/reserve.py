"""Room that is kept for the day on which the device is full: ``gateway.db.reserve``.

To free room takes some first: the write-ahead log goes into the file, which may grow by as much as lies in the log, and
a deletion is written to the log before anything of it is gone. Nothing reads the file, and to delete it by hand costs
nothing: it is made again when there is room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from edgedepot.storage.sqlite.files import why_no_more

_SHARE = 16
"""At most this part of a device: a small one has more use for its room."""
_LEAST_PAGES = 16
_PAGE = 4096
_ROOMY = 3
"""It is taken where this many times as much is free: it must not be what fills the device."""


_UNTOLD = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CANTOPEN)
"""SQLite's codes that may mean so, of a quota or where there may be no more files."""


def is_full(exc: BaseException | None, folder: Path) -> bool:
    """Whether an error in a folder says that there is no room. (SQLite answers so where it cannot make the file of its
    locks.)"""
    code = getattr(exc, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return True
    told = why_no_more(folder) if code in _UNTOLD else exc
    return isinstance(told, OSError) and told.errno in (errno.ENOSPC, errno.EDQUOT)


def reserve_of(store: Path) -> Path:
    return store.with_name(store.name + ".reserve")


def give_up(reserve: Path) -> bool:
    """Remove a store's reserve; whether that made room."""
    with contextlib.suppress(OSError):
        reserve.unlink()
        return True
    return False


class Reserve:
    """The file, as large as a log of `wal_pages` that goes into the store's file, and the commit that fills it. On a
    small device it is smaller, and the log has to be shorter. One thread at a time."""

    def __init__(self, store: Path, wal_pages: int) -> None:
        self.path = reserve_of(store)
        pages = wal_pages * 3 // 2
        if device := _device_bytes(store.parent):
            pages = min(pages, device // _SHARE // _PAGE)
        self.size = pages * _PAGE
        """How large it should be."""
        self.wal_pages = max(_LEAST_PAGES, pages * 2 // 3)
        """How long the log may become, so that the reserve suffices."""

    @property
    def held(self) -> int:
        """How large it is."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    @property
    def free(self) -> int:
        """What the device has beside it, in bytes."""
        try:
            device = os.statvfs(self.path.parent)
        except OSError:
            return 0
        return device.f_bavail * device.f_frsize

    def take_where_roomy(self) -> bool:
        """Have all of it where there is plenty of room; whether it is there."""
        missing = self.size - self.held
        return missing <= 0 or (self.free >= _ROOMY * missing and self.take(self.size))

    def take(self, size: int) -> bool:
        """Have so much of it at least. Nothing is raised: the store does without."""
        try:
            if self.held < size:
                self._allocate(size)
        except OSError:
            self.give_up()
            return False
        return True

    def _allocate(self, size: int) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(file, 0, size)  # blocks of its own, and not a hole
        finally:
            os.close(file)

    def give_up(self) -> bool:
        """Remove the file; whether that made room."""
        return give_up(self.path)


def _device_bytes(folder: Path) -> int:
    """0 where the file system does not tell."""
    try:
        device = os.statvfs(folder)
    except OSError:
        return 0
    return device.f_blocks * device.f_frsize
