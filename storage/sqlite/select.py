"""`query_readings` on the store's tables. Names in the SQL come from declared models; values are bound.

Newest or oldest first, history is read partition by partition until there are enough rows, and the unfolded rows are
merged in. Any other order sorts the whole scope.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from edgedepot.storage.clock import EPOCH, from_micros
from edgedepot.storage.query import Selection
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.records import BadRecord
from edgedepot.storage.sqlite.tables import cell
from edgedepot.storage.sqlite.view import View, places

_NARROW = 200
"""Up to so many devices each has a limited query of its own; beyond, a partition is sorted as a whole."""

Cells = tuple[Any, ...]
"""Timestamp in microseconds, device_id, and the values asked for."""
Converter = Callable[[Any], Any]


def select_readings(view: View, layout: Layout, selection: Selection) -> list[dict[str, Any]]:
    """The rows of a `query_readings` call."""
    series = view.series(selection.scope)
    if not series or selection.limit == 0:
        return []
    by_time = selection.order == "timestamp"
    rows = (_by_time if by_time else _sorted)(view, layout, selection, series)
    stored = {spec.name: spec.type for spec in layout.stored}
    fields = {spec.name: spec.type for spec in selection.scope.model.__fields__}
    made = {name: _made_of(kind, stored.get(name, kind)) for name, kind in fields.items()}
    make = _dict_maker(selection.columns, tuple(made.get(name) for name in selection.columns))
    try:
        return [make(*row) for row in islice(rows, selection.limit)]
    except (OverflowError, TypeError, ValueError) as exc:
        raise BadRecord(f"a reading of {layout.name} has a time or a value that is none") from exc


@lru_cache(maxsize=256)
def _dict_maker(columns: tuple[str, ...], kinds: tuple[type | None, ...]) -> Callable[..., dict[str, Any]]:
    """Code that makes a reading's dict of its timestamp, its device and the values of these columns; those values are
    made what `kinds` says.

    A loop over the columns takes twice as long. Only names checked at declaration get into the source.
    """
    values = [f"v{index}" for index in range(len(columns))]
    items = ["'device_id': device", "'timestamp': epoch + timedelta(0, 0, ts)"]
    for name, value, kind in zip(columns, values, kinds, strict=True):
        items.append(f"{name!r}: {value if kind is None else f'None if {value} is None else {kind.__name__}({value})'}")
    source = f"lambda {', '.join(['ts', 'device', *values])}: {{{', '.join(items)}}}"
    made: Callable[..., dict[str, Any]] = eval(source, {"epoch": EPOCH, "timedelta": timedelta})
    return made


def _made_of(kind: type, stored: type) -> type | None:
    """What to call on a field's values that SQLite returns: it has no booleans, and what is stored as int may be asked
    for as float."""
    return kind if kind is bool or kind is not stored else None


def converter(kind: type, stored: type) -> Converter | None:
    """From what SQLite returns to the field's type, where that is another."""
    made = _made_of(kind, stored)
    if made is not None:
        return lambda value: None if value is None else made(value)
    if kind is datetime:
        return lambda value: None if value is None else from_micros(value)
    return None


def _by_time(view: View, layout: Layout, selection: Selection, series: dict[int, str]) -> Iterator[Cells]:
    columns = [places(layout, selection.scope.model)[name] for name in selection.columns]
    unfolded = _unfolded(view, layout, selection, series, columns)
    history = _history(view, layout, selection, series, columns)
    if not unfolded:
        return history
    sign = -1 if selection.descending else 1
    key: Callable[[Cells], tuple[int, str]] = lambda row: (sign * row[0], row[1])  # noqa: E731
    unfolded.sort(key=key)
    first = next(history, None)
    if first is None:
        return iter(unfolded)
    history = chain((first,), history)
    if key(unfolded[-1]) <= key(first):  # as it is of newest first, but for late ones: nothing is to be merged
        return chain(unfolded, history)
    return heapq.merge(unfolded, history, key=key)


def _unfolded(
    view: View, layout: Layout, selection: Selection, series: dict[int, str], columns: list[str]
) -> list[Cells]:
    """Of each source as many as can be wanted: after a bulk load there may be hundreds of thousands of them."""
    direction = "DESC" if selection.descending else "ASC"
    limit = -1 if selection.limit is None else selection.limit
    found: list[Cells] = []
    values = "".join(f", v{index}" for index in range(len(columns)))
    newest = selection.limit if selection.descending else None
    for source in view.unfolded(layout, list(series), selection.scope, columns, newest):
        query = (
            f"WITH given (series, ts, quality{values}) AS ({source.sql})"
            f" SELECT ts, device_id{values} FROM given JOIN _series ON _series.id = series"
            f" ORDER BY ts {direction}, device_id LIMIT ?"
        )
        found += view.connection.execute(query, (*source.values, limit))
    return found


def _history(
    view: View, layout: Layout, selection: Selection, series: dict[int, str], columns: list[str]
) -> Iterator[Cells]:
    """Rows of history in order, one partition after the other, read as they are taken."""
    tables = view.partitions(layout, selection.scope)
    direction = "DESC" if selection.descending else "ASC"
    span, bounds = "", []
    for sign, bound in ((">=", selection.scope.start), ("<", selection.scope.end)):
        if bound is not None:
            span += f" AND ts {sign} ?"
            bounds.append(bound)
    limit = -1 if selection.limit is None else selection.limit
    for partition, table in reversed(tables) if selection.descending else tables:
        cells = "".join(f", {cell(column, partition.width)}" for column in columns)
        if len(series) == 1:
            ((only, device),) = series.items()
            query = f"SELECT ts, ?{cells} FROM {table} WHERE series = ?{span} ORDER BY ts {direction} LIMIT ?"
            yield from view.connection.execute(query, (device, only, *bounds, limit))
        elif 0 <= limit <= 10_000 and len(series) <= _NARROW:
            queries = (
                view.connection.execute(
                    f"SELECT ts, ?{cells} FROM {table} WHERE series = ?{span} ORDER BY ts {direction} LIMIT ?",
                    (device, one, *bounds, limit),
                )
                for one, device in sorted(series.items(), key=lambda item: item[1])
            )
            rows: list[Cells] = sorted((row for found in queries for row in found), key=lambda row: row[1])
            rows.sort(key=lambda row: row[0], reverse=selection.descending)
            yield from rows[:limit]
        else:
            query = (
                f"SELECT ts, device_id{cells} FROM {table} JOIN _series ON _series.id = series"
                f" WHERE series IN (SELECT value FROM json_each(?)){span} ORDER BY ts {direction}, device_id LIMIT ?"
            )
            yield from view.connection.execute(query, (json.dumps(list(series)), *bounds, limit))


def _sorted(view: View, layout: Layout, selection: Selection, series: dict[int, str]) -> Iterable[Cells]:
    """All rows of the scope, sorted by a column."""
    place = places(layout, selection.scope.model)
    columns = [place[name] for name in (*selection.columns, selection.order)]
    sources = view.unfolded(layout, list(series), selection.scope, columns)
    queries, values = [source.sql for source in sources], [value for source in sources for value in source.values]
    for partition, table in view.partitions(layout, selection.scope):
        span = "".join(
            f" AND ts {sign} {bound}"
            for sign, bound in ((">=", selection.scope.start), ("<", selection.scope.end))
            if bound is not None
        )
        queries.append(
            f"SELECT series, ts, quality, {', '.join(cell(column, partition.width) for column in columns)} FROM {table}"
            f" WHERE series IN (SELECT value FROM json_each(?)){span}"
        )
        values.append(json.dumps(list(series)))
    if not queries:
        return []
    names = [f"v{index}" for index in range(len(columns))]
    order = "device_id" if selection.order == "device_id" else names[-1]
    direction = " DESC" if selection.descending else ""
    return view.connection.execute(
        f"WITH given (series, ts, quality, {', '.join(names)}) AS ({' UNION ALL '.join(queries)})"
        f" SELECT {', '.join(('ts', 'device_id', *names[:-1]))} FROM given JOIN _series ON _series.id = series"
        f" ORDER BY {order}{direction}, device_id, ts LIMIT ?",
        (*values, -1 if selection.limit is None else selection.limit),
    )
