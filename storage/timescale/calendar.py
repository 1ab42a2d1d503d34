"""A zone's dates on a server that need not know the zone: what moves each moment to where UTC has the same date.

Every local date begins at one moment (`Interval`). From there on all is moved by what makes that a midnight
in UTC; a day of more than 24 hours has its last 24 moved like the next day:

    America/Havana   31 Oct 04:00Z       1 Nov 04:00Z         1 Nov 05:00Z       2 Nov 05:00Z
    moved by                  -4 hours   |       -4 hours     |      -5 hours    |     -5 hours
    to               31st 00:00          1st 00:00 to 01:00   1st 00:00          2nd 00:00

Then buckets of days and longer in UTC, which every server has, are those of the zone: also where a date begins twice or
not at all, and where the server's zone files are older than ours, or have another zone by the name.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Any

from psycopg.sql import SQL

from edgedepot.storage.clock import from_micros

Change = tuple[datetime, timedelta]
"""From when on, and by how much all is moved."""

_STEP = 3  # days; no zone has ever kept an offset for less
_FIRST_YEAR = 1844  # none has changed before
_REGULAR = 2100  # from then on all change by a yearly rule, or not at all
_CYCLE = 400  # years after which the calendar comes again; they are whole weeks

MOVED = SQL(
    '("timestamp" + (%(offsets)s::interval[])[1 + width_bucket('
    'CASE WHEN "timestamp" < %(regular)s THEN "timestamp"'
    """ ELSE %(regular)s + ("timestamp" - date_bin('146097 days', "timestamp", %(regular)s)) END, """
    "%(changes)s::timestamptz[])])"
)
"""The timestamp, moved: with the values of `moving`. Later cycles are looked up in the first."""


def moving(zone: tzinfo, start: int | None, end: int | None) -> dict[str, Any]:
    """The values of `MOVED` for timestamps in ``[start, end)`` microseconds, None for open."""
    first = _FIRST_YEAR if start is None else min(max(from_micros(start).year - 1, _FIRST_YEAR), _REGULAR - 1)
    last = _REGULAR if end is None else from_micros(end).year + 1
    changes, offsets = _between(zone, first, last if last < _REGULAR else _REGULAR + _CYCLE)
    return {"changes": changes, "offsets": offsets, "regular": datetime(_REGULAR, 1, 1, tzinfo=UTC)}


@lru_cache
def _between(zone: tzinfo, first: int, last: int) -> tuple[str, str]:
    """When the offset changes in these years, and the offsets before, between and after: as the server writes arrays,
    for there may be a thousand of them."""
    found = [change for year in range(first, last + 1) for change in _changes(zone, year)]
    offsets = [_offset(date(first, 1, 1).toordinal(), zone), *(offset for _, offset in found)]
    return (
        _array(at.isoformat() for at, _ in found),
        _array(f"{offset // timedelta(seconds=1)} seconds" for offset in offsets),
    )


def _array(elements: Iterable[str]) -> str:
    return "{" + ",".join(elements) + "}"


@lru_cache(maxsize=4096)
def _changes(zone: tzinfo, year: int) -> tuple[Change, ...]:
    """Those about dates that are in the year, the first of January of the next included."""
    first, stop = (date(one, 1, 1).toordinal() for one in (year, year + 1))
    like = _YEARS[_kind(year)] if year >= _REGULAR else year
    if like != year:
        ahead = timedelta(days=first - date(like, 1, 1).toordinal())
        return tuple((at + ahead, offset) for at, offset in _changes(zone, like))
    found: list[Change] = []
    samples = [*range(first, stop, _STEP), stop]
    offsets = [_offset(sample, zone) for sample in samples]
    for (low, before), (high, after) in pairwise(zip(samples, offsets, strict=True)):
        if before != after:
            found += _changes_within(low, high, zone)
    return tuple(found)


def _changes_within(low: int, high: int, zone: tzinfo) -> Iterator[Change]:
    """The same after one date and up to another."""
    before = _offset(low, zone)
    for local in range(low + 1, high + 1):
        after = _offset(local, zone)
        if after != before:
            begin = datetime.fromordinal(local).replace(tzinfo=UTC) - after
            yield begin - timedelta(days=1) if after < before else begin, after
        before = after


def _offset(local: int, zone: tzinfo) -> timedelta:
    """How much earlier the first moment of a date is than in UTC. The date is an ordinal (`date.fromordinal`)."""
    return datetime.fromordinal(local).replace(tzinfo=zone).utcoffset() or timedelta()


def _kind(year: int) -> tuple[int, bool]:
    return date(year, 1, 1).weekday(), calendar.isleap(year)


_YEARS = {_kind(year): year for year in range(_REGULAR, _REGULAR + 29)}
"""For every calendar that a year can have, a regular year that has it."""
