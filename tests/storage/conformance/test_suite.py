"""The suite itself, as users run it: it passes, it fails where it should, and it shows why."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgedepot.storage.conformance import StorageContract
from tests.examples import EXAMPLES

TEST = """
import importlib.util
import pytest
from edgedepot.storage.conformance import StorageContract

spec = importlib.util.spec_from_file_location("custom_storage", {example!r})
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

class Storage(example.DictStorage):
    {change}

class TestStorage(StorageContract):
    lacks = {{"devices", "save_device", "versions", "version_quality", "gateways", "other_process"}} {lacks}

    @pytest.fixture
    def storage(self):
        with Storage() as storage:
            yield storage
"""


def run_suite(folder: Path, selected: str, change: str = "pass", lacks: str = "") -> str:
    """What pytest prints when the suite runs over the example storage with something changed."""
    test = folder / "test_own_storage.py"
    test.write_text(TEST.format(example=str(EXAMPLES / "custom_storage.py"), change=change, lacks=lacks))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(test), "-k", selected]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False).stdout


def test_one_fixture_is_all_it_needs(tmp_path: Path) -> None:
    assert re.search(r"= 11 passed, \d+ deselected in ", run_suite(tmp_path, "delete or devices or device_keeps"))


def test_a_storage_that_breaks_the_contract_is_shown_with_what_it_answered(tmp_path: Path) -> None:
    printed = run_suite(
        tmp_path,
        "limit_keeps",
        "def query_readings(self, *scope, limit=None, **more): return super().query_readings(*scope, **more)",
    )
    assert "3 failed, 2 passed" in printed
    assert "assert [2.0, 1.0, 0.0] == []" in printed  # rewritten by pytest


def test_what_is_declared_to_be_lacking_must_be_lacking(tmp_path: Path) -> None:
    printed = run_suite(tmp_path, "deleted_readings_are_gone", lacks='| {"delete_readings"}')
    assert "DID NOT RAISE" in printed
    assert "1 failed" in printed


def test_what_is_lacking_must_be_declared(tmp_path: Path) -> None:
    printed = run_suite(tmp_path, "another_process", lacks='- {"other_process"}')
    assert "TestStorage needs a fixture `settings`, or lacks 'other_process'" in printed
    printed = run_suite(tmp_path, "deleted_readings_are_gone", "delete_readings = example.BaseStorage.delete_readings")
    assert "NotSupported: Storage cannot delete readings" in printed


def test_a_lack_that_is_not_known_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match=r"Mine.lacks: \['speed'\] is none of delete_readings, devices"):

        class Mine(StorageContract):
            lacks = frozenset({"speed"})  # type: ignore[arg-type]


def test_the_suite_has_no_fixture_of_its_own_for_storage(tmp_path: Path) -> None:
    test = tmp_path / "test_none.py"
    test.write_text(
        "from edgedepot.storage.conformance import StorageContract\nclass TestNone(StorageContract): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(test), "-k", "flush_returns"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False).stdout
    assert "TestNone needs a fixture `storage`" in printed
