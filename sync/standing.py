"""How an upstream stands, as its status and the log say it: whether readings go there, and what keeps them from it."""

from __future__ import annotations

import threading
from logging import getLogger
from typing import NamedTuple

from edgedepot.storage.clock import Clock
from edgedepot.sync.status import Limit, State

logger = getLogger("edgedepot.sync")

_LINGERS = 5.0
"""Seconds for which what held readings up is said once they go on: it holds them up again soon."""
_IN_TROUBLE: tuple[State, ...] = ("waiting", "misconfigured")


class Told(NamedTuple):
    """Of a `SyncStatus` what is of the same name."""

    state: State
    last_error: str | None
    retry_at: float | None
    faults: int
    alarm: str | None
    limited_by: Limit | None


class Standing:
    """What is noted of one upstream, and said of it. For any thread; does not block. Times are monotonic seconds."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._said: str | None = None  # the trouble that the log knows of
        self._state: State = "stopped"
        self._last_error: str | None = None
        self._alarm: str | None = None
        self._local_trouble: str | None = None
        self._retry_at: float | None = None
        self._faults = 0
        self._is_slow = False
        self._limit: Limit | None = None
        self._limit_until = -1.0

    def told(self, hangs: str | None, slowest: Limit | None) -> Told:
        """How it stands, where `hangs` says of an answer that is awaited for too long, and readings that can go are
        held up by the `slowest` part of their way."""
        now = self._clock.monotonic()
        with self._lock:
            is_held_up = now <= self._limit_until or self._state in _IN_TROUBLE
            return Told(
                self._state,
                self._last_error,
                self._retry_at,
                self._faults,
                hangs or self._local_trouble or self._alarm,
                self._limit if is_held_up else slowest if self._is_slow or hangs else None,
            )

    def note(self, state: State, error: str | None = None, retry_at: float | None = None) -> None:
        """It is in that state from now on."""
        with self._lock:
            self._state = state
            self._last_error = error or self._last_error
            self._retry_at = retry_at

    def tried(self) -> None:
        """Readings go there: until it has answered, a trouble is not over."""
        with self._lock:
            self._state = self._state if self._state in _IN_TROUBLE else "sending"
            self._retry_at = None

    def answered(self) -> bool:
        """It takes readings; whether the log said that it did not."""
        with self._lock:
            was_away = self._said is not None
            self._state, self._retry_at = "sending", None
            self._alarm = self._said = None
        return was_away

    def held_up(self, limit: Limit | None, until: float | None = None) -> None:
        """What holds readings up, None for nothing, and until when: for so long that is worth saying."""
        with self._lock:
            self._limit = limit
            self._limit_until = (self._clock.monotonic() if until is None else until) + _LINGERS

    def slow(self, is_slow: bool) -> None:
        """Whether more waits than goes at once."""
        with self._lock:
            self._is_slow = is_slow

    def alarm(self, text: str) -> None:
        """What a person should look at, until it has answered."""
        with self._lock:
            self._alarm = text

    def fault(self, text: str) -> None:
        """As `alarm`, of what no storage should raise."""
        with self._lock:
            self._alarm = text
            self._faults += 1

    @property
    def has_local_trouble(self) -> bool:
        """Whether the local store is known to fail."""
        return self._local_trouble is not None

    def local_trouble(self, text: str | None) -> None:
        """What the local store fails with, None where it does not any more."""
        with self._lock:
            self._local_trouble = text

    def say(self, trouble: str, level: int, text: str, fault: Exception | None = None) -> None:
        """To the log: one line for each trouble, not for each try."""
        with self._lock:
            is_known, self._said = trouble == self._said, trouble
        if not is_known:
            logger.log(level, "upstream %s %s", self._name, text, exc_info=fault)
