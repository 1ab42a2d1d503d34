"""What came in beside readings: counts of messages, and what could not become a reading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgedepot.storage.buffer import Intake, Reject
from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.view import View

KEPT_REJECTS = 10_000
RAW_LIMIT = 1024


def note_intake(journal: Journal, intake: Intake) -> None:
    """Count an intake's messages and keep its rejects, in the open transaction."""
    source = journal.catalogue.source(intake.source)
    kinds = [reject.kind for reject in intake.rejects]
    readings = kinds.count("reading")
    journal.books.count(
        source,
        messages=intake.messages,
        decoded=intake.decoded,
        ignored=intake.ignored,
        rejected=kinds.count("message"),
        readings=readings,
        rejected_readings=readings,
        rejected_fields=kinds.count("field"),
    )
    if intake.rejects:
        _keep(journal, source, intake.rejects)


def check_rejects(rejects: Sequence[Reject]) -> None:
    """Raises `InvalidValue` for what no table holds."""
    for reject in rejects:
        if not (isinstance(reject.reason, str) and isinstance(reject.raw, bytes)):
            raise InvalidValue(f"{reject!r:.200}: expected a text as the reason, and bytes as what came")


def _keep(journal: Journal, source: int, rejects: Sequence[Reject]) -> None:
    journal.connection.executemany(
        "INSERT INTO _rejected (source, at, kind, reason, raw) VALUES (?, ?, ?, ?, ?)",
        [(source, journal.at, reject.kind, _storable(reject.reason), reject.raw[:RAW_LIMIT]) for reject in rejects],
    )
    journal.connection.execute(
        "DELETE FROM _rejected WHERE source = :source AND id <= ("
        " SELECT id FROM _rejected WHERE source = :source ORDER BY id DESC LIMIT 1 OFFSET :kept)",
        {"source": source, "kept": KEPT_REJECTS},
    )


def _storable(text: str) -> str:
    """What devices send may hold what no UTF-8 text can."""
    return text.encode(errors="backslashreplace").decode()


def read_rejected(view: View, source: str | None, limit: int) -> list[dict[str, Any]]:
    """What could not become a reading, of one source or all, newest first."""
    names = dict(read_records(view.connection, "_sources", ("id", "name")))
    chosen = json.dumps([number for number, name in names.items() if source in (None, name)])
    columns = ("source", "at", "kind", "reason", "raw")
    where = "WHERE source IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT ?"
    return [
        {"source": names[number], "at": from_micros(at), "kind": kind, "reason": reason, "raw": raw}
        for number, at, kind, reason, raw in read_records(view.connection, "_rejected", columns, where, (chosen, limit))
    ]
