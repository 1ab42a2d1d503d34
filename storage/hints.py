"""Types of parameters, as settings know them: which can be written in a file, in words, and from value to argument."""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Union

from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import age_of, seconds_of
from edgedepot.storage.reading import Reading

_SCALARS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    datetime: "a date and time",
    date: "a date",
}
_LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Collection)
_TABLES = (dict, Mapping, MutableMapping)
_MISS = object()
LongTime = Annotated[timedelta, "months and years too"]
"""The type of a parameter that says how long something is kept."""
_READERS = {timedelta: seconds_of, LongTime: age_of}
"""What reads a duration, by its type."""


class Secret(str):
    """A text that holds the value of an environment variable; `raw` is how it stands in the settings."""

    raw: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What names in settings mean: reading models by name (None for one that is declared wrongly), and the folder
    that relative paths start from."""

    models: Mapping[str, type[Reading] | None] = field(default_factory=dict)
    folder: Path = Path()


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; None left out, for settings leave out what is not there."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in alternatives(part) if kind is not type(None))
    if typing.get_origin(hint) is Annotated and hint != LongTime:
        return alternatives(typing.get_args(hint)[0])
    return (hint,)


def can_be_written(hint: Any) -> bool:
    """True for a type that has values which can stand in a settings file."""
    return any(_can_be_written(kind) for kind in alternatives(hint))


def takes_model(hint: Any) -> bool:
    """True for ``type[Reading]`` and the like."""
    return any(_is_model(kind) for kind in alternatives(hint))


def convert(value: Any, hint: Any, scope: Scope) -> Any:
    """The argument that a value in settings stands for. Raises `InvalidValue` with what was found and expected."""
    kinds = alternatives(hint)
    read = next((_READERS[kind] for kind in kinds if kind in _READERS), None)
    if read is not None and isinstance(value, (str, int, float)):
        found = _as_duration(value, kinds, read)
    elif isinstance(value, str) and any(_is_path(kind) for kind in kinds):
        return scope.folder / Path(value).expanduser()
    else:
        found = next((found for kind in kinds if (found := _as(value, kind, scope)) is not _MISS), _MISS)
    if found is _MISS:
        _check_items(value, kinds, scope)
        raise InvalidValue(f"found {shown(value)}, expected {expected(hint, scope.models)}")
    return found


def _check_items(value: Any, kinds: tuple[Any, ...], scope: Scope) -> None:
    """Of a table that is wrong, raise what is wrong with its first bad value, where a table may stand."""
    tables = [kind for kind in kinds if (typing.get_origin(kind) or kind) in _TABLES]
    if isinstance(value, Mapping) and len(tables) == 1:
        item_hint = (typing.get_args(tables[0]) or (str, Any))[1]
        for key, item in value.items():
            try:
                convert(item, item_hint, scope)
            except InvalidValue as exc:
                raise InvalidValue(f"{json.dumps(key, ensure_ascii=False)}: {exc}") from exc


def _as(value: Any, kind: Any, scope: Scope) -> Any:
    """The value as one alternative, or `_MISS`."""
    origin = typing.get_origin(kind) or kind
    if kind in (Any, object):
        return value
    if origin is Literal:
        return value if value in typing.get_args(kind) else _MISS
    if _is_model(kind):
        return scope.models.get(value, _MISS) if isinstance(value, str) else _MISS
    if isinstance(value, list):
        return _as_list(value, kind, origin, scope)
    if isinstance(value, Mapping):
        return _as_table(value, kind, origin, scope)
    if kind is float and type(value) is int:
        return float(value)
    # bool is an int, and datetime a date, to Python only
    exact = type(value) is kind or (kind is str and isinstance(value, str))
    return value if exact and kind in _SCALARS else _MISS


def _as_duration(value: str | float, kinds: tuple[Any, ...], read: Callable[[str | float, str], float]) -> Any:
    try:
        seconds = read(value, "")
    except InvalidValue:
        return _MISS
    return value if type(value) in kinds else timedelta(seconds=seconds)


def _as_list(value: list[Any], kind: Any, origin: Any, scope: Scope) -> Any:
    if origin not in _LISTS:
        return _MISS
    arguments = typing.get_args(kind) or (Any,)
    fixed = origin is tuple and Ellipsis not in arguments
    if fixed and len(value) != len(arguments):
        return _MISS
    hints = arguments if fixed else (arguments[0],) * len(value)
    try:
        items = [convert(item, hint, scope) for item, hint in zip(value, hints, strict=True)]
    except InvalidValue:
        return _MISS
    return origin(items) if origin in (tuple, set, frozenset) else items


def _as_table(value: Mapping[str, Any], kind: Any, origin: Any, scope: Scope) -> Any:
    if origin not in _TABLES:
        return _MISS
    hint = (typing.get_args(kind) or (str, Any))[1]
    try:
        return {key: convert(item, hint, scope) for key, item in value.items()}
    except InvalidValue:
        return _MISS


def expected(hint: Any, models: Collection[str] = ()) -> str:
    """A type in words."""
    kinds = [kind for kind in alternatives(hint) if _can_be_written(kind)]
    if any(kind in _READERS for kind in kinds):
        return 'a duration such as "10s", "500 ms", "5 minutes" or "1d"'
    if any(_is_path(kind) for kind in kinds):
        return "a path"
    return " or ".join(dict.fromkeys(_in_words(kind, models) for kind in kinds))


def _in_words(kind: Any, models: Collection[str]) -> str:
    origin = typing.get_origin(kind) or kind
    arguments = typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(shown(choice) for choice in arguments)}"
    if _is_model(kind):
        known = ", ".join(f'"{name}"' for name in sorted(models))
        return f"a model declared under [models]: {known}" if known else "a model, but none is declared under [models]"
    if origin in _LISTS:
        return _list_in_words(origin, arguments, models)
    if origin in _TABLES:
        of_any = not arguments or arguments[1] is Any
        return "a table" if of_any else f"a table, each value {expected(arguments[1], models)}"
    return _SCALARS.get(kind, "a value")


def _list_in_words(origin: Any, arguments: tuple[Any, ...], models: Collection[str]) -> str:
    kinds = [part for part in arguments if part is not Ellipsis]
    if not kinds or kinds[0] is Any:
        return "a list"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(kinds)}: {', '.join(expected(kind, models) for kind in kinds)}"
    return f"a list, each item {expected(kinds[0], models)}"


def shown(value: Any) -> str:
    """A value as it stands in a TOML file, cut short; a secret as it stands there, never what it holds."""
    if isinstance(value, Secret):
        return shown(value.raw)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(shown(item) for item in value[:4])}{', ...' if len(value) > 4 else ''}]"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)[:60]


def _is_model(kind: Any) -> bool:
    if typing.get_origin(kind) is not type:
        return False
    bound = typing.get_args(kind)[0]
    bound = getattr(bound, "__bound__", None) or bound
    return isinstance(bound, type) and issubclass(bound, Reading)


def _is_path(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    return origin is os.PathLike or (isinstance(origin, type) and issubclass(origin, PurePath))


def _can_be_written(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if kind in (Any, object, *_READERS) or origin in _SCALARS or origin is Literal:
        return True
    if origin in _LISTS:
        return all(part is Ellipsis or can_be_written(part) for part in typing.get_args(kind))
    return _is_model(kind) or _is_path(kind) or origin in _TABLES
