"""Forwarding in single steps: what goes next, and what follows from how that went. The worker's thread takes them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from edgedepot.storage.base import BaseStorage, Buffer
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import (
    ConfigError,
    Misconfigured,
    Overloaded,
    ReceiptTimeout,
    StorageClosed,
    StorageError,
    UpstreamError,
)
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.batch import BatchSize
from edgedepot.sync.delivery import Delivery, Interrupted
from edgedepot.sync.lanes import Lanes
from edgedepot.sync.status import State, SyncStatus

logger = logging.getLogger("edgedepot.sync")

PROBE = 50
"""Rows that find out whether a link is back: few, as most such tries are in vain; and real ones, as only they show that
the upstream takes rows. After one success windows have their full size again."""

_PATIENCE = 3
"""An upstream that asks for less this many times running is said to be away; once is how it keeps its pace. Other
trouble that it answers with this often has a person called."""
_OVERTAXED = 10.0
"""Seconds. A window that failed after so long may have been too large for the link to carry in the upstream's time."""


class Wait(NamedTuple):
    """Nothing can be done until a time of the monotonic clock or, with `for_news`, until new rows are there."""

    until: float
    for_news: bool


class Forwarder:
    """Forwards what a cursor has pending, one window a step. `status` is for any thread, the rest for one.

    `go_on` is asked before each request; `random` returns numbers in ``[0, 1)``. Times are in seconds.
    """

    def __init__(
        self,
        store: Buffer,
        name: str,
        upstream: BaseStorage,
        *,
        clock: Clock,
        batch_size: int,
        poll_interval: float,
        backoff: Backoff,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._poll = poll_interval
        self._batch = BatchSize(batch_size)
        self._lanes = Lanes(store, name, clock)
        self._backoff = backoff
        self._delivery = Delivery(store, name, upstream, clock, go_on)
        self._probing = False
        self._said: str | None = None  # the trouble that the log knows of
        self._lock = threading.Lock()  # guards what follows
        self._state: State = "stopped"
        self._last_error: str | None = None
        self._alarm: str | None = None
        self._retry_at: float | None = None
        self._faults = 0

    def status(self) -> SyncStatus:
        """How it stands. Does not block."""
        with self._lock:
            return SyncStatus(
                self._state,
                self._delivery.delivered,
                self._delivery.last_delivery,
                self._last_error,
                self._retry_at,
                self._delivery.requests,
                self._faults,
                self._alarm,
            )

    def step(self) -> Wait | None:
        """Forward one window, and say what to wait for before the next step. Blocks for as long as the upstream takes.

        Raises `Interrupted` when told to stop, and `StorageClosed` when the local store was closed.
        """
        began = self._clock.monotonic()
        try:
            return None if self._forward() else self._rest()
        except (Interrupted, StorageClosed):
            raise
        except (Misconfigured, ConfigError) as exc:
            return self._on_misconfigured(exc)
        except StorageError as exc:
            return self._on_trouble(exc, self._clock.monotonic() - began)
        except Exception as exc:  # noqa: BLE001 - the thread's outermost edge: a user's storage may raise anything
            return self._on_fault(exc)

    def note(self, state: State, error: str | None = None, retry_at: float | None = None) -> None:
        """Have the status say so."""
        with self._lock:
            self._state = state
            self._last_error = error or self._last_error
            self._retry_at = retry_at

    def _forward(self) -> bool:
        """Deliver the next window; False when there is none."""
        limit = min(self._batch.limit, PROBE) if self._probing else self._batch.limit
        found = self._lanes.next(limit)
        if found is None:
            return False
        lane, window = found
        self.note("misconfigured" if self._state == "misconfigured" else "sending")
        self._batch.weigh(window.rows)
        requests, began = self._delivery.requests, self._clock.monotonic()
        self._lanes.sending(lane, window)
        self._delivery.deliver(window)
        self._lanes.taken(lane, window)
        if self._delivery.requests > requests:
            self._batch.went_through(len(window.rows), self._clock.monotonic() - began)
            self._on_answered()
        return True

    def _rest(self) -> Wait:
        self.note("idle")
        return Wait(self._clock.monotonic() + self._poll, for_news=True)

    def _on_answered(self) -> None:
        self._backoff.reset()
        self._probing = False
        self._raise_alarm(None)
        self.note("sending")
        if self._said is not None:
            self._said = None
            pending = self._store.count_pending(self._name)
            logger.info("upstream %s is back, %d readings pending", self._name, pending)

    def _on_trouble(self, exc: StorageError, took: float) -> Wait:
        retry_at = self._clock.monotonic() + self._backoff.next(_retry_after(exc))
        text = _text_of(exc)
        if isinstance(exc, Overloaded):
            self._lanes.turned_away()
            self._batch.shrink()
        else:
            if took > _OVERTAXED and not self._probing:
                self._batch.shrink()
            self._probing = True
        self.note("waiting", text, retry_at)
        if _is_strange(exc) and self._backoff.tries >= _PATIENCE:
            self._raise_alarm(text)
            self._say(f"alarm {_code_of(exc)}", logging.ERROR, f"keeps answering: {text}. It is tried again for ever")
        elif not isinstance(exc, Overloaded) or self._backoff.tries >= _PATIENCE:
            self._say(
                "away", logging.WARNING, f"does not take readings: {text}. They wait, and are sent again until it does"
            )
        return Wait(retry_at, for_news=False)

    def _on_misconfigured(self, exc: Misconfigured | ConfigError) -> Wait:
        self._lanes.turned_away()
        pause = self._backoff.slow(_retry_after(exc))
        retry_at = self._clock.monotonic() + pause
        self.note("misconfigured", _text_of(exc), retry_at)
        self._raise_alarm(_text_of(exc))
        text = f"needs mending: {_text_of(exc)}. Nothing is lost, and it is tried again every {pause:.0f} s"
        self._say(_text_of(exc), logging.ERROR, text)
        return Wait(retry_at, for_news=False)

    def _on_fault(self, exc: Exception) -> Wait:
        retry_at = self._clock.monotonic() + self._backoff.next()
        self._probing = True
        text = f"{type(exc).__name__}: {exc}"
        self.note("waiting", text, retry_at)
        self._raise_alarm(text)
        with self._lock:
            self._faults += 1
        self._say(type(exc).__name__, logging.ERROR, "raised what no storage should; it is tried again", exc)
        return Wait(retry_at, for_news=False)

    def _raise_alarm(self, alarm: str | None) -> None:
        with self._lock:
            self._alarm = alarm

    def _say(self, trouble: str, level: int, text: str, fault: Exception | None = None) -> None:
        """One line for each trouble, not for each try."""
        if trouble != self._said:
            self._said = trouble
            logger.log(level, "upstream %s %s", self._name, text, exc_info=fault)


def _is_strange(exc: StorageError) -> bool:
    """Whether this is trouble that waiting may not mend: of a kind that is not known, or a server's that is there and
    says so. No answer at all is the link's matter."""
    if isinstance(exc, UpstreamError):
        return exc.code is not None and not isinstance(exc, Overloaded)
    return not isinstance(exc, ReceiptTimeout)


def _code_of(exc: StorageError) -> str:
    return (exc.code if isinstance(exc, UpstreamError) else None) or type(exc).__name__


def _retry_after(exc: Exception) -> float | None:
    return exc.retry_after if isinstance(exc, UpstreamError) else None


def _text_of(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
