"""How long to wait before the same is tried again."""

from __future__ import annotations

from collections.abc import Callable

RETRY_AFTER_LIMIT = 3600.0
"""Seconds. A server that names a longer time is asked again after this: it may have been mended by then."""


class Backoff:
    """Exponential backoff with full jitter, as in "Exponential Backoff And Jitter" of the AWS Architecture Blog.

    Each wait is drawn evenly from `low` to a ceiling that doubles up to `high`, all in seconds. `random` returns a
    number in ``[0, 1)``. For one thread.
    """

    def __init__(self, low: float, high: float, random: Callable[[], float]) -> None:
        self._low = low
        self._high = high
        self._random = random
        self._ceiling = low
        self.tries = 0
        """How many waits since the last `reset`."""

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait now. A time that the server named comes on top: asked for it by all its gateways at once, it
        is not asked by all of them at once again."""
        self.tries += 1
        self._ceiling = min(self._high, self._ceiling * 2)
        return _named(retry_after) + self._low + self._random() * (self._ceiling - self._low)

    def slow(self, retry_after: float | None = None) -> float:
        """Seconds to wait for something that only a person can mend."""
        self.tries += 1
        self._ceiling = self._high
        return max(self._high, _named(retry_after))

    def reset(self) -> None:
        """Start from the shortest wait again: what was tried went well."""
        self._ceiling = self._low
        self.tries = 0


def _named(retry_after: float | None) -> float:
    """The server's time, within reason; a nonsense one (negative, not a number) counts as none."""
    return min(retry_after, RETRY_AFTER_LIMIT) if retry_after is not None and retry_after > 0 else 0.0
