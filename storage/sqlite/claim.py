"""One file by two names: a hard link, or a file that is mounted by itself, as containers have it.

Lock, log and index lie beside each name, so that two processes that write would not meet. The one that does locks a
byte of the file itself, behind those that SQLite locks, and as SQLite locks them: such a lock is that of the process.
The kernel lets go of it when that ends, and gives it to no child. It goes as well when any descriptor of the file is
closed, which SQLite puts off as long as it has locks of its own there. So it is taken once SQLite has those.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from edgedepot.storage.sqlite.holders import can_see_descriptors, descriptors_of, writable
from edgedepot.storage.sqlite.names import names_of

_BYTE = 0x40000200
"""The first one behind SQLite's: https://sqlite.org/lockingv3.html"""


def claim(path: Path) -> bool:
    """Be the one that writes a file which SQLite has open here; False where another process is. Where the system does
    not tell the descriptors, or the device has no locks, that is not known, and nobody is kept out."""
    try:
        fcntl.lockf(writable(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _BYTE)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def end_claim(file: os.stat_result) -> None:
    """While others in this process have the file open: with the last of them the lock goes by itself."""
    for number in descriptors_of(file)[:1]:
        with contextlib.suppress(OSError):
            fcntl.lockf(number, fcntl.LOCK_UN, 1, _BYTE)


def claimant(path: Path) -> int | None:
    """Which other process writes a file, None for none; 0 for one whose number this container does not see."""
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
    try:
        with names_of(path).lock, _some_descriptor(path) as file:
            kind, _, _, _, process = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return None
    return None if kind == fcntl.F_UNLCK else process


@contextlib.contextmanager
def _some_descriptor(path: Path) -> Iterator[int]:
    """One that is there already, if any is: to close another would let go of SQLite's locks. Raises `OSError`."""
    if not can_see_descriptors():
        raise OSError(f"whether {path} is open here is not known")
    found = descriptors_of(path.stat())
    file = found[0] if found else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        if not found:
            os.close(file)
