"""`Gateway`: drivers, the local store and its upstreams, started and stopped together.

Stopping goes with the stream, so that nothing is dropped on the way:

    drivers  ->  take in no more, hand over what they have, acknowledge it
    store    ->  flush: all of that is durable
    workers  ->  the requests in flight are awaited for a while; the rest stays pending in the store
    store    ->  close
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edgedepot.clock import GatewayClock, watch_of
from edgedepot.control import ControlServer, socket_path
from edgedepot.drivers.base import Driver
from edgedepot.forwarding import read_start
from edgedepot.names import driver_name_problem, name_problem
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Buffer, Inlet, Start
from edgedepot.storage.clock import Clock, from_micros
from edgedepot.storage.errors import ConfigError, InvalidValue, NotSupported, StorageBusy, StorageError
from edgedepot.storage.plain import PlainInlet
from edgedepot.storage.reading import Reading
from edgedepot.supervisor import Supervisor
from edgedepot.sync.limits import Limits, Rate, Size
from edgedepot.sync.settings import Duration
from edgedepot.sync.worker import SyncWorker
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.requests import Removed

log = logging.getLogger("edgedepot.gateway")

STOP_SECONDS = 10.0
"""How long a stop waits for the drivers, and then for the upstreams."""


class Gateway:
    """Drivers write into a local store, sync workers forward from it. Runs once: it is not started again after a stop.

    Without a `clock` it uses the storage's own, or with a path the system's, which it trusts once there is a reason to
    (see clock.py): what comes before that is stored, but forwarded only then.

    `store` is a path, where the store is made if there is none, or a storage; the gateway closes it in the end, as it
    does the upstreams. `gateway_id` goes with a path (a storage has its own) and is needed for forwarding.

    Build it from one thread; `status` and `stop` may be called from any. Raises `ConfigError`, and what opening the
    store raises.
    """

    def __init__(
        self,
        store: BaseStorage | str | os.PathLike[str],
        gateway_id: str | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = clock or getattr(store, "clock", None) or GatewayClock()
        self._store = _opened(store, gateway_id, self._clock)
        self._inlet: Inlet = self._store if isinstance(self._store, Buffer) else PlainInlet(self._store)
        self._supervisors: dict[str, Supervisor] = {}
        self._workers: dict[str, SyncWorker] = {}
        self._upstreams: dict[str, BaseStorage] = {}
        self._at_stop = ExitStack()
        self._lock = threading.Lock()  # held for the whole of a start or a stop
        self._removing = threading.Lock()
        self._started_at: int | None = None
        self._is_stopped = False
        # Not an Event: a signal handler may put into this queue while the thread it interrupts takes from it.
        self._asked_to_stop: SimpleQueue[None] = SimpleQueue()

    @property
    def store(self) -> BaseStorage:
        """The local store: query it, aggregate, store readings of your own."""
        return self._store

    def add(self, name: str, driver: Driver) -> None:
        """Read from a driver; its readings are booked under `name`. Raises `ConfigError`."""
        self._check_new("driver", name, self._supervisors, driver_name_problem(name))
        if not isinstance(driver, Driver):
            raise ConfigError(f"driver {name!r}: found {type(driver).__name__}, expected a Driver, such as MqttDriver")
        self._supervisors[name] = Supervisor(name, driver, self._inlet, self._clock)

    def forward_to(
        self,
        name: str,
        storage: BaseStorage,
        *,
        start: Start = "oldest",
        models: Iterable[type[Reading] | str] | None = None,
        devices: Iterable[str] | None = None,
        batch_size: int = 5000,
        max_rate: Rate | None = None,
        max_per_day: Size | None = None,
        windows: str | Iterable[str] | None = None,
        every: str | timedelta | None = None,
        backoff: tuple[Duration, Duration] = ("200 ms", "60s"),
    ) -> None:
        """Forward to a storage; `name` stands for what it has received, also when its address changes later. Raises
        `ConfigError`, for a store without a gateway_id and one that cannot be forwarded from among others.

        An upstream that is new to the store begins at `start`: with the oldest reading there is, "now", or with
        readings from an aware datetime on. It gets readings of these `models` (classes, or measurements by name) and of
        `devices` that are named so or match a pattern such as ``"pump-*"``; None is all. What it may cost (`max_rate`,
        `max_per_day`, `windows`, `every`), `batch_size` and `backoff` are the `SyncWorker`'s.
        """
        self._check_new("upstream", name, self._workers, name_problem(name))
        try:
            start = read_start(start)
        except InvalidValue as exc:
            raise ConfigError(f"upstream {name!r}: start: {exc}") from exc
        self._workers[name] = SyncWorker(
            self._store,  # type: ignore[arg-type]  # it refuses what is no Buffer, with the words for it
            name,
            storage,
            start=start,
            models=models,
            devices=devices,
            batch_size=batch_size,
            max_rate=max_rate,
            max_per_day=max_per_day,
            windows=windows,
            every=every,
            backoff=backoff,
            clock=self._clock,
        )
        self._upstreams[name] = storage

    def _check_new(self, kind: str, name: str, taken: Mapping[str, object], problem: str | None) -> None:
        if problem:
            raise ConfigError(f"{kind} {name!r}: {problem}")
        if name in taken:
            raise ConfigError(f"{kind} {name!r}: there is one of that name already")
        if self._started_at is not None:
            raise ConfigError(f"{kind} {name!r}: add it before the gateway starts")

    # -- running --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start, and block until SIGTERM, Ctrl-C or `stop()`; then stop in order.

        Signals are heard when it is called from the main thread.
        """
        with _signals(lambda: self._asked_to_stop.put(None)), self:
            self._asked_to_stop.get()
            if not self._is_stopped:  # by another thread, already
                log.info("%s is stopping: what is under way is awaited for at most %.0f s", self._title(), STOP_SECONDS)

    def start(self) -> None:
        """Start everything; returns at once. What cannot be reached is tried until it can."""
        with self._lock:
            if self._started_at is not None or self._is_stopped:
                raise ConfigError("this gateway was started before: make a new one")
            self._started_at = self._clock.now()
            with ExitStack() as undo:
                self._start_all(undo)
                self._at_stop = undo.pop_all()
        log.info(
            "%s is running: %s, %s",
            self._title(),
            counted(len(self._supervisors), "driver"),
            counted(len(self._workers), "upstream"),
        )

    def stop(self) -> None:
        """Stop in order; what does not answer is waited for `STOP_SECONDS`. Nothing that was taken in is lost: what no
        upstream has yet stays pending in the store. Raises `StorageError` when the store cannot write what is queued.

        Called a second time, it returns when the first is done.
        """
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            if self._started_at is None:
                self._at_stop.callback(self._store.close)
            try:
                self._at_stop.close()
            finally:
                self._asked_to_stop.put(None)

    def _start_all(self, undo: ExitStack) -> None:
        """Each step with its undoing, which happens in reverse order also when a later one fails."""
        undo.callback(self._store.close)
        undo.callback(self._close_upstreams)
        self._warn_of_orphans()
        path = getattr(self._store, "path", None)
        if isinstance(path, Path):
            control = ControlServer(socket_path(path), self)
            control.start()
            undo.callback(control.stop)
        sparing = [name for name, worker in self._workers.items() if worker.limits != Limits()]
        watch = watch_of(self._clock, self._upstreams, self._store.flush, sparing)
        if watch is not None:
            watch.start()
            undo.callback(watch.stop)
        undo.callback(self._say_what_is_pending)
        undo.callback(self._stop_workers)
        undo.callback(self._flush)
        undo.callback(self._stop_drivers)
        for worker in self._workers.values():
            worker.start()
        for supervisor in self._supervisors.values():
            supervisor.start()

    def _stop_drivers(self) -> None:
        for supervisor in self._supervisors.values():
            supervisor.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for name, supervisor in self._supervisors.items():
            if not supervisor.join(max(0.0, deadline - time.monotonic())):
                log.warning("%s: did not stop within %.0f s and is left behind", name, STOP_SECONDS)

    def _flush(self) -> None:
        """Give the store some time to write what is queued. Closing it writes too, and raises where that fails."""
        flushing = threading.Thread(target=self._flush_store, name="edgedepot-flush", daemon=True)
        flushing.start()
        flushing.join(STOP_SECONDS)

    def _flush_store(self) -> None:
        with suppress(StorageError):
            self._store.flush()

    def _stop_workers(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers.values():
            worker.stop(max(1.0, deadline - time.monotonic()))

    def _close_upstreams(self) -> None:
        for name, upstream in self._upstreams.items():
            _close_upstream(name, upstream)

    def _warn_of_orphans(self) -> None:
        if not isinstance(self._store, Buffer):
            return
        for name in self._store.cursors():
            pending = 0 if name in self._workers else self._store.count_pending(name)
            if pending:
                log.warning("upstream %s is not set up any more; pending for it: %s", name, counted(pending, "reading"))

    def _say_what_is_pending(self) -> None:
        if not self._is_stopped:  # but undone, as the start failed
            return
        waiting = [f"{self._pending(name)} for {name}" for name in self._workers]
        log.info("%s stopped; pending: %s", self._title(), ", ".join(waiting) or "nothing, as there is no upstream")

    def _pending(self, name: str) -> int:
        assert isinstance(self._store, Buffer)  # or no worker would be there
        return self._store.count_pending(name)

    def remove_upstream(self, name: str) -> Removed:
        """Forget an upstream, what is pending for it and what is quarantined; a running gateway stops forwarding to it
        first. A later `forward_to` of that name begins anew.

        Blocks until that is committed. Raises `InvalidValue` where there is none of that name, and `StorageBusy` while
        it does not answer the request in flight: then nothing is removed, and nothing more is sent until a restart.
        """
        from edgedepot.requests import remove_cursor  # here, as most gateways are left alone

        if not isinstance(self._store, Buffer):
            raise NotSupported(f"a {type(self._store).__name__} has no upstreams")
        with self._removing:
            worker = self._workers.get(name)
            if worker is None:
                return remove_cursor(self._store, name)
            if not worker.stop(STOP_SECONDS):
                raise StorageBusy(
                    f"upstream {name}: its answer to the last request is awaited still, so it was not removed; nothing "
                    "more is sent to it before a restart. Try again"
                )
            removed = remove_cursor(self._store, name, was_set_up=True)
            # Replaced, not changed: other threads may be going through them.
            self._workers = {other: kept for other, kept in self._workers.items() if other != name}
            upstream = self._upstreams[name]
            self._upstreams = {other: kept for other, kept in self._upstreams.items() if other != name}
        _close_upstream(name, upstream)
        log.info("upstream %s was removed; pending for it were %s", name, counted(removed.pending, "reading"))
        return removed

    # -- looking on -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """How everything stands, as plain values: times as ISO text with zone, ages and waits in seconds.

        ``{"gateway_id", "pid", "started", "clock": {"trusted"}, "store": {"status", "message"[, "warning"]},
        "drivers": {name: {...}}, "upstreams": {name: {...}}}``
        """
        health = self._store.health_check()
        return {
            "gateway_id": self._store.gateway_id,
            "pid": os.getpid(),
            "started": _iso(self._started_at),
            "clock": {"trusted": self._clock.trusted},
            "store": {name: health[name] for name in ("status", "message", "warning") if name in health},
            "drivers": {name: supervisor.status() for name, supervisor in self._supervisors.items()},
            "upstreams": {name: self._upstream_status(name, worker) for name, worker in self._workers.items()},
        }

    def _upstream_status(self, name: str, worker: SyncWorker) -> dict[str, Any]:
        found = worker.status()
        retry_in = None if found.retry_at is None else max(0.0, found.retry_at - self._clock.monotonic())
        return {
            "state": found.state,
            "pending": self._pending(name) if self._is_running else None,
            "lag": round(found.lag, 1),
            "eta": None if found.eta is None else round(found.eta, 1),
            "limited_by": found.limited_by,
            "spent_today": found.spent_today,
            "per_day": found.per_day,
            "delivered": found.delivered,
            "last_delivery": _iso(found.last_delivery),
            "last_error": found.last_error,
            "alarm": found.alarm,
            "retry_in": retry_in,
            "requests": found.requests,
            "faults": found.faults,
        }

    @property
    def _is_running(self) -> bool:
        return self._started_at is not None and not self._is_stopped

    def _title(self) -> str:
        return f"gateway {self._store.gateway_id}" if self._store.gateway_id else "gateway"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _opened(store: object, gateway_id: str | None, clock: Clock) -> BaseStorage:
    if gateway_id is not None and name_problem(gateway_id):
        raise ConfigError(f"gateway_id {gateway_id!r}: {name_problem(gateway_id)}")
    if isinstance(store, (str, os.PathLike)):
        from edgedepot.storage.sqlite.storage import SQLiteStorage

        return SQLiteStorage(store, gateway_id=gateway_id, clock=clock)
    if not isinstance(store, BaseStorage):
        raise ConfigError(f"store: found {type(store).__name__}, expected a path or a storage such as SQLiteStorage")
    if gateway_id not in (None, store.gateway_id):
        raise ConfigError(f"gateway_id: found {gateway_id!r}, but the storage has {store.gateway_id!r}; give it there")
    return store


def _close_upstream(name: str, upstream: BaseStorage) -> None:
    """An upstream that cannot be closed in order must not keep the rest from it."""
    try:
        upstream.close()
    except StorageError as exc:
        log.warning("upstream %s was not closed in order: %s", name, exc)


def _iso(micros: int | None) -> str | None:
    return None if micros is None else from_micros(micros).isoformat(timespec="seconds")


@contextmanager
def _signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C call `on_signal`; only the main thread can hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: on_signal()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
