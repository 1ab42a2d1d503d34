"""A batch on its way into the database: checked, brought to one row per identity, copied, merged.

    rows -> collect -> COPY into the staging table -> INSERT ... SELECT ... ON CONFLICT ... WHERE newer -> commit

The same batch again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from psycopg.sql import SQL, Composable, Identifier

from edgedepot.storage.base import StoreRow, Version
from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.query import micros_of
from edgedepot.storage.reading import Reading, device_id_of
from edgedepot.storage.receipt import Refusal
from edgedepot.storage.timescale.schema import field_names, staging_of, table_of
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS
from edgedepot.storage.values import Row

Stamped = tuple[int, int, Row]
"""``(store_epoch, gateway_seq, (quality, value...))``"""
ByIdentity = dict[str, dict[int, Stamped]]
"""By device, and for each device by timestamp in microseconds since 1970 UTC."""

# A timestamptz travels as microseconds since 2000-01-01 UTC in 64 bits; sent as an int8 it needs no datetime between.
_POSTGRES_EPOCH = to_micros(datetime(2000, 1, 1, tzinfo=UTC))
_KEY_TYPES = ("text", "int8", "int8", "int8", "int2")
_COPY_TYPES = {float: "float8", int: "int8", bool: "bool", str: "text"}
_LIMIT = 2**63


class Batch:
    """What is left of the rows of a call: one row per identity, with versions and without."""

    def __init__(self) -> None:
        self.versions: ByIdentity = {}
        self.direct: ByIdentity = {}
        self.good = 0
        self.repeated = 0
        """How many rows said nothing that another row of the batch does not say."""
        self.refused: list[Refusal] = []

    @property
    def size(self) -> int:
        """How many rows go to the database."""
        return sum(len(rows) for rows in (*self.versions.values(), *self.direct.values()))


def collect(model: type[Reading], rows: Iterable[StoreRow], now: Callable[[], int]) -> Batch:
    """Check rows, stamp those without a time with `now()`, and merge those with the same identity.

    Of versions the newest wins. Rows without a version merge in their order; they are applied after the versions.
    """
    batch = Batch()
    make = model.__rows__.make
    count = 0
    for count, row in enumerate(rows, 1):
        try:
            device, moment, data, quality, epoch, seq = row if isinstance(row, Version) else _unversioned(row)
            versioned = epoch != 0 or seq != 0
            kept = batch.versions if versioned else batch.direct
            if type(device) is not str or device not in kept:
                device = device_id_of(device)
            micros = now() if moment is None and not versioned else micros_of(moment)
            made = make(data)
            if versioned or quality is not None:
                if not (type(epoch) is int and type(seq) is int and 0 <= epoch < _LIMIT and 0 <= seq < _LIMIT):
                    raise InvalidValue(f"version ({epoch!r}, {seq!r}) is not two whole numbers from 0 to 2^63 - 1")
                if quality != made[0]:
                    made = (_checked_quality(quality), *made[1:])
        except InvalidValue as exc:
            batch.refused.append(Refusal(count - 1, str(exc)))
            continue
        new = (epoch, seq, made)
        if device not in kept:
            kept[device] = {micros: new}
        elif (old := kept[device].setdefault(micros, new)) is not new:
            kept[device][micros] = merged = _merged(old, new)
            batch.repeated += merged == old
    batch.good = count - len(batch.refused)
    return batch


def _unversioned(row: object) -> tuple[Any, ...]:
    if not isinstance(row, (tuple, list)) or len(row) != 3:
        raise InvalidValue("a row is expected as (device, timestamp, data)")
    return (*row, None, 0, 0)


def _checked_quality(quality: object) -> int | None:
    if quality is not None and not (isinstance(quality, int) and 0 <= quality < 2**15):
        raise InvalidValue(f"quality is {quality!r}, expected None or a sum of flags")
    return quality


def _merged(old: Stamped, new: Stamped) -> Stamped:
    """Two rows of one identity as one: the newer version's values, or those of the later row where there are no
    versions; and where it has none, the other's."""
    (epoch, seq, row), (_, _, other) = (old, new) if old[:2] > new[:2] else (new, old)
    merged = tuple(below if above is None else above for above, below in zip(row, other, strict=True))
    versioned = (epoch, seq) != (0, 0)
    return (epoch, seq, (row[0], *merged[1:]) if versioned else merged)


def write(session: Session, model: type[Reading], gateway_id: str, batch: Batch) -> int:
    """Store a batch in the open transaction; returns how many rows it changed or added. `prepare` comes before."""
    with session.connection.cursor() as cursor:
        staging = staging_of(model)
        with cursor.copy(STATEMENTS["copy"].format(staging=staging)) as copy:
            copy.set_types([*_KEY_TYPES, *(_COPY_TYPES[spec.type] for spec in model.__fields__)])
            # Device by device, so that neighbours in the table's index come together.
            for device, rows in chain(batch.versions.items(), batch.direct.items()):
                for micros, (epoch, seq, row) in rows.items():
                    copy.write_row((device, micros - _POSTGRES_EPOCH, epoch, seq, *row))
        changed = 0
        for part, name in ((batch.versions, "upsert_versions"), (batch.direct, "upsert_direct")):
            if part:
                statement = STATEMENTS[name].format(table=table_of(session, model), staging=staging, **_pieces(model))
                changed += cursor.execute(statement, (gateway_id,)).rowcount
        return changed


def _pieces(model: type[Reading]) -> dict[str, Composable]:
    """What the upserts say of each field, as lists."""
    columns = [Identifier(spec.name) for spec in model.__fields__]

    def each(form: str) -> Composable:
        return SQL(", ").join(SQL(form).format(column) for column in columns)

    return {
        "fields": field_names(model),
        "merges": each("{0} = coalesce(excluded.{0}, t.{0})"),
        "merged": each("coalesce(excluded.{0}, t.{0})"),
        "current": each("t.{0}"),
    }
