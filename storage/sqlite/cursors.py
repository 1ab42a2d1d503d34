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
from edgedepot.storage.sqlite.catalogue import KEY_COLUMNS, Catalogue
from edgedepot.storage.values import Row


@dataclass(slots=True)
class _Position:
    """How far a cursor is in memory (the file follows with the next commit), and what was refused beyond that."""

    seq: int
    set_aside: list[tuple[Pending, str]] = field(default_factory=list)


class Cursors:
    """The cursors of one store. Thread-safe; one worker at a time uses a cursor."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._lock = threading.Lock()
        self._positions = {
            name: _Position(position) for name, position in connection.execute("SELECT name, position FROM cursors")
        }

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._positions)

    def added(self, name: str) -> None:
        """The file has this cursor now."""
        with self._lock:
            self._positions.setdefault(name, _Position(0))

    def position(self, name: str) -> int:
        return self._of(name).seq

    def set_aside(self, name: str, rows: Sequence[Pending], reason: str) -> None:
        self._of(name).set_aside += [(row, reason) for row in rows]

    def advance(self, name: str, window: Window) -> list[tuple[Pending, str]]:
        """Move on in memory; returns what was set aside in the window, for the record."""
        position = self._of(name)
        if window.low != position.seq + 1:
            raise InvalidValue(f"cursor {name!r} is at {position.seq}, cannot acknowledge a window from {window.low}")
        position.seq = window.high
        refused, position.set_aside = position.set_aside, []
        return refused

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

    def read(self, connection: sqlite3.Connection, position: int, last: int, limit: int) -> Window | None:
        """At most `limit` rows of ``position < seq <= last``; None where there is none."""
        found = connection.execute(
            "SELECT * FROM journal WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (position, last, limit)
        ).fetchall()
        if not found:
            return None
        if any(row[2] not in self._series for row in found):
            self._load_series(connection)
        shapes: dict[int, tuple[type[Reading], str, Callable[[tuple[Any, ...]], Row]]] = {}
        rows: list[Pending] = []
        for cells in found:
            shape = shapes.get(cells[2]) or shapes.setdefault(cells[2], self._shape(cells[2]))
            rows.append(Pending(cells[0], shape[0], shape[1], cells[3], shape[2](cells)))
        return Window(position + 1, rows[-1].seq, rows)

    def _load_series(self, connection: sqlite3.Connection) -> None:
        for series, model_id, device in connection.execute("SELECT id, model, device_id FROM series"):
            self._series[series] = (model_id, device)

    def _shape(self, series: int) -> tuple[type[Reading], str, Callable[[tuple[Any, ...]], Row]]:
        """Model, device, and what picks a series' row out of the journal's columns."""
        model_id, device = self._series[series]
        layout = self._catalogue.layouts()[model_id]
        model = layout.model
        places = [KEY_COLUMNS + int(column[1:]) for column in layout.columns(model)]
        booleans = [index for index, spec in enumerate(model.__fields__, 1) if spec.type is bool]
        pick = itemgetter(KEY_COLUMNS - 1, *places)
        return model, device, (lambda cells: _with_booleans(pick(cells), booleans)) if booleans else pick


def _with_booleans(row: Row, booleans: list[int]) -> Row:
    cells = list(row)
    for index in booleans:
        cells[index] = None if cells[index] is None else bool(cells[index])
    return tuple(cells)
