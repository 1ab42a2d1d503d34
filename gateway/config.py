"""The TOML file of a gateway: read, checked as a whole, and made into a `Gateway`.

    [gateway]           id
    [clock]             trust ("auto" unless given, or "always")
    [storage]           engine ("sqlite" unless given), and its options
    [models.NAME]       a line for each field: a type, or a table of type, unit, range, required, description
    [drivers.NAME]      type, and its options
    [upstreams.NAME]    engine, and its options; start, models, devices: what it gets, and from where on;
                        max_rate, max_per_day, windows, every: what that may cost; batch_size, backoff

Options are the parameters of the class's constructor. Relative paths start from the file's folder; ``${NAME}`` in a
text is replaced from the environment. All problems are reported together, one line each.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from edgedepot.clock import GatewayClock, Trust
from edgedepot.drivers import DRIVERS
from edgedepot.forwarding import KEYS, read_forwarding
from edgedepot.models import read_models
from edgedepot.names import driver_name_problem, name_problem
from edgedepot.runtime import Gateway
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Buffer
from edgedepot.storage.engines import ENGINES
from edgedepot.storage.errors import ConfigError
from edgedepot.storage.hints import Scope, Secret, shown
from edgedepot.storage.options import Checker, join, options_of
from edgedepot.storage.reading import Reading
from edgedepot.storage.registry import Registry, did_you_mean

_SECTIONS = ("gateway", "clock", "storage", "models", "drivers", "upstreams")
_GIVEN = ("gateway_id", "read_only")  # parameters that the gateway gives, not its file
_SQLITE_HEADER = b"SQLite format 3\0"
_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")


@dataclass(frozen=True, slots=True)
class Part:
    """A driver or a storage that the file describes: its class, and the arguments for it."""

    path: str
    kind: str
    target: type[Any]
    options: Mapping[str, Any] = field(repr=False)  # some are secrets

    @property
    def file(self) -> Path | None:
        """The file of a local store."""
        path = self.options.get("path")
        return path if isinstance(path, Path) and issubclass(self.target, Buffer) else None

    def make(self, **more: Any) -> Any:
        """Make it. Raises `ConfigError` that names the key."""
        with self._locating_problems():
            return self.target(**self._arguments(), **more)

    def make_with(self, **more: Any) -> Any:
        """Make it, with those of the arguments that it takes."""
        known = inspect.signature(self.target).parameters
        return self.make(**{name: value for name, value in more.items() if name in known})

    def try_out(self) -> None:
        """Raise what `make` would. A local store is not made, for that opens its file: it looks at its settings."""
        if issubclass(self.target, Buffer):
            with self._locating_problems():
                self.target.check_settings(self._arguments())
            return
        made = self.make()
        if isinstance(made, BaseStorage):
            made.close()

    def _arguments(self) -> dict[str, Any]:
        return {key: _revealed(value) for key, value in self.options.items()}

    @contextlib.contextmanager
    def _locating_problems(self) -> Iterator[None]:
        try:
            yield
        except (ConfigError, ValueError, TypeError) as exc:
            raise ConfigError("\n".join(self._located(line) for line in str(exc).splitlines())) from exc

    def _located(self, problem: str) -> str:
        """A constructor's problem with its key path, where it starts with the key that it is about."""
        key, colon, rest = problem.partition(": ")
        return f"{join(self.path, key)}: {rest}" if colon and key.isidentifier() else f"{self.path}: {problem}"


class Settings(msgspec.Struct, frozen=True):
    """A file that was checked. Nothing is opened or connected until `build`."""

    file: Path
    gateway_id: str | None
    trust: Trust
    models: Mapping[str, type[Reading]]
    storage: Part
    drivers: Mapping[str, Part]
    upstreams: Mapping[str, Part]
    forwarding: Mapping[str, Mapping[str, Any]]
    """What each upstream gets: arguments of `Gateway.forward_to`."""

    def build(self) -> Gateway:
        """Make the gateway; opens the local store. Raises `ConfigError`, and `StorageError` for the store's file."""
        clock = GatewayClock(self.trust)
        gateway = Gateway(self._open_store(clock), clock=clock)
        for name, part in self.drivers.items():
            gateway.add(name, part.make())
        for name, part in self.upstreams.items():
            gateway.forward_to(name, part.make(), **self.forwarding[name])
        return gateway

    def _open_store(self, clock: GatewayClock) -> BaseStorage:
        try:
            store: BaseStorage = self.storage.make_with(gateway_id=self.gateway_id, clock=clock)
        except ConfigError as exc:
            raise ConfigError(f"{self.file}: {exc}") from exc
        if store.gateway_id is None:
            store.gateway_id = self.gateway_id
        return store


def load(file: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check a gateway's file. Raises `ConfigError` with one line for each problem."""
    return _Reader(Path(file), environment).read()


def load_storage(file: str | os.PathLike[str]) -> Part:
    """The local store that a gateway's file describes; the rest of it may be wrong. Raises `ConfigError`."""
    return _Reader(Path(file), None).read_storage_alone()


def load_clock(file: str | os.PathLike[str]) -> GatewayClock:
    """The clock that a gateway's file describes; the rest of it may be wrong. Raises `ConfigError`."""
    return _Reader(Path(file), None).read_clock_alone()


def load_models(file: str | os.PathLike[str]) -> Mapping[str, type[Reading]]:
    """The reading models that a gateway's file declares; the rest of it may be wrong. Raises `ConfigError`."""
    return _Reader(Path(file), None).read_models_alone()


def load_upstream_names(file: str | os.PathLike[str]) -> list[str]:
    """The upstreams that a gateway's file names; all else in it may be wrong. Raises `ConfigError`."""
    found = _parse(Path(file)).get("upstreams", {})
    return list(found) if isinstance(found, dict) else []


class _Reader:
    """Reads one file."""

    def __init__(self, file: Path, environment: Mapping[str, str] | None) -> None:
        self._file = file
        self._models: dict[str, type[Reading] | None] = {}
        self._checker = Checker(Scope(self._models, file.parent), os.environ if environment is None else environment)

    def read(self) -> Settings:
        plain = _parse(self._file)
        self._checker.check_keys("", plain, _SECTIONS)
        document = self._checker.fill_in(plain)
        gateway_id = self._gateway_id(document)
        trust = self._trust(document)
        self._models.update(read_models(self._table(document, "models"), self._checker))
        storage = self._storage(document)
        drivers = self._parts(document, "drivers", "type", None, DRIVERS)
        upstreams = self._parts(document, "upstreams", "engine", None, ENGINES)
        forwarding = self._forwarding(document)
        self._check_limits([storage, *upstreams.values()], drivers.values())
        if upstreams:
            self._check_forwarding(document, storage)
            self._check_files(storage, upstreams)
        self._checker.raise_problems(f"{self._file}: ")
        assert storage is not None
        return Settings(self._file, gateway_id, trust, self._good_models(), storage, drivers, upstreams, forwarding)

    def read_storage_alone(self) -> Part:
        document = _parse(self._file)
        storage = self._storage(self._checker.fill_in({"storage": self._table(document, "storage")}))
        self._checker.raise_problems(f"{self._file}: ")
        assert storage is not None
        return storage

    def read_clock_alone(self) -> GatewayClock:
        trust = self._trust(_parse(self._file))
        self._checker.raise_problems(f"{self._file}: ")
        return GatewayClock(trust)

    def read_models_alone(self) -> dict[str, type[Reading]]:
        declared = self._table(_parse(self._file), "models")
        self._models.update(read_models(self._checker.fill_in(declared), self._checker))
        self._checker.raise_problems(f"{self._file}: ")
        return self._good_models()

    def _good_models(self) -> dict[str, type[Reading]]:
        return {name: model for name, model in self._models.items() if model is not None}

    def _gateway_id(self, document: Mapping[str, Any]) -> str | None:
        table = self._table(document, "gateway")
        self._checker.check_keys("gateway", table, ("id",))
        found = table.get("id")
        if found is None or (isinstance(found, str) and not name_problem(found)):
            return found
        problem = name_problem(found) if isinstance(found, str) else "expected a text"
        self._checker.note("gateway.id", f"found {shown(found)}, {problem}")
        return None

    def _trust(self, document: Mapping[str, Any]) -> Trust:
        table = self._table(document, "clock")
        self._checker.check_keys("clock", table, ("trust",))
        found = table.get("trust", "auto")
        if found not in ("auto", "always"):
            self._checker.note("clock.trust", f'found {shown(found)}, expected "auto" or "always"')
        return "always" if found == "always" else "auto"

    def _storage(self, document: Mapping[str, Any]) -> Part | None:
        part = self._part("storage", self._table(document, "storage"), "engine", "sqlite", ENGINES)
        if part:
            self._check_folder(part)
        return part

    def _check_folder(self, part: Part) -> None:
        """A local store is not tried out, so the most common mistakes are looked for."""
        file = part.file
        if file and not file.parent.is_dir():
            self._checker.note(join(part.path, "path"), f'found "{file}", but there is no folder {file.parent}')
        elif file and file.is_dir():
            self._checker.note(join(part.path, "path"), f'found "{file}", which is a folder, expected a file')

    def _forwarding(self, document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What each upstream gets."""
        return {
            name: read_forwarding(join("upstreams", name), table, self._models, self._checker)
            for name, table in self._table(document, "upstreams").items()
            if isinstance(table, Mapping)
        }

    def _parts(
        self, document: Mapping[str, Any], section: str, kind: str, default: str | None, registry: Registry[Any]
    ) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        for name, settings in self._table(document, section).items():
            path = join(section, name)
            problem = driver_name_problem(name) if section == "drivers" else name_problem(name)
            if problem:
                self._checker.note(path, problem)
            if not isinstance(settings, Mapping):
                self._checker.note(path, f"found {shown(settings)}, expected a table: [{path}]")
                continue
            part = self._part(path, settings, kind, default, registry, KEYS if section == "upstreams" else ())
            if part is not None:
                parts[name] = part
        return parts

    def _part(
        self,
        path: str,
        settings: Mapping[str, Any],
        kind: str,
        default: str | None,
        registry: Registry[Any],
        neighbours: Collection[str] = (),
    ) -> Part | None:
        """One driver or storage; None, with the problem noted, where its class is not found."""
        options = dict(settings)
        name = options.pop(kind, default)
        try:
            if not isinstance(name, str):
                found = "missing" if name is None else f"found {shown(name)}"
                raise ConfigError(f"{found}, expected one of {', '.join(registry.names())}, or a dotted path")
            target = registry.find(name)
            if "gateway_id" in options:
                self._checker.note(join(path, "gateway_id"), "unknown key; the gateway's name is `id` under [gateway]")
                del options["gateway_id"]
            part = Part(path, name, target, self._checker.arguments(path, target, options, _GIVEN, neighbours))
        except ConfigError as exc:
            self._checker.note(join(path, kind), exc)
            return None
        if not self._lacks(path) and None not in part.options.values():  # None: a model with problems of its own
            self._try_out(part)
        return part

    def _lacks(self, path: str) -> bool:
        """Whether a value there is missing or cannot be used. A key that nobody knows changes nothing."""
        mine = [problem for problem in self._checker.problems if problem.startswith((f"{path}.", f"{path}:"))]
        return any(": unknown key" not in problem for problem in mine)

    def _try_out(self, part: Part) -> None:
        try:
            part.try_out()
        except ConfigError as exc:
            self._checker.problems += str(exc).splitlines()

    def _check_forwarding(self, document: Mapping[str, Any], storage: Part | None) -> None:
        if "id" not in self._table(document, "gateway"):
            self._checker.note("gateway.id", "missing, expected a name: upstreams tell gateways apart by it")
        if storage is not None and not issubclass(storage.target, Buffer):
            self._checker.note("storage.engine", f'found "{storage.kind}", which nothing can be forwarded from')

    def _check_limits(self, storages: Iterable[Part | None], drivers: Iterable[Part]) -> None:
        """What a local store keeps of which models: of declared ones, as long as no driver has models of its own."""
        known = {name.lower() for name in self._models}
        if not known or not all("model" in options_of(driver.target)[0] for driver in drivers):
            return
        there = ", ".join(f'"{name}"' for name in self._models)
        stores = [part for part in storages if part is not None and issubclass(part.target, Buffer)]
        for part, key in product(stores, ("keep", "keep_bytes")):
            given = part.options.get(key)
            for name in given if isinstance(given, Mapping) else ():
                if name.lower() not in {"*", *known}:
                    problem = f"is no model declared under [models]: {there}{did_you_mean(name, known)}"
                    self._checker.note(join(join(part.path, key), name), problem)

    def _check_files(self, storage: Part | None, upstreams: Mapping[str, Part]) -> None:
        """Upstreams that are local files: in a folder that is there, each in a file of its own."""
        taken = {storage.file.resolve(): storage.path} if storage and storage.file else {}
        for part in upstreams.values():
            self._check_folder(part)
            if part.file:
                other = taken.setdefault(part.file.resolve(), part.path)
                if other != part.path:
                    self._checker.note(join(part.path, "path"), f'found "{part.file}", which {other} has')

    def _table(self, document: Mapping[str, Any], section: str) -> Mapping[str, Any]:
        found = document.get(section, {})
        if isinstance(found, Mapping):
            return found
        self._checker.note(section, f"found {shown(found)}, expected a table: [{section}]")
        return {}


def _parse(file: Path) -> dict[str, Any]:
    """The file's plain contents. Raises `ConfigError`; for a mistake in the syntax with its line."""
    try:
        with file.open("rb") as opened:
            if opened.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER:
                raise ConfigError(f"{file}: is a store's database, expected a gateway's file, gateway.toml")
        text = file.read_text("utf-8")
        return tomllib.loads(text)
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: is no text in UTF-8: byte {exc.start} is 0x{exc.object[exc.start]:02x}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(_syntax_problem(file, text, str(exc))) from exc


def _syntax_problem(file: Path, text: str, message: str) -> str:
    """``gateway.toml:3: what is wrong, in column 7`` from what tomllib says."""
    found = _POSITION.fullmatch(message)
    if found is None:
        return f"{file}: {message}"
    what, line, column = found.groups()
    what = what.replace("Invalid value", "Invalid value; a text stands in quotes")
    return f"{file}:{line or len(text.splitlines())}: {what}, {f'in column {column}' if line else 'up to the end'}"


def _revealed(value: Any) -> Any:
    """The value as constructors get it: what a secret holds, as a plain text."""
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, list):
        return [_revealed(item) for item in value]
    if isinstance(value, dict):
        return {key: _revealed(item) for key, item in value.items()}
    return value
