"""Settings of a file or a mapping, checked against the constructor that they are for.

What a constructor takes, and of what type, stands in its signature; nothing else has to be written for a class to be
configurable. Parameters of a type that no file can say (a clock, a callback) are left out.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.hints import Scope, Secret, can_be_written, convert, expected, takes_model
from edgedepot.storage.registry import did_you_mean

_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}")


class Option(NamedTuple):
    """A parameter that settings may give: `key` is its name there."""

    key: str
    parameter: str
    hint: Any
    required: bool


@dataclass(slots=True)
class Checker:
    """Checks settings and notes each problem as ``key.path: what was found, what was expected``."""

    scope: Scope = field(default_factory=Scope)
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    problems: list[str] = field(default_factory=list)

    def note(self, path: str, problem: object) -> None:
        """Note a problem of the setting at that path."""
        self.problems.append(f"{path}: {problem}" if path else str(problem))

    def raise_problems(self, head: str = "") -> None:
        """Raise one `ConfigError` with a line for each problem, if there is any."""
        if self.problems:
            raise ConfigError("\n".join(head + problem for problem in self.problems))

    def fill_in(self, settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        """The settings with ``${NAME}`` in texts, at any depth, replaced from the environment. ``$${`` is ``${``."""
        return {key: self._filled(value, join(path, key)) for key, value in settings.items()}

    def check_keys(self, path: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
        """Note every key that is not known."""
        for key in settings:
            if key not in known:
                cure = did_you_mean(key, known) or f"; known here: {', '.join(sorted(known))}"
                self.note(join(path, key), f"unknown key{cure}")

    def arguments(
        self,
        path: str,
        target: Callable[..., Any],
        settings: Mapping[str, Any],
        reserved: Collection[str] = (),
        neighbours: Collection[str] = (),
    ) -> dict[str, Any]:
        """The keyword arguments for a constructor. `reserved` parameters are given by others, never by settings;
        `neighbours` are keys beside these that somebody else reads."""
        settings = {key: value for key, value in settings.items() if key not in neighbours}
        known, takes_others = options_of(target)
        known = {key: option for key, option in known.items() if option.parameter not in reserved}
        if not takes_others:
            self.check_keys(path, settings, [*known, *neighbours])
        found: dict[str, Any] = {}
        for key, option in known.items():
            try:
                if key in settings:
                    found[option.parameter] = convert(settings[key], option.hint, self.scope)
                elif option.required:
                    self.note(join(path, key), f"missing, expected {expected(option.hint, self.scope.models)}")
            except InvalidValue as exc:
                self.note(join(path, key), exc)
        if takes_others:
            found |= {key: value for key, value in settings.items() if key not in known}
        return found

    def _filled(self, value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return self.fill_in(value, path)
        if isinstance(value, list):
            return [self._filled(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        filled = Secret(_VARIABLE.sub(lambda match: self._variable(match, path), value))
        filled.raw = value
        return filled

    def _variable(self, match: re.Match[str], path: str) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in self.environment:
            self.note(path, f'found "${{{name}}}", but the environment variable {name} is not set')
        return self.environment.get(name, "")


def options_of(target: Callable[..., Any]) -> tuple[dict[str, Option], bool]:
    """What settings can give a constructor, by key, and whether it takes any other keyword too.

    The parameter that takes a reading model goes by ``model`` in settings. Raises `ConfigError` for a constructor that
    needs something settings cannot say.
    """
    found: dict[str, Option] = {}
    parameters = inspect.signature(target).parameters.values()
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        hint = _resolved(target, parameter)
        required = parameter.default is parameter.empty
        if can_be_written(hint):
            key = "model" if takes_model(hint) else parameter.name
            found[key] = Option(key, parameter.name, hint, required)
        elif required:
            name = getattr(target, "__name__", target)
            raise ConfigError(f"{name} needs {parameter.name!r}, which settings cannot say: make it in Python")
    return found, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _resolved(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The parameter's type; Any where it is not declared, or is written in names that its module does not have."""
    if parameter.annotation is parameter.empty:
        return Any
    maker = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009 - mypy refuses the other
    names = getattr(inspect.unwrap(maker), "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["hint"]
    except NameError:
        return Any


def join(path: str, key: str) -> str:
    """A key path one step longer; a key that TOML would quote is quoted."""
    bare = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
    return f"{path}.{bare}" if path else bare
