"""What a request takes on the wire, learned from those before."""

from __future__ import annotations

from collections.abc import Sequence

from edgedepot.storage.base import Pending

_MEMORY = 0.9
_FIRST_FIXED, _FIRST_EACH, _LEAST_EACH = 4_000.0, 2.0, 0.05


class Cost:
    """What a request of some size costs: the straight line that fits best to the latest ones (linear regression, with
    exponential forgetting). Sizes are `size_of`, costs are bytes on the wire."""

    def __init__(self) -> None:
        self._fixed, self._each = _FIRST_FIXED, _FIRST_EACH
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def of(self, size: float) -> float:
        return self._fixed + self._each * size

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
        if spread > 0.01 * self._xx:
            self._each = max(_LEAST_EACH, (self._xy - self._x * self._y / self._weight) / spread)
            self._fixed = max(0.0, (self._y - self._each * self._x) / self._weight)
        else:  # all of one size: what goes with a request is taken for the size's, or a larger one would seem cheap
            self._each = max(_LEAST_EACH, min(_FIRST_EACH, self._y / self._x))
            self._fixed = max(0.0, (self._y - self._each * self._x) / self._weight)


def size_of(rows: Sequence[Pending]) -> float:
    """About what rows take as JSON; a proper measure only of what they take beside one another."""
    return float(sum(row_size(row) for row in rows))


def row_size(row: Pending) -> int:
    names = sum(len(spec.name) + 4 for spec in row.model.__fields__)
    values = sum(len(value.encode()) if isinstance(value, str) else 12 for value in row.row if value is not None)
    return 40 + len(row.device_id) + names + values
