"""Tells by its shape which table a row is of, when it was found on a page and nothing says whose page that is.

The tables are few, and no two look alike: see schema.py and tables.py. A row counts only where all in it fits: its
series is known, and its values are what the model's fields can hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edgedepot.storage.sqlite.pages import Pages, Record

_INT = (int,)
_TEXT = (str,)
_OR_NONE = (int, type(None))
_ANY = (int, float, str, bytes, type(None))
_COUNTS = 6
"""At least so many counts has a row of the books."""
_META = {"store_epoch", "epochs", "books_seq", "shape", "gateway_id", "store_id", "last_cursor"}
_QUALITY = 1 << 8
_FIXED: dict[str, tuple[tuple[type, ...], ...]] = {
    "_series": (_INT, _TEXT, _OR_NONE),
    "_sources": (_TEXT,),
    "_models": (_TEXT, _TEXT, _TEXT),
    "_rejected": (_INT, _INT, _TEXT, _TEXT, (bytes,)),
    "_replaced": (_INT, _INT, _TEXT, _ANY, _INT),
}
"""The columns of tables whose first is the rowid, behind that."""
_CURSOR = (_TEXT, _INT, _OR_NONE, _TEXT, _TEXT, _INT, _INT)
_QUARANTINED = (_INT, _INT, _TEXT, _TEXT, _INT, _OR_NONE, _TEXT, _TEXT, _INT)


class Found(NamedTuple):
    """A row, and its table: ``journal`` and ``history`` for readings as (seq, series, ts, quality, values...), ``book``
    for (seq, text), and the names of the other tables."""

    table: str
    row: tuple[Any, ...]


class Kinds:
    """The types of the values of each series' rows, by the series' number."""

    def __init__(self, by_series: Mapping[int, Sequence[type]]) -> None:
        self._by_series = {series: [_stored(kind) for kind in kinds] for series, kinds in by_series.items()}

    def fits(self, series: int, seq: Any, ts: Any, quality: Any, values: Sequence[Any]) -> bool:
        """Whether this can be a reading."""
        kinds = self._by_series.get(series)
        if kinds is None or type(seq) is not int or seq < 1 or type(ts) is not int:
            return False
        if quality is not None and (type(quality) is not int or not 0 < quality < _QUALITY):
            return False
        if any(value is not None for value in values[len(kinds) :]):  # the journal is as wide as the widest model
            return False
        return all(value is None or type(value) is kind for value, kind in zip(values, kinds, strict=False))


def _stored(kind: type) -> type:
    return int if kind is bool else kind


def scan(pages: Pages, numbers: Iterator[int] | Sequence[int], kinds: Kinds) -> Iterator[Found]:
    """The rows on these pages that are of the store. Those of several states of one page may be among them."""
    for number in numbers:
        for record in pages.records(number):
            found = _row(record, kinds)
            if found is not None:
                yield found


def _row(record: Record, kinds: Kinds) -> Found | None:
    rowid, values = record
    if rowid is None:
        return _without_rowid(values, kinds)
    if not values:
        return None
    if values[0] is not None:
        return Found("_quarantined", tuple(values)) if _like(values[: len(_QUARANTINED)], _QUARANTINED) else None
    rest = values[1:]
    if len(rest) >= 4:
        if rest[:3] == [None, None, None] and isinstance(rest[3], str):
            return Found("book", (rowid, rest[3])) if _is_json(rest[3]) else None
        if kinds.fits(rest[0], rowid, rest[1], rest[2], rest[3:]):
            return Found("journal", (rowid, *rest))
    for table, columns in _FIXED.items():
        if _like(rest, columns):
            return Found(table, (rowid, *rest)) if table != "_models" or _is_json(rest[2]) else None
    if _like(rest[: len(_CURSOR)], _CURSOR) and _is_json(rest[3]) and _is_json(rest[4]):
        return Found("_cursors", (rowid, *rest))
    if len(rest) >= _COUNTS and all(type(value) is int and value >= 0 for value in rest):
        return Found("_books", (rowid, *rest))
    return None


def _without_rowid(values: list[Any], kinds: Kinds) -> Found | None:
    if len(values) >= 4 and kinds.fits(values[0], values[2], values[1], values[3], values[4:]):
        return Found("history", (values[2], values[0], values[1], values[3], *values[4:]))
    if _like(values, (_INT, _TEXT, _INT)):  # the index of _series: model, device, number
        return Found("_series", (values[2], values[0], values[1], None))
    if _like(values, (_TEXT, (str, type(None)), _TEXT)) and _is_json(values[2]):
        return Found("_devices", tuple(values))
    if len(values) == 2 and values[0] in _META:
        return Found("_meta", tuple(values))
    return None


def _like(values: Sequence[Any], columns: tuple[tuple[type, ...], ...]) -> bool:
    return len(values) == len(columns) and all(
        type(value) in kinds for value, kinds in zip(values, columns, strict=True)
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
