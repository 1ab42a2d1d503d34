"""What the storage tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.sqlite.faulty import build

_IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where the machine has one: a commit waits for no disk there."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has calls of a process fail (`run_faulty`)."""
    return build(tmp_path_factory.mktemp("shim"))
