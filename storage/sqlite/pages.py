"""Reads rows from the pages of a database file without SQLite, where SQLite cannot: because the root of a table, a page
on the way to its rows, or the list of tables is gone. A leaf page tells its rows by itself.

The formats are https://www.sqlite.org/fileformat2.html (b-tree pages, records, cell payload overflow, freelist).
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgedepot.storage.sqlite.checksums import FRAME_HEADER, PAGE
from edgedepot.storage.sqlite.sectors import read_at
from edgedepot.storage.sqlite.wal import Frame

TABLE_LEAF, INDEX_LEAF, TABLE_INNER, INDEX_INNER = 0x0D, 0x0A, 0x05, 0x02
_INNER = (TABLE_INNER, INDEX_INNER)
_COLUMNS = 2_000
_LARGEST = 16 << 20  # bytes of a row; damage must not make one that never ends
_FIXED = {0: None, 8: 0, 9: 1}
_INTEGER_SIZE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Record(NamedTuple):
    """One row: of a table with its rowid, of an index or a table without rowid with None."""

    rowid: int | None
    values: list[Any]


class _Unreadable(Exception):
    """Not what the format says."""


class Pages:
    """The pages of a file, and over them those of its log."""

    def __init__(self, path: Path, log: Path, frames: list[Frame]) -> None:
        self._files = contextlib.ExitStack()
        self._file = self._opened(path)
        self._log = self._opened(log)
        self._size = 0 if self._file is None else os.fstat(self._file).st_size
        self._newer = {frame.page: frame.offset + FRAME_HEADER for frame in frames}
        self.count = max([-(-self._size // PAGE), *self._newer])  # the last one may be there in part

    def _opened(self, path: Path) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return self._files.enter_context(path.open("rb")).fileno()
        return None

    def close(self) -> None:
        self._files.close()

    def page(self, number: int) -> bytes:
        """A page as the last commit left it, as far as that can be read; zeros where there is none."""
        offset = self._newer.get(number)
        file, place = (self._file, (number - 1) * PAGE) if offset is None else (self._log, offset)
        found = b"" if file is None or place < 0 else read_at(file, place, PAGE)
        return found.ljust(PAGE, b"\0")

    def free(self) -> set[int]:
        """The pages that are not in use, as far as their list can be read."""
        found: set[int] = set()
        trunk = int.from_bytes(self.page(1)[32:36], "big")
        while 0 < trunk <= self.count and trunk not in found:
            found.add(trunk)
            page = self.page(trunk)
            trunk, number = struct.unpack_from(">II", page)
            found.update(struct.unpack_from(f">{min(number, PAGE // 4 - 2)}I", page, 8))
        return found

    def leaves(self, root: int) -> set[int]:
        """The pages with the rows of a table, from its root, as far as one gets; all pages on the way are in it too."""
        found: set[int] = set()
        ahead = [root]
        while ahead:
            number = ahead.pop()
            if number in found or not 0 < number <= self.count:
                continue
            found.add(number)
            page = self.page(number)
            start = 100 if number == 1 else 0
            if page[start] in _INNER:
                children = [int.from_bytes(page[cell : cell + 4], "big") for cell in _cells(page, start)]
                ahead += [*children, int.from_bytes(page[start + 8 : start + 12], "big")]
        return found

    def records(self, number: int) -> Iterator[Record]:
        """The rows on a page, without those that cannot be read; none where it is no page with rows."""
        page = self.page(number)
        start = 100 if number == 1 else 0
        kind = page[start]
        if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INNER):
            return
        for cell in _cells(page, start):
            with contextlib.suppress(_Unreadable, IndexError, struct.error, UnicodeDecodeError):
                yield self._record(page, cell + (4 if kind == INDEX_INNER else 0), kind)

    def _record(self, page: bytes, place: int, kind: int) -> Record:
        size, place = _varint(page, place)
        rowid = None
        if kind == TABLE_LEAF:
            rowid, place = _varint(page, place)
            rowid -= (rowid >> 63) << 64
        return Record(rowid, _values(self._payload(page, place, size, kind)))

    def _payload(self, page: bytes, place: int, size: int, kind: int) -> bytes:
        most = PAGE - 35 if kind == TABLE_LEAF else (PAGE - 12) * 64 // 255 - 23
        if size <= most:
            if place + size > PAGE:
                raise _Unreadable
            return page[place : place + size]
        if size > _LARGEST:
            raise _Unreadable
        least = (PAGE - 12) * 32 // 255 - 23
        local = least + (size - least) % (PAGE - 4)
        local = local if local <= most else least
        found = page[place : place + local]
        following = int.from_bytes(page[place + local : place + local + 4], "big")
        while len(found) < size:
            if not 0 < following <= self.count:
                raise _Unreadable
            more = self.page(following)
            following = int.from_bytes(more[:4], "big")
            found += more[4 : 4 + size - len(found)]
        return found


def _cells(page: bytes, start: int) -> list[int]:
    """Where the cells of a page begin."""
    number = int.from_bytes(page[start + 3 : start + 5], "big")
    first = start + (12 if page[start] in _INNER else 8)
    if first + 2 * number > PAGE:
        return []
    return [cell for cell in struct.unpack_from(f">{number}H", page, first) if first <= cell < PAGE - 3]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count in range(9):
        byte = data[place + count]
        if count == 8:
            return value << 8 | byte, place + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + count + 1
    raise _Unreadable


def _values(payload: bytes) -> list[Any]:
    head, place = _varint(payload, 0)
    if head > len(payload):
        raise _Unreadable
    kinds: list[int] = []
    while place < head and len(kinds) < _COLUMNS:
        kind, place = _varint(payload, place)
        kinds.append(kind)
    values: list[Any] = []
    place = head
    for kind in kinds:
        value, place = _value(payload, place, kind)
        values.append(value)
    if place != len(payload):
        raise _Unreadable
    return values


def _value(payload: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in _FIXED:
        return _FIXED[kind], place
    if kind in _INTEGER_SIZE:
        end = place + _INTEGER_SIZE[kind]
        return int.from_bytes(payload[place:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", payload, place)[0], place + 8
    if kind < 12:
        raise _Unreadable
    end = place + (kind - 12) // 2
    raw = payload[place:end]
    return (raw.decode() if kind % 2 else raw), end
