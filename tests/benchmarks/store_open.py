"""Opening a store whose process was killed, and draining a long backlog in 64 MiB.

A process ingests until it is killed with SIGKILL, in the middle of that, and another opens the store. A million rows,
ten million with `--long`, are compared with ten thousand. What is in the log has to be read then: of both it is nearly
as long as it becomes, by the commits of single rows.

Then a process that may have 64 MiB, by a control group or else by RLIMIT_DATA, writes 500,000 rows, five million with
`--long`, and hands all of them on in windows of 1,000, as sync does, while new ones come in. Before that it has written
and handed on a tenth as many. What it had of its own at most then is compared with the most in each later stretch as
long as that: what pending rows take shows, be it kept for as long as they are pending or for good. Each 1,000 new
readings are awaited before there are more. So what waits in the queue, which is bounded by itself, is the same
throughout; the limit slows the disk, as it counts the cache of files too, and they would be as many as come during the
longest commit.

Beside that, and with nothing demanded but that it fits into the limit: what a process has of its own when its queue is
full, and at most until all of that is committed, against what it had before.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgedepot.storage.sqlite.connection import WAL_PAGES
from tests.benchmarks.child import Child
from tests.benchmarks.memory_limit import control_group
from tests.benchmarks.report import Comparison, Options, alternate, progress, read_options, report

FEW = 10_000
MANY = 1_000_000
LOGGED = WAL_PAGES - 500
"""So many pages the log has at each kill: it begins anew with `WAL_PAGES`."""
PENDING = 500_000
LONG = 10
ENOUGH = 60_000
"""So many readings fill any queue."""
LIMIT = 64 << 20
MEBIBYTE = 1 << 20


@contextmanager
def process(task: str, **settings: Any) -> Iterator[Child]:
    """A process of `store_processes`; killed on leaving."""
    with Child("store_processes", json.dumps({"task": task, **settings})) as child:
        yield child


def ingest_and_kill(path: Path, first: int, rows: int, logged: int) -> None:
    """Kill a process that has so many rows durable, and so many pages in the log, and goes on."""
    with process("ingest", store=str(path), first=first, rows=rows, logged=logged) as child:
        child.hear()


def open_seconds(path: Path) -> float:
    with process("open", store=str(path)) as child:
        return float(child.hear()["seconds"])


def opening(options: Options, folder: Path) -> Comparison:
    few, logged = options.of(FEW), min(LOGGED, options.of(LOGGED))
    many = options.of(MANY * (LONG if options.long else 1))
    progress(f"writing {many:,} rows")
    ingest_and_kill(folder / "large.db", 0, many, 0)
    # A killed process was further than it could say: so the next begins well behind that.
    firsts = count(2 * many, 2 * few + 10 * WAL_PAGES)
    names = count()

    def open_small() -> float:
        path = folder / f"small {next(names)}.db"
        ingest_and_kill(path, 0, few, logged)
        return open_seconds(path)

    def open_large() -> float:
        ingest_and_kill(folder / "large.db", next(firsts), few, logged)
        return open_seconds(folder / "large.db")

    found = alternate(options, "s", {"small": open_small, "large": open_large})
    return Comparison(
        f"open with {many:,} rows against {few:,}", "s", found["small"], found["large"], factor=3, plus=0.2
    )


def draining(options: Options, folder: Path) -> tuple[Comparison, str]:
    rows = options.of(PENDING * (LONG if options.long else 1))
    few, many = [], []
    for number in range(options.rounds):
        with control_group("edgedepot-benchmark", LIMIT) as group:
            where = None if group is None else str(group)
            path = str(folder / f"backlog {number}.db")
            with process("drain", store=path, rows=rows, group=where, limit=LIMIT) as child:
                progress(f"writing {rows:,} rows in {LIMIT // MEBIBYTE} MiB")
                found = child.hear()
        if min(found["pending"], found["handed_on"]) < rows:
            raise RuntimeError(f"{found['pending']} rows were pending, {found['handed_on']} handed on, of {rows}")
        few.append(found["few"] / MEBIBYTE)
        many.append(max(found["writing"] + found["handing_on"]) / MEBIBYTE)
        stretches = "; ".join(_in_mebibytes(found[name]) for name in ("writing", "handing_on"))
        progress(f"round {number + 1}: {few[-1]:.1f} MiB with a tenth, then {stretches}")
    limited_by = "RLIMIT_DATA" if group is None else "a control group"
    return Comparison(f"memory, {rows:,} rows pending", "MiB", few, many, factor=1.1, plus=2), limited_by


KINDS = {"one by one": (1, False), "in batches of 50": (50, False), "with ten texts": (50, True)}
"""Of a queue that is filled: the readings of a call, and whether they have texts instead of numbers."""


def filling(options: Options, folder: Path, kind: str) -> Comparison:
    batch, texts = KINDS[kind]
    rows = options.of(ENOUGH)
    before, most = [], []
    for number in range(options.rounds):
        with control_group("edgedepot-benchmark", LIMIT) as group:
            where = None if group is None else str(group)
            path = str(folder / f"queue {kind} {number}.db")
            asked = {"store": path, "rows": rows, "batch": batch, "texts": texts, "group": where, "limit": LIMIT}
            with process("fill", **asked) as child:
                found = child.hear()
        before.append(found["before"] / MEBIBYTE)
        most.append(found["most"] / MEBIBYTE)
        progress(f"queue {kind}: {found['rows']:,} rows, {_in_mebibytes([found['full'], found['most']])} MiB")
    return Comparison(f"memory, full queue {kind}", "MiB", before, most, factor=None)


def _in_mebibytes(sizes: Sequence[int]) -> str:
    return " ".join(f"{size / MEBIBYTE:.1f}" for size in sizes)


def main() -> None:
    options = read_options(__doc__)
    with TemporaryDirectory() as folder:
        opened = opening(options, Path(folder))
        drained, limited_by = draining(options, Path(folder))
        filled = [filling(options, Path(folder), kind) for kind in KINDS]
    report(options, [opened, drained, *filled], limit=f"{LIMIT // MEBIBYTE} MiB by {limited_by}")


if __name__ == "__main__":
    main()
