"""Where each upstream began, as the file remembers it: another start, given later, changes nothing."""

from __future__ import annotations

import sqlite3

from edgedepot.storage.buffer import Start
from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.sqlite import schema


def note_start(connection: sqlite3.Connection, cursor_id: int, start: Start) -> None:
    """A new upstream begins here."""
    schema.set_meta(connection, _key(cursor_id), start if isinstance(start, str) else to_micros(start))


def read_start(connection: sqlite3.Connection, cursor_id: int) -> Start | None:
    """Where an upstream began; None where nobody wrote it down."""
    found = schema.setting(connection, _key(cursor_id))
    if found == "oldest" or found == "now":
        return "oldest" if found == "oldest" else "now"
    return from_micros(found) if isinstance(found, int) else None


def forget_start(connection: sqlite3.Connection, cursor_id: int) -> None:
    """The upstream is removed."""
    connection.execute("DELETE FROM _meta WHERE key = ?", (_key(cursor_id),))


def _key(cursor_id: int) -> str:
    return f"start_{cursor_id}"
