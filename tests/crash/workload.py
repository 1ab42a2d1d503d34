"""What the recorded process does to its store: one deed after the other, with marks where each begins and where the
store promised it."""

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.buffer import Lane, Pending, Window
from edgedepot.storage.clock import ManualClock, from_micros, to_micros
from edgedepot.storage.reading import define_model
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.aside import next_of
from edgedepot.storage.sqlite.backup import restore
from edgedepot.storage.sqlite.wal import wal_of
from tests.crash.recording import MARKS
from tests.models import Mixed, Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
COUNTS, HALVES, LEVELS = (
    define_model("Tank", {"level": (level, False, None), "count": (count, False, None)})
    for level, count in ((int, int), (float, int), (float, float))
)
"""One reading model, as which its fields became float one after the other."""
MODELS: dict[str, type[Reading]] = {model.__measurement__: model for model in (Weather, Mixed, LEVELS)}
PLANTED = "EDGEDEPOT_CRASH_PLANTED"
"""The environment variable that plants a fault: with "promise at commit" the process calls durable what is not."""
ADDED, ADDED_ROWS = "_added_by_a_step", 200
"""The table that a schema step of the tests makes, with so many rows."""
COPY = "copy.db"
Durability = Literal["power", "process"]
Rows = list[tuple[str, datetime, dict[str, Any]]]


class Work:
    """A store, and the marks of what is done to it. The clock stands still: nothing happens by itself."""

    def __init__(self, folder: Path, seed: int, deeds: int) -> None:
        """`deeds` is how many there were before."""
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.path = folder / "gateway.db"
        self._copy = folder / COPY
        self._deeds = self._copied = deeds
        self._marks = os.open(folder / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._unawaited: Receipt | None = None
        self._second = 1000 * deeds

    def open(self, durability: Durability = "power", piece_rows: int = 60, **limits: Any) -> None:
        """Checkpoints come as often as a small store allows."""
        early = os.environ.get(PLANTED) == "promise at commit"
        self._level: Literal["committed", "durable"] = "committed" if durability == "process" or early else "durable"
        self._promise = "durable" if early else self._level
        self.store = SQLiteStorage(
            self.path,
            gateway_id="roof",
            durability="process" if early else durability,
            piece_rows=piece_rows,
            clock=self.clock,
            **limits,
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

    def put_unstamped(self, model: type[Reading], rows: Rows) -> None:
        """Store readings without a time: the store stamps them."""
        self._begin("something", gradual=False)
        there = self._count()
        self._unawaited = self.store.store_readings(model, [(device, None, data) for device, _, data in rows])
        self.settle()
        assert self._count() == there + len(rows)
        self._mark_what_became()

    def settle(self) -> None:
        """Wait for what was stored."""
        if self._unawaited is not None:
            self._unawaited.wait(self._level)
            self._unawaited = None
            self._promised(self._promise)
            if not self.clock.trusted:  # it is held: owed to nobody yet
                self._mark_what_became()

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

    def retain(self, piece_rows: int, **limits: Any) -> None:
        """Drop what limits do not allow, which hold in between alone: the rest of the time nothing goes by itself."""
        self.close()
        self._begin("something", gradual=True)
        self.open(piece_rows=piece_rows, **limits)
        self.store.retain()
        self._mark_what_became()
        self._promised("durable")
        self.reopen(piece_rows=piece_rows)

    def thin(self) -> None:
        """Minutes that upstreams await become one reading each."""
        self.settle()
        self._begin("something", gradual=True)
        assert self.store.thin(T0 + timedelta(seconds=self._second)) > 0
        self._mark_what_became()
        self._promised("durable")

    def backup(self) -> None:
        """Copy the store as it is now."""
        self.settle()
        self._begin("backup")
        self.store.backup(self._copy)
        self._copied = self._deeds
        self._promised("durable")

    def cut_log(self) -> None:
        """Another program puts the log into the file, and leaves an empty one."""
        self.settle()
        self._begin("cut log")
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        self._promised(self._promise)

    def restore(self) -> None:
        """Put the copy in the store's place."""
        self.close()
        now = self.clock.now()
        self._begin("restore", copied=self._copied, second=now // 1_000_000)
        restore(self._copy, self.path, now, force=True)
        self._promised("durable")

    def _count(self) -> int:
        return sum(len(self.store.query_readings(model, fields=[])) for model in MODELS.values())

    def _mark_what_became(self) -> None:
        """For deeds whose outcome is not known before."""
        rows = [
            [name, row.pop("device_id"), to_micros(row.pop("timestamp")), _without_null(row)]
            for name, model in MODELS.items()
            for row in self.store.query_readings(model)
        ]
        windows = {cursor: self.store.pending(cursor, 10_000) for cursor in self.store.cursors()}
        owed = {cursor: _told(window.rows) if window else [] for cursor, window in windows.items()}
        self._mark(became=rows, owed=owed)

    def remove_cursor(self, cursor: str) -> None:
        self._begin("remove cursor", cursor=cursor)
        self.store.remove_cursor(cursor)
        self._promised(self._promise)

    def outgrow(self) -> None:
        """A program holds an old state until the log is too long and the store goes on in a copy of its file. A fold
        (open with an interval of 1 s) is due in the moment in which the copy is begun: its pages have to come into that
        out of the log. Merges before it change pages that the log did not have yet."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM _meta").fetchone()
            while wal_of(self.path).stat().st_size <= 4 * 30 * 4096:
                self.store.fold()
                self.put(Weather, self.weather(self.fresh(40)))
            self.put(Mixed, self.mixed(self.again(20, devices=1)))
            file = self.path.stat().st_ino
            self.clock.advance(1)
            while self.path.stat().st_ino == file:
                self.put(Weather, self.weather(self.fresh(2)))
                self.clock.advance(1)

    def outlast(self) -> None:
        """A program holds an old state, and the store cannot go on in a copy. When it has ended the long log goes into
        the file (open with a short `busy_timeout`), beside the deeds."""
        next_of(self.path).mkdir()
        assert self.store._writing is not None
        log_length = self.store._writing.writer.log_length
        log_length.portion = 40  # so that it takes several
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM _meta").fetchone()
            while wal_of(self.path).stat().st_size <= 5 * 30 * 4096:
                self.store.fold()
                self.put(Weather, self.weather(self.fresh(40)))
            while log_length.warning is None:  # from then on no commit puts it into the file
                self.clock.advance(1)
                self.put(Weather, self.weather(self.fresh(2)))
        while wal_of(self.path).stat().st_size > 4 * 30 * 4096:
            self.clock.advance(1)
            self.put(Weather, self.weather(self.fresh(2)))
        next_of(self.path).rmdir()

    def reopen(self, **options: Any) -> None:
        self.close()
        self.open(**options)

    def close(self) -> None:
        self.settle()
        self.store.close()
        self._promised("durable")

    def reboot(self, **options: Any) -> None:
        """The machine starts again and does not know the time."""
        self.close()
        self.clock.reboot(T0 - timedelta(days=3650))
        self.open(**options)

    def trust(self) -> None:
        """The time is known: what was held is put right and handed on with the next commit."""
        self._begin("something", gradual=False)
        there = self._count()
        self.clock.advance(10)
        self.clock.step((T0 + timedelta(seconds=self._second) - from_micros(self.clock.now())).total_seconds())
        self.clock.trusted = True
        self.sync()
        assert self._count() == there
        self._mark_what_became()

    def wait(self, days: int) -> None:
        """Time goes by, and readings come after that."""
        self.clock.advance(86_400 * days)
        self._second += 86_400 * days

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

    def tank(self, rows: Rows, levels: type[int | float], counts: type[int | float]) -> Rows:
        """Values for the tank: some of the fields. Their sums need more than half of 64 bits."""
        kinds = {"level": levels, "count": counts}
        fields = [self.rng.choice(list(kinds)) for _ in rows]
        return [
            (*row[:2], {field: kinds[field](self.rng.randint(-3, 3) * 2**31 + self.rng.randint(0, 3))})
            for row, field in zip(rows, fields, strict=True)
        ]


def _told(rows: Sequence[Pending]) -> list[list[Any]]:
    return [[row.model.__measurement__, row.device_id, row.timestamp] for row in rows]


def _without_null(row: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row.items() if value is not None}
