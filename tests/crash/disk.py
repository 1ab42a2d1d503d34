"""The files that a power cut may leave, rebuilt from what a process did to them.

What was synced is there. Of what was written since, a power cut leaves anything: each write whole, not at all, or some
of its sectors; a file's size with or without its data; new names, removals and renames each or not. Two kinds of disk:

    ordered   as ext4 with data=ordered does: names change in order, a sync of any file brings all of them along; a file
              that grew has the data up to where it ends; what was written over may be there or not, sector by sector
    worst     what POSIX promises and no more: names only after a sync of the folder, and no order in anything
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.crash.recording import Create, Mark, Operation, Rename, Replace, Sync, SyncFolder, Truncate, Unlink, Write

Files = dict[str, bytes]
Kind = Literal["kept", "dropped", "ordered", "worst"]
"""What became of all that was not synced: all kept (the process was killed, the machine ran on), all dropped, or a
draw by the rules of that disk."""
KINDS: tuple[Kind, ...] = ("kept", "dropped", "ordered", "worst")
SECTORS = (512, 4096)


@dataclass(slots=True)
class _Name:
    """A change of the folder that was not synced. A later sync of a file writes a journal that has it, on ext4."""

    change: Create | Unlink | Rename
    journalled: bool = False


class Disk:
    """The files after some operations: what is safe of them, and what is not."""

    def __init__(self) -> None:
        self._safe: dict[int, bytes] = {}
        self._unsafe: dict[int, list[Write | Truncate]] = {}
        self._names: dict[str, int] = {}
        self._renaming: list[_Name] = []

    def do(self, operation: Operation) -> None:
        if isinstance(operation, (Create, Unlink, Rename)):
            self._renaming.append(_Name(operation))
        elif isinstance(operation, (Write, Truncate)):
            self._unsafe.setdefault(operation.file, []).append(operation)
        elif isinstance(operation, Sync):
            unsafe = self._unsafe.pop(operation.file, [])
            if unsafe:
                self._safe[operation.file] = bytes(_all_of(self._safe.get(operation.file, b""), unsafe))
            for name in self._renaming:
                name.journalled = True
        elif isinstance(operation, SyncFolder):
            _change(self._names, [name.change for name in self._renaming])
            self._renaming.clear()
        elif isinstance(operation, Replace):
            self._safe = dict(operation.files.values())
            self._names = {name: file for name, (file, _) in operation.files.items()}
            self._unsafe.clear()
            self._renaming.clear()

    def cut(self, kind: Kind, rng: random.Random) -> Files:
        """The files after a power cut now."""
        names = dict(self._names)
        _change(names, self._surviving_names(kind, rng))
        sector, keep = rng.choice(SECTORS), rng.choice((0.1, 0.5, 0.9))
        return {name: self._content(file, kind, rng, sector, keep) for name, file in sorted(names.items())}

    def _surviving_names(self, kind: Kind, rng: random.Random) -> list[Create | Unlink | Rename]:
        changes = [name.change for name in self._renaming]
        if kind == "kept":
            return changes
        if kind == "dropped":
            return []
        if kind == "ordered":
            sure = sum(name.journalled for name in self._renaming)
            return changes[: rng.randint(sure, len(changes))]
        keep = rng.random()
        return [change for change in changes if rng.random() < keep]

    def _content(self, file: int, kind: Kind, rng: random.Random, sector: int, keep: float) -> bytes:
        safe, unsafe = self._safe.get(file, b""), self._unsafe.get(file, [])
        if kind == "dropped" or not unsafe:
            return safe
        if kind == "kept":
            return bytes(_all_of(safe, unsafe))
        if kind == "ordered":
            return bytes(_ordered(safe, unsafe, rng, sector, keep))
        return bytes(_worst(safe, unsafe, rng, sector, keep))


def _change(names: dict[str, int], changes: Iterable[Create | Unlink | Rename]) -> None:
    for change in changes:
        if isinstance(change, Create):
            names[change.name] = change.file
        elif isinstance(change, Unlink):
            names.pop(change.name, None)
        elif change.name in names:
            names[change.to] = names.pop(change.name)


def _all_of(safe: bytes, unsafe: Iterable[Write | Truncate]) -> bytearray:
    content = bytearray(safe)
    for one in unsafe:
        if isinstance(one, Write):
            _put(content, one.offset, one.data)
        else:
            _resize(content, one.size)
    return content


def _ordered(safe: bytes, unsafe: list[Write | Truncate], rng: random.Random, sector: int, keep: float) -> bytearray:
    """The file grew as far as some first operations had it, with its data; over what was there any sector may lie."""
    sure = rng.randint(0, len(unsafe))
    size = len(_all_of(safe, unsafe[:sure]))
    content = bytearray(safe)
    for place, one in enumerate(unsafe):
        if isinstance(one, Truncate):
            if place < sure:
                _resize(content, one.size)
            continue
        for offset, piece in _sectors(one, sector):
            if offset >= len(safe) or rng.random() < keep:
                _put(content, offset, piece)
    _resize(content, size)
    return content


def _worst(safe: bytes, unsafe: list[Write | Truncate], rng: random.Random, sector: int, keep: float) -> bytearray:
    content = bytearray(safe)
    torn = rng.random() < 0.5
    for one in unsafe:
        if isinstance(one, Truncate):
            if rng.random() < keep:
                _resize(content, one.size)
        elif rng.random() < keep:
            for offset, piece in _sectors(one, sector):
                if not torn or rng.random() < keep:
                    _put(content, offset, piece)
        elif rng.random() < 0.3:  # the size came to the disk, and the data did not: zeros, or what lay there
            end = one.offset + len(one.data)
            if end > len(content):
                junk = rng.choice((bytes, rng.randbytes))
                content += junk(end - len(content))
    return content


def _sectors(write: Write, sector: int) -> Iterator[tuple[int, bytes]]:
    offset, data = write.offset, write.data
    while data:
        length = sector - offset % sector
        yield offset, data[:length]
        offset, data = offset + length, data[length:]


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content += bytes(size - len(content))


def digest(files: Files) -> bytes:
    """What tells two states apart."""
    found = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        found.update(f"{name}\0{len(content)}\0".encode())
        found.update(content)
    return found.digest()


def disks(operations: Iterable[Operation]) -> Iterator[tuple[int, Disk]]:
    """The disk before the first operation and after each, with the number of operations done; the same object each
    time. Marks change nothing on it, but what is promised by then."""
    disk = Disk()
    yield 0, disk
    for done, operation in enumerate(operations, 1):
        if not isinstance(operation, Mark):
            disk.do(operation)
        yield done, disk
