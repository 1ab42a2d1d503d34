"""The contract's arithmetic over plain rows, for own backends that have no query language.

A row is a dict ``{"device_id", "timestamp", field...}``, with ``"gateway_id"`` where several gateways share the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.query import Aggregation, Function, Scope, Selection, micros_of
from edgedepot.storage.reading import Reading, check_model, device_id_of
from edgedepot.storage.values import Data

RowDict = dict[str, Any]
Rows = Iterable[RowDict]


def make_row(reading_model: type[Reading], device: object, timestamp: datetime, data: Data) -> RowDict:
    """A reading, checked by the contract's rules, as a row with every field and its ``"quality"``; the time in UTC.

    Raises `InvalidValue` (ValueError) for what cannot be stored.
    """
    quality, *values = check_model(reading_model).__rows__.make(data)
    names = (spec.name for spec in reading_model.__fields__)
    head = {"device_id": device_id_of(device), "timestamp": from_micros(micros_of(timestamp))}
    return {**head, **dict(zip(names, values, strict=True)), "quality": quality}


def merge_rows(reading_model: type[Reading], old: RowDict, new: RowDict) -> RowDict:
    """A row of `make_row` with another of the same identity over it: what the newer one has, wins; null does not."""
    merged = {**old, **{name: value for name, value in new.items() if value is not None}}
    values = tuple(merged[spec.name] for spec in reading_model.__fields__)
    return {**merged, "quality": reading_model.__rows__.merged_quality(old["quality"], new["quality"], values)}


def select_rows(
    rows: Rows,
    reading_model: type[Reading],
    device: object = None,
    start: datetime | None = None,
    end: datetime | None = None,
    fields: Sequence[str] | None = None,
    limit: int | None = None,
    order: str = "-timestamp",
) -> list[dict[str, Any]]:
    """What `query_readings` answers, from all rows of a model in any order. Raises `InvalidValue`."""
    selection = Selection.of(Scope.of(reading_model, device, start, end), fields, limit, order)
    found = [row for row in rows if _is_in(selection.scope, row)]
    # Sorted twice, as sorting keeps the order of equals: ties go upwards in either direction; null is before values.
    found.sort(key=lambda row: (row.get("gateway_id") or "", row["device_id"], row["timestamp"]))
    found.sort(key=lambda row: _sort_key(row.get(selection.order)), reverse=selection.descending)
    head = ("gateway_id", "device_id", "timestamp")
    return [
        {name: row[name] for name in head if name in row} | {name: row.get(name) for name in selection.columns}
        for row in found[: selection.limit]
    ]


def aggregate_rows(
    rows: Rows,
    reading_model: type[Reading],
    field: str,
    function: Function = "avg",
    device: object = None,
    start: datetime | None = None,
    end: datetime | None = None,
    interval: str | timedelta | None = None,
    tz: str = "UTC",
    group_by: Literal["device"] | None = None,
    fill: Literal["null", "previous"] | None = None,
) -> dict[str, Any] | list[dict[str, Any]]:
    """What `aggregate` answers, from all rows of a model in any order. Raises `InvalidValue`."""
    asked = Aggregation.of(Scope.of(reading_model, device, start, end), field, function, interval, tz, group_by, fill)
    groups: dict[tuple[str | None, int | None], list[dict[str, Any]]] = {}
    for row in rows:
        if _is_in(asked.scope, row) and row.get(field) is not None:
            bucket = None if asked.interval is None else asked.interval.floor(to_micros(row["timestamp"]), asked.zone)
            groups.setdefault((row["device_id"] if asked.by_device else None, bucket), []).append(row)
    found = [(name, bucket, _reduce(function, field, group)) for (name, bucket), group in groups.items()]
    return asked.answer(sorted(found, key=lambda entry: (entry[0] or "", entry[1] or 0)))


def _reduce(function: Function, field: str, rows: list[dict[str, Any]]) -> Any:
    values = [row[field] for row in rows]
    match function:
        case "count":
            return len(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values)
        case "first":
            return min(rows, key=_position)[field]
        case "last":
            return max(rows, key=_position)[field]


def _position(row: dict[str, Any]) -> tuple[datetime, str, str]:
    return row["timestamp"], row.get("gateway_id") or "", row["device_id"]


def _is_in(scope: Scope, row: dict[str, Any]) -> bool:
    moment = to_micros(row["timestamp"])
    return (
        (scope.device_id is None or row["device_id"] == scope.device_id)
        and (scope.start is None or moment >= scope.start)
        and (scope.end is None or moment < scope.end)
    )


def _sort_key(value: Any) -> tuple[bool, Any]:
    return (value is not None, value)
