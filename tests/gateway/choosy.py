"""A storage that refuses some readings for good, until somebody mends it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgedepot import Reading, Receipt, SQLiteStorage
from edgedepot.storage.base import StoreRow
from edgedepot.storage.errors import DataRefused, Misconfigured


class Choosy(SQLiteStorage):
    """Refuses requests with a temperature over 100, as long as there is no file `mended`."""

    def __init__(self, path: Path, mended: Path) -> None:
        super().__init__(path)
        self._mended = mended

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        rows = list(rows)
        if not self._mended.exists() and any(row[2]["temperature"] > 100 for row in rows):
            raise DataRefused("22003: numeric field overflow\nDETAIL: A field with precision 5, scale 2.", code="22003")
        return super().store_readings(reading_model, rows)


class Barred(SQLiteStorage):
    """Takes nothing, for a reason that waiting does not mend."""

    def __init__(self, path: Path, misconfigured: bool) -> None:
        super().__init__(path)
        self._misconfigured = misconfigured

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        if self._misconfigured:
            raise Misconfigured("42501: permission denied for table weather", code="42501")
        raise KeyError("weather")
