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

import random
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Buffer, Start
from edgedepot.storage.clock import Clock, SystemClock
from edgedepot.storage.errors import StorageBusy, StorageClosed, StorageError
from edgedepot.storage.reading import Reading
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.delivery import Interrupted
from edgedepot.sync.forwarder import Forwarder, Wait
from edgedepot.sync.limits import Limits, Rate, Size
from edgedepot.sync.settings import Duration, check_ends, choice_of, read_backoff, read_batch_size, seconds
from edgedepot.sync.standing import logger
from edgedepot.sync.status import SyncStatus

_LOOK = 60.0
"""Seconds after which a worker that sleeps looks whether the wall clock was set."""
_STEP = 5.0
"""Seconds by which it has to be; less is how clocks are kept right."""


class SyncWorker:
    """Forwards what `store` holds to `upstream`, in a thread of its own, until it is stopped: in order, and after an
    outage the fresh readings beside the backlog (lanes.py).

    `name` is the cursor's name in the store: what was delivered is known by it, also when the upstream's address
    changes. One worker uses a name at a time. Every reading is sent until it has arrived, and as storages take an equal
    reading twice for once, it is there once. One that the upstream refuses for good is quarantined with the reason.

    A name that is new to the store begins at `start`: with the oldest reading there is, "now", or with readings from a
    time on. `models` (classes, or measurements by name) and `devices` (ids, or patterns with ``*`` and ``?``) say which
    readings it gets; the others are counted as skipped. `batch_size` is the most rows that go out together; how many do
    follows from how long they take.

    `max_rate` ("20 kB/s", bytes a second) and `max_per_day` ("50 MB", from midnight in the first window's zone, or UTC)
    bound what goes over the wire both ways; `windows` (["22:00-06:00 Europe/Zurich"]) are the hours in which anything
    may; of `every` ("1 minute") and device only the average is forwarded, once it is over. See docs/upstreams.md.

    `poll_interval` is how often to look for new rows if the store does not say.
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
        models: Iterable[type[Reading] | str] | None = None,
        devices: Iterable[str] | None = None,
        batch_size: int = 5000,
        max_rate: Rate | None = None,
        max_per_day: Size | None = None,
        windows: str | Iterable[str] | None = None,
        every: str | timedelta | None = None,
        poll_interval: Duration = "5s",
        backoff: tuple[Duration, Duration] = ("200 ms", "60s"),
        clock: Clock | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        check_ends(store, name, upstream)
        self.name = name
        self._store = store
        self._start: Start = start
        self._choice = choice_of(models, devices, name)
        self._clock = clock or SystemClock()
        self.limits = Limits.of(name, max_rate, max_per_day, windows, every)
        self._forwarder = Forwarder(
            store,
            name,
            upstream,
            clock=self._clock,
            batch_size=read_batch_size(batch_size, f"upstream {name!r}: batch_size"),
            poll_interval=seconds(poll_interval, f"upstream {name!r}: poll_interval"),
            backoff=Backoff(*read_backoff(backoff, f"upstream {name!r}: backoff"), random),
            go_on=self._may_go_on,
            limits=self.limits,
        )
        self._changed = threading.Condition()  # guards what follows; no storage is called while it is held
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._news = False

    def start(self) -> None:
        """Start forwarding; nothing happens if it runs. May follow a `stop`.

        Raises what the store raises, and `StorageBusy` while the request that an earlier `stop` left is still open.
        """
        began = self._store.add_cursor(self.name, self._start, self._choice)
        if began is not None and began != self._start:
            logger.warning(
                "upstream %s: start is %s, but it began with %s and goes on from where it is: start is for an upstream "
                "that is new to the store. To begin anew, remove it first (edgedepot upstream remove)",
                *(self.name, _text_of(self._start), _text_of(began)),
            )
        with self._changed:
            if self._thread is not None and self._thread.is_alive():
                if self._stopping:
                    raise StorageBusy(f"upstream {self.name!r}: the request before the stop is still not answered")
                return
            self._thread = threading.Thread(target=self._run, name=f"edgedepot-sync-{self.name}", daemon=True)
            self._stopping = False
            self._forwarder.note("idle")
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
        return self._forwarder.status()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with ExitStack() as at_end:
            at_end.callback(self._forwarder.note, "stopped")
            at_end.callback(self._close_forwarder)
            try:
                at_end.callback(self._store.watch(self._wake))
                while self._may_go_on():
                    with self._changed:
                        self._news = False  # before looking: what comes from here on is noticed
                    wait = self._forwarder.step()
                    if wait is not None:
                        self._sleep(wait)
            except Interrupted:
                pass
            except StorageClosed as exc:
                self._forwarder.note("stopped", str(exc))
                logger.info("upstream %s: forwarding ends, as the local store was closed", self.name)

    def _close_forwarder(self) -> None:
        with suppress(StorageError):  # the local store was closed, or cannot write: more is taken for spent then
            self._forwarder.close()

    def _sleep(self, wait: Wait) -> None:
        """Until it is time, or the wall clock was set: it may be a time of that one which is waited for."""
        ahead = self._ahead()
        with self._changed:
            while not self._stopping and not (wait.for_news and self._news):
                left = wait.until - self._clock.monotonic()
                if left <= 0 or abs(self._ahead() - ahead) > _STEP:
                    return
                self._clock.wait(self._changed, min(left, _LOOK))

    def _ahead(self) -> float:
        """Seconds by which the wall clock is ahead of the monotonic one: a step of it changes that."""
        return self._clock.now() / 1e6 - self._clock.monotonic()

    def _wake(self) -> None:
        """Called from the store's thread, which goes on also while ours waits for an answer."""
        with self._changed:
            self._news = True
            self._changed.notify_all()
        self._forwarder.look_after()

    def _may_go_on(self) -> bool:
        with self._changed:
            return not self._stopping


def _text_of(start: Start) -> str:
    return f'"{start}"' if isinstance(start, str) else f"readings from {start.isoformat()} on"
