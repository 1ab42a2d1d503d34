"""What a fork leaves of a store in the child: nothing that may be used.

Its threads are not there, and of their locks some may be held for ever. SQLite goes by its memory: it takes the locks
on the file for its own, which the kernel gives to no child, so that the parent overwrites what a child reads, through a
new connection too (https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_). And to close a
connection may undo what the parent is about to commit. So in the child whoever calls the store is told, the same file
is not opened again, and the connections stay as they are until the process ends.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from pathlib import Path

from edgedepot.storage.errors import StorageError

_open: weakref.WeakSet[Connection] = weakref.WeakSet()
_inherited: dict[tuple[int, int], int] = {}
"""The files that were open when this process was forked, and the process that had opened them."""
_process = os.getpid()  # to ask the kernel for it takes longer than all that is done with a reading


class Connection(sqlite3.Connection):
    """One to a store, by whatever `uri`, known here for as long as it is open. For one thread at a time."""

    def __init__(self, path: Path, uri: str | None = None, *, timeout: float) -> None:
        """Raises `StorageError` where the file was open when this process was forked."""
        check_inherited(path)
        self.path = path
        super().__init__(
            uri or path, uri=uri is not None, timeout=timeout, isolation_level=None, check_same_thread=False
        )
        _open.add(self)

    def close(self) -> None:
        super().close()
        _open.discard(self)


class Home:
    """The process that has opened a store."""

    def __init__(self, path: Path) -> None:
        """Raises `StorageError` where the file was open when this process was forked."""
        self._path = path
        self._process = _process
        check_inherited(path)

    @property
    def is_left(self) -> bool:
        """Whether this is another process."""
        return self._process != _process

    def check(self) -> None:
        """Raises `StorageError` in another process."""
        if self.is_left:
            raise StorageError(_text(self._path, self._process))


def check_inherited(path: Path) -> None:
    """Raises `StorageError` where a file was open when this process was forked."""
    if _inherited and (process := _inherited.get(_file(path))) is not None:
        raise StorageError(_text(path, process))


def _text(path: Path, process: int) -> str:
    return (
        f"{path} was opened in process {process}, and this one was forked from that with the file open: use a process"
        " that is started anew (multiprocessing: 'spawn'), or fork before the store is opened"
    )


def _file(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _forked() -> None:
    """In the child."""
    global _process
    parent, _process = _process, os.getpid()
    inherited = list(_open)
    if not inherited:
        return
    import ctypes  # here, as hardly a process with a store forks

    for connection in inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # nobody's to let go of, also at the very end
        _inherited.setdefault(_file(connection.path), parent)
    _inherited.pop((0, 0), None)
    _open.clear()


os.register_at_fork(after_in_child=_forked)
