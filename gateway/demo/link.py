"""The way to the upstream: a storage before the storage, slow as a radio link, which can be cut and mended."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from edgedepot.storage.base import BaseStorage, Data, StoreRow
from edgedepot.storage.errors import Unreachable
from edgedepot.storage.reading import Reading
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.wire import Waits


class Link(BaseStorage):
    """Passes everything on to `far`, at most `rate` readings a second, while it is not cut."""

    def __init__(self, far: BaseStorage, rate: float) -> None:
        self.gateway_id = far.gateway_id
        self.far = far
        self._rate = rate
        self._is_cut = threading.Event()
        self._waited = 0.0

    @property
    def is_cut(self) -> bool:
        return self._is_cut.is_set()

    def cut(self) -> None:
        """From now on nothing gets through; what is under way neither."""
        self._is_cut.set()

    def mend(self) -> None:
        self._is_cut.clear()

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        under_way = list(rows)
        self._is_cut.wait(len(under_way) / self._rate)
        self._waited += len(under_way) / self._rate
        self._check()
        return self.far.store_readings(reading_model, under_way)

    def store_reading(
        self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Data
    ) -> Receipt | None:
        self._check()
        return self.far.store_reading(reading_model, device, timestamp, data)

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        self._check()
        return self.far.query_readings(reading_model, *args, **more)

    def aggregate(
        self, reading_model: type[Reading], field: str, *args: Any, **more: Any
    ) -> dict[str, Any] | list[dict[str, Any]]:
        self._check()
        return self.far.aggregate(reading_model, field, *args, **more)

    def wire_waits(self) -> Waits:
        return Waits(link=self._waited)

    def close(self) -> None:
        self.far.close()

    def _check(self) -> None:
        if self.is_cut:
            raise Unreachable("the link is cut")
