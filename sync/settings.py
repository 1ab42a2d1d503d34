"""Checks of what a sync worker is given, before any thread starts."""

from __future__ import annotations

from datetime import timedelta

from edgedepot.storage.base import BaseStorage, Buffer
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of

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


def wait_bounds(backoff: object, name: str) -> tuple[float, float]:
    """The shortest and the longest wait in seconds. Raises `ConfigError`."""
    what = f"upstream {name!r}: backoff"
    if not isinstance(backoff, (tuple, list)) or len(backoff) != 2:
        raise ConfigError(
            f"{what} is {backoff!r}, expected the shortest and the longest wait, such as ('200 ms', '60s')"
        )
    low, high = (seconds(end, what) for end in backoff)
    if low > high:
        raise ConfigError(f"{what} is {backoff!r}, expected the shorter wait first")
    return low, high


def seconds(value: Duration, what: str) -> float:
    """A duration in seconds. Raises `ConfigError` that names `what`."""
    try:
        return seconds_of(value, what)
    except InvalidValue as exc:
        raise ConfigError(str(exc)) from exc
