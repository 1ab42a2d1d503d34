"""Deleting readings here: the rows in history and in the journal, and the buckets kept of those that have gone.

History goes first: a row that is there and in the journal too is one row, owed through the journal. Upstreams keep what
they have received; it is noted that they may have it (withheld.py). Runs on the writer's thread, in its transaction.
"""

from __future__ import annotations

from edgedepot.storage.query import Scope
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.downsampled import delete_kept
from edgedepot.storage.sqlite.history import scope_condition, series_of
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.quarantine import Refused, supersede
from edgedepot.storage.sqlite.shape import Piece
from edgedepot.storage.sqlite.tables import rows_of
from edgedepot.storage.sqlite.withheld import Stretch, doomed, note_deleted


def delete(journal: Journal, scope: Scope) -> int:
    """Delete the readings of a scope; the number. Raises `InvalidValue`, with nothing done, where it cuts a bucket of
    which only downsampled values are kept."""
    kept = delete_kept(journal, scope)
    # What was refused, and has a newer version: that is known of it only as long as the newer one is there.
    supersede(journal, Refused(None, scope.model.__measurement__, scope.device_id, scope.start, scope.end))
    layout = journal.catalogue.find(scope.model)
    return kept if layout is None else kept + _delete_rows(journal, layout, scope)


def _delete_rows(journal: Journal, layout: Layout, scope: Scope) -> int:
    journal.write_rows()
    journal.catalogue.write_names(journal.connection)
    journal.rearrange()
    noted: list[Stretch] = []
    count = _delete_from_history(journal, layout, scope, noted)
    for piece in journal.shape.pieces:
        _delete_from_piece(journal, piece, scope, noted)
    cursors = (book.id for book in journal.books.cursors.values())
    note_deleted(journal.connection, cursors, noted, all_before=scope.start is None)
    series = [series_id for (series_id,) in journal.connection.execute(*series_of(scope))]
    return count + journal.tail.discard(series, scope.start, scope.end, journal.shape.horizon(layout.id))


def _delete_from_history(journal: Journal, layout: Layout, scope: Scope, noted: list[Stretch]) -> int:
    """How many there were; what they are goes into `noted`."""
    walked = max((book.walk.end for book in journal.books.cursors.values() if book.walk.left), default=0)
    for seq, place in journal.history.places_before(layout, scope, walked):
        journal.books.out_of_the_way(seq, "deleted", place, in_journal=False)
    noted += journal.history.doomed(layout, scope)
    return journal.history.delete(layout, scope)


def _delete_from_piece(journal: Journal, piece: Piece, scope: Scope, noted: list[Stretch]) -> None:
    condition, values = scope_condition(scope)
    table = rows_of(journal.shape, piece)
    noted += doomed(journal.connection, table, condition, values)
    mine = f"SELECT seq FROM {table} WHERE {condition}"
    for (seq,) in journal.connection.execute(mine, values).fetchall():
        journal.books.out_of_the_way(seq, "deleted", None, in_journal=True)
    gone = journal.connection.execute(f"DELETE FROM {piece.table} WHERE seq IN ({mine})", values).rowcount
    journal.connection.execute("UPDATE _pieces SET live = live - ? WHERE id = ?", (gone, piece.id))
