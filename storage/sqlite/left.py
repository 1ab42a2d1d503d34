"""A file that the store has left to those who read it: it has no name any more, and goes when all have closed it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from edgedepot.storage.sqlite.holders import descriptors_of, keepers

_PENDING = 0x40000000
"""SQLite's PENDING_BYTE: who holds it keeps others from locking the file for the first time."""
_OPEN = Path("/proc/self/fd")


def lock_for(file: int, length: int) -> None:
    """Keep all others out of that many bytes from SQLite's first lock on, until the descriptor is closed; those of this
    process too. Not as SQLite locks them: such locks go when any descriptor of the file is closed. Raises `OSError`."""
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _PENDING, length, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)


class Left:
    """One such file. Programs that have read it go on. One that has it open and has not read yet would take the new log
    for that of the old file, and put its pages there if it wrote: for as long as this process sees anybody keep the
    file, SQLite answers such programs that it is locked. To be made before the old log's name goes."""

    def __init__(self, file: os.stat_result, size: int) -> None:
        """`size` is in bytes, with its log."""
        self._file = file
        self._size = size
        self._guard = _opened_again(file)
        if self._guard is not None:
            with contextlib.suppress(OSError):
                lock_for(self._guard, 1)

    @property
    def keepers(self) -> list[str]:
        """Who has it open."""
        return keepers(self._file)

    def __str__(self) -> str:
        names, size = ", ".join(self.keepers), megabytes(self._size)
        if not names:
            return f"nobody has the older file open any more, which took {size}"
        return f"{names} has an older file of this store open: nothing new is in it, and it takes {size} until closed"

    def close(self) -> None:
        """Let it go, once this process has no connection to it that matters."""
        guard, self._guard = self._guard, None
        if guard is not None:
            os.close(guard)


def _opened_again(file: os.stat_result) -> int | None:
    """A descriptor of a file that this process has open, by whatever name it had."""
    for number in descriptors_of(file):
        with contextlib.suppress(OSError):
            return os.open(_OPEN / str(number), os.O_RDWR | os.O_CLOEXEC)
    return None


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
