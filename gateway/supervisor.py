"""Keeps one driver running, in a thread of its own.

    run ──raises──> away ──backoff──> run ──raises──> away ── ... ──> run ──data──> back
          one line in the log         nothing in the log                    one line in the log

The waits grow from 0.2 to 60 s. They start small again only after a run that was worth it: data still arrived
`STABLE_SECONDS` after it began. A port that opens and fails at once, for ever, is so tried once a minute.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any

from edgedepot.drivers.base import Driver, Sink
from edgedepot.storage.buffer import Inlet, Intake
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import EdgeDepotError, StorageClosed, TransportError
from edgedepot.storage.receipt import Receipt
from edgedepot.sync.backoff import Backoff

log = logging.getLogger("edgedepot.gateway")

SHORTEST_WAIT = 0.2
LONGEST_WAIT = 60.0
STABLE_SECONDS = 10.0


class Supervisor:
    """Runs a driver and runs it again when it fails. `random` returns numbers in ``[0, 1)``.

    `start` once, then `stop` and `join` once; `status` from any thread at any time.
    """

    def __init__(
        self,
        name: str,
        driver: Driver,
        inlet: Inlet,
        clock: Clock,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._driver = driver
        self._clock = clock
        self._sink = _NoticingSink(inlet, name, clock, self._on_data)
        self._backoff = Backoff(SHORTEST_WAIT, LONGEST_WAIT, random)
        self._thread = threading.Thread(target=self._run, name=f"edgedepot-driver-{name}", daemon=True)
        self._changed = threading.Condition()  # guards what follows; the driver is not called while it is held
        self._stopping = False
        self._retry_at: float | None = None
        self._away_since: float | None = None
        self._last_error: str | None = None
        self._restarts = 0
        self._faults = 0
        self._said_fault: str | None = None  # the thread's own

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Have the driver finish. Does not block."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._driver.stop()

    def join(self, timeout: float) -> bool:
        """Wait for the end that `stop` asked for, at most `timeout` seconds; False when it is not there by then."""
        if self._thread.ident is None:  # never started
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """Where the driver stands. Ages and waits are in seconds; None where there was no such moment."""
        now = self._clock.monotonic()
        found = self._driver.status()
        with self._changed:
            waiting = self._retry_at is not None
            since = self._away_since if waiting else found.since
            return {
                "state": "away" if waiting else found.state,
                "state_age": _between(since, now),
                "last_message_age": _between(found.last_message, now),
                "last_error": self._last_error or found.last_error,
                "retry_in": None if self._retry_at is None else max(0.0, self._retry_at - now),
                "restarts": self._restarts,
                "faults": self._faults,
                "counters": dict(found.counters),
            }

    def _run(self) -> None:
        while not self._is_stopping():
            began = self._clock.monotonic()
            try:
                self._driver.run(self._sink)
                trouble: Exception = TransportError("it ended by itself")
            except StorageClosed as exc:
                self._end_with_store(exc)
                return
            except EdgeDepotError as exc:
                trouble = exc
            except Exception as exc:  # noqa: BLE001 - the thread's outermost edge: a driver may raise anything
                trouble = exc
                self._note_fault(exc)
            if not self._is_stopping():
                self._wait_after(trouble, began)

    def _end_with_store(self, exc: StorageClosed) -> None:
        with self._changed:
            self._last_error = str(exc)
        if not self._is_stopping():
            log.error("%s: stops, as the local store was closed", self.name)

    def _wait_after(self, trouble: Exception, began: float) -> None:
        """Note that the driver failed, and wait until it may run again or `stop`."""
        last = self._driver.status().last_message
        if last is not None and last - began >= STABLE_SECONDS:
            self._backoff.reset()
        pause = self._backoff.next()
        text = str(trouble) or type(trouble).__name__
        with self._changed:
            first = self._away_since is None
            if first:
                self._away_since = self._clock.monotonic()
            self._last_error = text
            self._restarts += 1
            self._retry_at = self._clock.monotonic() + pause
        level = logging.WARNING if first else logging.DEBUG
        log.log(level, "%s: is away (%s); it is tried again until it is back", self.name, text)
        with self._changed:
            while not self._stopping and (left := self._retry_at - self._clock.monotonic()) > 0:
                self._clock.wait(self._changed, left)
            self._retry_at = None

    def _note_fault(self, exc: Exception) -> None:
        """The same fault again is counted, but its traceback is written once."""
        with self._changed:
            self._faults += 1
        text = f"{type(exc).__name__}: {exc}"
        if text != self._said_fault:
            self._said_fault = text
            log.error("%s: the driver raised what no driver should; it is started again", self.name, exc_info=exc)

    def _on_data(self) -> None:
        """The sink took something in. Called from the driver's thread, often: away is looked at without the lock."""
        if self._away_since is None:
            return
        with self._changed:
            away = self._clock.monotonic() - self._away_since
            self._away_since = None
        log.info("%s: is back, after %.0f s", self.name, away)

    def _is_stopping(self) -> bool:
        with self._changed:
            return self._stopping


class _NoticingSink(Sink):
    """A sink that says when something was taken in."""

    __slots__ = ("_notice",)

    def __init__(self, inlet: Inlet, source: str, clock: Clock, notice: Callable[[], None]) -> None:
        super().__init__(inlet, source, clock)
        self._notice = notice

    def take_in(self, intake: Intake) -> Receipt:
        receipt = super().take_in(intake)
        self._notice()
        return receipt


def _between(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, now - moment)
