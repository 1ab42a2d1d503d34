"""Which records of the small tables the store can make use of: beyond records.py, what their texts say, and what they
refer to. A salvage keeps these alone, and `verify` finds the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedepot.storage.sqlite.books import check_cursor
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.choices import check_choice
from edgedepot.storage.sqlite.devices import check_metadata
from edgedepot.storage.sqlite.given_up import check_given_up
from edgedepot.storage.sqlite.quarantine import check_quarantined
from edgedepot.storage.sqlite.records import BadRecord, is_record

REFERENCES = (
    ("_series", "model", "SELECT id FROM _models"),
    ("_books", "source", "SELECT id FROM _sources"),
    ("_rejected", "source", "SELECT id FROM _sources"),
    ("_replaced", "series", "SELECT id FROM _series"),
    ("_withheld", "series", "SELECT id FROM _series"),
    ("_withheld", "cursor", "SELECT id FROM _cursors"),
    ("_quarantined", "model", "SELECT name FROM _models"),
    ("_quarantined", "cursor", "SELECT id FROM _cursors"),
)
"""Table, column, and what a value of it has to be among."""


def is_readable(table: str, row: Sequence[Any]) -> bool:
    """Whether a table can have this record, which has all of its columns, and the store can make use of it."""
    if not is_record(table, row):
        return False
    try:
        if table == "_models":
            Catalogue.check_row(row[2], row[1], row[3])
        elif table == "_cursors":
            check_cursor(row)
        elif table == "_devices":
            check_metadata(*row)
        elif table == "_quarantined":
            check_quarantined(row[6])
        elif table == "_meta":
            _check_setting(*row)
    except BadRecord:
        return False
    return True


def _check_setting(key: str, value: Any) -> None:
    if key.startswith("choice_"):
        check_choice(value)
    elif key.startswith("given_up_"):
        check_given_up(value)
