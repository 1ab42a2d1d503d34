"""Who is in the middle of reading a store: the kernel's list of locks names the processes.

SQLite's readers lock a byte of the ``-shm`` file for as long as their transaction lasts (https://sqlite.org/walformat.html,
"WAL Locks"). Where that file system's locks cannot be told apart, any process that has the file open is named.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edgedepot.storage.sqlite.wal import shm_of

_READING = range(123, 128)
"""WAL_READ_LOCK(0) to WAL_READ_LOCK(4)"""
_SHARED = range(0x40000002, 0x40000200)
"""Of the file itself: whoever has read something locks it until the file is closed, also between transactions."""
_PROC = Path("/proc")


def holders(path: Path) -> list[str]:
    """``process 4711 (sqlite3)``, each other process that reads now; "this process" where it is that alone. May take
    some milliseconds. Empty where nobody can be seen."""
    try:
        reading = set(_locking(shm_of(path).stat(), _READING))
    except OSError:
        reading = set()
    try:
        return _named(reading or _opened_by(path.stat()) - {os.getpid()})
    except OSError:
        return []


def keepers(file: os.stat_result) -> list[str]:
    """Who has a store's file open, whatever its name is now, by the same names; "this process" only where it reads."""
    return _named(set(_locking(file, _SHARED)) | (_opened_by(file) - {os.getpid()}))


def has_open(path: Path) -> bool:
    """Whether this process has a file open, by whatever name and library."""
    try:
        file = path.stat()
    except OSError:
        return False
    return bool(descriptors_of(file))


def descriptors_of(file: os.stat_result) -> list[int]:
    """By which this process has a file open, by whatever name it had."""
    return [number for number, one in _open_in(os.getpid()) if os.path.samestat(file, one)]


def writable(path: Path) -> int:
    """A descriptor of a file that is open here to be written: SQLite closes none of those that it has of a store before
    the last connection goes. Raises `OSError`."""
    for number in descriptors_of(path.stat()):
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            return number
    raise OSError(f"{path} is not open here to be written, as far as /proc tells")


def can_see_descriptors() -> bool:
    """Whether the system tells what this process has open."""
    return (_PROC / "self" / "fd").is_dir()


def openers(file: os.stat_result) -> list[str]:
    """Which other processes have a file open, by the same names."""
    return _named(_opened_by(file) - {os.getpid()})


def _named(numbers: set[int]) -> list[str]:
    own = os.getpid()
    others = sorted(numbers - {own})
    return [f"process {number} ({_command(number)})" for number in others] or ["this process"] * (own in numbers)


def _locking(found: os.stat_result, places: range) -> Iterator[int]:
    """By ``/proc/locks``: ``1: POSIX  ADVISORY  READ 4711 08:01:123456 124 124``."""
    try:
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in lines:
        words = line.split()
        if len(words) == 8 and words[1] == "POSIX" and words[5] == file and words[7] != "EOF":
            first, last, number = int(words[6]), int(words[7]), int(words[4])
            if number > 0 and first < places.stop and last >= places.start:
                yield number


def _opened_by(file: os.stat_result) -> set[int]:
    try:
        numbers = [int(one.name) for one in _PROC.iterdir() if one.name.isdecimal()]
    except OSError:
        return set()
    return {number for number in numbers if any(os.path.samestat(file, one) for _, one in _open_in(number))}


def _open_in(number: int) -> Iterator[tuple[int, os.stat_result]]:
    """The descriptors of a process; nothing of another user's, or of one that ended."""
    folder = _PROC / str(number) / "fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                yield int(name), os.stat(folder / name)


def _command(number: int) -> str:
    try:
        return (_PROC / str(number) / "comm").read_text().strip()
    except OSError:
        return "ended"
