"""Work beside the commits, on a thread of its own."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Nobody wants it any more."""


class Beside:
    """One job at a time. Used on the writer's thread, but for what the job itself asks for; `wake` is called from the
    other when it `is_done`, which it is not where it was stopped."""

    def __init__(self, what: str, wake: Callable[[], None]) -> None:
        self.is_done = False
        self.failure: Exception | None = None
        self.stops = False
        self._what = what
        self._wake = wake
        self._thread: threading.Thread | None = None

    def start(self, job: Callable[[], None]) -> None:
        """The one before `is_done`, or there was none."""
        self.is_done = False
        thread = threading.Thread(target=self._run, args=(job,), name=f"edgedepot-{self._what}", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as exc:  # the machine has no more threads
            self.failure, self.is_done = exc, True

    def go_on(self) -> None:
        """To be called by the job. Raises `Stopped`."""
        if self.stops:
            raise Stopped

    def close(self) -> None:
        """Wait for it to stop."""
        self.stops = True
        if self._thread is not None:
            self._thread.join()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Stopped:
            return
        except (OSError, sqlite3.Error) as exc:
            self.failure = exc
        except Exception as exc:
            log.exception("%s failed", self._what)
            self.failure = exc
        self.is_done = True
        self._wake()
