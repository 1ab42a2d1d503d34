"""From the rows of a `store_readings` call to what is queued. Runs in the caller's thread."""

from __future__ import annotations

from collections.abc import Iterable

from edgedepot.storage.base import StoreRow, Version
from edgedepot.storage.buffer import Arrival
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.query import micros_of
from edgedepot.storage.reading import Reading, device_id_of
from edgedepot.storage.receipt import Refusal
from edgedepot.storage.sqlite.catalogue import Catalogue


def check_rows(
    catalogue: Catalogue, model: type[Reading], rows: Iterable[StoreRow], clock: Clock
) -> tuple[list[Arrival], list[Refusal]]:
    """The good rows, and the others with their reasons; what is not stamped gets the time of this clock.

    Where the model clashes with what is stored all are refused.
    """
    quick, make, new = model.__rows__.quick, model.__rows__.make, tuple.__new__
    good, refused = list[Arrival](), list[Refusal]()
    devices: dict[str, str] = {}  # that were checked: many rows have few devices, and share the text
    for index, row in enumerate(rows):
        try:
            device, timestamp, data = row[:3]
            cells = quick(data)
            if cells is None:
                cells = make(data)
            if row.__class__ is not tuple and isinstance(row, Version) and row.quality:
                cells = (row.quality | (cells[0] or 0), *cells[1:])
            micros = clock.now() if timestamp is None else micros_of(timestamp)
            known = devices.get(device) if device.__class__ is str else None
            if known is None:
                known = device_id_of(device)
                known = devices.setdefault(known, known)
            # As Arrival(...), which takes three times as long.
            good.append(new(Arrival, (model, known, micros, timestamp is None, cells)))
        except (ValueError, TypeError) as exc:
            refused.append(Refusal(index, str(exc)))
    try:
        if good:
            catalogue.layout(model)
    except InvalidValue as exc:
        bad = {refusal.index for refusal in refused}
        refused += [Refusal(index, str(exc)) for index in range(len(good) + len(bad)) if index not in bad]
        return [], sorted(refused, key=lambda refusal: refusal.index)
    return good, refused
