"""How far behind an upstream is, and for how long still."""

from __future__ import annotations

from collections import deque

SPAN = 300.0
"""Seconds over which the pace is taken. Of a day's budget a backlog's pieces may lie hours apart: there it is a day."""
_STEPS = 60


class Progress:
    """Knows how the number of rows that wait changed lately. For one thread at a time. Time does not count while it
    `rests`: then nothing may go out."""

    def __init__(self, span: float = SPAN) -> None:
        self._span = span
        self._seen: deque[tuple[float, int]] = deque()
        self._rested = 0.0
        self._resting_since: float | None = None

    def note(self, now: float, waiting: int) -> None:
        """So many wait now, in seconds of a monotonic clock. May be called as often as one likes."""
        self._rested = now - self._counted(now)
        self._resting_since = None
        now = self._counted(now)
        if not self._seen or now - self._seen[-1][0] >= self._span / _STEPS:
            self._seen.append((now, waiting))
            while now - self._seen[0][0] > self._span:
                self._seen.popleft()

    def rest(self, now: float) -> None:
        """From now on nothing may go out, until the next `note`."""
        self._resting_since = now

    def eta(self, now: float, waiting: int) -> float | None:
        """Seconds without rest until nothing waits, at the latest pace; None where that does not become less."""
        if not waiting:
            return 0.0
        if not self._seen:
            return None
        at, before = self._seen[0]
        gone, took = before - waiting, self._counted(now) - at
        return waiting * took / gone if gone > 0 and took > 0 else None

    def _counted(self, now: float) -> float:
        return (now if self._resting_since is None else self._resting_since) - self._rested
