"""Stores whose files were changed at random open, or are refused for one of few reasons; and those that atheris, which
looks for new ways through the code, has changed. For a bounded time here; ``make fuzz`` takes longer."""

import logging
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.buffer import Ledger
from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite.report import Salvaged
from tests.models import Weather
from tests.storage.sqlite.damaged import PAGE, leave
from tests.storage.sqlite.faulty import ROOT
from tests.storage.sqlite.fuzz_judge import LONGEST, Changes, Opener, Stored, judge, open_store
from tests.storage.sqlite.fuzzing import Seeded, make_stores, run_one
from tests.storage.sqlite.test_salvage import pages_of

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


class Forgetful(SQLiteStorage):
    """A store whose salvage leaves out what it is to leave out, but has that in no report."""

    def __init__(self, path: Path, leaves_out: str | None) -> None:
        super().__init__(path, piece_rows=300)
        if self.salvaged is not None:
            self.delete_readings(Weather, leaves_out)


class Silent(SQLiteStorage):
    """A store that says nothing of its salvage."""

    @property
    def salvaged(self) -> Salvaged | None:
        return None


class Unbalanced(SQLiteStorage):
    """A store whose books do not balance after a salvage."""

    def ledger(self) -> Ledger:
        found = super().ledger()
        return found if self.salvaged is None else replace(found, problems=["one is missing"])


def refuse(path: Path) -> SQLiteStorage:
    raise StoreUnusable(f"{path} cannot be read as a store: database disk image is malformed")


@pytest.mark.parametrize(
    "opened",
    [
        lambda path: Forgetful(path, None),
        lambda path: Forgetful(path, "d1"),
        Silent,
        Unbalanced,
        refuse,
    ],
    ids=["all is dropped", "a device is dropped", "no report", "books", "refused"],
)
def test_the_judge_finds_a_planted_fault(quick_folder: Path, opened: Opener) -> None:
    """A page of the journal is zeros. What the store makes of that is right; what these make of it is not."""
    left, copy = quick_folder / "left", quick_folder / "copy"
    left.mkdir()
    leave(left, "unfolded", checkpointed=True)
    stored = Stored(left, copy)
    shutil.copytree(left, copy)
    page = pages_of(copy / "x.db", "_j_1")[1]
    assert _judged(stored, quick_folder / "right", page, open_store) == "stored"
    with pytest.raises(AssertionError):
        _judged(stored, quick_folder / "wrong", page, opened)


def _judged(stored: Stored, folder: Path, page: int, opened: Opener) -> str:
    shutil.copytree(stored.folder, folder)
    changes = Changes(stored, folder / "x.db")
    before = changes.path.read_bytes()
    after = before[: (page - 1) * PAGE] + bytes(PAGE) + before[page * PAGE :]
    changes.path.write_bytes(after)
    changes.note("", before, after)
    return judge(changes, opened)


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is made for Linux on x86-64 alone")
def test_a_store_that_atheris_changes_does_so_too(quick_folder: Path) -> None:
    options = [f"-max_total_time={GUIDED_SECONDS}", "-seed=1", f"-artifact_prefix={quick_folder}/"]
    command = [sys.executable, "-m", "tests.storage.sqlite.fuzz", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-10_000:]
    ended = re.search(r"Done (\d+) runs", done.stderr)
    assert ended is not None
    assert int(ended[1]) > LEAST


def _within_time(stores: list[Stored], folder: Path, seed: int) -> str:
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
