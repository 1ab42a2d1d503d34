"""The rows of the open transaction until they are inserted: cell after cell, as most take the same statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from edgedepot.storage.reading import Reading

BULK = 10
"""Rows that one statement inserts."""
MANY = 50_000
"""Cells of a model: with so many it is time to insert them, also where the transaction goes on."""


class OpenRows:
    """For the writer's thread."""

    def __init__(self) -> None:
        self._cells: dict[tuple[type[Reading], bool], list[Any]] = {}
        self._statements: dict[tuple[str, tuple[str, ...], frozenset[str], int], str] = {}

    def of(self, model: type[Reading]) -> tuple[list[Any], list[Any]]:
        """Where the cells of a model's rows wait, one row after another: of those that have no quality, and of the
        others. It stands for nearly all, and None is what takes Python longest to bind."""
        return self._cells.setdefault((model, False), []), self._cells.setdefault((model, True), [])

    def waiting(self) -> Iterator[tuple[type[Reading], bool]]:
        """Of which models rows wait, and whether those that have a quality."""
        return (key for key, cells in self._cells.items() if cells)

    def clear(self) -> None:
        self._cells.clear()

    def insert(
        self,
        connection: sqlite3.Connection,
        table: str,
        model: type[Reading],
        is_flagged: bool,
        columns: tuple[str, ...],
        casts: frozenset[str],
    ) -> None:
        """Insert the rows of a model, with `casts` as floats. Most of them many to a statement, which takes SQLite half
        as long."""
        cells = self._cells[model, is_flagged]
        done = 0
        for rows in (BULK, 1):
            step = rows * len(columns)
            end = len(cells) - (len(cells) - done) % step
            if end > done:
                values = (cells[at : at + step] for at in range(done, end, step))
                connection.executemany(self._statement(table, columns, casts, rows), values)
                done = end
        cells.clear()

    def _statement(self, table: str, columns: tuple[str, ...], casts: frozenset[str], rows: int) -> str:
        statement = self._statements.get((table, columns, casts, rows))
        if statement is None:
            row = ", ".join("CAST(? AS REAL)" if column in casts else "?" for column in columns)
            marks = ", ".join([f"({row})"] * rows)
            statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {marks}"
            self._statements[table, columns, casts, rows] = statement
        return statement
