"""Reading files without SQLite where the device may not give all of them back."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_SECTOR = 4096
_ATTEMPTS = 3


def read_at(file: int, place: int, length: int) -> bytes:
    """Bytes of an open file, fewer at its end; zeros for a sector that cannot be read. `place` is where one begins."""
    with suppress(OSError):
        return os.pread(file, length, place)
    end = min(place + length, os.fstat(file).st_size)
    return b"".join(_sector(file, one, min(_SECTOR, end - one)) for one in range(place, end, _SECTOR))


def _sector(file: int, place: int, length: int) -> bytes:
    for _ in range(_ATTEMPTS):
        with suppress(OSError):
            return os.pread(file, length, place)
    return bytes(length)


def read_file(path: Path, length: int | None = None) -> bytes:
    """A file or its first `length` bytes, nothing where there is none; zeros for sectors that cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return read_at(file, 0, os.fstat(file).st_size if length is None else length)
    finally:
        os.close(file)
