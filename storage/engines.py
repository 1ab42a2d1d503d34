"""Storages from settings: which class an engine's name stands for, and `storage_from_settings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.errors import ConfigError
from edgedepot.storage.options import Checker, options_of
from edgedepot.storage.registry import Registry

ENGINES: Registry[BaseStorage] = Registry(
    BaseStorage,  # type: ignore[type-abstract]  # the abstract base is what subclasses are checked against
    "edgedepot.storages",
    {
        "sqlite": "edgedepot.storage.SQLiteStorage",
        "timescaledb": "edgedepot.storage.TimescaleDBStorage",
        "influxdb": "edgedepot.storage.InfluxDBStorage",
    },
)


def storage_from_settings(settings: Mapping[str, Any]) -> BaseStorage:
    """Make the storage that settings describe: ``engine``, and the parameters of its constructor.

    Keys may be in upper case and may carry the engine's name, as in ``{"ENGINE": "edgedepot.storage.SQLiteStorage",
    "SQLITE_PATH": "gateway.db"}``. `engine` is a short name, or a dotted path to a class of anybody's; "sqlite" when
    it is not given. Raises `ConfigError` with a line for each setting that is wrong.
    """
    plain = {str(key).lower(): value for key, value in settings.items()}
    name = plain.pop("engine", "sqlite")
    if not isinstance(name, str):
        raise ConfigError(f"engine: found {name!r}, expected one of {', '.join(ENGINES.names())}, or a dotted path")
    try:
        engine = ENGINES.find(name)
    except ConfigError as exc:
        raise ConfigError(f"engine: {exc}") from exc
    checker = Checker()
    arguments = checker.arguments("", engine, _without_prefix(plain, engine))
    checker.raise_problems()
    return engine(**arguments)


def _without_prefix(settings: Mapping[str, Any], engine: type[BaseStorage]) -> dict[str, Any]:
    """``influxdb_url`` as ``url``, for `InfluxDBStorage`; a key that the engine knows as it is stays so."""
    prefix = engine.__name__.lower().removesuffix("storage") + "_"
    known, _ = options_of(engine)
    return {key if key in known else key.removeprefix(prefix): value for key, value in settings.items()}
