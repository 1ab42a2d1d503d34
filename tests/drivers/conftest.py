"""A real store and a store that holds receipts back, for the drivers' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from tests.drivers.running import HeldInlet


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    """The real local store, which commits often."""
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof", flush_interval="20ms") as store:
        yield store
        assert store.ledger().problems == []


@pytest.fixture
def held() -> Iterator[HeldInlet]:
    """A store that settles receipts when it is told."""
    buffer = HeldInlet()
    yield buffer
    buffer.settle()
