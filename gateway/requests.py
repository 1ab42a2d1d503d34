"""What the command line asks of a running gateway, and does itself where none runs: the same code, the same words.

A request is an object on a line, ``{"version": 1, "do": "replay", "upstream": "central"}``; an answer is one too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import msgspec

from edgedepot.storage.base import BaseStorage, Version
from edgedepot.storage.buffer import Buffer
from edgedepot.storage.errors import ConfigError, InvalidValue, NotSupported
from edgedepot.storage.reading import Field, FieldSpec, Reading, define_model
from edgedepot.storage.registry import did_you_mean
from edgedepot.sync.notes import Note, beside

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.storage import SQLiteStorage

VERSION = 1
SIZE_LIMIT = 1 << 20
"""Bytes of a request."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_counting = threading.Lock()  # what is counted first must not be changed by another request before it is
_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}
_EXAMPLE = json.dumps({"version": VERSION, "do": "status"})


class Removed(NamedTuple):
    """What an upstream was owed when it was removed, in readings; whether a running gateway was forwarding to it."""

    pending: int
    quarantined: int
    was_set_up: bool


class Desk(Protocol):
    """Where requests are carried out: a running gateway, or a store that is open for writing."""

    @property
    def store(self) -> BaseStorage: ...

    def status(self) -> dict[str, Any]: ...

    def remove_upstream(self, name: str) -> Removed: ...


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do", tag=str.lower):
    """Base of all requests."""

    version: int = VERSION

    def run(self, desk: Desk) -> dict[str, Any]:
        """Carry it out. Blocks until that is committed; raises what the store raises."""
        raise NotImplementedError


class Status(Request, frozen=True, kw_only=True):
    """How the gateway stands."""

    def run(self, desk: Desk) -> dict[str, Any]:
        return desk.status()


class Which(Request, frozen=True, kw_only=True):
    """Quarantined readings: all that fit what is given, ``start <= timestamp < end``."""

    upstream: str | None = None
    measurement: str | None = None
    device: str | None = None
    start: Moment | None = None
    end: Moment | None = None
    reason: str | None = None
    number: _Number | None = None

    def filters(self) -> dict[str, Any]:
        """As the arguments of the store's methods."""
        return {name: getattr(self, name) for name in Which.__struct_fields__ if name != "version"}

    def _of_each(self, store: SQLiteStorage) -> dict[str, tuple[int, dict[str, Any]]]:
        """For each upstream that has such readings, how many, and the arguments."""
        if self.upstream is not None:
            check_upstream(store, self.upstream)
        found = store.count_quarantined(**self.filters())
        return {name: (count, {**self.filters(), "upstream": name}) for name, count in found.items()}


class Replay(Which, frozen=True, kw_only=True):
    """Have quarantined readings sent once more: ``{"upstreams": {name: {"replayed", "superseded"}}}``."""

    def run(self, desk: Desk) -> dict[str, Any]:
        store = _sqlite(desk)
        found = {}
        with _counting:
            for name, (count, filters) in self._of_each(store).items():
                replayed = store.replay_quarantined(**filters)
                found[name] = {"replayed": replayed, "superseded": max(0, count - replayed)}
        return {"upstreams": found}


class Drop(Which, frozen=True, kw_only=True):
    """Give quarantined readings up: ``{"upstreams": {name: number}}``."""

    def run(self, desk: Desk) -> dict[str, Any]:
        store = _sqlite(desk)
        with _counting:
            each = self._of_each(store).items()
            return {"upstreams": {name: store.drop_quarantined(**filters) for name, (_, filters) in each}}


class RemoveUpstream(Request, frozen=True, kw_only=True, tag="remove_upstream"):
    """Forget an upstream: ``{"pending", "quarantined", "was_set_up"}``, see `Removed`."""

    name: str

    def run(self, desk: Desk) -> dict[str, Any]:
        return desk.remove_upstream(self.name)._asdict()


class FieldOf(msgspec.Struct, frozen=True, array_like=True):
    """A declared field."""

    name: str
    type: str
    required: bool
    unit: str | None
    description: str | None
    low: float | None
    high: float | None


class StoreReadings(Request, frozen=True, kw_only=True, tag="store_readings"):
    """Store readings of a model: ``{"accepted", "duplicates", "refused": [[index, reason], ...]}``."""

    title: str
    measurement: str
    fields: tuple[FieldOf, ...]
    rows: list[tuple[str, Moment, dict[str, float | int | bool | str | None], int | None]]

    def run(self, desk: Desk) -> dict[str, Any]:
        store = _sqlite(desk)
        receipt = store.store_readings(_model(store, self), [Version(*row) for row in self.rows]).wait()
        refused = [[refusal.index, refusal.reason] for refusal in receipt.refused]
        return {"accepted": receipt.accepted, "duplicates": receipt.duplicates, "refused": refused}


class NoteSpent(Request, frozen=True, kw_only=True, tag="note_spent"):
    """Keep what a command has sent to an upstream beside the gateway, and is about to: see sync/notes.py."""

    upstream: str
    text: Annotated[str, msgspec.Meta(max_length=1000)]

    def run(self, desk: Desk) -> dict[str, Any]:
        store = _sqlite(desk)
        check_upstream(store, self.upstream)
        Note.of(self.text)
        store.remember(beside(self.upstream), self.text).wait()
        return {}


class Fold(Request, frozen=True, kw_only=True):
    """Have the store move what is committed into history."""

    def run(self, desk: Desk) -> dict[str, Any]:
        _sqlite(desk).fold()
        return {}


_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(
    Status | Replay | Drop | RemoveUpstream | StoreReadings | NoteSpent | Fold
)


class _Head(msgspec.Struct):
    version: int


_heads = msgspec.json.Decoder(_Head)


def decode(line: bytes) -> Request:
    """The request on a line. Raises `InvalidValue`, and `ConfigError` for another version's."""
    try:
        version = _heads.decode(line).version
        if version == VERSION:
            return _requests.decode(line)
    except (ValueError, RecursionError) as exc:
        raise InvalidValue(f"not understood: {exc}; expected a line such as {_EXAMPLE}") from exc
    raise ConfigError(f"found a request of version {version}, expected {VERSION}: the gateway is of another release")


def encode(request: Request) -> bytes:
    """The line of a request. Raises `InvalidValue` for one that no line can hold."""
    try:
        line = msgspec.json.encode(request) + b"\n"
    except UnicodeEncodeError as exc:
        raise InvalidValue(f"{exc.object[:60]!r} is no text in UTF-8") from exc
    if len(line) > SIZE_LIMIT:
        raise InvalidValue(f"a request of {len(line)} bytes, at most {SIZE_LIMIT} are read")
    return line


def size_of(request: Request) -> int:
    """The bytes of its line."""
    return len(msgspec.json.encode(request)) + 1


def store_request(model: type[Reading], rows: Sequence[Version]) -> StoreReadings:
    """The request to store these rows."""
    fields = tuple(
        FieldOf(spec.name, spec.type.__name__, spec.required, spec.unit, spec.description, spec.low, spec.high)
        for spec in model.__fields__
    )
    plain = [(row.device, _in_utc(row.timestamp), dict(row.data), row.quality) for row in rows]
    return StoreReadings(title=model.__name__, measurement=model.__measurement__, fields=fields, rows=plain)


def _in_utc(moment: datetime) -> datetime:
    """The moment as every line can hold it: old zones have offsets with seconds."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in the calendar's first or last hours; the store will refuse it
        return moment


def remove_cursor(store: Buffer, name: str, was_set_up: bool = False) -> Removed:
    """Forget an upstream that nothing is being sent to. Raises `InvalidValue` where there is none of that name."""
    check_upstream(store, name)
    quarantined = store.ledger().upstreams[name]["quarantined"]
    return Removed(store.remove_cursor(name), quarantined, was_set_up)


def check_upstream(store: Buffer, name: str) -> None:
    """Raise `InvalidValue` where the store knows no upstream of that name."""
    known = store.cursors()
    if name not in known:
        raise InvalidValue(
            f'no upstream "{name}"{did_you_mean(name, known)}; the store knows {", ".join(known) or "none"}'
        )


def _sqlite(desk: Desk) -> SQLiteStorage:
    from edgedepot.storage.sqlite.storage import SQLiteStorage

    if not isinstance(desk.store, SQLiteStorage):
        raise NotSupported(f"a {type(desk.store).__name__} has no quarantine")
    return desk.store


def _model(store: SQLiteStorage, request: StoreReadings) -> type[Reading]:
    """The class that the gateway has for such readings, else one made for them."""
    specs = tuple(_spec(field) for field in request.fields)
    known = store.models().get(request.measurement)
    if known is not None and known.__fields__ == specs:
        return known
    return _made(request.title, request.measurement, specs)


def _spec(field: FieldOf) -> FieldSpec:
    if field.type not in _TYPES:
        raise InvalidValue(f"field {field.name}: found type {field.type!r}, expected one of {', '.join(_TYPES)}")
    return FieldSpec(
        field.name, _TYPES[field.type], field.required, field.unit, field.description, field.low, field.high
    )


@lru_cache(maxsize=16)
def _made(title: str, measurement: str, specs: tuple[FieldSpec, ...]) -> type[Reading]:
    fields = {spec.name: (spec.type, spec.required, _declared(spec)) for spec in specs}
    return define_model(title, fields, measurement=measurement)


def _declared(spec: FieldSpec) -> Any:
    bounds = None if spec.low is None and spec.high is None else (spec.low, spec.high)
    return Field(unit=spec.unit, description=spec.description, range=bounds)
