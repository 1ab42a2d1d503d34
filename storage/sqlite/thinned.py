"""What a new upstream gets of minutes that were thinned before it was there: what the journal has by then, averages.

    _j_4    |     a    . .   b      | . . .      of the row in the journal the quality says that it is thinned
    history | a a a    . .   b b b  | . . .      and of that in history, which has the same number, it does not

Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

from itertools import pairwise

from edgedepot.storage.clock import MINUTE
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.tables import rows_of
from edgedepot.storage.sqlite.withheld import THINNED, Stretch, withhold
from edgedepot.storage.values import Quality


def note_thinned(journal: Journal, cursor: int) -> None:
    """Note for a new upstream that gets all of the journal which minutes of that were thinned."""
    for piece, _ in pairwise(journal.shape.pieces):
        flagged = f"series > 0 AND quality & {Quality.THINNED:d}"
        rows = journal.connection.execute(
            f"SELECT series, ts, seq FROM {rows_of(journal.shape, piece)} WHERE {flagged} ORDER BY series, ts"
        ).fetchall()
        (last,) = journal.connection.execute(f"SELECT max(seq) FROM {piece.table}").fetchone()
        for series, ts, seq in rows:
            if _was_thinned(journal, series, ts, seq):
                start = ts - ts % MINUTE
                among = piece.first, last
                withhold(journal.connection, cursor, Stretch(series, start, start + MINUTE, *among, THINNED), among)


def _was_thinned(journal: Journal, series: int, ts: int, seq: int) -> bool:
    """Rather than having come in as an average, from another store."""
    known = journal.tail.series(series)
    assert known is not None
    found = journal.history.find(journal.catalogue.layouts()[known.model_id], (), series, ts)
    return found is not None and found[0] == seq and not (found[1][0] or 0) & Quality.THINNED
