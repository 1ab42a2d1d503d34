"""ORM style: `storage.readings(Model)`, a question that is put together step by step and asked when it is iterated."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.paging import just_after
from edgedepot.storage.query import Function, Scope, Selection
from edgedepot.storage.reading import Reading, device_id_of

if TYPE_CHECKING:
    import pandas

    from edgedepot.storage.base import BaseStorage

Model = TypeVar("Model", bound=Reading)


@dataclass(frozen=True, slots=True)
class Readings(Generic[Model]):
    """Readings of one model, as instances of it. Immutable: each step returns a new one; nothing is read before it is
    iterated or asked something. Iterating reads in pages, so any number of readings fits in memory.

        for reading in storage.readings(WeatherStation).filter(device="mast").order_by("-timestamp").limit(100):
            print(reading.timestamp, reading.temperature)
    """

    _storage: BaseStorage
    _model: type[Model]
    _device: object = None
    _start: datetime | None = None
    _end: datetime | None = None
    _limit: int | None = None
    _order: str = "-timestamp"

    def filter(
        self, *, device: object = None, start: datetime | None = None, end: datetime | None = None
    ) -> Readings[Model]:
        """Only those of a device, and those in ``[start, end)``; a second filter narrows the first.

        Raises `InvalidValue` for a naive datetime, and for a second, different device.
        """
        scope = Scope.of(self._model, device, start, end)
        if scope.device_id is not None and self._device is not None and scope.device_id != device_id_of(self._device):
            raise InvalidValue(f"filter: device {scope.device_id!r} after device {device_id_of(self._device)!r}")
        # In UTC: in a zone with changes Python compares by the clock on the wall.
        starts = [moment for moment in (self._start, _in_utc(scope.start)) if moment is not None]
        ends = [moment for moment in (self._end, _in_utc(scope.end)) if moment is not None]
        return replace(
            self,
            _device=self._device if device is None else device,
            _start=max(starts, default=None),
            _end=min(ends, default=None),
        )

    def order_by(self, order: str) -> Readings[Model]:
        """Ordered by a declared field, device_id or timestamp; ``-`` before it for descending. Newest first if never
        said."""
        return self._checked(replace(self, _order=order))

    def limit(self, limit: int | None) -> Readings[Model]:
        """At most so many."""
        return self._checked(replace(self, _limit=limit))

    @staticmethod
    def _checked(asked: Readings[Model]) -> Readings[Model]:
        Selection.of(Scope.of(asked._model, None, None, None), None, asked._limit, asked._order)
        return asked

    def __iter__(self) -> Iterator[Model]:
        return map(self._instance, self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        question = (self._model, self._device, self._start, self._end, self._fields(), self._limit, self._order)
        if self._order in ("timestamp", "-timestamp"):
            return self._storage.iter_readings(*question)
        return iter(self._storage.query_readings(*question))

    def _fields(self) -> list[str]:
        return [*(spec.name for spec in self._model.__fields__), "quality"]

    def _instance(self, row: dict[str, Any]) -> Model:
        return self._model(**row)

    def first(self) -> Model | None:
        """The first in this order, None where there is none."""
        return next(iter(replace(self, _limit=1 if self._limit is None else min(self._limit, 1))), None)

    def last(self) -> Model | None:
        """The last in this order, None where there is none. Ordered by a field, or with a limit, it reads them all."""
        if self._limit is None and self._order in ("timestamp", "-timestamp"):
            edge = replace(self, _order="-timestamp" if self._order == "timestamp" else "timestamp").first()
            if edge is None:
                return None
            moment = self.filter(start=edge.timestamp, end=just_after(edge.timestamp))
            return deque(moment, maxlen=1)[0]
        found = deque(self, maxlen=1)
        return found[0] if found else None

    def count(self) -> int:
        """How many there are."""
        found = self.aggregate("timestamp", "count")
        assert isinstance(found, dict)
        number: int = found["result"]
        return number if self._limit is None else min(number, self._limit)

    def aggregate(
        self, field: str, function: Function = "avg", *, tz: str = "UTC", group_by: Literal["device"] | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """As `BaseStorage.aggregate`, over these readings; a limit has no bearing on it."""
        return self._storage.aggregate(
            self._model, field, function, self._device, self._start, self._end, None, tz, group_by
        )

    def downsample(
        self,
        field: str,
        interval: str | timedelta,
        function: Function = "avg",
        *,
        tz: str = "UTC",
        group_by: Literal["device"] | None = None,
        fill: Literal["null", "previous"] | None = None,
    ) -> list[dict[str, Any]]:
        """As `BaseStorage.downsample`, over these readings; a limit has no bearing on it."""
        return self._storage.downsample(
            self._model,
            field,
            interval,
            function,
            device=self._device,
            start=self._start,
            end=self._end,
            tz=tz,
            group_by=group_by,
            fill=fill,
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a column for device_id, timestamp and each field. Raises `ConfigError` without pandas."""
        try:
            import pandas
        except ImportError as exc:
            raise ConfigError("to_pandas() needs pandas: pip install 'edgedepot[pandas]'") from exc
        names = ["device_id", "timestamp", *self._fields()]
        return pandas.DataFrame(([row.get(name) for name in names] for row in self._rows()), columns=names)


def _in_utc(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
