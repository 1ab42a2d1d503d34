"""What a request takes on the wire, learned from those before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from edgedepot.storage.buffer import Pending
from edgedepot.storage.reading import Reading
from edgedepot.storage.values import TEXT_LIMIT

_MEMORY = 0.9
_FIRST_FIXED, _FIRST_EACH, _LEAST_EACH = 4_000.0, 2.0, 0.05
_CONNECTING = 10_000.0
"""Bytes that a request takes that connects, with TLS, before one is known."""
_HOUR = 3600.0
_MOST_EACH = 8.0
"""What seems to be more, on the wire for a byte of a row, is of something else."""
_NUMBER = 24
"""Letters of the longest number."""
_LONGEST = "x" * TEXT_LIMIT


class Size(NamedTuple):
    """Of rows, in bytes: `usual` is about what they take as JSON, a proper measure only of what they take beside one
    another; `most` what they take where nothing of it can be compressed, with the longest numbers that there are."""

    usual: float
    most: float

    def times(self, count: float) -> Size:
        return Size(self.usual * count, self.most * count)

    def plus(self, other: Size) -> Size:
        return Size(self.usual + other.usual, self.most + other.most)


NOTHING = Size(0.0, 0.0)


class Cost:
    """What a request of some size costs: the straight line that fits best to the latest ones (linear regression, with
    exponential forgetting). Sizes are the usual ones, costs are bytes on the wire."""

    def __init__(self, fixed: float = _FIRST_FIXED, each: float = _FIRST_EACH) -> None:
        self._fixed, self._each, self._first_each = fixed, each, each
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._first, self._is_first = 0.0, True
        self._dearest = self._dear_until = 0.0

    def of(self, size: float) -> float:
        return self._fixed + self._each * size

    def most(self, size: Size) -> float:
        """As `of`, whatever the rows have in them: those before may have been all zeros, which compress well."""
        return self._fixed + max(self._each * size.usual, size.most)

    def surprise(self, now: float) -> float:
        """By how much a request may exceed all that it is expected to cost, as one does that connects anew: so much the
        first one, which did, or the dearest of the last hour took beside its rows. `now` is monotonic."""
        first = max(self._first, _CONNECTING) if self._is_first else self._first
        dearest = self._dearest if now < self._dear_until else 0.0
        return max(0.0, max(first, dearest) - self._fixed)

    def note_beside(self, count: float, now: float, is_answered: bool) -> None:
        """A request took so many bytes beside its rows."""
        if self._is_first:
            self._first, self._is_first = max(self._first, count), not is_answered
        if count >= self._dearest or now >= self._dear_until:
            self._dearest, self._dear_until = count, now + _HOUR

    def size_for(self, count: float) -> float:
        return max(0.0, count - self._fixed) / self._each

    def note(self, size: float, count: float) -> None:
        """A request of that size took so many bytes."""
        self._weight = _MEMORY * self._weight + 1
        self._x = _MEMORY * self._x + size
        self._y = _MEMORY * self._y + count
        self._xx = _MEMORY * self._xx + size * size
        self._xy = _MEMORY * self._xy + size * count
        spread = self._xx - self._x**2 / self._weight
        if spread > 0.01 * self._xx:  # one that connected anew may cost much and be small: that is not the size's
            each = min(_MOST_EACH, (self._xy - self._x * self._y / self._weight) / spread)
        else:  # all of one size: what goes with a request is taken for the size's, or a larger one would seem cheap
            each = min(self._first_each, self._y / self._x)
        self._each = max(_LEAST_EACH, each)
        self._fixed = max(0.0, (self._y - self._each * self._x) / self._weight)


def size_of(rows: Iterable[Pending]) -> Size:
    sizes = [row_size(row) for row in rows]
    return Size(sum(size.usual for size in sizes), sum(size.most for size in sizes))


def row_size(row: Pending) -> Size:
    return _size(row.model, row.device_id, row.row)


def answer_size(model: type[Reading], row: Mapping[str, Any]) -> Size:
    """Of a row that an upstream answered with."""
    return _size(model, row["device_id"], [row.get(spec.name) for spec in model.__fields__])


def largest_row(model: type[Reading], device: str) -> Size:
    """Of a row of a device, whatever is in it."""
    return _size(model, device, [_LONGEST if spec.type is str else 0.0 for spec in model.__fields__])


def bucket_size(device: str) -> Size:
    """Of what a device comes to in one bucket, as an upstream answers."""
    return Size(40.0 + len(device), 64.0 + len(device) + _NUMBER)


def _size(model: type[Reading], device: str, cells: Iterable[object]) -> Size:
    names = len(device) + sum(len(spec.name) + 4 for spec in model.__fields__)
    values = [value for value in cells if value is not None]
    texts = [len(value.encode()) for value in values if isinstance(value, str)]
    return size_with(names, len(values) - len(texts), sum(texts))


def size_with(names: float, numbers: float, letters: float) -> Size:
    """Of a row with names of so many letters in all, so many numbers, and texts of so many letters."""
    return Size(40 + names + 12 * numbers + letters, 64 + names + _NUMBER * numbers + letters)
