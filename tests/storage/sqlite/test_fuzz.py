"""Stores whose files were changed at random open, or are refused for one of few reasons; and those that atheris, which
looks for new ways through the code, has changed. For a bounded time here; ``make fuzz`` takes longer."""

import logging
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.storage.sqlite.faulty import ROOT
from tests.storage.sqlite.fuzzing import LONGEST, Seeded, make_stores, run_one

SECONDS = 5.0
GUIDED_SECONDS = 20
LEAST, MOST = 20, 500
"""Stores that are tried where the machine is slow, and where it is quick."""


def test_a_store_changed_at_random_opens_and_goes_on(quick_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, "edgedepot")
    stores = make_stores(quick_folder)
    ended: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    seed = 0
    while seed < LEAST or (seed < MOST and time.monotonic() < until):
        seed += 1
        ended[_within_time(stores, quick_folder / "changed", seed)] += 1
    assert ended["stored"] > 20 * ended["refused"], ended


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is made for Linux on x86-64 alone")
def test_a_store_that_atheris_changes_does_so_too(quick_folder: Path) -> None:
    options = [f"-max_total_time={GUIDED_SECONDS}", "-seed=1", f"-artifact_prefix={quick_folder}/"]
    command = [sys.executable, "-m", "tests.storage.sqlite.fuzz", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-10_000:]
    ended = re.search(r"Done (\d+) runs", done.stderr)
    assert ended is not None
    assert int(ended[1]) > LEAST


def _within_time(stores: list[Path], folder: Path, seed: int) -> str:
    ended: list[str | Exception] = []

    def run() -> None:
        try:
            ended.append(run_one(stores, folder, Seeded(seed)))
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is what the test is about
            ended.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONGEST)
    assert ended, f"seed {seed} hangs"
    if isinstance(ended[0], Exception):
        raise AssertionError(f"seed {seed}") from ended[0]
    return ended[0]
