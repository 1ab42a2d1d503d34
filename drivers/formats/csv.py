"""A line of values in a fixed order: ``21.5,40,"a text"``. Quoting as in RFC 4180, a line at a time."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from edgedepot.drivers.formats import Format, check_encoding, decode_text
from edgedepot.storage.errors import ConfigError, DecodeError

SKIPPED = "_"


class CsvFormat(Format):
    """The values of `columns`, in that order; a column named ``_`` is left aside, an empty value is an absent field.

    A line with more or fewer values than columns is no reading.
    """

    def __init__(self, columns: Sequence[str], delimiter: str = ",", encoding: str = "utf-8") -> None:
        self._columns = tuple(columns)
        self.names = tuple(name for name in self._columns if name != SKIPPED)
        self.first = next(iter(self._columns), None)
        if isinstance(columns, str) or not self.names:
            raise ConfigError(f"columns: found {columns!r}, expected a list of field names")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"columns: found {list(columns)!r}, expected each field once")
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(f"delimiter: found {delimiter!r}, expected one character such as ',' or ';'")
        self._delimiter = delimiter
        self._encoding = check_encoding(encoding)

    def decode(self, raw: bytes) -> Mapping[str, Any]:
        text = decode_text(raw, self._encoding)
        cells = _unquoted(text, self._delimiter) if '"' in text else text.split(self._delimiter)
        if len(cells) != len(self._columns):
            raise DecodeError(f"has {len(cells)} values, expected {len(self._columns)}")
        return {name: cell.strip() or None for name, cell in zip(self._columns, cells, strict=True)}


def _unquoted(text: str, delimiter: str) -> list[str]:
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as exc:
        raise DecodeError(f"is no CSV line: {exc}") from exc
    return rows[0] if rows else []
