"""The tables of the store, and the check that a file is one of ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edgedepot.storage.errors import StoreUnusable

APPLICATION_ID = 0x45444550  # "EDEP", in the file's header: `file` and other tools can tell
VERSION = 1

# journal: every reading as it now stands, in the order of arrival; the value columns c0, c1, ... are shared by all
# models (see catalogue.py). cursors: how far each upstream has acknowledged, and what became of the rows up to there.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, title TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE series (
  id INTEGER PRIMARY KEY, model INTEGER NOT NULL, device_id TEXT NOT NULL, UNIQUE (model, device_id)
);
CREATE TABLE devices (device_id TEXT PRIMARY KEY, name TEXT, metadata TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE journal (
  seq INTEGER PRIMARY KEY, source INTEGER NOT NULL, series INTEGER NOT NULL, ts INTEGER NOT NULL, quality INTEGER
);
CREATE UNIQUE INDEX journal_identity ON journal (series, ts);
CREATE TABLE cursors (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, position INTEGER NOT NULL, versions_before INTEGER NOT NULL,
  delivered INTEGER NOT NULL DEFAULT 0, quarantined INTEGER NOT NULL DEFAULT 0,
  superseded INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE quarantined (
  cursor INTEGER NOT NULL, seq INTEGER NOT NULL, model TEXT NOT NULL, device_id TEXT NOT NULL, ts INTEGER NOT NULL,
  quality INTEGER, data TEXT NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (cursor, seq)
);
CREATE TABLE books (
  source INTEGER PRIMARY KEY,
  messages INTEGER NOT NULL DEFAULT 0, decoded INTEGER NOT NULL DEFAULT 0, ignored INTEGER NOT NULL DEFAULT 0,
  rejected INTEGER NOT NULL DEFAULT 0, readings INTEGER NOT NULL DEFAULT 0, new INTEGER NOT NULL DEFAULT 0,
  merged INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0,
  rejected_readings INTEGER NOT NULL DEFAULT 0, rejected_fields INTEGER NOT NULL DEFAULT 0,
  replaced INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rejected (
  id INTEGER PRIMARY KEY, source INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL,
  raw BLOB NOT NULL
);
CREATE INDEX rejected_by_source ON rejected (source, id);
CREATE TABLE replaced (
  id INTEGER PRIMARY KEY, series INTEGER NOT NULL, ts INTEGER NOT NULL, field TEXT NOT NULL, value, at INTEGER NOT NULL
);
"""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file. Raises `StoreUnusable` for a file that is not ours or from a newer program."""
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('store_epoch', 1), ('seq', 0)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    check(connection, path)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreUnusable` for a file that is not ours or that a newer program wrote."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise StoreUnusable(f"{path} is an SQLite file of another program; name a new file for the store")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreUnusable(f"{path} has schema version {version}, this edgedepot knows up to {VERSION}: update it")


def meta(connection: sqlite3.Connection, key: str) -> object:
    """A value of the store's own settings, None where there is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def set_meta(connection: sqlite3.Connection, key: str, value: object) -> None:
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )
