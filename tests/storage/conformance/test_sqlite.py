"""The contract on the local store: as it is, with the cheaper durability, and read back from the file each time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgedepot import BaseStorage, SQLiteStorage
from edgedepot.storage.conformance import StorageContract
from tests.storage.conformance.reopening import ReopeningStorage


class _OnSQLite(StorageContract):
    lacks = frozenset({"gateways", "versions"})


class TestSQLiteStorage(_OnSQLite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[BaseStorage]:
        with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
            yield store

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"engine": "sqlite", "path": str(tmp_path / "gateway.db"), "read_only": True}


class TestSQLiteStorageWithProcessDurability(_OnSQLite):
    @pytest.fixture
    def storage(self, quick_folder: Path) -> Iterator[BaseStorage]:
        with SQLiteStorage(quick_folder / "gateway.db", durability="process") as store:
            yield store

    @pytest.fixture
    def settings(self, quick_folder: Path) -> Mapping[str, Any]:
        path = str(quick_folder / "gateway.db")
        return {"ENGINE": "edgedepot.storage.SQLiteStorage", "SQLITE_PATH": path, "SQLITE_READ_ONLY": True}


class TestSQLiteStorageReopened(_OnSQLite):
    @pytest.fixture
    def storage(self, quick_folder: Path) -> Iterator[BaseStorage]:
        with ReopeningStorage(quick_folder / "gateway.db") as storage:
            yield storage

    @pytest.fixture
    def settings(self, quick_folder: Path) -> Mapping[str, Any]:
        return {"engine": "sqlite", "path": str(quick_folder / "gateway.db"), "read_only": True}


class TestSQLiteStorageFolded(_OnSQLite):
    """Every write is in history, not in the journal, before it is read."""

    @pytest.fixture
    def storage(self, quick_folder: Path) -> Iterator[BaseStorage]:
        with ReopeningStorage(quick_folder / "gateway.db", fold=True) as storage:
            yield storage

    @pytest.fixture
    def settings(self, quick_folder: Path) -> Mapping[str, Any]:
        return {"engine": "sqlite", "path": str(quick_folder / "gateway.db"), "read_only": True}
