"""From one message to one reading, or to what is wrong with it.

raw -> Format.decode -> fields -> RowMaker.sift -> Arrival          and a field reject for each bad field
        |                          |
        message reject             reading reject: a required field is missing or bad
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from edgedepot.drivers.formats import Format
from edgedepot.drivers.timestamps import is_iso_time, read_timestamp
from edgedepot.storage.buffer import Arrival, Intake, Reject
from edgedepot.storage.errors import ConfigError, DecodeError
from edgedepot.storage.reading import Reading, check_model
from edgedepot.storage.values import MISSING, Flaw, Quality, Row, describe

RAW_LIMIT = 1024
"""Bytes of a message that are kept beside a reject."""
MAX_PAYLOAD = 65_536
_MOST_NAMES, _NAME_LIMIT = 5, 30


class Decoder:
    """Turns the messages of one source into arrivals and rejects. Thread-safe: it holds no state that changes.

    The device's own time is read from the key `timestamp` (None: no such key), see `timestamps`. Where it is absent
    the gateway's stands; where it cannot be used the gateway's stands too, the reading is flagged `TIME_REPLACED`, and
    a field reject says why. Messages of more than `max_payload` bytes are rejected unread.

    Raises `ConfigError` where the format can never give a required field of the model.
    """

    def __init__(
        self,
        model: type[Reading],
        format: Format,
        *,
        timestamp: str | None = "timestamp",
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        self._model = check_model(model)
        _check_names(model, format.names, timestamp)
        self._decode = format.decode
        self._detects_cut_front = format.detects_cut_front
        self._begins_with_time = timestamp is not None and format.first == timestamp
        self._fast, self._sift = model.__rows__.fast, model.__rows__.sift
        self._timestamp = timestamp
        self._max_payload = max_payload

    def add(self, intake: Intake, raw: bytes, device_id: str, now: int) -> bool:
        """Decode one message of a device into the intake; True when it became an arrival.

        `now` is the gateway's time when it came, in microseconds since 1970-01-01 UTC. Never raises for what is in it.
        """
        intake.messages += 1
        try:
            if len(raw) > self._max_payload:
                raise DecodeError(f"is longer than {self._max_payload} bytes")
            data = self._decode(raw)
        except DecodeError as exc:
            intake.rejects.append(Reject("message", str(exc), raw[:RAW_LIMIT]))
            return False
        intake.decoded += 1
        flaws: list[Flaw] = []
        row = self._fast(data)
        if row is None:
            row, flaws = self._sift(data)
            if row is None:
                intake.rejects.append(Reject("reading", self._explained(flaws, data), raw[:RAW_LIMIT]))
                return False
        moment, stamped = now, True
        given = None if self._timestamp is None else data.get(self._timestamp)
        if given is not None:
            try:
                moment, stamped = read_timestamp(given, now if intake.unchecked_at is None else None), False
            except DecodeError as exc:
                row = _flagged(row)
                flaws.append(Flaw(self._timestamp or "", str(exc)))
        # As Arrival(...), which takes three times as long.
        intake.arrivals.append(tuple.__new__(Arrival, (self._model, device_id, moment, stamped, row)))
        if flaws:
            intake.rejects += [Reject("field", describe((flaw,)), raw[:RAW_LIMIT]) for flaw in flaws]
        return True

    def _explained(self, flaws: Sequence[Flaw], data: Mapping[str, Any]) -> str:
        """The flaws; where a field is missing with the names that are no field's: it may be among them, misspelt."""
        declared = {self._timestamp, *(spec.name for spec in self._model.__fields__)}
        names = [name for name in data if name not in declared]
        if not names or all(flaw.reason != MISSING for flaw in flaws):
            return describe(flaws)
        shown = [repr(name[:_NAME_LIMIT]) for name in names[:_MOST_NAMES]] + ["..."] * (len(names) > _MOST_NAMES)
        return f"{describe(flaws)}; no fields are {', '.join(shown)}"

    def is_whole(self, raw: bytes, now: int | None) -> bool:
        """Whether the bytes are surely no message whose beginning is missing: the format can tell, or it begins with
        the device's own time in ISO 8601, of which no tail is one too."""
        try:
            data = self._decode(raw)
        except DecodeError:
            return False
        if len(raw) > self._max_payload:
            return False
        return self._detects_cut_front or (self._begins_with_time and is_iso_time(data.get(self._timestamp or ""), now))


def reject_message(intake: Intake, reason: str, raw: bytes) -> None:
    """Count a message that is rejected before anybody decodes it."""
    intake.messages += 1
    intake.rejects.append(Reject("message", reason, raw[:RAW_LIMIT]))


def ignore_message(intake: Intake) -> None:
    """Count a message that is left aside on purpose."""
    intake.messages += 1
    intake.ignored += 1


def _flagged(row: Row) -> Row:
    return (int((row[0] or 0) | Quality.TIME_REPLACED), *row[1:])


def _check_names(model: type[Reading], given: Collection[str] | None, timestamp: str | None) -> None:
    """A format that names what it gives must give what is required, and nothing that nobody knows."""
    if given is None:
        return
    declared = [spec.name for spec in model.__fields__]
    for name in given:
        if name not in declared and name != timestamp:
            also = "" if timestamp is None else f", or {timestamp!r} for the device's time"
            raise ConfigError(
                f"found the name {name!r}, expected a field of {model.__name__} ({', '.join(declared)}){also}"
            )
    missing = [spec.name for spec in model.__fields__ if spec.required and spec.name not in given]
    if missing:
        raise ConfigError(
            f"the format gives {', '.join(given) or 'nothing'}, but {model.__name__} requires {', '.join(missing)} too"
        )
