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
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.walk import END, Place, count_owed, owed, place_of
from edgedepot.storage.values import Row


@dataclass(slots=True)
class _Position:
    """How far a cursor is in memory (the file follows with the next commit), and what was refused beyond that."""

    seq: int
    walk_before: int
    place: Place
    set_aside: list[tuple[Pending, str]] = field(default_factory=list)


class Cursors:
    """The cursors of one store. Thread-safe; one worker at a time uses a cursor."""

    def __init__(self, books: Books) -> None:
        self._lock = threading.Lock()
        self._positions: dict[str, _Position] = {}
        for book in books.cursors.values():
            self.added(book)

    def added(self, book: CursorBook) -> None:
        """The file has this cursor."""
        with self._lock:
            position = _Position(book.acknowledged.first_gap() - 1, book.walk.before, book.walk.place)
            if not book.walk.left:
                position.place = END
            self._positions.setdefault(book.name, position)

    def position(self, name: str) -> int:
        return self._of(name).seq

    def walk(self, name: str) -> tuple[int, Place]:
        """Rows below which number it is owed from history, and from which place on; END when from none."""
        position = self._of(name)
        return position.walk_before, position.place

    def bring_up(self, book: CursorBook, view: View, layouts: dict[int, Layout]) -> None:
        """Have a book as it was committed say what is acknowledged by now."""
        position = self._of(book.name)
        if position.seq:
            book.acknowledged.add(1, position.seq)
        if position.place > book.walk.place and book.walk.left:
            between = (book.walk.before, book.walk.place, position.place)
            book.walk.left -= count_owed(view.connection, view.shape, layouts, *between)

    def set_aside(self, name: str, rows: Sequence[Pending], reason: str) -> None:
        self._of(name).set_aside += [(row, reason) for row in rows]

    def check(self, name: str, window: Window) -> list[tuple[Pending, str]]:
        """What was set aside in a window that is to be acknowledged. Raises `InvalidValue` for one out of turn."""
        position = self._of(name)
        if window.place is None and window.low != position.seq + 1:
            raise InvalidValue(f"cursor {name!r} is at {position.seq}, cannot acknowledge a window from {window.low}")
        return position.set_aside

    def advance(self, name: str, window: Window) -> None:
        """Move on: the record of it is on its way."""
        position = self._of(name)
        position.set_aside = []
        if window.place is None:
            position.seq = window.high
        else:
            position.place = window.place

    def walked(self, name: str) -> None:
        """There are no more rows to come from history."""
        self._of(name).place = END

    def _of(self, name: str) -> _Position:
        with self._lock:
            if name not in self._positions:
                raise InvalidValue(f"there is no cursor {name!r}; there are {sorted(self._positions)}")
            return self._positions[name]


class PendingReader:
    """Reads journal rows back as `Pending`. Thread-safe: what it caches never changes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._series: dict[int, tuple[int, str]] = {}

    def read(self, view: View, position: int, last: int, limit: int) -> Window | None:
        """At most `limit` rows of ``position < seq <= last``; None where there is none."""
        layouts = self._catalogue.layouts()
        width = max((len(layout.stored) for layout in layouts.values()), default=0)
        found: list[tuple[Any, ...]] = []
        for piece in view.shape.pieces_from(position + 1):
            if len(found) < limit:
                cells = "".join(f", c{index}" if index < piece.width else ", NULL" for index in range(width))
                found += view.connection.execute(
                    f"SELECT seq, series, ts, quality{cells} FROM {piece.table}"
                    " WHERE seq > ? AND seq <= ? AND series > 0 ORDER BY seq LIMIT ?",
                    (position, last, limit - len(found)),
                ).fetchall()
        if not found:
            return None
        rows = self._rows(view, layouts, found)
        return Window(position + 1, rows[-1].seq, rows)

    def walk(self, view: View, before: int, place: Place, limit: int) -> Window | None:
        """At most `limit` rows of history behind a place; None where there is none."""
        layouts = self._catalogue.layouts()
        for table, condition, layout in owed(view.shape, layouts, place, END):
            cells = "".join(f", c{index}" for index in range(len(layout.stored)))
            found = view.connection.execute(
                f"SELECT seq, series, ts, quality{cells} FROM {table} WHERE {condition} AND seq < ?"
                " ORDER BY series, ts LIMIT ?",
                (before, limit),
            ).fetchall()
            if found:
                _, series, ts, *_ = found[-1]
                partition = view.shape.partition_of(layout.id, ts)
                assert partition is not None
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
        model = layout.model
        places = [4 + int(column[1:]) for column in layout.columns(model)]
        booleans = [index for index, spec in enumerate(model.__fields__, 1) if spec.type is bool]
        pick = itemgetter(3, *places)
        return model, device, (lambda cells: _with_booleans(pick(cells), booleans)) if booleans else pick


def _with_booleans(row: Row, booleans: list[int]) -> Row:
    cells = list(row)
    for index in booleans:
        cells[index] = None if cells[index] is None else bool(cells[index])
    return tuple(cells)
