"""A link that carries less than comes in, for a whole day: what is delivered stays a list of few ranges."""

from __future__ import annotations

from edgedepot.storage.buffer import Lane, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.sqlite.books import RESOLVED, Books, CursorBook
from edgedepot.storage.sqlite.cursors import MOST_RANGES, Cursors
from edgedepot.storage.sqlite.ranges import Ranges
from edgedepot.storage.sqlite.walk import END, Walk
from edgedepot.sync.lanes import ROUND, Lanes

DAY = 86_400
CARRIED, COMING = 200, 300
"""Rows a second."""
LASTS = 10
"""Seconds that a window takes."""


class Numbers:
    """The row numbers of a store, and how far its one upstream is, as the local store keeps that in memory."""

    def __init__(self) -> None:
        books = Books()
        books.new_cursor(CursorBook(1, "central", 0, None, Ranges(), Walk(1, END, 0), [0] * len(RESOLVED)))
        self.cursors = Cursors(books, set())
        self.position = self.cursors.position("central")
        self.last = 0

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        gap = self.position.gap(lane, self.last, ())
        return None if gap is None else Window(gap[0], min(gap[1], gap[0] + limit - 1), [])

    def split(self, cursor: str) -> None:
        self.cursors.split(cursor, self.last)

    def is_split(self, cursor: str) -> bool:
        return self.position.split is not None

    def waiting(self, cursor: str, lane: Lane) -> int:
        return self.position.waiting(lane, self.last, ())


def test_what_is_delivered_stays_few_ranges_and_the_newest_rows_lag_by_minutes_at_most() -> None:
    numbers, clock = Numbers(), ManualClock()
    lanes = Lanes(numbers, "central", clock)
    backlog, lags, ranges, newest = list[int](), list[float](), list[int](), 0
    for _ in range(DAY // LASTS):
        clock.advance(LASTS)
        numbers.last += COMING * LASTS
        taken = lanes.next(CARRIED * LASTS)
        assert taken is not None
        lane, window = taken
        lanes.sending(lane, window)
        numbers.cursors.acknowledge("central", window)
        lanes.taken(lane, window)
        backlog += [window.low] if lane == "backlog" else []
        newest = max(newest, window.high)
        lags.append((numbers.last - newest) / COMING)
        ranges.append(len(numbers.position.acknowledged))
    assert max(ranges) == MOST_RANGES
    assert max(lags[: 3600 // LASTS]) <= 2 * LASTS  # the first hour: a window on its way, and one before it
    assert max(lags) <= 180
    assert backlog == sorted(backlog)
    assert len(backlog) >= DAY // LASTS // ROUND
