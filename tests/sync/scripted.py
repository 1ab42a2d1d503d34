"""What the sync tests are built from: an upstream that follows a script, a store that tells what it was asked, a clock
that only the test moves."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from edgedepot import Reading, SyncWorker, Version
from edgedepot.storage.base import BaseStorage, Data, StoreRow
from edgedepot.storage.buffer import Lane, Pending, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import DataRefused, NotSupported
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.sqlite.storage import SQLiteStorage

DEADLINE = 20.0
START = datetime(2026, 1, 1, tzinfo=UTC)


class Weather(Reading):
    temperature: float
    humidity: float | None = None


class Power(Reading):
    watts: float


def moment(number: int) -> datetime:
    return START + timedelta(seconds=number)


def eventually(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "did not happen within the deadline"
        threading.Event().wait(0.001)


@dataclass(frozen=True)
class Fail:
    """The answer to a request: this error; with `applied`, after everything was stored (the answer got lost)."""

    error: Exception
    applied: bool = False


class Accept:
    """The answer to a request: stored, as far as the rows are good."""


ACCEPT = Accept()
Answer = Accept | Fail
Identity = tuple[str, str, datetime]


@dataclass
class Request:
    model: type[Reading]
    rows: list[Version]


@dataclass
class ScriptedUpstream(BaseStorage):
    """Answers requests as `script` says, then accepts. Keeps the newest version of each identity.

    `refuses` gives the reason why a row is refused, None for a good one. Bad rows have the whole request refused, or
    are `listed` in the receipt, which then is as a bundled storage's. `open` holds requests up while it is not set.
    """

    script: deque[Answer] = field(default_factory=deque)
    refuses: Callable[[Version], str | None] = lambda row: None
    listed: bool = False
    gateway_id: str | None = None
    requests: list[Request] = field(default_factory=list)
    kept: dict[Identity, Version] = field(default_factory=dict)
    duplicates: int = 0
    open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        versions = [row for row in rows if isinstance(row, Version)]
        self.requests.append(Request(reading_model, versions))
        assert self.open.wait(DEADLINE)
        answer = self.script.popleft() if self.script else ACCEPT
        if isinstance(answer, Fail) and not answer.applied:
            raise answer.error
        refused = self._apply(reading_model, versions)
        if isinstance(answer, Fail):
            raise answer.error
        return Receipt.settled(len(versions) - len(refused), None, refused)

    def _apply(self, model: type[Reading], versions: Sequence[Version]) -> tuple[Refusal, ...]:
        reasons = {index: reason for index, row in enumerate(versions) if (reason := self.refuses(row)) is not None}
        if reasons and not self.listed:
            raise DataRefused(next(iter(reasons.values())))
        for index, row in enumerate(versions):
            if index not in reasons:
                self._keep(model, row)
        return tuple(Refusal(index, reason) for index, reason in reasons.items())

    def _keep(self, model: type[Reading], row: Version) -> None:
        identity = (model.__measurement__, row.device, row.timestamp)
        old = self.kept.get(identity)
        self.duplicates += old == row
        if old is None or (row.store_epoch, row.gateway_seq) > (old.store_epoch, old.gateway_seq):
            self.kept[identity] = row

    def store_reading(
        self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Data
    ) -> Receipt | None:
        raise NotSupported("sync sends many")

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        raise NotSupported("the tests look into `kept`")

    def aggregate(self, reading_model: type[Reading], *args: Any, **more: Any) -> dict[str, Any]:
        raise NotSupported("the tests look into `kept`")


class TellingStore(SQLiteStorage):
    """The local store, with a record of what sync asked of it."""

    windows: list[Window | None]
    read_before: list[tuple[int, Lane, Window]]
    refusals: list[tuple[Pending, str]]

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        window = super().pending(cursor, limit, lane)
        self.windows.append(window)
        return window

    def read_ahead(self, cursor: str, limit: int, lane: Lane, out: Window) -> None:
        super().read_ahead(cursor, limit, lane, out)
        self.read_before.append((limit, lane, out))

    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        super().quarantine(cursor, rows, reason)
        self.refusals += [(row, reason) for row in rows]


def open_store(path: Any, **more: Any) -> TellingStore:
    store = TellingStore(path, gateway_id="g", **more)
    store.windows = []
    store.read_before = []
    store.refusals = []
    return store


class HandClock(ManualClock):
    """Stands still until the test moves it, which it does only while no waiter is on the point of lying down.

    `lain` are the times in seconds for which somebody lay down to wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lain: list[float | None] = []
        self._bed: threading.Condition | None = None

    def wait(self, condition: threading.Condition, timeout: float | None) -> bool:
        self.lain.append(timeout)
        self._bed = condition
        return super().wait(condition, timeout)

    def advance(self, seconds: float) -> None:
        eventually(lambda: self._bed is not None)
        assert self._bed is not None
        with self._bed:
            super().advance(seconds)


def fill(store: SQLiteStorage, count: int, *, start: int = 0, device: str = "mast") -> None:
    """Store readings whose temperature is their number, durably."""
    rows = [(device, moment(number), {"temperature": float(number)}) for number in range(start, start + count)]
    store.store_readings(Weather, rows).wait()


def temperatures(upstream: ScriptedUpstream) -> list[float]:
    """The temperatures that the upstream holds, sorted."""
    return sorted(row.data["temperature"] for row in upstream.kept.values())


def numbers(count: int) -> list[float]:
    return [float(number) for number in range(count)]


def failing(*errors: Exception) -> deque[Answer]:
    return deque(Fail(error) for error in errors)


def until(worker: SyncWorker, state: str) -> None:
    eventually(lambda: worker.status().state == state)


def step_through_waits(worker: SyncWorker, clock: HandClock, count: int) -> list[float]:
    """Let the worker wait so many times; how long each time, in seconds."""
    waits: list[float] = []
    for _ in range(count):
        eventually(lambda: worker.status().retry_at is not None)
        requests, retry_at = worker.status().requests, worker.status().retry_at
        assert retry_at is not None
        waits.append(retry_at - clock.monotonic())
        clock.advance(waits[-1])
        eventually(lambda: worker.status().requests > requests)  # noqa: B023 - called before the next turn
    return waits
