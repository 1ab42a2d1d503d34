"""The contract of every storage, and of the local store that sync reads from."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import NotSupported
from edgedepot.storage.given_up import GivenUp
from edgedepot.storage.paging import Position, iterate
from edgedepot.storage.query import Function, Scope, Selection
from edgedepot.storage.reading import Device, Reading, check_model
from edgedepot.storage.readings import Model, Readings
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.values import Data as Data
from edgedepot.storage.values import Row
from edgedepot.storage.wire import Waits


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


Start = Literal["oldest", "now"] | datetime
"""Where a new upstream begins."""
Lane = Literal["backlog", "live"]
"""What of an upstream's pending rows: the oldest first, or the fresh ones beside them."""
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
        """Store many: good rows are stored, bad ones are listed in the receipt's `refused`.

        This one stores them one by one, and returns when all are durable. A `Version` goes along as ``version=`` where
        `store_reading` takes that.
        """
        refused: list[Refusal] = []
        receipts: list[Receipt | None] = []
        with_version = takes_version(type(self).store_reading)
        for index, row in enumerate(rows):
            more = {"version": row} if with_version and isinstance(row, Version) else {}
            try:
                device, timestamp, data = row[:3]
                receipts.append(self.store_reading(reading_model, device, timestamp, data, **more))
            except ValueError as exc:
                refused.append(Refusal(index, str(exc)))
        for receipt in receipts:
            if receipt is not None:
                receipt.wait()
        return Receipt.settled(len(receipts), None, tuple(refused))

    def iter_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
        fields: Sequence[str] | None = None,
        limit: int | None = None,
        order: str = "-timestamp",
        *,
        after: Position | None = None,
    ) -> Iterator[dict[str, Any]]:
        """As `query_readings`, lazily: a page at a time, each read by itself, so it is no snapshot.

        `order` is by timestamp. `after` goes on behind a row: its ``(timestamp, gateway_id, device_id)``, with a
        gateway_id of None where rows carry none.
        """
        selection = Selection.of(Scope.of(reading_model, device, start, end), fields, limit, order)

        def ask(low: datetime | None, high: datetime | None, size: int) -> list[dict[str, Any]]:
            return self.query_readings(reading_model, device, low, high, fields, size, order)

        return iterate(ask, selection, after)

    def readings(self, reading_model: type[Model]) -> Readings[Model]:
        """The readings of a model, ORM style: lazy, and typed instances of the model."""
        check_model(reading_model)
        return Readings(self, reading_model)

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

    def save_device(self, device: Device) -> None:
        """Keep a device's name and metadata; what was seen of it is not for the caller to say."""
        raise NotSupported(f"{type(self).__name__} keeps no devices")

    def health_check(self) -> dict[str, Any]:
        """``{"status": "pass" or "fail", "message", "version"}``; never raises for a backend that is down. A failure of
        which waiting is no cure, such as a wrong address or token, has ``"error": "Misconfigured"`` too."""
        return {"status": "pass", "message": "no check of its own", "version": None}

    def server_time(self) -> datetime | None:
        """What the backend's own clock says, None where it has none that is worth asking. Raises `StorageError`."""
        return None

    def wire_bytes(self) -> int | None:
        """The bytes that this object has sent to its backend and received from it so far, by any call; None where it
        does not count them. Limits of upstreams go by it. Does not block."""
        return None

    def wire_waits(self) -> Waits | None:
        """For how long the calls of this object have waited for the link and for its backend so far; None where it does
        not tell. The status of upstreams goes by it. Does not block."""
        return None

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


@lru_cache(maxsize=64)
def takes_version(store_reading: Callable[..., Any]) -> bool:
    """Whether a `store_reading` can be given ``version=``: an own one need not know of versions."""
    parameters = inspect.signature(store_reading).parameters.values()
    return any(one.name == "version" or one.kind is one.VAR_KEYWORD for one in parameters)


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
    reading decoded. `unchecked_at` is the gateway's time when it came, where that was not trusted then: whether the
    devices' times can be right is for the store to find out, once it knows the time.
    """

    source: str
    messages: int = 0
    decoded: int = 0
    ignored: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    unchecked_at: int | None = None


class Inlet(Protocol):
    """What drivers write into: a `Buffer`, or a `PlainInlet` of another storage."""

    @property
    def gateway_id(self) -> str | None:
        """Whose readings these are."""
        ...

    def take_in(self, intake: Intake) -> Receipt:
        """Take in what a driver read. Blocks while there is no room; raises the storage's errors, and then has taken
        nothing for sure."""
        ...


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


WINDOW_BYTES = 4 << 20
"""The values of a window take about so many bytes at most."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch ``low <= seq <= high`` of the store's sequence with the rows in it that are still to be sent.

    Two kinds have no such stretch, and `low` and `high` are 0: rows that are older than the sequence, where `place`
    says how far into history they go; and rows that were quarantined and are sent once more, where `replayed` is true.
    """

    low: int
    high: int
    rows: list[Pending]
    place: tuple[int, int, int, int] | None = None
    replayed: bool = False
    skipped: int = 0
    """How many readings of the stretch others in it stand for, as with averages; the books count them as skipped."""
    every: int = 0
    """Over how many microseconds each row is an average; 0 where rows are readings. No reading of a stretch of averages
    arrives as itself, also where it stands alone."""
    is_full: bool = False
    """Whether the stretch ends here because no more rows have room in a window."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which readings an upstream gets: of these measurements, from devices that match one of these patterns
    (``*`` and ``?`` as in file names). None is all."""

    measurements: frozenset[str] | None = None
    devices: tuple[str, ...] | None = None

    def takes(self, measurement: str, device_id: str) -> bool:
        """Whether it gets a device's readings."""
        if self.measurements is not None and measurement not in self.measurements:
            return False
        return self.devices is None or any(fnmatchcase(device_id, pattern) for pattern in self.devices)


EVERYTHING = Choice()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The books. `sources` and `upstreams` map names to counts by column; `problems` is empty when they balance.
    `given_up` says of what time the thinned and evicted readings of each upstream were, the latest last."""

    sources: dict[str, dict[str, int]]
    upstreams: dict[str, dict[str, int]]
    problems: list[str]
    given_up: list[GivenUp] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return not self.problems


class Buffer(abc.ABC):
    """A local store that drivers fill and sync empties. All methods may be called from any thread.

    A cursor is what one upstream has acknowledged. One worker uses a cursor at a time, so the order is: `pending`,
    send, `quarantine` what is refused for good, `acknowledge` the window, `pending` again. A window that was handed out
    and not acknowledged is handed out again, as its rows stand then.

    An upstream that has fallen behind may `split` what it is owed into two lanes:

        acknowledged         backlog              acknowledged       live
        |-----------|.........................|---------------|...............|
                                              ^ split                         ^ last durable row
    """

    gateway_id: str | None

    @classmethod  # noqa: B027 - who has nothing to look at says nothing
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise the `ConfigError` that the constructor would with these arguments, and open nothing."""

    @property
    @abc.abstractmethod
    def store_epoch(self) -> int:
        """Rises whenever numbers that were given out may be given out again."""

    def epoch_of(self, seq: int) -> int:
        """The epoch in which a row was written: of two versions the one with the greater ``(epoch, seq)`` is newer."""
        return self.store_epoch

    @abc.abstractmethod
    def take_in(self, intake: Intake) -> Receipt:
        """Queue what a driver took in. Blocks while the queue is full; raises `StorageBusy` after its timeout, and
        then has taken nothing."""

    @abc.abstractmethod
    def add_cursor(self, name: str, start: Start = "oldest", choice: Choice = EVERYTHING) -> Start | None:
        """Make sure that a cursor of that name exists. A new one starts at the oldest row, or "now", or at a time: then
        older readings, also ones that come later, are not handed out but counted as skipped. So are, from now until the
        next call, readings outside the choice. Returns where it began, which is another start than the one given where
        the name was known before; None where that is not known. Raises `InvalidValue`."""

    @abc.abstractmethod
    def remove_cursor(self, name: str) -> int:
        """Forget a cursor and what is quarantined for it; how many rows were pending. Raises `InvalidValue` where there
        is none of that name."""

    @abc.abstractmethod
    def cursors(self) -> list[str]:
        """The names of all cursors."""

    @abc.abstractmethod
    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        """The oldest window of a lane, with at most `limit` rows, all durable, and fewer where they are so large that
        they take over about `WINDOW_BYTES`, and `is_full` in either case; None when there is nothing. Without a split
        all is backlog. A window without rows is to be acknowledged like any other. Asking again without acknowledging
        returns the same rows as they stand then."""

    def read_ahead(self, cursor: str, limit: int, lane: Lane, out: Window) -> None:
        """Have ready what lies in a lane behind a window that is out: the next `pending` returns what it would without
        this, but sooner. For the time in which the upstream works; blocks for as long as `pending` does."""
        return None

    @abc.abstractmethod
    def split(self, cursor: str) -> None:
        """What is durable by now is backlog, what comes from here on is live. Ends by itself when the backlog is done.
        A restart finds the lanes as far as they were acknowledged. Nothing happens while a cursor has acknowledged so
        many ranges that one more gap would be too many to keep."""

    @abc.abstractmethod
    def is_split(self, cursor: str) -> bool:
        """Whether it has two lanes, the live one maybe empty. From memory."""

    @abc.abstractmethod
    def waiting(self, cursor: str, lane: Lane) -> int:
        """About how many rows wait in a lane: never fewer than there are. From memory, so it may be asked often."""

    @abc.abstractmethod
    def count_pending(self, cursor: str) -> int:
        """How many rows the cursor has not acknowledged."""

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

    def between(self, model: type[Reading], device_id: str, low: int, high: int) -> list[tuple[int, Row]]:
        """A device's committed readings with times in ``[low, high)``, in order: each with its time, both in
        microseconds since 1970 UTC. For averages."""
        raise NotSupported(f"{type(self).__name__} cannot look readings up by time, so only all of them are forwarded")

    def remember(self, key: str, text: str) -> Receipt | None:
        """Keep a short text, which replaces the one before. Does not block: it is kept when the receipt is durable, or
        is where there is none."""
        raise NotSupported(f"{type(self).__name__} keeps no notes, as a limit of bytes a day needs")

    def recall(self, key: str) -> str | None:
        """What was remembered and committed, None where nothing was. Does not wait for what is not yet."""
        raise NotSupported(f"{type(self).__name__} keeps no notes, as a limit of bytes a day needs")
