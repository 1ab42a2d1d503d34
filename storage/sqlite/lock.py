"""Who writes a store: the lock against a second writer, and its file."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import weakref
from pathlib import Path
from typing import ClassVar

from edgedepot.storage.errors import StorageLocked, StoreUnusable
from edgedepot.storage.sqlite.claim import claim, claimant, end_claim
from edgedepot.storage.sqlite.files import check_files, why_no_more
from edgedepot.storage.sqlite.holders import openers

log = logging.getLogger(__name__)
_LOCK_BYTES = 64


class StoreLock:
    """Keeps a second process from writing one store. The kernel lets go of it when the holder dies."""

    _all: ClassVar[weakref.WeakSet[StoreLock]] = weakref.WeakSet()

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._store = path
        self._claimed: os.stat_result | None = None
        self.take()
        self._all.add(self)

    def take(self) -> None:
        """Take it, also again after `release`. Raises `StoreUnusable` and `StorageLocked`."""
        path = self._store
        check_files(path, to_write=True)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StoreUnusable(f"{path} cannot be opened for writing: {exc.strerror} ({self.path})") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            here = any(one._has_same(self._file) for one in list(self._all))
            holder = f"process {os.getpid()}" if here else self._holder()
            self.release()
            cure = ", which is this one; use the object that has it open" if here else "; stop it first"
            raise StorageLocked(f"{path} is being written by {holder}{cure}, or open the store read-only") from exc
        self._look_by_other_names()
        self.found = self._read()[1]
        """What was noted last; at first by the last holder: "" where it closed the store for good."""
        self.note(self.found)

    def _look_by_other_names(self) -> None:
        """The file may have one by which this lock is not found."""
        process = os.getpid() if any(one._has(self._store) for one in list(self._all)) else claimant(self._store)
        if process is not None:
            self.release()
            raise self._refusal(process)

    def _has(self, path: Path) -> bool:
        """Whether this is the lock of that file."""
        with contextlib.suppress(OSError):
            return self._file >= 0 and self._store != path and self._store.samefile(path)
        return False

    def _has_same(self, file: int) -> bool:
        """Whether this process has the lock, by this object: its number may be that of one in another container."""
        return self._file >= 0 and self._file != file and os.path.samestat(os.fstat(self._file), os.fstat(file))

    def _refusal(self, process: int) -> StorageLocked:
        holder = f"process {process}" if process else "a process in another container"
        cure = "use the object that has it open" if process == os.getpid() else "stop it first"
        return StorageLocked(f"{self._store} is being written under another name by {holder}; {cure}")

    def hold_file(self) -> None:
        """Keep others from it by its other names too, once SQLite has it open to write. Raises `StorageLocked`."""
        if not claim(self._store):
            raise self._refusal(claimant(self._store) or 0)
        with contextlib.suppress(OSError):
            self._claimed = self._store.stat()

    def _holder(self) -> str:
        """Who has it: whom the kernel names, who says so, or a child of that which outlives it."""
        process = claimant(self._store)
        if process is not None:
            return f"process {process}" if process else "a process in another container"
        number = self._read()[0]
        named = f"process {number or 'unknown'}"
        is_there = number.isdigit() and Path("/proc", number).exists()
        return named if is_there else ", ".join(openers(os.fstat(self._file))) or named

    def _read(self) -> list[str]:
        lines = os.pread(self._file, _LOCK_BYTES, 0).decode("ascii", "replace").split("\n")
        return [line.strip() for line in (*lines, "", "")[:2]]

    def note(self, text: str, *, sync: bool = False) -> None:
        """Leave a word for the next holder. Always of one size: that works on a full disk too."""
        self.found = text
        try:
            self._write(text, sync=sync)
        except OSError as exc:
            log.warning("%s cannot be written, the store does without: %s", self.path, exc)

    def mark(self, text: str) -> None:
        """The same with a word on which what is done next depends. Raises `OSError` where it is not on the device."""
        self._write(text, sync=True)
        self.found = text

    def _write(self, text: str, *, sync: bool) -> None:
        line = f"{os.getpid():<10}\n{text[: _LOCK_BYTES - 12]:<{_LOCK_BYTES - 12}}\n".encode()
        os.pwrite(self._file, line, 0)
        if sync:
            os.fsync(self._file)

    def release(self) -> None:
        """Idempotent."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            end_claim(claimed)
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    @classmethod
    def _forked(cls) -> None:
        """In the child: it would have the lock for as long as it lives."""
        for lock in list(cls._all):
            lock.release()


os.register_at_fork(after_in_child=StoreLock._forked)


def writing_process(path: Path) -> int | None:
    """The process that has the store open for writing, None where there is none."""
    lock = path.with_name(path.name + ".lock")
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        text = lock.read_bytes().split(b"\n")[0].strip()
        return int(text) if text.isdigit() else None
    except OSError:
        return None


def why_refused(path: Path) -> str | None:
    """What the device itself says to a write, None where it takes one: SQLite says no more than "disk I/O error"."""
    try:
        file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(file, os.pread(file, _LOCK_BYTES, 0), 0)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as exc:
        return exc.strerror
    more = why_no_more(path.parent)
    return None if more is None else more.strerror
