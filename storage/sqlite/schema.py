"""The tables of the store, and the check that a file is one of ours.

Names that start with an underscore are the store's own; every reading model also has a view of its measurement's name,
for people who open the file with another tool.

    _j_<n>            a piece of the journal: rows in the order of arrival, of all models; see journal.py
    _h_<model>_<n>    a partition of a model's history: rows clustered by series and time; see history.py
    _hour_<model>_<n> what its whole hours come to, per series; see hours.py

In all three the values of a model's fields lie in columns c0, c1, ... that the catalogue assigns.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from pathlib import Path

from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite.records import BadRecord, is_setting

APPLICATION_ID = 0x45444550  # "EDEP", in the file's header: `file` and other tools can tell
VERSION = 4
"""Of the file's tables. All versions have an odd number of bits that are set (1, 2, 4, 7, 8, 11 ...), and this a newer
program's is told by from one in which a bit has flipped."""
_VERSIONS = 1_000
"""There will never be one beyond that."""

_TABLES = """
CREATE TABLE _meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE _models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, title TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE _series (
  id INTEGER PRIMARY KEY, model INTEGER NOT NULL, device_id TEXT NOT NULL, newest INTEGER, UNIQUE (model, device_id)
);
CREATE TABLE _devices (device_id TEXT PRIMARY KEY, name TEXT, metadata TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE _sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE _books (
  source INTEGER PRIMARY KEY, messages INTEGER NOT NULL, decoded INTEGER NOT NULL, ignored INTEGER NOT NULL,
  rejected INTEGER NOT NULL, readings INTEGER NOT NULL, new INTEGER NOT NULL, merged INTEGER NOT NULL,
  duplicates INTEGER NOT NULL, rejected_readings INTEGER NOT NULL, rejected_fields INTEGER NOT NULL,
  replaced INTEGER NOT NULL, late INTEGER NOT NULL
);
CREATE TABLE _cursors (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, versions_before INTEGER NOT NULL, since INTEGER,
  acknowledged TEXT NOT NULL, walk TEXT NOT NULL, delivered INTEGER NOT NULL, quarantined INTEGER NOT NULL,
  superseded INTEGER NOT NULL, skipped INTEGER NOT NULL, deleted INTEGER NOT NULL, thinned INTEGER NOT NULL,
  evicted INTEGER NOT NULL, lost INTEGER NOT NULL
);
CREATE TABLE _pieces (id INTEGER PRIMARY KEY, live INTEGER NOT NULL);
CREATE TABLE _quarantined (
  cursor INTEGER NOT NULL, seq INTEGER NOT NULL, model TEXT NOT NULL, device_id TEXT NOT NULL, ts INTEGER NOT NULL,
  quality INTEGER, data TEXT NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL, replay INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (cursor, seq)
);
CREATE INDEX _replayed ON _quarantined (cursor, seq) WHERE replay = 1;
CREATE TABLE _withheld (
  cursor INTEGER NOT NULL, series INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
  low INTEGER NOT NULL, high INTEGER NOT NULL, every INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (cursor, series, start, low)
) WITHOUT ROWID;
CREATE TABLE _rejected (
  id INTEGER PRIMARY KEY, source INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
  raw BLOB NOT NULL
);
CREATE INDEX _rejected_by_source ON _rejected (source, id);
CREATE TABLE _replaced (
  id INTEGER PRIMARY KEY, series INTEGER NOT NULL, ts INTEGER NOT NULL, field TEXT NOT NULL, value, at INTEGER NOT NULL
);
CREATE TABLE _dirty (
  series INTEGER NOT NULL, hour INTEGER NOT NULL, part INTEGER NOT NULL, digest INTEGER NOT NULL,
  PRIMARY KEY (series, hour, part)
) WITHOUT ROWID;
"""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file. Raises `StoreUnusable` for a file that is not ours or from a newer program."""
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO _meta VALUES ('store_epoch', 1), ('books_seq', 0), ('last_cursor', 0)")
        set_meta(connection, "store_id", new_id())
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    check(connection, path)


def new_id() -> str:
    """Tells one store from another."""
    return uuid.uuid4().hex


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreUnusable` for a file that is not ours or that a newer program wrote."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise StoreUnusable(f"{path} is an SQLite file of another program; name a new file for the store")
    _check_version(connection.execute("PRAGMA user_version").fetchone()[0], path)


def check_head(head: bytes, path: Path) -> None:
    """The same as far as the first 100 bytes of a file tell, whatever has become of the rest: what a newer program
    wrote is not for this one to salvage. (https://sqlite.org/fileformat.html, 1.3)"""
    mark, version = (int.from_bytes(head[place : place + 4], "big") for place in (68, 60))
    if mark == APPLICATION_ID and may_be_a_version(version):
        _check_version(version, path)


def _check_version(version: int, path: Path) -> None:
    if version > VERSION:
        raise StoreUnusable(f"{path} has schema version {version}, this edgedepot knows up to {VERSION}: update it")


def may_be_a_version(number: int) -> bool:
    """Whether a file may have it as its schema's version, with this program or a later one."""
    return 0 < number <= _VERSIONS and number.bit_count() % 2 == 1


def settings_of(path: Path) -> dict[str, object]:
    """The settings of a file that nobody has open, but for what is in its log alone and what is no setting's value;
    none where it is no store."""
    uri = path.absolute().as_uri() + "?mode=ro&immutable=1"
    with (
        contextlib.suppress(sqlite3.Error, ValueError, MemoryError),
        contextlib.closing(sqlite3.connect(uri, uri=True)) as file,
    ):
        found = file.execute("SELECT key, value FROM _meta")
        return {key: value for key, value in found if is_setting(str(key), value)}
    return {}


def text(connection: sqlite3.Connection, key: str) -> str | None:
    """One of the store's own settings that is a text, None where there is none. Raises `BadRecord`."""
    found = setting(connection, key)
    assert found is None or isinstance(found, str)
    return found


def number(connection: sqlite3.Connection, key: str) -> int | None:
    """As `text`, of one that is a number."""
    found = setting(connection, key)
    assert found is None or isinstance(found, int)
    return found


def known_number(connection: sqlite3.Connection, key: str) -> int:
    """As `number`, of one that every store has."""
    found = number(connection, key)
    if found is None:
        raise BadRecord(f"the store's {key} is missing")
    return found


def setting(connection: sqlite3.Connection, key: str) -> str | int | None:
    """As `text`, of one that may be either."""
    row = connection.execute("SELECT value FROM _meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if not is_setting(key, row[0]):
        raise BadRecord(f"the store's {key} is {row[0]!r:.40}")
    assert isinstance(row[0], (str, int))
    return row[0]


def set_meta(connection: sqlite3.Connection, key: str, value: object) -> None:
    connection.execute(
        "INSERT INTO _meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def raise_epoch(connection: sqlite3.Connection, epoch: int, first: int) -> int:
    """Rows from number `first` on are of this epoch, earlier ones of that in which they were written."""
    earlier = [(low, old) for low, old in epochs(connection) if low < first]
    set_meta(connection, "epochs", json.dumps([*earlier, (first, epoch)]))
    set_meta(connection, "store_epoch", epoch)
    return epoch


def epochs(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """From which row number on which epoch holds, in order."""
    written = text(connection, "epochs")
    try:
        found = [] if written is None else [(int(low), int(epoch)) for low, epoch in json.loads(written)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        found = []
    return found or [(0, 1)]


def epoch_of(seq: int, epochs: list[tuple[int, int]]) -> int:
    """The epoch in which a row was written, by what `epochs` says."""
    return next((epoch for low, epoch in reversed(epochs) if low <= seq), 1)
