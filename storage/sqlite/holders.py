"""Who is in the middle of reading a store: the kernel's list of locks names the processes.

SQLite's readers lock a byte of the ``-shm`` file for as long as their transaction lasts (https://sqlite.org/walformat.html,
"WAL Locks"). Where that file system's locks cannot be told apart, any process that has the file open is named.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_READING = range(123, 128)
"""WAL_READ_LOCK(0) to WAL_READ_LOCK(4)"""
_PROC = Path("/proc")


def holders(path: Path) -> list[str]:
    """``process 4711 (sqlite3)``, each other process that reads now; "this process" where it is that alone. May take
    some milliseconds. Empty where nobody can be seen."""
    own = os.getpid()
    reading = set(_locking(path))
    others = (reading or set(_opened_by(path))) - {own}
    if others:
        return [f"process {number} ({_command(number)})" for number in sorted(others)]
    return ["this process"] if own in reading else []


def _locking(path: Path) -> Iterator[int]:
    """By ``/proc/locks``: ``1: POSIX  ADVISORY  READ 4711 08:01:123456 124 124``."""
    try:
        shm = path.with_name(path.name + "-shm").stat()
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return
    file = f"{os.major(shm.st_dev):02x}:{os.minor(shm.st_dev):02x}:{shm.st_ino}"
    for line in lines:
        words = line.split()
        if len(words) == 8 and words[1] == "POSIX" and words[5] == file and words[7] != "EOF":
            first, last, number = int(words[6]), int(words[7]), int(words[4])
            if number > 0 and first < _READING.stop and last >= _READING.start:
                yield number


def _opened_by(path: Path) -> Iterator[int]:
    try:
        store = path.stat()
        numbers = [int(one.name) for one in _PROC.iterdir() if one.name.isdecimal()]
    except OSError:
        return
    for number in numbers:
        if any((file.st_dev, file.st_ino) == (store.st_dev, store.st_ino) for file in _files_of(number)):
            yield number


def _files_of(number: int) -> Iterator[os.stat_result]:
    """What a process has open; nothing of another user's, or of one that ended."""
    folder = _PROC / str(number) / "fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                yield os.stat(folder / name)


def _command(number: int) -> str:
    try:
        return (_PROC / str(number) / "comm").read_text().strip()
    except OSError:
        return "ended"
