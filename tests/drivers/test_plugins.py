"""Drivers and formats of other packages are found by name; libraries are loaded by who uses them only."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = """
from edgedepot.drivers.base import Driver
from edgedepot.drivers.formats import Format

class Shouting(Format):
    def __init__(self, mark: str = "!") -> None:
        self.mark = mark

    def decode(self, raw):
        return {"note": raw.decode().upper() + self.mark}

class Tide(Driver):
    def run(self, sink):
        self._stopping.wait()
"""
ENTRY_POINTS = """
[edgedepot.formats]
shouting = harbour:Shouting
[edgedepot.drivers]
tide = harbour:Tide
"""


def run(code: str, folder: Path | None = None) -> str:
    """What the code prints in a fresh interpreter, where the packages in `folder` are installed too."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a package that brings a driver and a format."""
    (tmp_path / "harbour.py").write_text(PACKAGE)
    information = tmp_path / "harbour-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: harbour\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def test_a_format_of_another_package(installed: Path) -> None:
    code = """
from edgedepot import SerialLineDriver
from edgedepot.drivers.formats import FORMATS, make_format
print(make_format("shouting", {"mark": "?"}, SerialLineDriver).decode(b"ahoy"), FORMATS.names())
"""
    assert run(code, installed).startswith("{'note': 'AHOY?'} ['csv', 'json', 'keyvalue', 'shouting', 'value']")


def test_a_driver_of_another_package(installed: Path) -> None:
    code = "from edgedepot.drivers import DRIVERS; print(DRIVERS.find('tide').__name__, DRIVERS.names())"
    assert run(code, installed).strip() == "Tide ['mqtt', 'serial', 'tide']"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("edgedepot.drivers", {"paho", "serial", "msgspec"}),
        ("edgedepot.drivers.mqtt", {"serial"}),
        ("edgedepot.drivers.serial", {"paho"}),
        ("edgedepot.drivers.formats.csv", {"paho", "serial", "msgspec"}),
    ],
)
def test_what_a_module_does_not_load(module: str, absent: set[str]) -> None:
    loaded = set(run(f"import {module}, sys; print(*sys.modules, sep='\\n')").split())
    assert module in loaded
    assert not absent & loaded
