"""What is spent of the days' bytes, and what the store knows of that: it outlasts restarts, and is ahead of what goes.

spent        ------------------>|
reserved                        |------->|          the next request
noted        ------------------------------------>| before that goes out; after a crash so much counts as spent
"""

from __future__ import annotations

import logging

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import ReceiptTimeout
from edgedepot.sync.notes import AT_WORK, NO_DAY, Note, Notes, Spent, counts_in

_PATIENCE = 5.0
"""Seconds for a note to be committed. A device that is full may take none, and must be emptied all the same."""
_SAID_AGAIN = AT_WORK / 6e6
"""Seconds after which who goes beside notes again that it is at work: in a good minute, which an answer may take, that
must not become too old."""
_DAYS = 4
"""So many days are remembered: a clock that was wrong comes back to one of them."""
log = logging.getLogger(__name__)


class Spending:
    """Bytes by day. `notes` keeps them, None where nobody needs to know; of what goes `beside` the worker they also say
    that it is at work. For one thread; `today` is for any."""

    def __init__(self, notes: Notes | None, key: str, per_day: int | None, clock: Clock, beside: bool = False) -> None:
        self._notes = notes
        self._key = key
        self._per_day = per_day
        self._beside = beside
        self._clock = clock
        self._days: dict[int, int] = {}  # without today, the latest last
        self.today = self._noted = Spent(NO_DAY, 0)
        self._noted_at = clock.monotonic()
        self._since_noted = 0
        self._ahead = 0
        self._is_loaded = False

    def load(self) -> None:
        """Go on from what was noted, where that was not done before."""
        if not self._is_loaded and self._notes is not None and self._per_day is not None:
            self._days = Note.of(self._notes.recall(self._key)).days
            day = next(reversed(self._days), NO_DAY)
            self.today = self._noted = Spent(day, self._days.pop(day, 0))
        self._is_loaded = True

    def begin(self) -> None:
        """Say at once that somebody is at work."""
        self.load()
        self._note(self.today.total, self._clock.now())

    def turn_to(self, day: int) -> None:
        """Another day has begun, or somebody knows which it is; or the clock was wrong, and it is one again that has
        something spent."""
        if day != self.today.day:
            self._days[self.today.day] = self.today.total
            moved = [one for one in self._days if counts_in(one, day)]
            self.today = Spent(day, sum(self._days.pop(one) for one in moved))

    def add(self, count: int) -> None:
        """So many bytes went."""
        self.today = Spent(self.today.day, self.today.total + count)
        self._since_noted += count

    def reserve(self, expected: int) -> bool:
        """Have the store know of more than is spent, of what goes out in a minute and a half, before it goes out: so it
        is written about once a minute at most, and by who goes beside about every 15 s. Whether it was."""
        now, wanted = self._clock.monotonic(), self.today.total + expected
        is_enough = self._per_day is None or wanted <= self._noted.total
        if self._beside:
            is_enough = is_enough and now - self._noted_at < _SAID_AGAIN
        if self._notes is None or (is_enough and self._noted.day == self.today.day):
            return False
        pace = self._since_noted / max(300.0, now - self._noted_at)
        self._ahead = max(round(90 * pace), (self._per_day or 0) // 288)
        self._noted_at, self._since_noted = now, 0
        self._note(min(self._per_day or wanted, wanted + self._ahead), self._clock.now())
        return True

    def give_back(self) -> None:
        """A request took much less than it might have: a crash is not to count that as spent."""
        is_noted = self._per_day is not None and self._noted.day == self.today.day
        if is_noted and self._noted.total - self.today.total > 2 * self._ahead:
            self._note(self.today.total + self._ahead, self._clock.now())

    def close(self) -> None:
        """Note what was spent, and no more."""
        if self._is_loaded:
            self._note(self.today.total, at=0)

    def _note(self, total: int, at: int) -> None:
        if self._notes is None:
            return
        self._noted = Spent(self.today.day, total)
        days = {**self._days, self.today.day: total}
        latest = {day: days[day] for day in list(days)[-_DAYS:] if days[day]}
        receipt = self._notes.remember(self._key, str(Note(latest, at)))
        if receipt is not None:
            try:
                receipt.wait(timeout=_PATIENCE)
            except ReceiptTimeout as exc:
                log.warning("what goes to an upstream cannot be noted, so a crash would forget it: %s", exc)
