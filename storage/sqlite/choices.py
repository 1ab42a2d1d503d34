"""Which readings each upstream gets, as the file remembers it: what an earlier choice skipped was not delivered."""

from __future__ import annotations

import sqlite3

import msgspec

from edgedepot.storage.buffer import EVERYTHING, Choice
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.books import CursorBook
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.ranges import LAST, Ranges
from edgedepot.storage.sqlite.records import Number, decoded
from edgedepot.storage.sqlite.walk import NEVER
from edgedepot.storage.sqlite.withheld import Stretch, withhold


class _Made(msgspec.Struct):
    """A choice, and what the upstream had acknowledged when it made it."""

    measurements: list[str] | None
    devices: tuple[str, ...] | None
    acknowledged: list[tuple[Number, Number]]
    walked: bool


_made = msgspec.json.Decoder(_Made)


def read_choice(connection: sqlite3.Connection, cursor_id: int) -> Choice:
    """The choice that an upstream has made last."""
    found = _read(connection, cursor_id)
    if found is None:
        return EVERYTHING
    return Choice(None if found.measurements is None else frozenset(found.measurements), found.devices)


def note_choice(journal: Journal, name: str, choice: Choice) -> None:
    """An upstream gets these readings from now on. Of those that it did not get by the choice before, what it
    acknowledged since that was made is noted as withheld. Runs on the writer's thread, inside its transaction."""
    book = journal.books.cursors[name]
    before = read_choice(journal.connection, book.id)
    if before == choice:
        return
    if before != EVERYTHING:
        layouts = journal.catalogue.layouts()
        spans = _passed_since(journal.connection, book)
        for model, device, series in journal.catalogue.all_series():
            measurement = layouts[model].name
            if choice.takes(measurement, device) and not before.takes(measurement, device):
                for low, high in spans:
                    withhold(journal.connection, book.id, Stretch(series, NEVER, LAST, low, high))
    measurements = None if choice.measurements is None else sorted(choice.measurements)
    made = _Made(measurements, choice.devices, list(book.acknowledged), not book.walk.left)
    schema.set_meta(journal.connection, _key(book.id), msgspec.json.encode(made).decode())


def forget_choice(connection: sqlite3.Connection, cursor_id: int) -> None:
    """The upstream is removed."""
    connection.execute("DELETE FROM _meta WHERE key = ?", (_key(cursor_id),))


def check_choice(text: str) -> None:
    """Raises `BadRecord` for a record of a choice that cannot be read."""
    decoded(_made, text, "an upstream's choice")


def _passed_since(connection: sqlite3.Connection, book: CursorBook) -> list[tuple[int, int]]:
    """The numbers that an upstream has acknowledged since it made its choice; all of history, if it was on its way
    through that."""
    found = _read(connection, book.id)
    assert found is not None
    before = Ranges(found.acknowledged)
    spans = [gap for low, high in book.acknowledged for gap in before.gaps(low, high)]
    return spans if found.walked else [(0, book.walk.before - 1), *book.walk.gone, *spans]


def _read(connection: sqlite3.Connection, cursor_id: int) -> _Made | None:
    text = schema.text(connection, _key(cursor_id))
    return None if text is None else decoded(_made, text, "an upstream's choice")


def _key(cursor_id: int) -> str:
    return f"choice_{cursor_id}"
