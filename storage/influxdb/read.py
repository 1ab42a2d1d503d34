"""Questions to the server, and their answers as rows of the contract."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from influxdb_client.client.influxdb_client import InfluxDBClient

from edgedepot.storage.clock import DAY, from_micros, to_micros
from edgedepot.storage.influxdb import flux
from edgedepot.storage.influxdb.line import id_of, tag_of
from edgedepot.storage.influxdb.link import Link
from edgedepot.storage.influxdb.settings import Settings
from edgedepot.storage.influxdb.zones import moment_of
from edgedepot.storage.query import Aggregation, Scope, Selection
from edgedepot.storage.reading import Device

Record = dict[str, Any]

Key = tuple[str | None, int | None]
"""Device and bucket of a result, None where they are not told apart."""

_NARROW = 20 * 366 * DAY
"""A range, in microseconds, with few enough changes of the clocks to name them all."""
_TURN = 2**64
"""What a sum in 64 bits has lost each time that it did not fit."""


def select_readings(link: Link, bucket: str, gateway_id: str | None, selection: Selection) -> list[dict[str, Any]]:
    """The rows of a `query_readings` call."""
    start, stop = flux.range_of(selection.scope)
    if start >= stop or selection.limit == 0:
        return []
    query = flux.select_readings(bucket, gateway_id, selection)
    records = _ask(link, query)
    if selection.limit is not None and selection.limit < len(records) == query.options.get("rowLimit"):
        records = _with_ties(link, bucket, gateway_id, selection, records)
    for record in records:
        record["device_id"] = id_of(record["device_id"])
        record["gateway_id"] = id_of(record["gateway_id"])
        for spec in selection.scope.model.__fields__:
            record[spec.name] = _of_pivot(record.get(flux.column_of(spec.name)), spec.type)
    # Sorted twice, as sorting keeps the order of equals: ties go upwards in either direction, null is before values.
    records.sort(key=lambda record: (record["gateway_id"], record["device_id"], record["_time"]))
    order = "_time" if selection.order == "timestamp" else selection.order
    records.sort(key=lambda record: _sort_key(record[order]), reverse=selection.descending)
    return [_row(record, selection, gateway_id is None) for record in records[: selection.limit]]


def _with_ties(
    link: Link, bucket: str, gateway_id: str | None, selection: Selection, records: list[Record]
) -> list[Record]:
    """The records, with all of the moment at the limit, if that cuts through one."""
    *_, last, beyond = sorted((record["_time"] for record in records), reverse=selection.descending)
    if last != beyond:
        return records
    moment = to_micros(last)
    whole = replace(selection, scope=replace(selection.scope, start=moment, end=moment + 1), limit=None)
    others = [record for record in records if record["_time"] != last]
    return others + _ask(link, flux.select_readings(bucket, gateway_id, whole))


def _row(record: Record, selection: Selection, spans_gateways: bool) -> dict[str, Any]:
    row = {"gateway_id": record["gateway_id"]} if spans_gateways else {}
    row |= {"device_id": record["device_id"], "timestamp": record["_time"]}
    # A quality of 0 clears the flags of an earlier version.
    return row | {name: record.get(name) or None if name == "quality" else record[name] for name in selection.columns}


def _of_pivot(value: Any, kind: type) -> Any:
    if kind is str:
        return None if value in (None, flux.NO_TEXT) else _text(value)
    return float(value) if kind is float and value is not None else value


def _text(value: str) -> str:
    return id_of(value.removeprefix(flux.TEXT_MARK))


def _sort_key(value: Any) -> tuple[bool, Any]:
    return (value is not None, value)


def aggregate(
    link: Link, bucket: str, gateway_id: str | None, asked: Aggregation
) -> list[tuple[str | None, int | None, Any]]:
    """The rows of an `aggregate` call: ``(device_id, bucket, result)``; empty buckets are absent."""
    start, stop = flux.range_of(asked.scope)
    if start >= stop:
        return []
    if flux.is_on_clocks(asked) and stop - start > _NARROW:
        scope = _narrowed(link, bucket, gateway_id, asked)
        if scope is None:
            return []
        asked = replace(asked, scope=scope)
    found: dict[Key, Any] = {}
    estimates: dict[Key, float] = {}
    for record in _in_order(_ask(link, flux.aggregate(bucket, gateway_id, asked)), asked):
        key = (id_of(record["device_id"]) if asked.by_device else None, _bucket(record, asked))
        if record["result"] == flux.ESTIMATE:
            estimates[key] = record["_value"]
        else:
            found[key] = _result(record["_value"], asked)
    for key, estimate in estimates.items():
        found[key] += round((estimate - found[key]) / _TURN) * _TURN
    return [(*key, found[key]) for key in sorted(found, key=lambda key: (key[0] or "", key[1] or 0))]


def _narrowed(link: Link, bucket: str, gateway_id: str | None, asked: Aggregation) -> Scope | None:
    """The scope from its first to its last reading, None without any."""
    times = [to_micros(record["_time"]) for record in _ask(link, flux.extent(bucket, gateway_id, asked))]
    return replace(asked.scope, start=min(times), end=max(times) + 1) if times else None


def _in_order(records: list[Record], asked: Aggregation) -> list[Record]:
    """The records, so that of several parts of one bucket the one that counts is the last."""
    if not (flux.is_on_clocks(asked) and asked.function in ("first", "last")):
        return records

    def position(record: Record) -> tuple[datetime, str, str]:
        return record[flux.MOMENT], record["gateway_id"], record["device_id"]

    return sorted(records, key=position, reverse=asked.function == "first")


def _bucket(record: Record, asked: Aggregation) -> int | None:
    """The bucket's start. Flux cuts its first window to the range and labels it with that
    (https://github.com/influxdata/flux/issues/4979): from there it is down to the bucket's own start."""
    if asked.interval is None:
        return None
    start = to_micros(record[flux.window_column(asked)])
    if flux.is_on_clocks(asked):
        return moment_of(asked.interval.floor(start), asked.zone)
    return asked.interval.floor(start)


def _result(value: Any, asked: Aggregation) -> Any:
    if asked.function == "count":
        return value
    if asked.field.type is datetime:
        return from_micros(value // 1000)
    if asked.field.type is str:
        text = _text(value)
        return id_of(text) if asked.field.name == "device_id" else text  # which was escaped already, as a tag
    return float(value) if asked.field.type is float else value


def devices(link: Link, bucket: str, gateway_id: str | None) -> list[Device]:
    """The devices that have points of ours, by id."""
    seen: dict[str, list[datetime]] = {}
    for record in _ask(link, flux.devices(bucket, gateway_id)):
        seen.setdefault(id_of(record["device_id"]), []).append(record["_time"])
    return [Device(name, first_seen=min(times), last_seen=max(times)) for name, times in sorted(seen.items())]


def delete_readings(link: Link, settings: Settings, gateway_id: str, scope: Scope) -> None:
    """Delete what the scope says, of one gateway."""
    start, stop = flux.range_of(scope)
    if start < stop:
        # The stop of a delete belongs to it, unlike the stop of a range.
        moments = _rfc3339(start * 1000), _rfc3339(stop * 1000 - 1)
        predicate = delete_predicate(gateway_id, scope)
        link.ask(lambda client: client.delete_api().delete(*moments, predicate, settings.bucket, settings.org))


def _rfc3339(nanoseconds: int) -> str:
    """A time in nanoseconds since 1970 UTC, to the nanosecond."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{from_micros(seconds * 1_000_000):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def delete_predicate(gateway_id: str, scope: Scope) -> str:
    """Which series to delete. There is no more than AND and =; values stand in double quotes, with InfluxQL's escapes.

    https://docs.influxdata.com/influxdb/v2/reference/syntax/delete-predicate/
    """
    named = {"_measurement": scope.model.__measurement__, "gateway_id": gateway_id, "device_id": scope.device_id}
    return " AND ".join(f"{name}={_in_quotes(tag_of(value))}" for name, value in named.items() if value is not None)


def _in_quotes(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _ask(link: Link, query: flux.Query) -> list[Record]:
    def records(client: InfluxDBClient) -> list[Record]:
        stream = client.query_api().query_stream(query.text, params=query.options)
        return [record.values for record in stream]

    return link.ask(records)
