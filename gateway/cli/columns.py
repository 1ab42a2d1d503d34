"""From the records of a file to rows for the store: names, times, values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from edgedepot.storage.base import Version
from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.reading import Reading, device_id_of
from edgedepot.storage.registry import did_you_mean
from edgedepot.storage.values import Quality, convert_from_device

_NUMBER = re.compile(r"\s*[+-]?\d{1,30}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,2})?\s*", re.ASCII)
_UNITS = ((10**11, 6), (10**14, 3), (10**17, 0))  # below this it has so many digits less than microseconds
_EARLIEST = to_micros(datetime(1973, 3, 4, tzinfo=UTC))
_DAY = timedelta(days=1)
_FLAGS = sum(Quality)


class Columns:
    """What the names of a file mean for a model. `device` is whose readings they are where the file does not say."""

    def __init__(
        self,
        model: type[Reading],
        renamed: Mapping[str, str],
        left_out: Sequence[str],
        device: str | None,
        zone: tzinfo | None,
    ) -> None:
        self.model = model
        self._types = {spec.name: spec.type for spec in model.__fields__}
        self._known = ("device_id", "timestamp", *self._types, "quality")
        self._renamed = renamed
        self._left_out = frozenset(left_out)
        self._device = None if device is None else device_id_of(device)
        self._zone = zone
        self._latest = to_micros(datetime.now(UTC) + _DAY)
        self._meanings: dict[str, str | None] = {}
        for name in renamed.values():
            if name not in self._known:
                raise ConfigError(f"--map: {self._unknown(name)}")

    def check_names(self, names: Sequence[str]) -> None:
        """Check a head line. Raises `ConfigError` with a line for each problem."""
        problems = [f"column {name!r}: named by --map or --skip, but not there" for name in self._unused(names)]
        meanings = []
        for name in names:
            try:
                meanings.append(self.meaning(name))
            except InvalidValue as exc:
                problems.append(f"column {name!r}: {exc}: name what it is by --map {name}=..., or --skip it")
        found = [meaning for meaning in meanings if meaning is not None]
        problems += [f"more than one column is {name}" for name in dict.fromkeys(found) if found.count(name) > 1]
        if not problems:
            problems += [f"no column is {name}" for name in self._needed() if name not in found]
        if problems:
            raise ConfigError("\n".join(problems))

    def _unused(self, names: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys((*self._renamed, *self._left_out)) if name not in names]

    def _needed(self) -> list[str]:
        return ["timestamp"] if self._device is not None else ["device_id", "timestamp"]

    def is_text(self, name: str) -> bool:
        """Whether a column holds texts, which may be empty."""
        return self._types.get(self.meaning(name) or "") is str

    def meaning(self, name: str) -> str | None:
        """What a column is: a field, device_id, timestamp or quality; None where it is left out. Raises
        `InvalidValue`."""
        if name not in self._meanings:
            self._meanings[name] = self._look_up(name)
        return self._meanings[name]

    def _look_up(self, name: str) -> str | None:
        if name in self._left_out:
            return None
        if name in self._renamed:
            return self._renamed[name]
        for known in self._known:
            if name.lower() == known.lower():
                return known
        raise InvalidValue(self._unknown(name))

    def _unknown(self, name: str) -> str:
        return f"{self.model.__name__} has no {name!r}{did_you_mean(name, self._known)}"

    def row(self, data: Mapping[str, Any]) -> Version:
        """The reading of a record. Raises `InvalidValue` with every reason why it is none."""
        cells: dict[str, Any] = {}
        problems: list[str] = []
        for name, value in data.items():
            try:
                meaning = self.meaning(name)
                if meaning in cells:
                    raise InvalidValue(f"{meaning} is there twice")
                if meaning is not None and value is not None:
                    cells[meaning] = self._read(meaning, value)
            except InvalidValue as exc:
                problems.append(str(exc))
        problems += [f"{name} is missing" for name in self._needed() if name not in cells and not problems]
        if self._device is not None and "device_id" in cells:
            problems.append("device_id is there, and --device too")
        if problems:
            raise InvalidValue("; ".join(problems))
        device, moment, quality = (
            cells.pop("device_id", self._device),
            cells.pop("timestamp"),
            cells.pop("quality", None),
        )
        return Version(device, moment, cells, quality or None)

    def _read(self, name: str, value: Any) -> Any:
        if name == "device_id":
            return device_id_of(value)
        try:
            if name == "timestamp":
                return self._read_time(value)
            if name == "quality":
                return _read_quality(value)
            return convert_from_device(value, self._types[name])
        except InvalidValue as exc:
            raise InvalidValue(f"{name} {exc}") from exc

    def _read_time(self, value: Any) -> datetime:
        """ISO 8601, or a number since 1970 in the unit that its size tells, as drivers have it. A float's shortest
        text is what was written, so the microsecond is exact."""
        text = repr(value) if type(value) in (int, float) else value
        if not isinstance(text, str) or len(text) > 100:
            raise InvalidValue(f"is {type(value).__name__}, expected ISO 8601 or a number since 1970")
        if _NUMBER.fullmatch(text):
            return self._of_number(Decimal(text.strip()))
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError as exc:
            raise InvalidValue(f"is {text!r}, expected ISO 8601 or a number since 1970") from exc
        if moment.tzinfo is None and self._zone is None:
            raise InvalidValue(f"is {text!r}, which has no zone: give --tz")
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=self._zone)

    def _of_number(self, number: Decimal) -> datetime:
        digits = next((digits for below, digits in _UNITS if abs(number) < below), -3)
        micros = int((number * Decimal(10) ** digits).to_integral_value("ROUND_FLOOR"))
        if not _EARLIEST <= micros <= self._latest:
            raise InvalidValue(f"is {number}, which is no time since March 1973 in s, ms, µs or ns")
        return from_micros(micros)


def _read_quality(value: Any) -> int:
    found = int(convert_from_device(value, int))
    if not 0 <= found <= _FLAGS:
        raise InvalidValue(f"is {found}, expected a sum of {', '.join(str(int(flag)) for flag in Quality)}")
    return found
