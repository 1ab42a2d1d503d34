"""The sync worker: a thread that forwards what the local store holds to one upstream.

      seq ->    1    2    3    4    5    6    7    8    9   10   11   12   13
              +----+----+----+----+----+----+----+----+----+----+----+----+----+
              | ok | ok | q  | ok | .. | sp | ok | .. | .. | .. | .. | .. | ~~ |
              +----+----+----+----+----+----+----+----+----+----+----+----+----+
                                 ^ \\____ the window ____/                   ^
                                 |  low = 5      high = 9                   last durable row
                        the cursor: all up to here
                        is resolved, and stays so

    ok  delivered      q  quarantined      ..  pending      sp  superseded, never sent      ~~  not yet durable here

The window is what the worker has in hand. Row 7 was accepted before the link broke: the worker remembers that (in
memory, which is enough), reads the window again, and sends 5, 8 and 9. When every row in it is resolved the window is
acknowledged as one, and the cursor moves to 9. An answer that is lost leaves rows pending that the upstream has; they
are sent again, and the upstream knows them by their identity.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from edgedepot.storage.base import BaseStorage, Buffer, Start
from edgedepot.storage.clock import Clock, SystemClock
from edgedepot.storage.errors import (
    ConfigError,
    Misconfigured,
    Overloaded,
    StorageBusy,
    StorageClosed,
    StorageError,
    UpstreamError,
)
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.batch import BatchSize
from edgedepot.sync.delivery import Delivery, Interrupted
from edgedepot.sync.settings import Duration, check_ends, seconds, wait_bounds
from edgedepot.sync.status import State, SyncStatus

logger = logging.getLogger("edgedepot.sync")

_PATIENCE = 3
"""An upstream that asks for less this many times running is said to be away; once is how it keeps its pace."""


class SyncWorker:
    """Forwards what `store` holds to `upstream`, oldest first, in a thread of its own, until it is stopped.

    `name` is the cursor's name in the store: what was delivered is known by it, also when the upstream's address
    changes. One worker uses a name at a time. Every reading is sent until it has arrived, and as storages take an equal
    reading twice for once, it is there once. One that the upstream refuses for good is quarantined with the reason.

    A name that is new to the store begins at `start`: with the oldest reading there is, "now", or with readings from a
    time on. `batch_size` is in rows. `poll_interval` is how often to look for new rows if the store does not say.
    `backoff` is the shortest and the longest wait after a failure. `random` returns numbers in ``[0, 1)``.

    All methods may be called from any thread. Raises `ConfigError` for settings that cannot work, among them a store
    without a gateway_id; an upstream without one is bound to the store's.
    """

    def __init__(
        self,
        store: Buffer,
        name: str,
        upstream: BaseStorage,
        *,
        start: Start = "oldest",
        batch_size: int = 5000,
        poll_interval: Duration = "5s",
        backoff: tuple[Duration, Duration] = ("200 ms", "60s"),
        clock: Clock | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        check_ends(store, name, upstream)
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(f"upstream {name!r}: batch_size is {batch_size!r}, expected a number of rows from 1 up")
        self.name = name
        self._store = store
        self._start: Start = start
        self._clock = clock or SystemClock()
        self._poll = seconds(poll_interval, f"upstream {name!r}: poll_interval")
        self._batch = BatchSize(batch_size)
        self._backoff = Backoff(*wait_bounds(backoff, name), random)
        self._delivery = Delivery(store, name, upstream, self._clock, self._may_go_on)
        self._changed = threading.Condition()  # guards what follows; no storage is called while it is held
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._news = False
        self._state: State = "stopped"
        self._last_error: str | None = None
        self._retry_at: float | None = None
        self._faults = 0
        self._said: str | None = None  # the trouble that the log knows of; the thread's own

    def start(self) -> None:
        """Start forwarding; nothing happens if it runs. May follow a `stop`.

        Raises what the store raises, and `StorageBusy` while the request that an earlier `stop` left is still open.
        """
        self._store.add_cursor(self.name, self._start)
        with self._changed:
            if self._thread is not None and self._thread.is_alive():
                if self._stopping:
                    raise StorageBusy(f"upstream {self.name!r}: the request before the stop is still not answered")
                return
            self._thread = threading.Thread(target=self._run, name=f"edgedepot-sync-{self.name}", daemon=True)
            self._stopping = False
            self._state = "idle"
            self._thread.start()

    def stop(self, timeout: float | None = 10.0) -> bool:
        """Stop forwarding; nothing happens if it does not run. The request in flight is awaited for at most `timeout`
        seconds (None: as long as it takes), then left: its rows stay pending, and the answer is False."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        if thread.is_alive():
            logger.warning(
                "upstream %s did not answer within %.3g s of the stop; its rows stay pending", self.name, timeout
            )
        return not thread.is_alive()

    def status(self) -> SyncStatus:
        """How it stands. Does not block."""
        with self._changed:
            return SyncStatus(
                self._state,
                self._delivery.delivered,
                self._delivery.last_delivery,
                self._last_error,
                self._retry_at,
                self._delivery.requests,
                self._faults,
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with ExitStack() as at_end:
            at_end.callback(self._note, "stopped")
            try:
                at_end.callback(self._store.watch(self._wake))
                while self._may_go_on():
                    self._turn()
            except Interrupted:
                pass
            except StorageClosed as exc:
                self._note("stopped", _text_of(exc))
                logger.info("upstream %s: forwarding ends, as the local store was closed", self.name)

    def _turn(self) -> None:
        """Forward one window, or wait: for new rows, or until what failed may be tried again."""
        try:
            if not self._forward():
                self._note("idle")
                self._wait(self._clock.monotonic() + self._poll, for_news=True)
            return
        except (Interrupted, StorageClosed):
            raise
        except (Misconfigured, ConfigError) as exc:
            retry_at = self._on_misconfigured(exc)
        except StorageError as exc:
            retry_at = self._on_trouble(exc)
        except Exception as exc:  # noqa: BLE001 - the thread's outermost edge: a user's storage may raise anything
            retry_at = self._on_fault(exc)
        self._wait(retry_at, for_news=False)

    def _forward(self) -> bool:
        """Deliver the next window; False when there is none."""
        with self._changed:
            self._news = False  # before looking: what comes from here on is noticed
        window = self._store.pending(self.name, self._batch.limit)
        if window is None:
            return False
        self._note("misconfigured" if self._state == "misconfigured" else "sending")
        before = self._delivery.requests
        self._delivery.deliver(window)
        if self._delivery.requests > before:
            self._on_answered()
        return True

    def _on_answered(self) -> None:
        self._backoff.reset()
        self._batch.grow()
        self._note("sending")
        if self._said is not None:
            self._said = None
            pending = self._store.count_pending(self.name)
            logger.info("upstream %s is back, %d readings pending", self.name, pending)

    def _on_trouble(self, exc: StorageError) -> float:
        retry_at = self._clock.monotonic() + self._backoff.next(_retry_after(exc))
        if isinstance(exc, Overloaded):
            self._batch.shrink()
        self._note("waiting", _text_of(exc), retry_at)
        if not isinstance(exc, Overloaded) or self._backoff.tries >= _PATIENCE:
            text = f"does not take readings: {_text_of(exc)}. They wait, and are sent again until it does"
            self._say("away", logging.WARNING, text)
        return retry_at

    def _on_misconfigured(self, exc: Misconfigured | ConfigError) -> float:
        pause = self._backoff.slow(_retry_after(exc))
        retry_at = self._clock.monotonic() + pause
        self._note("misconfigured", _text_of(exc), retry_at)
        text = f"needs mending: {_text_of(exc)}. Nothing is lost, and it is tried again every {pause:.0f} s"
        self._say(_text_of(exc), logging.ERROR, text)
        return retry_at

    def _on_fault(self, exc: Exception) -> float:
        retry_at = self._clock.monotonic() + self._backoff.next()
        self._faults += 1
        self._note("waiting", f"{type(exc).__name__}: {exc}", retry_at)
        self._say(type(exc).__name__, logging.ERROR, "raised what no storage should; it is tried again", exc)
        return retry_at

    def _say(self, trouble: str, level: int, text: str, fault: Exception | None = None) -> None:
        """One line for each trouble, not for each try."""
        if trouble != self._said:
            self._said = trouble
            logger.log(level, "upstream %s %s", self.name, text, exc_info=fault)

    def _note(self, state: State, error: str | None = None, retry_at: float | None = None) -> None:
        with self._changed:
            self._state = state
            self._last_error = error or self._last_error
            self._retry_at = retry_at

    def _wait(self, until: float, *, for_news: bool) -> None:
        with self._changed:
            while not self._stopping and not (for_news and self._news):
                left = until - self._clock.monotonic()
                if left <= 0:
                    return
                self._clock.wait(self._changed, left)

    def _wake(self) -> None:
        """Called from the store's thread."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _may_go_on(self) -> bool:
        with self._changed:
            return not self._stopping


def _retry_after(exc: Exception) -> float | None:
    return exc.retry_after if isinstance(exc, UpstreamError) else None


def _text_of(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
