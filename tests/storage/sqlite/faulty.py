"""Programs whose calls to the device a preloaded shim refuses (`faults.c`). A C compiler builds it."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
ROOT = Path(__file__).parents[3]


def build(folder: Path) -> Path:
    built = folder / "faults.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(built), str(SOURCE)], check=True)
    return built


def run_faulty(shim: Path, folder: Path, program: str, *arguments: str) -> str:
    """Run a Python program whose calls in that folder fail as it says itself; what it prints. The folder is its first
    argument. Fails where the program does."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "EDGEDEPOT_FAULT_FOLDER": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-c", program, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
