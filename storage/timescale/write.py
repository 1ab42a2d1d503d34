"""A batch on its way into the database: checked, brought to one row per identity, copied, merged.

    rows -> collect -> COPY into the staging table -> INSERT ... SELECT ... ON CONFLICT ... WHERE newer -> commit

The same batch again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
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
from edgedepot.storage.values import RowMaker

Cells = tuple[Any, ...]
"""A row as the staging table has it: ``(device_id, timestamp, store_epoch, gateway_seq, quality, value, ...)``"""
ByIdentity = dict[str, dict[int, Cells]]
"""Rows by device, and for each device by timestamp."""

# A timestamptz travels as microseconds since 2000-01-01 UTC in 64 bits; sent as an int8 it needs no datetime between.
_POSTGRES_EPOCH = to_micros(datetime(2000, 1, 1, tzinfo=UTC))
_KEY_TYPES = ("text", "int8", "int8", "int8", "int2")
_COPY_TYPES = {float: "float8", int: "int8", bool: "bool", str: "text"}
_LIMIT = 2**63
_VERSION = slice(2, 4)
_QUALITY = 4


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
    count = 0
    fast = _row_code(model.__rows__)
    for count, row in enumerate(rows, 1):
        try:
            # The common case is written out: at 100,000 rows a second each call counts.
            if isinstance(row, Version) and (row[4] or row[5]):
                kept = batch.versions
                device, moment, data, quality, epoch, seq = row
                if type(device) is not str or device not in kept:
                    device = device_id_of(device)
                micros = micros_of(moment) - _POSTGRES_EPOCH
                if not (type(epoch) is int and type(seq) is int and 0 <= epoch < _LIMIT and 0 <= seq < _LIMIT):
                    raise InvalidValue(f"version ({epoch!r}, {seq!r}) is not two whole numbers from 0 to 2^63 - 1")
                if quality is not None:
                    _check_quality(quality)
                cells = fast(device, micros, epoch, seq, quality, data)
                if cells is None:
                    cells = (device, micros, epoch, seq, quality, *model.__rows__.make(data)[1:])
            else:
                kept = batch.direct
                cells = _direct_cells(model, row, now)
                device, micros = cells[:2]
        except InvalidValue as exc:
            batch.refused.append(Refusal(count - 1, str(exc)))
            continue
        if device not in kept:
            kept[device] = {micros: cells}
        elif (old := kept[device].setdefault(micros, cells)) is not cells:
            kept[device][micros] = merged = _merged(old, cells)
            batch.repeated += merged == old
    batch.good = count - len(batch.refused)
    return batch


@lru_cache(maxsize=256)
def _row_code(maker: RowMaker) -> Callable[..., Cells | None]:
    return maker.with_head("device", "micros", "epoch", "seq", "quality")


def _direct_cells(model: type[Reading], row: object, now: Callable[[], int]) -> Cells:
    """A row without a version. Raises `InvalidValue`."""
    if not isinstance(row, (tuple, list)) or not (len(row) == 3 or isinstance(row, Version)):
        raise InvalidValue("a row is expected as (device, timestamp, data)")
    device, moment, data = row[:3]
    micros = now() if moment is None else micros_of(moment)
    quality, *values = model.__rows__.make(data)
    if isinstance(row, Version) and row.quality is not None:
        quality = row.quality
        _check_quality(quality)
    return (device_id_of(device), micros - _POSTGRES_EPOCH, 0, 0, quality, *values)


def _check_quality(quality: object) -> None:
    if not (isinstance(quality, int) and 0 <= quality < 2**15):
        raise InvalidValue(f"quality is {quality!r}, expected None or a sum of flags")


def _merged(old: Cells, new: Cells) -> Cells:
    """Two rows of one identity as one: the newer version's values, or those of the later row where there are no
    versions; and where it has none, the other's."""
    above, below = (old, new) if old[_VERSION] > new[_VERSION] else (new, old)
    merged = tuple(lower if upper is None else upper for upper, lower in zip(above, below, strict=True))
    if above[_VERSION] == (0, 0):
        return merged
    return (*merged[:_QUALITY], above[_QUALITY], *merged[_QUALITY + 1 :])


def write(session: Session, model: type[Reading], gateway_id: str, batch: Batch) -> int:
    """Store a batch in the open transaction; returns how many rows it changed or added. `prepare` comes before."""
    with session.connection.cursor() as cursor:
        staging = staging_of(model)
        with cursor.copy(STATEMENTS["copy"].format(staging=staging)) as copy:
            copy.set_types([*_KEY_TYPES, *(_COPY_TYPES[spec.type] for spec in model.__fields__)])
            # Device by device, so that neighbours in the table's index come together.
            for of_device in chain(batch.versions.values(), batch.direct.values()):
                for cells in of_device.values():
                    copy.write_row(cells)
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
