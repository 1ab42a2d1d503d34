"""What a store's names may stand for: files, or nothing yet. SQLite waits for ever on a pipe, and takes a folder in the
place of one of its own files for a device that fails."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from edgedepot.storage.errors import StoreUnusable

_READ = ("", "-wal", "-shm", "-journal")
_WRITTEN = (*_READ, ".lock", ".catalogue")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_files(path: Path, *, to_write: bool = False) -> None:
    """Raise `StoreUnusable` where one of a store's names is that of something else."""
    for suffix in _WRITTEN if to_write else _READ:
        file = path.with_name(path.name + suffix)
        kind = _kind_of(file)
        if kind is not None:
            whose = "a store's file" if file == path else f"a file of the store {path.name}"
            raise StoreUnusable(f"{file} is {kind}, expected {whose}")


def _kind_of(file: Path) -> str | None:
    """What a name stands for that is no file; None where it is one, is not there, or cannot be seen."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(file).st_mode))
    except OSError as exc:
        return "a link to itself" if exc.errno == errno.ELOOP else None
