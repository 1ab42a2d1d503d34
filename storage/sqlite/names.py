"""The names of a store's files, in this process: whoever opens them to read waits while they change."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path


class Names:
    """Of one store."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held while the files get other names, and while they are opened."""
        self.bar: str | None = None
        """Why the store may not be opened to read for now: the file is new and the log is not, between two attempts to
        go on in it (successor.py)."""


_all: weakref.WeakValueDictionary[str, Names] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def names_of(path: Path) -> Names:
    """The same for whoever asks, by whatever path, for as long as anybody keeps it."""
    with _lock:
        return _all.setdefault(os.path.realpath(path), Names())
