"""Pairs of name and value: ``temperature=21.5 humidity=40`` or ``temperature=21.5,place="the roof"``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgedepot.drivers.formats import Format, check_encoding, decode_text
from edgedepot.storage.errors import DecodeError

_PAIR = re.compile(r'\s*([^\s=,;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s=,;"]*))(?:\s*[,;]|(?=\s)|\s*$)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class KeyValueFormat(Format):
    """``name=value`` pairs with blanks, commas or semicolons between them.

    A value in double quotes may hold any of these, ``=``, ``\\"`` and ``\\\\``; one that is empty and not quoted is an
    absent field. Of a name that stands there twice the last value counts.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = check_encoding(encoding)

    def decode(self, raw: bytes) -> Mapping[str, Any]:
        text = decode_text(raw, self._encoding).strip()
        if not text:
            raise DecodeError("is empty")
        fields: dict[str, Any] = {}
        position = 0
        while position < len(text):
            pair = _PAIR.match(text, position)
            if pair is None:
                raise DecodeError(f"at {text[position : position + 20]!r}: expected name=value")
            name, quoted, bare = pair.groups()
            fields[name] = _ESCAPED.sub(r"\1", quoted) if quoted is not None else bare or None
            position = pair.end()
        return fields
