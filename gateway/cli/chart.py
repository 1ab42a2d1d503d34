"""A line chart in the terminal, of braille dots: two by four of them in each character.

24 ┤        ⡠⠊⠑⢄
   │      ⡠⠊    ⠑⢄
20 ┤⡠⠔⠒⠤⠔⠊        ⠑⠤⠤
   └┬─────────┬────────
    06:00     07:00
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

Point = tuple[datetime, float | None]
"""A bucket's start and its value; None where there is none, which breaks the line."""
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of Unicode's braille block, by row and column
_BLANK = 0x2800
_LABEL_EVERY = 16  # columns


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of values: a mark at every whole multiple of `step` from `first` to `last`."""

    step: float
    first: int
    last: int

    @classmethod
    def of(cls, values: Sequence[float], marks: int) -> Scale:
        """A scale that holds all values, with about so many round marks."""
        low, high = min(values), max(values)
        reach = max(abs(low), abs(high))
        span = max(high - low, reach * 1e-9, 1e-300) if high > low else reach / 10 or 1.0
        if span == math.inf:
            raise OverflowError(f"values from {low} to {high}")
        power = 10.0 ** math.floor(math.log10(span / marks))
        step = next((power * factor for factor in (1, 2, 5) if power * factor >= span / marks), power * 10)
        first, last = math.floor(low / step), math.ceil(high / step)
        return cls(step, first, max(last, first + 1))

    def labels(self) -> list[str]:
        """The texts of the marks, the greatest first."""
        return [f"{mark * self.step + 0.0:.10g}" for mark in range(self.last, self.first - 1, -1)]

    def place(self, value: float, size: int) -> int:
        """On which of `size` places, counted from the top, a value lies."""
        share = (value / self.step - self.first) / (self.last - self.first)
        return min(size - 1, max(0, size - 1 - round(share * (size - 1))))


class _Canvas:
    """A field of dots, shown as text."""

    def __init__(self, columns: int, rows: int) -> None:
        self._cells = [[0] * columns for _ in range(rows)]
        self.width, self.height = columns * 2, rows * 4

    def dot(self, x: int, y: int) -> None:
        self._cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    def line(self, x0: int, y0: int, x1: int, y1: int) -> None:
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            self.dot(x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps))

    def rows(self) -> list[str]:
        return ["".join(chr(_BLANK | cell) if cell else " " for cell in row) for row in self._cells]


def draw(points: Sequence[Point], scale: Scale, width: int, rows: int) -> list[str]:
    """The chart of points in order of time, as lines of at most `width` columns; their times as the points' zone has
    them."""
    labels = scale.labels()
    margin = max(map(len, labels))
    canvas = _Canvas(max(10, width - margin - 2), rows)
    _plot(canvas, points, scale)
    texts = dict(zip((scale.place(mark * scale.step, rows) for mark in range(scale.last, scale.first - 1, -1)), labels))  # noqa: B905
    lines = [
        f"{texts.get(index, ''):>{margin}} {'┤' if index in texts else '│'}{row}".rstrip()
        for index, row in enumerate(canvas.rows())
    ]
    ruler, times = _time_axis(points[0][0], points[-1][0], canvas.width // 2)
    return [*lines, " " * (margin + 1) + "└" + ruler, " " * (margin + 2) + times]


def _plot(canvas: _Canvas, points: Sequence[Point], scale: Scale) -> None:
    first, last = points[0][0], points[-1][0]
    length = (last - first) / timedelta(seconds=1) or 1.0
    before: tuple[int, int] | None = None
    for moment, value in points:
        if value is None:
            before = None
            continue
        x = round((moment - first) / timedelta(seconds=1) / length * (canvas.width - 1))
        here = x, scale.place(value, canvas.height)
        canvas.line(*(before or here), *here)
        before = here


def _time_axis(first: datetime, last: datetime, columns: int) -> tuple[str, str]:
    """The line below the chart with its marks, and the times below those."""
    form = _time_form(last - first)
    ruler, times = ["─"] * columns, ""
    for column in range(0, max(1, columns - _LABEL_EVERY + 1), _LABEL_EVERY):
        ruler[column] = "┬"
        moment = (first + (last - first) * (column / max(1, columns - 1))).astimezone(first.tzinfo)
        times += f"{moment.strftime(form):<{_LABEL_EVERY}}"
    return "".join(ruler), times.rstrip()


def _time_form(span: timedelta) -> str:
    if span < timedelta(minutes=10):
        return "%H:%M:%S"
    if span < timedelta(days=1):
        return "%H:%M"
    return "%m-%d %H:%M" if span < timedelta(days=10) else "%Y-%m-%d"
