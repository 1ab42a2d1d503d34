"""edgedepot: readings from serial and MQTT devices into a durable local store, forwarded when the link allows.

The public names load their modules on first use (PEP 562), so a script that only stores does not pay for MQTT.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedepot.drivers.mqtt import MqttDriver
    from edgedepot.drivers.serial import SerialLineDriver
    from edgedepot.runtime import Gateway
    from edgedepot.storage.base import BaseStorage, Version
    from edgedepot.storage.errors import (
        ConfigError,
        EdgeDepotError,
        InvalidValue,
        ReceiptTimeout,
        StorageBusy,
        StorageError,
    )
    from edgedepot.storage.influxdb.storage import InfluxDBStorage
    from edgedepot.storage.reading import Device, Field, Reading
    from edgedepot.storage.receipt import Receipt
    from edgedepot.storage.sqlite.storage import SQLiteStorage
    from edgedepot.storage.timescale.storage import TimescaleDBStorage
    from edgedepot.sync.worker import SyncWorker

_HOMES = {
    "MqttDriver": "edgedepot.drivers.mqtt",
    "SerialLineDriver": "edgedepot.drivers.serial",
    "Gateway": "edgedepot.runtime",
    "BaseStorage": "edgedepot.storage.base",
    "Version": "edgedepot.storage.base",
    "ConfigError": "edgedepot.storage.errors",
    "EdgeDepotError": "edgedepot.storage.errors",
    "InvalidValue": "edgedepot.storage.errors",
    "ReceiptTimeout": "edgedepot.storage.errors",
    "StorageBusy": "edgedepot.storage.errors",
    "StorageError": "edgedepot.storage.errors",
    "Device": "edgedepot.storage.reading",
    "Field": "edgedepot.storage.reading",
    "Reading": "edgedepot.storage.reading",
    "Receipt": "edgedepot.storage.receipt",
    "SQLiteStorage": "edgedepot.storage.sqlite.storage",
    "InfluxDBStorage": "edgedepot.storage.influxdb.storage",
    "TimescaleDBStorage": "edgedepot.storage.timescale.storage",
    "SyncWorker": "edgedepot.sync.worker",
}

__all__ = [
    "BaseStorage", "ConfigError", "Device", "EdgeDepotError", "Field", "Gateway", "InfluxDBStorage", "InvalidValue",
    "MqttDriver", "Reading", "Receipt", "ReceiptTimeout", "SQLiteStorage", "SerialLineDriver", "StorageBusy",
    "StorageError", "SyncWorker", "TimescaleDBStorage", "Version",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
