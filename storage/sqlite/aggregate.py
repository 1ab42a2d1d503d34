"""`aggregate` on the store's tables: parts that are added up.

    |..|========================================================|...|  ~~~~~~
     raw               whole hours: _hour_<model>_<n>            raw    rows that are not in history yet

Each part gives rows of (series, bucket, partial result); partial results of one bucket are combined here. Hours that a
bucket's edge cuts, and hours out of which a row was taken (`_dirty`), are read raw. So the answer is exact, always.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain, starmap
from typing import Any

import msgspec

from edgedepot.storage.clock import DAY, HOUR
from edgedepot.storage.query import Aggregation
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.downsampled import kept_spans, why_not
from edgedepot.storage.sqlite.select import converter
from edgedepot.storage.sqlite.shape import Partition, Rule
from edgedepot.storage.sqlite.tables import cell, hour_table, hours_of, kept_table
from edgedepot.storage.sqlite.view import View, places

Partial = tuple[Any, ...]
Answer = list[tuple[str | None, int | None, Any]]
Span = tuple[int | None, int, int]
"""A bucket's start (None where it is computed, or there are no buckets), and ``low <= ts < high`` of it."""
_SPANS = "(SELECT value ->> 0 AS bucket, value ->> 1 AS since, value ->> 2 AS until FROM json_each(?)) AS span"
_SPANS_BY_DAY = (
    "span AS MATERIALIZED (SELECT value ->> 0 AS bucket, value ->> 1 AS since, value ->> 2 AS until,"
    " value ->> 3 AS day FROM json_each(?))"
)
_CENTURY = 36_525 * DAY
_DAY_OF_TS = f"ts - ((ts % {DAY}) + {DAY}) % {DAY}"


class _Method(msgspec.Struct, frozen=True):
    """How a function is computed from parts: SQL over rows with the value in {0}, SQL over hours, how two partial
    results combine, and the result."""

    raw: str
    hours: str
    combine: Callable[[Partial, Partial], Partial]
    result: Callable[[Partial], Any]


def _add(one: Partial, other: Partial) -> Partial:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _method(asked: Aggregation, index: int | None, kind: type) -> _Method:
    """`index` is the field's place among those stored, None for device_id and timestamp; `kind` is what is stored."""
    function, name = asked.function, asked.field.name
    count = "rows" if index is None else f"n{index}"
    if function == "count":
        return _Method("count({0})", f"sum({count})", _add, lambda part: part[0])
    convert = converter(asked.field.type, kind) or (lambda value: value)
    if function in ("min", "max"):
        pick = min if function == "min" else max
        cell = {"min": "low", "max": "high"}[function] if index is None else f"{function}{index}"
        return _Method(f"{function}({{0}})", f"{function}({cell})", pick, lambda part: convert(part[0]))
    if function in ("first", "last"):
        extreme, pick = ("min", min) if function == "first" else ("max", max)
        bound = "low" if function == "first" else "high"
        stamp, cell = (
            (bound, "series" if name == "device_id" else bound)
            if index is None
            else (f"{function}_ts{index}", f"{function}{index}")
        )
        # Of one group of one series: the value beside the extreme time. The device decides ties, between groups.
        return _Method(
            f"{extreme}(ts), {{0}}", f"{extreme}({stamp}), {cell}",
            lambda one, other: pick(one, other, key=lambda part: part[:2]),
            lambda part: convert(part[2]),
        )  # fmt: skip
    if kind is int:
        raw = "count({0}), sum({0} >> 32), sum({0} & 4294967295)"
        hours = f"sum(n{index}), sum(sum{index}), sum(rest{index})"
        exact: Callable[[Partial], int] = lambda part: (part[1] << 32) + part[2]  # noqa: E731
        return _Method(
            *(raw, hours, _add),
            (lambda part: convert(exact(part))) if function == "sum" else (lambda part: exact(part) / part[0]),
        )
    return _Method(
        "count({0}), total({0})",
        f"sum(n{index}), total(sum{index})",
        _add,
        (lambda part: part[1]) if function == "sum" else (lambda part: part[1] / part[0]),
    )


def aggregate(view: View, layout: Layout, asked: Aggregation) -> Answer:
    """The rows of an `aggregate` call: ``(device_id, bucket, result)``, empty buckets absent."""
    series = view.series(asked.scope)
    if not series or places(layout, asked.scope.model)[asked.field.name] == "NULL":
        return []
    question = _Question(view, layout, asked, series)
    found: dict[tuple[str | None, int | None], Partial] = {}
    combine = question.method.combine
    for key, part in question.parts():
        before = found.get(key)
        found[key] = part if before is None else combine(before, part)
    result = question.method.result
    # A null key is the only one of its kind, so it never is compared with another.
    return [
        (device, bucket, result(part)) for (device, bucket), part in sorted(found.items(), key=lambda item: item[0])
    ]


class _Question:
    """One call on one view."""

    def __init__(self, view: View, layout: Layout, asked: Aggregation, series: dict[int, str]) -> None:
        self._column = places(layout, asked.scope.model)[asked.field.name]
        index = int(self._column[1:]) if self._column[1:].isdigit() else None
        self.method = _method(asked, index, asked.field.type if index is None else layout.stored[index].type)
        # Of partitions without rows that may have the field there is nothing to ask.
        self._hours = [
            (partition, hour_table(layout, partition))
            for partition, _ in view.partitions(layout, asked.scope)
            if partition.hours is not None and (index is None or index < partition.hours)
        ]
        self._view = view
        self._layout = layout
        self._asked = asked
        self._series = series
        self._ids = json.dumps(list(series))
        self._edges = asked.function in ("first", "last")
        width = 0 if asked.interval is None else asked.interval.micros
        self._bucket = f"(ts - ((ts % {width}) + {width}) % {width})" if width else "NULL"
        self._hour_bucket = self._bucket.replace("ts", f"hour * {HOUR}")
        self._by_series = asked.by_device or self._edges
        self._with_hours = width % HOUR == 0

    def parts(self) -> Iterator[tuple[tuple[str | None, int | None], Partial]]:
        """Every partial result with its key: the device, where asked for, and the bucket."""
        for series, bucket, *part in self._rows():
            if part[0] is None or (part[0] == 0 and self.method.combine is _add):  # of no value at all
                continue
            device = self._series[series] if self._by_series else None
            if self._edges:
                value = device if self._column == "series" else part[1]
                part = [part[0], device, value]
            yield ((device if self._asked.by_device else None), bucket), tuple(part)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        yield from self._unfolded()
        yield from self._kept()
        bounds = self._bounds()
        if bounds is None:
            return
        hours: list[Span] = []
        raw: list[Span] = []
        for bucket, low, high in chain.from_iterable(starmap(self._buckets, self._ranges(*bounds))):
            first, last = -(-low // HOUR), high // HOUR
            if self._with_hours and first < last:
                hours.append((bucket, first, last))
                raw += [(bucket, low, first * HOUR), (bucket, last * HOUR, high)]
            else:
                raw.append((bucket, low, high))
        yield from self._raw([span for span in raw if span[1] < span[2]])
        if hours:
            yield from self._whole_hours(hours)

    def _kept(self) -> Iterator[tuple[Any, ...]]:
        """What was kept of rows that are gone: see downsampled.py. From the rule that goes back furthest of those that
        can answer. Raises `InvalidValue` where none can."""
        shape, scope = self._view.shape, self._asked.scope
        horizon = shape.horizon(self._layout.id)
        end = horizon if scope.end is None else min(horizon, scope.end)
        rules = [
            rule
            for rule in shape.rules_of(self._layout.id)
            if rule.low is not None and end > (rule.low if scope.start is None else max(rule.low, scope.start))
        ]
        if not rules:
            return
        needed = set(re.findall(r"[a-z_]+\d+", self.method.hours))
        able = [rule for rule in rules if needed <= set(rule.columns)]
        if not able:
            asked = f"{self._asked.function} of {self._asked.field.name}"
            raise why_not(self._layout, shape, f"{asked} is not kept of what the question reaches")
        found = ((rule, self._kept_spans(rule, horizon, end)) for rule in sorted(able, key=lambda rule: rule.low or 0))
        rule, spans = next(((rule, spans) for rule, spans in found if spans is not None), (able[0], None))
        if spans is None:
            raise why_not(self._layout, shape, "the question cuts a bucket that is kept")
        heads, grouping = self._keys("span.bucket" if self._is_calendar else self._bucket.replace("ts", "t.start"))
        yield from self._view.connection.execute(
            f"SELECT {heads}, {self.method.hours} FROM {_SPANS}"
            f" CROSS JOIN json_each(?) AS one CROSS JOIN {kept_table(self._layout, rule)} AS t"
            " ON t.series = one.value AND t.start >= span.since AND t.start < span.until"
            f" WHERE t.part < {horizon}{grouping}",
            (json.dumps(spans), self._ids),
        )

    def _kept_spans(self, rule: Rule, horizon: int, end: int) -> list[Span] | None:
        """Of each bucket asked for what is kept in it; None where a bucket that is kept lies in two, or is cut."""
        interval, scope = self._asked.interval, self._asked.scope
        assert rule.low is not None
        if interval is not None and not interval.is_calendar and interval.micros % rule.interval:
            return None
        low = rule.low if scope.start is None else max(rule.low, scope.start)
        spans = list(chain.from_iterable(starmap(self._buckets, self._kept_ranges(rule, low, end))))
        found: list[Span] = []
        for (bucket, _, _), reach in zip(spans, kept_spans(rule, horizon, (span[1:] for span in spans)), strict=True):
            if reach is None:
                return None
            found.append((bucket, *reach))
        return found

    def _kept_ranges(self, rule: Rule, low: int, high: int) -> Iterator[tuple[int, int]]:
        """As `_ranges`, of what is kept."""
        table = kept_table(self._layout, rule)
        days = f"SELECT DISTINCT t.start / {HOUR} - ((t.start / {HOUR} % 24) + 24) % 24 FROM json_each(?) AS one"
        return self._days([f"{days} CROSS JOIN {table} AS t ON t.series = one.value"], low, high)

    def _bounds(self) -> tuple[int, int] | None:
        """From when to when history has rows of the scope, to the hour where the scope is open."""
        low, high = self._edge("min", self._hours), self._edge("max", self._hours[::-1])
        if low is None or high is None:
            return None
        low, high = low * HOUR, (high + 1) * HOUR
        scope = self._asked.scope
        low = low if scope.start is None else max(low, scope.start)
        high = high if scope.end is None else min(high, scope.end)
        return (low, high) if low < high else None

    def _ranges(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Where to look for calendar buckets. A reading with a wrong year must not cost all the days of centuries:
        then only days that have rows."""
        days = "SELECT DISTINCT hour - ((hour % 24) + 24) % 24 FROM json_each(?) AS one"
        queries = [f"{days} CROSS JOIN {table} ON series = one.value" for _, table in self._hours]
        return self._days(queries, low, high)

    def _edge(self, which: str, tables: list[tuple[Partition, str]]) -> int | None:
        """The first hour or the last, of the first of these tables that has one."""
        for _, table in tables:
            query = f"SELECT {which}((SELECT {which}(hour) FROM {table} WHERE series = value)) FROM json_each(?)"
            (hour,) = self._view.connection.execute(query, (self._ids,)).fetchone()
            if hour is not None:
                return int(hour)
        return None

    def _days(self, queries: list[str], low: int, high: int) -> Iterator[tuple[int, int]]:
        if not self._is_calendar or high - low < _CENTURY:
            yield low, high
            return
        found = chain.from_iterable(self._view.connection.execute(query, (self._ids,)) for query in queries)
        for (hour,) in found:
            since, until = max(low, hour * HOUR), min(high, hour * HOUR + DAY)
            if since < until:
                yield since, until

    def _buckets(self, low: int, high: int) -> Iterator[Span]:
        """Calendar buckets one by one; all others are one span, their buckets computed in SQL."""
        interval, zone = self._asked.interval, self._asked.zone
        if interval is None or not interval.is_calendar:
            yield None, low, high
            return
        starts = interval.starts(low, high, zone)
        for start, end in zip(starts, [*starts[1:], high], strict=True):
            yield start, max(start, low), min(end, high)

    def _keys(self, bucket: str) -> tuple[str, str]:
        series = "series" if self._by_series else "NULL"
        keys = [key for key in (series, bucket) if key != "NULL"]
        return f"{series}, {bucket}", f" GROUP BY {', '.join(keys)}" if keys else ""

    def _raw(self, spans: list[Span], condition: str = "true") -> Iterator[tuple[Any, ...]]:
        """The rows of history in these spans, and with this condition on the row `t`."""
        heads, grouping = self._keys("span.bucket" if self._is_calendar else self._bucket)
        for partition, table in self._view.partitions(self._layout, self._asked.scope):
            inside = [span for span in spans if span[1] < partition.stop and span[2] > partition.start]
            if inside and cell(self._column, partition.width) != "NULL":
                yield from self._view.connection.execute(
                    f"SELECT {heads}, {self.method.raw.format(self._column)} FROM {_SPANS}"
                    f" CROSS JOIN json_each(?) AS one CROSS JOIN {table} AS t"
                    " ON t.series = one.value AND ts >= span.since AND ts < span.until"
                    f" WHERE {self._column} IS NOT NULL AND {condition}{grouping}",
                    (json.dumps(inside), self._ids),
                )

    @property
    def _is_calendar(self) -> bool:
        return self._asked.interval is not None and self._asked.interval.is_calendar

    def _whole_hours(self, spans: list[Span]) -> Iterator[tuple[Any, ...]]:
        """Hours that lie whole in a bucket; of those that are dirty, their rows."""
        connection, bound = self._view.connection, (json.dumps(spans), self._ids)
        heads, grouping = self._keys("span.bucket" if self._is_calendar else self._hour_bucket)
        dirty = "EXISTS (SELECT 1 FROM _dirty AS d WHERE d.series = t.series AND d.hour = {})"
        for partition, table in self._hours:
            first, behind = hours_of(partition)
            inside = [span for span in spans if span[1] < behind and span[2] > first]
            if inside:
                yield from connection.execute(
                    f"SELECT {heads}, {self.method.hours} FROM {_SPANS} CROSS JOIN json_each(?) AS one"
                    f" CROSS JOIN {table} AS t ON series = one.value AND hour >= span.since AND hour < span.until"
                    f" WHERE NOT {dirty.format('t.hour')}{grouping}",
                    (json.dumps(inside), self._ids),
                )
        again = connection.execute(
            f"SELECT DISTINCT bucket, hour * {HOUR}, (hour + 1) * {HOUR} FROM {_SPANS} CROSS JOIN json_each(?) AS one"
            " CROSS JOIN _dirty ON series = one.value AND hour >= span.since AND hour < span.until",
            bound,
        ).fetchall()
        yield from self._raw(again, dirty.format(f"span.since / {HOUR}"))

    def _unfolded(self) -> Iterator[tuple[Any, ...]]:
        """The rows that are not in history."""
        heads, grouping = self._keys("NULL" if self._is_calendar else self._bucket)
        column = self._column
        for source in self._view.unfolded(self._layout, list(self._series), self._asked.scope, [column]):
            named = f"WITH given (series, ts, quality, cell) AS ({source.sql})"
            if not self._is_calendar:
                yield from self._view.connection.execute(
                    f"{named} SELECT {heads}, {self.method.raw.format('cell')} FROM given"
                    f" WHERE cell IS NOT NULL{grouping}",
                    source.values,
                )
                continue
            # Cut by UTC days that have rows, so that a row finds its few spans by its day, and a row from 1970 costs no
            # spans for the decades between.
            days = self._view.connection.execute(f"{named} SELECT DISTINCT {_DAY_OF_TS} FROM given", source.values)
            spans = [(*span, day) for (day,) in days for span in self._buckets(day, day + DAY)]
            heads, grouping = self._keys("span.bucket")
            yield from self._view.connection.execute(
                f"{named}, {_SPANS_BY_DAY}"
                f" SELECT {heads}, {self.method.raw.format('cell')} FROM given JOIN span"
                f" ON day = {_DAY_OF_TS} AND ts >= since AND ts < until WHERE cell IS NOT NULL{grouping}",
                (*source.values, json.dumps(spans)),
            )
