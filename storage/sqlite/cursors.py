"""What each upstream has acknowledged, and what it gets next. See the picture in journal.py."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from edgedepot.storage.base import Pending, Window
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.reading import Reading
from edgedepot.storage.sqlite.books import Books, CursorBook
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.tables import cell
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.walk import END, NEVER, Place, count_owed, owed, place_of
from edgedepot.storage.values import Row


@dataclass(slots=True)
class Position:
    """How far a cursor is in memory (the file follows with the next commit), and what was refused beyond that."""

    seq: int
    before: int
    place: Place
    since: int
    set_aside: list[tuple[Pending, str]] = field(default_factory=list)


class Cursors:
    """The cursors of one store. Thread-safe; one worker at a time uses a cursor."""

    def __init__(self, books: Books) -> None:
        self._lock = threading.Lock()
        self._positions: dict[str, Position] = {}
        for book in books.cursors.values():
            self.added(book)

    def added(self, book: CursorBook) -> None:
        """The file has this cursor."""
        with self._lock:
            place = book.walk.place if book.walk.left else END
            since = NEVER if book.since is None else book.since
            position = Position(book.acknowledged.first_gap() - 1, book.walk.before, place, since)
            self._positions.setdefault(book.name, position)

    def position(self, name: str) -> Position:
        """How far a cursor is. Raises `InvalidValue` where there is none of that name."""
        with self._lock:
            if name not in self._positions:
                raise InvalidValue(f"there is no cursor {name!r}; there are {sorted(self._positions)}")
            return self._positions[name]

    def bring_up(self, book: CursorBook, view: View, layouts: dict[int, Layout]) -> None:
        """Have a book as it was committed say what is acknowledged by now."""
        position = self.position(book.name)
        if position.seq:
            book.acknowledged.add(1, position.seq)
        if position.place > book.walk.place and book.walk.left:
            walked = count_owed(view.connection, view.shape, layouts, book.walk, position.place, book.since)
            book.walk.left -= walked

    def set_aside(self, name: str, rows: Sequence[Pending], reason: str) -> None:
        self.position(name).set_aside += [(row, reason) for row in rows]

    def check(self, name: str, window: Window) -> list[tuple[Pending, str]]:
        """What was set aside in a window that is to be acknowledged. Raises `InvalidValue` for one out of turn."""
        position = self.position(name)
        if window.place is None and window.low != position.seq + 1:
            raise InvalidValue(f"cursor {name!r} is at {position.seq}, cannot acknowledge a window from {window.low}")
        return position.set_aside

    def advance(self, name: str, window: Window) -> None:
        """Move on: the record of it is on its way."""
        position = self.position(name)
        position.set_aside = []
        if window.place is None:
            position.seq = window.high
        else:
            position.place = window.place


class PendingReader:
    """Reads journal rows back as `Pending`. Thread-safe: what it caches never changes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._series: dict[int, tuple[int, str]] = {}

    def next(self, view: View, position: Position, last: int, limit: int) -> Window | None:
        """The next window behind a position, up to row `last`: first what is owed from history, then the journal."""
        if position.place != END:
            window = self._walk(view, position, limit)
            if window is not None:
                return window
            position.place = END
        return self._read(view, position, last, limit)

    def _read(self, view: View, position: Position, last: int, limit: int) -> Window | None:
        layouts = self._catalogue.layouts()
        width = max((len(layout.stored) for layout in layouts.values()), default=0)
        found: list[tuple[Any, ...]] = []
        for piece in view.shape.pieces_from(position.seq + 1):
            if len(found) < limit:
                cells = "".join(f", {cell(f'c{index}', piece.width)}" for index in range(width))
                found += view.connection.execute(
                    f"SELECT seq, series, ts, quality{cells} FROM {piece.table}"
                    " WHERE seq > ? AND seq <= ? AND series > 0 ORDER BY seq LIMIT ?",
                    (position.seq, last, limit - len(found)),
                ).fetchall()
        if not found:
            return None
        rows = self._rows(view, layouts, [row for row in found if row[2] >= position.since])
        return Window(position.seq + 1, found[-1][0], rows)

    def _walk(self, view: View, position: Position, limit: int) -> Window | None:
        layouts = self._catalogue.layouts()
        for layout, partition, table, condition in owed(view.shape, layouts, position.place, END):
            cells = "".join(f", {cell(f'c{index}', partition.width)}" for index in range(len(layout.stored)))
            found = view.connection.execute(
                f"SELECT seq, series, ts, quality{cells} FROM {table} WHERE {condition} AND seq < ? AND ts >= ?"
                " ORDER BY series, ts LIMIT ?",
                (position.before, position.since, limit),
            ).fetchall()
            if found:
                _, series, ts, *_ = found[-1]
                end = place_of(layout.id, partition, series, ts)
                return Window(0, 0, self._rows(view, layouts, found), end)
        return None

    def _rows(self, view: View, layouts: dict[int, Layout], found: list[tuple[Any, ...]]) -> list[Pending]:
        if any(row[1] not in self._series for row in found):
            self._load_series(view.connection)
        shapes: dict[int, tuple[type[Reading], str, Callable[[tuple[Any, ...]], Row]]] = {}
        rows: list[Pending] = []
        for row in found:
            shape = shapes.get(row[1])
            if shape is None:
                shape = shapes[row[1]] = self._shape(layouts, row[1])
            rows.append(Pending(row[0], shape[0], shape[1], row[2], shape[2](row)))
        return rows

    def _load_series(self, connection: sqlite3.Connection) -> None:
        for series, model_id, device in connection.execute("SELECT id, model, device_id FROM _series"):
            self._series[series] = (model_id, device)

    def _shape(
        self, layouts: dict[int, Layout], series: int
    ) -> tuple[type[Reading], str, Callable[[tuple[Any, ...]], Row]]:
        """Model, device, and what picks a series' row out of the journal's columns."""
        model_id, device = self._series[series]
        layout = layouts[model_id]
        model = layout.whole()
        places = [4 + int(column[1:]) for column in layout.columns(model)]
        booleans = [index for index, spec in enumerate(model.__fields__, 1) if spec.type is bool]
        pick = itemgetter(3, *places)
        return model, device, (lambda cells: _with_booleans(pick(cells), booleans)) if booleans else pick


def _with_booleans(row: Row, booleans: list[int]) -> Row:
    cells = list(row)
    for index in booleans:
        cells[index] = None if cells[index] is None else bool(cells[index])
    return tuple(cells)
