"""The rows of a call, checked one by one and made into what COPY takes; and rows of one identity made into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from edgedepot.storage.base import StoreRow, Version
from edgedepot.storage.errors import InvalidValue, UpstreamError
from edgedepot.storage.query import micros_of
from edgedepot.storage.reading import Reading, device_id_of
from edgedepot.storage.receipt import Refusal
from edgedepot.storage.timescale.encode import EPOCH_MICROS, HEADER, TRAILER, Cells, Encoder, Heads
from edgedepot.storage.versions import Versions

_LIMIT = 2**63
_IDENTITY = slice(1, 3)
_VERSION = slice(3, 5)
_QUALITY = 5
_VALUES = slice(6, None)
_TOGETHER = 300
"""So many rows are handed over at a time."""

Pieces = Iterator[tuple[int, bytes]]
"""What COPY is sent, and how many rows are in each piece of it."""


class Rows:
    """The rows of one `store_readings` call, for as many attempts as it takes to write them.

    `refused` holds the reasons for the rows that break the contract's rules, as of the latest attempt; `refuse` adds
    those that the server does not take. Both are by the row's index in the call.
    """

    def __init__(self, model: type[Reading], gateway_id: str, rows: Iterable[StoreRow], now: Callable[[], int]) -> None:
        self.model = model
        self.gateway_id = gateway_id
        self.direct = 0
        """How many of the rows of the latest attempt have no version."""
        self.refused: dict[int, str] = {}
        self.refused_upstream: dict[int, UpstreamError] = {}
        self._rows: Sequence[Any] = rows if isinstance(rows, Versions) else list(rows)
        self._now = now

    def __len__(self) -> int:
        return len(self._rows)

    def refuse(self, index: int, error: UpstreamError) -> None:
        """Leave a row out from now on."""
        self.refused_upstream[index] = error

    def refusals(self) -> tuple[Refusal, ...]:
        """All that is refused, in order."""
        reasons = self.refused | {index: str(error) for index, error in self.refused_upstream.items()}
        return tuple(Refusal(index, reasons[index]) for index in sorted(reasons))

    def index_of(self, number: int) -> int:
        """The index in the call of the row that was the `number`th of the cells, from 0."""
        good = [n for n in range(len(self._rows)) if n not in self.refused and n not in self.refused_upstream]
        return good[number]

    def cells(self) -> Iterator[Cells]:
        """The good rows, in order. Rows without a time are stamped."""
        self._begin()
        for index, row in enumerate(self._rows):
            cells = self._checked(index, row)
            if cells is not None:
                yield cells

    def encoded(self, encoder: Encoder) -> Pieces:
        """The same as COPY takes them."""
        self._begin()
        heads: Heads = {}
        yield 0, HEADER
        for start in range(0, len(self._rows), _TOGETHER):

            def other(number: int, start: int = start) -> bytes:
                cells = self._checked(start + number, self._rows[start + number])
                return b"" if cells is None else encoder.of_cells([cells], heads)[0]

            some = self._rows[start : start + _TOGETHER]
            if self.refused_upstream:
                pieces = [other(number) for number in range(len(some))]
            elif isinstance(some, Versions) and some.epoch > 0:
                pieces = encoder.of_pending(some.rows, some.epoch, self.gateway_id, heads, other)
            else:
                pieces = encoder.of_rows(some, heads, other)
            yield len(pieces) - pieces.count(b""), b"".join(pieces)
        yield 0, TRAILER

    def _begin(self) -> None:
        self.refused.clear()
        self.direct = 0

    def _checked(self, index: int, row: object) -> Cells | None:
        """A row as cells; None where it is refused."""
        if index in self.refused_upstream:
            return None
        try:
            return self._cells(row)
        except InvalidValue as exc:
            self.refused[index] = str(exc)
            return None

    def _cells(self, row: Any) -> Cells:
        """Raises `InvalidValue`."""
        if not isinstance(row, (tuple, list)) or not (len(row) == 3 or isinstance(row, Version)):
            raise InvalidValue("a row is expected as (device, timestamp, data)")
        device, moment, data = row[:3]
        given, epoch, seq = row[3:] if isinstance(row, Version) else (None, 0, 0)
        if not (type(epoch) is type(seq) is int and 0 <= epoch < _LIMIT and 0 <= seq < _LIMIT):
            raise InvalidValue(f"version ({epoch!r}, {seq!r}) is not two whole numbers from 0 to 2^63 - 1")
        if given is not None:
            _check_quality(given)
        name, direct = device_id_of(device), not (epoch or seq)
        micros = self._now() if moment is None and direct else micros_of(moment)
        found, *values = self.model.__rows__.make(data)
        # The quality of a version stands; that of other rows is found.
        quality = found if direct and given is None else given
        self.direct += direct
        return (self.gateway_id, name, micros - EPOCH_MICROS, epoch, seq, quality, *values)


class Checked:
    """Rows that were checked before."""

    def __init__(self, rows: list[Cells]) -> None:
        self._rows = rows
        self.direct = sum(map(_is_direct, rows))

    def cells(self) -> Iterator[Cells]:
        return iter(self._rows)

    def encoded(self, encoder: Encoder) -> Pieces:
        yield 0, HEADER
        yield len(self._rows), b"".join(encoder.of_cells(self._rows, {}))
        yield 0, TRAILER


def _is_direct(cells: Cells) -> bool:
    """Whether the row has no version."""
    return not (cells[3] or cells[4])


def merge(model: type[Reading], rows: Iterable[Cells]) -> tuple[int, int, Checked]:
    """How many rows there are, how many of them say nothing new, and what is left.

    That is one row per identity, of those with a version and of those without.

    Of versions the newest wins. Rows without a version merge in their order.
    """
    merged: dict[tuple[bool, Any], Cells] = {}
    count = repeated = 0
    for cells in rows:
        count += 1
        key = (_is_direct(cells), cells[_IDENTITY])
        old = merged.setdefault(key, cells)
        if old is not cells:
            merged[key] = made = _merged(model, old, cells)
            repeated += made == old
    return count, repeated, Checked(list(merged.values()))


def _check_quality(quality: object) -> None:
    if not (isinstance(quality, int) and 0 <= quality < 2**15):
        raise InvalidValue(f"quality is {quality!r}, expected None or a sum of flags")


def _merged(model: type[Reading], old: Cells, new: Cells) -> Cells:
    """Two rows of one identity as one: the newer version's values, or those of the later row where there are no
    versions; and where it has none, the other's."""
    above, below = (old, new) if old[_VERSION] > new[_VERSION] else (new, old)
    values = tuple(
        lower if upper is None else upper for upper, lower in zip(above[_VALUES], below[_VALUES], strict=True)
    )
    quality = above[_QUALITY]
    if _is_direct(above):
        if values == old[_VALUES]:
            return old
        quality = model.__rows__.merged_quality(old[_QUALITY], new[_QUALITY], values)
    return (*above[:_QUALITY], quality, *values)
