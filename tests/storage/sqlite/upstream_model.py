"""What one upstream is owed, as a pure model has it."""

from collections.abc import Collection
from datetime import datetime

from edgedepot.storage.base import EVERYTHING, Choice
from tests.storage.sqlite.states import RESOLVED, Key, Values


class Upstream:
    """What one cursor is owed, and what became of the rest. `skips` says that it passes over some rows; rows carry the
    number of their arrival."""

    def __init__(
        self, rows: dict[Key, tuple[int, Values]], held: Collection[int], start: str | datetime, choice: Choice
    ) -> None:
        self.since = start if isinstance(start, datetime) else None
        self.choice = choice
        self.skips = self.since is not None or choice != EVERYTHING
        owed = {} if start == "now" else rows
        self.pending = {key: row for key, row in owed.items() if self.is_owed(key, row[0] in held)}
        self.quarantined: dict[Key, list[tuple[int, Values]]] = {}
        self.replayed: dict[Key, tuple[int, Values]] = {}
        self.split: int | None = None
        self.counts = dict.fromkeys(RESOLVED, 0)

    def is_owed(self, key: Key, is_held: bool) -> bool:
        """Of a held reading nobody knows yet whether it is older than where the upstream starts."""
        is_late_enough = is_held or self.since is None or key[1] >= self.since
        return is_late_enough and self.choice.takes("weather", key[0])

    def written(self, key: Key, old: int | None, row: tuple[int, Values], is_held: bool) -> None:
        if key in self.replayed and self.replayed[key][0] == old:
            del self.replayed[key]
            self.counts["superseded"] += 1
        self.counts["superseded"] += self.pending.pop(key, None) is not None
        if self.is_owed(key, is_held):
            self.pending[key] = row

    def released(self, numbers: Collection[int]) -> None:
        """These readings have their times now."""
        self.pending = {
            key: row for key, row in self.pending.items() if row[0] not in numbers or self.is_owed(key, False)
        }
