"""How long and how much a store keeps: the settings `keep`, `keep_bytes` and their like, read and checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec

from edgedepot.storage.clock import HOUR
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.hints import LongTime
from edgedepot.storage.interval import age_of
from edgedepot.storage.reading import Reading
from edgedepot.storage.registry import did_you_mean
from edgedepot.storage.sqlite.connection import WAL_PAGES
from edgedepot.storage.sqlite.shape import PERIOD

REST = "*"
"""The key of an age for all other models, and of the bytes of the whole store."""
Key = type[Reading] | str
Age = str | float | LongTime
Size = str | int
Setting = TypeVar("Setting")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([a-zA-Z]+)\s*", re.ASCII)
LEAST = 1_000_000
"""Bytes: with less a store is not worth its tables."""
PAGE = 4096
_FOLD_ROWS = 30_000
_ROW_SHARES, _MODEL_ROW_SHARES = 2_000, 400
"""One row for so many bytes: of the store, and of a model's history, which a fold is to fill a small part of."""
_PERIODS = [hours * HOUR for hours in (1, 2, 4, 8, 24, 48, 5 * 24, 10 * 24)]
_HEADROOM = 8_000_000
"""Room left below the limit for what comes in until the next look, where the limit is not small."""
_SHARES = 16
"""Into so many partitions what a budget holds is cut: so fine-grained is what goes at a time."""
_MANY_PIECES, _FEWEST = 64, 4
"""Thinned pieces are small: with more of them the last may be larger, up to so large a share."""
_LARGEST = 2_000
"""Pages of the largest partition otherwise: to drop one takes SQLite 10 us a page, and commits wait."""
_MANY, _DOUBLING = 128, 8
"""Beyond so many partitions of a model the largest doubles, with each few more: see shape.py."""


class Limits(msgspec.Struct, frozen=True):
    """Ages in microseconds and sizes in bytes, by measurement or `REST`. `block` says what a full store does: refuse
    new readings, or take away what upstreams are still owed. `keep_pending` holds against the age alone."""

    ages: Mapping[str, int] = msgspec.field(default_factory=dict)
    sizes: Mapping[str, int] = msgspec.field(default_factory=dict)
    block: bool = False
    keep_pending: bool = True

    @classmethod
    def of(
        cls,
        keep: Age | Mapping[Key, Age] | None,
        keep_bytes: Size | Mapping[Key, Size] | None,
        when_full: str,
        keep_pending: bool,
    ) -> Limits:
        """Raises `ConfigError` that begins with the setting's name."""
        if when_full not in ("evict", "block"):
            raise ConfigError(f"when_full: found {when_full!r}, expected 'evict' or 'block'")
        ages = {key: _age(value) for key, value in _by_measurement("keep", keep).items()}
        sizes = {key: _size(value) for key, value in _by_measurement("keep_bytes", keep_bytes).items()}
        return cls(ages, sizes, when_full == "block", keep_pending)

    def __bool__(self) -> bool:
        return bool(self.ages or self.sizes)

    def strangers(self, known: Collection[str]) -> list[str]:
        """A line for each name that has a limit and is none of these reading models: misspelt, it limits nothing."""
        return [
            f'{setting}: there is no reading model "{name}"{did_you_mean(name, known)}'
            for setting, names in (("keep", self.ages), ("keep_bytes", self.sizes))
            for name in sorted(names.keys() - {REST, *known})
        ]

    @property
    def size(self) -> int | None:
        """The bytes of the whole store."""
        return self.sizes.get(REST)

    def age(self, measurement: str) -> int | None:
        return self.ages.get(measurement, self.ages.get(REST))

    def room(self, headroom: bool = True) -> float:
        """The bytes that tables may have of the whole store's: without the WAL, where the commit that fills it goes
        beyond, and without the room that is left for what comes in until the next look."""
        if self.size is None:
            return float("inf")
        return self.size - self.wal_pages * 3 // 2 * PAGE - (min(_HEADROOM, self.size // 8) if headroom else 0)

    @property
    def wal_pages(self) -> int:
        """How many pages the WAL gathers before they go into the file: few where the store may hold few."""
        return WAL_PAGES if self.size is None else max(16, min(WAL_PAGES, self.size // 8 // PAGE))

    @property
    def fold_rows(self) -> int:
        """How many rows a fold takes at most: in between the store grows beyond what it may hold."""
        wanted = [size // (_ROW_SHARES if name == REST else _MODEL_ROW_SHARES) for name, size in self.sizes.items()]
        return max(100, min([_FOLD_ROWS, *wanted]))

    def piece_rows(self, wanted: int, bytes_each: float, pieces: int) -> int:
        """How many rows of that size the last of so many pieces may have, where `wanted` would do: what goes for want
        of room is to be a small part of all there is."""
        if self.size is None:
            return wanted
        share = max(_FEWEST, _SHARES >> max(0, pieces - _MANY_PIECES) // _SHARES)
        return max(1, min(wanted, int(self.size / share / bytes_each)))

    def period(self, measurement: str) -> int:
        """What a partition spans, in microseconds: less where the age would be overstepped by much otherwise."""
        age = self.age(measurement)
        if age is None:
            return PERIOD
        return max((period for period in (*_PERIODS, PERIOD) if period <= age // 8), default=_PERIODS[0])

    def largest(self, measurement: str, partitions: int) -> int:
        """How many pages the newest of so many partitions may have before another begins."""
        largest = _LARGEST << max(0, (partitions - _MANY + _DOUBLING) // _DOUBLING)
        for size in (self.sizes.get(measurement), self.size):
            if size is not None:
                largest = min(largest, max(8, size // PAGE // _SHARES))
        return largest


def _by_measurement(name: str, given: Setting | Mapping[Key, Setting] | None) -> dict[str, Setting]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {REST: given}
    found: dict[str, Setting] = {}
    for key, value in given.items():
        measurement = getattr(key, "__measurement__", key)
        if not isinstance(measurement, str):
            raise ConfigError(f"{name}: found {key!r}, expected reading models, measurements or '*'")
        found[measurement.lower()] = value  # as measurements are, so that a class's name does as well
    return found


def _age(value: object) -> int:
    try:
        return round(age_of(value, "keep") * 1_000_000)  # type: ignore[arg-type]
    except InvalidValue as exc:
        raise ConfigError(str(exc)) from exc


def _size(value: object) -> int:
    found = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        unit = _UNITS.get(match[2].upper())
        found = None if unit is None else int(float(match[1]) * unit)
    if found is None or found < LEAST:
        raise ConfigError(
            f"keep_bytes: found {value!r}, expected a size such as '500 MB' or '2 GB', or a number of bytes,"
            " at least 1 MB"
        )
    return found
