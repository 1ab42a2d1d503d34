"""Checks of what a sync worker is given, before any thread starts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Buffer, Choice
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.reading import Reading

Duration = str | float | timedelta


def check_ends(store: object, name: object, upstream: object) -> None:
    """Raise `ConfigError` unless store and upstream fit together; bind an upstream that has no gateway_id yet."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"upstream name: found {name!r}, expected a text such as 'central'")
    if upstream is store:
        raise ConfigError(f"upstream {name!r}: is the local store itself, expected another storage")
    if not isinstance(store, Buffer):
        raise ConfigError(
            f"upstream {name!r}: cannot forward from a {type(store).__name__}, expected a local store, such as "
            "SQLiteStorage"
        )
    if not isinstance(upstream, BaseStorage):
        raise ConfigError(
            f"upstream {name!r}: cannot forward to a {type(upstream).__name__}, expected a storage, such as "
            "TimescaleDBStorage or a BaseStorage of your own"
        )
    if store.gateway_id is None:
        raise ConfigError(
            f"upstream {name!r}: the local store has no gateway_id, by which upstreams tell gateways apart; "
            'expected one, such as SQLiteStorage(path, gateway_id="farm-3")'
        )
    if upstream.gateway_id is None:
        upstream.gateway_id = store.gateway_id
    elif upstream.gateway_id != store.gateway_id:
        raise ConfigError(
            f"upstream {name!r}: its gateway_id is {upstream.gateway_id!r}, expected the local store's, "
            f"{store.gateway_id!r}, or none"
        )


def read_batch_size(value: object, what: str) -> int:
    """Rows that go out together at most. Raises `ConfigError` that begins with `what`."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"{what}: found {value!r}, expected a number of rows from 1 up")
    return value


def read_backoff(value: object, what: str) -> tuple[float, float]:
    """The shortest and the longest wait after a failure, in seconds. Raises `ConfigError` that begins with `what`."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(
            f'{what}: found {value!r}, expected the shortest and the longest wait, such as ["200 ms", "60s"]'
        )
    low, high = (seconds(end, what) for end in value)
    if low > high:
        raise ConfigError(f"{what}: found {value!r}, expected the shorter wait first")
    return low, high


def seconds(value: Duration, what: str) -> float:
    """A duration in seconds. Raises `ConfigError` that names `what`."""
    try:
        return seconds_of(value, what)
    except InvalidValue as exc:
        raise ConfigError(str(exc)) from exc


def choice_of(models: object, devices: object, name: str) -> Choice:
    """Which readings an upstream gets: of these models (classes, or measurements by name), of devices that match one of
    these patterns; None is all. Raises `ConfigError`."""
    measurements = None
    if models is not None:
        what = f"upstream {name!r}: models"
        listed = _listed(models, what, "reading models, such as [WeatherStation]")
        measurements = frozenset(_measurement(model, what) for model in listed)
    patterns = None
    if devices is not None:
        what = f"upstream {name!r}: devices"
        patterns = tuple(
            _text(device, what, "a device or a pattern such as 'roof-*'")
            for device in _listed(devices, what, "device ids or patterns, such as ['mast', 'roof-*']")
        )
    return Choice(measurements, patterns)


def _listed(given: object, what: str, expected: str) -> list[object]:
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes, type)) else []
    if not found:
        raise ConfigError(f"{what}: found {given!r}, expected a list of {expected}; leave it out to forward all")
    return found


def _measurement(model: object, what: str) -> str:
    if isinstance(model, type) and issubclass(model, Reading) and model is not Reading:
        return model.__measurement__
    return _text(model, what, "a reading model, or its measurement such as 'weatherstation'")


def _text(value: object, what: str, expected: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{what}: found {value!r}, expected {expected}")
    return value
