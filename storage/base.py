"""The contract of every storage."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from edgedepot.storage.errors import NotSupported
from edgedepot.storage.paging import Position, iterate
from edgedepot.storage.query import Function, Scope, Selection
from edgedepot.storage.reading import Device, Reading, check_model
from edgedepot.storage.readings import Model, Readings
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.values import Data as Data
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
