"""Retention: what goes when it is too old or too much.

    history   _h_weather_1  _h_weather_2  _h_weather_3        whole partitions, the oldest first: DROP TABLE
              ~~~~~~~~~~~~~~|
                         horizon: history never reaches below it again
    journal   _j_4  _j_5  _j_6                                 whole pieces, when no history is left to take
    refusals  the oldest rows of what is beyond its share, before anything else has to go: see refusals.py

It looks for one thing to do at a time, small enough for commits to wait for it, and each is a transaction of its own:
after a crash it goes on. To drop a partition writes a few pages, however many rows it has. Runs on the writer's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from edgedepot.storage.sqlite.acknowledge import skipped_by
from edgedepot.storage.sqlite.books import CursorBook
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.choices import read_choice
from edgedepot.storage.sqlite.cursors import Cursors
from edgedepot.storage.sqlite.downsampled import is_kept, keep_more
from edgedepot.storage.sqlite.eviction import (
    close_piece,
    evict,
    first_unawaited,
    held_pieces,
    holds_full_piece,
    is_folding,
    let_go,
    waited_for,
)
from edgedepot.storage.sqlite.fold import acknowledged_pieces
from edgedepot.storage.sqlite.given_up import note_given_up
from edgedepot.storage.sqlite.journal import Deed, Journal
from edgedepot.storage.sqlite.kept import SWEPT, expired, keep_less, kept_pages
from edgedepot.storage.sqlite.limits import PAGE, Limits
from edgedepot.storage.sqlite.refusals import (
    Excess,
    drop_rejects,
    evict_quarantined,
    too_many_quarantined,
    too_many_rejects,
)
from edgedepot.storage.sqlite.room_log import FULL, OLD, REFUSED, RoomLog
from edgedepot.storage.sqlite.shape import Partition, Piece
from edgedepot.storage.sqlite.tables import (
    any_of,
    history_table,
    hour_table,
    pages_used,
    refresh_view,
    rows_end,
    rows_of,
)
from edgedepot.storage.sqlite.thinning import Batch, batches, closed_pieces, thin
from edgedepot.storage.sqlite.walk import END, NEVER, owed

_LAST_MINUTE = 2**62
_FOLDS = 3
"""So often it has the fold go first for a partition: readings of its time may come on and on."""


class _Owed(NamedTuple):
    """Rows that a cursor would come by, and how many of them it gets: these are from `low` to `last`."""

    rows: int
    missed: int
    low: int
    last: int


class Retention:
    """`next` says what to do, for as long as there is something. What it could not help stands in `is_over`; `full`
    tells why the store takes no readings."""

    def __init__(
        self, connection: sqlite3.Connection, journal: Journal, cursors: Cursors, limits: Limits, full: str | None
    ) -> None:
        self._connection = connection
        self._cursors = cursors
        self._thinned: set[int] = set()
        self._batches: list[Batch] = []
        self._journal = journal
        self._limits = limits
        self._log = RoomLog()
        self._unswept = set(journal.shape.horizons)
        self._folds = 0
        self._may_fold = False
        self.is_over = False
        self.full = full

    @staticmethod
    def fold_first(_: Journal) -> None:
        """What `next` says where that has to be before anything goes: no deed for a transaction."""

    def next(self, now: int | None, may_fold: bool) -> Deed | None:
        """The next transaction's deed; None when all is as it should be, or as good as it can be. `now` is None while
        nobody knows the time: then nothing is too old. It is `fold_first` only where there `may_fold` be something."""
        self._log.begin()
        self._may_fold = may_fold
        if not self._journal.shape.pieces:
            return None
        deed = close_piece if self.ends_piece else self._acknowledged()
        deed = deed or self._too_old(now) or self._too_much_of_a_model(now)
        deed = deed or expired(self._journal, now) or self._sweep()
        if deed is not None:
            return deed
        self.is_over = self.exceeds()
        deed = self._make_room(now) if self.is_over else None
        if deed is None:
            self._log.committed(is_thinning=False)  # what was thinned sufficed, in the middle of a piece
        blocks = self.is_over and deed is None and self._limits.block
        self._block(blocks)
        return deed

    def _block(self, blocks: bool) -> None:
        """Take no more readings, or take them again."""
        was_full = self.full is not None
        self.full = (
            f"the store has reached its limit of {self._limits.size} bytes (keep_bytes) and takes no readings until"
            f" {waited_for(self._journal)}"
            if blocks
            else None
        )
        if self.full is not None and not was_full:
            self._log.blocks(self.full)
        elif was_full and not blocks:
            self._log.takes_again()

    def committed(self) -> None:
        """What `next` said is done."""
        self._log.committed(is_thinning=bool(self._batches))

    def exceeds(self, headroom: bool = True) -> bool:
        """Whether the store holds more than it may by now, or leaves too little room for what comes."""
        return self._limits.size is not None and pages_used(self._connection) * PAGE > self._limits.room(headroom)

    # -- history --------------------------------------------------------------------------------------------------

    def _partitions(self) -> Iterator[tuple[Layout, list[Partition]]]:
        """The partitions of each model that has any."""
        shape = self._journal.shape
        for layout in self._journal.catalogue.layouts().values():
            if shape.partitions.get(layout.id):
                yield layout, shape.partitions[layout.id]

    def _too_old(self, now: int | None) -> Deed | None:
        """A partition or a piece that has nothing young enough in it."""
        if now is None:
            return None
        limits = self._limits
        for layout, mine in self._partitions():
            age = limits.age(layout.name)
            if age is not None and mine[0].stop <= now - age and self._may_go(layout, mine[0], limits.keep_pending):
                return self._going(layout, mine[0], mine[0].stop, OLD)
        return None if limits.keep_pending else self._too_old_piece(now)

    def _too_old_piece(self, now: int) -> Deed | None:
        ages = {layout.id: self._limits.age(layout.name) for layout in self._journal.catalogue.layouts().values()}
        young = any_of(
            [f"model = {model}" + ("" if age is None else f" AND ts >= {now - age}") for model, age in ages.items()]
        )
        closed = closed_pieces(self._journal.shape)
        if not closed or not ages:
            return None
        table = rows_of(self._journal.shape, closed[0][0])
        query = f"SELECT 1 FROM {table} AS j CROSS JOIN _series AS s ON s.id = j.series WHERE {young} LIMIT 1"
        return None if self._connection.execute(query).fetchone() else self._eviction(*closed[0], OLD)

    def _too_much_of_a_model(self, now: int | None) -> Deed | None:
        for layout, mine in self._partitions():
            size = self._limits.sizes.get(layout.name)
            if size is not None and sum(partition.pages for partition in mine) * PAGE > size:
                deed = self._drop_oldest(layout, mine, now, self._limits.block)
                if deed is not None:
                    return deed
        return None

    def _drop_oldest(self, layout: Layout, mine: list[Partition], now: int | None, keep_pending: bool) -> Deed | None:
        """To make room. The horizon is not to lie in the future: what comes in then would be late."""
        end = rows_end(self._connection, layout, mine[0])
        if (now is not None and end > now) or not self._may_go(layout, mine[0], keep_pending):
            return None
        return self._going(layout, mine[0], end, FULL)

    def _going(self, layout: Layout, partition: Partition, end: int, why: str) -> Deed:
        """What is to be kept of it is brought together first, once all of it is there."""
        if self._awaits_fold(layout, partition, end):
            self._folds += not self._journal.shape.folded.active
            return self.fold_first
        if is_kept(self._journal.shape, layout, partition):
            return lambda journal: self._drop_partition(layout, partition, end, why)
        most = self._limits.fold_rows  # it takes as much room as they do, where buckets are short
        return lambda journal: keep_more(self._connection, journal, layout, partition, most)

    def _awaits_fold(self, layout: Layout, partition: Partition, end: int) -> bool:
        """Whether readings are on their way there that would be missing in what is kept. In the middle of that it makes
        no difference: then it is begun anew."""
        shape = self._journal.shape
        if not shape.rules_of(layout.id) or not self._may_fold or self._folds >= _FOLDS:
            return False
        keeping = shape.keeping
        if keeping is not None and keeping.is_of(layout.id, partition) and not keeping.done:
            return False
        return self._journal.tail.coming(layout.id, shape.horizon(layout.id), end) > 0

    def _may_go(self, layout: Layout, partition: Partition, keep_pending: bool) -> bool:
        return not keep_pending or not any(owed.missed for owed in self._owed_rows(layout, partition).values())

    def _owed_rows(self, layout: Layout, partition: Partition) -> dict[str, _Owed]:
        """What each cursor that is on its way through history would still come by in a partition."""
        books = self._journal.books.cursors.items()
        found = {name: self._owed_to(book, layout, partition) for name, book in books if book.walk.left}
        return {name: owed for name, owed in found.items() if owed is not None}

    def _owed_to(self, book: CursorBook, layout: Layout, partition: Partition) -> _Owed | None:
        layouts = self._journal.catalogue.layouts()
        since = NEVER if book.since is None else book.since
        skipped, chosen = skipped_by(self._journal, None, read_choice(self._connection, book.id))
        lost = f"FILTER (WHERE NOT ({skipped}))"
        for one, place, table, condition in owed(self._journal.shape, layouts, book.walk.place, END):
            if one.id == layout.id and place.id == partition.id:
                query = f"{table} WHERE {condition} AND {book.walk.numbers()} AND ts >= ?"
                found = self._connection.execute(
                    f"SELECT count(*), count(*) {lost}, min(ts) {lost}, max(ts) {lost} FROM {query}",
                    (*chosen * 3, since),
                ).fetchone()
                return _Owed(*found) if found[0] else None
        return None

    def _drop_partition(self, layout: Layout, partition: Partition, end: int, why: str) -> None:
        """Drop a model's oldest partition, whose rows all lie before `end`."""
        shape = self._journal.shape
        for name, (rows, missed, low, last) in self._owed_rows(layout, partition).items():
            self._journal.books.walk_less(name, rows, evicted=missed, skipped=rows - missed)
            if missed:
                self._log.evicted(note_given_up(self._journal, name, "evicted", low, last + 1, missed), why)
        if why == FULL:
            self._log.history_went(layout.name, end)
        if shape.rules_of(layout.id):
            self._log.not_kept(layout.name, self._journal.tail.coming(layout.id, shape.horizon(layout.id), end))
        start = shape.partitions[layout.id].pop(0).start
        shape.horizons[layout.id] = end
        for rule in shape.rules_of(layout.id):
            rule.low = start if rule.low is None else rule.low
        shape.keeping, self._folds = None, 0
        refresh_view(self._connection, shape, layout)
        self._connection.execute(f"DROP TABLE {history_table(layout, partition)}")
        if partition.hours is not None:
            self._connection.execute(f"DROP TABLE {hour_table(layout, partition)}")
        self._connection.execute(
            "DELETE FROM _dirty WHERE part = ? AND series IN (SELECT id FROM _series WHERE model = ?)",
            (start, layout.id),
        )
        self._journal.reshape()
        self._unswept.add(layout.id)

    # -- what is known of what is gone ----------------------------------------------------------------------------

    def _sweep(self) -> Deed | None:
        """Replaced values from before the horizon, and what is noted of readings that history has no more."""
        for model_id in sorted(self._unswept):
            first = self._journal.shape.horizon(model_id)
            mine = f"series IN (SELECT id FROM _series WHERE model = {model_id})"
            for table, key, old in (
                ("_replaced", "id", f"ts < {first}"),
                ("_withheld", "(cursor, series, start, low)", f"stop <= {first}"),
            ):
                swept = f"SELECT {key.strip('()')} FROM {table} WHERE {mine} AND {old} LIMIT {SWEPT}"
                if self._connection.execute(swept).fetchone():
                    return _executing(self._connection, f"DELETE FROM {table} WHERE {key} IN ({swept})")
            self._unswept.discard(model_id)
        return None

    # -- what was refused -----------------------------------------------------------------------------------------

    def _refused(self) -> Deed | None:
        """The oldest of what is beyond its share. What is to be sent once more is awaited again."""
        if self._limits.size is None:
            return None
        rejects = too_many_rejects(self._connection, self._limits.size)
        if rejects is not None:
            return lambda journal: drop_rejects(journal, rejects)
        quarantined = too_many_quarantined(self._journal, self._limits.size, replayed=not self._limits.block)
        return None if quarantined is None else lambda journal: self._evict_quarantined(quarantined)

    def _evict_quarantined(self, excess: Excess) -> None:
        self._log.evicted(evict_quarantined(self._journal, excess, replayed=not self._limits.block), REFUSED)

    # -- the journal ----------------------------------------------------------------------------------------------

    def _acknowledged(self) -> Deed | None:
        """Pieces that were acknowledged since the fold looked."""
        pieces = acknowledged_pieces(self._journal)
        return (lambda journal: let_go(journal, pieces)) if pieces else None

    def _make_room(self, now: int | None) -> Deed | None:
        """The least loss first: what nobody awaits, and history has; then history, of which the journal still has what
        is pending, or what is kept downsampled where that takes more room; then what is pending, thinned where that
        can be, which is the journal's; and what a late upstream is still owed of history only before the journal has
        anything to evict."""
        history = sum(partition.pages for _, mine in self._partitions() for partition in mine)
        closed, held = closed_pieces(self._journal.shape), held_pieces(self._journal.shape)
        deed = self._refused() or self._unawaited(closed)
        if deed is None and kept_pages(self._journal) > history:
            deed = keep_less(self._journal, self._log)
        if deed is not None:
            return deed
        oldest = sorted(self._partitions(), key=lambda entry: (len(entry[1]) == 1, entry[1][0].stop))
        deed = self._drop_first(oldest, now, keep_pending=True) or keep_less(self._journal, self._log)
        deed = deed or self._closing_unawaited()
        if deed is not None:
            return deed
        if self._limits.block and is_folding(self._journal):
            return None
        if self._limits.block:
            return self._unawaited(held) or (None if closed or held else self._closing())
        if closed:
            deed = self._thinning(closed) or self._drop_first(oldest, now, keep_pending=False)
            return deed or self._eviction(*min(closed + held, key=lambda entry: entry[0].first), FULL)
        if is_folding(self._journal):
            return None  # the fold brings what can be thinned
        if held:
            return self._drop_first(oldest, now, keep_pending=False) or self._eviction(*held[0], FULL)
        return self._closing() or self._drop_first(oldest, now, keep_pending=False)

    def _unawaited(self, pieces: list[tuple[Piece, int]]) -> Deed | None:
        """The first of these that waits for the time at most, and for no upstream."""
        spare = first_unawaited(self._journal, pieces)
        return None if spare is None else self._eviction(*spare, FULL)

    def _drop_first(
        self, oldest: list[tuple[Layout, list[Partition]]], now: int | None, keep_pending: bool
    ) -> Deed | None:
        """Of these models' oldest partitions the first that may go."""
        deeds = (self._drop_oldest(layout, mine, now, keep_pending) for layout, mine in oldest)
        return next((deed for deed in deeds if deed is not None), None)

    def _thinning(self, closed: list[tuple[Piece, int]]) -> Deed | None:
        """The next batch to thin; each piece is gone through once."""
        for piece, _ in closed:
            if not self._batches and piece.id not in self._thinned:
                self._thinned.add(piece.id)
                self._batches = list(batches(self._connection, self._journal.shape, piece, _LAST_MINUTE))
        if not self._batches:
            return None
        batch = self._batches.pop(0)
        return lambda journal: thin(journal, self._cursors, batch, self._log.thinned)

    @property
    def ends_piece(self) -> bool:
        """Whether there is a piece to end: see `holds_full_piece`."""
        return holds_full_piece(self._journal, self._limits)

    def _closing(self) -> Deed | None:
        """End the last piece early, so that it can be dropped as soon as it is acknowledged."""
        journal = self._journal
        last = journal.shape.pieces[-1]
        has_rows = self._connection.execute(f"SELECT 1 FROM {last.table} WHERE series > 0 LIMIT 1").fetchone()
        return close_piece if has_rows else None

    def _closing_unawaited(self) -> Deed | None:
        """The same, of one that can be dropped then."""
        journal, last = self._journal, self._journal.shape.pieces[-1]
        if is_folding(journal) or journal.shape.is_held(last):
            return None
        return self._closing() if first_unawaited(journal, [(last, journal.committed_seq)]) else None

    def _eviction(self, piece: Piece, last: int, why: str) -> Deed:
        return lambda journal: evict(journal, piece, last, why, self._log)


def _executing(connection: sqlite3.Connection, statement: str) -> Deed:
    return lambda journal: connection.execute(statement)
