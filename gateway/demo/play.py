"""What happens in the demonstration, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgedepot.demo.site import Counts, Site
from edgedepot.storage.buffer import Ledger
from edgedepot.storage.errors import TransportError, UpstreamError
from edgedepot.storage.sqlite.storage import SQLiteStorage

AWAY_FROM, AWAY_UNTIL = 0.3, 0.6
"""Fractions of the time in which the devices send."""
START_SECONDS = 15.0
DRAIN_SECONDS = 20.0
STEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Scene:
    """How things stand at one moment. `elapsed` is in seconds since the devices began to send."""

    elapsed: float
    title: str
    link_is_cut: bool
    counts: Counts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out. `sent` was counted by the devices; `held` by the upstream, None where it does not answer."""

    books: Ledger
    sent: int
    broken: int
    held: int | None
    trouble: str | None

    @property
    def good(self) -> bool:
        """Whether the books balance, and the upstream holds exactly what was sent."""
        return self.books.balanced and self.held == self.sent


def perform(folder: Path, upstream: str | None, seconds: float, show: Callable[[Scene], None]) -> Outcome:
    """Run it all once; the devices send for `seconds`. Blocks; calls `show` four times a second."""
    with Site(folder, upstream) as site:
        _Play(site, seconds, show).acts()
        try:
            held, trouble = site.held(), None
        except UpstreamError as exc:
            held, trouble = None, str(exc)
        trouble = trouble or site.counts().upstream_error
    with SQLiteStorage(site.path, read_only=True) as store:
        return Outcome(store.ledger(), site.sent, site.station.broken, held, trouble)


class _Play:
    def __init__(self, site: Site, seconds: float, show: Callable[[Scene], None]) -> None:
        self._site = site
        self._seconds = seconds
        self._show = show
        self._began = time.monotonic()

    def acts(self) -> None:
        site = self._site
        if not self._until(lambda: site.is_ready, START_SECONDS, "starting"):
            raise TransportError(f"the drivers were not ready within {START_SECONDS:.0f} s")
        self._began = time.monotonic()
        site.start_devices()
        self._until_time(AWAY_FROM, "all is well")
        site.link.cut()
        self._until_time(AWAY_UNTIL, "the upstream is away, readings wait in the store")
        site.link.mend()
        self._until_time(1.0, "the upstream is back and catches up")
        site.stop_devices()
        site.gateway.store.flush()
        if self._until(self._is_drained, DRAIN_SECONDS, "the devices are done, the rest goes out"):
            self._show_scene("everything has arrived")

    def _is_drained(self) -> bool:
        counts = self._site.counts()
        return counts.stored >= self._site.sent and counts.pending == 0

    def _until_time(self, fraction: float, title: str) -> None:
        self._until(lambda: False, self._began + fraction * self._seconds - time.monotonic(), title)

    def _until(self, condition: Callable[[], bool], seconds: float, title: str) -> bool:
        """Show how things stand until the condition holds, or for so long; whether it held."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._show_scene(title)
            time.sleep(min(left, STEP_SECONDS))
        self._show_scene(title)
        return True

    def _show_scene(self, title: str) -> None:
        elapsed = time.monotonic() - self._began
        self._show(Scene(elapsed, title, self._site.link.is_cut, self._site.counts()))
