"""The contract of every storage, and of the local store that sync reads from."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import NotSupported
from edgedepot.storage.reading import Device, Reading
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.values import Row

Function = Literal["avg", "min", "max", "sum", "count", "first", "last"]
Data = Mapping[str, Any]


class Version(NamedTuple):
    """A row on its way upstream: the whole reading as it now stands, and the mark that orders versions of it.

    Of two versions of one identity the one with the greater ``(store_epoch, gateway_seq)`` is the newer.
    """

    device: str
    timestamp: datetime
    data: Data
    quality: int | None = None
    store_epoch: int = 0
    gateway_seq: int = 0


StoreRow = Version | tuple[object, datetime | None, Data]


class BaseStorage(abc.ABC):
    """A backend for readings. Own ones need `store_reading`, `query_readings` and `aggregate` only.

    Timestamps are aware datetimes, kept to the microsecond; ranges are half-open ``[start, end)``. All methods may be
    called from any thread; they block until the backend answered, but for writes, whose `Receipt` tells.
    """

    gateway_id: str | None = None
    """Whose readings these are. On a storage that many gateways share: None reads all, a name confines to it."""

    @abc.abstractmethod
    def store_reading(
        self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Data
    ) -> Receipt | None:
        """Store one reading; a timestamp of None is stamped by the store. Raises `InvalidValue` (ValueError)."""

    @abc.abstractmethod
    def query_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
        fields: Sequence[str] | None = None,
        limit: int | None = None,
        order: str = "-timestamp",
    ) -> list[dict[str, Any]]:
        """Readings as ``{"device_id", "timestamp", field...}``, newest first unless `order` says otherwise."""

    @abc.abstractmethod
    def aggregate(
        self,
        reading_model: type[Reading],
        field: str,
        function: Function = "avg",
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
        interval: str | timedelta | None = None,
        tz: str = "UTC",
        group_by: Literal["device"] | None = None,
        fill: Literal["null", "previous"] | None = None,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """``{"result": x}``; with an interval a list of ``{"bucket", "result"}``; grouped, with ``"device_id"`` too."""

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        """Store many: good rows are stored, bad ones are listed in the receipt's `refused`."""
        refused: list[Refusal] = []
        accepted = 0
        last: Receipt | None = None
        for index, row in enumerate(rows):
            try:
                last = self.store_reading(reading_model, row[0], row[1], row[2])
                accepted += 1
            except ValueError as exc:
                refused.append(Refusal(index, str(exc)))
        if last is not None:
            last.wait()
        return Receipt.settled(accepted, None, tuple(refused))

    def downsample(
        self,
        reading_model: type[Reading],
        field: str,
        interval: str | timedelta,
        function: Function = "avg",
        **more: Any,
    ) -> list[dict[str, Any]]:
        """`aggregate` with an interval; takes its other parameters too."""
        buckets = self.aggregate(reading_model, field, function, interval=interval, **more)
        assert isinstance(buckets, list)
        return buckets

    def delete_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> int | None:
        """Delete readings here (never upstream); the number, or None where the server cannot tell."""
        raise NotSupported(f"{type(self).__name__} cannot delete readings")

    def devices(self) -> list[Device]:
        """The devices known here, by id."""
        raise NotSupported(f"{type(self).__name__} keeps no devices")

    def health_check(self) -> dict[str, Any]:
        """``{"status": "pass" or "fail", "message", "version"}``; never raises for a backend that is down."""
        return {"status": "pass", "message": "no check of its own", "version": None}

    def flush(self) -> None:
        """Return when everything stored before is durable."""
        return None

    def close(self) -> None:
        """Flush and let go of all resources. May be called again."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Arrival(NamedTuple):
    """One reading from a driver, checked and ready to store. `timestamp` is in microseconds since 1970 UTC; `stamped`
    says that it is the gateway's own, which the store moves on by a microsecond where two would collide."""

    model: type[Reading]
    device_id: str
    timestamp: int
    stamped: bool
    row: Row


class Reject(NamedTuple):
    """Something that could not become a reading: a whole ``message``, a ``reading`` of one, or a ``field``."""

    kind: Literal["message", "reading", "field"]
    reason: str
    raw: bytes


@dataclass(slots=True)
class Intake:
    """What a source took in at one go; stored and counted in one transaction.

    ``messages = decoded + ignored + len(rejects of kind message)``; each arrival and each reject of kind reading is one
    reading decoded.
    """

    source: str
    messages: int = 0
    decoded: int = 0
    ignored: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class Pending(NamedTuple):
    """One durable row that an upstream has not acknowledged. `timestamp` is in microseconds since 1970 UTC."""

    seq: int
    model: type[Reading]
    device_id: str
    timestamp: int
    row: Row

    def version(self, store_epoch: int) -> Version:
        """The same, as storages take it."""
        names = (spec.name for spec in self.model.__fields__)
        data = {name: value for name, value in zip(names, self.row[1:], strict=True) if value is not None}
        return Version(self.device_id, from_micros(self.timestamp), data, self.row[0], store_epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch ``low <= seq <= high`` of the store's sequence with the rows in it that are still to be sent."""

    low: int
    high: int
    rows: list[Pending]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The books. `sources` and `upstreams` map names to counts by column; `problems` is empty when they balance."""

    sources: dict[str, dict[str, int]]
    upstreams: dict[str, dict[str, int]]
    problems: list[str]

    @property
    def balanced(self) -> bool:
        return not self.problems


class Buffer(abc.ABC):
    """A local store that drivers fill and sync empties. All methods may be called from any thread.

    A cursor is what one upstream has acknowledged. One worker uses a cursor at a time, so the order is: `pending`,
    send, `quarantine` what is refused for good, `acknowledge` the window, `pending` again.
    """

    gateway_id: str | None
    store_epoch: int

    @abc.abstractmethod
    def take_in(self, intake: Intake) -> Receipt:
        """Queue what a driver took in. Blocks while the queue is full; raises `StorageBusy` after its timeout, and
        then has taken nothing."""

    @abc.abstractmethod
    def add_cursor(self, name: str) -> None:
        """Make sure that a cursor of that name exists; a new one starts at the oldest row."""

    @abc.abstractmethod
    def cursors(self) -> list[str]:
        """The names of all cursors."""

    @abc.abstractmethod
    def pending(self, cursor: str, limit: int) -> Window | None:
        """The next window after what was acknowledged, oldest first, with at most `limit` rows, all durable; None when
        there is nothing. Asking again without acknowledging returns the same rows as they stand then."""

    @abc.abstractmethod
    def count_pending(self, cursor: str) -> int:
        """How many durable rows the cursor has not acknowledged."""

    @abc.abstractmethod
    def acknowledge(self, cursor: str, window: Window) -> None:
        """Note that every row of the window is resolved. Persisted with the next commit; does not block."""

    @abc.abstractmethod
    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        """Set rows aside that the upstream refuses for good. Call before acknowledging their window."""

    @abc.abstractmethod
    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from the store's thread, whenever new rows became durable; returns what ends that."""

    @abc.abstractmethod
    def ledger(self) -> Ledger:
        """The books as of the last commit, checked."""
