"""Bringing files of earlier programs up to date. A step is a function; it is committed together with its record, the
schema version in the file's header, so that it is done once or not at all, whatever happens.

To change schema.py: add the step from the version before to `STEPS`, raise `schema.VERSION` to the next that there may
be, and keep a dump of the version before in ``tests/storage/sqlite/released/``. A new file is made whole; steps are for
old ones alone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from itertools import pairwise

from edgedepot.storage.sqlite.shape import read_shape, write_shape

log = logging.getLogger(__name__)
Step = Callable[[sqlite3.Connection], None]


def say_which_are_averages(connection: sqlite3.Connection) -> None:
    """What an upstream was not sent says whether averages stand for it. Of what was noted before nobody knows."""
    connection.execute("ALTER TABLE _withheld ADD COLUMN every INTEGER NOT NULL DEFAULT 0")


def end_pieces(connection: sqlite3.Connection) -> None:
    """A piece of the journal says which its last row is. Where the next one has gone its rows tell."""
    shape = read_shape(connection)
    for piece, after in pairwise(shape.pieces):
        (last,) = connection.execute(f"SELECT max(seq) FROM {piece.table}").fetchone()
        is_next = after.id == piece.id + 1
        piece.last = piece.last or (after.first - 1 if is_next or last is None else last)
    write_shape(connection, shape)


STEPS: Mapping[int, Step] = {2: say_which_are_averages, 4: end_pieces}
"""By the version that it leads to."""


def migrate(connection: sqlite3.Connection, steps: Mapping[int, Step] = STEPS) -> None:
    """Take the steps from the file's version on, in order."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for target in sorted(target for target in steps if target > version):
        connection.execute("BEGIN IMMEDIATE")
        try:
            steps[target](connection)
            connection.execute(f"PRAGMA user_version = {target}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        log.info("the store's schema is version %d now", target)
