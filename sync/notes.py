"""What was spent of a day's bytes, as the store keeps it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from edgedepot.storage.clock import HOUR
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.receipt import Receipt

NO_DAY = -1
"""In place of a day's start: while nobody knows the time. Those bytes are of the day that it turns out to be."""
_SHORTEST = 22 * HOUR
"""Microseconds: no day is shorter, also where clocks go forward."""
AT_WORK = 90_000_000
"""Microseconds for which who goes beside is taken to go on, since its latest note."""


class Notes(Protocol):
    """What keeps notes: the local store, see `Buffer`."""

    def remember(self, key: str, text: str) -> Receipt | None: ...
    def recall(self, key: str) -> str | None: ...


def counts_in(one: int, day: int) -> bool:
    """Whether what was spent in one day counts in another: in the same one; in one of another zone that overlaps it, as
    nobody knows when in it that was; and where nobody knew the day."""
    return one == NO_DAY or abs(one - day) < _SHORTEST


def beside(name: str) -> str:
    """The key of the note of what goes to an upstream beside its worker."""
    return f"spent {name} beside"


class Spent(NamedTuple):
    """A day, by its start in microseconds since 1970 UTC, and the bytes that were sent and received in it."""

    day: int
    total: int


class Note(NamedTuple):
    """What is kept in the store: days, the latest last, and when that was written, in microseconds since 1970 UTC."""

    days: dict[int, int]
    at: int

    @classmethod
    def of(cls, text: str | None) -> Note:
        """Raises `InvalidValue` for what is none."""
        if text is None:
            return cls({}, 0)
        try:
            return _notes.decode(text)
        except ValueError as exc:
            raise InvalidValue(f"a note of what was spent: {exc}") from exc

    def is_at_work(self, now: int) -> bool:
        """Whether who wrote it may go on to send, at a time in microseconds since 1970 UTC."""
        return 0 <= now - self.at < AT_WORK

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()


_notes = msgspec.json.Decoder(Note)
