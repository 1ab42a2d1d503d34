"""Sets of row numbers as few ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
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

    def __len__(self) -> int:
        return len(self._lows)

    def copy(self) -> Ranges:
        other = Ranges()
        other._lows, other._highs = self._lows[:], self._highs[:]
        return other

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
        return list(self._gaps(low, high))

    def gap(self, low: int, high: int) -> tuple[int, int] | None:
        """The first of the gaps; None where there is none."""
        return next(self._gaps(low, high), None)

    def _gaps(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        for place in range(bisect_left(self._highs, low), len(self._lows)):
            begin = self._lows[place]
            if begin > high:
                break
            if begin > low:
                yield low, begin - 1
            low = self._highs[place] + 1
        if low <= high:
            yield low, high

    def missing(self, low: int, high: int) -> int:
        """How many numbers of ``low..high`` are not in."""
        if low > high:
            return 0
        first, last = bisect_left(self._highs, low), bisect_right(self._lows, high)
        there = sum(self._highs[first:last]) - sum(self._lows[first:last]) + last - first
        if there:
            there -= max(0, low - self._lows[first]) + max(0, self._highs[last - 1] - high)
        return high - low + 1 - there

    def first_gap(self) -> int:
        """The lowest number from 1 that is not in."""
        return self._highs[0] + 1 if self._lows and self._lows[0] <= 1 else 1
