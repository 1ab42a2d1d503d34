"""When the writer folds, and when it lets go of what is too old or too much: in steps, between commits."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgedepot.storage.clock import Clock
from edgedepot.storage.reading import declared_measurements
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.fold import CHUNK, Fold
from edgedepot.storage.sqlite.journal import Deed, Journal
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.opening import Opened
from edgedepot.storage.sqlite.pace import Calls, Pace

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.retention import Retention

log = logging.getLogger(__name__)
RETAIN_SECONDS = 300.0
ROOM_SECONDS = 0.05
PRESSED_SECONDS = 10.0
"""How soon the store looks again for room where it found too little."""


def transact(connection: sqlite3.Connection, journal: Journal, deeds: Iterable[Deed]) -> None:
    """One transaction, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        journal.begin()
        for deed in deeds:
            deed(journal)
        journal.finish()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        journal.rolled_back()
        raise
    journal.committed()


class Upkeep:
    """The fold and retention of one store. `condition` is the writer's; only `folds` and `retains` may be touched by
    other threads, with that held. `folded` is called after each fold."""

    def __init__(
        self,
        opened: Opened,
        clock: Clock,
        pace: Pace,
        limits: Limits,
        cursors: Cursors,
        condition: threading.Condition,
        folded: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._pace = pace
        self._limits = limits
        self._cursors = cursors
        self._condition = condition
        self._folded = folded
        self.folds = Calls()
        self.retains = Calls()
        self._fold_at = clock.monotonic() + pace.fold_interval
        self._no_fold_before = 0.0
        self._knows_strangers = False
        self._retain_at = clock.monotonic() if limits else None
        self.renew(opened)

    def renew(self, opened: Opened, full: str | None = None) -> None:
        """Go on with a store that was opened anew; one that was `full` is so until retention has looked."""
        self._connection, self._journal = opened.connection, opened.journal
        self._fold = Fold(self._connection, self._journal, self._pace.piece_rows, self._limits)
        self._retention = self._new_retention(full) if self._limits else None

    def _new_retention(self, full: str | None = None) -> Retention:
        from edgedepot.storage.sqlite.retention import Retention  # here, as many stores have no limits

        return Retention(self._connection, self._journal, self._cursors, self._limits, full)

    @property
    def full(self) -> str | None:
        """Why the store takes no readings; None where it does. For any thread."""
        return None if self._retention is None else self._retention.full

    def call(self, calls: Calls, check: Callable[[], None]) -> None:
        """From any thread: have it done once more, and return when it is. Raises what `check` does, which is asked
        whenever something has happened (while the store cannot be written, each attempt)."""
        with self._condition:
            calls.wanted += 1
            mine = calls.wanted
            self._condition.notify_all()
            while calls.done < mine:
                check()
                self._clock.wait(self._condition, None)

    @property
    def has_limits(self) -> bool:
        """Whether retention ever lets go of anything."""
        return self._retain_at is not None

    def times(self) -> tuple[float | None, float | None]:
        """When the fold and retention are due: past where they are now, None where they will not be by themselves."""
        return self._fold_due_at(), self._retain_due_at()

    def _unfolded(self) -> int:
        return self._journal.tail.rows - self._journal.tail.held

    def _fold_due_at(self) -> float | None:
        """In the middle of one at once: it goes on between commits."""
        rows = self._unfolded()
        if self._fold.active or self.folds.waiting or rows >= self._pace.fold_rows:
            return self._no_fold_before
        return max(self._fold_at, self._no_fold_before) if rows else None

    def _retain_due_at(self) -> float | None:
        return self._clock.monotonic() if self.retains.waiting else self._retain_at

    def _is_past(self, moment: float | None) -> bool:
        return moment is not None and self._clock.monotonic() >= moment

    def fold_on(self) -> None:
        """One step of the fold, where it is due: commits must not wait for the whole. More when it lags behind what
        comes in: the unfolded rows are in memory, and readers of other processes scan them. But of held pieces that are
        released retention sees one after the other: what is folded takes room twice."""
        while self._is_past(self._fold_due_at()):
            piece = self._journal.shape.folded.piece
            self._fold_step()
            if self._journal.shape.folded.piece != piece:
                self.retain_soon()
                return
            if self._unfolded() < 2 * self._pace.fold_rows:
                return

    def put_fold_off(self) -> None:
        """For a while: readings come first on a device that is full."""
        self._no_fold_before = self._clock.monotonic() + PRESSED_SECONDS

    def put_off(self) -> None:
        """The fold and retention, for a while: one of them cannot go on, whatever it is tried for."""
        self.put_fold_off()
        if self._retain_at is not None:
            self._retain_at = self._clock.monotonic() + PRESSED_SECONDS

    def _fold_step(self) -> None:
        if not self._fold.active:
            self.folds.begun = self.folds.wanted
            self._fold.begin()
        if self._fold.active:
            began = self._clock.monotonic()
            self._fold.step()
            self._fold.took(self._clock.monotonic() - began, self._pace.flush_interval)
        if not self._fold.active:
            self._fold_at = self._clock.monotonic() + self._pace.fold_interval
            self._retain_at = None if self._retain_at is None else self._clock.monotonic()
            self._folded()
            self._say_strangers()
            self._answer(self.folds)

    def _say_strangers(self) -> None:
        """Once, after a first fold: whoever declares reading models has done so by then."""
        if not self._knows_strangers:
            stored = {layout.name for layout in self._journal.catalogue.layouts().values()}
            for line in self._limits.strangers(stored | declared_measurements()):
                log.warning(line)
            self._knows_strangers = True

    def _answer(self, calls: Calls) -> None:
        with self._condition:
            calls.done = calls.begun
            self._condition.notify_all()

    def look_for_room(self) -> None:
        """Have retention look at once where a commit went beyond the limit, or filled a piece that no fold ends; or
        where one may have made room."""
        retention = self._retention
        if retention is None:
            return
        if retention.full is not None or retention.ends_piece or (not retention.is_over and retention.exceeds()):
            self.retain_soon()

    def retain_soon(self) -> None:
        """Have retention look at once, where there are limits."""
        if self._retain_at is not None:
            self._retain_at = self._clock.monotonic()

    def retain_on(self) -> None:
        """One step of retention, where it is due; some more where there is no room."""
        until = self._clock.monotonic() + ROOM_SECONDS
        while self._is_past(self._retain_due_at()):
            retention = self._retention = self._retention or self._new_retention()
            self._retain_step(retention)
            if self._clock.monotonic() >= until or not retention.exceeds(headroom=False):
                return

    def _retain_step(self, retention: Retention) -> None:
        self.retains.begun = self.retains.wanted
        deed = self._next_of(retention)
        while deed is retention.fold_first:
            is_short = self._unfolded() <= CHUNK
            self._fold_step()
            if self._fold.active and not is_short:
                return
            deed = self._next_of(retention)  # at once, where that is not long: readings may come on and on
        if deed is not None:
            transact(self._connection, self._journal, [deed])
            retention.committed()
            return
        if self._retain_at is not None:
            now, is_over = self._clock.monotonic(), retention.is_over
            self._retain_at = now + (PRESSED_SECONDS if is_over else RETAIN_SECONDS)
            self._fold_at = now if is_over else self._fold_at  # what is not in history cannot go
        self._answer(self.retains)

    def _next_of(self, retention: Retention) -> Deed | None:
        now = self._clock.now() if self._clock.trusted else None
        return retention.next(now, may_fold=self._is_past(self._no_fold_before))
