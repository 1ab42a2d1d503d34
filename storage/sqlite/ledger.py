"""The books: counts that change in the same transaction as the rows they speak of, and the check that they balance.

    messages:             in = decoded + ignored + rejected
    readings per source:  readings = new + merged + duplicates + rejected readings
    per upstream:         versions = delivered + pending + quarantined + superseded + deleted

`versions` counts what was written (new + merged, since the upstream was added); `pending` is counted from the rows that
are there. So a row that went missing between the two shows as an imbalance.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from edgedepot.storage.base import Ledger

COLUMNS = (
    "messages", "decoded", "ignored", "rejected", "readings", "new", "merged", "duplicates", "rejected_readings",
    "rejected_fields", "replaced",
)  # fmt: skip
_ADD = (
    f"INSERT INTO books (source, {', '.join(COLUMNS)}) VALUES (?{', ?' * len(COLUMNS)}) ON CONFLICT (source) DO UPDATE"
    f" SET {', '.join(f'{name} = {name} + excluded.{name}' for name in COLUMNS)}"
)


class Tally:
    """Counts of one transaction by source, until `write` adds them to the books. For the writer's thread."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[str, int]] = {}

    def add(self, source: int, **counts: int) -> None:
        mine = self._counts.setdefault(source, dict.fromkeys(COLUMNS, 0))
        for name, count in counts.items():
            mine[name] += count

    def write(self, connection: sqlite3.Connection) -> None:
        for source, counts in self._counts.items():
            connection.execute(_ADD, (source, *counts.values()))

    def clear(self) -> None:
        self._counts.clear()


def read_ledger(connection: sqlite3.Connection) -> Ledger:
    """The books as the connection's read transaction sees them, checked."""
    sources = {
        row[0]: dict(zip(COLUMNS, row[1:], strict=True))
        for row in connection.execute(
            f"SELECT name, {', '.join(COLUMNS)} FROM books JOIN sources ON sources.id = books.source ORDER BY name"
        )
    }
    total = sum(counts["new"] + counts["merged"] for counts in sources.values())
    upstreams: dict[str, dict[str, int]] = {}
    for name, position, before, *resolved in connection.execute(
        "SELECT name, position, versions_before, delivered, quarantined, superseded, deleted FROM cursors ORDER BY name"
    ):
        pending = connection.execute("SELECT count(*) FROM journal WHERE seq > ?", (position,)).fetchone()[0]
        columns = dict(zip(("delivered", "quarantined", "superseded", "deleted"), resolved, strict=True))
        upstreams[name] = {"versions": total - before, "pending": pending, **columns}
    return Ledger(sources, upstreams, _problems(sources, upstreams))


def _problems(sources: Mapping[str, Mapping[str, int]], upstreams: Mapping[str, Mapping[str, int]]) -> list[str]:
    found: list[str] = []
    for name, n in sources.items():
        accounted = n["decoded"] + n["ignored"] + n["rejected"]
        if n["messages"] != accounted:
            found.append(f"source {name}: {n['messages']} messages came in, {accounted} are accounted for")
        accounted = n["new"] + n["merged"] + n["duplicates"] + n["rejected_readings"]
        if n["readings"] != accounted:
            found.append(f"source {name}: {n['readings']} readings were decoded, {accounted} are accounted for")
    for name, n in upstreams.items():
        accounted = sum(count for column, count in n.items() if column != "versions")
        if n["versions"] != accounted:
            found.append(f"upstream {name}: {n['versions']} versions were written, {accounted} are accounted for")
    return found
