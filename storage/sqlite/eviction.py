"""The journal's part of retention: whole pieces, the oldest first, although upstreams await rows of them.

    _j_4  _j_5  _j_6   in history: the rows are gone for upstreams
    _j_7  _j_8         held, as nobody knows the time: the rows are gone altogether
    _j_9               gets rows

Runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

from edgedepot.storage.clock import from_micros
from edgedepot.storage.sqlite.acknowledge import count_there, skipped_by, times_awaited
from edgedepot.storage.sqlite.books import CursorBook
from edgedepot.storage.sqlite.choices import read_choice
from edgedepot.storage.sqlite.fold import drop_pieces
from edgedepot.storage.sqlite.given_up import note_given_up
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.room_log import RoomLog
from edgedepot.storage.sqlite.shape import Folded, Piece, Shape
from edgedepot.storage.sqlite.tables import add_piece, bytes_each, rows_in, rows_of
from edgedepot.storage.sqlite.thinning import closed_pieces
from edgedepot.storage.sqlite.timebase import forget_held
from edgedepot.storage.sqlite.withheld import withhold_piece


def held_pieces(shape: Shape) -> list[tuple[Piece, int]]:
    """The pieces that get no more rows and wait for somebody to know the time, each with its last number."""
    return [(piece, shape.last_of(piece)) for piece in shape.pieces[:-1] if shape.is_held(piece)]


def holds_full_piece(journal: Journal, limits: Limits) -> bool:
    """Whether the last piece is to end by now, as what it has is held: no fold comes by, which else does it. Where
    nothing limits the store it may be as large as it is."""
    shape = journal.shape
    if limits.size is None or not shape.pieces or not shape.is_held(shape.pieces[-1]) or is_folding(journal):
        return False
    last, count = shape.pieces[-1], len(shape.pieces)
    rows = journal.committed_seq - last.first
    return rows >= limits.piece_rows(max(1, rows + 1), bytes_each(journal.connection, last), count)


def is_folding(journal: Journal) -> bool:
    """Whether there is something to fold."""
    return journal.tail.rows > journal.tail.held or journal.shape.folded.active


def close_piece(journal: Journal) -> None:
    """End the last piece, when all rows are in history, or held."""
    if journal.shape.pieces[-1].first > journal.committed_seq:
        return  # one has begun meanwhile, as the time is known or was set
    journal.shape.folded = Folded(journal.committed_seq, journal.committed_seq)
    journal.books.write_snapshot(journal.connection, journal.committed_seq)
    add_piece(journal.connection, journal.shape, journal.committed_seq + 1, journal.shape.pieces[-1].base)
    journal.refresh_views()
    journal.reshape()


def first_unawaited(journal: Journal, pieces: list[tuple[Piece, int]]) -> tuple[Piece, int] | None:
    """The first of these pieces, each with its last number, of which no upstream is to get a reading. All are held or
    none: of what time those are that are held nobody knows yet."""
    are_held = any(journal.shape.is_held(piece) for piece, _ in pieces)
    upstreams = [
        (book, skipped_by(journal, None if are_held else book.since, read_choice(journal.connection, book.id)))
        for book in journal.books.cursors.values()
        if pieces
    ]
    return next(
        (one for one in pieces if not any(_awaits(journal, book, skips, *one) for book, skips in upstreams)), None
    )


def _awaits(journal: Journal, book: CursorBook, skips: tuple[str, list[object]], piece: Piece, last: int) -> bool:
    """Whether an upstream that skips such readings has not acknowledged another one of a piece."""
    skipped, chosen = skips
    query = f"SELECT 1 FROM {rows_of(journal.shape, piece)} WHERE seq BETWEEN ? AND ? AND series > 0"
    return any(
        journal.connection.execute(f"{query} AND NOT ({skipped}) LIMIT 1", (*gap, *chosen)).fetchone()
        for gap in book.acknowledged.gaps(piece.first, last)
    )


def evict(journal: Journal, piece: Piece, last: int, why: str, log: RoomLog) -> None:
    """Drop a piece although upstreams have not acknowledged all rows of it."""
    is_held = journal.shape.is_held(piece)
    if piece.aside and not is_held:
        return  # the time is known by now, and the fold brings it into history
    for name, book in journal.books.cursors.items():
        choice = read_choice(journal.connection, book.id)  # of the file: it may not have been said again yet
        for low, high in book.acknowledged.gaps(piece.first, last):
            rows, skipped = count_there(journal, low, high, book.since, choice)
            journal.books.resolve(name, low, high, evicted=rows - skipped, skipped=skipped)
            if rows > skipped:
                times = times_awaited(journal, low, high, book.since, choice)
                log.evicted(note_given_up(journal, name, "evicted", *times, rows - skipped), why)
            if not is_held:
                withhold_piece(journal.connection, journal.shape, book.id, piece, low, high)
    if is_held:
        log.held_went(rows_in(journal.connection, piece))
        journal.tail.hide()
        forget_held(journal.connection, journal.tail, piece)
    let_go(journal, [piece])
    journal.tail.hold(journal.shape.held())


def let_go(journal: Journal, pieces: list[Piece]) -> None:
    """Drop pieces of which nobody is owed anything any more."""
    drop_pieces(journal.connection, journal, pieces)
    journal.refresh_views()
    journal.reshape()


def waited_for(journal: Journal) -> str:
    """What has to happen before a full store that keeps all that is awaited has room."""
    shape, held = journal.shape, journal.tail.held
    waits = [f"the time is known, for which {held} readings wait"] if held else []
    if not held_pieces(shape) or closed_pieces(shape):
        known = next((piece for piece in shape.pieces if not shape.is_held(piece)), shape.pieces[-1])
        query = f"SELECT min(ts) FROM {rows_of(shape, known)} WHERE series > 0"
        (oldest,) = journal.connection.execute(query).fetchone()
        when = "which is not in history yet" if oldest is None else f"from {from_micros(oldest):%Y-%m-%dT%H:%MZ} on"
        waits.insert(0, f"upstreams have acknowledged enough of what waits for them, {when}")
    return ", or ".join(waits)
