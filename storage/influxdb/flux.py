"""The text of every query. Values travel beside it as bound parameters, which the server knows as options.

What stands in the text comes from declared models (names of letters, digits and _) and from checked intervals. The
order of steps follows Flux's documentation, https://docs.influxdata.com/flux/v0/stdlib/universe/; each step that looks
superfluous keeps clear of a trap that is named beside it, and tests/storage/influxdb/test_flux.py has a text for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from edgedepot.storage.clock import HOUR, MINUTE, from_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.influxdb.line import EARLIEST, LATEST, tag_of
from edgedepot.storage.influxdb.zones import stretches
from edgedepot.storage.interval import Interval
from edgedepot.storage.query import FUNCTIONS, Aggregation, Function, Scope, Selection
from edgedepot.storage.reading import FieldSpec

ORDER = "_order"
"""A column that sorts readings upwards in the order asked for."""
TEXT_MARK = "="
"""What texts begin with in pivoted answers: an answer is CSV, where an empty text would read as null."""
NO_TEXT = "-"
"""What stands for null there. Not an empty text: Flux 0.195.2 loses those in a column that it makes, and the texts
below them move up a row (https://github.com/influxdata/flux/pull/5503)."""
MOMENT = "_moment"
"""A column with the time of a row whose ``_time`` was shifted."""

ESTIMATE = "estimate"
"""The name of the second result of a sum of whole numbers."""
MOST_LIMITED = 100_000
"""Limits up to this one are kept by the server, which holds that many rows of each series in memory."""

FUNCTION_OF: Mapping[Function, str] = {name: "mean" if name == "avg" else name for name in FUNCTIONS}
# Answers are CSV whose writer turns a line feed within a text into a carriage return and a line feed, and leaves out
# every other carriage return (Go's encoding/csv, UseCRLF). So these go as in tags, see line.py.
_PLAIN = f"""import "strings"

plain = (v) => "{TEXT_MARK}"
    + strings.replaceAll(
        v: strings.replaceAll(v: strings.replaceAll(v: v, t: "%", u: "%25"), t: "\\r", u: "%0D"),
        t: "\\n",
        u: "%0A",
    )

"""
_RANGE = "range(start: rangeStart, stop: rangeStop)"
_UNITS = (("h", HOUR), ("m", MINUTE), ("s", 1_000_000), ("ms", 1_000), ("us", 1))

# Flux counts days from 1970-01-01, a Thursday, and months from there; ours are counted from Monday 2000-01-03 and
# from 2000-01-01.
_DAYS_APART = (date(2000, 1, 3) - date(1970, 1, 1)).days
_MONTHS_APART = 360
_LONGEST = (2**63 - 1) // 1000
"""The most microseconds that a duration can have."""


@dataclass(frozen=True, slots=True)
class Query:
    """A text, and the values of the options in it: texts, whole numbers, and aware datetimes."""

    text: str
    options: dict[str, Any]


def range_of(scope: Scope) -> tuple[int, int]:
    """What is asked for, in microseconds, within what InfluxDB can keep; empty where the first is not the smaller."""
    start = EARLIEST if scope.start is None else max(scope.start, EARLIEST)
    return start, LATEST if scope.end is None else min(scope.end, LATEST)


def select_readings(bucket: str, gateway_id: str | None, selection: Selection) -> Query:
    """The readings of a selection as one table, a row for each reading and a column for each field.

    Ordered by timestamp and cut to the limit where the order is by that; else all of them, in any order. Where readings
    of one moment may lie on both sides of the limit, the first beyond it comes too: their order here is that of the
    tags, which is not always that of the ids.
    """
    scope = selection.scope
    source, options = _source(bucket, gateway_id, scope, [*(spec.name for spec in scope.model.__fields__), "quality"])
    steps = [*source]
    by_time = selection.order == "timestamp"
    if by_time and selection.limit is not None and selection.limit <= MOST_LIMITED:
        is_one_series = gateway_id is not None and scope.device_id is not None
        options["rowLimit"] = selection.limit + (not is_one_series)
        # Each field of each device comes as a table of its own, ordered by time: the newest n readings of a device are
        # among the newest n of each of its fields. The limit of the whole answer comes below.
        steps.append("tail(n: rowLimit)" if selection.descending else "limit(n: rowLimit)")
    steps += [
        'pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")',
        "group()",  # else every series has its own limit and its own order
        'drop(columns: ["_start", "_stop", "_measurement"])',
        *_mapped(selection),
    ]
    if by_time:
        # `sort` has one direction for all of its columns, while ties go upwards in either.
        first = ORDER if selection.descending else "_time"
        steps.append(f'sort(columns: ["{first}", "gateway_id", "device_id"])')
    if "rowLimit" in options:
        steps.append("limit(n: rowLimit)")
    text = pipe(steps)
    return Query(_PLAIN + text if "plain(" in text else text, options)


def _mapped(selection: Selection) -> list[str]:
    """The steps that make what order, texts and names need, where they need it."""
    shown = {*selection.columns, selection.order}
    parts = [
        # In quotes, as a field may be named as a word of Flux, such as test or empty.
        f'"{spec.name}": if exists r["{spec.name}"] then plain(v: r["{spec.name}"]) else "{NO_TEXT}"'
        for spec in selection.scope.model.__fields__
        if spec.type is str and spec.name in shown
    ]
    if selection.order == "timestamp" and selection.descending:
        parts.append(f"{ORDER}: -int(v: r._time)")
    steps = [f"map(fn: (r) => ({{r with {', '.join(parts)}}}))"] if parts else []
    if any(spec.name == "table" for spec in selection.scope.model.__fields__):
        steps.append(f'rename(fn: (column) => if column == "table" then "{column_of("table")}" else column)')
    return steps


def column_of(field: str) -> str:
    """The column of a field in an answer to `select_readings`, where there is a column ``table`` of all tables."""
    return f"_{field}" if field == "table" else field


def aggregate(bucket: str, gateway_id: str | None, asked: Aggregation) -> Query:
    """The aggregate of each device and bucket that the call tells apart, in any order.

    Rows carry ``_value``, ``device_id`` where grouped, and the start of their window in the column `window_column`;
    where the range cuts into a window that is the start of the range. With `is_on_clocks` that start is as clocks in
    the zone show it, the range has to be narrow, and first and last may come in parts, each with its `MOMENT`.
    """
    keys = ["device_id"] if asked.by_device else []
    window = "" if asked.interval is None else windows_of(asked.interval)
    steps, options = _values(bucket, gateway_id, asked)
    if asked.function in ("first", "last"):
        defined, source = _on_clocks([*steps, *_edges_of_series(asked, window)], options, asked)
        text = defined + pipe([source, *_edge_of_all(asked, ["_start", *keys] if window else keys)])
        if asked.field.type is str:
            # `string` does nothing to a text. Without it Flux takes the values of every field for one, in `filter` too.
            text = f"{_PLAIN}{text}\n    |> map(fn: (r) => ({{r with _value: plain(v: string(v: r._value))}}))"
        return Query(text, options)
    defined, source = _on_clocks([*steps, *_shifted(asked)], options, asked)
    # Across several series, tables and gateways: without `group` each series answers apart.
    values = pipe([source, _group(keys), *to_float(asked.function, [asked.field])])
    step = f"{FUNCTION_OF[asked.function]}()"
    if window:
        # `timeSrc` labels a window by its start, where the default is its end. Windows without a value are left out:
        # what fills them is the same for every storage.
        step = f'aggregateWindow({window}, fn: {FUNCTION_OF[asked.function]}, timeSrc: "_start", createEmpty: false)'
    if not is_exact_sum(asked):
        return Query(f"{defined}{values}\n    |> {step}", options)
    text = f"{defined}values = {values}\n"
    for conversion, name in (("", "_result"), ("toFloat() |> ", ESTIMATE)):
        text += f'\nvalues |> {conversion}{step} |> yield(name: "{name}")'
    return Query(text, options)


def to_float(function: Function, fields: Iterable[FieldSpec]) -> list[str]:
    """The step before `mean`, which adds whole numbers in 64 bits, and drops what does not fit."""
    return ["toFloat()"] if function == "avg" and any(spec.type is int for spec in fields) else []


def is_exact_sum(asked: Aggregation) -> bool:
    """Whether the query has two results. The server adds whole numbers in 64 bits and drops what does not fit; a sum of
    them as floats tells how often that happened."""
    return asked.function == "sum" and asked.field.type is int


def window_column(asked: Aggregation) -> str:
    """The column of `aggregate` that tells where a window starts."""
    return "_start" if asked.function in ("first", "last") else "_time"


def is_of_column(asked: Aggregation) -> bool:
    """Whether the aggregate is one of timestamps or device ids, which are no fields."""
    return asked.field.name in ("timestamp", "device_id")


def _values(bucket: str, gateway_id: str | None, asked: Aggregation) -> tuple[list[str], dict[str, Any]]:
    """What an aggregate is made of: rows with ``_value``."""
    if not is_of_column(asked):
        return _source(bucket, gateway_id, asked.scope, [asked.field.name])
    names = [spec.name for spec in asked.scope.model.__fields__]
    source, options = _source(bucket, gateway_id, asked.scope, names)
    value = "int(v: r._time)" if asked.field.name == "timestamp" else "r.device_id"
    return [
        *source,
        # A point is there once for each of its fields. Without the columns that differ these are the same, and the
        # tables of a series become one.
        'drop(columns: ["_field", "_value", "_measurement"])',
        'unique(column: "_time")',
        f"map(fn: (r) => ({{r with _value: {value}}}))",
    ], options


def _edges_of_series(asked: Aggregation, window: str) -> list[str]:
    """The first or last row of each series and window: a table of storage is ordered by time."""
    steps = _shifted(asked)
    if window:
        steps.append(f"window({window}, createEmpty: false)")
    if not is_of_column(asked):  # these rows come from several tables already
        steps.append(f"{asked.function}()")
    return steps


def _edge_of_all(asked: Aggregation, keys: list[str]) -> list[str]:
    """The first or last value by time, ties by gateway and device, of what is left of each series.

    `first` and `last` take a table's first and last row as it lies, and `group` merges tables in no order.
    """
    return [
        _group(keys),
        f'sort(columns: ["{MOMENT if is_on_clocks(asked) else "_time"}", "gateway_id", "device_id"])',
        f"{asked.function}()",
    ]


def is_on_clocks(asked: Aggregation) -> bool:
    """Whether times are shifted to what clocks in the zone of the call show."""
    return asked.interval is not None and isinstance(asked.zone, ZoneInfo)


def _shifted(asked: Aggregation) -> list[str]:
    if not is_on_clocks(asked):
        return []
    keep = [f'duplicate(column: "_time", as: "{MOMENT}")'] if asked.function in ("first", "last") else []
    return [*keep, "timeShift(duration: shift)"]


def _on_clocks(steps: list[str], options: dict[str, Any], asked: Aggregation) -> tuple[str, str]:
    """What has to be defined beforehand, and the source of the rows that the steps make.

    With a zone these are the rows of each stretch of time in which its clocks are the same shift from UTC, shifted by
    that: there a day is a day of UTC, and a window may begin in one stretch and end in another.
    """
    if not is_on_clocks(asked):
        return "", pipe(steps)
    del options["rangeStart"], options["rangeStop"]
    steps = ["range(start: start, stop: stop)" if step == _RANGE else step for step in steps]
    calls = []
    for number, one in enumerate(stretches(asked.zone, *range_of(asked.scope))):
        options |= {f"start{number}": from_micros(one.start), f"stop{number}": from_micros(one.stop)}
        calls.append(f"readings(start: start{number}, stop: stop{number}, shift: {one.shift // 1_000_000}s)")
    source = calls[0] if len(calls) == 1 else "union(tables: [\n    " + ",\n    ".join(calls) + ",\n])"
    return f"readings = (start, stop, shift) => {pipe(steps)}\n\n", source


def extent(bucket: str, gateway_id: str | None, asked: Aggregation) -> Query:
    """The first and the last row of each series that an aggregate is made of."""
    fields = [spec.name for spec in asked.scope.model.__fields__] if is_of_column(asked) else [asked.field.name]
    steps, options = _source(bucket, gateway_id, asked.scope, fields)
    return Query(_both_edges(steps), options)


def windows_of(interval: Interval) -> str:
    """The arguments that say how long windows are and where they begin."""
    days = _DAYS_APART % interval.days if interval.days else 0
    months = _MONTHS_APART % interval.months if interval.months else 0
    offset = f"{days}d" if days else f"{months}mo" if months else ""
    return f"every: {duration(interval)}" + (f", offset: {offset}" if offset else "")


def duration(interval: Interval) -> str:
    """An interval as a duration literal. Raises `InvalidValue` where it is none: Flux counts months, and nanoseconds in
    64 bits."""
    if interval.months:
        return f"{interval.months}mo"
    if interval.shortest > _LONGEST:
        shown, most = (timedelta(microseconds=micros) for micros in (interval.shortest, _LONGEST))
        raise InvalidValue(
            f"an interval of {shown} is longer than InfluxDB knows: expected at most {most.days} days, or else months"
        )
    if interval.days:
        return f"{interval.days}d"
    unit, micros = next((unit, micros) for unit, micros in _UNITS if interval.micros % micros == 0)
    return f"{interval.micros // micros}{unit}"


def devices(bucket: str, gateway_id: str | None) -> Query:
    """The first and the last point of every series of ours, of whatever type."""
    options = {"bucketName": bucket} | _range_options(EARLIEST, LATEST)
    steps = ["from(bucket: bucketName)", _RANGE]
    steps.append("filter(fn: (r) => exists r.device_id and exists r.gateway_id)")
    if gateway_id is not None:
        options["gatewayId"] = tag_of(gateway_id)
        steps.append("filter(fn: (r) => r.gateway_id == gatewayId)")
    return Query(_both_edges(steps), options)


def _both_edges(steps: Sequence[str]) -> str:
    """The first and the last row of every table, as two results; without values, which may be of any type."""
    text = f"points = {pipe(steps)}\n"
    for function in ("first", "last"):
        text += f'\npoints |> {function}() |> drop(columns: ["_value"]) |> yield(name: "{function}")'
    return text


def _source(
    bucket: str, gateway_id: str | None, scope: Scope, fields: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """The points that a scope has, of these fields: a table for each series and field, ordered by time.

    `range` is obligatory; its start belongs to it, its stop does not.
    """
    options = {"bucketName": bucket} | _range_options(*range_of(scope))
    steps = ["from(bucket: bucketName)", _RANGE, fields_filter(scope, fields)]
    for tag, option, wanted in (("gateway_id", "gatewayId", gateway_id), ("device_id", "deviceId", scope.device_id)):
        if wanted is None:  # a point without it is somebody else's, in a measurement that is named as one of ours
            steps.append(f"filter(fn: (r) => exists r.{tag})")
        else:
            options[option] = tag_of(wanted)
            steps.append(f"filter(fn: (r) => r.{tag} == {option})")
    return steps, options


def fields_filter(scope: Scope, fields: Sequence[str]) -> str:
    """The step that leaves the model's measurement and these fields."""
    named = " or ".join(f'r._field == "{name}"' for name in fields)
    return f'filter(fn: (r) => r._measurement == "{scope.model.__measurement__}" and ({named}))'


def _range_options(start: int, stop: int) -> dict[str, Any]:
    return {"rangeStart": from_micros(start), "rangeStop": from_micros(stop)}


def _group(keys: Sequence[str]) -> str:
    return f"group(columns: [{', '.join(map(quoted, keys))}])" if keys else "group()"


def pipe(steps: Sequence[str]) -> str:
    return "\n    |> ".join(steps)


def quoted(text: str) -> str:
    r"""A Flux string literal, for the one text that has no options: a task's.

    https://docs.influxdata.com/flux/v0/spec/lexical-elements/#string-literals: bytes can be given in hexadecimal. So is
    each ``$``, which would begin an expression before a brace, and before anything else hides that from the scanner: of
    ``$\"`` it takes the quote for the end.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    plain = (char if char.isprintable() and char != "$" else _hexadecimal(char) for char in escaped)
    return f'"{"".join(plain)}"'


def _hexadecimal(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())
