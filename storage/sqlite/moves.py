"""When a store goes on in other files than it has open: these are damaged, their file system is mounted no more, the
log has no name any more, or a copy has taken the file's place (log_length.py).

Each time they are closed first, and what opens the others may fail and be called again: nothing is written meanwhile.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite.in_place import InPlace
from edgedepot.storage.sqlite.log_length import LogLength
from edgedepot.storage.sqlite.mount import Mount, not_mounted
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.opening import Opened
from edgedepot.storage.sqlite.salvage import UNREADABLE
from edgedepot.storage.sqlite.suspicion import Suspicion

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.successor import Successor

log = logging.getLogger(__name__)
SALVAGE_SECONDS = 600.0


class Moves:
    """Of one store. What gives an `Opened` has opened other files: the writer goes on with that, and calls `renewed`.
    All but `suspect` and `suspected` is for the writer's thread. `salvage` opens what can be read of the file, told
    what is wrong with it; `go_on` the copy that has taken its place."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        log_length: LogLength,
        mount: Mount,
        in_place: InPlace,
        salvage: Callable[[str], Opened],
        go_on: Callable[[Successor], Opened],
    ) -> None:
        self._path = path
        self._clock = clock
        self._log_length = log_length
        self._mount = mount
        self._in_place = in_place
        self._salvage, self._go_on = salvage, go_on
        self._suspicion = Suspicion()
        self._lock = threading.Lock()  # guards the suspicion
        self._salvage_at = clock.monotonic()

    @property
    def suspected(self) -> str | None:
        """What is wrong with the file, as far as somebody has found."""
        return self._suspicion.reason

    def suspect(self, exc: BaseException) -> None:
        """Somebody ran into an error."""
        with self._lock:
            self._suspicion.note(exc)

    def may_be_damage(self, exc: BaseException) -> bool:
        """Whether it may lie in the file."""
        return self._suspicion.concerns(exc)

    def renewed(self) -> None:
        """The store has gone on in what was opened."""
        self._in_place.renew()
        self._clear()

    def _clear(self) -> None:
        with self._lock:
            self._suspicion.clear()

    def salvaged(self) -> Opened | None:
        """Where the file is damaged, a new one. Not again and again: a card that loses what was just written is beyond
        help, and what waits here is safer where it is."""
        reason = self._suspicion.reason
        if reason is None:
            return None
        if self._suspicion.has_passed(self._path, self._clock.monotonic()):
            log.warning("%s could not be read for a moment: %s", self._path, reason)
            self._clear()
            return None
        is_fresh = self._clock.monotonic() < self._salvage_at
        if self._suspicion.is_unfounded(self._path, is_fresh):
            log.error("%s is whole: the fault is the program's own: %s", self._path, reason)
            self._clear()
            return None
        if is_fresh:
            raise StorageError(f"damaged again, right after it was salvaged: {reason}")
        self._log_length.renew()
        self._suspicion.act()
        opened = self._salvage(reason)
        self._salvage_at = self._clock.monotonic() + SALVAGE_SECONDS
        return opened

    @property
    def _is_between_files(self) -> bool:
        """Whether what has the store's name now is to be opened yet."""
        return self._mount.is_away or self._suspicion.is_acted_on or self._log_length.has_heir_in_place

    def followed(self, connection: sqlite3.Connection, durable: int, in_trouble: bool) -> Opened | None:
        """Where the store's file system is mounted no more, or its log has no name: let go of its files; and those that
        are there by their names, once they are. `durable` is the last row number that was."""
        if (in_trouble or self._suspicion.reason is not None) and self._mount.is_gone():
            log.error("%s: its file system was unmounted", self._path)
            self._log_length.let_go()
            self._mount.let_go(not_mounted(self._path))
        elif not self._is_between_files and self._in_place.has_no_log():
            self._log_length.let_go()  # what it has reads the log
            self._in_place.leave_log(connection)
            self._mount.let_go(f"{self._path} is being opened again")
        if not self._mount.is_away:
            return None
        opened = self._mount.come_back(durable)
        log.warning("%s is open again", self._path)
        return opened

    @property
    def expects_heir(self) -> bool:
        """Whether to ask for what was `inherited`. A file in which something is wrong is not left as it is."""
        is_in_place = self._log_length.has_heir_in_place
        return self._log_length.expects_heir and (self._suspicion.reason is None or is_in_place)

    def inherited(self, connection: sqlite3.Connection, sync: Callable[[], None]) -> Opened | None:
        """Where the file is left to a long reader, the copy that has taken its place."""
        with names_of(self._path).lock:  # whoever opened the new file with the old log would keep that for good
            successor = self._log_length.heir(connection, sync)
            if successor is None:
                return None
            try:
                return self._go_on(successor)
            except (sqlite3.Error, *UNREADABLE) as exc:  # it is damaged, and what is written to the old file is lost
                self._log_length.renew()
                self.suspect(exc)
                self._suspicion.act()
                raise
