"""What one read transaction sees: the tables there are, and the rows that are not in history yet."""

from __future__ import annotations

import json
import sqlite3

import msgspec

from edgedepot.storage.query import Scope
from edgedepot.storage.reading import Reading
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.history import series_of
from edgedepot.storage.sqlite.shape import Partition, Shape, read_shape
from edgedepot.storage.sqlite.tables import cell, history_table, rows_of, seen_condition
from edgedepot.storage.sqlite.tail import Tail


class Source(msgspec.Struct, frozen=True):
    """Rows as an SQL query of series, ts, quality and the values asked for, with what it binds."""

    sql: str
    values: tuple[object, ...] = ()


class View:
    """Reads through one connection that is in a read transaction. `tail` is the writer's memory, where there is one."""

    def __init__(self, connection: sqlite3.Connection, tail: Tail | None) -> None:
        self.connection = connection
        self.shape: Shape = read_shape(connection)
        self._tail = tail

    def series(self, scope: Scope) -> dict[int, str]:
        """The devices of a scope's series, by id."""
        sql, values = series_of(scope)
        return dict(self.connection.execute(sql.replace("SELECT s.id", "SELECT s.id, s.device_id"), values))

    def partitions(self, layout: Layout, scope: Scope) -> list[tuple[Partition, str]]:
        """The history tables in which rows of the scope can be, by time."""
        return [
            (partition, history_table(layout, partition))
            for partition in self.shape.partitions.get(layout.id, [])
            if (scope.start is None or scope.start < partition.stop)
            and (scope.end is None or scope.end > partition.start)
        ]

    def unfolded(
        self, layout: Layout, series: list[int], scope: Scope, columns: list[str], newest: int | None = None
    ) -> list[Source]:
        """The rows of the scope that are not in history: one query for each piece of the journal. Where that is
        cheaper, of each series only so many of the `newest`."""
        found: list[Source] = []
        pieces = self.shape.unfolded()
        seqs = self._remembered(layout, series, scope, newest)
        if seqs == []:
            return []
        for piece in pieces:
            cells = "".join(f", {cell(column, piece.width)}" for column in columns)
            head = f"SELECT series, ts, quality{cells} FROM {rows_of(self.shape, piece)} WHERE"
            if seqs is not None:
                found.append(Source(f"{head} seq IN (SELECT value FROM json_each(?))", (json.dumps(seqs),)))
                continue
            condition, values = (
                f"{seen_condition(self.shape, piece, layout.id)} AND series IN (SELECT value FROM json_each(?))",
                [json.dumps(series)],
            )
            bounds = [(">=", scope.start), ("<", scope.end)]
            condition += "".join(f" AND ts {sign} {bound}" for sign, bound in bounds if bound is not None)
            found.append(Source(f"{head} {condition}", tuple(values)))
        return found

    def _remembered(self, layout: Layout, series: list[int], scope: Scope, newest: int | None) -> list[int] | None:
        """The numbers of the unfolded rows of the scope, where the writer's memory fits this transaction."""
        if self._tail is None or not self.shape.pieces:
            return None if self.shape.pieces else []
        last = self.connection.execute(f"SELECT max(seq) FROM {self.shape.pieces[-1].table}").fetchone()[0]
        if last is None:
            last = self.shape.pieces[-1].first - 1
        horizon = self.shape.horizon(layout.id)
        return self._tail.between(series, scope.start, scope.end, horizon, last, self.shape.generation, newest)


def places(layout: Layout, model: type[Reading]) -> dict[str, str]:
    """Where each name of a model lies."""
    return layout.places(model) | {"timestamp": "ts", "device_id": "series", "quality": "quality"}
