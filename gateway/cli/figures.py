"""Figures of a field, for `edgedepot query`: what is asked of the store, and the answer as charts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from edgedepot.cli.chart import Point, Scale, draw
from edgedepot.cli.output import cell, visible
from edgedepot.storage.interval import Interval
from edgedepot.storage.query import Function
from edgedepot.storage.reading import Reading
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.cli.scope import Span
    from edgedepot.storage.sqlite.storage import SQLiteStorage

_INTERVALS = (
    *("1s", "5s", "10s", "30s", "1m", "5m", "10m", "30m", "1h", "3h", "6h", "12h"),
    *("1d", "2d", "1w", "1mo", "3mo", "1y", "10y", "100y"),
)
_AXIS = 10  # columns that the axis of values takes of a chart, about
_MARKS, _MARKS_OF_SEVERAL = 4, 2
_ROWS_A_MARK, _ROWS_A_MARK_OF_SEVERAL = 3, 2


@dataclass(frozen=True, slots=True)
class Figures:
    """The options that ask for figures in place of readings."""

    field: str
    function: Function
    interval: str | None
    group_by: Literal["device"] | None
    fill: Literal["null", "previous"] | None

    def ask(self, store: SQLiteStorage, model: type[Reading], span: Span) -> list[dict[str, Any]]:
        """The store's answer, as rows also where it is one figure."""
        found = store.aggregate(
            model,
            self.field,
            self.function,
            span.device,
            span.start,
            span.end,
            self.interval,
            span.tz,
            self.group_by,
            self.fill,
        )
        return found if isinstance(found, list) else [found]


def show_chart(store: SQLiteStorage, model: type[Reading], span: Span, asked: Figures, title: str) -> None:
    """Draw the figures over time, a chart for each device where they are grouped by it."""
    width = shutil.get_terminal_size().columns
    interval = asked.interval or _fitting_interval(store, model, span, width - _AXIS)
    # Without filling one would not see where there are no values.
    asked = replace(asked, interval=interval, fill=asked.fill or "null")
    charts: dict[str | None, list[Point]] = {}
    for row in asked.ask(store, model, span):
        charts.setdefault(row.get("device_id"), []).append((row["bucket"].astimezone(span.zone), row["result"]))
    values = [value for points in charts.values() for _, value in points if value is not None]
    if not values:
        click.echo("No values to draw.")
        return
    if not all(isinstance(value, (int, float)) for value in values):
        raise click.UsageError(f"--chart draws numbers: use --function count for {asked.field}")
    _print_charts(charts, values, width, f"{asked.function} {title}, every {interval}")


def _print_charts(
    charts: Mapping[str | None, Sequence[Point]], values: Sequence[float], width: int, title: str
) -> None:
    alone = len(charts) == 1
    scale = Scale.of(values, _MARKS if alone else _MARKS_OF_SEVERAL)
    rows = (scale.last - scale.first) * (_ROWS_A_MARK if alone else _ROWS_A_MARK_OF_SEVERAL) + 1
    click.echo(title)
    for device, points in charts.items():
        click.echo(f"\n{visible(device)}" if device is not None else "")
        click.echo("\n".join(draw(points, scale, width, rows)))
        click.echo(_summary(points))


def _summary(points: Sequence[Point]) -> str:
    """The stretch of time, and the greatest and least of the figures drawn."""
    values = [value for _, value in points if value is not None]
    span = f", {cell(min(values))} to {cell(max(values))}" if values else ""
    return f"{counted(len(values), 'value')}{span}\n{cell(points[0][0])} to {cell(points[-1][0])}"


def _fitting_interval(store: SQLiteStorage, model: type[Reading], span: Span, columns: int) -> str:
    """The shortest of some round intervals of which there are no more than columns."""
    edges = [span.start or _edge(store, model, span, "min"), span.end or _edge(store, model, span, "max")]
    first, last = (None if edge is None else edge.timestamp() for edge in edges)
    seconds = 0.0 if first is None or last is None else last - first
    fits = (text for text in _INTERVALS if Interval.parse(text).shortest * columns >= seconds * 1e6)
    return next(fits, _INTERVALS[-1])


def _edge(store: SQLiteStorage, model: type[Reading], span: Span, function: Literal["min", "max"]) -> datetime | None:
    found = store.aggregate(model, "timestamp", function, span.device, span.start, span.end)
    assert isinstance(found, dict)
    edge: datetime | None = found["result"]
    return edge
