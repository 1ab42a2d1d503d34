"""What upstreams do not get, as there was no room for it: the counts of the books, with the time that they are about.

A list in the file for each cursor, the oldest first. What lies within an hour of what went before it is put together
with that, so that an outage is a line or two, however long. Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3

import msgspec

from edgedepot.storage.clock import HOUR, from_micros
from edgedepot.storage.given_up import GivenUp, Way
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.records import Moment, Number, decoded

_KEPT = 50
"""So many entries of each kind and cursor; beyond that the two oldest become one."""
_Entry = tuple[str, Moment, Moment, Number, Moment]
"""What was done, ``low <= ts < high``, how many readings went, and when: microseconds since 1970 UTC."""
_entries = msgspec.json.Decoder(list[_Entry])


def note_given_up(journal: Journal, name: str, what: Way, low: int, high: int, rows: int) -> GivenUp:
    """Write down that an upstream does not get so many readings of the times ``low <= ts < high``."""
    book = journal.books.cursors[name]
    entry: _Entry = (what, low, high, rows, journal.at)
    schema.set_meta(journal.connection, _key(book.id), json.dumps(_with(_read(journal.connection, book.id), entry)))
    return _shown(name, entry)


def read_given_up(connection: sqlite3.Connection, name: str, cursor_id: int) -> list[GivenUp]:
    """What an upstream does not get, in the order in which it went."""
    return [_shown(name, entry) for entry in _read(connection, cursor_id)]


def forget_given_up(connection: sqlite3.Connection, cursor_id: int) -> None:
    """The upstream is removed."""
    connection.execute("DELETE FROM _meta WHERE key = ?", (_key(cursor_id),))


def check_given_up(text: str) -> None:
    """Raises `BadRecord` for a list that cannot be read."""
    decoded(_entries, text, "what an upstream does not get")


def _with(entries: list[_Entry], new: _Entry) -> list[_Entry]:
    same = [entry for entry in entries if entry[0] == new[0]]
    near = next((entry for entry in reversed(same) if _is_near(entry, new)), None)
    if near is None and len(same) >= _KEPT:
        entries[entries.index(same[1])] = _together(same[0], same[1])
        entries.remove(same[0])
    if near is not None:
        entries.remove(near)
        new = _together(near, new)
    return [*entries, new]


def _is_near(one: _Entry, other: _Entry) -> bool:
    return one[1] <= other[2] + HOUR and other[1] <= one[2] + HOUR


def _together(one: _Entry, other: _Entry) -> _Entry:
    return one[0], min(one[1], other[1]), max(one[2], other[2]), one[3] + other[3], max(one[4], other[4])


def _read(connection: sqlite3.Connection, cursor_id: int) -> list[_Entry]:
    text = schema.text(connection, _key(cursor_id))
    return [] if text is None else decoded(_entries, text, "what an upstream does not get")


def _shown(name: str, entry: _Entry) -> GivenUp:
    what, low, high, rows, at = entry
    way: Way = "thinned" if what == "thinned" else "evicted"
    return GivenUp(name, way, from_micros(low), from_micros(high), rows, from_micros(at))


def _key(cursor_id: int) -> str:
    return f"given_up_{cursor_id}"
