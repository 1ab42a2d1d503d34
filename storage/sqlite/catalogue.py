"""Which models, devices and sources the store knows, and in which columns a model's fields lie.

Memory is the authority while the store is open: callers' threads add models, the writer adds series and sources, and
its transaction writes down what is new. A transaction that is rolled back leaves that to the next.

A model may gain fields, and classes of one measurement may have different ones, also in one process: the store keeps
them all. A field that was int may be float, from the first reading of a class on that says so: see retype.py.
"""

from __future__ import annotations

import copy
import json
import sqlite3
import threading
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.reading import Field, FieldSpec, Reading, define_model
from edgedepot.storage.sqlite.records import BadRecord, read_records

FIELD_LIMIT = 200
"""SQLite gives a table 2,000 columns, and a model's hours need up to nine for each field."""
_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


class Layout(msgspec.Struct):
    """A model as the store keeps it. `stored` lists every field it ever had, a column each, in order, and as required
    only those that every row has; `written` is as much of that as the writer's transaction has put into the file.
    `turned` are the places of the fields that were int once. Types never change here: a field that
    becomes float makes another layout."""

    id: int
    model: type[Reading]
    stored: tuple[FieldSpec, ...]
    written: tuple[FieldSpec, ...] = ()
    turned: frozenset[int] = frozenset()
    _columns: dict[type[Reading], tuple[str, ...]] = msgspec.field(default_factory=dict)
    _casts: dict[type[Reading], frozenset[str]] = msgspec.field(default_factory=dict)
    _whole: tuple[type[Reading], tuple[FieldSpec, ...], type[Reading]] | None = None

    @property
    def name(self) -> str:
        return self.model.__measurement__

    @property
    def is_new(self) -> bool:
        """Whether the file lacks something of it."""
        return self.written is not self.stored

    def columns(self, model: type[Reading]) -> tuple[str, ...]:
        """The columns of the fields of a class that is stored, in the class's order."""
        known = self._columns.get(model)
        if known is None:
            places = self.places(model)
            self.casts(model)
            known = self._columns[model] = tuple(places[spec.name] for spec in model.__fields__)
        return known

    def casts(self, model: type[Reading]) -> frozenset[str]:
        """The columns that have become float since a class was taken in that has integers for them."""
        known = self._casts.get(model)
        if known is None:
            kinds = {spec.name: spec.type for spec in self.stored}
            places = self.places(model)
            known = self._casts[model] = frozenset(
                places[spec.name] for spec in model.__fields__ if (spec.type, kinds.get(spec.name)) == (int, float)
            )
        return known

    def to_turn(self, model: type[Reading]) -> list[int]:
        """The places of the fields that are int here and float in a class that is to be stored."""
        kinds = {spec.name: spec.type for spec in model.__fields__}
        return [place for place, spec in enumerate(self.stored) if (spec.type, kinds.get(spec.name)) == (int, float)]

    def turned_by(self, model: type[Reading]) -> Layout:
        """As it is once the fields are float that this class has as float."""
        places = self.to_turn(model)
        stored, written = (
            tuple(replace(spec, type=float) if place in places else spec for place, spec in enumerate(fields))
            for fields in (self.stored, self.written)
        )
        return Layout(self.id, model, stored, written, self.turned | frozenset(places))

    def places(self, model: type[Reading]) -> dict[str, str]:
        """The column of each field of a class; ``NULL`` where nothing of the field was ever stored."""
        columns = {spec.name: f"c{index}" for index, spec in enumerate(self.stored)}
        return {spec.name: columns.get(spec.name, "NULL") for spec in model.__fields__}

    def has(self, model: type[Reading]) -> bool:
        """Whether the class was stored, or is about to be."""
        return (model is self.model or model in self._columns) and not self._casts.get(model)

    def whole(self) -> type[Reading]:
        """The class to hand rows on with: the one that is in use, where it has all fields that rows may have and
        demands none that rows may lack; else one made for that."""
        stored = self.stored
        if self._whole is None or self._whole[:2] != (self.model, stored):
            required = {spec.name: spec.required for spec in self.model.__fields__}
            fits = all(spec.required or not required.get(spec.name, True) for spec in stored)
            fits = fits and {spec.name: spec.type for spec in self.model.__fields__} == {s.name: s.type for s in stored}
            made = self.model if fits else _model_from(self.model.__name__, self.name, stored)
            self._whole = (self.model, stored, made)
        return self._whole[2]

    def check(self, model: type[Reading]) -> None:
        """Raises `InvalidValue` where a field of the class has another type here, or SQLite would take it for another.
        One that is int here may be float there: it is read as that, and will be."""
        kinds = {spec.name: spec.type for spec in self.stored}
        names = {name.lower(): name for name in kinds}
        for spec in model.__fields__:
            name = names.get(spec.name.lower(), spec.name)
            if name != spec.name:
                raise InvalidValue(
                    f"{model.__name__}.{spec.name} differs by case only from {self.name}.{name}, which this store "
                    "keeps; name it as that, or otherwise"
                )
            kind = kinds.get(spec.name, spec.type)
            if kind is not spec.type and (kind, spec.type) != (int, float):
                raise InvalidValue(
                    f"{model.__name__}.{spec.name} is {spec.type.__name__}, but this store keeps "
                    f"{self.name}.{spec.name} as {kind.__name__}; use another name for one of them"
                )

    def widened(self, model: type[Reading]) -> tuple[FieldSpec, ...]:
        """What is stored once rows of the class are."""
        theirs = {spec.name: spec for spec in model.__fields__}
        mine = {spec.name for spec in self.stored}
        demanded = {name for name, spec in theirs.items() if spec.required}
        kept = [replace(spec, required=spec.required and spec.name in demanded) for spec in self.stored]
        new = [replace(spec, required=False) for name, spec in theirs.items() if name not in mine]
        return (*kept, *new)


class Catalogue:
    """Models by measurement, series by model and device, sources by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layouts: dict[str, Layout] = {}
        self._series: dict[tuple[int, str], int] = {}
        self._sources: dict[str, int] = {}
        self._new_series: list[tuple[int, int, str]] = []
        self._new_sources: list[tuple[int, str]] = []
        self._uncommitted: list[tuple[Layout, tuple[FieldSpec, ...]]] = []
        self._outlived: list[Layout] = []
        self._retyped_at = 0
        self._last_layout = self._last_series = self._last_source = 0
        self._news: list[tuple[Any, ...]] = []

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> Catalogue:
        """What the file knows."""
        self = cls()
        for model_id, name, title, text in read_records(connection, "_models", ("id", "name", "title", "fields")):
            stored, model, turned = _parsed(title, name, text)
            self._layouts[name] = Layout(model_id, model, stored, stored, turned)
        for series, model_id, device in read_records(connection, "_series", ("id", "model", "device_id")):
            self._series[model_id, device] = series
        self._sources = {name: source for source, name in read_records(connection, "_sources", ("id", "name"))}
        # Not their count: a salvaged store may lack some, and their numbers stand in rows.
        self._last_layout = max((layout.id for layout in self._layouts.values()), default=0)
        self._last_series = max(self._series.values(), default=0)
        self._last_source = max(self._sources.values(), default=0)
        return self

    @staticmethod
    def check_row(title: str, name: str, text: str) -> None:
        """Raises `BadRecord` where `load` would."""
        _parsed(title, name, text)

    @staticmethod
    def is_later(text: str, known: str) -> bool:
        """Whether of two records of a model's fields, both readable, the first is of later: fields only come, and int
        only becomes float."""
        later, earlier = ([entry["type"] for entry in json.loads(fields)] for fields in (text, known))
        ranks = [(len(types), types.count("float")) for types in (later, earlier)]
        return Catalogue.may_be_one(text, known) and ranks[0] > ranks[1]

    @staticmethod
    def may_be_one(text: str, known: str) -> bool:
        """Whether two records, both readable, can be of one model: the one may be of later than the other."""
        pairs = zip(json.loads(text), json.loads(known), strict=False)
        return all(
            one["name"] == other["name"] and {one["type"], other["type"]} in ({one["type"]}, {"int", "float"})
            for one, other in pairs
        )

    def pass_over(self, models: int, series: int, sources: int) -> None:
        """Give nothing a number up to these: something had it, also where the file has lost what."""
        self._last_layout = max(self._last_layout, models)
        self._last_series = max(self._last_series, series)
        self._last_source = max(self._last_source, sources)

    def lines(self) -> list[tuple[Any, ...]]:
        """All that the file knows, as the sidecar keeps it."""
        with self._lock:
            models = [
                ("model", one.id, one.name, one.model.__name__, _fields_text(one, one.written))
                for one in self._layouts.values()
                if one.written
            ]
        new = {series for series, _, _ in self._new_series}
        series = [("series", one, model, device) for (model, device), one in self._series.items() if one not in new]
        return [*models, *series, *(("source", one, name) for name, one in self._sources.items())]

    def models(self) -> dict[str, type[Reading]]:
        """The models by measurement: the classes that this process uses, or ones made from the file."""
        with self._lock:
            return {name: layout.model for name, layout in self._layouts.items()}

    def layouts(self) -> dict[int, Layout]:
        with self._lock:
            return {layout.id: layout for layout in self._layouts.values()}

    def find(self, model: type[Reading]) -> Layout | None:
        """The layout for reading a model, as it is; None when nothing of it was ever stored. Raises `InvalidValue`
        when a stored field has another type."""
        known = self._layouts.get(model.__measurement__)
        if known is not None and not known.has(model):
            known.check(model)
        return known

    def layout(self, model: type[Reading]) -> Layout:
        """The layout for storing a model, new or widened where needed. Raises `InvalidValue` when a stored field has
        another type, and when there are too many fields."""
        known = self._layouts.get(model.__measurement__)
        if known is not None and known.has(model):
            return known
        with self._lock:
            known = self._layouts.get(model.__measurement__)
            if known is None:
                stored = _checked(model, model.__fields__)
                self._last_layout += 1
                known = self._layouts[model.__measurement__] = Layout(self._last_layout, model, stored)
            elif not known.has(model):
                known.check(model)
                stored = _checked(model, known.widened(model))
                if stored != known.stored:
                    known.stored = stored
                known.columns(model)
                known.model = model
            return known

    def queued(self, model: type[Reading]) -> Layout:
        """The layout for rows of a class that were taken in: also where a field has become float since."""
        known = self._layouts.get(model.__measurement__)
        if known is not None and (known.has(model) or (known.casts(model) and "NULL" not in known.columns(model))):
            return known
        return self.layout(model)

    def seen(self, generation: int) -> Catalogue | None:
        """What a read transaction goes by that sees the tables of that generation (see shape.py): the types in it stay
        as they are. None where the file's own are others than those in memory."""
        mine = copy.copy(self)
        return mine if generation >= mine._retyped_at else None

    def retype(self, layout: Layout, model: type[Reading], generation: int) -> Layout:
        """Have the fields be float that a class has as float, inside a transaction with which the tables get that
        generation."""
        with self._lock:
            turned = layout.turned_by(model)
            self._outlived.append(layout)
            self._retyped_at = generation  # first: see `seen`
            self._layouts = {**self._layouts, layout.name: turned}
            return turned

    def series(self, layout: Layout, device: str) -> int:
        """The number of a model's readings of one device. For the writer's thread."""
        key = (layout.id, device)
        series = self._series.get(key)
        if series is None:
            series = self._last_series = self._last_series + 1
            self._series[key] = series
            self._new_series.append((series, layout.id, device))
        return series

    def all_series(self) -> list[tuple[int, str, int]]:
        """Model, device and number of every series. For the writer's thread."""
        return [(model, device, series) for (model, device), series in self._series.items()]

    def source(self, name: str) -> int:
        """The number of a source. For the writer's thread."""
        source = self._sources.get(name)
        if source is None:
            source = self._last_source = self._last_source + 1
            self._sources[name] = source
            self._new_sources.append((source, name))
        return source

    def write_layout(self, connection: sqlite3.Connection, layout: Layout) -> None:
        """Write a new or changed layout down, inside a transaction."""
        with self._lock:
            connection.execute(
                "INSERT INTO _models (id, name, title, fields) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET title = excluded.title, fields = excluded.fields",
                (layout.id, layout.name, layout.model.__name__, _fields_text(layout, layout.stored)),
            )
            self._uncommitted.append((layout, layout.written))
            layout.written = layout.stored

    def write_names(self, connection: sqlite3.Connection) -> None:
        """Write new series and sources down, inside a transaction."""
        if self._new_series:
            connection.executemany(
                "INSERT OR IGNORE INTO _series (id, model, device_id) VALUES (?, ?, ?)", self._new_series
            )
        if self._new_sources:
            connection.executemany("INSERT OR IGNORE INTO _sources (id, name) VALUES (?, ?)", self._new_sources)

    def committed(self) -> None:
        """The transaction that wrote things down is committed."""
        if not (self._uncommitted or self._new_series or self._new_sources):
            return
        self._news += [("model", one.id, one.name, one.model.__name__, _fields_text(one, one.written))
                       for one, _ in self._uncommitted]  # fmt: skip
        self._news += [("series", *row) for row in self._new_series]
        self._news += [("source", *row) for row in self._new_sources]
        self._new_series.clear()
        self._new_sources.clear()
        self._uncommitted.clear()
        self._outlived.clear()

    def take_news(self) -> list[tuple[Any, ...]]:
        """What was written down since the last call, as the sidecar keeps it."""
        news, self._news = self._news, []
        return news

    def rolled_back(self) -> None:
        """The transaction is undone: the next writes everything down again."""
        for layout, written in reversed(self._uncommitted):
            layout.written = written
        self._uncommitted.clear()
        with self._lock:
            for layout in reversed(self._outlived):
                self._layouts = {**self._layouts, layout.name: layout}
        self._outlived.clear()


def _checked(model: type[Reading], stored: tuple[FieldSpec, ...]) -> tuple[FieldSpec, ...]:
    if len(stored) > FIELD_LIMIT:
        raise InvalidValue(
            f"{model.__measurement__} would have {len(stored)} fields with those of {model.__name__}; "
            f"a store keeps at most {FIELD_LIMIT} of a measurement"
        )
    return stored


def _fields_text(layout: Layout, fields: tuple[FieldSpec, ...]) -> str:
    keys = ("name", "required", "unit", "description", "low", "high")
    entries = [{"type": spec.type.__name__} | {key: getattr(spec, key) for key in keys} for spec in fields]
    return json.dumps([one | ({"was": "int"} if place in layout.turned else {}) for place, one in enumerate(entries)])


def _spec_from(entry: dict[str, Any]) -> FieldSpec:
    return FieldSpec(**{**entry, "type": _TYPES[entry["type"]]})


@lru_cache(256)
def _parsed(title: str, name: str, text: str) -> tuple[tuple[FieldSpec, ...], type[Reading], frozenset[int]]:
    """The fields and the class of a model, and the places of the fields that were int once. Raises `BadRecord`.

    To make a class takes milliseconds, and readers load the catalogue for each look into the file."""
    try:
        entries = json.loads(text)
        turned = frozenset(place for place, entry in enumerate(entries) if entry.pop("was", None) == "int")
        stored = tuple(_spec_from(entry) for entry in entries)
        model = _model_from(title, name, stored)
        if model.__measurement__ != name:  # without a name it would be named by its title, as another may be
            raise ValueError("it has no name")
        return stored, model, turned
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ConfigError) as exc:
        raise BadRecord(f"the record of the model {name} cannot be read: {exc!r}") from exc


def _model_from(title: str, name: str, fields: tuple[FieldSpec, ...]) -> type[Reading]:
    return define_model(
        title,
        {
            spec.name: (
                spec.type,
                spec.required,
                Field(unit=spec.unit, description=spec.description, range=_range_of(spec)),
            )
            for spec in fields
        },
        measurement=name,
    )


def _range_of(spec: FieldSpec) -> tuple[float | None, float | None] | None:
    return None if spec.low is None and spec.high is None else (spec.low, spec.high)
