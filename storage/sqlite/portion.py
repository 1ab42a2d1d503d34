"""How much goes into a window: so many rows, and about so many bytes of values, whatever the rows are like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgedepot.storage.buffer import WINDOW_BYTES
from edgedepot.storage.sqlite.catalogue import Layout


class Portion:
    """What there is still room for. Only texts are weighed, row by row: it takes time, and numbers have one size."""

    def __init__(self, limit: int, layouts: Iterable[Layout]) -> None:
        fields = [layout.stored for layout in layouts]
        widest = max(map(len, fields), default=0)
        self.rows = min(limit, max(1, WINDOW_BYTES // (32 + 8 * widest)))
        self._bytes = WINDOW_BYTES
        self._has_texts = any(spec.type is str for specs in fields for spec in specs)

    @property
    def is_full(self) -> bool:
        """Whether the window ends here, though there may be more."""
        return self.rows <= 0 or self._bytes <= 0

    def of(self, found: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
        """As many of these rows as there is room for, at least one; `found` has at most `rows`."""
        return self._weighed(found) if self._has_texts else found

    def took(self, rows: int) -> None:
        """So many were put in."""
        self.rows -= rows

    def _weighed(self, found: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        for row in found:
            yield row
            self._bytes -= sum([len(value) for value in row if value.__class__ is str])
            if self._bytes <= 0:
                return
