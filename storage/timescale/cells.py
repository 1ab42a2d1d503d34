"""The rows of a call, checked one by one and made into what COPY takes; and rows of one identity made into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from edgedepot.storage.base import StoreRow, Version
from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import InvalidValue, UpstreamError
from edgedepot.storage.query import micros_of
from edgedepot.storage.reading import Reading, device_id_of
from edgedepot.storage.receipt import Refusal
from edgedepot.storage.values import RowMaker

Cells = tuple[Any, ...]
"""A row: ``(gateway_id, device_id, timestamp, store_epoch, gateway_seq, quality, value, ...)``"""

# A timestamptz travels as microseconds since 2000-01-01 UTC in 64 bits; sent as an int8 it needs no datetime between.
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_MICROS = to_micros(POSTGRES_EPOCH)
_MICROSECOND = timedelta(microseconds=1)
_LIMIT = 2**63
_IDENTITY = slice(1, 3)
_VERSION = slice(3, 5)
_QUALITY = 5


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
        self._rows: list[Any] = list(rows)
        self._now = now
        self._fast = _row_code(model.__rows__)

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
        self.refused.clear()
        self.direct = 0
        refused, refused_upstream, fast, gateway_id = self.refused, self.refused_upstream, self._fast, self.gateway_id
        devices: set[object] = set()
        for index, row in enumerate(self._rows):
            if refused_upstream and index in refused_upstream:
                continue
            try:
                # The common case is written out: at 100,000 rows a second each call counts.
                if row.__class__ is Version and (row[4] or row[5]):
                    device, moment, data, quality, epoch, seq = row
                    if device.__class__ is not str or device not in devices:
                        device = device_id_of(device)
                        devices.add(device)
                    if moment.__class__ is datetime and moment.tzinfo is UTC:
                        micros = (moment - POSTGRES_EPOCH) // _MICROSECOND
                    else:
                        micros = micros_of(moment) - _EPOCH_MICROS
                    if not (epoch.__class__ is seq.__class__ is int and 0 <= epoch < _LIMIT and 0 <= seq < _LIMIT):
                        raise InvalidValue(f"version ({epoch!r}, {seq!r}) is not two whole numbers from 0 to 2^63 - 1")
                    if quality is not None:
                        _check_quality(quality)
                    cells = fast(gateway_id, device, micros, epoch, seq, quality, data)
                    if cells is None:
                        values = self.model.__rows__.make(data)[1:]
                        cells = (gateway_id, device, micros, epoch, seq, quality, *values)
                else:
                    cells = self._direct(row)
            except InvalidValue as exc:
                refused[index] = str(exc)
            else:
                yield cells

    def _direct(self, row: object) -> Cells:
        """A row without a version. Raises `InvalidValue`."""
        if not isinstance(row, (tuple, list)) or not (len(row) == 3 or isinstance(row, Version)):
            raise InvalidValue("a row is expected as (device, timestamp, data)")
        device, moment, data = row[:3]
        micros = self._now() if moment is None else micros_of(moment)
        quality, *values = self.model.__rows__.make(data)
        if isinstance(row, Version) and row.quality is not None:
            quality = row.quality
            _check_quality(quality)
        name = device_id_of(device)
        self.direct += 1
        return (self.gateway_id, name, micros - _EPOCH_MICROS, 0, 0, quality, *values)


class Checked:
    """Rows that were checked before."""

    def __init__(self, rows: list[Cells]) -> None:
        self._rows = rows
        self.direct = sum(map(_is_direct, rows))

    def cells(self) -> Iterator[Cells]:
        return iter(self._rows)


def _is_direct(cells: Cells) -> bool:
    """Whether the row has no version."""
    return not (cells[3] or cells[4])


def merge(rows: Iterable[Cells]) -> tuple[int, int, Checked]:
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
            merged[key] = made = _merged(old, cells)
            repeated += made == old
    return count, repeated, Checked(list(merged.values()))


@lru_cache(maxsize=256)
def _row_code(maker: RowMaker) -> Callable[..., Cells | None]:
    return maker.with_head("gateway", "device", "micros", "epoch", "seq", "quality")


def _check_quality(quality: object) -> None:
    if not (isinstance(quality, int) and 0 <= quality < 2**15):
        raise InvalidValue(f"quality is {quality!r}, expected None or a sum of flags")


def _merged(old: Cells, new: Cells) -> Cells:
    """Two rows of one identity as one: the newer version's values, or those of the later row where there are no
    versions; and where it has none, the other's."""
    above, below = (old, new) if old[_VERSION] > new[_VERSION] else (new, old)
    merged = tuple(lower if upper is None else upper for upper, lower in zip(above, below, strict=True))
    if above[_VERSION] == (0, 0):
        return merged
    return (*merged[:_QUALITY], above[_QUALITY], *merged[_QUALITY + 1 :])
