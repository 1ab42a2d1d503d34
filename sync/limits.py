"""What an upstream may cost, from settings: bytes a second, bytes a day, hours of the day, averages only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

import msgspec

from edgedepot.storage.clock import DAY
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import Interval
from edgedepot.sync.windows import Schedule, Window

Rate = str | float
Size = str | int
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([a-z]+)\s*", re.ASCII | re.IGNORECASE)
LEAST_RATE = 500
"""Bytes a second: with less, a single request with all that goes with it takes most of a minute."""
LEAST_DAY = 100_000
"""Bytes a day: with less, connecting and asking for the tables takes most of it."""
_MOST = 10**18


class Limits(msgspec.Struct, frozen=True):
    """`rate` in bytes a second, `per_day` in bytes, `every` in microseconds; None is no limit."""

    rate: float | None = None
    per_day: int | None = None
    schedule: Schedule = msgspec.field(default_factory=Schedule)
    every: int | None = None

    @classmethod
    def of(
        cls,
        name: str,
        max_rate: Rate | None = None,
        max_per_day: Size | None = None,
        windows: str | Iterable[str] | None = None,
        every: str | timedelta | None = None,
    ) -> Limits:
        """Raises `ConfigError` that names the upstream and the setting."""
        what = f"upstream {name!r}"
        return cls(
            None if max_rate is None else read_rate(max_rate, f"{what}: max_rate"),
            None if max_per_day is None else read_per_day(max_per_day, f"{what}: max_per_day"),
            Schedule() if windows is None else read_windows(windows, f"{what}: windows"),
            None if every is None else read_every(every, f"{what}: every"),
        )

    @property
    def has_bytes(self) -> bool:
        """Whether bytes are counted."""
        return self.rate is not None or self.per_day is not None


def read_rate(value: object, what: str) -> float:
    """Bytes a second. Raises `ConfigError` that begins with `what`."""
    if isinstance(value, str):
        found = read_size(value.rstrip().removesuffix("/s")) if value.rstrip().endswith("/s") else None
    else:
        found = read_size(value)
    if found is None or found < LEAST_RATE:
        raise ConfigError(f'{what}: found {value!r}, expected a rate such as "20 kB/s", at least {LEAST_RATE} B/s')
    return found


def read_per_day(value: object, what: str) -> int:
    """Bytes a day. Raises `ConfigError` that begins with `what`."""
    found = read_size(value)
    if found is None or found < LEAST_DAY:
        raise ConfigError(f'{what}: found {value!r}, expected a size such as "50 MB", at least {LEAST_DAY // 1000} kB')
    return int(found)


def read_windows(value: object, what: str) -> Schedule:
    """Hours of the day. Raises `ConfigError` that begins with `what`."""
    listed = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
    if not listed:
        raise ConfigError(f'{what}: found {value!r}, expected a list such as ["22:00-06:00 Europe/Zurich"]')
    return Schedule(tuple(Window.parse(one, what) for one in listed))


def read_every(value: object, what: str) -> int:
    """The bucket of averages, in microseconds. Raises `ConfigError` that begins with `what`."""
    micros = 0
    if isinstance(value, (str, timedelta)):
        try:
            micros = Interval.parse(value).micros
        except InvalidValue as exc:
            raise ConfigError(f"{what}: {exc}") from exc
    if not 1_000_000 <= micros <= DAY:
        raise ConfigError(f'{what}: found {value!r}, expected an interval such as "1 minute", 1 second to 24 hours')
    return micros


def read_size(value: object) -> float | None:
    """Bytes, of a number or a text such as "50 MB"; None for anything else."""
    found: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        unit = _UNITS.get(match[2].lower())
        found = None if unit is None else float(match[1]) * unit
    return found if found is not None and 0 <= found <= _MOST else None  # nor one that is no number
