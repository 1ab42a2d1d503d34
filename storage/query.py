"""What a query asks, checked once for every backend; and the filling of empty buckets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal, get_args

from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import Interval, labelled, zone_of
from edgedepot.storage.reading import FieldSpec, Reading, check_model, device_id_of, field_of

Function = Literal["avg", "min", "max", "sum", "count", "first", "last"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)
_NUMERIC = ("avg", "sum", "min", "max")
_DEVICE = FieldSpec("device_id", str, True)
_TIMESTAMP = FieldSpec("timestamp", datetime, True)
_FIXED = {spec.name: spec for spec in (_DEVICE, _TIMESTAMP)}
_TIME_EDGES = (("min", _TIMESTAMP), ("max", _TIMESTAMP))
FILL_LIMIT = 1_000_000
"""How many buckets a filled answer may have, of all devices together."""
_NO_LIMIT = 2**63 - 1
_FIRST, _LAST = to_micros(datetime.min.replace(tzinfo=UTC)), to_micros(datetime.max.replace(tzinfo=UTC))


def micros_of(moment: object, what: str = "timestamp") -> int:
    """Microseconds since 1970 UTC of an aware datetime. Raises `InvalidValue` for a naive one: never a guess; and for
    one that is not within the years 1 to 9999 in UTC, which could not be read back."""
    if not isinstance(moment, datetime):
        raise InvalidValue(f"{what} is {moment!r}, expected an aware datetime")
    if moment.tzinfo is UTC:
        return to_micros(moment)  # every row takes this way
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidValue(f"{what} {moment.isoformat()} has no time zone, expected an aware datetime")
    micros = to_micros(moment)
    if not _FIRST <= micros <= _LAST:
        raise InvalidValue(f"{what} {moment.isoformat()} is outside the years 1 to 9999 in UTC")
    return micros


@dataclass(frozen=True, slots=True)
class Scope:
    """Which readings: of a model, of one device or all, in ``[start, end)`` microseconds, None for open."""

    model: type[Reading]
    device_id: str | None
    start: int | None
    end: int | None

    @classmethod
    def of(cls, model: object, device: object, start: object, end: object) -> Scope:
        """Check the arguments of a call. Raises `InvalidValue`."""
        return cls(
            check_model(model),
            None if device is None else device_id_of(device),
            None if start is None else micros_of(start, "start"),
            None if end is None else micros_of(end, "end"),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """A `query_readings` call. `columns` are the fields to return beside device_id and timestamp."""

    scope: Scope
    columns: tuple[str, ...]
    limit: int | None
    order: str
    descending: bool

    @classmethod
    def of(cls, scope: Scope, fields: Sequence[str] | None, limit: int | None, order: str) -> Selection:
        """Check the arguments of a call. Raises `InvalidValue`."""
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidValue(f"limit is {limit!r}, expected None or a whole number from 0")
        if not isinstance(order, str):
            raise InvalidValue(f"order is {order!r}, expected a name, with '-' before it for descending")
        name = order.removeprefix("-")
        column_of(scope.model, name)
        limit = None if limit is None or limit > _NO_LIMIT else limit  # no database takes more than 64 bits
        return cls(scope, _columns(scope.model, fields), limit, name, order.startswith("-"))


def column_of(model: type[Reading], name: object) -> FieldSpec:
    """A declared field, or device_id or timestamp. Raises `InvalidValue` for any other name."""
    return _FIXED[name] if isinstance(name, str) and name in _FIXED else field_of(model, name)


def _columns(model: type[Reading], fields: Sequence[str] | None) -> tuple[str, ...]:
    if fields is None:
        return tuple(spec.name for spec in model.__fields__)
    is_list = isinstance(fields, Collection) and not isinstance(fields, str)
    if not is_list or not all(isinstance(name, str) for name in fields):
        raise InvalidValue(f"fields is {fields!r}, expected a list of names")
    wanted = [name for name in dict.fromkeys(fields) if name not in _FIXED]
    return tuple(name if name == "quality" else field_of(model, name).name for name in wanted)


@dataclass(frozen=True, slots=True)
class Aggregation:
    """An `aggregate` call."""

    scope: Scope
    field: FieldSpec
    function: Function
    interval: Interval | None
    zone: tzinfo
    by_device: bool
    fill: str | None

    @classmethod
    def of(
        cls,
        scope: Scope,
        field: str,
        function: str,
        interval: str | timedelta | None,
        tz: str,
        group_by: str | None,
        fill: str | None,
    ) -> Aggregation:
        """Check the arguments of a call. Raises `InvalidValue`."""
        spec = column_of(scope.model, field)
        if function not in FUNCTIONS:
            raise InvalidValue(f"function is {function!r}, expected one of {', '.join(FUNCTIONS)}")
        if function in _NUMERIC and spec.type not in (float, int) and (function, spec) not in _TIME_EDGES:
            raise InvalidValue(
                f"{function} needs a float or int field; {field} is {spec.type.__name__} (count, first, last work)"
            )
        if group_by not in (None, "device"):
            raise InvalidValue(f"group_by is {group_by!r}, expected 'device' or None")
        if fill not in (None, "null", "previous"):
            raise InvalidValue(f"fill is {fill!r}, expected 'null', 'previous' or None")
        width = None if interval is None else Interval.parse(interval)
        zone = zone_of(tz)  # also where it is of no account: it may be misspelt
        if width is not None and not width.is_calendar:
            zone = UTC
        return cls(scope, spec, function, width, zone, group_by == "device", fill)

    def label(self, bucket: int) -> datetime:
        """A bucket's start as it is returned: an aware datetime, in the zone of the call."""
        return labelled(bucket, self.zone)

    def answer(self, found: list[tuple[str | None, int | None, Any]]) -> dict[str, Any] | list[dict[str, Any]]:
        """The public answer from ``(device_id, bucket, result)`` rows, ordered by both; None where not asked for.

        Buckets without values are absent from `found`; they are filled here where the call says so.
        """
        if self.interval is None:
            if self.by_device:
                return [{"device_id": device, "result": result} for device, _, result in found]
            return {"result": found[0][2]} if found else {"result": self._of_nothing()}
        groups: dict[str | None, dict[int, Any]] = {}
        for device, bucket, result in found:
            assert bucket is not None
            groups.setdefault(device, {})[bucket] = result
        if not groups and not self.by_device:
            groups[None] = {}
        rows: list[dict[str, Any]] = []
        for device, results in groups.items():
            head = {"device_id": device} if self.by_device else {}
            filled = self._filled(results, FILL_LIMIT // len(groups)) if self.fill else list(results.items())
            rows += [{**head, "bucket": self.label(bucket), "result": result} for bucket, result in filled]
        return rows

    def _of_nothing(self) -> int | None:
        return 0 if self.function == "count" else None

    def _filled(self, results: dict[int, Any], limit: int) -> list[tuple[int, Any]]:
        assert self.interval is not None
        if not results and (self.scope.start is None or self.scope.end is None):
            return []  # nothing says where to begin or to end
        low = self.scope.start if self.scope.start is not None else min(results)
        high = self.scope.end if self.scope.end is not None else self.interval.next(max(results), self.zone)
        number = (high - low) // self.interval.shortest
        if number > limit:
            raise InvalidValue(
                f"fill would make about {number} buckets, at most {limit} are: narrow start and end, or widen interval"
            )
        filled: list[tuple[int, Any]] = []
        previous: Any = None
        for bucket in self.interval.starts(low, high, self.zone):
            if bucket in results:
                previous = results[bucket]
                filled.append((bucket, previous))
            elif self.function == "count":
                filled.append((bucket, 0))
            else:
                filled.append((bucket, previous if self.fill == "previous" else None))
        return filled
