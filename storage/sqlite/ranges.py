"""Sets of row numbers as few ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

LAST = 2**62
"""A number beyond all rows."""


class Ranges:
    """Disjoint ranges ``low <= n <= high`` in order, joined where they touch."""

    __slots__ = ("_highs", "_lows")

    def __init__(self, spans: list[tuple[int, int]] | list[list[int]] = []) -> None:  # noqa: B006 - never changed
        self._lows = [low for low, _ in spans]
        self._highs = [high for _, high in spans]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._lows, self._highs, strict=True)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._lows, number) - 1
        return place >= 0 and number <= self._highs[place]

    def copy(self) -> Ranges:
        return Ranges(list(self))

    def add(self, low: int, high: int) -> None:
        """Put ``low..high`` in."""
        first = bisect_right(self._highs, low - 2)  # the first range that ends at low - 1 or later
        last = bisect_right(self._lows, high + 1)  # behind the last that begins at high + 1 or before
        if first < last:
            low, high = min(low, self._lows[first]), max(high, self._highs[last - 1])
        self._lows[first:last] = [low]
        self._highs[first:last] = [high]

    def gaps(self, low: int, high: int) -> list[tuple[int, int]]:
        """What of ``low..high`` is not in, in order."""
        found = []
        for begin, end in self:
            if end < low:
                continue
            if begin > high:
                break
            if begin > low:
                found.append((low, begin - 1))
            low = max(low, end + 1)
        return [*found, (low, high)] if low <= high else found

    def first_gap(self) -> int:
        """The lowest number from 1 that is not in."""
        return self._highs[0] + 1 if self._lows and self._lows[0] <= 1 else 1
