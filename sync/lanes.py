"""What goes next: fresh rows, or the oldest of a backlog.

             acknowledged          backlog              acknowledged    live
        |-----------|...................................|----------|................|
                                                  split ^                           ^ last durable row
    windows:  live live live backlog live live live backlog ...     while both have enough for the whole link

While an upstream keeps up there is one lane. When more than a couple of windows wait, as after an outage, what waits
becomes the backlog and what comes from then on the live lane. When the live lane falls behind as well, because the link
carries less than comes in, it becomes backlog in its turn, and the newest rows go at once again. Each time that leaves
one more gap between what is acknowledged; where there are very many, the store has the live lane wait until the backlog
has closed one.

Live goes first, but twice a second at most unless it has a whole window, for each window costs the link a round trip.
Of every `ROUND` windows one is the backlog's. As a window takes about a second (batch.py), a fresh reading is on its
way within about two seconds of being durable, and the backlog has a quarter of even a link that live rows alone fill.

A window that failed is finished first, in its own lane. Whether the upstream has its rows is not known, and a newer
version of one of them, sent meanwhile in the other lane, could be overtaken by that request: upstreams that do not
compare versions would go back to the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgedepot.storage.buffer import Lane, Window
from edgedepot.storage.clock import Clock
from edgedepot.sync.budget import Share

BEHIND = 2
"""An upstream has fallen behind when more than so many windows wait."""
ROUND = 4
"""While a backlog waits, every so many windows one is the backlog's, however many fresh rows there are."""
LIVE_PAUSE = 0.5
"""Seconds for which fresh rows gather while a backlog drains, where they do not fill a window before."""

_Order = tuple[int, ...]


class Source(Protocol):
    """Where windows come from: of a `Buffer`, what lanes need."""

    def pending(self, cursor: str, limit: int, lane: Lane = ...) -> Window | None: ...
    def split(self, cursor: str) -> None: ...
    def is_split(self, cursor: str) -> bool: ...
    def waiting(self, cursor: str, lane: Lane) -> int: ...


class Lanes:
    """Chooses the windows of one cursor. A window is said to be `sending` before it goes out, and `taken` once it is
    acknowledged. For one thread.
    """

    def __init__(
        self, store: Source, cursor: str, clock: Clock, is_late: Callable[[Window], bool] | None = None
    ) -> None:
        """`is_late` says whether a window should have gone before, None where each should that waits."""
        self._store = store
        self._is_late = is_late
        self._cursor = cursor
        self._clock = clock
        self._live_running = 0
        self._live_at = -LIVE_PAUSE
        self._was_late = True
        self._unresolved: tuple[Lane, _Order] | None = None
        self._before: tuple[Lane, _Order] | None = None  # as it was before the latest window

    def next(self, limit: int, share: Share = "fair") -> tuple[Lane, Window] | None:
        """The next window, of at most `limit` rows, and its lane; None when nothing is pending. `share` says whose turn
        it is where bytes are scarce: with "live only", what little waits of a backlog counts as fresh too."""
        if self._unresolved is not None:
            lane, _ = self._unresolved
            window = self._store.pending(self._cursor, limit, lane)
            if window is not None:
                return lane, window
            self._unresolved = None  # its rows were superseded or deleted
        self._arrange(limit)
        for lane in self._turns(limit, share):
            window = self._store.pending(self._cursor, limit, lane)
            if window is not None:
                return lane, window
        return None

    def _arrange(self, limit: int) -> None:
        """Split where that is called for: where all is one lane, or the live one has fallen behind too."""
        lane: Lane = "live" if self._store.is_split(self._cursor) else "backlog"
        if self._is_behind(lane, limit):
            self._store.split(self._cursor)

    def _is_behind(self, lane: Lane, limit: int, looks: bool = True) -> bool:
        """Whether more than a couple of windows wait in it, and should have gone; a backlog's should, once there is
        one."""
        if self._store.waiting(self._cursor, lane) <= BEHIND * limit:
            return False
        if self._is_late is None or (lane == "backlog" and self._store.is_split(self._cursor)):
            return True
        if looks and self._unresolved is None:
            first = self._store.pending(self._cursor, 1, lane)
            self._was_late = first is not None and self._is_late(first)
        return self._was_late

    @property
    def is_unresolved(self) -> bool:
        """Whether a window was sent of which nobody knows what became."""
        return self._unresolved is not None

    def backlog(self, limit: int, looks: bool = True) -> int:
        """About how many rows wait behind; 0 where windows of at most `limit` rows keep up. Where a window is in hand
        it goes by what was seen before, as to look takes another."""
        return self._store.waiting(self._cursor, "backlog") if self._is_behind("backlog", limit, looks) else 0

    def _turns(self, limit: int, share: Share) -> tuple[Lane, ...]:
        if share == "backlog only":
            return ("backlog",)
        if share == "live only":
            return ("live",) if self.backlog(limit) else ("live", "backlog")
        live = self._store.waiting(self._cursor, "live")
        if not live:
            return ("backlog",)
        waited = self._clock.monotonic() - self._live_at >= LIVE_PAUSE
        backlogs_turn = share == "fair" and self._live_running >= ROUND - 1
        if backlogs_turn or not (waited or live >= limit):
            return ("backlog", "live")
        return ("live", "backlog")

    def sending(self, lane: Lane, window: Window) -> None:
        """A window is about to be sent: what becomes of it is not known from now on."""
        self._before = self._unresolved
        if self._unresolved is None or _order_of(window) > self._unresolved[1]:
            self._unresolved = (lane, _order_of(window))

    def turned_away(self) -> None:
        """The upstream took nothing of what was sent last, and will not: that holds nothing else up."""
        self._unresolved = self._before

    def taken(self, lane: Lane, window: Window) -> None:
        """A window was resolved and acknowledged."""
        if lane == "live":
            self._live_running += 1
            self._live_at = self._clock.monotonic()
        else:
            self._live_running = 0
        if self._unresolved is not None and _order_of(window) >= self._unresolved[1]:
            self._unresolved = None


def _order_of(window: Window) -> _Order:
    """Where a window ends, comparable with others of its lane: rows sent once more go before those of history, and
    these before the journal."""
    if window.replayed:
        return (0, window.rows[-1].seq if window.rows else 0)
    return (1, *window.place) if window.place is not None else (2, window.high)
