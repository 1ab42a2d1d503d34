"""A downsampling task: what it is asked for, its name, and its text.

It runs alone, so that its zone is Flux's own, and its text has no options: see flux.py for those that have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from zoneinfo import ZoneInfo

from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.influxdb.flux import (
    FUNCTION_OF,
    duration,
    fields_filter,
    is_of_column,
    pipe,
    quoted,
    to_float,
    windows_of,
)
from edgedepot.storage.influxdb.line import tag_of
from edgedepot.storage.interval import Interval
from edgedepot.storage.query import FUNCTIONS, Aggregation, Function, Scope

_HOUR = Interval.parse("1 hour")


@dataclass(frozen=True, slots=True)
class Downsampling:
    """What a task does: `delay` after each full `every` it makes the windows of the last `lookback` again."""

    scope: Scope
    fields: tuple[str, ...]
    is_all: bool
    """Whether these are the fields that the function takes, whichever the model has; else they were chosen."""
    function: Function
    interval: Interval
    zone: tzinfo
    every: Interval
    delay: Interval
    lookback: Interval


def check_downsampling(
    scope: Scope,
    fields: Sequence[str] | None,
    interval: str | timedelta,
    function: Function,
    tz: str,
    every: str | timedelta | None,
    lookback: str | timedelta,
    delay: str | timedelta,
) -> Downsampling:
    """Check the arguments of a `create_downsampling_task` call. Raises `InvalidValue`."""
    if function not in FUNCTIONS:
        raise InvalidValue(f"function is {function!r}, expected one of {', '.join(FUNCTIONS)}")
    numeric = function in ("avg", "sum", "min", "max")
    is_all = fields is None
    if fields is None:
        fields = [spec.name for spec in scope.model.__fields__ if spec.type in (float, int) or not numeric]
    elif isinstance(fields, str):
        raise InvalidValue(f"fields is {fields!r}, expected a list of names")
    asked = [Aggregation.of(scope, name, function, interval, tz, None, None) for name in fields]
    if not asked or any(is_of_column(one) for one in asked):
        raise InvalidValue(f"fields is {list(fields)!r}, expected declared fields that {function} takes")
    width = asked[0].interval
    assert width is not None
    how_often = (width if 0 < width.micros < _HOUR.micros else _HOUR) if every is None else Interval.parse(every)
    return Downsampling(
        scope,
        tuple(dict.fromkeys(fields)),
        is_all,
        function,
        width,
        asked[0].zone,
        how_often,
        Interval.parse(delay),
        Interval.parse(lookback),
    )


def name_of(gateway_id: str | None, target: str, asked: Downsampling) -> str:
    """A name that tasks share which are to replace one another: what they write is the same, but for later fields of
    the model."""
    chosen = "" if asked.is_all else f" ({', '.join(sorted(asked.fields))})"
    place = "" if gateway_id is None else f" of {gateway_id}"
    zone = f" in {asked.zone.key}" if isinstance(asked.zone, ZoneInfo) else ""
    return (
        f"edgedepot: {asked.function} of {asked.scope.model.__measurement__}{chosen}{place}"
        f" by {duration(asked.interval)}{zone} into {target}"
    )


def text_of(name: str, source: str, target: str, org: str, gateway_id: str | None, asked: Downsampling) -> str:
    """The text of a task, which takes no options: what varies stands in it, quoted."""
    zone = ""
    imports = ['import "date"']
    if isinstance(asked.zone, ZoneInfo):
        imports.append('import "timezone"')
        zone = f"option location = timezone.location(name: {quoted(asked.zone.key)})\n"
    width = duration(asked.interval)
    first_of_them = f"date.sub(d: {width}, from: date.sub(d: {duration(asked.lookback)}, from: now()))"
    steps = [
        f"from(bucket: {quoted(source)})",
        f"range(start: begin, stop: date.add(d: {width}, to: now()))",
        fields_filter(asked.scope, asked.fields),
        "filter(fn: (r) => exists r.gateway_id)"
        if gateway_id is None
        else f"filter(fn: (r) => r.gateway_id == {quoted(tag_of(gateway_id))})",
        "filter(fn: (r) => exists r.device_id)",
        f"window({windows_of(asked.interval)}, createEmpty: false)",
        # The first window may be cut short by the range, and the last ones are not over yet.
        "filter(fn: (r) => r._start > begin and r._stop <= now())",
        *to_float(asked.function, (spec for spec in asked.scope.model.__fields__ if spec.name in asked.fields)),
        f"{FUNCTION_OF[asked.function]}()",
        'duplicate(column: "_start", as: "_time")',
        "window(every: inf)",
        f"to(bucket: {quoted(target)}, org: {quoted(org)})",
    ]
    options = (
        f"option task = {{name: {quoted(name)}, every: {duration(asked.every)}, offset: {duration(asked.delay)}}}\n"
    )
    return "\n".join(imports) + f"\n\n{options}{zone}\nbegin = {first_of_them}\n\n{pipe(steps)}\n"
