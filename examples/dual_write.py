"""Write twice: a local store that also appends every reading to a text file. Only `store_reading` is overridden.

`store_readings`, drivers and sync all go through it. It sees each reading once, in order.

    python examples/dual_write.py
"""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedepot import Reading, Receipt, SQLiteStorage, Version


class LoggedStorage(SQLiteStorage):
    """A SQLite store at `path` with a line of JSON in ``path.log`` for every reading that it took."""

    def store_reading(
        self,
        reading_model: type[Reading],
        device: object,
        timestamp: datetime | None,
        data: Any,
        *,
        version: Version | None = None,
    ) -> Receipt:
        receipt = super().store_reading(reading_model, device, timestamp, data, version=version)  # ValueError: bad data
        when = timestamp.isoformat() if timestamp else "now"
        line = {"time": when, "device": getattr(device, "device_id", device), **data}
        with self.path.with_suffix(".log").open("a") as log:
            log.write(json.dumps(line) + "\n")
        return receipt


class Greenhouse(Reading):
    temperature: float
    door_open: bool | None = None


def main(folder: Path) -> None:
    with LoggedStorage(folder / "greenhouse.db") as store:
        noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
        store.store_reading(Greenhouse, "bench-1", noon, {"temperature": 21.5})
        store.store_readings(
            Greenhouse, [("bench-2", noon, {"temperature": 19.0}), ("bench-3", noon, {"door_open": True})]
        )
        print(store.query_readings(Greenhouse, order="device_id"))
    print((folder / "greenhouse.log").read_text(), end="")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
