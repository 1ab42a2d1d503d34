"""What a record of the store's small tables is: the kind of each column's values, and the one way to read them.

SQLite keeps whatever stands in a column. A value of another kind than the store writes is damage, wherever somebody
comes upon it: so all who read these tables read them by `read_records`, and a salvage keeps the records that
`is_record` takes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

_T = TypeVar("_T")
MOST = 2**48
"""More than there will ever be of anything that is counted or numbered, and less than a time of our days."""
Number = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Difference = Annotated[int, msgspec.Meta(ge=-MOST, le=MOST)]


class BadRecord(sqlite3.DatabaseError):
    """A record is not what the store writes. To whoever handles SQLite's errors that is what a bad page is."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class Kind(NamedTuple):
    """The values that a column can have: of these types; integers within bounds, both among them."""

    types: tuple[type, ...]
    low: int = -(2**63)
    high: int = 2**63 - 1

    def takes(self, value: object) -> bool:
        return type(value) in self.types and (type(value) is not int or self.low <= value <= self.high)


_NONE = type(None)
ID = Kind((int,), 1, MOST)
SEQ = Kind((int,), 1, MOST)
COUNT = Kind((int,), 0, MOST)
TIME = Kind((int,), -62_135_596_800_000_000, 253_402_300_799_999_999)
"""Microseconds since 1970 UTC, in the years that a `datetime` has."""
Moment = Annotated[int, msgspec.Meta(ge=TIME.low, le=TIME.high + 1)]
_TIME_OR_NONE = Kind((int, _NONE), TIME.low, TIME.high)
_DIFFERENCE = Kind((int,), -MOST, MOST)
QUALITY = Kind((int, _NONE), 1, 255)
_TEXT = Kind((str,))
_ANY = Kind((int, float, str, bytes, _NONE))
_INTEGER = Kind((int,))

RECORDS: Mapping[str, Mapping[str, Kind]] = {
    "_meta": {"key": _TEXT, "value": _ANY},
    "_models": {"id": ID, "name": _TEXT, "title": _TEXT, "fields": _TEXT},
    "_series": {"id": ID, "model": ID, "device_id": _TEXT, "newest": _TIME_OR_NONE},
    "_devices": {"device_id": _TEXT, "name": Kind((str, _NONE)), "metadata": _TEXT},
    "_sources": {"id": ID, "name": _TEXT},
    "_books": {
        "source": ID, "messages": COUNT, "decoded": COUNT, "ignored": COUNT, "rejected": COUNT, "readings": COUNT,
        "new": COUNT, "merged": COUNT, "duplicates": COUNT, "rejected_readings": COUNT, "rejected_fields": COUNT,
        "replaced": COUNT, "late": COUNT,
    },
    "_cursors": {
        "id": ID, "name": _TEXT, "versions_before": _DIFFERENCE, "since": _TIME_OR_NONE, "acknowledged": _TEXT,
        "walk": _TEXT, "delivered": COUNT, "quarantined": COUNT, "superseded": COUNT, "skipped": COUNT,
        "deleted": COUNT, "thinned": COUNT, "evicted": COUNT, "lost": COUNT,
    },
    "_pieces": {"id": ID, "live": COUNT},
    "_quarantined": {
        "cursor": ID, "seq": SEQ, "model": _TEXT, "device_id": _TEXT, "ts": TIME, "quality": QUALITY, "data": _TEXT,
        "reason": _TEXT, "at": TIME, "replay": Kind((int,), 0, 1),
    },
    "_withheld": {
        "cursor": ID, "series": ID, "start": _INTEGER, "stop": _INTEGER, "low": COUNT, "high": _INTEGER,
        "every": Kind((int,), -2, MOST),
    },
    "_rejected": {"id": ID, "source": ID, "at": TIME, "kind": _TEXT, "reason": _TEXT, "raw": Kind((bytes,))},
    "_replaced": {"id": ID, "series": ID, "ts": TIME, "field": _TEXT, "value": _ANY, "at": TIME},
    "_dirty": {"series": ID, "hour": Kind((int,), -MOST, MOST), "part": _INTEGER, "digest": _INTEGER},
}  # fmt: skip
"""By table and column, in the order of schema.py."""
_NUMBERS: Mapping[str, Kind] = {"store_epoch": ID, "books_seq": COUNT, "last_cursor": COUNT, "copied_at": TIME}
"""The settings that are not texts; where an upstream starts may be one or the other."""
_START = Kind((int, str), TIME.low, TIME.high)
_STORE_ID = re.compile("[0-9a-f]{32}")


def is_record(table: str, row: Sequence[object]) -> bool:
    """Whether a table can have this record, which has all of its columns."""
    kinds = RECORDS[table].values()
    if len(row) != len(kinds) or not all(kind.takes(value) for kind, value in zip(kinds, row, strict=True)):
        return False
    return table != "_meta" or is_setting(str(row[0]), row[1])


def is_setting(key: str, value: object) -> bool:
    """Whether that can be a setting's value."""
    if key == "store_id":  # where one that has changed on the card passed for another's, the store's log would be too
        return isinstance(value, str) and _STORE_ID.fullmatch(value) is not None
    return _NUMBERS.get(key, _START if key.startswith("start_") else _TEXT).takes(value)


def read_records(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], where: str = "", values: Sequence[object] = ()
) -> Iterator[tuple[Any, ...]]:
    """These columns of a table's records; `where` follows the table's name. Raises `BadRecord`."""
    kinds = [RECORDS[table][name] for name in columns]
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table} {where}", values):
        for kind, value, name in zip(kinds, row, columns, strict=True):
            if not kind.takes(value):
                raise BadRecord(f"{table} has a record whose {name} is {value!r:.40}")
        yield row


def decoded(decode: msgspec.json.Decoder[_T], text: str, what: str) -> _T:
    """What a record says in JSON. Raises `BadRecord`."""
    try:
        return decode.decode(text)
    except msgspec.MsgspecError as exc:
        raise BadRecord(f"{what} cannot be read: {exc}") from exc
