"""Forwarding in single steps: what goes next, and what follows from how that went. The worker's thread takes them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Buffer, Lane, Window
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import (
    ConfigError,
    Misconfigured,
    Overloaded,
    StorageClosed,
    StorageError,
    UpstreamError,
)
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.batch import BatchSize
from edgedepot.sync.bottleneck import Bottleneck
from edgedepot.sync.budget import Budget, Held
from edgedepot.sync.delivery import ANSWER_TIMEOUT, Delivery, Interrupted
from edgedepot.sync.lanes import Lanes
from edgedepot.sync.limits import Limits
from edgedepot.sync.progress import Progress
from edgedepot.sync.standing import Standing, logger
from edgedepot.sync.status import Limit, State, SyncStatus

if TYPE_CHECKING:
    from edgedepot.sync.averages import Averages

PROBE = 50
"""Rows that find out whether a link is back: few, as most such tries are in vain; and real ones, as only they show that
the upstream takes rows. After one success windows have their full size again."""

_PATIENCE = 3
"""An upstream that fails, or asks for less, this many times running is said to be away; once is how it keeps its pace.
Other trouble that it answers with this often has a person called."""
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
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._poll = poll_interval
        self._batch = BatchSize(batch_size)
        self._backoff = backoff
        limits = limits or Limits()
        self._budget = Budget(limits, store, name, upstream, clock)
        self._averages: Averages | None = None
        if limits.every:
            from edgedepot.sync.averages import Averages  # here, as most upstreams get each reading

            self._averages = Averages(store, limits.every, clock, self._budget)
        self._lanes = Lanes(store, name, clock, self._averages.is_late if self._averages else None)
        self._delivery = Delivery(store, name, upstream, clock, go_on, self._budget)
        self._bottleneck = Bottleneck(upstream, self._delivery, clock)
        self._progress = Progress(store, name, limits.schedule, self._budget, clock)
        self._probing = False
        self._is_proven = False  # the upstream said that it takes readings, or took some
        self._read = 0  # rows of the latest window as it was read
        self._standing = Standing(name, clock)

    def status(self) -> SyncStatus:
        """How it stands. Does not block."""
        hangs, slowest = self._hangs(), self._bottleneck.limit()
        waiting = self._progress.waiting()
        lag, eta = self._progress.lag(), self._progress.eta(waiting)
        told = self._standing.told(hangs, slowest)
        return SyncStatus(
            told.state,
            self._delivery.delivered,
            self._delivery.last_delivery,
            told.last_error,
            told.retry_at,
            self._delivery.requests,
            told.faults,
            told.alarm,
            waiting,
            lag,
            eta,
            told.limited_by,
            self._budget.spent_today,
            self._budget.per_day,
        )

    def look_after(self) -> None:
        """Say so once when an answer is waited for too long. From any thread but that of the steps; does not block."""
        hangs = self._hangs()
        if hangs is not None:
            self._standing.say("hangs", logging.ERROR, f"does not take readings: {hangs}")

    def _hangs(self) -> str | None:
        asked_at = self._delivery.asked_at
        if asked_at is None or self._clock.monotonic() - asked_at <= ANSWER_TIMEOUT:
            return None
        return (
            f"no answer to a request for {ANSWER_TIMEOUT:.0f} s, as the link is very slow or the storage waits without "
            "a timeout. Nothing else is sent there until that ends"
        )

    def step(self) -> Wait | None:
        """Forward one window, and say what to wait for before the next step. Blocks for as long as the upstream takes.

        Raises `Interrupted` when told to stop, and `StorageClosed` when the local store was closed.
        """
        began = self._clock.monotonic()
        try:
            with self._bottleneck.window():
                wait = None if self._forward() else self._rest()
        except (Interrupted, StorageClosed):
            raise
        except Held as held:
            return self._on_held(held)
        except (Misconfigured, ConfigError) as exc:
            return self._on_misconfigured(exc)
        except UpstreamError as exc:
            return self._on_trouble(exc, self._clock.monotonic() - began)
        except StorageError as exc:
            return self._on_local_trouble(exc)
        except Exception as exc:  # noqa: BLE001 - the thread's outermost edge: a user's storage may raise anything
            return self._on_fault(exc)
        if self._standing.has_local_trouble:
            self._on_local_recovery()
        return wait

    def note(self, state: State, error: str | None = None, retry_at: float | None = None) -> None:
        """Have the status say so."""
        self._standing.note(state, error, retry_at)

    def _forward(self) -> bool:
        """Deliver the next window; False when there is none."""
        limit = min(self._batch.limit, PROBE) if self._probing else self._batch.limit
        try:
            found = self._next(limit)
        except Held as held:
            if held.reason is None:
                self._make_sure()
            raise
        if found is None:
            self._progress.nothing()
            self._make_sure()
            return False
        lane, window = found
        self._standing.tried()
        self._batch.weigh(window.rows)
        requests, began = self._delivery.requests, self._clock.monotonic()
        is_unresolved = self._lanes.is_unresolved
        self._lanes.sending(lane, window)
        try:
            with self._reading_ahead(lane, window) as read:
                self._delivery.deliver(window, read)
        except Held:
            if self._delivery.requests == requests and not is_unresolved:
                self._lanes.turned_away()  # nothing of it went out: fresher rows may come before it
            raise
        self._lanes.taken(lane, window)
        self._progress.took(window)
        if self._delivery.requests > requests:
            self._batch.went_through(self._read, self._clock.monotonic() - began)
            self._probing = False
            self._on_answered()
        return True

    def _make_sure(self) -> None:
        """While there is nothing to send, ask an upstream that took nothing yet whether it would: so a wrong address or
        token is known before a reading waits for it. Raises what a request raises."""
        if not self._is_proven:
            with suppress(Held):
                self._delivery.check()
                self._on_answered()

    @contextmanager
    def _reading_ahead(self, lane: Lane, window: Window) -> Iterator[Callable[[], None]]:
        """What has the store read what comes next in a lane, to be called when there is nothing left to do but to wait
        for the upstream: before, it would take the interpreter from whoever sends. Only for a whole window, and where
        the link stands."""
        limit = self._batch.limit
        if self._probing or self._store.waiting(self._name, lane) < len(window.rows) + limit:
            yield lambda: None
            return
        reader = threading.Thread(target=self._read_ahead, args=(limit, lane, window), daemon=True)

        def read() -> None:
            if reader.ident is None:
                reader.start()

        try:
            yield read
        finally:
            if reader.ident is not None:
                reader.join()

    def _read_ahead(self, limit: int, lane: Lane, window: Window) -> None:
        with suppress(StorageError):  # whoever asks for the window next meets it too
            self._store.read_ahead(self._name, limit, lane, window)

    def _next(self, limit: int) -> tuple[Lane, Window] | None:
        """The next window as it is to be sent, and its lane; None when there is none. Raises `Held`."""
        try:
            limit = self._budget.admit_window(self._progress.count(), limit)
        except Held:
            found = self._lanes.next(limit)
            if found is None:
                return None
            self._look(*found)
            raise
        backlog = self._lanes.backlog(limit)
        share, limit = self._budget.share(backlog, limit)
        found = self._lanes.next(limit, share)
        if found is None:
            if share == "live only" and backlog:
                self._look()
                raise self._budget.held_backlog(backlog)
            return None
        self._look(*found)
        self._read = len(found[1].rows)
        if self._averages is None:
            return found[0], self._fitting(*found)
        try:
            return found[0], self._averaged(*found, limit)
        except Held:
            behind = self._lanes.next(limit, "backlog only") if found[0] == "live" and share != "live only" else None
            if behind is None:
                raise
            return behind[0], self._averaged(*behind, limit)

    def _fitting(self, lane: Lane, window: Window) -> Window:
        """The window, or a shorter one where its rows are larger than was to be expected."""
        count = len(self._budget.fitting(window.rows))
        if count < len(window.rows) and not window.replayed:
            self._read = count
            return self._store.pending(self._name, count, lane) or window
        return window

    def _averaged(self, lane: Lane, window: Window, limit: int) -> Window:
        assert self._averages is not None
        self._read = len(window.rows)
        return self._averages.of(window, limit, lambda rows: self._store.pending(self._name, rows, lane))

    def close(self) -> None:
        """Forwarding stops: write down what is not yet."""
        self._budget.close()

    def _on_held(self, held: Held) -> Wait:
        self._standing.held_up(held.reason, held.until)
        if held.reason is None:
            self._standing.note("idle")
        else:
            self._standing.note("held", retry_at=held.until)
        if held.reason != "rate":
            self._progress.rest()
        return Wait(held.until, held.for_news)

    def _look(self, lane: Lane = "live", window: Window | None = None) -> None:
        """Take note of what waits, and of the window that is next."""
        self._progress.look(lane, window)
        self._standing.slow(bool(self._lanes.backlog(self._batch.limit, looks=False)))

    def _rest(self) -> Wait:
        self._standing.held_up(None)
        self._standing.note("idle")
        self._standing.slow(False)
        return Wait(self._clock.monotonic() + self._poll, for_news=True)

    def _on_answered(self) -> None:
        self._backoff.reset()
        self._is_proven = True
        if self._standing.answered():
            pending = self._store.count_pending(self._name)
            logger.info("upstream %s is back, %d readings pending", self._name, pending)

    def _on_local_trouble(self, exc: StorageError) -> Wait:
        """The local store's, of which the upstream knows nothing."""
        text = f"the local store fails: {_text_of(exc)}"
        if not self._standing.has_local_trouble:
            logger.error("upstream %s gets nothing, as %s. It is tried again for ever", self._name, text)
        self._standing.local_trouble(text)
        return self._again_in(self._backoff.next(), "waiting", text, None)

    def _on_local_recovery(self) -> None:
        self._backoff.reset()
        self._standing.local_trouble(None)
        logger.info("upstream %s: the local store is read again", self._name)

    def _on_trouble(self, exc: UpstreamError, took: float) -> Wait:
        pause, text = self._backoff.next(_retry_after(exc)), _text_of(exc)
        if isinstance(exc, Overloaded):
            self._lanes.turned_away()
            self._batch.shrink()
        else:
            if took > _OVERTAXED and not self._probing:
                self._batch.shrink()
            self._probing = True
        if _is_strange(exc) and self._backoff.tries >= _PATIENCE:
            self._standing.alarm(text)
            keeps = f"keeps answering: {text}. It is tried again for ever"
            self._standing.say(f"alarm {exc.code}", logging.ERROR, keeps)
        elif not isinstance(exc, Overloaded) or self._backoff.tries >= _PATIENCE:
            self._standing.say(
                "away", logging.WARNING, f"does not take readings: {text}. They wait, and are sent again until it does"
            )
        return self._again_in(
            pause, "waiting", text, "server" if isinstance(exc, Overloaded) or _is_strange(exc) else "link"
        )

    def _on_misconfigured(self, exc: Misconfigured | ConfigError) -> Wait:
        self._lanes.turned_away()
        pause, text = self._backoff.slow(_retry_after(exc)), _text_of(exc)
        self._standing.alarm(text)
        every = f"Nothing is lost, and it is tried again every {pause:.0f} s"
        self._standing.say(text, logging.ERROR, f"needs mending: {text}. {every}")
        return self._again_in(pause, "misconfigured", text, "server")

    def _on_fault(self, exc: Exception) -> Wait:
        self._probing = True
        text = f"{type(exc).__name__}: {exc}"
        self._standing.fault(text)
        self._standing.say(type(exc).__name__, logging.ERROR, "raised what no storage should; it is tried again", exc)
        return self._again_in(self._backoff.next(), "waiting", text, "server")

    def _again_in(self, pause: float, state: State, error: str, limit: Limit | None) -> Wait:
        """What failed is tried again then."""
        retry_at = self._clock.monotonic() + pause
        self._standing.held_up(limit, retry_at)
        self._standing.note(state, error, retry_at)
        if state == "misconfigured" or not self._is_proven or self._backoff.tries >= _PATIENCE:
            self._progress.away()
        return Wait(retry_at, for_news=False)


def _is_strange(exc: UpstreamError) -> bool:
    """Whether this is trouble that waiting may not mend: of a kind that is not known, or a server's that is there and
    says so. No answer at all is the link's matter."""
    return exc.code is not None and not isinstance(exc, Overloaded)


def _retry_after(exc: Exception) -> float | None:
    return exc.retry_after if isinstance(exc, UpstreamError) else None


def _text_of(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
