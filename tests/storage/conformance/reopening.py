"""A SQLite store that is closed and opened, or folded, between writing and reading: no answer comes from memory."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgedepot.storage.base import BaseStorage, StoreRow
from edgedepot.storage.reading import Device, Reading
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.storage import SQLiteStorage


class ReopeningStorage(BaseStorage):
    """Opens the file anew for each read that follows a write, or folds it. Thread-safe: one call at a time."""

    def __init__(self, path: Path, *, fold: bool = False) -> None:
        self._path = path
        self._fold = fold
        self._lock = threading.Lock()
        self._store = SQLiteStorage(path)
        self._written = False

    @contextmanager
    def _to_read(self) -> Iterator[SQLiteStorage]:
        with self._lock:
            if self._written and self._fold:
                self._store.fold()
            elif self._written:
                self._store.close()
                self._store = SQLiteStorage(self._path)
            self._written = False
            yield self._store

    @contextmanager
    def _to_write(self) -> Iterator[SQLiteStorage]:
        with self._lock:
            self._written = True
            yield self._store

    def store_reading(self, *reading: Any, **more: Any) -> Receipt:
        with self._to_write() as store:
            return store.store_reading(*reading, **more)

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        with self._to_write() as store:
            return store.store_readings(reading_model, rows)

    def delete_readings(self, *scope: Any, **more: Any) -> int:
        with self._to_write() as store:
            return store.delete_readings(*scope, **more)

    def save_device(self, device: Device) -> None:
        with self._to_write() as store:
            store.save_device(device)

    def query_readings(self, *question: Any, **more: Any) -> list[dict[str, Any]]:
        with self._to_read() as store:
            return store.query_readings(*question, **more)

    def aggregate(self, *question: Any, **more: Any) -> dict[str, Any] | list[dict[str, Any]]:
        with self._to_read() as store:
            return store.aggregate(*question, **more)

    def devices(self) -> list[Device]:
        with self._to_read() as store:
            return store.devices()

    def health_check(self) -> dict[str, Any]:
        with self._to_read() as store:
            return store.health_check()

    def flush(self) -> None:
        self._store.flush()

    def close(self) -> None:
        self._store.close()
