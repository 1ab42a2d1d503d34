"""What waits to be written, in the order in which it came, and when that is to be committed."""

from __future__ import annotations

from edgedepot.storage.clock import Clock
from edgedepot.storage.sqlite.items import Item, Task
from edgedepot.storage.sqlite.pace import Pace


class Queue:
    """Used with the writer's condition held, but for `items`, of which a slice may be taken without."""

    def __init__(self, clock: Clock, pace: Pace) -> None:
        self.items: list[Item] = []
        self.rows = 0
        self.size = 0
        """About how many bytes of memory they take."""
        self._clock = clock
        self._pace = pace
        self._flush_at = 0.0
        self._commit_took = 0.0

    def __bool__(self) -> bool:
        return bool(self.items)

    def add(self, item: Item) -> bool:
        """Queue an item; whether that is news for the writer: the first one, or that there are enough for a commit."""
        self.items.append(item)
        self.rows += item.weight
        self.size += item.size
        if len(self.items) == 1:
            self._flush_at = self._flush_after(self._clock.monotonic())
            return True
        return self.is_enough

    def drop(self, count: int) -> None:
        """The first so many are done with."""
        self.rows -= sum(item.weight for item in self.items[:count])
        self.size -= sum(item.size for item in self.items[:count])
        del self.items[:count]

    @property
    def is_enough(self) -> bool:
        """Whether there is enough to commit it at once."""
        return self.rows >= self._pace.commit_rows or self.size >= self._pace.commit_size

    @property
    def is_full(self) -> bool:
        """Whether no more readings are taken in."""
        return self.rows >= self._pace.queue_rows or self.size >= self._pace.queue_size

    def __str__(self) -> str:
        return f"{self.rows} rows wait to be written, {self.size / 1e6:.0f} MB in memory"

    @property
    def due_at(self) -> float | None:
        """When to commit, None while nothing waits."""
        return self._flush_at if self.items else None

    @property
    def is_due(self) -> bool:
        return self.is_enough or (bool(self.items) and self._clock.monotonic() >= self._flush_at)

    def committed_since(self, began_at: float) -> None:
        """A commit that began then is done; what is left came meanwhile."""
        self._commit_took = self._clock.monotonic() - began_at
        self._flush_at = self._flush_after(began_at)

    def _flush_after(self, moment: float) -> float:
        """When to begin the commit of what came at that moment: so early that it is done within the flush interval,
        for only that long a reading may be unsafe. The commit before tells how long one takes, within bounds."""
        interval = self._pace.flush_interval
        return moment + interval - min(2 * self._commit_took, interval / 4)

    def deletions(self) -> list[Task]:
        """The items that free room, and may be done out of turn."""
        return [item for item in self.items if isinstance(item, Task) and item.frees_room]
