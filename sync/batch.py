"""How many rows go into the next window: as many as the link carries in about a second."""

from __future__ import annotations

from collections.abc import Sequence

from edgedepot.storage.buffer import WINDOW_BYTES, Pending

TARGET = 1.0
"""Seconds that a window should take: so long it holds up fresher rows, and that much goes out twice when an answer is
lost."""
FIRST = 500
"""Rows of the first window, when nothing is known of the link."""

_SAMPLE = 16
_STEEPEST = 4
_MEMORY = 0.9
"""Of what earlier windows taught, so much counts after one more."""


class BatchSize:
    """Doubles while windows are quick, shrinks in proportion when one was slow, and halves when the upstream asks for
    less; then it grows back slowly, or every other window would be one too many.

    Where much time goes by before anything moves (a satellite link), windows may take twice that: smaller ones would
    hardly be quicker. No more rows are asked for than the bytes of a window have room for. For one thread.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._rows = min(largest, FIRST)
        self._by_bytes = largest
        self._careful = False
        self._pace = _Pace()

    @property
    def limit(self) -> int:
        """Rows in the next window, at least 1."""
        return min(self._rows, self._by_bytes)

    def shrink(self) -> None:
        """The upstream asked for less, or did not manage so many in its time."""
        self._rows = max(1, self.limit // 2)
        self._careful = True

    def went_through(self, rows: int, seconds: float) -> None:
        """A window of so many rows took so long."""
        self._pace.note(rows, seconds)
        fixed = self._pace.fixed
        target = max(TARGET, 2 * fixed)
        if seconds > target:
            fitting = int(rows * (target - fixed) / (seconds - fixed))
            self._rows = min(self.limit, max(1, fitting, self.limit // _STEEPEST))
        elif rows >= self.limit and 2 * seconds - fixed <= target:  # twice as many would be in time
            step = max(1, self._largest // 16) if self._careful else self._rows
            self._rows = min(self._largest, self._rows + step)
            self._careful = self._careful and self._rows < self._largest

    def weigh(self, rows: Sequence[Pending]) -> None:
        """These are on their way: from some of them, how many of their kind fit into the bytes of a window."""
        if rows:
            sample = rows[:: max(1, len(rows) // _SAMPLE)]
            bytes_each = sum(_bytes_of(row) for row in sample) / len(sample)
            self._by_bytes = max(1, min(self._largest, int(WINDOW_BYTES / bytes_each)))


def _bytes_of(row: Pending) -> int:
    """About what a row's values take; a number is 8 bytes."""
    return 32 + sum(len(value) if isinstance(value, str) else 8 for value in row.row)


class _Pace:
    """What of a window's time does not depend on its rows: where the straight line that fits best to what windows took
    begins (linear regression, with exponential forgetting)."""

    def __init__(self) -> None:
        self.fixed = 0.0
        """Seconds."""
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def note(self, rows: int, seconds: float) -> None:
        """A window of so many rows took so long."""
        self._weight = _MEMORY * self._weight + 1
        self._rows = _MEMORY * self._rows + rows
        self._seconds = _MEMORY * self._seconds + seconds
        self._squares = _MEMORY * self._squares + rows * rows
        self._products = _MEMORY * self._products + rows * seconds
        spread = self._squares - self._rows**2 / self._weight
        if spread > 0.01 * self._squares:  # windows of one size say nothing new
            each = max(0.0, (self._products - self._rows * self._seconds / self._weight) / spread)
            self.fixed = max(0.0, (self._seconds - each * self._rows) / self._weight)
        self.fixed = min(self.fixed, seconds)
