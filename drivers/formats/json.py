"""A JSON object (RFC 8259) per message, its members being the fields."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from edgedepot.drivers.formats import Format, decode_text
from edgedepot.storage.errors import DecodeError


class JsonFormat(Format):
    """One JSON object. Of a name that stands there twice the last value counts, as in other JSON readers.

    Numbers beyond what fits, NaN, Infinity and lone surrogates are let through to the check of each field: a broken
    sensor that says NaN is no reason to lose the others' values.
    """

    # Its closing brace would be left over, or, cut inside a text, an odd number of quotes.
    detects_cut_front = True

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder().decode

    def decode(self, raw: bytes) -> Mapping[str, Any]:
        try:
            data = self._decode(raw)
        except RecursionError as exc:
            raise DecodeError("is nested too deeply") from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            data = _decode_leniently(raw, str(exc))
        if data.__class__ is not dict:
            raise DecodeError(f"is {_in_words(data)}, expected a JSON object")
        fields: dict[str, Any] = data
        return fields


def _decode_leniently(raw: bytes, reason: str) -> Any:
    """What Python's own, more lenient reader makes of it; raises `DecodeError` with the strict reader's reason."""
    text = decode_text(raw, "utf-8")
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError as exc:
        raise DecodeError("is nested too deeply") from exc
    except ValueError as exc:
        raise DecodeError(reason.removeprefix("JSON ")) from exc


def _integer(digits: str) -> int | float:
    """Thousands of digits are refused by int(), and as a float they are the infinity that no field accepts."""
    return int(digits) if len(digits) < 40 else math.copysign(math.inf, float(digits[:2] + "1"))


def _in_words(value: object) -> str:
    kinds = {list: "an array", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
