"""Aggregates: one statement that sorts readings into buckets and calculates.

Buckets of days and longer follow a zone's calendar. The server's `time_bucket` has the same ones as our contract, but

- where a zone's clocks change about midnight. A date that begins twice (Havana, Azores) begins the second time for it,
  the first time for us; one whose first hour is cut in the middle begins late.
- where it knows another zone by the name, or none: "CET" is to it what "CEST" never is.

So the starts of the buckets that it found are looked at: it is few of them. Where one is not ours, or a change is near
it, all is asked again with starts that are made here. PostgreSQL without the extension is always asked like that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from psycopg import errors
from psycopg.sql import NULL, SQL, Composable, Identifier

from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import Interval, labelled
from edgedepot.storage.query import Aggregation
from edgedepot.storage.timescale.hypertable import interval_text
from edgedepot.storage.timescale.read import DEVICE, Values, condition
from edgedepot.storage.timescale.schema import columns_upstream
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS

Found = list[tuple[str | None, int | None, Any]]
"""``(device_id, bucket, result)``"""
Source = Mapping[str, Composable]

_FIXED = SQL('{}(%(width)s::interval, "timestamp", %(origin)s::timestamptz)')
_ZONED = SQL('{}(%(width)s::interval, "timestamp", %(zone)s::text, %(origin)s::timestamptz)')
_STARTS = SQL('width_bucket("timestamp", %(starts)s::timestamptz[])')
_NUMBER = SQL("bucket")
_MICROS = SQL("(extract(epoch FROM bucket) * 1000000)::bigint")  # it may be before the years that Python knows
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_ORIGIN, _MONTH_ORIGIN = datetime(2000, 1, 3), datetime(2000, 1, 1)
_FUNCTIONS = {
    # PostgreSQL's own avg squares on the way, and overflows from 1e154 on.
    "avg": SQL("sum(value::double precision) / count(value)"),
    "min": SQL("min(value)"),
    "max": SQL("max(value)"),
    "sum": SQL("sum(value)"),
    "count": SQL("count(value)"),
}


def aggregate(session: Session, gateway_id: str | None, asked: Aggregation) -> Found:
    """The rows of an `aggregate` call; empty buckets are absent. Raises `InvalidValue` for buckets beyond the calendar,
    and psycopg's errors."""
    width = asked.interval
    where, values = condition(asked.scope, gateway_id)
    try:
        with session.transaction():
            source = _source(session, asked, where)
            if source is None:
                return []
            bucket = _bucket(session, asked)
            if bucket is not None:
                found = _calculate(session, asked, {**source, **bucket}, values | _widths(asked))
                if width is None or not width.is_calendar or _are_ours(width, asked.zone, found):
                    return found
    except errors.InvalidParameterValue:  # the server does not know the zone
        if width is None or not width.is_calendar:
            raise
    assert width is not None
    assert source is not None
    with session.transaction(snapshot=True):
        return _by_starts(session, asked, width, source, values)


def _source(session: Session, asked: Aggregation, where: Composable) -> Source | None:
    """What is to be aggregated; None where there is no table or column for it."""
    present = columns_upstream(session, asked.scope.model)
    if present is None or asked.field.name not in present:
        return None
    return {
        "table": session.place.table(asked.scope.model),
        "field": Identifier(asked.field.name),
        "device": DEVICE if asked.by_device else NULL,
        "where": where,
    }


def _bucket(session: Session, asked: Aggregation) -> Source | None:
    """A row's bucket, and how it is named in the answer; None where the server cannot tell."""
    width, home = asked.interval, session.extension_schema
    if width is None:
        return {"bucket": NULL, "label": NULL}
    if home is None:
        date_bin = Identifier("date_bin")  # PostgreSQL's own
        return None if width.is_calendar else {"bucket": _FIXED.format(date_bin), "label": _MICROS}
    time_bucket = Identifier(home, "time_bucket")  # the planner knows how many groups it makes
    if asked.zone is UTC:
        return {"bucket": _FIXED.format(time_bucket), "label": _MICROS}
    # Names such as CET and EST are abbreviations to the server: an offset, in summer too.
    return {"bucket": _ZONED.format(time_bucket), "label": _MICROS} if "/" in str(asked.zone) else None


def _widths(asked: Aggregation) -> Values:
    """The values that the buckets take."""
    width = asked.interval
    if width is None:
        return {}
    origin = _ORIGIN
    if width.is_calendar:
        origin = (_DAY_ORIGIN if width.days else _MONTH_ORIGIN).replace(tzinfo=asked.zone)
    return {"width": interval_text(width), "origin": origin, "zone": str(asked.zone)}


def _are_ours(width: Interval, zone: tzinfo, found: Found) -> bool:
    """Whether every reading is in the bucket that our contract has it in."""
    if zone is UTC:
        return True
    starts = {start for _, start, _ in found if start is not None}
    if any(width.floor(start, zone) != start for start in starts):
        return False
    return all(_begins_once(edge, zone) for edge in starts | {width.next(start, zone) for start in starts})


def _begins_once(edge: int, zone: tzinfo) -> bool:
    """Whether the date before an edge ends there, and the one after it begins there and nowhere else."""
    try:
        before, after = labelled(edge - 1, zone).date(), labelled(edge, zone).date()
    except InvalidValue:
        return True  # no clocks change at the ends of the calendar
    midnight = datetime(after.year, after.month, after.day, tzinfo=zone)
    first, second = (midnight.replace(fold=fold).utcoffset() or timedelta() for fold in (0, 1))
    return before < after and first <= second


def _by_starts(session: Session, asked: Aggregation, width: Interval, source: Source, values: Values) -> Found:
    """The same by starts that are made here, of the days on which there is something."""
    extents = session.connection.execute(STATEMENTS["extents"].format(**source), values).fetchall()
    starts = sorted(
        {start for low, high in extents for start in width.starts(to_micros(low), to_micros(high) + 1, asked.zone)}
    )
    values = values | {"starts": [from_micros(start) for start in starts]}
    found = _calculate(session, asked, {**source, "bucket": _STARTS, "label": _NUMBER}, values) if starts else []
    return [(device, starts[number - 1], result) for device, number, result in found if number is not None]


def _calculate(session: Session, asked: Aggregation, source: Source, values: Values) -> Found:
    """The aggregate of each device and bucket that the source tells apart."""
    names = {"values": STATEMENTS["values"].format(**source), "label": source["label"]}
    if asked.function in ("first", "last"):
        statement = STATEMENTS[asked.function].format(**names)
    else:
        statement = STATEMENTS["calculated"].format(function=_FUNCTIONS[asked.function], **names)
    with session.connection.cursor(binary=True) as cursor:
        rows = cursor.execute(statement, values).fetchall()
    # The sum of a bigint column is a numeric.
    return [(device, bucket, int(result) if isinstance(result, Decimal) else result) for device, bucket, result in rows]
