"""The examples run as they stand, and are as short as their readers are told."""

import subprocess
import sys

import pytest

from tests.examples import EXAMPLES

PRINTED = {
    "custom_storage": [
        "12:00  at most 65.0 °C",
        "13:00  at most 95.0 °C",
        "Greenhouse(device_id='bench-1', timestamp='2026-06-01T12:00:00+00:00', temperature=20.0, door_open=True)",
    ],
    "dual_write": [
        '{"time": "2026-06-01T12:00:00+00:00", "device": "bench-1", "temperature": 21.5}',
        '{"time": "2026-06-01T12:00:00+00:00", "device": "bench-2", "temperature": 19.0}',
    ],
}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_shows(name: str) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-len(PRINTED[name]) :] == PRINTED[name]


def test_an_own_storage_takes_less_than_80_lines() -> None:
    assert len((EXAMPLES / "custom_storage.py").read_text().splitlines()) < 80
