"""The write-ahead log as bytes: whether it is this store's, whether frames that were safe are unreadable now, and what
can be read of a damaged one. Layout and checksum: https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import errno
import struct
import sys
from array import array
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from edgedepot.storage.sqlite.sectors import read_file

HEADER = 32
FRAME_HEADER = 24
PAGE = 4096
_MAGIC = 0x377F0682  # the last bit says whether checksums are over big-endian words
Checksum = tuple[int, int]


class Frame(NamedTuple):
    """A page as a commit left it. `commit` is the number of pages of the database, 0 for frames inside a commit."""

    page: int
    commit: int
    salts: bytes
    checksum: Checksum
    offset: int
    """Where the frame begins in the file."""


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def salt_of(wal: Path) -> int | None:
    """What tells one log from another: it rises by one whenever SQLite begins anew in the same file. None for none."""
    head = read_file(wal, HEADER)
    return int.from_bytes(head[16:20], "big") if len(head) == HEADER else None


def frames(data: bytes) -> Iterator[Frame]:
    """All whole frames of a log, of older rounds too, whether their checksums are right or not."""
    for offset in range(HEADER, len(data) - FRAME_HEADER - PAGE + 1, FRAME_HEADER + PAGE):
        page, commit, salts, first, second = struct.unpack_from(">II8sII", data, offset)
        yield Frame(page, commit, salts, (first, second), offset)


def salts_of(wal: Path) -> bytes:
    """What tells the round of a log that is being written: other ones since it began anew. Raises `OSError`."""
    with wal.open("rb") as file:
        return file.read(HEADER)[16:24]


def pages_between(wal: Path, first: int, last: int, salts: bytes) -> Iterator[tuple[int, bytes, int]]:
    """What the frames after `first` up to `last` of that round hold: page number, content, and `commit` as in `Frame`.
    All of them have to be committed. Raises `OSError`, also where the log has begun anew."""
    with wal.open("rb") as file:
        if file.read(HEADER)[16:24] != salts or last < first:
            raise OSError(errno.ESTALE, f"{wal} began anew")
        file.seek(HEADER + first * (FRAME_HEADER + PAGE))
        for _ in range(first, last):
            frame = file.read(FRAME_HEADER + PAGE)
            if len(frame) < FRAME_HEADER + PAGE or frame[8:16] != salts:
                raise OSError(errno.ESTALE, f"{wal} began anew")
            yield int.from_bytes(frame[:4], "big"), frame[FRAME_HEADER:], int.from_bytes(frame[4:8], "big")


class Promise(NamedTuple):
    """What the log's index says there is in the log: so many frames, of which so many are in the database as well."""

    salts: bytes
    frames: int
    copied: int


def promised(path: Path) -> Promise | None:
    """What the ``-shm`` file beside a store says of its log, where it can be read.

    SQLite writes it after a commit is safe, and nobody syncs it: after a power cut it may say less, never more. Layout:
    https://www.sqlite.org/walformat.html#the_wal_index_file_format

    Never while this process has the store open: whoever closes a file lets go of all POSIX locks that the process has
    on it (https://www.sqlite.org/howtocorrupt.html, 2.2). The next program that opens the store would take itself for
    the first, and cut off the file that is mapped here.
    """
    try:
        with path.with_name(path.name + "-shm").open("rb") as file:
            data = file.read(136)
    except OSError:
        return None
    if len(data) < 136 or data[:48] != data[48:96]:
        return None
    order = ">" if data[13] else "<"
    if _checksum(data[:40], order, (0, 0)) != struct.unpack_from(f"{order}II", data, 40):
        return None
    (count,) = struct.unpack_from(f"{order}I", data, 16)
    (copied,) = struct.unpack_from(f"{order}I", data, 96)
    return Promise(data[32:40], count, copied)


class Log:
    """A log as it lies there. What is `missing` or `is_copied` is right where commits were synced one by one. Whether
    it `is_torn` may be asked of a store that is open; all else before SQLite opens it (see `promised`)."""

    def __init__(self, path: Path) -> None:
        self.data = read_file(wal_of(path))
        self.good = readable_pages(self.data)
        self._path = path
        found = list(frames(self.data))
        # Where SQLite has begun anew, frames of the round before follow, and all of those are in the database.
        sound = _header_is_sound(self.data)
        salts = self.data[16:24] if sound else self.good[0].salts if self.good else b""
        self._current = [frame for frame in found if frame.salts == salts]
        self.readable = self._count_readable()

    @cached_property
    def _promise(self) -> Promise | None:
        """Only `missing`, `is_copied` and `wanted` ask for it, and they are not for a store that is open here."""
        found = promised(self._path)
        if found is not None and len(self.data) >= HEADER and found.salts != self.data[16:24]:
            return None  # that of another round
        return found

    def _count_readable(self) -> int:
        """How many frames SQLite would read: up to the last commit before the first that is not whole."""
        good = {frame.offset for frame in self.good} if _header_is_sound(self.data) else set[int]()
        count = 0
        for number, frame in enumerate(self._current, 1):
            if frame.offset not in good:
                break
            count = number if frame.commit else count
        return count

    @property
    def is_torn(self) -> bool:
        """Whether frames of this round lie behind those that SQLite reads."""
        return self.readable < len(self._current)

    @property
    def goes_on(self) -> bool:
        """Whether whole commits lie behind those that SQLite reads."""
        return len(self.good) > self.readable

    @property
    def missing(self) -> int:
        """How many frames were safe once and cannot be read now. Each commit is synced before the next begins: one that
        the next goes on from was safe. What power cuts leave of commits that were never done is nothing to worry about:
        what follows in the file then is older, and goes on from something else."""
        safe = 0 if self._promise is None else self._promise.frames
        good = {frame.offset for frame in self.good}
        for number, (frame, after) in enumerate(pairwise(self._current), 1):
            if frame.commit and after.offset in good:
                safe = max(safe, number)
        return max(0, safe - self.readable)

    @property
    def is_copied(self) -> bool:
        """Whether all that it ever held is in the database as well."""
        there = self._promise
        return there is not None and there.copied == there.frames >= len(self._current)

    @property
    def wanted(self) -> list[Frame]:
        """The good frames that are not in the database already."""
        copied = 0 if self._promise is None else self._promise.copied
        behind = {frame.offset for frame in self._current[copied:]}
        return [frame for frame in self.good if frame.offset in behind]


def _header_is_sound(data: bytes) -> bool:
    if len(data) < HEADER:
        return False
    return _checksum(data[:24], _order(data), (0, 0)) == struct.unpack_from(">II", data, 24)


def readable_pages(data: bytes) -> list[Frame]:
    """The frames of the current round that are whole. A frame's checksum goes on from the one before it, which the
    frame before bears: so a bad frame spoils itself and, where its own checksum is bad, the next."""
    found = list(frames(data))
    if not found:
        return []
    sound = _header_is_sound(data)
    salts = data[16:24] if sound else max((one.salts for one in found), key=[one.salts for one in found].count)
    before: Checksum = struct.unpack_from(">II", data, 24)
    kept = []
    for frame in found:
        if frame.salts == salts:
            for order in (_order(data),) if sound else ("<", ">"):
                body = data[frame.offset : frame.offset + 8] + data[_body(frame)]
                if _checksum(body, order, before) == frame.checksum:
                    kept.append(frame)
                    break
        before = frame.checksum
    while kept and not any(frame.commit for frame in kept[-1:]):  # a commit that has no end never was
        kept.pop()
    return kept


def mended(data: bytes, kept: list[Frame]) -> bytes:
    """A log of these frames that SQLite reads: new checksums, and each one a commit of its own."""
    pages = max(frame.commit for frame in kept)
    head = struct.pack(">IIII", _MAGIC, 3_007_000, PAGE, 0) + b"edgedept"
    checksum = _checksum(head, "<", (0, 0))
    parts = [head, struct.pack(">II", *checksum)]
    for frame in kept:
        top = struct.pack(">II", frame.page, max(pages, frame.page))
        body = data[_body(frame)]
        checksum = _checksum(top + body, "<", checksum)
        parts += [top, b"edgedept", struct.pack(">II", *checksum), body]
    return b"".join(parts)


def _body(frame: Frame) -> slice:
    return slice(frame.offset + FRAME_HEADER, frame.offset + FRAME_HEADER + PAGE)


def _order(data: bytes) -> str:
    return ">" if data[3:4] == b"\x83" else "<"


def _checksum(data: bytes, order: str, before: Checksum) -> Checksum:
    words = array("I", data)
    if (order == ">") is (sys.byteorder == "little"):
        words.byteswap()
    one, two = before
    for word, other in zip(words[::2], words[1::2], strict=True):
        one = (one + word + two) & 0xFFFFFFFF
        two = (two + other + one) & 0xFFFFFFFF
    return one, two
