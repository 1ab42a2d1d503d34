"""Which tables hold rows at present, and which journal rows are in history already: one small record, read whole.

It changes in the same transaction as the tables it names; `generation` tells readers whether what they remember of it,
and of the rows in memory, still fits what their transaction sees.
"""

from __future__ import annotations

import bisect
import sqlite3
from typing import Annotated

import msgspec

from edgedepot.storage.clock import DAY
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.ranges import LAST
from edgedepot.storage.sqlite.records import Difference, Number, decoded

PERIOD = 30 * DAY
"""What a partition of history spans, in microseconds, while there are few of them."""
_FEW = 32
_DOUBLING = 8
"""Beyond the first few, periods double each time that so many more are there: a compound query has at most 500 terms,
and whatever times come there are fewer than 300 partitions."""


_Width = Annotated[int, msgspec.Meta(ge=0, le=2_000)]
"""SQLite gives a table no more columns."""


class Base(msgspec.Struct, array_like=True):
    """A stretch of one boot in which the wall clock ran without a step, but could not be trusted.

    `relation` is the wall clock minus the monotonic one, in microseconds. `offset` is what has to be added to the
    gateway's own stamps, None while nobody knows; `uncertain` says that it is an estimate. `guess` is that estimate,
    made when the clock was trusted for the first time after the boot, as long as the rows are held.
    """

    id: Number
    boot: str
    relation: int
    offset: int | None = None
    uncertain: bool = False
    guess: int | None = None


class Piece(msgspec.Struct, array_like=True):
    """A journal table. It holds the rows from `first` to `last`, which is 0 while it grows: others may have gone from
    between it and the next that is left. `width` is its value columns.

    `base` is the time base of its rows, 0 for trusted time. `aside` says that the fold has passed it by, as its base's
    offset is not known, or was not: its rows are not in history, whatever the fold says of those around it.
    """

    id: Number
    first: Number
    width: _Width
    base: Number = 0
    aside: bool = False
    last: Number = 0

    @property
    def table(self) -> str:
        return f"_j_{self.id}"


class Partition(msgspec.Struct, array_like=True):
    """A history table of one model: the rows with ``start <= ts < stop``; `width` is its value columns; `pages` is what
    the fold took for it, hours included; `hours` says of how many fields, None where there are none."""

    id: Number
    start: int
    stop: int
    width: _Width
    pages: Difference = 0
    hours: _Width | None = None


class Folded(msgspec.Struct, array_like=True):
    """How far the fold is: rows up to `low` are in history; of those up to `high`, the ones up to `series` and `ts`.
    Pieces that are set aside are no part of this; where the fold is at one, `piece` is its id."""

    low: Number = 0
    high: Number = 0
    series: Number = 0
    ts: int = -(2**63)
    piece: Number = 0

    @property
    def active(self) -> bool:
        """True in the middle of a fold."""
        return self.high > self.low or self.piece > 0


class Rule(msgspec.Struct, array_like=True):
    """What is kept of a model's rows when they go: see downsampled.py. `interval` and `keep` are microseconds, `fields`
    the places of fields, None for all; something is kept from `low` up to the horizon, in so many `pages`."""

    id: Number
    model: Number
    interval: int
    functions: list[str]
    fields: list[int] | None
    keep: int | None
    columns: list[str] = msgspec.field(default_factory=list)
    low: int | None = None
    pages: Difference = 0


class Keeping(msgspec.Struct, array_like=True):
    """Up to which row, by series and time, the rows of a partition that is about to go were brought together."""

    model: int
    start: int
    series: int
    ts: int
    done: bool = False

    def is_of(self, model: int, partition: Partition) -> bool:
        return (self.model, self.start) == (model, partition.start)


class Shape(msgspec.Struct):
    """The tables, pieces and partitions each in order. Before its time in `horizons` retention has taken a model's
    history."""

    generation: Number = 0
    pieces: list[Piece] = msgspec.field(default_factory=list)
    partitions: dict[int, list[Partition]] = msgspec.field(default_factory=dict)
    folded: Folded = msgspec.field(default_factory=Folded)
    bases: list[Base] = msgspec.field(default_factory=list)
    horizons: dict[int, int] = msgspec.field(default_factory=dict)

    rules: list[Rule] = msgspec.field(default_factory=list)
    keeping: Keeping | None = None

    def rules_of(self, model: int) -> list[Rule]:
        return [rule for rule in self.rules if rule.model == model]

    def touched(self, model: int, partition: Partition) -> None:
        """A row of a partition comes, changes or goes: what was brought together of it holds no more."""
        if self.keeping is not None and self.keeping.is_of(model, partition):
            self.keeping = None

    def horizon(self, model: int) -> int:
        """From when on a model has history, at most."""
        return self.horizons.get(model, -(2**63))

    def base_of(self, piece: Piece) -> Base | None:
        """The time base of a piece's rows, None for trusted time."""
        return next((base for base in self.bases if base.id == piece.base), None)

    def is_held(self, piece: Piece) -> bool:
        """Whether nobody knows yet when a piece's rows are from."""
        base = self.base_of(piece)
        return base is not None and base.offset is None

    def spans(self, pieces: list[Piece]) -> list[tuple[int, int]]:
        """The row numbers ``low..high`` of pieces."""
        return [(piece.first, self.last_of(piece)) for piece in pieces]

    def last_of(self, piece: Piece) -> int:
        """The last row number that is a piece's."""
        if piece.last:
            return piece.last
        place = self.pieces.index(piece) + 1
        return self.pieces[place].first - 1 if place < len(self.pieces) else LAST

    def held(self) -> list[tuple[int, int]]:
        """The row numbers ``low..high`` that wait for somebody to know the time."""
        return self.spans([piece for piece in self.pieces if piece.base and self.is_held(piece)])

    def pieces_from(self, seq: int) -> list[Piece]:
        """The pieces in which rows from `seq` on are."""
        return self.pieces[max(0, bisect.bisect_right([piece.first for piece in self.pieces], seq) - 1) :]

    def pieces_between(self, low: int, high: int) -> list[Piece]:
        """The pieces in which the rows ``low..high`` are."""
        return [piece for piece in self.pieces_from(low) if piece.first <= high]

    def unfolded(self) -> list[Piece]:
        """The pieces in which rows are that are not in history."""
        behind = self.pieces_from(self.folded.low + 1)
        return [piece for piece in self.pieces if piece.aside and piece not in behind] + behind

    def piece_of(self, seq: int) -> Piece | None:
        """The piece that a row is in, None where it was dropped."""
        place = bisect.bisect_right([piece.first for piece in self.pieces], seq) - 1
        return self.pieces[place] if place >= 0 else None

    def partition_of(self, model: int, ts: int) -> Partition | None:
        """The partition of a model for a timestamp, None where there is none yet."""
        mine = self.partitions.get(model, [])
        place = bisect.bisect_right([partition.start for partition in mine], ts) - 1
        return mine[place] if place >= 0 and ts < mine[place].stop else None

    def widened(self, model: int, period: int) -> int:
        """A period as long as it has to be with as many partitions as a model has."""
        return period << max(0, (len(self.partitions.get(model, [])) - _FEW + _DOUBLING) // _DOUBLING)

    def new_partition(self, model: int, ts: int, width: int, period: int = PERIOD) -> Partition:
        """Make room for a timestamp: a period that widens as there come to be many, cut where neighbours begin."""
        mine = self.partitions.setdefault(model, [])
        period = self.widened(model, period)
        start = max(ts - ts % period, self.horizon(model))
        stop = ts - ts % period + period
        for other in mine:
            if other.stop <= ts:
                start = max(start, other.stop)
            elif other.start > ts:
                stop = min(stop, other.start)
        partition = Partition(max((other.id for other in mine), default=0) + 1, start, stop, width)
        bisect.insort(mine, partition, key=lambda one: one.start)
        return partition


_decoder = msgspec.json.Decoder(Shape)
_encode = msgspec.json.Encoder().encode


def in_order(partitions: list[Partition]) -> list[Partition]:
    """Those that follow on one another, as all of a model do."""
    kept: list[Partition] = []
    for one in partitions:
        if one.start < one.stop and (not kept or kept[-1].stop <= one.start):
            kept.append(one)
    return kept


def read_shape(connection: sqlite3.Connection) -> Shape:
    text = schema.text(connection, "shape")
    return Shape() if text is None else decoded(_decoder, text, "the record of the tables")


def shape_of(text: object) -> Shape | None:
    """What a text says, None where it is none of a shape's."""
    try:
        return _decoder.decode(text) if isinstance(text, str) else None
    except msgspec.MsgspecError:
        return None


def write_shape(connection: sqlite3.Connection, shape: Shape) -> None:
    """Inside the writer's transaction."""
    shape.generation += 1
    schema.set_meta(connection, "shape", _encode(shape).decode())
