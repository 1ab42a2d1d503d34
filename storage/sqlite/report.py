"""What a salvage found: kept in the store, shown by `edgedepot status` and `ledger`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime

import msgspec

from edgedepot.storage.clock import HOUR, from_micros
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.records import decoded

_SHOWN = 3
UNCOUNTED = "what came in up to a minute before it ended may not be counted"
"""Of a store of which only the sidecar tells: it is noted there now and then how far the numbers are."""


class LostSpan(msgspec.Struct, frozen=True):
    """So many readings of a model between two times (aware, in UTC; whole hours) are lost."""

    measurement: str
    device_id: str
    start: datetime
    end: datetime
    count: int

    @property
    def where(self) -> str:
        """``weather mast 2026-01-01T00Z to 2026-01-01T05Z``."""
        return f"{self.measurement} {self.device_id} {self.start:%Y-%m-%dT%HZ} to {self.end:%Y-%m-%dT%HZ}"


class Salvaged(msgspec.Struct, frozen=True):
    """How a new store was made out of a damaged one.

    `kept` readings are in the new store; None where the file was left as it is. Of those that are not, `spans` are
    known from the sums of their hours: exact up to the last fold. `numbers` are those of rows that came after it and
    are not there: each was a reading, or a record of a commit. `unplaced` are lost as well, as the books
    say, nobody knows where. `put_aside` names the damaged file, in the store's folder, None where there was none.
    """

    at: datetime
    reason: str
    put_aside: str | None
    kept: int | None
    spans: tuple[LostSpan, ...]
    numbers: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    unplaced: int = 0

    @property
    def lost(self) -> int:
        """How many readings are lost, at most."""
        return lost_of(self.spans, self.numbers) + self.unplaced

    def has_lost_of(self, numbers: range) -> bool:
        """Whether a row with one of these numbers is lost."""
        return any(max(first, numbers.start) <= min(last, numbers.stop - 1) for first, last in self.numbers)

    def __str__(self) -> str:
        kept = "" if self.kept is None else f"{self.kept} readings kept, "
        parts = [f"{self.reason}: {kept}{self.lost} lost"]
        spans = [f"{one.where}: {one.count}" for one in self.spans]
        ranges = [f"rows {first} to {last}" for first, last in self.numbers]
        for found in (spans, ranges):
            if found:
                more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
                parts.append(f"{', '.join(found[:_SHOWN])}{more}")
        if self.unplaced:
            parts.append(f"of {self.unplaced} it is not known where they were")
        parts += self.notes
        if self.put_aside:
            parts.append(f"the damaged file is {self.put_aside}")
        return "; ".join(parts)


_salvaged = msgspec.json.Decoder(Salvaged)


def lost_of(spans: Iterable[LostSpan], numbers: Iterable[tuple[int, int]]) -> int:
    """How many readings are lost in these places, at most."""
    return sum(span.count for span in spans) + sum(last - first + 1 for first, last in numbers)


def span(measurement: str, device_id: str, first_hour: int, last_hour: int, count: int) -> LostSpan:
    """From hours since 1970 UTC."""
    return LostSpan(measurement, device_id, from_micros(first_hour * HOUR), from_micros((last_hour + 1) * HOUR), count)


def write_report(connection: sqlite3.Connection, report: Salvaged) -> None:
    """Inside the writer's transaction."""
    schema.set_meta(connection, "salvaged", msgspec.json.encode(report).decode())


def read_report(connection: sqlite3.Connection) -> Salvaged | None:
    """The store's last salvage, None where it never had one."""
    text = schema.text(connection, "salvaged")
    return None if text is None else decoded(_salvaged, text, "the report of the last salvage")
