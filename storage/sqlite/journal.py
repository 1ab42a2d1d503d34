"""The journal: every reading once, in the order of arrival, numbered by `seq`.

         acknowledged by "central"        handed out       not yet
    |-------------------------------|-----------------|-------------|
    seq 1                        position         window.high      last seq          ->  grows here

A row never changes in place: a merge removes it and appends the whole merged row with a new seq, so that every upstream
gets the new version. A removed row that a cursor has not passed is counted superseded (or deleted) for that upstream in
the same transaction. `seq` is never used twice.

Everything here runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from edgedepot.storage.base import Arrival, Intake, Pending, Reject
from edgedepot.storage.query import Scope
from edgedepot.storage.reading import Reading
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.ledger import Tally
from edgedepot.storage.values import Row

KEPT_REJECTS = 10_000
RAW_LIMIT = 1024


class Journal:
    """Writes rows, rejects, acknowledgements and deletions; knows which identities are there."""

    def __init__(self, connection: sqlite3.Connection, catalogue: Catalogue) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._tally = Tally()
        self._seq = self._committed_seq = self._read_seq()
        self._rows: dict[type[Reading], list[tuple[Any, ...]]] = {}
        self._newest: dict[int, int] = {}
        self._stamps: dict[int, int] = {}
        self._series: dict[tuple[type[Reading], str], int] = {}
        self._statements: dict[tuple[str, ...], str] = {}
        self._at = 0

    @property
    def committed_seq(self) -> int:
        """The last number given out in a committed transaction."""
        return self._committed_seq

    def _read_seq(self) -> int:
        seq = schema.meta(self._connection, "seq")
        assert isinstance(seq, int)
        return seq

    # -- one transaction ------------------------------------------------------------------------------------------

    def begin(self, at: int) -> None:
        """A transaction begins; `at` is the time in microseconds since 1970 UTC that its records bear."""
        self._at = at

    def finish(self) -> None:
        """Write down everything that the transaction still holds in memory; the commit follows."""
        self._insert_rows()
        self._catalogue.write_names(self._connection)
        self._tally.write(self._connection)
        if self._seq != self._committed_seq:
            schema.set_meta(self._connection, "seq", self._seq)

    def committed(self) -> None:
        self._committed_seq = self._seq
        self._tally.clear()
        self._catalogue.committed()

    def rolled_back(self) -> None:
        """Forget what the undone transaction did."""
        self._seq = self._committed_seq
        self._rows.clear()
        self._newest.clear()
        self._tally.clear()
        self._catalogue.rolled_back()

    # -- readings -------------------------------------------------------------------------------------------------

    def write(self, source_name: str, arrivals: Sequence[Arrival]) -> int:
        """Store readings of a source; the number of duplicates among them."""
        source = self._catalogue.source(source_name)
        merged = duplicates = replaced = 0
        newest = self._newest
        for arrival in arrivals:
            model, device, ts, stamped, row = arrival
            series = self._series.get((model, device)) or self._series_of(model, device)
            last = newest.get(series)
            if last is None:
                last = newest[series] = self._newest_of(series)
            if stamped:
                ts = self._free_stamp(series, ts, last)
            if ts > last:
                newest[series] = ts
            else:
                old = self._find(model, series, ts)
                if old is not None:
                    merge = _merge(model, old[1], row)
                    if merge is None:
                        duplicates += 1
                        continue
                    merged += 1
                    replaced += self._replace(model, series, ts, old, row)
                    row = merge
            self._seq = seq = self._seq + 1
            rows = self._rows.get(model)
            if rows is None:
                rows = self._rows[model] = []
            rows.append((seq, source, series, ts, *row))
        self._tally.add(
            source,
            readings=len(arrivals),
            new=len(arrivals) - merged - duplicates,
            merged=merged,
            duplicates=duplicates,
            replaced=replaced,
        )
        return duplicates

    def _series_of(self, model: type[Reading], device: str) -> int:
        series = self._series[model, device] = self._catalogue.series(self._catalogue.layout(model), device)
        return series

    def _newest_of(self, series: int) -> int:
        """The newest timestamp of a series; before all timestamps where it is empty."""
        found = self._connection.execute("SELECT max(ts) FROM journal WHERE series = ?", (series,)).fetchone()[0]
        return -(2**63) if found is None else int(found)

    def _free_stamp(self, series: int, ts: int, newest: int) -> int:
        """A gateway stamp, moved on where the device has it already: stamps increase strictly."""
        ts = max(ts, self._stamps.get(series, ts - 1) + 1)
        if ts <= newest:
            self._insert_rows()
            query = "SELECT 1 FROM journal WHERE series = ? AND ts = ?"
            while self._connection.execute(query, (series, ts)).fetchone():
                ts += 1
        self._stamps[series] = ts
        return ts

    def _find(self, model: type[Reading], series: int, ts: int) -> tuple[int, Row] | None:
        """Number and row of an identity, where it is there."""
        self._insert_rows()
        columns = self._layout(model).columns(model)
        found = self._connection.execute(
            f"SELECT seq, quality, {', '.join(columns)} FROM journal WHERE series = ? AND ts = ?", (series, ts)
        ).fetchone()
        return None if found is None else (found[0], tuple(found[1:]))

    def _replace(self, model: type[Reading], series: int, ts: int, old: tuple[int, Row], new: Row) -> int:
        """Take the old version out and keep the values that differ; how many rows had such (0 or 1)."""
        seq, row = old
        changed = [
            (series, ts, spec.name, before, self._at)
            for spec, before, after in zip(model.__fields__, row[1:], new[1:], strict=True)
            if before is not None and after is not None and before != after
        ]
        self._connection.execute("UPDATE cursors SET superseded = superseded + 1 WHERE position < ?", (seq,))
        self._connection.execute("DELETE FROM journal WHERE seq = ?", (seq,))
        self._connection.executemany(
            "INSERT INTO replaced (series, ts, field, value, at) VALUES (?, ?, ?, ?, ?)", changed
        )
        return 1 if changed else 0

    def _layout(self, model: type[Reading]) -> Layout:
        layout = self._catalogue.layout(model)
        if layout.dirty:
            self._catalogue.write_layout(self._connection, layout)
        return layout

    def _insert_rows(self) -> None:
        for model, rows in self._rows.items():
            if rows:
                columns = self._layout(model).columns(model)
                self._connection.executemany(self._insert_statement(columns), rows)
                rows.clear()

    def _insert_statement(self, columns: tuple[str, ...]) -> str:
        statement = self._statements.get(columns)
        if statement is None:
            statement = self._statements[columns] = (
                f"INSERT INTO journal (seq, source, series, ts, quality, {', '.join(columns)})"
                f" VALUES (?, ?, ?, ?, ?{', ?' * len(columns)})"
            )
        return statement

    # -- what is no reading ---------------------------------------------------------------------------------------

    def note(self, intake: Intake) -> None:
        """Count an intake's messages and keep its rejects."""
        source = self._catalogue.source(intake.source)
        kinds = [reject.kind for reject in intake.rejects]
        readings = kinds.count("reading")
        self._tally.add(
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
            self._keep_rejects(source, intake.rejects)

    def _keep_rejects(self, source: int, rejects: Sequence[Reject]) -> None:
        self._connection.executemany(
            "INSERT INTO rejected (source, at, kind, reason, raw) VALUES (?, ?, ?, ?, ?)",
            [(source, self._at, reject.kind, reject.reason, reject.raw[:RAW_LIMIT]) for reject in rejects],
        )
        self._connection.execute(
            "DELETE FROM rejected WHERE source = ?1 AND id <= ("
            " SELECT id FROM rejected WHERE source = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (source, KEPT_REJECTS),
        )

    def save_device(self, device_id: str, name: str | None, metadata: str) -> None:
        self._connection.execute(
            "INSERT INTO devices (device_id, name, metadata) VALUES (?, ?, ?)"
            " ON CONFLICT (device_id) DO UPDATE SET name = excluded.name, metadata = excluded.metadata",
            (device_id, name, metadata),
        )

    # -- sync -----------------------------------------------------------------------------------------------------

    def add_cursor(self, name: str) -> None:
        """A cursor before the oldest row. What was written and is no longer there, it never has to deliver."""
        self._insert_rows()
        self._tally.write(self._connection)
        self._tally.clear()
        self._connection.execute(
            "INSERT INTO cursors (name, position, versions_before) SELECT ?, 0,"
            " (SELECT coalesce(sum(new + merged), 0) FROM books) - (SELECT count(*) FROM journal)"
            " ON CONFLICT (name) DO NOTHING",
            (name,),
        )

    def acknowledge(self, cursor: str, high: int, set_aside: Sequence[tuple[Pending, str]]) -> None:
        """Move a cursor up to `high`. Of the rows passed, those set aside are quarantined and the rest is delivered.

        Counted from the rows that are there: one that was merged or deleted meanwhile is in those columns already.
        """
        self._insert_rows()
        cursor_id, position = self._connection.execute(
            "SELECT id, position FROM cursors WHERE name = ?", (cursor,)
        ).fetchone()
        if high <= position:
            return
        span = (position, high)
        passed = self._connection.execute("SELECT count(*) FROM journal WHERE seq > ? AND seq <= ?", span).fetchone()[0]
        quarantined = sum(self._quarantine(cursor_id, span, row, reason) for row, reason in set_aside)
        self._connection.execute(
            "UPDATE cursors SET position = ?, delivered = delivered + ?, quarantined = quarantined + ? WHERE id = ?",
            (high, passed - quarantined, quarantined, cursor_id),
        )

    def _quarantine(self, cursor_id: int, span: tuple[int, int], row: Pending, reason: str) -> int:
        names = [spec.name for spec in row.model.__fields__]
        data = json.dumps(dict(zip(names, row.row[1:], strict=True)))
        return self._connection.execute(
            "INSERT OR IGNORE INTO quarantined (cursor, seq, model, device_id, ts, quality, data, reason, at)"
            " SELECT ?, seq, ?, ?, ts, quality, ?, ?, ? FROM journal WHERE seq = ? AND seq > ? AND seq <= ?",
            (cursor_id, row.model.__measurement__, row.device_id, data, reason, self._at, row.seq, *span),
        ).rowcount

    def delete(self, scope: Scope) -> int:
        """Delete the readings of a scope; the number."""
        self._insert_rows()
        self._catalogue.write_names(self._connection)
        condition, values = scope_condition(scope)
        doomed = f"FROM journal WHERE {condition}"
        self._connection.execute(
            f"UPDATE cursors SET deleted = deleted + (SELECT count(*) {doomed} AND seq > position)", values
        )
        self._newest.clear()
        return self._connection.execute(f"DELETE {doomed}", values).rowcount


def _merge(model: type[Reading], old: Row, new: Row) -> Row | None:
    """The old row with the new values that are not null over it; None where that changes nothing."""
    values = tuple(before if after is None else after for before, after in zip(old[1:], new[1:], strict=True))
    if values == old[1:]:
        return None
    return (model.__rows__.merged_quality(old[0], new[0], values), *values)


def scope_condition(scope: Scope) -> tuple[str, list[Any]]:
    """The SQL condition on `journal` of a scope, with its values."""
    series = "series IN (SELECT series.id FROM series JOIN models ON models.id = series.model WHERE models.name = ?"
    values: list[Any] = [scope.model.__measurement__]
    if scope.device_id is not None:
        series += " AND series.device_id = ?"
        values.append(scope.device_id)
    condition = series + ")"
    if scope.start is not None:
        condition += " AND ts >= ?"
        values.append(scope.start)
    if scope.end is not None:
        condition += " AND ts < ?"
        values.append(scope.end)
    return condition, values
