"""How far behind an upstream is, and for how long still."""

from __future__ import annotations

from collections import deque

SPAN = 300.0
"""Seconds over which the pace is taken."""
_STEP = 5.0


class Progress:
    """Knows how the number of rows that wait changed lately. For one thread at a time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, waiting: int) -> None:
        """So many wait now, in seconds of a monotonic clock. May be called as often as one likes."""
        if not self._seen or now - self._seen[-1][0] >= _STEP:
            self._seen.append((now, waiting))
            while now - self._seen[0][0] > SPAN:
                self._seen.popleft()

    def eta(self, now: float, waiting: int) -> float | None:
        """Seconds until nothing waits, at the latest pace; None where that does not become less."""
        if not waiting:
            return 0.0
        if not self._seen:
            return None
        at, before = self._seen[0]
        gone, took = before - waiting, now - at
        return waiting * took / gone if gone > 0 and took > 0 else None
