"""What a process did to the files of a folder: recorder.c is built, preloaded, and its records are read."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("recorder.c")
ROOT = Path(__file__).parents[2]
MARKS = "marks"
"""The file in the folder into which the process writes what it promised; no file of the store."""
NOT_RECORDED = (MARKS, "-shm", ".reserve")
"""How the names end of what is no file that a power cut leaves."""
_HEAD = struct.Struct("@IiqII")


class RecordingError(Exception):
    """Nothing could be recorded, or not all of it."""


@dataclass(frozen=True, slots=True)
class Create:
    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Unlink:
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    name: str
    to: str


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All that was written to a file is on the device."""

    file: int


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """The names in the folder are on the device."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Somebody put other files into the folder, by name with a number each; all of them are safe on the device."""

    files: dict[str, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Mark:
    """A line that the process wrote for the judge."""

    text: str


Operation = Create | Unlink | Rename | Write | Truncate | Sync | SyncFolder | Replace | Mark


def build(folder: Path, compiler: str = "cc") -> Path:
    """The library to preload. Raises `RecordingError` where there is no C compiler."""
    found = shutil.which(compiler)
    if found is None:
        raise RecordingError(f"the crash tests need a C compiler ({compiler}): apt-get install gcc libc6-dev")
    library = folder / "recorder.so"
    command = [found, "-Wall", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-lpthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RecordingError(f"{' '.join(command)} failed:\n{done.stderr}")
    return library


def record(library: Path, folder: Path, log: Path, arguments: Sequence[str], settings: Mapping[str, str]) -> None:
    """Run Python with the arguments, and append what it does in the folder to the log. The settings go into its
    environment. Raises `RecordingError` where it fails."""
    environment = {
        **os.environ,
        **settings,
        "LD_PRELOAD": str(library),
        "EDGEDEPOT_CRASH_FOLDER": str(folder),
        "EDGEDEPOT_CRASH_LOG": str(log),
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RecordingError(f"the recorded process ended with {done.returncode}:\n{done.stdout}{done.stderr}")


class Recording:
    """The operations of one process after the other, in order. Follows names and descriptors to the files."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._names: dict[str, int] = {}
        self._open: dict[int, int | None] = {}  # None: the folder
        self._files = 0
        self._marks: set[int] = set()

    def add(self, log: Path) -> None:
        """Append the log of a process. Raises `RecordingError` for calls that cannot be rebuilt."""
        text = log.read_bytes()
        place = 0
        while place < len(text):
            kind, descriptor, number, name_length, length = _HEAD.unpack_from(text, place)
            place += _HEAD.size
            name = text[place : place + name_length].decode()
            place += name_length
            self._take(chr(kind), descriptor, number, name, text[place : place + length])
            place += length

    def replace(self, files: Mapping[str, bytes]) -> None:
        """These are the files from here on; marks begin anew."""
        self._names = {name: self._files + place for place, name in enumerate(files, 1)}
        self._files += len(files)
        self.operations.append(Replace({name: (self._names[name], content) for name, content in files.items()}))

    def mark(self, text: str) -> None:
        self.operations.append(Mark(text))

    @property
    def deeds(self) -> int:
        """How many deeds were begun."""
        return sum(isinstance(one, Mark) and one.text.startswith('{"begin"') for one in self.operations)

    def _take(self, kind: str, descriptor: int, number: int, name: str, data: bytes) -> None:
        if kind == "b":
            self._open.clear()
        elif kind in "oc":
            self._opened(descriptor, name, kind == "c")
        elif kind == "x":
            self._open.pop(descriptor, None)
        elif kind == "u":
            self._names.pop(name, None)
            self.operations.append(Unlink(name))
        elif kind == "r":
            self._names[data.decode()] = self._names.pop(name)
            self.operations.append(Rename(name, data.decode()))
        elif kind in "wts":
            self._to_file(kind, self._open[descriptor], number, data)
        else:
            raise RecordingError(f"the process called {name}, which cannot be rebuilt")

    def _opened(self, descriptor: int, name: str, created: bool) -> None:
        if not name:
            self._open[descriptor] = None
            return
        if created:
            self._files += 1
            self._names[name] = self._files
            if name == MARKS:
                self._marks.add(self._files)
            else:
                self.operations.append(Create(name, self._files))
        if name not in self._names:
            raise RecordingError(f"the process opened {name!r}, which was there before the recording")
        self._open[descriptor] = self._names[name]

    def _to_file(self, kind: str, file: int | None, number: int, data: bytes) -> None:
        if file is None:
            self.operations.append(SyncFolder())
        elif file in self._marks:
            self.operations += [Mark(line) for line in data.decode().splitlines()]
        elif kind == "w":
            self.operations.append(Write(file, number, data))
        elif kind == "t":
            self.operations.append(Truncate(file, number))
        else:
            self.operations.append(Sync(file))
