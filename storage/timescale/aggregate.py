"""Aggregates: one statement that sorts readings into buckets and calculates.

Buckets of days and longer in another zone than UTC are those of timestamps that were moved (`calendar`). The server's
`time_bucket` with a zone has others where clocks change about midnight: a date that begins twice (Havana, Azores)
begins the second time for it, the first time for us. It would take longer, too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg import errors
from psycopg.sql import NULL, SQL, Composable, Identifier

from edgedepot.storage.interval import start_of_date
from edgedepot.storage.query import Aggregation
from edgedepot.storage.timescale.calendar import MOVED, moving
from edgedepot.storage.timescale.hypertable import interval_text
from edgedepot.storage.timescale.read import DEVICE, Values, condition
from edgedepot.storage.timescale.schema import columns_upstream
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS

Found = list[tuple[str | None, int | None, Any]]
"""``(device_id, bucket, result)``"""
Source = dict[str, Composable]

_BUCKET = SQL("{function}(%(width)s::interval, {time}, %(origin)s::timestamptz)")
_MONTHS = SQL(
    "(date_trunc('month', {time}) - interval '1 month' * mod(%(months)s + mod(CAST("
    "12 * (date_part('year', {time}) - 2000) + date_part('month', {time}) - 1 AS integer), %(months)s), %(months)s))"
)
"""The same for months, in plain PostgreSQL."""
_TIME = SQL('"timestamp"')
_MICROS = SQL("(extract(epoch FROM bucket) * 1000000)::bigint")  # it may be before the years that Python knows
_ORIGIN, _MONTH_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC)
_DAY_ORIGIN = datetime(2000, 1, 3, tzinfo=UTC)
# The vast values are summed in units of 2^64, so that there is an end of floats only where the result is beyond it.
_VAST = SQL("sum(CASE WHEN abs({value}) < 1e270 THEN 0 ELSE {value} * 2::double precision ^ -64 END)")
_OTHERS = SQL("sum(CASE WHEN abs({value}) < 1e270 THEN {value} ELSE 0 END)")
_VAST_SUM = SQL(
    "CASE WHEN abs({vast}) < 2::double precision ^ 960 THEN {vast} * 2::double precision ^ 64 + {others}"
    " ELSE {vast} * 'Infinity'::double precision END"
)
_AVERAGE = SQL("({sum}) / count({value})")


def calculations(value: Composable) -> Source:
    """What calculates each function but first and last. A sum of floats beyond them all is an error."""
    return {
        # PostgreSQL's own avg squares on the way, and overflows from 1e154 on.
        "avg": _AVERAGE.format(sum=SQL("sum({}::double precision)").format(value), value=value),
        "min": SQL("min({})").format(value),
        "max": SQL("max({})").format(value),
        "sum": SQL("sum({})").format(value),
        "count": SQL("count({})").format(value),
    }


def vast_calculations(value: Composable) -> Source:
    """The same for floats as vast as they come: it takes longer, and a sum beyond them all is infinite."""
    total = _VAST_SUM.format(vast=_VAST.format(value=value), others=_OTHERS.format(value=value))
    return {**calculations(value), "avg": _AVERAGE.format(sum=total, value=value), "sum": total}


def number_of(result: Any) -> Any:
    """A result as every storage has it: the sum of a bigint column is a numeric."""
    return int(result) if isinstance(result, Decimal) else result


_FUNCTIONS, _VAST_FUNCTIONS = calculations(SQL("value")), vast_calculations(SQL("value"))


def aggregate(session: Session, gateway_id: str | None, asked: Aggregation) -> Found:
    """The rows of an `aggregate` call; empty buckets are absent. Raises `InvalidValue` for buckets beyond the calendar,
    and psycopg's errors."""
    try:
        found = _found(session, gateway_id, asked, _FUNCTIONS)
    except errors.NumericValueOutOfRange:
        # A sum beyond all floats is an error to PostgreSQL; everywhere else it is infinite.
        found = _found(session, gateway_id, asked, _VAST_FUNCTIONS)
    if asked.zone is UTC:
        return found
    starts = {date: start_of_date(date, asked.zone) for _, date, _ in found if date is not None}
    return [(device, date if date is None else starts[date], result) for device, date, result in found]


def _found(session: Session, gateway_id: str | None, asked: Aggregation, functions: Source) -> Found:
    """The same, with the dates of a zone as midnights in UTC."""
    scope = asked.scope
    where, values = condition(scope, gateway_id)
    with session.transaction():
        present = columns_upstream(session, scope.model)
        if present is None or asked.field.name not in present:
            return []
        source: Source = {
            "table": session.place.table(scope.model),
            "field": Identifier(asked.field.name),
            "device": DEVICE if asked.by_device else NULL,
            "where": where,
        }
        values |= _bucket_values(asked)
        return _calculate(session, asked, source | _bucket(session, asked), values, functions)


def _bucket(session: Session, asked: Aggregation) -> Source:
    """A row's bucket, and how it is named in the answer."""
    width, home = asked.interval, session.extension_schema
    if width is None:
        return {"bucket": NULL, "label": NULL, "fence": SQL("")}
    time = _TIME if asked.zone is UTC else MOVED
    if home is None and width.months:
        bucket = _MONTHS.format(time=time)
    else:
        function = Identifier("date_bin") if home is None else Identifier(home, "time_bucket")
        bucket = _BUCKET.format(function=function, time=time)
    # Of time_bucket the planner knows how many groups it makes, and that they come in order. Of all else it thinks
    # that every reading makes one, and sorts them all, unless it cannot see where the bucket is from.
    is_known = home is not None and time is _TIME
    return {"bucket": bucket, "label": _MICROS, "fence": SQL("" if is_known else "OFFSET 0")}


def _bucket_values(asked: Aggregation) -> Values:
    """The values that the buckets take."""
    width = asked.interval
    if width is None:
        return {}
    origin = _ORIGIN
    if width.is_calendar:
        origin = _DAY_ORIGIN if width.days else _MONTH_ORIGIN
    values: Values = {"width": interval_text(width), "origin": origin, "months": width.months}
    return values if asked.zone is UTC else values | moving(asked.zone, asked.scope.start, asked.scope.end)


def _calculate(session: Session, asked: Aggregation, source: Source, values: Values, functions: Source) -> Found:
    """The aggregate of each device and bucket that the source tells apart."""
    names = {"values": STATEMENTS["values"].format(**source), "label": source["label"]}
    if asked.function in ("first", "last"):
        statement = STATEMENTS[asked.function].format(**names)
    else:
        statement = STATEMENTS["calculated"].format(function=functions[asked.function], **names)
    with session.connection.cursor(binary=True) as cursor:
        rows = cursor.execute(statement, values).fetchall()
    return [(device, bucket, number_of(result)) for device, bucket, result in rows]
