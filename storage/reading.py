"""Reading models: what a reading of one kind consists of, declared as a class.

    class WeatherStation(Reading):
        temperature: float = Field(unit="°C", range=(-40, 80))
        raining: bool | None = None

The lowercase class name is the measurement. A type that admits None may be absent; any other field is required.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NoReturn, dataclass_transform

from edgedepot.storage import values
from edgedepot.storage.errors import InvalidValue

RESERVED = frozenset(
    {"time", "timestamp", "device_id", "gateway_id", "received_at", "quality", "store_epoch", "gateway_seq"}
    | {"bucket", "result"}
)
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,54}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One declared field. `type` is float, int, bool or str; `low` and `high` bound what counts as plausible."""

    name: str
    type: type
    required: bool
    unit: str | None = None
    description: str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class _Declared:
    """What `Field` was given, until the class statement adds name and type."""

    unit: str | None
    range: tuple[float | None, float | None] | None
    description: str | None


def Field(
    *,
    unit: str | None = None,
    range: tuple[float | None, float | None] | None = None,
    description: str | None = None,
) -> Any:
    """Describe a field. A value outside `range` (both ends belong to it) is stored and flagged in `quality`."""
    return _Declared(unit, range, description)


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _Transformed:
    """Bears the decorator, so that type checkers count the fields of `Reading` itself too (PEP 681)."""


class Reading(_Transformed):
    """Base of all reading models. An instance is one reading, as queries return it.

    `timestamp` is an aware datetime in UTC; `quality` is None when good, else a sum of the flags in `Quality`;
    `gateway_id` is None unless the storage holds several gateways' readings.
    """

    __measurement__: ClassVar[str]
    __fields__: ClassVar[tuple[FieldSpec, ...]] = ()
    __rows__: ClassVar[values.RowMaker]

    device_id: str
    timestamp: datetime
    quality: int | None = None
    gateway_id: str | None = None

    def __init_subclass__(cls, *, measurement: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.__measurement__ = _checked_measurement(cls, measurement or cls.__name__.lower())
        cls.__fields__ = _fields_of_class(cls)
        cls.__rows__ = values.RowMaker(cls.__name__, cls.__fields__)

    def __init__(
        self,
        *,
        device_id: str,
        timestamp: datetime,
        quality: int | None = None,
        gateway_id: str | None = None,
        **fields: Any,
    ) -> None:
        self.device_id = device_id
        self.timestamp = timestamp
        self.quality = quality
        self.gateway_id = gateway_id
        for spec in self.__fields__:
            setattr(self, spec.name, fields.pop(spec.name, None))
        if fields:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(fields))!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), self.device_id, self.timestamp))

    def __repr__(self) -> str:
        parts = [f"gateway_id={self.gateway_id!r}"] if self.gateway_id is not None else []
        parts += [f"device_id={self.device_id!r}", f"timestamp={self.timestamp.isoformat()!r}"]
        parts += [f"{spec.name}={getattr(self, spec.name)!r}" for spec in self.__fields__]
        parts += [f"quality={self.quality}"] if self.quality else []
        return f"{type(self).__name__}({', '.join(parts)})"


def declared_measurements(base: type[Reading] = Reading) -> set[str]:
    """Those of all reading models that this program has declared so far. A class whose declaration was refused is there
    too, until Python has cleared it away."""
    models = [model for model in base.__subclasses__() if "__measurement__" in vars(model)]
    return {model.__measurement__ for model in models}.union(*map(declared_measurements, models))


def define_model(
    name: str, fields: Mapping[str, tuple[type, bool, Any]], *, measurement: str | None = None
) -> type[Reading]:
    """Declare a reading model at run time: `fields` maps names to (type, required, `Field(...)`).

    The measurement is the lowercase name unless given. Raises `InvalidValue` as a class statement would.
    """
    annotations = {key: kind if required else kind | None for key, (kind, required, _) in fields.items()}
    namespace: dict[str, Any] = {key: declared for key, (_, _, declared) in fields.items()}
    namespace["__annotations__"] = annotations
    namespace["__module__"] = __name__
    return types.new_class(
        name, (Reading,), {"measurement": measurement or name.lower()}, lambda body: body.update(namespace)
    )


@dataclass(frozen=True, slots=True)
class Device:
    """A device as a storage knows it. Times are aware, in UTC, None when nothing was seen yet."""

    device_id: str
    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_seen: datetime | None = None
    last_seen: datetime | None = None


def device_id_of(device: object) -> str:
    """The id of a device given as text or as anything with a text `.device_id`. Raises `InvalidValue`."""
    name = device if isinstance(device, str) else getattr(device, "device_id", None)
    if not isinstance(name, str):
        raise InvalidValue(f"device {device!r} is neither a text nor something with a device_id")
    return values.checked_name(name, "device id")


def saved_of(device: Device) -> tuple[str, str | None, str]:
    """What is kept of a device: its id, its name, and its metadata as JSON. Raises `InvalidValue` for texts that cannot
    be stored everywhere, and for metadata that JSON cannot say."""
    device_id, name = device_id_of(device), device.name
    if name is not None:
        problem = values.text_problem(name) if isinstance(name, str) else "is no text"
        if problem:
            raise InvalidValue(f"name of device {device_id!r}: {name!r:.80} {problem}")
    try:
        metadata = json.dumps(dict(device.metadata), allow_nan=False, ensure_ascii=False)
        metadata.encode()
    except (TypeError, ValueError) as exc:
        raise InvalidValue(f"metadata of device {device_id!r} is not what JSON can say: {exc}") from exc
    if _NUL.search(metadata):
        raise InvalidValue(f"metadata of device {device_id!r} holds a NUL")
    return device_id, name, metadata


def field_of(model: type[Reading], name: object) -> FieldSpec:
    """The declared field of that name. Raises `InvalidValue` that lists the names there are."""
    for spec in model.__fields__:
        if spec.name == name:
            return spec
    known = ", ".join(spec.name for spec in model.__fields__)
    raise InvalidValue(f"{model.__name__} has no field {name!r}; its fields are {known}")


def check_model(model: object) -> type[Reading]:
    """The same, as a reading model. Raises `InvalidValue` for anything that is none."""
    if not (isinstance(model, type) and issubclass(model, Reading) and model.__fields__):
        raise InvalidValue(f"{model!r} is no reading model: expected a subclass of Reading with at least one field")
    return model


def _checked_measurement(cls: type, name: str) -> str:
    if not _NAME.fullmatch(name) or name != name.lower():
        _declaration_error(
            cls,
            f"measurement {name!r} is not 1 to 55 lowercase letters, digits and _, starting with a letter",
        )
    return name


def _fields_of_class(cls: type[Reading]) -> tuple[FieldSpec, ...]:
    own = Reading.__annotations__
    hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if name not in own}
    seen: dict[str, str] = {}
    for name in hints:
        if name.lower() in seen:
            _declaration_error(cls, f"fields {seen[name.lower()]!r} and {name!r} differ by case only")
        seen[name.lower()] = name
    for name in set(vars(cls).get("__annotations__", {})) & set(own):
        _declaration_error(cls, f"field name {name!r} is reserved")
    return tuple(_field_spec(cls, name, hint) for name, hint in hints.items())


def _field_spec(cls: type[Reading], name: str, hint: Any) -> FieldSpec:
    if name.lower() in RESERVED:
        _declaration_error(cls, f"field name {name!r} is reserved")
    if not _NAME.fullmatch(name):
        _declaration_error(cls, f"field name {name!r} is not 1 to 55 letters, digits and _, starting with a letter")
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) or typing.get_args(hint) else {hint}
    required = type(None) not in kinds
    kinds.discard(type(None))
    if len(kinds) != 1 or not kinds <= {float, int, bool, str}:
        _declaration_error(cls, f"field {name!r}: found type {hint!r}, expected float, int, bool or str, or one | None")
    kind: type = kinds.pop()
    declared = getattr(cls, name, None)
    if declared is None:
        return FieldSpec(name, kind, required)
    if not isinstance(declared, _Declared):
        _declaration_error(cls, f"field {name!r}: found {declared!r}, expected Field(...), or None for an optional one")
    low, high = _checked_range(cls, name, kind, declared.range)
    return FieldSpec(name, kind, required, declared.unit, declared.description, low, high)


def _checked_range(cls: type, name: str, kind: type, bounds: Any) -> tuple[float | None, float | None]:
    if bounds is None:
        return None, None
    numbers = isinstance(bounds, (tuple, list)) and len(bounds) == 2
    if not numbers or not all(end is None or (type(end) in (int, float) and math.isfinite(end)) for end in bounds):
        _declaration_error(cls, f"field {name!r}: range is {bounds!r}, expected two numbers, or None for an open end")
    low, high = bounds
    if kind not in (float, int):
        _declaration_error(cls, f"field {name!r}: a range needs a float or int field, not {kind.__name__}")
    if low is not None and high is not None and low > high:
        _declaration_error(cls, f"field {name!r}: range is {bounds!r}, expected the lower end first")
    return low, high


def _declaration_error(cls: type, problem: str) -> NoReturn:
    raise InvalidValue(f"reading model {cls.__name__}: {problem}")
