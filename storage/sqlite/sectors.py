"""Reading files without SQLite where the device may not give all of them back."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_SECTOR = 4096
_ATTEMPTS = 3


class _Refusals:
    count = 0


def refused() -> int:
    """How many sectors, of any file, were not given back so far: where that rises, what was read may be read yet."""
    return _Refusals.count


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
    _Refusals.count += 1
    return bytes(length)


def read_file(path: Path, length: int) -> bytes:
    """The first bytes of a file, nothing where there is none; zeros for sectors that cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return read_at(file, 0, length)
    finally:
        os.close(file)
