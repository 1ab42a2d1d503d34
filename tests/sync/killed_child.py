"""The process that `test_killed` kills: forwards a store, and kills itself at one boundary between two steps."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgedepot import Reading, Version
from edgedepot.storage.base import StoreRow
from edgedepot.storage.buffer import Lane, Pending, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.storage import SQLiteStorage
from tests.sync.scripted import ScriptedUpstream
from tests.sync.simulated import forwarder_to

BATCH = 8
BAD = (5, 21, 22)


class Boundaries:
    """Counts the boundaries that were passed; at the last one the process ends as from a power cut."""

    def __init__(self, last: int) -> None:
        self._left = last

    def at(self, name: str) -> None:
        if self._left == 0:
            print(name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class FileUpstream(ScriptedUpstream):
    """An upstream whose rows are in a file, a line for each; so they outlast the process, as a server does."""

    def __init__(self, path: Path, boundaries: Boundaries) -> None:
        super().__init__(refuses=refusal)
        self._path = path
        self._boundaries = boundaries

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        given = list(rows)
        self._boundaries.at("before it is sent")
        receipt = super().store_readings(reading_model, given)
        with self._path.open("a") as file:
            for row in given:
                assert isinstance(row, Version)
                print(json.dumps([row.gateway_seq, row.data]), file=file)
        self._boundaries.at("stored there, not answered")
        return receipt


class KilledStore(SQLiteStorage):
    """The local store, with a boundary before and after each thing that sync asks of it."""

    boundaries: Boundaries

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        window = super().pending(cursor, limit, lane)
        self.boundaries.at("a window in hand")
        return window

    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        self.boundaries.at("before it is quarantined")
        super().quarantine(cursor, rows, reason)
        self.boundaries.at("quarantined, not acknowledged")

    def acknowledge(self, cursor: str, window: Window) -> None:
        self.boundaries.at("before it is acknowledged")
        super().acknowledge(cursor, window)
        self.boundaries.at("acknowledged, not committed")
        self.flush()
        self.boundaries.at("committed")


def refusal(row: Version) -> str | None:
    return "too cold" if row.data["temperature"] in BAD else None


def forward(path: Path, there: Path, boundaries: Boundaries) -> None:
    """Forward all that is pending, in steps, beginning behind what was split before."""
    with KilledStore(path, gateway_id="g") as store:
        store.boundaries = boundaries
        clock = ManualClock()
        forwarder = forwarder_to(store, FileUpstream(there, boundaries), clock, batch_size=BATCH)
        while store.count_pending("central"):
            forwarder.step()
            clock.advance(1)


def main() -> None:
    folder, last = Path(sys.argv[1]), int(sys.argv[2])
    forward(folder / "local.db", folder / "upstream.jsonl", Boundaries(last))
    print("all is forwarded", flush=True)


if __name__ == "__main__":
    main()
