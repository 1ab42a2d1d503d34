"""Where readings are missing that the books speak of. Asked only when these do not balance: it reads whole pieces."""

from __future__ import annotations

import sqlite3
from itertools import pairwise

from edgedepot.storage.sqlite.shape import Piece
from edgedepot.storage.sqlite.tables import readings_in, rows_in
from edgedepot.storage.sqlite.view import View


def where_missing(view: View) -> str:
    """The numbers of the journal between which something went missing, or came twice, in words.

    A piece that gets no more rows has on record how many it should hold. The last one has not: there it lies between
    the first and the last number without a row, among those that were merged or deleted meanwhile.
    """
    found = [text for piece, after in pairwise(view.shape.pieces) if (text := _closed(view.connection, piece, after))]
    return "; ".join(found) or _last(view)


def _closed(connection: sqlite3.Connection, piece: Piece, after: Piece) -> str | None:
    expected = rows_in(connection, piece)
    there = readings_in(connection, piece)
    if there == expected:
        return None
    low, high = _without_row(connection, piece, after.first - 1) or (piece.first, after.first - 1)
    return (
        f"the journal should hold {expected} readings from row {piece.first} to {after.first - 1} and holds {there}; "
        + (f"the difference lies in rows {low} to {high}")
    )


def _last(view: View) -> str:
    if not view.shape.pieces:
        return "the journal is empty"
    piece = view.shape.pieces[-1]
    last = view.connection.execute(f"SELECT max(seq) FROM {piece.table}").fetchone()[0]
    gap = None if last is None else _without_row(view.connection, piece, last)
    if gap is None:
        return f"the difference lies before row {view.shape.pieces[0].first} of the journal, which has been let go of"
    return f"the difference lies in rows {gap[0]} to {gap[1]} of the journal"


def _without_row(connection: sqlite3.Connection, piece: Piece, last: int) -> tuple[int, int] | None:
    """The first and the last number of a piece without a row; None where each has one."""
    numbers = f"SELECT seq FROM {piece.table} WHERE seq <= {last}"
    before = f"SELECT {piece.first - 1} AS seq UNION ALL {numbers}"
    behind = f"{numbers} UNION ALL SELECT {last + 1}"
    low, high = connection.execute(
        f"SELECT (SELECT min(seq) + 1 FROM ({before}) AS a WHERE a.seq < {last}"
        f" AND NOT EXISTS (SELECT 1 FROM {piece.table} AS b WHERE b.seq = a.seq + 1)),"
        f" (SELECT max(seq) - 1 FROM ({behind}) AS a WHERE a.seq > {piece.first}"
        f" AND NOT EXISTS (SELECT 1 FROM {piece.table} AS b WHERE b.seq = a.seq - 1))"
    ).fetchone()
    return None if low is None else (low, high)
