"""The devices: what was saved of each, and when its readings are from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from edgedepot.storage.clock import from_micros
from edgedepot.storage.reading import Device
from edgedepot.storage.sqlite.records import decoded, read_records
from edgedepot.storage.sqlite.tables import rows_of, seen_condition
from edgedepot.storage.sqlite.view import View

_metadata = msgspec.json.Decoder(dict[str, Any])


def save_device(connection: sqlite3.Connection, device_id: str, name: str | None, metadata: str) -> None:
    """Write down what is known of a device, in the open transaction."""
    connection.execute(
        "INSERT INTO _devices (device_id, name, metadata) VALUES (?, ?, ?)"
        " ON CONFLICT (device_id) DO UPDATE SET name = excluded.name, metadata = excluded.metadata",
        (device_id, name, metadata),
    )


def check_metadata(device: str, name: str | None, metadata: str) -> None:
    """Raises `BadRecord` for what was saved of a device, where it cannot be read."""
    decoded(_metadata, metadata, f"the metadata of {device}")


def read_devices(view: View) -> list[Device]:
    """Every device that has readings or was saved, by id."""
    seen: dict[str, list[int]] = {}
    for series, model_id, device in list(read_records(view.connection, "_series", ("id", "model", "device_id"))):
        times = list(_first_and_last(view, series, model_id))
        if times:
            seen.setdefault(device, []).extend(times)
    saved = {
        device: (name, decoded(_metadata, metadata, f"the metadata of {device}"))
        for device, name, metadata in read_records(view.connection, "_devices", ("device_id", "name", "metadata"))
    }
    return [
        Device(
            device,
            *saved.get(device, (None, {})),
            first_seen=from_micros(min(seen[device])) if device in seen else None,
            last_seen=from_micros(max(seen[device])) if device in seen else None,
        )
        for device in sorted({*seen, *saved})
    ]


def _first_and_last(view: View, series: int, model_id: int) -> Iterator[int]:
    """The first and the last time of a series in history, and those of its unfolded rows; none where it is empty."""
    ((name,),) = read_records(view.connection, "_models", ("name",), "WHERE id = ?", (model_id,))
    tables = [f"_h_{name}_{partition.id}" for partition in view.shape.partitions.get(model_id, [])]
    for order, ordered in (("ASC", tables), ("DESC", tables[::-1])):
        for table in ordered:
            query = f"SELECT ts FROM {table} WHERE series = ? ORDER BY ts {order} LIMIT 1"
            found = view.connection.execute(query, (series,)).fetchone()
            if found:
                yield found[0]
                break
    for piece in view.shape.unfolded():
        low, high = view.connection.execute(
            f"SELECT min(ts), max(ts) FROM {rows_of(view.shape, piece)}"
            f" WHERE {seen_condition(view.shape, piece, model_id)} AND series = ?",
            (series,),
        ).fetchone()
        if low is not None:
            yield from (low, high)
