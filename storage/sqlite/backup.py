"""A copy of a store that is being written, and a store out of a copy.

The copy is made inside one read transaction: it is the store at one moment, whatever is committed meanwhile, and
nobody waits for it (the log cannot be cut short until it is done). It bears a mark: whoever opens it to write raises
its epoch first, as numbers that were given out after the copy will be given out again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import ConfigError, StorageError, StoreUnusable
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.connection import StoreLock, sqlite_errors
from edgedepot.storage.sqlite.sidecar import Sidecar, sync_folder
from edgedepot.storage.sqlite.wal import wal_of

Progress = Callable[[int, int], None]
"""Told now and then how many bytes are copied, and of how many."""
MARK = "copied_at"
_STEP = 256
_PAGE = 4096


def copy_store(source: Path, target: Path, now: int, progress: Progress | None = None) -> int:
    """Copy a store to a file that is not there yet, marked as a copy; its size in bytes. `now` is in microseconds since
    1970 UTC. Blocks until it is on the device. Raises `ConfigError` and `StorageError`."""
    if target.exists():
        raise ConfigError(f"{target} exists; name a file that is not there")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no folder")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _copy(source, part, now, progress)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target)
    except OSError as exc:
        raise StorageError(f"{target} cannot be written: {exc.strerror}") from exc
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)
    return target.stat().st_size


def _copy(source: Path, part: Path, now: int, progress: Progress | None) -> None:
    with sqlite_errors(source), _connected(source.absolute().as_uri() + "?mode=ro") as reader:
        schema.check(reader, source)
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM _meta").fetchone()  # from here on it sees one moment
        with sqlite_errors(part), _connected(part.absolute().as_uri()) as writer:
            writer.execute("PRAGMA synchronous = OFF")

            def tell(status: int, remaining: int, total: int) -> None:
                if progress is not None:
                    progress((total - remaining) * _PAGE, total * _PAGE)

            reader.backup(writer, pages=_STEP, progress=tell)
            schema.set_meta(writer, MARK, now)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file


def restore(copy: Path, path: Path, now: int, force: bool, progress: Progress | None = None) -> Path | None:
    """Put a copy in a store's place; where there is a store that is put aside with `force`, the new name of its file.

    Raises `ConfigError` where there is one without `force`, `StorageLocked` while a process writes it, and
    `StoreUnusable` where the copy is no store.
    """
    if not copy.exists():
        raise StoreUnusable(f"{copy} does not exist")
    lock = StoreLock(path)
    try:
        there = [one for one in (path, wal_of(path)) if one.exists()]
        if there and not force:
            raise ConfigError(f"{path} exists; with --force it is put aside")
        fresh = path.with_name(f"{path.name}.restored")
        fresh.unlink(missing_ok=True)
        copy_store(copy, fresh, now, progress)
        with sqlite_errors(fresh), _connected(fresh.absolute().as_uri()) as connection:
            store_id = schema.text(connection, "store_id")
        sidecar = Sidecar(path)
        if sidecar.store_id != store_id:
            sidecar.path.unlink(missing_ok=True)
        aside = _put_aside(path, now) if there else None
        fresh.replace(path)
        sync_folder(path)
        lock.note("", sync=True)
        return aside
    except OSError as exc:
        raise StorageError(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        lock.release()


def _put_aside(path: Path, now: int) -> Path:
    aside = path.with_name(f"{path.name}.replaced-{from_micros(now):%Y%m%dT%H%M%SZ}")
    for one, other in ((path, aside), (wal_of(path), wal_of(aside))):
        if one.exists():
            one.rename(other)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    return aside


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()
