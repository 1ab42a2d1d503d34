"""Stores whose files were changed at random open, or are refused for one of few reasons: for a bounded time here. The
same with atheris, which looks for new ways, is ``make fuzz``."""

import logging
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.storage.sqlite.fuzzing import LONGEST, Seeded, make_stores, run_one

SECONDS = 20.0
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
