"""Has the log know what went for want of room, and of what time it was: once it is committed, and a line for each step.

history of weather up to 2026-03-02T06:00Z went, as the store is full (keep_bytes)
avg of temperature by 0:01:00, kept of weather up to 2025-03-02T06:00Z, went, as the store is full (keep_bytes)
upstream central: 16500 readings thinned, of 2026-03-02T00:00Z to 2026-03-03T21:50Z, as the store is full (keep_bytes)
upstream central: 8250 readings evicted, of 2026-03-02T00:00Z to 2026-03-03T21:50Z, as the store is full (keep_bytes)
upstream central: 120 readings evicted, of 2026-03-02T00:00Z to 2026-03-02T01:10Z, as quarantine is full (keep_bytes)
8250 readings whose time is not known went, as the store is full (keep_bytes)
"""

from __future__ import annotations

import logging
from dataclasses import replace

from edgedepot.storage.clock import from_micros
from edgedepot.storage.given_up import GivenUp

log = logging.getLogger(__name__)
FULL = "the store is full (keep_bytes)"
REFUSED = "quarantine is full (keep_bytes)"
OLD = "it is too old (keep)"


class RoomLog:
    """Of one store; for its writer's thread. What is noted goes into the log with `committed`."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str]] = []
        self._new: list[GivenUp] = []
        self._thinned: dict[str, GivenUp] = {}

    def begin(self) -> None:
        """What was noted since the last commit came to nothing."""
        self._lines.clear()
        self._new.clear()

    def history_went(self, measurement: str, end: int) -> None:
        """Of a reading model, all before a time in microseconds since 1970 UTC: upstreams lose nothing by it."""
        text = f"history of {measurement} up to {from_micros(end):%Y-%m-%dT%H:%MZ} went, as {FULL}"
        self._lines.append((logging.INFO, text))

    def kept_went(self, measurement: str, what: str, end: int) -> None:
        """Of what is kept downsampled of a model, all before a time."""
        text = f"{what}, kept of {measurement} up to {from_micros(end):%Y-%m-%dT%H:%MZ}, went, as {FULL}"
        self._lines.append((logging.INFO, text))

    def not_kept(self, measurement: str, rows: int) -> None:
        """Readings that are not in history yet, of a time whose history goes: the fold had no room, or more came on."""
        if rows:
            text = f"up to {rows} readings of {measurement} are missing in what is kept of it: their time went first"
            self._lines.append((logging.WARNING, text))

    def held_went(self, rows: int) -> None:
        """Readings that waited for the time: nobody sees them any more, nor could tell of what time they are."""
        if rows:
            self._lines.append((logging.WARNING, f"{rows} readings whose time is not known went, as {FULL}"))

    def thinned(self, given_up: GivenUp) -> None:
        """Of an upstream's minutes some became one reading each."""
        self._new.append(given_up)

    def evicted(self, given_up: GivenUp, why: str) -> None:
        """An upstream does not get these at all."""
        self._lines.append((logging.WARNING, f"upstream {given_up.upstream}: {given_up}, as {why}"))

    def blocks(self, why: str) -> None:
        """Readings are taken no more."""
        log.warning("%s", why)

    def takes_again(self) -> None:
        """Readings are taken again."""
        log.warning("the store takes readings again")

    def committed(self, is_thinning: bool) -> None:
        """What was noted is done. What is thinned gets one line when `is_thinning` is over."""
        for level, text in self._lines:
            log.log(level, "%s", text)
        for one in self._new:
            before = self._thinned.get(one.upstream, one)
            rows = one.rows + (before.rows if before is not one else 0)
            start, end = min(one.start, before.start), max(one.end, before.end)
            self._thinned[one.upstream] = replace(one, start=start, end=end, rows=rows)
        self.begin()
        if not is_thinning:
            for one in self._thinned.values():
                log.warning("upstream %s: %s, as %s", one.upstream, one, FULL)
            self._thinned.clear()
