"""The length of the write-ahead log: it cannot begin again while a reader sees an old state.

    four times what it should be, or     whoever reads is named; when they have ended the log is cut. Where readers come
    what callers wait for                and go, and one is always there, commits wait a moment for those that are
    as large as the file too, or `most`  the store goes on in a copy of its file (successor.py), the readers keep the
                                         old one with its log. Up to `most` no more is copied than was logged before

Where there is no room for a copy the log grows on: to refuse readings would be the greater harm. When the readers end
much of it may go into the file. A commit that did that would take long: so it is done beside them (emptying.py).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite.checkpoint import Checkpoint, checkpoint, cut, keep_out, let_in, log_bytes
from edgedepot.storage.sqlite.checksums import FRAME, PAGE
from edgedepot.storage.sqlite.connection import is_damage, is_unread
from edgedepot.storage.sqlite.files import is_mounted_itself
from edgedepot.storage.sqlite.holders import holders
from edgedepot.storage.sqlite.left import Left, megabytes
from edgedepot.storage.sqlite.reserve import Reserve
from edgedepot.storage.sqlite.wal import HEADER

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.emptying import Emptying
    from edgedepot.storage.sqlite.successor import Successor

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
SHORTEN_SECONDS = 10.0
AGAIN_SECONDS = 600.0
PATIENCE = 1.0
"""For so long commits wait for readers that come and go. SQLite has those that begin meanwhile read the file alone."""
CARD = 9_000_000
"""Bytes that a slow card writes in a second."""
PORTION = 1000
"""So many frames of a long log go into the file at a time: a commit waits at most for the sync of what these have."""
_PATIENT = 16
"""What takes that part of the time for which callers wait goes into the file while commits wait."""
_TOO_LONG = 4
"""The log is too long when it is so many times what it should be."""


class LogLength:
    """Of one store. `warning` says who keeps the log from beginning again, or an older file from going; None while
    nobody does. Used on the writer's thread alone, but for that."""

    def __init__(self, path: Path, clock: Clock, reserve: Reserve, patience: float, most: float) -> None:
        """`patience` is in seconds of the machine's clock: it is SQLite that waits. `most` is in bytes: what a slow
        card writes while callers wait."""
        self.warning: str | None = None
        self.portion = PORTION
        self._path = path
        self._clock = clock
        self._reserve = reserve
        self._patience = patience
        self._most = most
        self._longest = _TOO_LONG * reserve.wal_pages * PAGE
        self._much = max(reserve.wal_pages, most / _PATIENT / PAGE)  # never less than in the normal course of things
        # It begins anew at a quarter of that. Where twice as much is in the file too, nobody has held it all the time.
        self._usual = self._waited_at = _TOO_LONG // 2 * reserve.wal_pages
        # After a commit there is never more than `wal_pages` for the next to put in, but for one that reads.
        self._bearable = max(self._much, (most - LOOK_SECONDS * CARD) / PAGE)
        self._look_at = clock.monotonic()
        self._limit: float = self._longest
        self._is_held = False
        self._lacks: int | None = None
        self._no_copy_before = self._heir_at = clock.monotonic()
        self._no_copy_below = 0.0
        self._successor: Successor | None = None
        self._emptying: Emptying | None = None
        self._again_at = clock.monotonic()
        self._failure: Exception | None = None
        self._left: list[Left] = []

    @property
    def expects_heir(self) -> bool:
        """Whether to ask for the `heir`."""
        return self._has_heir and self._clock.monotonic() >= self._heir_at

    @property
    def has_heir_in_place(self) -> bool:
        """Whether the store's file is another by its name, which is to be opened yet."""
        return self._successor is not None and self._successor.is_in_place

    @property
    def _has_heir(self) -> bool:
        """Which waits where the log goes into the file: it may be needless then."""
        return self._successor is not None and self._successor.is_waiting and self._emptying is None

    @property
    def due_at(self) -> float | None:
        """When to look again though nothing is written; None while that need not be."""
        if self._has_heir:
            return self._heir_at
        if self._emptying is not None and self._emptying.is_done:
            return self._clock.monotonic()
        return None if self.warning is None else self._look_at

    def begin(self, connection: sqlite3.Connection) -> None:
        """The store is opened. Where its log is long, a commit does not put it into the file before it returns."""
        if self._is_long:
            keep_out(connection)

    def look(self, connection: sqlite3.Connection, wake: Callable[[], None]) -> None:
        """After commits. `wake` is called from another thread when there is something to do. Raises `sqlite3.Error`,
        also what such a thread found."""
        now = self._clock.monotonic()
        if self._emptying is not None:
            self._look_after(self._emptying, connection, now)
        if self._emptying is None and now >= self._look_at:
            self._look(connection, now, wake)
        if self._wants_copy(now):
            self._measure(connection)
            if self._wants_copy(now):
                self._begin_copy(connection, wake)

    def _look(self, connection: sqlite3.Connection, now: float, wake: Callable[[], None]) -> None:
        is_long = self._is_held or self._is_long
        if is_long:
            self._shorten(connection, now, wake)
        else:
            let_in(connection, self._reserve.wal_pages)
            self._no_copy_below = 0
        self._forget_left()
        self._look_at = now + (SHORTEN_SECONDS if is_long or self._left else LOOK_SECONDS)
        self._tell()

    @property
    def _is_long(self) -> bool:
        """Whether it takes too much room, or a commit that puts it into the file too long."""
        return log_bytes(self._path) > self._longest or self._waits_more_than(self._bearable)

    def _shorten(self, connection: sqlite3.Connection, now: float, wake: Callable[[], None]) -> None:
        keep_out(connection)
        if now < self._again_at:
            return
        self._failure = None
        if self.is_much_waiting:
            self._empty(connection, wake)
        else:
            self._cut(connection)

    def _cut(self, connection: sqlite3.Connection) -> None:
        found = cut(connection)
        if self._is_copy_late(found.copied):
            self.renew()  # older readers have ended; where that was so before, others come and go
            found = cut(connection)
        if self._successor is None and not found.is_whole and self._usual < found.copied != self._waited_at:
            found = self._cut_patiently(connection)
        if found.is_whole or self._has_begun_again(found):
            self._note_cut(connection)
            return
        self._note_held(connection)

    def _has_begun_again(self, found: Checkpoint) -> bool:
        """Whether little of a long file is the log by now: one large commit made it so, and nobody held it. It is cut
        when nobody happens to read."""
        is_short = found.frames >= 0 and HEADER + found.frames * FRAME <= self._longest
        return is_short and not self._is_held and self._successor is None

    def _note_held(self, connection: sqlite3.Connection) -> None:
        self._is_held = True
        self._measure(connection)

    def _is_copy_late(self, copied: int) -> bool:
        """Whether nobody but the copy on its way keeps what the log had when it was begun."""
        return self._successor is not None and copied >= self._successor.frames and not self._no_copy_below

    def _measure(self, connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        self._limit = max(self._longest, min(pages * PAGE, self._most))
        self._lacks = self._missing(pages * PAGE)

    def _cut_patiently(self, connection: sqlite3.Connection) -> Checkpoint:
        """Where more of the log is in the file than when it was tried last: nobody waits twice for one that stays."""
        found = cut(connection, self._patience)
        self._waited_at = found.copied
        return found

    def _note_cut(self, connection: sqlite3.Connection) -> None:
        if self._is_held:
            log.warning("%s: its write-ahead log is short again", self._path)
        self._end_hold()
        let_in(connection, self._reserve.wal_pages)

    def _end_hold(self) -> None:
        self._is_held, self._lacks, self._no_copy_below, self._waited_at = False, None, 0, self._usual
        self._failure = None

    def _wants_copy(self, now: float) -> bool:
        is_free = self._successor is None and self._emptying is None and self._lacks is None
        is_time = self._is_held and is_free and now >= self._no_copy_before
        return is_time and log_bytes(self._path) > max(self._limit, self._no_copy_below)

    def _missing(self, size: int) -> int | None:
        """How much room a copy of that size needs, where there is less; None where there is enough."""
        needed = size + self._reserve.size
        return needed if self._successor is None and self._reserve.free < needed else None

    def _begin_copy(self, connection: sqlite3.Connection, wake: Callable[[], None]) -> None:
        if is_mounted_itself(self._path):
            return
        found = self._copied(connection)
        if found.copied == found.frames:  # the next commit begins anew, or there is a reader to be seen then
            return
        # Here, as hardly a store ever needs one: what is imported stays in memory for years.
        from edgedepot.storage.sqlite.successor import Successor

        try:
            self._successor = Successor(self._path, found.frames, wake)
        except (OSError, sqlite3.Error) as exc:
            self._put_off(exc)

    # -- beside the commits ---------------------------------------------------------------------------------------

    @property
    def is_much_waiting(self) -> bool:
        """Whether more of the log than may go into the file while commits wait is not there yet, or on its way."""
        return self._emptying is not None or self._waits_more_than(self._much)

    def _waits_more_than(self, frames: float) -> bool:
        found = self._index(frames)
        return found is not None and found.frames - found.copied > frames

    def _index(self, least: float) -> Checkpoint | None:
        """What there is of the log, and of it in the file; None where it is no longer than that, or not to be told."""
        if log_bytes(self._path) <= least * PAGE:
            return None
        from edgedepot.storage.sqlite.emptying import Index  # here, for the same reason as below

        try:
            found = Index(self._path).read()
        except OSError:
            return None
        return Checkpoint(0, found.frames, found.copied)

    def _copied(self, connection: sqlite3.Connection) -> Checkpoint:
        """The same, after what can go into the file has gone there, where that is little."""
        found = self._index(self._much)
        if found is not None and found.frames - found.copied > self._much:
            return found
        return checkpoint(connection, "PASSIVE")

    def _empty(self, connection: sqlite3.Connection, wake: Callable[[], None]) -> None:
        from edgedepot.storage.sqlite.emptying import Emptying

        try:
            self._emptying = Emptying(self._path, self.portion, wake)
        except (OSError, sqlite3.Error, StorageError) as exc:
            self._failure = exc
            self._note_held(connection)

    def _look_after(self, emptying: Emptying, connection: sqlite3.Connection, now: float) -> None:
        """Where it has come to something there is little left by now, or what was committed meanwhile."""
        if not emptying.is_done:
            if now >= self._look_at:
                self._look_at = now + SHORTEN_SECONDS
                self._tell()
            return
        self._end_emptying()
        self._failure = emptying.failure
        if emptying.failure is not None:
            self._note_failure(emptying.failure, connection, now)
            return
        is_late = self._is_copy_late(emptying.copied)
        if is_late:
            self.renew()
        if emptying.copied > emptying.began_at or is_late:
            self._look_at = now
            return
        self._note_held(connection)
        self._tell()

    def _note_failure(self, failure: Exception, connection: sqlite3.Connection, now: float) -> None:
        """Not at once again: it wears the card."""
        self._again_at = now + AGAIN_SECONDS
        log.warning("%s: its long log could not be put into the file: %s", self._path, failure)
        self._note_held(connection)
        self._tell()
        if is_damage(failure) or is_unread(failure):
            raise failure

    def _end_emptying(self) -> None:
        emptying, self._emptying = self._emptying, None
        if emptying is not None:
            emptying.close()

    # -- a file to go on in ---------------------------------------------------------------------------------------

    def heir(self, connection: sqlite3.Connection, sync: Callable[[], None]) -> Successor | None:
        """What has taken the place of the store's file, by its name: nothing may be written to the old one any more.
        To be asked for with the lock of the store's `Names` held, until it is opened. `sync` has the log on the device
        before. Raises `StorageError` as that does."""
        successor = self._successor
        if successor is None or successor.is_in_place:
            return successor
        try:
            return successor if self._takes_over(successor, connection, sync) else None
        except (OSError, sqlite3.Error) as exc:
            self._put_off(exc)
        return None

    def _takes_over(self, successor: Successor, connection: sqlite3.Connection, sync: Callable[[], None]) -> bool:
        successor.check()
        found = self._copied(connection)
        if found.frames < 0:  # another program is at it
            self._heir_at = self._clock.monotonic() + LOOK_SECONDS
            return False
        if not successor.catch_up(found.frames):
            return False
        sync()
        if self._successor is not successor:  # to sync was to look, and another program had moved the log
            return False
        is_little = found.frames - found.copied <= self._much
        if found.copied >= successor.frames and is_little and self._is_needless(successor, connection):
            return False
        file, size = self._path.stat(), log_bytes(self._path)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        successor.rename(pages)
        self._left.append(Left(file, file.st_size + size))
        return True

    def _is_needless(self, successor: Successor, connection: sqlite3.Connection) -> bool:
        """Whether the log can be cut, now that older readers have ended: others may have come before."""
        successor.let_log_go()
        if not self._cut_patiently(connection).is_whole:
            return False
        self.renew()
        self._note_cut(connection)
        self._look_at = self._clock.monotonic()
        return True

    def _put_off(self, exc: Exception) -> None:
        """To copy in vain wears the card."""
        self.renew()
        self._no_copy_before = self._clock.monotonic() + AGAIN_SECONDS
        log.warning("%s: no copy of it could be made, to go on without its long log: %s", self._path, exc)

    def inherited(self) -> None:
        """The store has gone on in it."""
        self.renew()
        self._end_hold()
        log.warning("%s: goes on in a copy of the file; %s", self._path, self._left[-1])
        self._look_at = self._clock.monotonic() + SHORTEN_SECONDS
        self._forget_left()
        self._tell()

    def _forget_left(self) -> None:
        """Files that nobody has open any more."""
        for one in [one for one in self._left if not one.keepers]:
            one.close()
            self._left.remove(one)

    def let_go(self) -> None:
        """Have nothing open: what is left lasts as long as others have it open."""
        self.renew()
        while self._left:
            self._left.pop().close()

    def drop(self) -> None:
        """Have the room again that a copy on its way takes."""
        if self._successor is not None and not self._successor.is_in_place:
            self._end_copy()

    def renew(self) -> None:
        """Be done with what is on its way beside the commits."""
        self._end_emptying()
        self._end_copy()

    def _end_copy(self) -> None:
        """Where the log is not cut as much has to be logged as was copied before another begins: to copy in vain wears
        the card."""
        successor, self._successor = self._successor, None
        if successor is not None:
            self._no_copy_below = log_bytes(self._path) + min(successor.size, self._most)
            successor.close()

    # -- what is said ---------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        said = [self._held_text()] if self._is_held else []
        said += map(str, self._left)
        if self.warning is None and said:
            log.warning("%s: %s", self._path, said[0])
        self.warning = "; ".join(said) or None

    def _held_text(self) -> str:
        grown = f"the write-ahead log has grown to {megabytes(log_bytes(self._path))}"
        if self._failure is not None:
            return f"{grown}, and cannot be put into the file: {self._failure}"
        if self._emptying is not None:
            return f"{grown}, and goes into the file now"
        names = ", ".join(holders(self._path)) or "a process that cannot be seen from here"
        held = f"{grown}: {names} has been reading for long and keeps it from being cut"
        if is_mounted_itself(self._path):
            return f"{held}; its file is mounted by itself, so the store cannot go on in another: end it"
        if self._lacks is None:
            return held
        return f"{held}; for the store to go on without it there have to be {megabytes(self._lacks)} free: end it"
