"""Files of a store that give way to others, renamed and never deleted; and what is to take their place."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgedepot.storage.clock import from_micros
from edgedepot.storage.sqlite.wal import shm_of, wal_of


def free_name(path: Path, why: str, now: int) -> Path:
    """A name that no file has, for a store that is put aside: ``gateway.db.damaged-20260101T120000Z``. `now` is in
    microseconds since 1970 UTC."""
    stem = f"{path.name}.{why}-{from_micros(now):%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem if not number else f"{stem}-{number}") for number in range(1_000))
    return next(name for name in names if not any(one.exists() for one in (name, wal_of(name), shm_of(name))))


def move(path: Path, aside: Path, *, log: Path | None = None) -> None:
    """Rename the store's file, its log (to the name `log`, where it is not the file's) and the log's index, those that
    are there. One that is put aside already stays as it is: this goes on where it was interrupted."""
    for one, other in ((path, aside), (wal_of(path), log or wal_of(aside)), (shm_of(path), shm_of(aside))):
        if one.exists() and not other.exists():
            one.rename(other)


def own_names(path: Path) -> set[str]:
    """Of the files that a store may have beside it, and takes for its own when it finds them."""
    copies = ("", ".next", ".restored", ".salvaging", ".salvaging-pages")
    beside = (".lock", ".reserve", ".catalogue", ".catalogue.new")
    return {path.name + copy + part for copy in copies for part in ("", "-wal", "-shm", "-journal")} | {
        path.name + suffix for suffix in beside
    }


def next_of(path: Path) -> Path:
    """A copy of the store's file on its way to take its place (successor.py)."""
    return path.with_name(path.name + ".next")


def remove_next(path: Path) -> None:
    """Remove what was half copied, by a process that was killed too."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(next_of(path).name + suffix).unlink(missing_ok=True)
