"""Lazy reading in pages, over any storage's `query_readings`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.query import Selection, micros_of
from edgedepot.storage.reading import device_id_of

PAGE = 1000
Position = tuple[datetime, str | None, str]
"""Timestamp, gateway_id (None where rows carry none) and device_id of a row."""
_MICROSECOND = timedelta(microseconds=1)

Ask = Callable[[datetime | None, datetime | None, int], list[dict[str, Any]]]
"""What gets a page: start, end, limit; all else is settled."""


def iterate(ask: Ask, selection: Selection, after: Position | None, page: int = PAGE) -> Iterator[dict[str, Any]]:
    """The rows of a selection by timestamp, page by page, after a position. Raises `InvalidValue` at once."""
    if selection.order != "timestamp":
        raise InvalidValue(f"order is {selection.order!r}, expected 'timestamp' or '-timestamp': pages follow time")
    return _pages(ask, selection, None if after is None else _checked(after), page)


def _checked(after: Position) -> Position:
    """The position with its time in UTC: in a zone with changes Python compares and adds by the clock on the wall."""
    if not (isinstance(after, tuple) and len(after) == 3 and isinstance(after[1] or "", str)):
        raise InvalidValue(f"after is {after!r}, expected (timestamp, gateway_id, device_id)")
    return from_micros(micros_of(after[0], "after")), after[1], device_id_of(after[2])


def _pages(ask: Ask, selection: Selection, after: Position | None, page: int) -> Iterator[dict[str, Any]]:
    scope = selection.scope
    start = None if scope.start is None else from_micros(scope.start)
    end = None if scope.end is None else from_micros(scope.end)
    left = selection.limit
    size = page
    while left is None or left > 0:
        if after is not None and selection.descending:
            end = _earlier(end, just_after(after[0]))
        elif after is not None:
            start = after[0] if start is None else max(start, after[0])
        rows = ask(start, end, size)
        fresh = [row for row in rows if after is None or _is_beyond(row, after, selection.descending)][:left]
        yield from fresh
        if fresh:
            after = (fresh[-1]["timestamp"], fresh[-1].get("gateway_id"), fresh[-1]["device_id"])
            left = None if left is None else left - len(fresh)
        if len(rows) < size:
            return
        # A page full of rows of one moment that were all there before: only a larger one gets past them.
        size = page if fresh else size * 2


def just_after(moment: datetime) -> datetime | None:
    """A microsecond later, where a half-open range ends that holds `moment`; None for open at the end of all time."""
    try:
        return moment + _MICROSECOND
    except OverflowError:
        return None


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _is_beyond(row: dict[str, Any], after: Position, descending: bool) -> bool:
    """Whether a row comes after a position; among rows of one moment gateway and device go upwards in any order."""
    moment: datetime = row["timestamp"]
    if moment != after[0]:
        return moment < after[0] if descending else moment > after[0]
    return (row.get("gateway_id") or "", row["device_id"]) > (after[1] or "", after[2])
