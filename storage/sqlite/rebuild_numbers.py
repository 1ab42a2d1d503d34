"""The journal of a new store, its books and its epoch.

The new journal has the pieces and the rows of the old one, and gets back from history what is missing, under the same
numbers: so nothing that is pending is lost as long as it is readable in one of its two places.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain, groupby, pairwise, zip_longest

from edgedepot.storage.clock import MINUTE
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.acknowledge import count_pending
from edgedepot.storage.sqlite.books import RESOLVED, Books
from edgedepot.storage.sqlite.draft import Draft
from edgedepot.storage.sqlite.ranges import LAST
from edgedepot.storage.sqlite.report import UNCOUNTED, lost_of
from edgedepot.storage.sqlite.shape import Base, Folded, Piece, Shape, write_shape
from edgedepot.storage.sqlite.tables import create_piece, value_columns
from edgedepot.storage.sqlite.walk import END, NEVER, START, count_owed
from edgedepot.storage.sqlite.withheld import THINNED, Stretch, withhold


class Numbers:
    """Makes the journal out of `_journal`, `_held` and history, and settles the books."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._new = draft.new
        self._books = self._load_books()
        self._top = self._last_number()
        # Not where nobody would know any more what was thinned, and nothing else is missing.
        self._fills = "_withheld" not in draft.damaged or "journal" in draft.damaged

    def settle(self) -> None:
        """All of it."""
        new, shape = self._new, self._draft.shape
        self._note_gaps()
        shape.pieces = self._made_up_pieces() if self._draft.old_shape is None else self._old_pieces()
        if self._fills and shape.pieces:
            self._fill_from_history(shape.pieces[0].first)
        for piece in shape.pieces:
            self._make(piece)
        self._draft.kept += new.execute("SELECT count(*) FROM main._held").fetchone()[0]
        new.execute("DROP TABLE main._journal")
        new.execute("DROP TABLE main._held")
        for piece in shape.pieces:
            new.execute(f"INSERT INTO main._pieces (id, live) SELECT ?, count(series) FROM {piece.table}", (piece.id,))
        shape.pieces.append(Piece(self._next_id(), self._top + 1, self._draft.width))
        create_piece(new, shape.pieces[-1])
        shape.folded = Folded(self._top, self._top)
        self._balance()
        self._withhold_what_is_forgotten()
        new.execute(f"UPDATE main._withheld SET every = 0 WHERE every = {THINNED}")  # some of a minute may be lost
        self._books.write_snapshot(new, self._top)
        found = schema.number(new, "store_epoch") or 1
        schema.raise_epoch(new, max(self._draft.sidecar.store_epoch, found) + 1, self._top + 1)
        write_shape(new, shape)

    def note_unknown(self) -> None:
        """Where no record is left of what there was: each number that was given out may have been a reading."""
        draft = self._draft
        if draft.kept:
            lost = self._top - draft.kept
            draft.notes.append(f"how many readings are lost is not known, at most {max(0, lost)}")
        elif self._top:
            draft.numbers = [(1, self._top)]
        draft.notes.append(UNCOUNTED)

    # -- numbers --------------------------------------------------------------------------------------------------

    def _last_number(self) -> int:
        draft = self._draft
        numbers = [draft.sidecar.seq, max(draft.book_rows, default=0)]
        tables = ["_journal", "_held", *(table for _, _, table in draft.partitions())]
        numbers += [self._new.execute(f"SELECT max(seq) FROM main.{table}").fetchone()[0] or 0 for table in tables]
        numbers += [high for book in self._books.cursors.values() for _, high in book.acknowledged]
        if draft.old_shape and draft.old_shape.pieces:
            numbers.append(draft.old_shape.pieces[-1].first - 1)
        return max(numbers)

    def _note_gaps(self) -> None:
        """The numbers of the journal that history has not, and of which nothing is there, where something may be
        lost."""
        draft, old = self._draft, self._draft.old_shape
        low = old.folded.low if old else draft.sidecar.seq
        known = self._found_between(low + 1, self._top)
        last = known[-1] if known else low
        if "journal" in draft.damaged:
            for piece in old.pieces if old else []:
                if piece.aside and piece.first <= low:
                    draft.numbers += self._gaps(piece.first - 1, min(old.last_of(piece), low) + 1 if old else low)
            draft.numbers += self._gaps(low, self._top + 1)
        elif draft.sidecar.seq > last:
            draft.numbers.append((last + 1, self._top))
        if old and old.pieces and old.pieces[-1].table in draft.damaged:
            draft.notes.append(f"how many readings came after row {self._top} is not known")

    def _gaps(self, before: int, behind: int) -> list[tuple[int, int]]:
        there = [before, *self._found_between(before + 1, behind - 1), behind]
        return [(one + 1, other - 1) for one, other in pairwise(there) if other > one + 1]

    def _found_between(self, first: int, last: int) -> list[int]:
        """The numbers of the journal's rows that were found, in order."""
        query = "SELECT seq FROM main._journal WHERE seq BETWEEN :first AND :last"
        query += " UNION SELECT seq FROM main._held WHERE seq BETWEEN :first AND :last"
        found = self._new.execute(query, {"first": first, "last": last})
        return sorted({*chain.from_iterable(found), *(seq for seq in self._draft.book_rows if first <= seq <= last)})

    # -- the journal ----------------------------------------------------------------------------------------------

    def _old_pieces(self) -> list[Piece]:
        """As the old journal had them; rows whose time is known by now need no time base. Where pieces were dropped
        from between others their numbers are left out, unless history fills that in."""
        draft, pieces = self._draft, list[Piece]()
        known = list[Piece]()
        for old in draft.old_shape.pieces if draft.old_shape else []:
            if old.first <= self._top and (not known or (old.id > known[-1].id and old.first > known[-1].first)):
                known.append(old)
        for old, after in zip_longest(known, known[1:]):
            base = draft.old_base(old)
            is_held = base is not None and base.offset is None
            behind = self._top + 1 if after is None else after.first
            last = self._last_held(old, behind) if is_held else 0
            number = len(pieces) + 1 if self._fills else old.id
            pieces.append(Piece(number, old.first, draft.width, old.base if is_held else 0, is_held, last))
            if is_held and self._fills and last + 1 < behind:
                pieces.append(Piece(len(pieces) + 1, last + 1, draft.width))
            if base is not None and is_held and base not in draft.shape.bases:
                draft.shape.bases.append(base)
        return pieces

    def _last_held(self, old: Piece, behind: int) -> int:
        """The last number of a piece whose rows are held: `behind` it is the next that is left."""
        query = "SELECT max(seq) FROM main._held WHERE seq >= ? AND seq < ?"
        (found,) = self._new.execute(query, (old.first, behind)).fetchone()
        return max(old.last or behind - 1, found or 0)

    def _made_up_pieces(self) -> list[Piece]:
        """Where nobody knows the old ones: from the first row on that somebody is owed. Stretches of rows that are held
        each have a time base of their own."""
        held = [seq for (seq,) in self._new.execute("SELECT seq FROM main._held ORDER BY seq")]
        gaps = [book.acknowledged.first_gap() for book in self._books.cursors.values()]
        first = min([*gaps, *held[:1], self._top + 1])
        others = self._numbers_between(held[0], held[-1]) if held else []
        pieces = list[Piece]()
        for _, group in groupby(held, key=lambda seq: bisect_left(others, seq)):
            stretch = list(group)
            if first < stretch[0]:
                pieces.append(Piece(len(pieces) + 1, first, self._draft.width))
            base = Base(len(self._draft.shape.bases) + 1, f"salvaged {stretch[0]}", 0)
            self._draft.shape.bases.append(base)
            pieces.append(Piece(len(pieces) + 1, stretch[0], self._draft.width, base.id, aside=True))
            first = stretch[-1] + 1
        if first <= self._top:
            pieces.append(Piece(len(pieces) + 1, first, self._draft.width))
        return pieces

    def _numbers_between(self, low: int, high: int) -> list[int]:
        """Of readings whose time is known, in order."""
        tables = ["_journal", *(table for _, _, table in self._draft.partitions())]
        query = "SELECT seq FROM main.{} WHERE seq BETWEEN ? AND ?"
        return sorted({seq for table in tables for (seq,) in self._new.execute(query.format(table), (low, high))})

    def _next_id(self) -> int:
        """Of the piece that gets what comes in from now on."""
        pieces, old = self._draft.shape.pieces, self._draft.old_shape
        last = pieces[-1].id if pieces else 0
        if self._fills or old is None or not old.pieces or old.pieces[-1].first <= self._top:
            return last + 1
        return max(last + 1, old.pieces[-1].id)

    def _make(self, piece: Piece) -> None:
        create_piece(self._new, piece)
        names = ", ".join([*self._draft.columns, *(["received"] if piece.base else [])])
        source = "_held" if piece.base else "_journal"
        self._new.execute(
            f"INSERT INTO main.{piece.table} ({names}) SELECT {names} FROM main.{source} WHERE seq BETWEEN ? AND ?",
            (piece.first, min(self._draft.shape.last_of(piece), self._top)),
        )

    def _fill_from_history(self, first: int) -> None:
        """Put into `_journal` what it lacks, of the rows from a number on. What was thinned stays so: of a minute of
        that only the last row comes back."""
        new = self._new
        values = ", ".join(self._draft.columns[1:])
        new.execute(f"CREATE TABLE main._filled (seq INTEGER PRIMARY KEY, {values})")
        for layout, _, table in self._draft.partitions():
            names = ", ".join(("seq", "series", "ts", "quality", *value_columns(layout)))
            new.execute(
                f"INSERT OR IGNORE INTO main._filled ({names}) SELECT {names} FROM main.{table} WHERE seq >= ?",
                (first,),
            )
        for book in self._books.cursors.values():
            for low, high in book.acknowledged.gaps(first, self._top):
                self._leave_thinned_out(book.id, low, high)
        new.execute("INSERT OR IGNORE INTO main._journal SELECT * FROM main._filled")
        new.execute("DROP TABLE main._filled")

    def _leave_thinned_out(self, cursor: int, low: int, high: int) -> None:
        thinned = (
            "SELECT t.seq, t.series, t.ts FROM main._filled AS t JOIN main._withheld AS w ON w.series = t.series"
            " AND t.ts >= w.start AND t.ts < w.stop AND t.seq BETWEEN w.low AND w.high"
            " WHERE w.cursor = :cursor AND t.seq BETWEEN :low AND :high"
        )
        minute = f"ts - ((ts % {MINUTE}) + {MINUTE}) % {MINUTE}"
        lasts = f"SELECT seq FROM (SELECT seq, max(ts) FROM ({thinned}) GROUP BY series, {minute})"
        self._new.execute(
            f"DELETE FROM main._filled WHERE seq IN (SELECT seq FROM ({thinned})) AND seq NOT IN ({lasts})",
            {"cursor": cursor, "low": low, "high": high},
        )

    def _withhold_what_is_forgotten(self) -> None:
        """Where it is lost what upstreams did not get on purpose, they are sent nothing again of what was before."""
        draft = self._draft
        if "_withheld" not in draft.damaged:
            return
        for name, book in sorted(self._books.cursors.items()):
            counts = dict(zip(RESOLVED, book.counts, strict=True))
            if any(counts[why] for why in ("skipped", "deleted", "thinned", "evicted")):
                for series in draft.models:
                    withhold(self._new, book.id, Stretch(series, NEVER, LAST, 0, self._top))
                draft.notes.append(f"what {name} was not sent on purpose is forgotten: it is sent nothing again")

    # -- the books ------------------------------------------------------------------------------------------------

    def _load_books(self) -> Books:
        """The totals, with the book rows since that can be read."""
        new, rows = self._new, self._draft.book_rows
        since = schema.number(new, "books_seq")
        if since is None:
            since = max(rows, default=0)
            schema.set_meta(new, "books_seq", since)
        piece = Piece(1, 1, 1)
        create_piece(new, piece)
        new.executemany(
            f"INSERT INTO main.{piece.table} (seq, c0) VALUES (?, ?)",
            [(seq, text) for seq, text in rows.items() if seq > since],
        )
        books = Books.load(new, Shape(pieces=[piece]))
        new.execute(f"DROP TABLE main.{piece.table}")
        new.executemany(
            "INSERT OR IGNORE INTO main._sources (id, name) VALUES (?, ?)",
            [(source, f"source {source}") for source in books.sources],
        )
        return books

    def _balance(self) -> None:
        """Count as lost what the books know of and nobody has. Where there is more than they know of, a book was lost:
        count that as taken in, by nobody knows whom."""
        new, draft, books = self._new, self._draft, self._books
        aside = dict(new.execute("SELECT cursor, count(*) FROM main._quarantined WHERE replay = 0 GROUP BY cursor"))
        differences = {}
        for name, book in books.cursors.items():
            if book.walk.place != END:
                if draft.old_shape is None:
                    book.walk.place = START  # partitions may begin elsewhere now: rather twice than not at all
                book.walk.left = count_owed(new, draft.shape, draft.layouts, book.walk, END, book.since)
            book.counts[RESOLVED.index("quarantined")] = aside.get(book.id, 0)
            accounted = count_pending(new, draft.shape, book) + sum(book.counts)
            differences[name] = books.versions() - book.versions_before - accounted
        extra = max([0, *(-difference for difference in differences.values())])
        if extra:
            new.execute(
                "INSERT OR IGNORE INTO main._sources (id, name)"
                " SELECT coalesce(max(id), 0) + 1, 'salvaged' FROM main._sources"
            )
            source = new.execute("SELECT id FROM main._sources WHERE name = 'salvaged'").fetchone()[0]
            books.count(source, readings=extra, new=extra)
            books.committed()
        for name, difference in differences.items():
            self._count_lost(name, difference + extra)

    def _count_lost(self, name: str, count: int) -> None:
        """Of what an upstream was still to be sent; it may be more than is known by place."""
        draft = self._draft
        self._books.cursors[name].counts[RESOLVED.index("lost")] += count
        draft.unplaced = max(draft.unplaced, count - lost_of(draft.spans, draft.numbers))
