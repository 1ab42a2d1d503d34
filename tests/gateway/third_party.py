"""A driver and a storage as another package would bring them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from edgedepot.drivers.base import Driver, Sink
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import Clock, SystemClock
from edgedepot.storage.reading import Reading
from edgedepot.storage.receipt import Receipt


class RainGauge(Driver):
    """Settings can say all but the clock."""

    def __init__(
        self,
        model: type[Reading],
        pins: tuple[int, int],
        every: timedelta = timedelta(minutes=1),
        calibration: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        if pins[0] == pins[1]:
            raise ValueError(f"two pins are needed, found {pins[0]} twice")
        self.model = model
        self.pins = pins
        self.every = every
        self.calibration = calibration
        self.clock = clock or SystemClock()

    def run(self, sink: Sink) -> None:
        self._stopping.wait()


class Own(Driver):
    """It has a reading model of its own."""

    def run(self, sink: Sink) -> None:
        self._stopping.wait()


class ListStorage(BaseStorage):
    """Keeps readings in a list."""

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self.limits = limits
        self.rows: list[dict[str, Any]] = []

    def store_reading(
        self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Mapping[str, Any]
    ) -> Receipt | None:
        self.rows.append({"device_id": device, "timestamp": timestamp, **data})
        return None

    def query_readings(self, reading_model: type[Reading], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return list(self.rows)

    def aggregate(self, reading_model: type[Reading], field: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"result": len(self.rows)}
