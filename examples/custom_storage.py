"""A storage of one's own: readings in a dictionary. The three methods are all a backend needs; the fourth is a bonus.

python examples/custom_storage.py
"""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from edgedepot import BaseStorage, Field, Reading
from edgedepot.storage.rows import RowDict, aggregate_rows, make_row, merge_rows, select_rows


class DictStorage(BaseStorage):
    """Keeps readings in memory, as long as the process lives. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[str, dict[tuple[str, datetime], RowDict]] = {}

    def store_reading(self, reading_model: type[Reading], device: Any, timestamp: datetime | None, data: Any) -> None:
        row = make_row(reading_model, device, timestamp or datetime.now(UTC), data)  # raises ValueError for bad data
        with self._lock:
            table = self._tables.setdefault(reading_model.__measurement__, {})
            while timestamp is None and (row["device_id"], row["timestamp"]) in table:
                row["timestamp"] += timedelta(microseconds=1)  # a stamp of ours never hits a reading that is there
            key = row["device_id"], row["timestamp"]
            table[key] = merge_rows(reading_model, table[key], row) if key in table else row

    def query_readings(self, reading_model: type[Reading], *scope: Any, **more: Any) -> list[dict[str, Any]]:
        return select_rows(self._rows(reading_model), reading_model, *scope, **more)

    def aggregate(
        self, reading_model: type[Reading], field: str, *scope: Any, **more: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        return aggregate_rows(self._rows(reading_model), reading_model, field, *scope, **more)

    def delete_readings(self, reading_model: type[Reading], *scope: Any, **more: Any) -> int:
        doomed = self.query_readings(reading_model, *scope, **more)
        with self._lock:
            table = self._tables.get(reading_model.__measurement__, {})
            return sum(table.pop((row["device_id"], row["timestamp"]), None) is not None for row in doomed)

    def _rows(self, reading_model: type[Reading]) -> list[RowDict]:
        with self._lock:
            return list(self._tables.get(getattr(reading_model, "__measurement__", ""), {}).values())


class Greenhouse(Reading):
    temperature: float = Field(unit="°C", range=(-20, 60))
    door_open: bool | None = None


def main() -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    with DictStorage() as storage:
        for minute in range(0, 90, 15):
            storage.store_reading(Greenhouse, "bench-1", noon + timedelta(minutes=minute), {"temperature": 20 + minute})
        storage.store_reading(
            Greenhouse, "bench-1", noon, {"temperature": 20, "door_open": True}
        )  # merged into the first
        for bucket in storage.downsample(Greenhouse, "temperature", "1 hour", "max"):
            print(f"{bucket['bucket']:%H:%M}  at most {bucket['result']} °C")
        opened = storage.readings(Greenhouse).order_by("timestamp").first()
        print(opened)


if __name__ == "__main__":
    main()
