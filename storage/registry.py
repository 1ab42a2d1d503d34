"""Short names for the classes that settings may name: shipped ones, entry points of other packages, dotted paths."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgedepot.storage.errors import ConfigError

Base = TypeVar("Base")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean "x"?)`` where a known name is near, else an empty text."""
    import difflib  # here, as few names are misspelt: what is imported stays in memory for years

    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


@dataclass(frozen=True, slots=True)
class Registry(Generic[Base]):
    """Finds subclasses of `base` by name.

    `shipped` maps short names to dotted paths; `group` is the entry-point group in which other packages add theirs.
    """

    base: type[Base]
    group: str
    shipped: Mapping[str, str]

    def names(self) -> list[str]:
        """All short names, those of other packages included."""
        return sorted({*self.shipped, *_entry_points(self.group)})

    def find(self, name: str) -> type[Base]:
        """The class of a short name or of a dotted path such as ``"myapp.MyStorage"``. Raises `ConfigError`."""
        if name in self.shipped:
            return self._load(name, self.shipped[name])
        if "." in name:
            return self._load(name, name)
        # Looked up last: reading the metadata of every installed package costs more than the rest of a start.
        others = _entry_points(self.group)
        if name in others:
            return self._load(name, others[name])
        known = self.names()
        raise ConfigError(
            f'found "{name}", expected one of {", ".join(known)}, or a dotted path{did_you_mean(name, known)}'
        )

    def _load(self, name: str, path: str) -> type[Base]:
        module, _, attribute = path.rpartition(".")
        try:
            home = importlib.import_module(module)
            found: Any = getattr(home, attribute, None)  # imports too, where names are loaded lazily
        except (ImportError, SyntaxError, ValueError) as exc:
            raise ConfigError(f'found "{name}", which cannot be imported: {exc}') from exc
        if found is None:
            raise ConfigError(f'found "{name}", but module {module} has no {attribute}')
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(f'found "{name}", which is no {self.base.__name__}')
        return found


def _entry_points(group: str) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: f"{point.module}.{point.attr}" for point in entry_points(group=group)}
