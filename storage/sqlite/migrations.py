"""Bringing files of earlier programs up to date. A step is a function; it is committed together with its record, the
schema version in the file's header, so that it is done once or not at all, whatever happens.

To change schema.py: add the step from the version before to `STEPS`, raise `schema.VERSION`, and keep a dump of the
version before in ``tests/storage/sqlite/released/``. A new file is made whole; steps are for old ones alone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)
Step = Callable[[sqlite3.Connection], None]
STEPS: Mapping[int, Step] = {}
"""By the version that it leads to. None yet: version 1 is the first."""


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
