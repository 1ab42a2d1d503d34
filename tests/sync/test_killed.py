"""Forwarding killed with SIGKILL at each boundary between two of its steps: the books balance after reopening, nothing
is lost, and twice is sent only what was in hand."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.books import upstream_books
from tests.sync.killed_child import BAD, BATCH, Boundaries, forward
from tests.sync.scripted import fill, open_store

ROWS = 24
LIVE = 6
BOUNDARIES = {
    "before it is sent",
    "stored there, not answered",
    "a window in hand",
    "before it is quarantined",
    "quarantined, not acknowledged",
    "before it is acknowledged",
    "acknowledged, not committed",
    "committed",
}


def prepare(folder: Path) -> None:
    """A store with a backlog and, behind a window of it that is acknowledged, a live lane."""
    folder.mkdir()
    with open_store(folder / "local.db") as store:
        store.add_cursor("central")
        fill(store, ROWS)
        store.split("central")
        fill(store, LIVE, start=ROWS)
        window = store.pending("central", 2, "live")
        assert window is not None
        store.acknowledge("central", window)


def kill_at(folder: Path, last: int) -> str:
    """The name of the boundary with that number, at which the process was killed; empty when it came to the end."""
    command = [sys.executable, "-m", "tests.sync.killed_child", str(folder), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return ""
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def check(folder: Path) -> None:
    """The store as the killed process left it; then forwarded to the end."""
    there = folder / "upstream.jsonl"
    before = [json.loads(line)[0] for line in there.read_text().splitlines()] if there.exists() else []
    with open_store(folder / "local.db") as store:
        assert store.ledger().problems == []
        books = store.ledger().upstreams["central"]
        assert books["versions"] == ROWS + LIVE
        assert books["delivered"] <= len(before) + 2
        assert len(store.quarantined("central")) == books["quarantined"]
    forward(folder / "local.db", there, Boundaries(-1))
    sent = [(seq, data["temperature"]) for seq, data in map(json.loads, there.read_text().splitlines())]
    good = {float(number) for number in range(ROWS + LIVE)} - set(BAD) - {24.0, 25.0}
    assert {temperature for _, temperature in sent} == good
    assert len(sent) - len(good) <= BATCH
    with open_store(folder / "local.db") as store:
        assert store.ledger().problems == []
        expected = upstream_books(versions=ROWS + LIVE, delivered=ROWS + LIVE - len(BAD), quarantined=len(BAD))
        assert store.ledger().upstreams["central"] == expected
        aside = {row["data"]["temperature"] for row in store.quarantined("central")}
        assert aside == set(map(float, BAD))


def test_killed_at_each_boundary(tmp_path: Path) -> None:
    prepare(tmp_path / "prepared")

    def killed(number: int) -> str:
        shutil.copytree(tmp_path / "prepared", tmp_path / str(number))
        return kill_at(tmp_path / str(number), number)

    names = list[str]()
    with ThreadPoolExecutor(2) as pool:
        for first in range(0, 200, 8):
            names += pool.map(killed, range(first, first + 8))
            for number in range(first, first + 8):  # not beside the others: a child has our locks until it is another
                check(tmp_path / str(number))
            if "" in names:
                break
    assert all(names[: names.index("")])
    assert set(names) == {*BOUNDARIES, ""}
