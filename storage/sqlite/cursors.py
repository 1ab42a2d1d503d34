"""How far each upstream is, in memory: what it acknowledged, its lanes, what it has in hand. See `Buffer`.

The file follows with the next commit; what a crash forgets of it is sent once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from edgedepot.storage.buffer import EVERYTHING, Choice, Lane, Pending, Window
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.sqlite.books import Books, CursorBook
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.ranges import LAST, Ranges
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.walk import END, NEVER, Place, count_owed

MOST_RANGES = 500
"""A cursor that has acknowledged so many ranges is split again only when its backlog has closed a gap: the file has
them all, about 20 bytes each. On a link that stays too small its live lane lags behind the more, the longer that lasts:
by a minute or two after a day."""


class Position(msgspec.Struct):
    """Where a cursor is. `split` is the last row of its backlog, None while it has one lane. `numbers`, `place` and
    `since` are those of its walk and book, which had `walking` rows before it; `replays` says that quarantined rows
    wait to be sent once more, of which `replaying` were handed out and `replayed` are acknowledged. Windows up to row
    `renewed` may be from before a salvage, and have rows that the file has it go through again."""

    acknowledged: Ranges
    numbers: str
    place: Place
    since: int
    walking: int
    split: int | None = None
    choice: Choice = EVERYTHING
    replays: bool = False
    replaying: frozenset[int] = frozenset()
    replayed: frozenset[int] = frozenset()
    renewed: int = 0
    set_aside: list[tuple[Pending, str]] = msgspec.field(default_factory=list)
    in_hand: dict[Lane, Window] = msgspec.field(default_factory=dict)

    def gap(self, lane: Lane, last: int, holes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """The first rows of a lane, up to row `last`, that are neither acknowledged nor in a hole."""
        return self._passed(holes).gap(*self._bounds(lane, last))

    def waiting(self, lane: Lane, last: int, holes: Sequence[tuple[int, int]]) -> int:
        """How many row numbers of a lane are neither acknowledged nor in a hole, and what is left to walk."""
        walking = self.walking if lane == "backlog" and self.place != END else 0
        return walking + self._passed(holes).missing(*self._bounds(lane, last))

    def _passed(self, holes: Sequence[tuple[int, int]]) -> Ranges:
        passed = self.acknowledged.copy() if holes else self.acknowledged
        for hole in holes:
            passed.add(*hole)
        return passed

    def _bounds(self, lane: Lane, last: int) -> tuple[int, int]:
        if lane == "backlog":
            return 1, last if self.split is None else min(self.split, last)
        return LAST if self.split is None else self.split + 1, last

    def behind(self, window: Window) -> Position:
        """As it will be when a window is resolved."""
        later = replace(self)
        later.passed(window)
        return later

    def passed(self, window: Window) -> None:
        """A window is resolved."""
        self.in_hand = {lane: held for lane, held in self.in_hand.items() if _beginning(held) != _beginning(window)}
        self.set_aside = []
        if window.place is not None:
            self.place = window.place
            self.walking = max(0, self.walking - len(window.rows) - window.skipped)
        elif window.replayed:
            numbers = {row.seq for row in window.rows}
            self.replaying, self.replayed = self.replaying - numbers, self.replayed | numbers
        else:
            acknowledged = self.acknowledged.copy()  # not changed in place: other threads may be counting
            acknowledged.add(window.low, window.high)
            self.acknowledged = acknowledged
            if self.split is not None and self.place == END and self.acknowledged.first_gap() > self.split:
                self.split = None


class Cursors:
    """The cursors of one store. Thread-safe; one worker at a time uses a cursor."""

    def __init__(self, books: Books, replays: set[int]) -> None:
        """`replays` are the ids of the cursors that have quarantined rows to send once more."""
        self._lock = threading.Lock()
        self.hands = threading.RLock()  # who holds it sees all windows that are out, and none goes out
        self._positions: dict[str, Position] = {}
        for book in books.cursors.values():
            self.added(book, EVERYTHING, book.id in replays)

    def added(self, book: CursorBook, choice: Choice, replays: bool = False) -> None:
        """The file has this cursor; from now on it gets what the choice takes."""
        with self._lock:
            if book.name in self._positions:
                self._positions[book.name].choice = choice
                return
            self._positions[book.name] = _position_of(book, choice, replays)

    def lost(self, books: Books) -> dict[str, Position]:
        """Those that the file has no more, after a salvage."""
        with self._lock:
            return {name: mine for name, mine in self._positions.items() if name not in books.cursors}

    def renew(self, books: Books, replays: set[int], last: int) -> None:
        """The file is another, with all of these cursors, and row `last`: from now on they are where it says. What it
        does not know to be acknowledged is sent once more; windows that are out may still be acknowledged."""
        with self._lock:
            self._positions = {
                name: _position_of(book, self.choice(name), book.id in replays, last)
                for name, book in books.cursors.items()
            }

    def removed(self, name: str) -> None:
        """The file has this cursor no more."""
        with self._lock:
            self._positions.pop(name, None)

    def position(self, name: str) -> Position:
        """Where a cursor is. Raises `InvalidValue` where there is none of that name."""
        with self._lock:
            if name not in self._positions:
                raise InvalidValue(f"there is no cursor {name!r}; there are {sorted(self._positions)}")
            return self._positions[name]

    def hold_hands(self) -> Callable[[], None]:
        """Have no window go out; returns what ends that."""
        self.hands.acquire()
        return self.hands.release

    def choice(self, name: str) -> Choice:
        """What a cursor gets, as far as it said so."""
        position = self._positions.get(name)
        return EVERYTHING if position is None else position.choice

    def has_none(self, name: str, low: int, high: int) -> bool:
        """Whether a cursor has none of the rows ``low..high``: none acknowledged, none in hand."""
        position = self._positions.get(name)
        if position is None or position.acknowledged.gaps(low, high) != [(low, high)]:
            return False
        return not any(window.low <= high and window.high >= low for window in position.in_hand.values())

    def split(self, name: str, last: int) -> None:
        """Have the rows up to `last` be backlog, where they are not acknowledged and not in too many ranges already."""
        position = self.position(name)
        is_behind = position.place != END or position.acknowledged.first_gap() <= last
        if is_behind and len(position.acknowledged) < MOST_RANGES:
            position.split = last

    def bring_up(self, book: CursorBook, view: View, layouts: dict[int, Layout]) -> frozenset[int]:
        """Have a book as it was committed say what is acknowledged by now; which rows that were sent once more are."""
        position = self.position(book.name)
        for low, high in position.acknowledged:
            book.acknowledged.add(low, high)
        if position.place > book.walk.place and book.walk.left:
            walked = count_owed(view.connection, view.shape, layouts, book.walk, position.place, book.since)
            book.walk.left -= walked
        return position.replayed

    def set_aside(self, name: str, rows: Sequence[Pending], reason: str) -> None:
        self.position(name).set_aside += [(row, reason) for row in rows]

    def acknowledge(self, name: str, window: Window) -> tuple[Choice, list[tuple[Pending, str]]] | None:
        """Move past a window, as the record of it is on its way: what the cursor chose, and what was set aside. None
        for a window of history as it was before a salvage: its place may be another now, and it is read again.
        Raises `InvalidValue` for a window that is no gap."""
        position = self.position(name)
        places = [held.place for held in position.in_hand.values()]  # its rows may be averages of those in hand
        if position.renewed and window.place is not None and window.place not in places:
            return None
        span = (window.low, window.high)
        if window.low > position.renewed and position.acknowledged.gaps(*span) != [span]:
            raise InvalidValue(f"cursor {name!r} has acknowledged some of {window.low} to {window.high} before")
        aside = position.set_aside
        position.passed(window)
        return position.choice, aside


def _beginning(window: Window) -> tuple[int, bool, bool]:
    """By which it is known, also where it came back shorter, or with averages of its rows."""
    return window.low, window.place is not None, window.replayed


def _position_of(book: CursorBook, choice: Choice, replays: bool, renewed: int = 0) -> Position:
    acknowledged = book.acknowledged.copy()
    # Several ranges are lanes that a restart interrupted: the live one goes on behind the last. Not so where history
    # has what lies between.
    spans = [span for span in acknowledged if span not in book.walk.gone]
    split = spans[-1][0] - 1 if spans and acknowledged.first_gap() <= spans[-1][1] else None
    return Position(
        acknowledged,
        book.walk.numbers(),
        book.walk.place if book.walk.left else END,
        NEVER if book.since is None else book.since,
        book.walk.left,
        split,
        choice,
        replays,
        renewed=renewed,
    )
