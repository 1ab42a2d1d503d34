"""Stores and upstreams for the tests of reconcile."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.base import BaseStorage, Data
from edgedepot.storage.buffer import Lane
from edgedepot.storage.clock import ManualClock, SystemClock
from edgedepot.storage.errors import DataRefused, NotSupported
from edgedepot.storage.query import Function
from edgedepot.storage.rows import aggregate_rows, make_row, select_rows
from edgedepot.sync.averages import Averages
from edgedepot.sync.budget import Budget
from edgedepot.sync.delivery import Delivery
from edgedepot.sync.limits import Limits

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=10)
DAYS = 6
PER_DAY = 144
Identity = tuple[str, str, datetime]


class Weather(Reading):
    temperature: float
    raining: bool | None = None
    note: str | None = None


class Power(Reading):
    watts: int


class Own(BaseStorage):
    """A user's own storage: the three methods, no versions. `calls` counts reads; `refuses` says of which values."""

    def __init__(self, can_aggregate: bool = True) -> None:
        self.kept: dict[Identity, dict[str, Any]] = {}
        self.can_aggregate = can_aggregate
        self.calls = 0
        self.stored: list[Identity] = []
        self.refuses: Callable[[Data], bool] = lambda data: False
        self.error: Exception | None = None

    def store_reading(
        self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Data
    ) -> None:
        assert timestamp is not None
        if self.error is not None:
            raise self.error
        if self.refuses(data):
            raise DataRefused(f"will not have {data}")
        identity = (reading_model.__measurement__, str(device), timestamp)
        self.stored.append(identity)
        self.kept[identity] = make_row(reading_model, device, timestamp, data)

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        self.calls += 1
        return select_rows(self._rows(reading_model), reading_model, *args, **more)

    def aggregate(
        self, reading_model: type[Reading], field: str, function: Function = "avg", *args: Any, **more: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        if not self.can_aggregate:
            raise NotSupported("no aggregates here")
        self.calls += 1
        return aggregate_rows(self._rows(reading_model), reading_model, field, function, *args, **more)

    def _rows(self, model: type[Reading]) -> list[dict[str, Any]]:
        return [row for (name, _, _), row in self.kept.items() if name == model.__measurement__]


def moment(number: int) -> datetime:
    return START + number * STEP


def readings(count: int = DAYS * PER_DAY) -> list[tuple[type[Reading], str, datetime, dict[str, Any]]]:
    numbers = random.Random(7)
    rows: list[tuple[type[Reading], str, datetime, dict[str, Any]]] = []
    for number in range(count):
        for device in ("mast", "roof (north)"):
            data = {"temperature": numbers.uniform(-20, 40), "raining": number % 3 == 0 or None}
            rows.append((Weather, device, moment(number), data))
        if number % 2:
            rows.append((Power, "inverter", moment(number), {"watts": numbers.randrange(-(10**15), 10**15)}))
    return rows


def fill(store: SQLiteStorage, rows: list[tuple[type[Reading], str, datetime, dict[str, Any]]]) -> None:
    for model in (Weather, Power):
        store.store_readings(model, [(device, at, data) for one, device, at, data in rows if one is model]).wait()


def forward(store: SQLiteStorage, upstream: BaseStorage, limit: int | None = None, name: str = "central") -> None:
    """Deliver what is pending, or the first windows up to so many rows."""
    delivery = Delivery(store, name, upstream, SystemClock(), lambda: True)
    upstream.gateway_id = store.gateway_id
    while limit is None or limit > 0:
        window = store.pending(name, 500 if limit is None else min(500, limit))
        if window is None:
            break
        delivery.deliver(window)
        limit = None if limit is None else limit - len(window.rows)
    store.flush()


def forward_averages(
    store: SQLiteStorage, upstream: BaseStorage, every: str, limit: int, windows: int = 1000, lane: Lane = "backlog"
) -> None:
    """As `forward`, but of each interval its average alone goes, in windows of at most `limit` rows."""
    end = ManualClock(START + timedelta(days=90))
    limits = Limits.of("central", every=every)
    averages = Averages(store, limits.every or 0, end, Budget(limits, store, "central", upstream, end))
    delivery = Delivery(store, "central", upstream, end, lambda: True)
    upstream.gateway_id = store.gateway_id
    for _ in range(windows):
        window = store.pending("central", limit, lane)
        if window is None:
            break
        delivery.deliver(averages.of(window, limit, lambda rows: store.pending("central", rows, lane)))
        store.flush()


def lose(own: Own, which: Callable[[Identity], bool]) -> list[Identity]:
    lost = [identity for identity in own.kept if which(identity)]
    for identity in lost:
        del own.kept[identity]
    return sorted(lost)


LOSSES: dict[str, Callable[[Identity], bool]] = {
    "one": lambda identity: identity == ("weather", "mast", moment(300)),
    "random rows": lambda identity: hash_of(identity) % 17 == 0,
    "a day": lambda identity: identity[2].date() == datetime(2026, 1, 3, tzinfo=UTC).date(),
    "a device": lambda identity: identity[1] == "roof (north)",
    "a model": lambda identity: identity[0] == "power",
    "the last hour": lambda identity: identity[2] >= moment(DAYS * PER_DAY - 6),
    "everything": lambda identity: True,
}


def hash_of(identity: Identity) -> int:
    return random.Random(repr(identity)).randrange(10**6)
