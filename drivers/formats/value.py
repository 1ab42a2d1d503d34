"""A single value per message: ``21.5``, ``on``, ``closed``. ESPHome and Homie send one value to each topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedepot.drivers.formats import Format, check_encoding, decode_text
from edgedepot.storage.errors import DecodeError


class ValueFormat(Format):
    """The whole message is the value of `field`. What it is to be, number, bool or text, the reading model says."""

    def __init__(self, field: str, encoding: str = "utf-8") -> None:
        self._field = field
        self._encoding = check_encoding(encoding)
        self.names = (field,)

    def decode(self, raw: bytes) -> Mapping[str, Any]:
        text = decode_text(raw, self._encoding).strip()
        if not text:
            raise DecodeError("is empty")
        return {self._field: text}
