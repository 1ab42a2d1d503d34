"""What one upstream is owed, as a pure model has it."""

from collections.abc import Iterable
from datetime import datetime

from edgedepot.storage.buffer import Choice
from tests.storage.sqlite.states import RESOLVED, Key, Values

Rows = dict[Key, tuple[int, Values]]
"""With the number of their arrival."""


class Upstream:
    """What one cursor is to come by, of the journal (`pending`) and of history (`walk`), and what became of the rest.
    What it does not take it passes over."""

    def __init__(self, start: str | datetime, choice: Choice, journal: Rows, history: Rows) -> None:
        self.since = start if isinstance(start, datetime) else None
        self.choice = choice
        self.pending: Rows = {} if start == "now" else journal
        self.walk: Rows = {} if start == "now" else {key: row for key, row in history.items() if self.is_young(key)}
        self.quarantined: dict[Key, list[tuple[int, Values]]] = {}
        self.replayed: Rows = {}
        self.split: int | None = None
        self.counts = dict.fromkeys(RESOLVED, 0)

    @property
    def left(self) -> int:
        """How many readings it has not acknowledged."""
        return len(self.pending) + len(self.walk) + len(self.replayed)

    def is_young(self, key: Key) -> bool:
        return self.since is None or key[1] >= self.since

    def takes(self, key: Key) -> bool:
        return self.is_young(key) and self.choice.takes(*key[0])

    def written(self, key: Key, old: int | None, row: tuple[int, Values]) -> None:
        if key in self.replayed and self.replayed[key][0] == old:
            del self.replayed[key]
            self.counts["superseded"] += 1
        self.out_of_the_way(key, "superseded")
        self.pending[key] = row

    def out_of_the_way(self, key: Key, why: str) -> None:
        """A newer version came, or the row was deleted."""
        there = self.pending.pop(key, None) or self.walk.pop(key, None)
        self.counts[why] += there is not None

    def passed(self, keys: Iterable[Key]) -> Rows:
        """It has acknowledged these; those that it takes."""
        taken: Rows = {}
        for key in keys:
            row = self.pending.pop(key, None) or self.walk.pop(key)
            if self.takes(key):
                taken[key] = row
            else:
                self.counts["skipped"] += 1
        return taken
