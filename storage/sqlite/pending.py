"""What an upstream gets next: rows of the journal, or of history, or of what it refused before. See `Buffer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from edgedepot.storage.buffer import EVERYTHING, Choice, Lane, Pending, Window
from edgedepot.storage.reading import Reading
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.cursors import Position
from edgedepot.storage.sqlite.portion import Portion
from edgedepot.storage.sqlite.quarantine import replayed_rows
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.shape import Piece
from edgedepot.storage.sqlite.tables import cell, check_piece, rows_of
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.walk import END, NEVER, Place, owed, place_of
from edgedepot.storage.values import Row


class Ahead(msgspec.Struct, frozen=True):
    """A full window that was read before its turn: for how many rows, which choice, and with the walk at which place.
    It stands until a row is taken out or changes, or a table comes or goes: then the shape's generation rises."""

    window: Window
    limit: int
    generation: int
    place: Place
    choice: Choice


class PendingReader:
    """Reads rows back as `Pending`. Thread-safe: what it caches never changes, but for what was read ahead."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._series: dict[int, tuple[int, str]] = {}
        self._ahead: dict[tuple[str, Lane], Ahead] = {}
        self._checked: set[int] = set()
        """The pieces of the journal that had as many readings as they should when they were first read."""

    def next(self, view: View, cursor: str, position: Position, last: int, limit: int, lane: Lane) -> Window | None:
        """The next window of a lane, up to row `last`. In the backlog what was refused before comes first, as a person
        wants to see that go, but for a window that is out already; then what is owed from history, then the journal."""
        out = position.in_hand.get(lane)
        goes_on = out is not None and not out.replayed
        window = None if goes_on else self._replayed(view, cursor, position, limit, lane)
        if window is None:
            window = self._read_before(view, cursor, position, last, limit, lane)
        if window is None:
            window = self._read(view, position, last, self._portion(limit), lane)
        if window is None and goes_on:
            window = self._replayed(view, cursor, position, limit, lane)
        if window is not None:
            position.in_hand[lane] = window
        return window

    def _replayed(self, view: View, cursor: str, position: Position, limit: int, lane: Lane) -> Window | None:
        """Those that were handed out before go first, as a person may have added others since; without those whose
        acknowledgement is on its way."""
        if lane != "backlog" or not position.replays:
            return None
        layouts, done = self._catalogue.layouts(), position.replayed
        rows: list[Pending] = []
        for among in (position.replaying, None) if position.replaying else (None,):
            rows = rows or replayed_rows(view, layouts, cursor, self._portion(limit), done, among)
        position.replays = bool(rows)
        position.replaying |= {row.seq for row in rows}
        return Window(0, 0, rows, replayed=True) if rows else None

    def read_ahead(
        self, view: View, cursor: str, position: Position, last: int, limit: int, lane: Lane, out: Window
    ) -> None:
        """Keep the window behind one that is out for `next`; not a short one, which may yet grow."""
        later, choice = position.behind(out), position.choice
        place, portion = later.place, self._portion(limit)
        window = self._read(view, later, last, portion, lane)
        if window is not None and portion.is_full and later.place == place:
            self._ahead[cursor, lane] = Ahead(window, limit, view.shape.generation, place, choice)

    def _read_before(
        self, view: View, cursor: str, position: Position, last: int, limit: int, lane: Lane
    ) -> Window | None:
        """The next window, where it was read ahead and would be read like that now."""
        ahead = self._ahead.pop((cursor, lane), None)
        if ahead is None or ahead.limit != limit or ahead.generation != view.shape.generation:
            return None
        if ahead.place != position.place or ahead.choice is not position.choice:
            return None
        window = ahead.window
        if window.place is None:
            gap = position.gap(lane, last, view.shape.held())
            if gap is None or window.low != gap[0] or window.high > gap[1]:
                return None
        return window

    def _portion(self, limit: int) -> Portion:
        return Portion(limit, self._catalogue.layouts().values())

    def _read(self, view: View, position: Position, last: int, portion: Portion, lane: Lane) -> Window | None:
        if lane == "backlog" and position.place != END:
            window = self._walk(view, position, portion)
            if window is not None:
                return window
            position.place = END
        return self._journal(view, position, last, portion, lane)

    def _journal(self, view: View, position: Position, last: int, portion: Portion, lane: Lane) -> Window | None:
        gap = position.gap(lane, last, view.shape.held())
        if gap is None:
            return None
        low, high = gap
        layouts = self._catalogue.layouts()
        width = max((len(layout.stored) for layout in layouts.values()), default=0)
        condition, values = self._chosen(view, position)
        rows: list[Pending] = []
        for piece in view.shape.pieces_between(low, high):
            if not portion.is_full:
                self._check(view, piece)
                cells = "".join(f", {cell(f'c{index}', piece.width)}" for index in range(width))
                found = view.connection.execute(
                    f"SELECT seq, series, ts, quality{cells} FROM {rows_of(view.shape, piece)}"
                    f" WHERE seq BETWEEN ? AND ? AND series > 0{condition} ORDER BY seq LIMIT ?",
                    (low, high, *values, portion.rows),
                )
                more = list(self.rows(view, layouts, portion.of(found)))
                portion.took(len(more))
                rows += more
        end = rows[-1].seq if portion.is_full else self._end(view, low, high, high == last)
        return None if end is None else Window(low, end, rows, is_full=portion.is_full)

    def _check(self, view: View, piece: Piece) -> None:
        """Once for each piece that gets no more rows: what it lacks would pass for acknowledged with what it has."""
        if piece.id not in self._checked and piece != view.shape.pieces[-1]:
            check_piece(view.connection, piece)
            self._checked.add(piece.id)

    @staticmethod
    def _end(view: View, low: int, high: int, is_open: bool) -> int | None:
        """How far a window goes that has all the rows there are: at the journal's end to the last reading, for what is
        behind it are the books of this very cursor; None where there is no reading."""
        if not is_open:
            return high
        for piece in reversed(view.shape.pieces_from(low)):
            found = view.connection.execute(
                f"SELECT seq FROM {piece.table} WHERE seq BETWEEN ? AND ? AND series > 0 ORDER BY seq DESC LIMIT 1",
                (low, high),
            ).fetchone()
            if found:
                return int(found[0])
        return None

    def _chosen(self, view: View, position: Position) -> tuple[str, list[object]]:
        """The SQL condition for the rows that a cursor gets."""
        condition, values = "", list[object]()
        if position.since != NEVER:
            condition, values = " AND ts >= ?", [position.since]
        if position.choice != EVERYTHING:
            self._load_series(view)
            condition += " AND series IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(chosen_series(position.choice, self._catalogue.layouts(), self._series)))
        return condition, values

    def _walk(self, view: View, position: Position, portion: Portion) -> Window | None:
        layouts = self._catalogue.layouts()
        takes = position.choice.takes
        for layout, partition, table, condition in owed(view.shape, layouts, position.place, END):
            cells = "".join(f", {cell(f'c{index}', partition.width)}" for index in range(len(layout.stored)))
            found = view.connection.execute(
                f"SELECT seq, series, ts, quality{cells} FROM {table} WHERE {condition} AND {position.numbers}"
                " AND ts >= ? ORDER BY series, ts LIMIT ?",
                (position.since, portion.rows),
            )
            those = list(portion.of(found))
            if those:
                portion.took(len(those))
                _, series, ts, *_ = those[-1]
                rows = [row for row in self.rows(view, layouts, those) if takes(layout.name, row.device_id)]
                return Window(0, 0, rows, place_of(layout.id, partition, series, ts))
        return None

    def rows(self, view: View, layouts: dict[int, Layout], found: Iterable[tuple[Any, ...]]) -> Iterator[Pending]:
        """Rows as the journal or history has them. One by one, as there are thousands: what SQLite gave is let go of,
        and a `Pending` made by `tuple` is the same without a call in Python."""
        new, made = tuple.__new__, Pending
        shapes: dict[int, tuple[type[Reading], str, Callable[[tuple[Any, ...]], Row]]] = {}
        for row in found:
            if row[1] not in shapes:
                shapes[row[1]] = self._shape(view, layouts, row[1])
            model, device, pick = shapes[row[1]]
            yield new(made, (row[0], model, device, row[2], pick(row)))

    def _load_series(self, view: View) -> None:
        for series, model_id, device in read_records(view.connection, "_series", ("id", "model", "device_id")):
            self._series[series] = (model_id, device)

    def _shape(
        self, view: View, layouts: dict[int, Layout], series: int
    ) -> tuple[type[Reading], str, Callable[[tuple[Any, ...]], Row]]:
        """Model, device, and what picks a series' row out of the journal's columns."""
        if series not in self._series:
            self._load_series(view)
        model_id, device = self._series[series]
        layout = layouts[model_id]
        model = layout.whole()
        places = [4 + int(column[1:]) for column in layout.columns(model)]
        made: dict[int, type] = {}
        for place, spec in enumerate(model.__fields__, 1):
            if spec.type is bool or places[place - 1] - 4 in layout.turned:
                made[place] = spec.type
        pick = itemgetter(3, *places)
        return model, device, (lambda cells: _made(pick(cells), made)) if made else pick


def chosen_series(choice: Choice, layouts: dict[int, Layout], series: dict[int, tuple[int, str]]) -> list[int]:
    """The series that a choice takes, of those given as id -> (model, device)."""
    return [one for one, (model, device) in series.items() if choice.takes(layouts[model].name, device)]


def _made(row: Row, made: Mapping[int, type]) -> Row:
    """A row with the values at some places made what SQLite has not, or what they were not yet when it was read."""
    cells = list(row)
    for index, kind in made.items():
        cells[index] = None if cells[index] is None else kind(cells[index])
    return tuple(cells)
