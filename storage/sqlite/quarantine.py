"""Rows that an upstream refuses for good: kept whole, with its reason, until a person sends them again or drops them.

All that writes runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence, Set
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from edgedepot.storage.buffer import Pending, Window
from edgedepot.storage.clock import from_micros
from edgedepot.storage.query import micros_of
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.portion import Portion
from edgedepot.storage.sqlite.records import BadRecord, decoded, read_records
from edgedepot.storage.sqlite.retype import of_type
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.withheld import withhold_quarantined

_data = msgspec.json.Decoder(dict[str, Any])


class Which(TypedDict, total=False):
    """Which quarantined readings: all that fit what is given, and ``start <= timestamp < end``."""

    measurement: str | None
    device: str | None
    start: datetime | None
    end: datetime | None
    reason: str | None
    """A part of the upstream's words."""
    number: int | None
    """It stands for one reading of one upstream."""


class Refused(msgspec.Struct, frozen=True):
    """The same as the store has it: times in microseconds since 1970 UTC."""

    upstream: str | None = None
    measurement: str | None = None
    device_id: str | None = None
    start: int | None = None
    end: int | None = None
    reason: str | None = None
    number: int | None = None

    @classmethod
    def of(cls, upstream: str | None, which: Which) -> Refused:
        """Raises `InvalidValue`."""
        start, end = which.get("start"), which.get("end")
        return cls(
            upstream,
            which.get("measurement"),
            which.get("device"),
            None if start is None else micros_of(start),
            None if end is None else micros_of(end),
            which.get("reason"),
            which.get("number"),
        )

    def condition(self) -> tuple[str, list[object]]:
        """The SQL condition on `_quarantined`, with what it binds."""
        parts = {
            "cursor = (SELECT id FROM _cursors WHERE name = ?)": self.upstream,
            "model = ?": self.measurement,
            "device_id = ?": self.device_id,
            "ts >= ?": self.start,
            "ts < ?": self.end,
            "instr(reason, ?)": self.reason,
            "seq = ?": self.number,
        }
        given = {part: value for part, value in parts.items() if value is not None}
        return " AND ".join(["true", *given]), list(given.values())


def read_quarantined(view: View, which: Refused, limit: int) -> list[dict[str, Any]]:
    """Quarantined rows, the latest first: ``{"upstream", "number", "measurement", "device_id", "timestamp", "quality",
    "data", "reason", "at", "replayed"}``."""
    condition, values = which.condition()
    found = view.connection.execute(
        "SELECT (SELECT name FROM _cursors WHERE id = cursor), seq, model, device_id, ts, quality, data, reason, at,"
        f" replay FROM _quarantined WHERE {condition} ORDER BY at DESC, seq DESC LIMIT ?",
        (*values, limit),
    )
    return [
        {
            **{"upstream": upstream, "number": seq, "measurement": model},
            **{"device_id": device, "timestamp": from_micros(ts)},
            **{"quality": quality, "data": decoded(_data, data, "what is quarantined"), "reason": reason},
            **{"at": from_micros(at), "replayed": bool(replay)},
        }
        for upstream, seq, model, device, ts, quality, data, reason, at, replay in found
    ]


def count_quarantined(view: View, which: Refused, replayed: bool) -> dict[str, int]:
    """How many rows are quarantined for each upstream, or how many of them are on their way once more."""
    condition, values = which.condition()
    found = view.connection.execute(
        "SELECT name, count(*) FROM _quarantined JOIN _cursors AS c ON c.id = cursor"
        f" WHERE {condition} AND replay = ? GROUP BY name ORDER BY name",
        (*values, int(replayed)),
    )
    return dict(found.fetchall())


def replayed_rows(
    view: View,
    layouts: dict[int, Layout],
    cursor: str,
    portion: Portion,
    without: Set[int],
    among: Set[int] | None = None,
) -> list[Pending]:
    """The rows that are to be sent to an upstream once more, `among` these or all, oldest first, as many as fit."""
    by_name = {layout.name: layout for layout in layouts.values()}
    conditions = ["cursor = (SELECT id FROM _cursors WHERE name = ?)", "replay = 1"]
    conditions.append("seq NOT IN (SELECT value FROM json_each(?))")
    values: list[Any] = [cursor, json.dumps(sorted(without))]
    if among is not None:
        conditions.append("seq IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(sorted(among)))
    where = f"WHERE {' AND '.join(conditions)} ORDER BY seq LIMIT ?"
    columns = ("seq", "model", "device_id", "ts", "quality", "data")
    rows = []
    found = read_records(view.connection, "_quarantined", columns, where, (*values, portion.rows))
    for seq, name, device, ts, quality, text in portion.of(found):
        if name not in by_name:
            raise BadRecord(f"a reading of the model {name} is quarantined, which the store does not know")
        model = by_name[name].whole()
        data = decoded(_data, text, "what is quarantined")
        cells = (of_type(data.get(spec.name), spec.type) for spec in model.__fields__)
        rows.append(Pending(seq, model, device, ts, (quality, *cells)))
    return rows


def check_quarantined(data: str) -> None:
    """Raises `BadRecord` for a row whose values cannot be read."""
    decoded(_data, data, "what is quarantined")


def replaying_cursors(connection: sqlite3.Connection) -> set[int]:
    """The ids of the cursors that have rows to be sent once more."""
    return {cursor for (cursor,) in connection.execute("SELECT DISTINCT cursor FROM _quarantined WHERE replay = 1")}


def set_aside(journal: Journal, cursor_id: int, row: Pending, reason: str) -> int:
    """Keep a row; 1, or 0 where it is kept already."""
    names = [spec.name for spec in row.model.__fields__]
    data = json.dumps(dict(zip(names, row.row[1:], strict=True)))
    return journal.connection.execute(
        "INSERT OR IGNORE INTO _quarantined (cursor, seq, model, device_id, ts, quality, data, reason, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(cursor_id, row.seq, row.model.__measurement__, row.device_id),
            *(row.timestamp, row.row[0], data, reason, journal.at),
        ),
    ).rowcount


def supersede(journal: Journal, which: Refused) -> None:
    """Give up those of which there is a newer version. Also before that is deleted: nobody could tell any more."""
    journal.write_rows()
    condition, values = which.condition()
    columns, where = ("cursor", "seq", "model", "device_id", "ts"), f"WHERE {condition} AND replay = 0"
    found = list(read_records(journal.connection, "_quarantined", columns, where, values))
    layouts = {layout.name: layout for layout in journal.catalogue.layouts().values()}
    names = {book.id: name for name, book in journal.books.cursors.items()}
    for cursor, seq, model, device, ts in found:
        if (journal.number_of(layouts[model], device, ts) or 0) > seq:
            journal.connection.execute("DELETE FROM _quarantined WHERE cursor = ? AND seq = ?", (cursor, seq))
            journal.books.settle(names[cursor], quarantined=-1, superseded=1)


def replay(journal: Journal, which: Refused) -> set[int]:
    """Have one upstream's rows sent once more; their numbers. One of which there is a newer version is superseded."""
    assert which.upstream is not None
    supersede(journal, which)
    condition, values = which.condition()
    where = f"WHERE {condition} AND replay = 0"
    numbers = {seq for (seq,) in read_records(journal.connection, "_quarantined", ("seq",), where, values)}
    journal.connection.execute(f"UPDATE _quarantined SET replay = 1 {where}", values)
    journal.books.settle(which.upstream, quarantined=-len(numbers))
    journal.note_replays()
    return numbers


def drop(journal: Journal, which: Refused) -> int:
    """Give one upstream's quarantined rows up; how many. They count as deleted."""
    assert which.upstream is not None
    condition, values = which.condition()
    condition += " AND replay = 0"
    withhold_quarantined(journal.connection, condition, values)
    count = journal.connection.execute(f"DELETE FROM _quarantined WHERE {condition}", values).rowcount
    journal.books.settle(which.upstream, quarantined=-count, deleted=count)
    return count


def acknowledge_replayed(journal: Journal, cursor: str, window: Window, refused: Sequence[tuple[Pending, str]]) -> None:
    """Rows sent once more are delivered, but for those refused again. One superseded meanwhile is counted already."""
    cursor_id = journal.books.cursors[cursor].id
    again = {row.seq: reason for row, reason in refused}
    quarantined = delivered = 0
    for row in window.rows:
        key = (cursor_id, row.seq)
        if row.seq in again:
            quarantined += journal.connection.execute(
                "UPDATE _quarantined SET replay = 0, reason = ?, at = ? WHERE cursor = ? AND seq = ? AND replay = 1",
                (again[row.seq], journal.at, *key),
            ).rowcount
        else:
            delivered += journal.connection.execute(
                "DELETE FROM _quarantined WHERE cursor = ? AND seq = ? AND replay = 1", key
            ).rowcount
    journal.books.settle(cursor, quarantined=quarantined, delivered=delivered)
