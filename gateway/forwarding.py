"""What an upstream gets, from where on and at what cost, from settings: `KEYS` of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from edgedepot.storage.buffer import Start
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.hints import shown
from edgedepot.storage.options import Checker, join
from edgedepot.storage.reading import Reading
from edgedepot.storage.registry import did_you_mean
from edgedepot.sync.limits import read_every, read_per_day, read_rate, read_windows
from edgedepot.sync.settings import read_backoff, read_batch_size

KEYS = ("start", "models", "devices", "max_rate", "max_per_day", "windows", "every", "batch_size", "backoff")
_CHECKS: Mapping[str, Callable[[object, str], object]] = {
    "max_rate": read_rate,
    "max_per_day": read_per_day,
    "windows": read_windows,
    "every": read_every,
    "batch_size": read_batch_size,
    "backoff": read_backoff,
}
_TIME = "a time with its zone, such as 2026-01-31T12:00:00+01:00"


def read_forwarding(
    path: str, settings: Mapping[str, Any], models: Mapping[str, type[Reading] | None], checker: Checker
) -> dict[str, Any]:
    """The arguments of `Gateway.forward_to` that the keys of an upstream's table stand for; problems are noted."""
    found: dict[str, Any] = {}
    readers = {
        "start": read_start,
        "models": lambda value: _models(value, models),
        "devices": _devices,
    }
    for key, read in readers.items():
        if key in settings:
            try:
                found[key] = read(settings[key])
            except InvalidValue as exc:
                checker.note(join(path, key), exc)
    for key, check in _CHECKS.items():
        if key in settings:
            try:
                check(settings[key], "")
                found[key] = settings[key]
            except ConfigError as exc:
                checker.note(join(path, key), str(exc).removeprefix(": "))
    return found


def read_start(value: object) -> Start:
    """Where a new upstream begins: ``"oldest"``, ``"now"``, an aware datetime or the text of one. Raises
    `InvalidValue`."""
    if value == "oldest" or value == "now":
        return "oldest" if value == "oldest" else "now"
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if not isinstance(moment, datetime):
        raise InvalidValue(f'found {shown(value)}, expected "oldest", "now" or {_TIME}')
    if moment.utcoffset() is None:
        raise InvalidValue(f"found {shown(value)}, which has no zone; expected {_TIME}")
    return moment


def _models(value: object, known: Mapping[str, type[Reading] | None]) -> list[type[Reading]]:
    names = _texts(value, "models")
    by_name = {name.lower(): model for name, model in known.items()}
    for name in names:
        if name.lower() not in by_name:
            there = ", ".join(f'"{name}"' for name in known) or "none"
            cure = did_you_mean(name, known)
            raise InvalidValue(f"found {shown(name)}, expected models declared under [models]: {there}{cure}")
    found = (by_name[name.lower()] for name in names)
    return [model for model in found if model is not None]  # one that is declared wrongly has problems of its own


def _devices(value: object) -> list[str]:
    return _texts(value, "devices or patterns")


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise InvalidValue(f"found {shown(value)}, expected a list of {what}; without it, all are forwarded")
    return value
