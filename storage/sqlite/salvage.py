"""Salvage: what happens when the store's file is damaged.

    gateway.db       is renamed to  gateway.db.damaged-20260101T120000Z          1. the sidecar says that, synced
    gateway.db-wal                  gateway.db.damaged-20260101T120000Z-wal      2. both are renamed
                                    gateway.db.salvaging                         3. made out of them (rebuild.py)
                                    gateway.db                                   4. which it is from then on
                                                                                 5. the sidecar says that it is done
Interrupted before step 4, all of it from step 2 on is done again. After it a file of SQLite's lies beside what was put
aside: that tells that it is done, whatever the sidecar says. Nothing is deleted but what step 3 left half made.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite.aside import free_name, move
from edgedepot.storage.sqlite.checksums import PAGE
from edgedepot.storage.sqlite.connection import code_of, is_damage, is_unread
from edgedepot.storage.sqlite.files import put_in_place
from edgedepot.storage.sqlite.report import Salvaged
from edgedepot.storage.sqlite.reserve import give_up, is_full, reserve_of
from edgedepot.storage.sqlite.sectors import read_file
from edgedepot.storage.sqlite.sidecar import Sidecar, sync_folder
from edgedepot.storage.sqlite.wal import Log, mended, shm_of, wal_of

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.pages import Pages

log = logging.getLogger(__name__)
MAGIC = b"SQLite format 3\0"
UNREADABLE = (
    msgspec.MsgspecError, LookupError, TypeError, ValueError, AssertionError, ArithmeticError, RecursionError,
    MemoryError,
)  # fmt: skip
"""What a record that is not what was written leads to, where the store makes use of it; the last where it claims to be
larger than SQLite takes memory for."""


class Flaw(NamedTuple):
    """What is wrong with a store; whether its log is to be used, or is another store's; and whether file and log are of
    one time."""

    reason: str
    use_log: bool = True
    fit: bool = True


class Damage(Exception):
    """The store's file, or a record in it, cannot be read. The text says what and where."""


@contextlib.contextmanager
def finding_damage() -> Iterator[None]:
    """What the store's own reading of its file stumbles over."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        codes = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)  # no such table; two records contradict
        if not (is_damage(exc) or is_unread(exc) or code_of(exc) & 0xFF in codes):
            raise
        raise Damage(str(exc)) from exc
    except UNREADABLE as exc:
        raise Damage(f"a record cannot be read: {exc!r}") from exc


def salvage(path: Path, sidecar: Sidecar, flaw: Flaw, now: int) -> None:
    """Make a new store out of a damaged one, which is put aside: all but step 5. `now` is in microseconds since 1970
    UTC. Nobody may have the file open for writing.

    Raises `StorageError` where there is no room for even an empty store, or for the word that it was begun.
    """
    log.error("%s is damaged (%s): reading what can be read of it into a new file", path, flaw.reason)
    try:
        aside = _put_aside(path, sidecar, flaw, now)
        report = _rebuilt(path, sidecar, aside, flaw, now)
    except (OSError, sqlite3.OperationalError) as exc:
        raise StorageError(f"{path} is damaged ({flaw.reason}) and cannot be salvaged: {exc}") from exc
    log.error("%s was salvaged: %s", path, report)


def is_salvaged(path: Path, sidecar: Sidecar) -> bool:
    """Whether the salvage that the sidecar speaks of has come to its end, or somebody has put another store in the
    place of the one that was put aside."""
    if sidecar.salvaging is None:
        return False
    aside = path.with_name(sidecar.salvaging)
    # No more than that it is an SQLite file: in the middle of a checkpoint more of it can be read with its log alone.
    return (aside.exists() or wal_of(aside).exists()) and read_file(path, len(MAGIC)) == MAGIC


def interrupted(sidecar: Sidecar) -> Flaw | None:
    """What the salvage is about that has not come to its end, None where there is none."""
    if sidecar.salvaging is None:
        return None
    known = sidecar.damage
    if known is None:
        return Flaw("its salvage was interrupted")
    return Flaw(*known)._replace(reason=f"{known[0]}; its salvage was interrupted")


def _put_aside(path: Path, sidecar: Sidecar, flaw: Flaw, now: int) -> Path:
    """The damaged file under its new name; also one whose salvage was interrupted."""
    if sidecar.salvaging is None:
        sidecar.mark(("damage", *flaw), ("salvaging", free_name(path, "damaged", now).name))
    aside = path.with_name(sidecar.salvaging or "")
    move(path, aside, log=None if flaw.use_log else aside.with_name(aside.name + "-foreign-wal"))
    move(path, free_name(path, "damaged", now))  # what was not put aside, and was not made of that either
    sync_folder(path)
    return aside


def put_aside_log(path: Path, now: int) -> Path:
    """Rename the log of a file that is not its; the new name."""
    aside = wal_of(free_name(path, "damaged", now))
    wal_of(path).rename(aside)
    shm_of(path).unlink(missing_ok=True)
    return aside


def _rebuilt(path: Path, sidecar: Sidecar, aside: Path, flaw: Flaw, now: int) -> Salvaged:
    """Put the new file in place: with all partitions of history, or as many of the latest as there is room for."""
    # Here, as hardly a store is ever damaged: what is imported stays in memory for years.
    from edgedepot.storage.sqlite.pages import Pages
    from edgedepot.storage.sqlite.rebuild import Rebuild

    target = path.with_name(path.name + ".salvaging")
    found, log_file = _mended(aside)
    complete = flaw.fit and not (found.missing and found.has_commits)
    partitions: int | None = None
    may_pass = True  # one write that fails is no full device yet
    while True:
        for name in (target.name, target.name + "-wal", target.name + "-shm", target.name + "-journal"):
            path.with_name(name).unlink(missing_ok=True)
        pages = Pages(aside, log_file, found.wanted)
        old = aside if aside.exists() and aside.stat().st_size >= PAGE else _stand_in(path, pages)
        try:
            rebuild = Rebuild(target, old, pages, sidecar, partitions, complete=complete)
        except sqlite3.Error:
            pages.close()
            raise
        try:
            rebuild.run()
            there = aside.exists() or wal_of(aside).exists()
            notes = rebuild.notes
            if found.missing or not flaw.use_log:
                notes.append("what was in its log alone is lost as far as it cannot be read")
            if not flaw.fit:
                notes.append("how many more are lost is not known")
            if partitions is not None:
                more = f"{rebuild.left_out} older readings that can be read"
                notes.append(f"there was no room for more: {more} are in the damaged file alone")
            report = Salvaged(
                from_micros(now), flaw.reason, aside.name if there else None, rebuild.kept, tuple(rebuild.spans),
                tuple(rebuild.numbers), tuple(notes), rebuild.unplaced,
            )  # fmt: skip
            rebuild.finish(msgspec.json.encode(report).decode())
        except sqlite3.OperationalError as exc:
            if not is_full(exc, path.parent) or partitions == 0:
                raise StorageError(f"{path} is damaged ({flaw.reason}) and cannot be salvaged: {exc}") from exc
            has_more = give_up(reserve_of(path)) or may_pass
            partitions = partitions if has_more else rebuild.partitions // 2
            may_pass = False
        else:
            break
        finally:
            rebuild.close()
            pages.close()
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    put_in_place(target, path, aside)
    path.with_name(path.name + ".salvaging-pages").unlink(missing_ok=True)
    sync_folder(path)
    return report


def _stand_in(path: Path, pages: Pages) -> Path:
    """A file of the pages in the log, where there is no other: no larger than a log becomes."""
    file = path.with_name(path.name + ".salvaging-pages")
    with file.open("wb") as opened:
        opened.writelines(pages.page(number) for number in range(1, pages.count + 1))
    return file


def _mended(aside: Path) -> tuple[Log, Path]:
    """The damaged file's log, and where it is. Where some of it cannot be read, the rest of it is put in its place, as
    SQLite reads it; the log as it was lies beside that."""
    wal = wal_of(aside)
    original = wal.with_name(wal.name + "-found")
    if original.exists():  # of a salvage that was interrupted
        original.replace(wal)
    log_found = Log(aside)
    if log_found.missing and wal.exists():
        wal.rename(original)
        if wanted := log_found.wanted:
            with wal.open("wb") as file:
                file.writelines(mended(original, wanted))
    shm_of(aside).unlink(missing_ok=True)
    return log_found, original if original.exists() else wal
