"""How many rows go into the next window."""

from __future__ import annotations


class BatchSize:
    """Halves when the upstream asks for less and grows back slowly, or every other batch would be one too many.

    For one thread.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self.limit = largest
        """Rows in the next window, at least 1."""

    def shrink(self) -> None:
        """The upstream asked for less."""
        self.limit = max(1, self.limit // 2)

    def grow(self) -> None:
        """A window went through."""
        self.limit = min(self._largest, self.limit + max(1, self._largest // 16))
