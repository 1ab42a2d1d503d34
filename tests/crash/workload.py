"""The process whose store is recorded: it does a theme's deeds one after the other, and marks where each begins and
where the store promised it. `python -m tests.crash.workload THEME STEP FOLDER SEED DEEDS`."""

import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.base import Lane, Pending, Window
from edgedepot.storage.clock import ManualClock, to_micros
from edgedepot.storage.receipt import Receipt
from tests.crash.disk import Files, disks
from tests.crash.recording import MARKS, Operation
from tests.models import Mixed, Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MODELS: dict[str, type[Reading]] = {model.__measurement__: model for model in (Weather, Mixed)}
PLANTED = "EDGEDEPOT_CRASH_PLANTED"
"""The environment variable that plants a fault: with "promise at commit" the process calls durable what is not."""
Rows = list[tuple[str, datetime, dict[str, Any]]]


class Work:
    """A store, and the marks of what is done to it. The clock stands still: nothing happens by itself."""

    def __init__(self, folder: Path, seed: int, deeds: int) -> None:
        """`deeds` is how many there were before."""
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self._path = folder / "gateway.db"
        self._deeds = deeds
        self._marks = os.open(folder / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._unawaited: Receipt | None = None
        self._second = 1000 * deeds

    def open(self, durability: Literal["power", "process"] = "power", piece_rows: int = 60) -> None:
        """Checkpoints come as often as a small store allows."""
        early = os.environ.get(PLANTED) == "promise at commit"
        self._level: Literal["committed", "durable"] = "committed" if durability == "process" or early else "durable"
        self._promise = "durable" if early else self._level
        self.store = SQLiteStorage(
            self._path,
            gateway_id="roof",
            durability="process" if early else durability,
            piece_rows=piece_rows,
            clock=self.clock,
        )
        assert self.store._writing is not None
        self.store._writing._connection.execute("PRAGMA wal_autocheckpoint = 40")

    def _mark(self, **mark: Any) -> None:
        os.write(self._marks, (json.dumps(mark) + "\n").encode())

    def _begin(self, do: str, **deed: Any) -> None:
        self._deeds += 1
        self._mark(begin={"do": do, **deed})

    def _promised(self, level: str) -> None:
        self._mark(promised=level, deed=self._deeds)

    # -- deeds ----------------------------------------------------------------------------------------------------

    def put(self, model: type[Reading], rows: Rows, wait: bool = True) -> None:
        """Store readings; without `wait` they go into the transaction of the next deed."""
        told = [[model.__measurement__, device, to_micros(moment), data] for device, moment, data in rows]
        self._begin("store", rows=told)
        self._unawaited = self.store.store_readings(model, rows)
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait for what was stored."""
        if self._unawaited is not None:
            self._unawaited.wait(self._level)
            self._unawaited = None
            self._promised(self._promise)

    def sync(self) -> None:
        """All so far survives a power cut."""
        self.store.flush()
        self._promised("durable")

    def delete(self, model: type[Reading], device: str | None, start: datetime, end: datetime) -> None:
        self.settle()
        told = {"device": device, "start": to_micros(start), "end": to_micros(end)}
        self._begin("delete", model=model.__measurement__, **told)
        self.store.delete_readings(model, device, start, end)
        self._promised(self._promise)

    def fold(self) -> None:
        self.settle()
        self.store.fold()
        self._promised("durable")

    def add_cursor(self, name: str, start: Literal["oldest", "now"] = "oldest") -> None:
        self.settle()
        self._begin("add cursor", cursor=name, start=start)
        self.store.add_cursor(name, start)
        self._promised(self._promise)

    def take(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        """What is to be sent next; `acknowledge` ends it."""
        self.settle()
        window = self.store.pending(cursor, limit, lane)
        if window is not None:
            self._mark(sent=cursor, rows=_told(window.rows), replayed=window.replayed)
        return window

    def acknowledge(self, cursor: str, window: Window, refuse: int = 0) -> None:
        self.settle()
        refused = window.rows[:refuse]
        self._begin("acknowledge", cursor=cursor, refused=_told(refused))
        if refused:
            self.store.quarantine(cursor, refused, "refused by the test")
        self.store.acknowledge(cursor, window)
        self.sync()

    def send(self, cursor: str, limit: int, refuse: int = 0, lane: Lane = "backlog") -> None:
        window = self.take(cursor, limit, lane)
        if window is not None:
            self.acknowledge(cursor, window, refuse)

    def replay(self, cursor: str) -> None:
        """What was refused is sent once more."""
        self._begin("replay", cursor=cursor)
        self.store.replay_quarantined(cursor)
        self._promised(self._promise)

    def drop(self, cursor: str) -> None:
        """What was refused is given up."""
        self._begin("drop", cursor=cursor)
        self.store.drop_quarantined(cursor)
        self._promised(self._promise)

    def remove_cursor(self, cursor: str) -> None:
        self._begin("remove cursor", cursor=cursor)
        self.store.remove_cursor(cursor)
        self._promised(self._promise)

    def reopen(self, **options: Any) -> None:
        self.close()
        self.open(**options)

    def close(self) -> None:
        self.settle()
        self.store.close()
        self._promised("durable")

    # -- readings -------------------------------------------------------------------------------------------------

    def fresh(self, count: int, devices: int = 3) -> Rows:
        """New readings, each later than all before."""
        return [self._row(self._next_second(), devices) for _ in range(count)]

    def again(self, count: int, devices: int = 3) -> Rows:
        """Readings of times that were, some of which merge with what is there."""
        return [self._row(self.rng.randint(0, self._second), devices) for _ in range(count)]

    def old(self, count: int, days: int) -> Rows:
        """Readings from long before."""
        return [self._row(-86_400 * self.rng.randint(1, days), 3) for _ in range(count)]

    def _next_second(self) -> int:
        self._second += self.rng.randint(1, 30)
        return self._second

    def _row(self, second: int, devices: int) -> tuple[str, datetime, dict[str, Any]]:
        device = f"d{self.rng.randrange(devices)}"
        return device, T0 + timedelta(seconds=second), {}

    def weather(self, rows: Rows) -> Rows:
        """Values for Weather."""
        note = self.rng.choice((None, "short", "n" * 200))
        more = {} if note is None else {"note": note}
        return [(*row[:2], {"temperature": float(self.rng.randint(0, 40)), **more}) for row in rows]

    def mixed(self, rows: Rows) -> Rows:
        """Values for Mixed: some of the fields, so that rows merge."""
        return [
            (*row[:2], {self.rng.choice("ab"): float(self.rng.randint(0, 3)), "number": self.rng.randint(0, 9)})
            for row in rows
        ]


def _told(rows: Sequence[Pending]) -> list[list[Any]]:
    return [[row.model.__measurement__, row.device_id, row.timestamp] for row in rows]


# -- themes ----------------------------------------------------------------------------------------------------------


def ingest(work: Work) -> None:
    """New readings of two models, a few transactions of several calls, a file put away and opened again."""
    work.open()
    for step in range(14):
        work.put(Weather, work.weather(work.fresh(work.rng.randint(1, 30))), wait=step % 4 != 3)
        if step > 4:
            work.put(Mixed, work.mixed(work.fresh(work.rng.randint(1, 9))))
        if step == 9:
            work.reopen()


def merge(work: Work) -> None:
    """Readings with the identities of earlier ones, some in the journal and some in history."""
    work.open()
    work.add_cursor("central")
    for step in range(12):
        work.put(Mixed, work.mixed(work.fresh(8)))
        work.put(Mixed, work.mixed(work.again(20, devices=1)))
        if step in (4, 8):
            work.fold()
        if step == 6:
            work.send("central", 30)


def fold(work: Work) -> None:
    """Folds into several partitions; pieces come and go."""
    work.open(piece_rows=30)
    work.add_cursor("central")
    for step in range(8):
        work.put(Weather, work.weather(work.fresh(20) + work.old(4, 400)))
        work.put(Mixed, work.mixed(work.fresh(5)), wait=False)
        if step % 2:
            work.fold()
            work.send("central", 40)
    work.reopen()
    work.fold()


def acknowledge(work: Work) -> None:
    """Upstreams that come early, late and go; whole windows and refused readings, sent again or given up; two lanes; a
    merge while a window is out."""
    work.open(piece_rows=40)
    work.add_cursor("first")
    for step in range(9):
        work.put(Mixed, work.mixed(work.fresh(12)))
        work.send("first", 9, refuse=step % 3)
        if step == 3:
            work.fold()
            work.add_cursor("late")
        if step > 3:
            window = work.take("late", 7)
            work.put(Mixed, work.mixed(work.again(10, devices=1)))
            if window is not None:
                work.acknowledge("late", window, refuse=step % 2)
        if step == 4:
            work.store.split("first")
        if step in (5, 6):
            work.send("first", 5, refuse=1, lane="live")
            work.replay("first")
        if step == 5:
            work.add_cursor("latest", "now")
            work.fold()
        if step == 6:
            work.reopen(piece_rows=40)
        if step == 7:
            work.drop("late")
    work.remove_cursor("latest")
    work.fold()


def delete(work: Work) -> None:
    """Deletions out of the journal and out of history, of what is pending and what is not."""
    work.open(piece_rows=40)
    work.add_cursor("central")
    for step in range(8):
        work.put(Weather, work.weather(work.fresh(20)))
        work.put(Mixed, work.mixed(work.fresh(5) + work.old(2, 90)))
        if step in (2, 5):
            work.fold()
        if step in (3, 6):
            work.send("central", 50)
        start = T0 + timedelta(seconds=work.rng.randint(-60 * 86_400 if step == 6 else 0, 1000))
        model = work.rng.choice((Weather, Mixed))
        work.delete(
            model, work.rng.choice((None, "d1")), start, start + timedelta(seconds=60 * work.rng.randint(1, 20))
        )


def process(work: Work) -> None:
    """`durability="process"`: a commit survives a killed process, and a power cut only once it was synced."""
    work.open("process", piece_rows=40)
    work.add_cursor("central")
    for step in range(12):
        work.put(Weather, work.weather(work.fresh(work.rng.randint(1, 12))))
        work.put(Mixed, work.mixed(work.again(4, devices=1)))
        if step % 4 == 2:
            work.sync()
            work.send("central", 20)
        if step in (5, 9):
            work.store.fold()
        if step == 7:
            work.reopen(durability="process", piece_rows=40)


def until_killed(work: Work) -> None:
    """The process ends without a word, in the middle of a fold's pieces; the next part opens what it left."""
    work.open("process" if work.rng.random() < 0.5 else "power", piece_rows=30)
    work.add_cursor("central")
    for _ in range(4):
        work.put(Weather, work.weather(work.fresh(15)))
        work.put(Mixed, work.mixed(work.again(5, devices=1)))
    work.send("central", 25)
    work.put(Weather, work.weather(work.fresh(3)))
    os._exit(0)


Part = Callable[[Work], None]
"""What a process does."""


@dataclass(frozen=True, slots=True)
class Between:
    """What happens to the files when no process runs: others lie there afterwards."""

    change: Callable[[list[Operation], random.Random], Files]


def _power_cut(operations: list[Operation], rng: random.Random) -> Files:
    """Somewhere in the last tenth of what was done."""
    last = rng.randrange(len(operations) - len(operations) // 10, len(operations))
    return next(disk.cut("worst", rng) for done, disk in disks(operations) if done == last)


THEMES: dict[str, tuple[Part | Between, ...]] = {
    "ingest": (ingest,),
    "merge": (merge,),
    "fold": (fold,),
    "acknowledge": (acknowledge,),
    "delete": (delete,),
    "process": (process,),
    "killed": (until_killed, until_killed, fold),
    "cut twice": (until_killed, Between(_power_cut), until_killed, Between(_power_cut), fold),
}
"""Each theme is one or several processes, one after the other on the same folder."""


def main() -> None:
    theme, step, folder, seed, deeds = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:])
    work = Work(folder, seed + step, deeds)
    part = THEMES[theme][step]
    assert not isinstance(part, Between)
    part(work)
    work.close()


if __name__ == "__main__":
    main()
