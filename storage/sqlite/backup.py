"""A copy of a store that is being written, and a store out of a copy.

The copy is made inside one read transaction: it is the store at one moment, whatever is committed meanwhile, and
nobody waits for it (the log cannot be cut short until it is done). It bears a mark: whoever opens it to write raises
its epoch first, as numbers that were given out after the copy will be given out again.

    gateway.db.restored     the copy, ready                       1. the sidecar says what gives way, synced
    gateway.db, -wal        gateway.db.replaced-20260101T120000Z  2. are renamed
                            gateway.db                            3. is what was .restored
                                                                  4. the sidecar says that it is done
Interrupted after step 1, whoever opens the store does the rest.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from edgedepot.storage.errors import ConfigError, StorageError, StoreUnusable
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.aside import free_name, move, own_names
from edgedepot.storage.sqlite.connection import open_reader, sqlite_errors
from edgedepot.storage.sqlite.files import put_in_place, real
from edgedepot.storage.sqlite.lock import StoreLock
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
    source = real(source)
    _check(source)
    if target.exists():
        raise ConfigError(f"{target} exists; name a file that is not there")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no folder")
    if target.name in own_names(source) and target.parent.samefile(source.parent):
        raise ConfigError(f"{target} is a name that the store uses itself; name another file")
    _remove_left(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _device_errors(target):
            part.touch()  # or SQLite would say that it cannot be opened, and not why
            _copy(source, part, now, progress)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
            sync_folder(target)
    finally:
        _remove(part)
    return target.stat().st_size


def _remove_left(target: Path) -> None:
    """Remove what is there of copies whose processes were killed."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        number = part.name.split(".")[-2]
        if number.isdecimal() and not _runs(int(number)):
            _remove(part)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(OSError):  # another user's, or the device is read-only: no copy fails by that
            part.with_name(part.name + suffix).unlink()


def _check(source: Path) -> None:
    with sqlite_errors(source), contextlib.closing(open_reader(source)) as reader:
        schema.check(reader, source)


def _copy(source: Path, part: Path, now: int, progress: Progress | None) -> None:
    with sqlite_errors(source), contextlib.closing(open_reader(source)) as reader:
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
    copy, path = real(copy), real(path)
    if not copy.exists():
        raise StoreUnusable(f"{copy} does not exist")
    _check(copy)  # before a lock is left beside a store that will not be
    lock = StoreLock(path)
    try:
        sidecar = Sidecar(path)
        finish_restore(path, lock, sidecar)
        there = path.exists() or wal_of(path).exists()
        if there and not force:
            raise ConfigError(f"{path} exists; with --force it is put aside")
        fresh = _fresh(path)
        with _device_errors(path):
            fresh.unlink(missing_ok=True)
        copy_store(copy, fresh, now, progress)
        with sqlite_errors(fresh), _connected(fresh.absolute().as_uri()) as connection:
            store_id = schema.text(connection, "store_id")
        if sidecar.store_id != store_id:
            sidecar.forget()
        aside = free_name(path, "replaced", now)
        with _device_errors(path):
            sidecar.mark(("salvaging", ""), ("restoring", aside.name))
        finish_restore(path, lock, sidecar)
        return aside if there else None
    finally:
        lock.release()


def finish_restore(path: Path, lock: StoreLock, sidecar: Sidecar) -> None:
    """Steps 2 to 4, where the sidecar says that they are to be done. Raises `StorageError`."""
    if sidecar.restoring is None:
        return
    with _device_errors(path):
        if _fresh(path).exists():
            lock.note("", sync=True)  # the copy has no log
            move(path, path.with_name(sidecar.restoring))
            sync_folder(path)  # a disk may change names in any order: the copy would have the old log
            put_in_place(_fresh(path), path, path.with_name(sidecar.restoring))
            sync_folder(path)
        sidecar.mark(("restoring", ""))


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}.restored")


@contextlib.contextmanager
def _device_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(f"{path} cannot be written: {exc.strerror}") from exc


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()
