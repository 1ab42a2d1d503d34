"""Reading models from settings: ``[models.NAME]``, a line for each field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.hints import Scope, convert, expected, shown
from edgedepot.storage.options import Checker, join
from edgedepot.storage.reading import Field, Reading, define_model
from edgedepot.storage.registry import did_you_mean

_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}
_HINTS: dict[str, Any] = {
    "type": Literal["float", "int", "bool", "str"],
    "unit": str,
    "range": tuple[float, float],
    "required": bool,
    "description": str,
}
_FieldOf = tuple[type, bool, Any]


def read_models(settings: Mapping[str, Any], checker: Checker) -> dict[str, type[Reading] | None]:
    """The models by name; None for one with problems, which are noted."""
    models: dict[str, type[Reading] | None] = {}
    for name, lines in settings.items():
        path = join("models", name)
        if not isinstance(lines, Mapping):
            checker.note(
                path, f'found {shown(lines)}, expected a table with a line for each field: temperature = "float"'
            )
            models[name] = None
            continue
        before = len(checker.problems)
        fields = {key: _read_field(join(path, key), value, checker) for key, value in lines.items()}
        models[name] = None if len(checker.problems) > before else _make(path, name, fields, models, checker)
    return models


def _make(
    path: str,
    name: str,
    fields: Mapping[str, _FieldOf],
    models: Mapping[str, type[Reading] | None],
    checker: Checker,
) -> type[Reading] | None:
    if not fields:
        checker.note(path, "declares no field")
        return None
    if name.lower() in (other.lower() for other in models):
        checker.note(path, "another model has the same name but for upper and lower case")
        return None
    try:
        return define_model(name, fields)
    except InvalidValue as exc:
        checker.note(path, str(exc).removeprefix(f"reading model {name}: "))
        return None


def _read_field(path: str, value: Any, checker: Checker) -> _FieldOf:
    """Type, whether required, and description of a field, from its table or its short form: the type alone."""
    if not isinstance(value, Mapping):
        return _TYPES.get(_checked(path, "type", value, checker), float), True, Field()
    checker.check_keys(path, value, _HINTS)
    if "type" not in value:
        checker.note(join(path, "type"), f"missing, expected {expected(_HINTS['type'])}")
    found = {key: _checked(join(path, key), key, value[key], checker) for key in _HINTS if key in value}
    described = {key: found[key] for key in ("unit", "description") if key in found}
    declared = Field(range=_range_of(found.get("range")), **described)
    return _TYPES.get(found.get("type", ""), float), found.get("required", True), declared


def _checked(path: str, key: str, value: Any, checker: Checker) -> Any:
    """The value where it is of the key's type; None, with the problem noted, where it is not."""
    try:
        return convert(value, _HINTS[key], Scope())
    except InvalidValue as exc:
        near = did_you_mean(value, _TYPES) if key == "type" and isinstance(value, str) else ""
        checker.note(path, f"{exc}{near}")
        return None


def _range_of(bounds: tuple[float, float] | None) -> tuple[float | None, float | None] | None:
    """TOML has no null; ``inf`` and ``-inf`` stand for an open end."""
    if bounds is None:
        return None
    low, high = bounds
    return None if math.isinf(low) else low, None if math.isinf(high) else high
