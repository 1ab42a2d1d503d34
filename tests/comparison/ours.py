"""edgedepot's side of the comparison."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgedepot import BaseStorage, Reading, SQLiteStorage
from tests.comparison.cases import CASES, Case


class Probe(Reading):
    temperature: float | None = None
    humidity: float | None = None


class _Ours:
    def __init__(self, storage: BaseStorage, zone: str | None) -> None:
        self._storage = storage
        self._zone = zone or "UTC"

    def store(self, moment: Any, data: dict[str, Any]) -> object:
        return self._storage.store_reading(Probe, "a", moment, data)

    def query(self, **question: Any) -> list[dict[str, Any]]:
        return self._storage.query_readings(Probe, **question)

    def aggregate(self, field: str, function: Any, **more: Any) -> Any:
        return self._storage.aggregate(Probe, field, function, **more)

    def downsample(self, field: str, interval: Any, function: Any, **more: Any) -> list[dict[str, Any]]:
        return self._storage.downsample(Probe, field, interval, function, tz=self._zone, **more)


def answers() -> dict[str, str]:
    """What SQLiteStorage answers, by the case's title."""
    return {case.title: _answer(case) for case in CASES}


def _answer(case: Case) -> str:
    with tempfile.TemporaryDirectory() as folder, SQLiteStorage(Path(folder) / "comparison.db") as storage:
        return case.answer(_Ours(storage, case.zone))
