"""Tells by its shape which table a row is of, when it was found on a page and nothing says whose page that is.

The tables are few, and no two look alike: see records.py and tables.py. A row counts only where all in it fits: its
series is known, and its values are what the model's fields can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from edgedepot.storage.sqlite.books import is_change
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.pages import Pages, Record
from edgedepot.storage.sqlite.records import QUALITY, SEQ, TIME, Kind, is_record

_SETTINGS = {"store_epoch", "epochs", "books_seq", "shape", "gateway_id", "store_id", "last_cursor"}
_MORE_SETTINGS = ("choice_", "given_up_", "start_", "note ")
_WITH_NUMBER = ("_series", "_sources", "_models", "_rejected", "_replaced", "_cursors", "_books")
"""Tables whose first column is the number by which SQLite finds a row."""
_RECEIVED = Kind((int, type(None)), TIME.low, TIME.high)


class Found(NamedTuple):
    """A row, and its table: ``journal`` and ``history`` for readings as (seq, series, ts, quality, values...), ``held``
    for those of a time base as (seq, series, ts, quality, received, values...), ``book`` for (seq, text), and the names
    of the other tables, for rows with all of their columns."""

    table: str
    row: tuple[Any, ...]


class Kinds:
    """The types that the values of each series' rows may have, by the series' number."""

    def __init__(self, by_series: Mapping[int, Sequence[tuple[type, ...]]]) -> None:
        self._by_series = by_series
        self.unknown = False
        """Whether there was a row that looks like a reading of a series that nobody knows."""

    def fits(self, series: int, seq: Any, ts: Any, quality: Any, values: Sequence[Any]) -> bool:
        """Whether this can be a reading."""
        if not (SEQ.takes(seq) and TIME.takes(ts) and QUALITY.takes(quality)):
            return False
        kinds = self._by_series.get(series)
        if kinds is None:
            self.unknown = self.unknown or type(series) is int
            return False
        if any(value is not None for value in values[len(kinds) :]):  # the journal is as wide as the widest model
            return False
        return all(value is None or type(value) in stored for value, stored in zip(values, kinds, strict=False))

    def fits_held(self, row: Sequence[Any]) -> bool:
        """The same of a row of a time base."""
        seq, series, ts, quality, received, *values = row
        return _RECEIVED.takes(received) and self.fits(series, seq, ts, quality, values)


def kinds_of(layout: Layout) -> list[tuple[type, ...]]:
    """The types that the values of a model's rows may have."""
    return [
        (float, int) if place in layout.turned else (int if spec.type is bool else spec.type,)
        for place, spec in enumerate(layout.stored)
    ]


def scan(
    pages: Pages, numbers: Sequence[int], kinds: Kinds, is_of_a_base: Callable[[int], bool | None] = lambda seq: None
) -> Iterator[Found]:
    """The rows on these pages that are of the store. Those of several states of one page may be among them.
    `is_of_a_base` tells of a number of the journal whether that row is of a time base, None where nobody knows."""
    for number in numbers:
        for record in pages.records(number):
            found = _row(record, kinds, is_of_a_base)
            if found is not None:
                yield found


def _row(record: Record, kinds: Kinds, is_of_a_base: Callable[[int], bool | None]) -> Found | None:
    rowid, values = record
    if rowid is None:
        return _without_rowid(values, kinds)
    if not values:
        return None
    if values[0] is not None:
        return _of_table("_quarantined", values)
    rest = values[1:]
    if len(rest) >= 4:
        if rest[:3] == [None, None, None]:
            text = book_text(rowid, rest[3:])
            return None if text is None else Found("book", (rowid, text))
        if rest[0] is not None:
            of_a_base = is_of_a_base(rowid)
            if of_a_base is not True and kinds.fits(rest[0], rowid, rest[1], rest[2], rest[3:]):
                return Found("journal", (rowid, *rest))
            if of_a_base is not False and kinds.fits_held((rowid, *rest)):
                return Found("held", (rowid, *rest))
    for table in _WITH_NUMBER:
        found = _of_table(table, (rowid, *rest))
        if found is not None:
            return found
    return None


def book_text(seq: Any, cells: Sequence[Any]) -> str | None:
    """What a row of the books says, of its number and its value columns, before which a time base has one of its own;
    None where it is none."""
    if not SEQ.takes(seq):
        return None
    text = next((value for value in cells[:2] if value is not None), None)
    return text if is_change(text) else None


def _without_rowid(values: list[Any], kinds: Kinds) -> Found | None:
    if len(values) >= 4 and kinds.fits(values[0], values[2], values[1], values[3], values[4:]):
        return Found("history", (values[2], values[0], values[1], values[3], *values[4:]))
    if len(values) == 3 and isinstance(values[1], str) and isinstance(values[2], int):  # the index of _series
        return _of_table("_series", (values[2], values[0], values[1], None))
    if len(values) in (6, 7):
        cursor, series, start, low, *others = values  # the key goes first
        stop, high, every = others if len(others) == 3 else (*others, 0)  # as it was before there was `every`
        return _of_table("_withheld", (cursor, series, start, stop, low, high, every))
    if len(values) == 3:
        return _of_table("_devices", values)
    if values and isinstance(values[0], str) and (values[0] in _SETTINGS or values[0].startswith(_MORE_SETTINGS)):
        return _of_table("_meta", values)
    return None


def _of_table(table: str, values: Sequence[Any]) -> Found | None:
    return Found(table, tuple(values)) if is_record(table, values) else None
