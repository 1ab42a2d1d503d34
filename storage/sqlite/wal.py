"""The write-ahead log as bytes: whether it is this store's, whether frames that were safe are unreadable now, and what
can be read of a damaged one. Layout and checksum: https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import errno
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from edgedepot.storage.sqlite.checksums import FRAME, FRAME_HEADER, PAGE, Checksum, checksum, whole
from edgedepot.storage.sqlite.sectors import read_at, read_file

HEADER = 32
_MAGIC = 0x377F0682  # the last bit says whether checksums are over big-endian words
_AT_ONCE = 256
"""So many frames are read into memory together, one megabyte."""
PROMISE_BYTES = 136
"""What the log's index begins with."""


class Frame(NamedTuple):
    """A page as a commit left it. `commit` is the number of pages of the database, 0 for frames inside a commit."""

    page: int
    commit: int
    offset: int
    """Where the frame begins in the file."""


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def shm_of(path: Path) -> Path:
    return path.with_name(path.name + "-shm")


def salt_of(wal: Path) -> int | None:
    """What tells one log from another: it rises by one whenever SQLite begins anew in the same file. None for none."""
    return salt_in(read_file(wal, HEADER))


def salt_in(head: bytes) -> int | None:
    """The same, of a log's head."""
    return int.from_bytes(head[16:20], "big") if len(head) == HEADER else None


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
        file.seek(HEADER + first * FRAME)
        for _ in range(first, last):
            frame = file.read(FRAME)
            if len(frame) < FRAME or frame[8:16] != salts:
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
        with shm_of(path).open("rb") as file:
            return promise_of(file.read(PROMISE_BYTES))
    except OSError:
        return None


def promise_of(data: bytes) -> Promise | None:
    """The same, of the first bytes of that file; None where they do not fit together."""
    if len(data) < PROMISE_BYTES or data[:48] != data[48:96]:
        return None
    order = ">" if data[13] else "<"
    if checksum(data[:40], order, (0, 0)) != struct.unpack_from(f"{order}II", data, 40):
        return None
    (count,) = struct.unpack_from(f"{order}I", data, 16)
    (copied,) = struct.unpack_from(f"{order}I", data, 96)
    return Promise(data[32:40], count, copied)


class Log:
    """A log as it lies there. What is `missing` or `is_copied` is right where commits were synced one by one. Whether
    it `is_torn` may be asked of a store that is open; all else before SQLite opens it (see `promised`).

    It takes time with the length of the log, some 10 us for each page, and some bytes of memory. Damage is no error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = read_file(wal_of(path), HEADER)
        self._is_sound = _is_sound(self._head)
        # Of each frame of the round that is being written. Where SQLite has begun anew, frames of the round before
        # follow, and all of those are in the database.
        self._number, self._page, self._commit, self._good = array("I"), array("I"), array("I"), bytearray()
        salts = self._head[16:24] if self._is_sound else _usual_salts(path)
        self._read(salts)
        self._salts = salts if self._is_sound or any(self._good) else None
        """Of the round that is being written, None where nobody can tell."""
        self._end = len(self._good)  # behind the last commit: one that has no end never was
        while self._end and not (self._good[self._end - 1] and self._commit[self._end - 1]):
            self._end -= 1
        self.readable = self._count_readable()

    def _read(self, salts: bytes) -> None:
        orders = [_order(self._head)] if self._is_sound else ["<", ">"]
        before: Checksum = struct.unpack(">II", self._head[24:]) if len(self._head) == HEADER else (0, 0)
        number = 0
        for data in _chunks(self._path):
            count = len(data) // FRAME
            good = map(any, zip(*(whole(data, order, before) for order in orders), strict=True))
            of_round = [data[at : at + 8] == salts for at in range(8, len(data), FRAME)]
            self._number.extend(compress(range(number, number + count), of_round))
            self._page.extend(compress(_words(data, 0), of_round))
            self._commit.extend(compress(_words(data, 1), of_round))
            self._good.extend(compress(good, of_round))
            before = struct.unpack_from(">II", data, len(data) - PAGE - 8)
            number += count

    @cached_property
    def _promise(self) -> Promise | None:
        """Only `missing`, `is_copied` and `wanted` ask for it, and they are not for a store that is open here."""
        found = promised(self._path)
        if found is not None and self._salts not in (None, found.salts):
            return None  # that of another round
        return found

    @property
    def salt(self) -> int | None:
        """As `salt_of`; None also where the log's head is damaged."""
        return salt_in(self._head) if self._is_sound else None

    def _count_readable(self) -> int:
        """How many frames SQLite would read: up to the last commit before the first that is not whole."""
        if not self._is_sound:
            return 0
        bad = self._good.find(0)
        count = len(self._good) if bad < 0 else bad
        while count and not self._commit[count - 1]:
            count -= 1
        return count

    @property
    def is_torn(self) -> bool:
        """Whether frames of this round lie behind those that SQLite reads."""
        return self.readable < len(self._good)

    @property
    def goes_on(self) -> bool:
        """Whether whole commits lie behind those that SQLite reads."""
        return self.readable < self._end

    @property
    def has_commits(self) -> bool:
        """Whether there is anything to be read, by SQLite or without it."""
        return self._end > 0

    @property
    def missing(self) -> int:
        """How many frames were safe once and cannot be read now. Each commit is synced before the next begins: one that
        the next goes on from was safe. What power cuts leave of commits that were never done is nothing to worry about:
        what follows in the file then is older, and goes on from something else."""
        safe = 0 if self._promise is None else self._promise.frames
        for number in range(self.readable + 1, self._end):
            if self._commit[number - 1] and self._good[number]:
                safe = max(safe, number)
        return max(0, safe - self.readable)

    @property
    def is_copied(self) -> bool:
        """Whether all that it ever held is in the database as well."""
        there = self._promise
        return there is not None and there.copied == there.frames >= len(self._good)

    @property
    def wanted(self) -> list[Frame]:
        """The good frames that are not in the database already."""
        copied = 0 if self._promise is None else self._promise.copied
        wanted = (n for n in range(copied, self._end) if self._good[n])
        return [Frame(self._page[n], self._commit[n], HEADER + FRAME * self._number[n]) for n in wanted]


def _chunks(path: Path) -> Iterator[bytes]:
    """The whole frames of a log, of older rounds too, some at a time; none where there is no log."""
    with suppress(FileNotFoundError), wal_of(path).open("rb") as file:
        place = HEADER
        while data := read_at(file.fileno(), place, _AT_ONCE * FRAME):
            if len(data) >= FRAME:
                yield data[: len(data) - len(data) % FRAME]
            place += len(data)


def pages_in_log(path: Path) -> set[int]:
    """Which pages of a store its log has, of older rounds too."""
    return {page for data in _chunks(path) for page in _words(data, 0)}


def _words(data: bytes, which: int) -> array[int]:
    """Those of the frames' heads: 0 is the page's number, 1 `commit`."""
    words = array("I", data)[which :: FRAME // 4]
    if sys.byteorder == "little":
        words.byteswap()
    return words


def _is_sound(head: bytes) -> bool:
    return len(head) == HEADER and checksum(head[:24], _order(head), (0, 0)) == struct.unpack_from(">II", head, 24)


def _usual_salts(path: Path) -> bytes:
    """Those of most frames."""
    found = Counter(data[at : at + 8] for data in _chunks(path) for at in range(8, len(data), FRAME))
    return max(found, key=found.__getitem__, default=b"")


def mended(log: Path, kept: list[Frame]) -> Iterator[bytes]:
    """A log of these frames of another, as SQLite reads it: new checksums, and each one a commit of its own."""
    pages = max(frame.commit for frame in kept)
    head = struct.pack(">IIII", _MAGIC, 3_007_000, PAGE, 0) + b"edgedept"
    before = checksum(head, "<", (0, 0))
    yield head + struct.pack(">II", *before)
    with log.open("rb") as file:
        for frame in kept:
            top = struct.pack(">II", frame.page, max(pages, frame.page))
            body = read_at(file.fileno(), frame.offset + FRAME_HEADER, PAGE)
            before = checksum(top + body, "<", before)
            yield top + b"edgedept" + struct.pack(">II", *before) + body


def _order(head: bytes) -> str:
    return ">" if head[3:4] == b"\x83" else "<"
