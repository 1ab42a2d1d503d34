"""Retention of 600,000 readings that are all too old, beside a writer that goes on.

The same commits are made in two copies of one store: one lets everything go that is older than a week, the other keeps
it. What is compared is the longest that a commit took. What retention writes is counted on an ext4 file system in a
file of its own, where that can be mounted: the bytes that reach the device, less those of the copy that keeps all.
"""

import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from tests.benchmarks.loop_mount import LoopMount, NoLoopMount
from tests.benchmarks.report import Comparison, Options, alternate, progress, read_options, report
from tests.benchmarks.store_rows import DEVICES, FIRST, STEP, Station, fill, readings

ROWS = 600_000
COMMITS, AT_ONCE = 600, 100
"""Enough to be folded twice meanwhile."""
KEPT = "7 days"
LATER = timedelta(days=60)


def build(path: Path, rows: int) -> None:
    """A store with readings that are not too old yet."""
    progress(f"writing {rows:,} rows")
    with SQLiteStorage(path, clock=ManualClock(FIRST), keep=KEPT) as store:
        fill(store, 0, rows)


def longest_commit(path: Path, commits: int, keep: str | None) -> float:
    """Write when two months have gone by; milliseconds of the longest commit."""
    with SQLiteStorage(path, clock=ManualClock(FIRST + LATER), keep=keep) as store:
        retaining = threading.Thread(target=store.retain)
        retaining.start()
        longest = 0.0
        first = LATER // STEP * DEVICES
        for number in range(first, first + commits * AT_ONCE, AT_ONCE):
            rows = readings(number, AT_ONCE)
            began = time.perf_counter()
            store.store_readings(Station, rows).wait()
            longest = max(longest, time.perf_counter() - began)
        retaining.join()
        old: Any = store.aggregate(Station, "temperature", "count", end=FIRST + LATER)
        if (old["result"] == 0) != (keep is not None):
            raise RuntimeError(f"with keep={keep!r} {old['result']} old rows are left")
    return 1000 * longest


def run_copy(original: Path, folder: Path, commits: int, keep: str | None) -> float:
    """The longest commit in a copy that is gone afterwards."""
    path = folder / "copy.db"
    shutil.copyfile(original, path)
    found = longest_commit(path, commits, keep)
    for file in folder.glob("copy.db*"):
        file.unlink()
    return found


def commits_compared(options: Options, original: Path, folder: Path) -> Comparison:
    commits = options.of(COMMITS)
    found = alternate(
        options,
        "ms, the longest commit",
        {
            "without retention": lambda: run_copy(original, folder, commits, None),
            "with retention": lambda: run_copy(original, folder, commits, KEPT),
        },
    )
    return Comparison("longest commit", "ms", found["without retention"], found["with retention"], 1.5)


def bytes_written(options: Options, original: Path, mount: LoopMount) -> Comparison:
    # So few that nothing is folded meanwhile: its checkpoints fall as they may, and would drown what is asked for.
    rows, commits = options.of(ROWS), options.of(COMMITS // 6)

    def written(keep: str | None) -> float:
        path = mount.path / "copy.db"
        shutil.copyfile(original, path)
        before = mount.written()
        longest_commit(path, commits, keep)
        after = mount.written()
        for file in mount.path.glob("copy.db*"):
            file.unlink()
        return (after - before) / rows

    found = alternate(
        options,
        "bytes for each old row",
        {"without retention": lambda: written(None), "with retention": lambda: written(KEPT)},
    )
    added = [one - other for one, other in zip(found["with retention"], found["without retention"], strict=True)]
    return Comparison("written by retention", "bytes a row", [1.0] * options.rounds, added, 2)


def main() -> None:
    options = read_options(__doc__)
    notes: dict[str, object] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        original = folder / "original.db"
        build(original, options.of(ROWS))
        comparisons = [commits_compared(options, original, folder)]
        try:
            with LoopMount() as mount:
                comparisons.append(bytes_written(options, original, mount))
        except NoLoopMount as exc:
            notes["bytes_not_measured"] = str(exc)
    report(options, comparisons, rows=options.of(ROWS), **notes)


if __name__ == "__main__":
    main()
