"""The fold: copies journal rows on into history, and adds up what their hours come to.

    journal  _j_3 | . . . . . . . . . . . |        up to `high`, by series and time, at most CHUNK rows a transaction:
                    | | | | | | | |                a fold in one piece would hold up commits
                    v v v v v v v v
    history  _h_weather_1 (series, ts)   and   _hour_weather (series, hour): rows, n, sum, min, max, first, last

When all rows up to `high` are there, the books are written down, the journal gets a new piece if the last is large
enough, and pieces are dropped that nobody needs any more. Runs on the writer's thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.shape import Folded, Partition, Piece, write_shape
from edgedepot.storage.sqlite.tables import (
    HOUR,
    HOUR_COLUMNS,
    add_partition,
    add_piece,
    cell,
    history_table,
    hour_table,
    refresh_view,
    value_columns,
    widen_hours,
    widen_partition,
)
from edgedepot.storage.sqlite.tail import Series

CHUNK = 3_000
CLEANED = 300
LARGER = 8
"""So many times larger are a journal's pieces in an outage, when they cannot go, so that there are few."""

Unfolded = tuple[Series, int, int]
"""A row to fold: its series, timestamp and number."""


class Fold:
    """Folds in steps, each one transaction."""

    def __init__(self, connection: sqlite3.Connection, journal: Journal, piece_rows: int) -> None:
        self._connection = connection
        self._journal = journal
        self._piece_rows = piece_rows

    @property
    def active(self) -> bool:
        """True while a fold is under way; also after a crash in the middle of one."""
        folded = self._journal.shape.folded
        return folded.high > folded.low

    def begin(self) -> None:
        """Set out to fold all rows that are committed by now."""
        shape = self._journal.shape
        shape.folded = Folded(shape.folded.low, self._journal.committed_seq)

    def step(self) -> None:
        """Fold the next rows, or finish. When it fails nothing of it is done, and the fold begins anew some time."""
        journal = self._journal
        rows = list(self._next_rows())
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if rows:
                self._fold_rows(rows)
                journal.shape.folded.series, journal.shape.folded.ts = rows[-1][0].id, rows[-1][1]
            elif self._clean_hours() < CLEANED:
                self._finish()
            write_shape(self._connection, journal.shape)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            journal.rolled_back()
            raise
        journal.tail.hide()
        for series, group in groupby(rows, key=lambda row: row[0]):
            journal.tail.forget(series, [seq for _, _, seq in group])
        journal.tail.show(journal.shape.generation)

    def _next_rows(self) -> Iterator[Unfolded]:
        folded = self._journal.shape.folded
        left = CHUNK
        for series in self._journal.tail.from_series(folded.series):
            for ts, seq in zip(series.times, series.seqs, strict=True):
                if seq <= folded.high:
                    yield series, ts, seq
                    left -= 1
                    if not left:
                        return

    def _fold_rows(self, rows: list[Unfolded]) -> None:
        for model_id, group in groupby(sorted(rows, key=lambda row: row[0].model_id), key=lambda row: row[0].model_id):
            self._fold_model(self._journal.catalogue.layouts()[model_id], list(group))
        newest = {series.id: series.newest for series, _, _ in rows}
        self._connection.executemany(
            "UPDATE _series SET newest = ? WHERE id = ?", [(ts, series) for series, ts in newest.items()]
        )

    def _fold_model(self, layout: Layout, rows: list[Unfolded]) -> None:
        shape = self._journal.shape
        places: dict[tuple[int, int], list[int]] = {}
        partitions = {one.id: one for one in shape.partitions.get(layout.id, [])}
        pieces: dict[int, Piece] = {}
        known = len(partitions)
        for _, ts, seq in rows:
            partition = shape.partition_of(layout.id, ts) or add_partition(self._connection, shape, layout, ts)
            piece = shape.piece_of(seq)
            assert piece is not None
            partitions[partition.id], pieces[piece.id] = partition, piece
            places.setdefault((piece.id, partition.id), []).append(seq)
        widen_hours(self._connection, shape, layout)
        for (piece_id, partition_id), seqs in places.items():
            self._copy(layout, pieces[piece_id], partitions[partition_id], json.dumps(seqs))
        if len(shape.partitions[layout.id]) > known:
            refresh_view(self._connection, shape, layout)

    def _copy(self, layout: Layout, piece: Piece, partition: Partition, seqs: str) -> None:
        widen_partition(self._connection, layout, partition)
        rows = (
            f"SELECT series, ts, seq, quality, {_values(layout, piece.width)} FROM {piece.table}"
            " WHERE seq IN (SELECT value FROM json_each(:seqs))"
        )
        columns = ", ".join(("series", "ts", "seq", "quality", *value_columns(layout)))
        self._connection.execute(
            f"INSERT INTO {history_table(layout, partition)} ({columns}) {rows} ORDER BY series, ts",
            {"seqs": seqs},
        )
        add_hours(self._connection, layout, partition, rows, {"seqs": seqs})

    def _clean_hours(self) -> int:
        """Compute hours again out of which a row was taken; how many."""
        dirty = self._connection.execute(
            "SELECT model, series, hour FROM _dirty JOIN _series ON _series.id = series LIMIT ?", (CLEANED,)
        ).fetchall()
        layouts = self._journal.catalogue.layouts()
        for model_id, series, hour in dirty:
            layout = layouts[model_id]
            self._connection.execute(f"DELETE FROM {hour_table(layout)} WHERE series = ? AND hour = ?", (series, hour))
            partition = self._journal.shape.partition_of(model_id, hour * HOUR)
            if partition is not None:
                widen_hours(self._connection, self._journal.shape, layout)
                rows = (
                    f"SELECT series, ts, {_values(layout, partition.width)} FROM {history_table(layout, partition)}"
                    " WHERE series = :series AND ts >= :start AND ts < :end"
                )
                bound = {"series": series, "start": hour * HOUR, "end": (hour + 1) * HOUR}
                add_hours(self._connection, layout, partition, rows, bound)
            self._connection.execute("DELETE FROM _dirty WHERE series = ? AND hour = ?", (series, hour))
        return len(dirty)

    def _finish(self) -> None:
        journal, shape = self._journal, self._journal.shape
        shape.folded = Folded(shape.folded.high, shape.folded.high)
        journal.books.write_snapshot(self._connection, journal.committed_seq)
        before = [piece.id for piece in shape.pieces]
        enough = self._piece_rows * (1 if len(shape.pieces) < 4 else LARGER)
        if journal.committed_seq - shape.pieces[-1].first >= enough:
            add_piece(self._connection, shape, journal.committed_seq + 1)
        self._drop_pieces()
        if before != [piece.id for piece in shape.pieces]:
            for layout in journal.catalogue.layouts().values():
                if layout.written:
                    refresh_view(self._connection, shape, layout)

    def _drop_pieces(self) -> None:
        """Drop the pieces before the last that are in history and acknowledged by all."""
        shape, cursors = self._journal.shape, self._journal.books.cursors.values()
        keep = []
        for piece, after in pairwise(shape.pieces):
            last = after.first - 1
            if last > shape.folded.low or any(book.acknowledged.gaps(piece.first, last) for book in cursors):
                keep.append(piece)
            else:
                self._connection.execute(f"DROP TABLE {piece.table}")
                self._connection.execute("DELETE FROM _pieces WHERE id = ?", (piece.id,))
        shape.pieces[:-1] = keep


def _values(layout: Layout, width: int) -> str:
    """A model's values, from a table that has so many value columns."""
    return ", ".join(f"{cell(column, width)} AS {column}" for column in value_columns(layout))


def add_hours(
    connection: sqlite3.Connection, layout: Layout, partition: Partition, rows: str, bound: Mapping[str, object]
) -> None:
    """Add rows of one partition, which the SQL `rows` selects, to what their hours come to.

    First and last values are looked up once their times are known.
    """
    table, hours = history_table(layout, partition), hour_table(layout)
    columns, values, updates, edges = [*HOUR_COLUMNS], ["count(*)", "min(ts)", "max(ts)"], [], []
    updates += ["rows = rows + excluded.rows", "low = min(low, excluded.low)", "high = max(high, excluded.high)"]
    for index, spec in enumerate(layout.written):
        value, when = f"c{index}", f"CASE WHEN c{index} IS NOT NULL THEN ts END"
        parts = {f"n{index}": f"count({value})", f"first_ts{index}": f"min({when})", f"last_ts{index}": f"max({when})"}
        if spec.type in (float, int):
            parts |= {f"min{index}": f"min({value})", f"max{index}": f"max({value})"}
        if spec.type is float:
            parts[f"sum{index}"] = f"total({value})"
        if spec.type is int:  # the halves of 64 bits apart: SQLite gives up where a sum exceeds them
            parts |= {f"sum{index}": f"sum({value} >> 32)", f"rest{index}": f"sum({value} & 4294967295)"}
        for name, expression in parts.items():
            columns.append(name)
            values.append(expression)
            updates.append(f"{name} = {_combined(name)}")
        for edge in ("first", "last"):
            edges.append(
                f"{edge}{index} = (SELECT {cell(value, partition.width)} FROM {table} AS h"
                f" WHERE h.series = {hours}.series AND h.ts = {edge}_ts{index})"
            )
    connection.execute(
        f"INSERT INTO {hours} (series, hour, {', '.join(columns)})"
        f" SELECT series, {hour_of('ts')}, {', '.join(values)} FROM ({rows}) WHERE true GROUP BY 1, 2"
        f" ON CONFLICT (series, hour) DO UPDATE SET {', '.join(updates)}",
        bound,
    )
    connection.execute(
        f"UPDATE {hours} SET {', '.join(edges)} WHERE (series, hour) IN (SELECT series, {hour_of('ts')} FROM ({rows}))",
        bound,
    )


def _combined(name: str) -> str:
    """Old and new of a column together. SQLite's two-argument min and max are null where one is: hence coalesce."""
    if name.startswith(("n", "sum", "rest")):
        return f"coalesce({name}, 0) + coalesce(excluded.{name}, 0)"
    function = "min" if name.startswith(("min", "first")) else "max"
    return f"{function}(coalesce({name}, excluded.{name}), coalesce(excluded.{name}, {name}))"
