"""What a row of history comes to as one number, so that a value that changed on the card is noticed.

The hours hold the sum of it over their rows: the fold adds, and an hour out of which a row was taken is computed again.
A changed bit of a value, a sequence number or a quality always changes the sum; of changes of several bits one in two
thousand million goes unseen.

It is computed for each row that is folded, so by SQLite itself: half a microsecond for a row of four numbers, where a
Python function of the whole row takes twice that.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.shape import Partition
from edgedepot.storage.sqlite.tables import cell

_PRIME = 2**31 - 1
"""Not a divisor of any power of two: a bit that changes changes the rest."""
_SCALE = 2.0**61
_LEAST = 2.0**-9
"""A float from that on up to `_SCALE` is, without a rest, an integer and a multiple of ``1 / _SCALE``: no bit of its 53
lies further down."""


def prepare_digests(connection: sqlite3.Connection) -> None:
    """Make the functions known that `row_digest` uses, and `holdable`."""
    connection.create_function("_crc", 1, zlib.crc32, deterministic=True)
    connection.create_function("_crc_of_number", 1, _crc_of_number, deterministic=True)
    connection.create_function("_is_text", 1, _is_text, deterministic=True)


def _is_text(raw: bytes | None) -> bool:
    try:
        return raw is None or raw.decode() is not None
    except UnicodeDecodeError:
        return False


def _crc_of_number(value: object) -> int:
    return zlib.crc32(struct.pack("<d", value) if isinstance(value, float) else repr(value).encode())


def row_digest(layout: Layout, partition: Partition) -> str:
    """The digest of a row as an expression on a partition's table. A field that is null adds nothing: so it stays the
    same when the model gets more fields."""
    parts = [f"seq % {_PRIME}", f"ts % {_PRIME} * 3", "coalesce(quality, 0) * 5"]
    for index, spec in enumerate(layout.written):
        value = cell(f"c{index}", partition.width)
        if value != "NULL":
            parts.append(_of_value(value, spec.type, index))
    return f"({' + '.join(parts)}) % {_PRIME}"


def _of_value(value: str, kind: type, index: int) -> str:
    weight = index + 7
    if kind is str:
        return f"iif({value} IS NULL, 0, _crc(CAST({value} AS BLOB)) % {_PRIME} * {weight} + 1)"
    if kind is not float:
        return f"coalesce({value} % {_PRIME} * {weight} + 1, 0)"
    whole = f"CAST({value} AS INTEGER)"
    both = f"{whole} + CAST(({value} - {whole}) * {_SCALE!r} AS INTEGER)"
    usual = f"{value} BETWEEN {_LEAST!r} AND {_SCALE!r} OR {value} BETWEEN -{_SCALE!r} AND -{_LEAST!r}"
    return (
        f"CASE WHEN {usual} THEN ({both}) % {_PRIME} * {weight} WHEN {value} IS NULL THEN 0"
        f" WHEN {value} = 0 THEN {weight} ELSE _crc_of_number({value}) % {_PRIME} * {weight} END"
    )
