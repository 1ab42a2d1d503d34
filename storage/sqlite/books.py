"""The books: counts that change in the same transaction as the rows they speak of.

They ride in the journal: the last row of each commit bears what the commit changes, as JSON. So a commit touches no
page but the journal's last. The fold writes the totals down now and then (a snapshot; ``books_seq`` says up to which
row), and opening adds the rows since.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import msgspec

from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.ranges import Ranges
from edgedepot.storage.sqlite.records import BadRecord, Difference, Number, decoded, read_records
from edgedepot.storage.sqlite.shape import Shape
from edgedepot.storage.sqlite.walk import Place, Walk

COLUMNS = (
    "messages", "decoded", "ignored", "rejected", "readings", "new", "merged", "duplicates", "rejected_readings",
    "rejected_fields", "replaced", "late",
)  # fmt: skip
RESOLVED = ("delivered", "quarantined", "superseded", "skipped", "deleted", "thinned", "evicted", "lost")
"""What became of the rows that an upstream is not owed any more."""


class _CursorChange(msgspec.Struct, array_like=True):
    acknowledged: list[tuple[Number, Number]]
    counts: list[Difference]
    place: Place | None = None
    walked: Difference = 0


class _Change(msgspec.Struct, rename={"sources": "s", "cursors": "c"}, omit_defaults=True):
    """What one commit changes, by the ids of sources and cursors."""

    sources: dict[int, list[Difference]] = {}
    cursors: dict[int, _CursorChange] = {}


_encode = msgspec.json.Encoder().encode
_change = msgspec.json.Decoder(_Change)
_spans = msgspec.json.Decoder(list[tuple[Number, Number]])
_walk = msgspec.json.Decoder(Walk)


def _trimmed(counts: list[int]) -> list[int]:
    """Without the zeros at the end: a book row comes with every commit."""
    last = max((place for place, count in enumerate(counts) if count), default=-1)
    return counts[: last + 1]


def _sum(counts: list[int], more: list[int]) -> list[int]:
    return [a + b for a, b in zip_longest(counts, more, fillvalue=0)]


class CursorBook:
    """One upstream: what it has acknowledged, how that ended, and how many versions there were before it came."""

    __slots__ = ("acknowledged", "counts", "id", "name", "since", "versions_before", "walk")

    def __init__(
        self,
        cursor_id: int,
        name: str,
        versions_before: int,
        since: int | None,
        acknowledged: Ranges,
        walk: Walk,
        counts: list[int],
    ) -> None:
        self.id = cursor_id
        self.name = name
        self.versions_before = versions_before
        self.since = since
        self.acknowledged = acknowledged
        self.counts = counts
        self.walk = walk

    def copy(self) -> CursorBook:
        walk = Walk(self.walk.before, self.walk.place, self.walk.left, self.walk.gone)
        acknowledged = self.acknowledged.copy()
        return CursorBook(self.id, self.name, self.versions_before, self.since, acknowledged, walk, self.counts[:])

    def awaits(self, seq: int, place: Place | None) -> bool:
        """Whether it is still owed a row; `place` is where that lies in history, None where it does not."""
        if self.walk.takes(seq):
            return place is not None and place > self.walk.place and (self.since is None or place[3] >= self.since)
        return seq not in self.acknowledged


class Books:
    """All counts as of the last commit, and what the open transaction adds. For the writer's thread, or one reader."""

    def __init__(self) -> None:
        self.sources: dict[int, list[int]] = {}
        self.cursors: dict[str, CursorBook] = {}
        self._change = _Change({}, {})
        self._before: dict[str, CursorBook] = {}
        self._new: list[str] = []

    @classmethod
    def load(cls, connection: sqlite3.Connection, shape: Shape) -> Books:
        """The snapshot, and the book rows since."""
        self = cls()
        for source, *counts in read_records(connection, "_books", ("source", *COLUMNS)):
            self.sources[source] = counts
        for row in read_records(connection, "_cursors", _CURSOR):
            book = _cursor_of(row)
            self.cursors[book.name] = book
        for _, change in _changes_since_snapshot(connection, shape):
            self._apply(change)
        return self

    def _apply(self, change: _Change) -> None:
        for source, counts in change.sources.items():
            mine = self.sources.setdefault(source, [0] * len(COLUMNS))
            self.sources[source] = _sum(mine, counts)
        by_id = {book.id: book for book in self.cursors.values()}
        for cursor_id, moved in change.cursors.items():
            if cursor_id not in by_id:
                continue  # removed since
            book = by_id[cursor_id]
            for low, high in moved.acknowledged:
                book.acknowledged.add(low, high)
            book.counts = _sum(book.counts, moved.counts)
            book.walk.place = moved.place or book.walk.place
            book.walk.left -= moved.walked

    # -- the writer's transaction ---------------------------------------------------------------------------------

    def count(self, source: int, **counts: int) -> None:
        """Add to a source's counts."""
        mine = self._change.sources.get(source)
        if mine is None:
            mine = self._change.sources[source] = [0] * len(COLUMNS)
        for name, number in counts.items():
            mine[_PLACE[name]] += number

    def new_cursor(self, book: CursorBook) -> None:
        """A cursor that the open transaction has written down."""
        self.cursors[book.name] = book
        self._new.append(book.name)

    def remove_cursor(self, name: str) -> None:
        """The open transaction forgets a cursor."""
        book = self.cursors.pop(name)
        self._before.setdefault(name, book)
        self._change.cursors.pop(book.id, None)

    def settle(self, name: str, **counts: int) -> None:
        """Add to what became of a cursor's rows, where it moves past none."""
        self._add(name, self._touch(name), counts)

    def resolve(self, name: str, low: int, high: int, **counts: int) -> None:
        """A cursor has acknowledged ``low..high``; what became of the rows in it."""
        change = self._touch(name)
        change.acknowledged.append((low, high))
        self.cursors[name].acknowledged.add(low, high)
        self._add(name, change, counts)

    def walk_on(self, name: str, place: Place, walked: int, **counts: int) -> None:
        """A cursor has acknowledged `walked` rows of history, up to a place."""
        change = self._touch(name)
        change.place = self.cursors[name].walk.place = place
        self._walked(name, change, walked)
        self._add(name, change, counts)

    def walk_less(self, name: str, rows: int, **counts: int) -> None:
        """So many rows that a cursor was still owed from history are gone, wherever they lay."""
        change = self._touch(name)
        self._walked(name, change, rows)
        self._add(name, change, counts)

    def out_of_the_way(self, seq: int, why: str, place: Place | None, *, in_journal: bool) -> None:
        """A row is gone: count it for the upstreams that are still owed it. `place` is where it was in history. One
        that the journal had no more is counted already, where it was not acknowledged."""
        for name, book in self.cursors.items():
            if (in_journal or book.walk.takes(seq)) and book.awaits(seq, place):
                change = self._touch(name)
                if book.walk.takes(seq):
                    self._walked(name, change, 1)
                self._add(name, change, {why: 1})

    def supersede_replayed(self, connection: sqlite3.Connection, seq: int) -> None:
        """A quarantined row that was to be sent once more has a newer version by now: it is not sent."""
        names = {book.id: name for name, book in self.cursors.items()}
        where = "FROM _quarantined WHERE seq = ? AND replay = 1"
        for (cursor,) in connection.execute(f"SELECT cursor {where}", (seq,)).fetchall():
            self.settle(names[cursor], superseded=1)
        connection.execute(f"DELETE {where}", (seq,))

    def _walked(self, name: str, change: _CursorChange, rows: int) -> None:
        change.walked += rows
        self.cursors[name].walk.left -= rows

    def _touch(self, name: str) -> _CursorChange:
        book = self.cursors[name]
        if name not in self._before:
            self._before[name] = book.copy()
        return self._change.cursors.setdefault(book.id, _CursorChange([], [0] * len(RESOLVED)))

    def _add(self, name: str, change: _CursorChange, counts: dict[str, int]) -> None:
        for column, number in counts.items():
            change.counts[RESOLVED.index(column)] += number
            self.cursors[name].counts[RESOLVED.index(column)] += number

    def ride(self) -> str | None:
        """The text of the commit's book row; None when the commit changes no count."""
        if not self._change.sources and not self._change.cursors:
            return None
        sources = {source: _trimmed(counts) for source, counts in self._change.sources.items()}
        cursors = {
            cursor: msgspec.structs.replace(moved, counts=_trimmed(moved.counts))
            for cursor, moved in self._change.cursors.items()
        }
        return _encode(_Change(sources, cursors)).decode()

    def committed(self) -> None:
        for source, counts in self._change.sources.items():
            mine = self.sources.setdefault(source, [0] * len(COLUMNS))
            self.sources[source] = _sum(mine, counts)
        self._change = _Change({}, {})
        self._before.clear()
        self._new.clear()

    def rolled_back(self) -> None:
        self.cursors.update(self._before)
        for name in self._new:
            self.cursors.pop(name, None)
        self._new.clear()
        self._change = _Change({}, {})
        self._before.clear()

    def versions(self) -> int:
        """How many versions were ever written, the open transaction's included."""
        counts = [*self.sources.values(), *self._change.sources.values()]
        return sum(mine[_PLACE["new"]] + mine[_PLACE["merged"]] for mine in counts)

    def write_snapshot(self, connection: sqlite3.Connection, seq: int) -> None:
        """Write the totals down, as of row `seq`, in a transaction that changes no count itself."""
        connection.executemany(
            f"INSERT OR REPLACE INTO _books (source, {', '.join(COLUMNS)}) VALUES (?{', ?' * len(COLUMNS)})",
            [(source, *counts) for source, counts in self.sources.items()],
        )
        for book in self.cursors.values():
            write_cursor(connection, book)
        schema.set_meta(connection, "books_seq", seq)


def _changes_since_snapshot(connection: sqlite3.Connection, shape: Shape) -> Iterator[tuple[int, _Change]]:
    """The book rows that the snapshot does not cover, each with its number."""
    since = schema.known_number(connection, "books_seq")
    for piece in shape.pieces_from(since + 1):
        query = f"SELECT seq, c0 FROM {piece.table} WHERE seq > ? AND series IS NULL ORDER BY seq"
        for seq, text in connection.execute(query, (since,)):
            if not isinstance(text, str):
                raise BadRecord(f"a record of the books is {text!r:.40}")
            yield seq, decoded(_change, text, "a record of the books")


def where_miscounted(
    connection: sqlite3.Connection, shape: Shape, source: int, whole: str, parts: Sequence[str]
) -> str:
    """Where a source's books do not say of `whole` what became of it, in words. Each commit's account is even."""

    def is_uneven(change: _Change) -> bool:
        counts = dict(zip(COLUMNS, change.sources.get(source, ()), strict=False))
        return counts.get(whole, 0) != sum(counts.get(part, 0) for part in parts)

    rows = [seq for seq, change in _changes_since_snapshot(connection, shape) if is_uneven(change)]
    if rows:
        return f"the difference lies in what was noted in rows {rows[0]} to {rows[-1]} of the journal"
    since = schema.known_number(connection, "books_seq")
    return f"the difference lies in what was written down before row {since + 1} of the journal"


def is_change(text: object) -> bool:
    """Whether that can be a book row's text."""
    try:
        return isinstance(text, str) and _change.decode(text) is not None
    except msgspec.MsgspecError:
        return False


def check_cursor(row: Sequence[Any]) -> None:
    """Raises `BadRecord` for a record of `_cursors` that cannot be read."""
    _cursor_of(row)


def _cursor_of(row: Sequence[Any]) -> CursorBook:
    cursor_id, name, before, since, text, walk, *counts = row
    spans = decoded(_spans, text, f"what {name} has acknowledged")
    if any(low > high for low, high in spans) or any(one[1] >= after[0] for one, after in pairwise(spans)):
        raise BadRecord(f"what {name} has acknowledged cannot be read: it is not in order")
    place = decoded(_walk, walk, f"how far {name} is")
    return CursorBook(cursor_id, name, before, since, Ranges(spans), place, counts)


def write_cursor(connection: sqlite3.Connection, book: CursorBook) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO _cursors (id, name, versions_before, since, acknowledged, walk, {', '.join(RESOLVED)})"
        f" VALUES (?, ?, ?, ?, ?, ?{', ?' * len(RESOLVED)})",
        (
            *(book.id, book.name, book.versions_before, book.since),
            *(_encode(list(book.acknowledged)).decode(), _encode(book.walk).decode()),
            *book.counts,
        ),
    )


_CURSOR = ("id", "name", "versions_before", "since", "acknowledged", "walk", *RESOLVED)
_PLACE = {name: place for place, name in enumerate(COLUMNS)}
