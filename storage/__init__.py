"""Storages: what every backend keeps, the local SQLite store, and the servers that readings are forwarded to."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedepot.storage.base import BaseStorage, Version
    from edgedepot.storage.buffer import Buffer
    from edgedepot.storage.influxdb.storage import InfluxDBStorage
    from edgedepot.storage.reading import Device, Field, Reading
    from edgedepot.storage.receipt import Receipt
    from edgedepot.storage.sqlite.storage import SQLiteStorage
    from edgedepot.storage.timescale.storage import TimescaleDBStorage

_HOMES = {
    "BaseStorage": "edgedepot.storage.base",
    "Buffer": "edgedepot.storage.buffer",
    "Version": "edgedepot.storage.base",
    "Device": "edgedepot.storage.reading",
    "Field": "edgedepot.storage.reading",
    "Reading": "edgedepot.storage.reading",
    "Receipt": "edgedepot.storage.receipt",
    "SQLiteStorage": "edgedepot.storage.sqlite.storage",
    "InfluxDBStorage": "edgedepot.storage.influxdb.storage",
    "TimescaleDBStorage": "edgedepot.storage.timescale.storage",
}

__all__ = [
    "BaseStorage", "Buffer", "Device", "Field", "InfluxDBStorage", "Reading", "Receipt", "SQLiteStorage",
    "TimescaleDBStorage", "Version",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
