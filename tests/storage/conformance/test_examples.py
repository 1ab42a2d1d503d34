"""The contract on the example storages: as users would write them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedepot import BaseStorage
from edgedepot.storage.conformance import StorageContract
from tests.examples import load_example


class TestCustomStorage(StorageContract):
    lacks = frozenset({"devices", "save_device", "versions", "version_quality", "gateways", "other_process"})

    @pytest.fixture
    def storage(self) -> Iterator[BaseStorage]:
        storage: BaseStorage = load_example("custom_storage").DictStorage()
        with storage:
            yield storage


class TestDualWrite(StorageContract):
    lacks = frozenset({"versions", "gateways", "other_process"})

    @pytest.fixture
    def storage(self, quick_folder: Path) -> Iterator[BaseStorage]:
        storage: BaseStorage = load_example("dual_write").LoggedStorage(quick_folder / "greenhouse.db")
        with storage:
            yield storage
