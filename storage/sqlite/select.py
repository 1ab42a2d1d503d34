"""The SQL of queries, over the journal. Names in it come from declared models; values are bound."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import Any

from edgedepot.storage.clock import from_micros
from edgedepot.storage.query import Aggregation, Selection
from edgedepot.storage.reading import Device, Reading
from edgedepot.storage.sqlite.catalogue import KEY_COLUMNS, Layout
from edgedepot.storage.sqlite.journal import scope_condition

_SQL_FUNCTIONS = {"avg": "avg({0})", "min": "min({0})", "max": "max({0})", "sum": "sum({0})", "count": "count({0})"}
# SQLite adds integers in 64 bits and gives up beyond: the upper and the lower half are added apart, and exactly.
_INTEGER_SUM = "sum({0} >> 32), sum({0} & 4294967295), count({0})"
Answer = list[tuple[str | None, int | None, Any]]


def select_readings(connection: sqlite3.Connection, layout: Layout, selection: Selection) -> list[dict[str, Any]]:
    """The rows of a `query_readings` call."""
    scope = selection.scope
    place = _place(connection, layout, scope.model)
    condition, values = scope_condition(scope)
    wanted = "".join(f", {place[name]}" for name in selection.columns)
    direction = " DESC" if selection.descending else ""
    cursor = connection.execute(
        f"SELECT device_id, ts{wanted} FROM journal JOIN series ON series.id = journal.series WHERE {condition}"
        f" ORDER BY {place[selection.order]}{direction}, device_id, ts LIMIT ?",
        (*values, -1 if selection.limit is None else selection.limit),
    )
    names = ("device_id", "timestamp", *selection.columns)
    converters = _converters(selection)
    return [
        dict(zip(names, (row[0], from_micros(row[1]), *_converted(row[2:], converters)), strict=True)) for row in cursor
    ]


def _place(connection: sqlite3.Connection, layout: Layout, model: type[Reading]) -> dict[str, str]:
    """Where each name of a model lies; NULL for a field of which nothing was ever stored."""
    present = len(connection.execute("PRAGMA table_info(journal)").fetchall()) - KEY_COLUMNS
    columns = [column if int(column[1:]) < present else "NULL" for column in layout.columns(model)]
    fields = {spec.name: column for spec, column in zip(model.__fields__, columns, strict=True)}
    return fields | {"timestamp": "ts", "device_id": "device_id", "quality": "quality"}


Converter = Callable[[Any], Any]


def _converters(selection: Selection) -> list[Converter | None]:
    kinds = {spec.name: spec.type for spec in selection.scope.model.__fields__}
    return [_converter(kinds.get(name, int)) for name in selection.columns]


def _converter(kind: type) -> Converter | None:
    """From what SQLite returns to the field's type: it has neither booleans nor times."""
    if kind is bool:
        return lambda value: None if value is None else bool(value)
    if kind is datetime:
        return lambda value: None if value is None else from_micros(value)
    return None


def _converted(cells: tuple[Any, ...], converters: list[Converter | None]) -> tuple[Any, ...]:
    if not any(converters):
        return cells
    return tuple(cell if convert is None else convert(cell) for cell, convert in zip(cells, converters, strict=True))


def aggregate(connection: sqlite3.Connection, layout: Layout, asked: Aggregation) -> Answer:
    """The rows of an `aggregate` call: ``(device_id, bucket, result)``, empty buckets absent."""
    column = _place(connection, layout, asked.scope.model)[asked.field.name]
    condition, values = scope_condition(asked.scope)
    condition += f" AND {column} IS NOT NULL"
    bucket, edges, bound = _bucket(connection, asked, condition, values)
    if edges:
        condition += " AND ts >= edge.low AND ts < edge.high"
    device = "device_id" if asked.by_device else "NULL"
    source = f"{edges}journal JOIN series ON series.id = journal.series WHERE {condition}"
    if asked.function in ("first", "last"):
        sql = _edge_value(asked, device, bucket, column, source)
    else:
        keys = [key for key in (device, bucket) if key != "NULL"]
        grouping = f" GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)}" if keys else ""
        sql = f"SELECT {device}, {bucket}, {_expression(asked).format(column)} FROM {source}{grouping}"
    rows = connection.execute(sql, (*bound, *values)).fetchall()
    convert = _result_converter(asked)
    return rows if convert is None else [(name, start, convert(*cells)) for name, start, *cells in rows]


def _adds_integers(asked: Aggregation) -> bool:
    return asked.field.type is int and asked.function in ("sum", "avg")


def _expression(asked: Aggregation) -> str:
    return _INTEGER_SUM if _adds_integers(asked) else _SQL_FUNCTIONS[asked.function]


def _result_converter(asked: Aggregation) -> Callable[..., Any] | None:
    """From the cells that an aggregate's SQL returns to its result."""
    if _adds_integers(asked):
        return _integer_sum if asked.function == "sum" else _integer_average
    return None if asked.function in ("avg", "sum", "count") else _converter(asked.field.type)


def _integer_sum(upper: int | None, lower: int | None, count: int) -> int | None:
    return None if upper is None or lower is None else (upper << 32) + lower


def _integer_average(upper: int | None, lower: int | None, count: int) -> float | None:
    total = _integer_sum(upper, lower, count)
    return None if total is None else total / count


def _bucket(
    connection: sqlite3.Connection, asked: Aggregation, condition: str, values: list[Any]
) -> tuple[str, str, tuple[Any, ...]]:
    """The bucket's expression, what to join for it, and the values that binds."""
    if asked.interval is None:
        return "NULL", "", ()
    width = asked.interval.micros
    if width:
        return f"(ts - ((ts % {width}) + {width}) % {width})", "", ()
    extent = f"SELECT min(ts), max(ts) FROM journal JOIN series ON series.id = journal.series WHERE {condition}"
    low, high = connection.execute(extent, values).fetchone()
    starts = [] if low is None else asked.interval.starts(low, high + 1, asked.zone)
    ends = [*starts[1:], high + 1] if starts else []
    # Calendar buckets differ in length: they come as a list that is joined, so that every zone's changes are exact.
    edges = (
        "(SELECT json_extract(value, '$[0]') AS low, json_extract(value, '$[1]') AS high FROM json_each(?)) AS edge"
        " CROSS JOIN "
    )
    return "edge.low", edges, (json.dumps(list(zip(starts, ends, strict=True))),)


def _edge_value(asked: Aggregation, device: str, bucket: str, column: str, source: str) -> str:
    """The first or last value by time, ties by device."""
    keys = [key for key in (device, bucket) if key != "NULL"]
    partition = f"PARTITION BY {', '.join(keys)} " if keys else ""
    direction = " DESC" if asked.function == "last" else ""
    return (
        f"SELECT device, bucket, value FROM (SELECT {device} AS device, {bucket} AS bucket, {column} AS value,"
        f" row_number() OVER ({partition}ORDER BY ts{direction}, device_id{direction}) AS place FROM {source})"
        " WHERE place = 1 ORDER BY device, bucket"
    )


def read_devices(connection: sqlite3.Connection) -> list[Device]:
    """Every device that has readings or was saved."""
    found = connection.execute(
        "WITH seen AS (SELECT device_id, min(low) AS low, max(high) AS high FROM (SELECT device_id,"
        " (SELECT min(ts) FROM journal WHERE series = series.id) AS low,"
        " (SELECT max(ts) FROM journal WHERE series = series.id) AS high FROM series)"
        " GROUP BY device_id HAVING high IS NOT NULL)"
        " SELECT device_id, name, metadata, low, high FROM seen LEFT JOIN devices USING (device_id)"
        " UNION ALL SELECT device_id, name, metadata, NULL, NULL FROM devices"
        " WHERE device_id NOT IN (SELECT device_id FROM seen) ORDER BY device_id"
    ).fetchall()
    seen = _converter(datetime) or from_micros
    return [
        Device(device, name, json.loads(metadata) if metadata else {}, seen(low), seen(high))
        for device, name, metadata, low, high in found
    ]
