"""Which models, devices and sources the store knows, and in which journal columns a model's fields lie.

Memory is the authority while the store is open: callers' threads add models, the writer adds series and sources, and
its transaction writes down what is new. A transaction that is rolled back leaves that to the next.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import Any

from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.reading import Field, FieldSpec, Reading, define_model

_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


@dataclass(slots=True)
class Layout:
    """A model as the store keeps it. `stored` lists every field it ever had, one journal column each, in order."""

    id: int
    model: type[Reading]
    stored: list[FieldSpec]
    name: str = ""
    dirty: bool = True
    _columns: dict[type[Reading], tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.model.__measurement__

    def columns(self, model: type[Reading]) -> tuple[str, ...]:
        """The journal columns of a class's fields, in the class's order."""
        known = self._columns.get(model)
        if known is None:
            position = {spec.name: index for index, spec in enumerate(self.stored)}
            known = self._columns[model] = tuple(f"c{position[spec.name]}" for spec in model.__fields__)
        return known


class Catalogue:
    """Models by measurement, series by model and device, sources by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layouts: dict[str, Layout] = {}
        self._series: dict[tuple[int, str], int] = {}
        self._sources: dict[str, int] = {}
        self._new_series: list[tuple[int, int, str]] = []
        self._new_sources: list[tuple[int, str]] = []
        self._uncommitted: list[Layout] = []

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> Catalogue:
        """What the file knows."""
        self = cls()
        for model_id, name, title, text in connection.execute("SELECT id, name, title, fields FROM _models"):
            stored = [_spec_from(entry) for entry in json.loads(text)]
            self._layouts[name] = Layout(model_id, _model_from(title, name, stored), stored, dirty=False)
        for series, model_id, device in connection.execute("SELECT id, model, device_id FROM _series"):
            self._series[model_id, device] = series
        self._sources = {name: source for source, name in connection.execute("SELECT id, name FROM _sources")}
        return self

    def models(self) -> dict[str, type[Reading]]:
        """The models by measurement: the classes that this process uses, or ones made from the file."""
        with self._lock:
            return {name: layout.model for name, layout in self._layouts.items()}

    def layouts(self) -> dict[int, Layout]:
        with self._lock:
            return {layout.id: layout for layout in self._layouts.values()}

    def find(self, model: type[Reading]) -> Layout | None:
        """The layout for reading a model; None when nothing of it was ever stored."""
        known = self._layouts.get(model.__measurement__)
        return None if known is None else self.layout(model)

    def layout(self, model: type[Reading]) -> Layout:
        """The layout of a model, new or widened where needed. Raises `InvalidValue` when a stored field has another
        type, or when another class of this process has the measurement with other fields."""
        known = self._layouts.get(model.__measurement__)
        if known is not None and known.model is model:
            return known
        with self._lock:
            known = self._layouts.get(model.__measurement__)
            if known is None:
                known = Layout(len(self._layouts) + 1, model, list(model.__fields__))
                self._layouts[model.__measurement__] = known
            else:
                self._adopt(known, model)
            return known

    def _adopt(self, layout: Layout, model: type[Reading]) -> None:
        stored = {spec.name: spec for spec in layout.stored}
        for spec in model.__fields__:
            before = stored.get(spec.name)
            if before is not None and before.type is not spec.type:
                raise InvalidValue(
                    f"{model.__name__}.{spec.name} is {spec.type.__name__}, but this store keeps "
                    f"{model.__measurement__}.{spec.name} as {before.type.__name__}; use another name for one of them"
                )
        layout.stored += [spec for spec in model.__fields__ if spec.name not in stored]
        layout.model = model
        layout.dirty = True

    def series(self, layout: Layout, device: str) -> int:
        """The number of a model's readings of one device. For the writer's thread."""
        key = (layout.id, device)
        series = self._series.get(key)
        if series is None:
            series = len(self._series) + 1
            self._series[key] = series
            self._new_series.append((series, layout.id, device))
        return series

    def source(self, name: str) -> int:
        """The number of a source. For the writer's thread."""
        source = self._sources.get(name)
        if source is None:
            source = len(self._sources) + 1
            self._sources[name] = source
            self._new_sources.append((source, name))
        return source

    def write_layout(self, connection: sqlite3.Connection, layout: Layout) -> None:
        """Write a new or changed layout down, inside a transaction."""
        with self._lock:
            connection.execute(
                "INSERT INTO _models (id, name, title, fields) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET title = excluded.title, fields = excluded.fields",
                (layout.id, layout.name, layout.model.__name__, _fields_text(layout.stored)),
            )
            layout.dirty = False
            self._uncommitted.append(layout)

    def write_names(self, connection: sqlite3.Connection) -> None:
        """Write new series and sources down, inside a transaction."""
        connection.executemany(
            "INSERT OR IGNORE INTO _series (id, model, device_id) VALUES (?, ?, ?)", self._new_series
        )
        connection.executemany("INSERT OR IGNORE INTO _sources (id, name) VALUES (?, ?)", self._new_sources)

    def committed(self) -> None:
        """The transaction that wrote things down is committed."""
        self._new_series.clear()
        self._new_sources.clear()
        self._uncommitted.clear()

    def rolled_back(self) -> None:
        """The transaction is undone: the next writes everything down again."""
        for layout in self._uncommitted:
            layout.dirty = True
        self._uncommitted.clear()


def _fields_text(fields: list[FieldSpec]) -> str:
    keys = ("name", "required", "unit", "description", "low", "high")
    return json.dumps([{"type": spec.type.__name__} | {key: getattr(spec, key) for key in keys} for spec in fields])


def _spec_from(entry: dict[str, Any]) -> FieldSpec:
    return FieldSpec(**{**entry, "type": _TYPES[entry["type"]]})


def _model_from(title: str, name: str, fields: list[FieldSpec]) -> type[Reading]:
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
