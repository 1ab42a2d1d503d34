"""What a backlog goes as fast as: the link, the server or the gateway, by where the time of its windows goes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import Clock
from edgedepot.sync.delivery import Delivery
from edgedepot.sync.status import Limit

_MEMORY = 30.0
"""Seconds after which what was counts for a third: the latest minute or so decides."""


class _Times(NamedTuple):
    """Seconds that windows took in all; of these, that an upstream took which does not tell what it waits for, or that
    one waited which does: see `Waits`."""

    whole: float = 0.0
    backend: float = 0.0
    link: float = 0.0
    server: float = 0.0
    either: float = 0.0

    def plus(self, other: _Times, factor: float = 1.0) -> _Times:
        """Together with so much of others."""
        return _Times(*(one + factor * more for one, more in zip(self, other, strict=True)))

    def limit(self) -> Limit | None:
        """What took most of it; None where nothing took any time."""
        waited = self.backend + self.link + self.server + self.either
        if not self.whole and not waited:
            return None
        if self.whole >= 2 * waited:
            return "gateway"
        if self.backend:
            return "backend"
        if self.link > self.server + self.either:
            return "link"
        return "server" if self.server > self.link + self.either else "link or server"


class Bottleneck:
    """Follows the windows that go to one upstream. `window` is for the forwarder's thread, `limit` for any."""

    def __init__(self, upstream: BaseStorage, delivery: Delivery, clock: Clock) -> None:
        self._upstream = upstream
        self._delivery = delivery
        self._clock = clock
        self._lock = threading.Lock()
        self._past = _Times()
        self._past_at = clock.monotonic()
        self._began: _Times | None = None

    @contextmanager
    def window(self) -> Iterator[None]:
        """The time of a window: it is read, sent, awaited and acknowledged. One that fails does not count."""
        with self._lock:
            self._began = self._now()
        try:
            yield
        except BaseException:
            with self._lock:
                self._began = None
            raise
        with self._lock:
            self._past, self._past_at, self._began = self._so_far(), self._clock.monotonic(), None

    def limit(self) -> Limit | None:
        """What windows go as fast as, the one under way included; None before the first."""
        with self._lock:
            return self._so_far().limit()

    def _so_far(self) -> _Times:
        fading = math.exp((self._past_at - self._clock.monotonic()) / _MEMORY)
        latest = _Times() if self._began is None else self._now().plus(self._began, -1.0)
        return latest.plus(self._past, fading)

    def _now(self) -> _Times:
        now = self._clock.monotonic()
        waits = self._upstream.wire_waits()
        return _Times(now, self._delivery.asked(now)) if waits is None else _Times(now, 0.0, *waits)
