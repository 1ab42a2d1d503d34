"""Rows as text that loses nothing: CSV and JSON lines, one row at a time.

CSV is RFC 4180 in UTF-8 with a head line and ``\\n``. Numbers are written so that they read back to the same bits,
times as ISO 8601 with their zone, booleans as true and false. Null is an empty cell, an empty text is ``""``, as
PostgreSQL has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Literal

Form = Literal["csv", "jsonl"]
_QUOTED = re.compile(r'[",\r\n]')
_encode = json.JSONEncoder(ensure_ascii=False, default=datetime.isoformat).encode


def lines_of(form: Form, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], zone: tzinfo) -> Iterator[str]:
    """The rows as lines, each with its end; times in the zone. CSV begins with a line of names."""
    if form == "csv":
        yield ",".join(columns) + "\n"
        for row in rows:
            yield ",".join([_cell(local(row[name], zone)) for name in columns]) + "\n"
    else:
        for row in rows:
            yield json_of(columns, row, zone) + "\n"


def json_of(columns: Sequence[str], row: Mapping[str, Any], zone: tzinfo) -> str:
    """A row as a JSON object on one line."""
    return _encode({name: local(row[name], zone) for name in columns})


def local(value: Any, zone: tzinfo) -> Any:
    """A time in the zone; anything else as it is."""
    return value.astimezone(zone) if isinstance(value, datetime) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value if value and not _QUOTED.search(value) else f'"{value.replace(chr(34), chr(34) * 2)}"'
    return repr(value)
