"""What is done to the stores whose power cuts are tested. To add a theme, write a function and a line in `THEMES`.

`python -m tests.crash.themes THEME STEP FOLDER SEED DEEDS` is the process that is recorded."""

import os
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from edgedepot.storage.sqlite.connection import open_writer, prepare_writer
from edgedepot.storage.sqlite.migrations import STEPS, migrate
from edgedepot.storage.sqlite.schema import VERSION
from tests.crash.disk import Files, disks
from tests.crash.recording import Operation
from tests.crash.workload import ADDED, ADDED_ROWS, COUNTS, HALVES, LEVELS, T0, Durability, Work
from tests.models import Mixed, Weather
from tests.storage.sqlite import released

RELEASED = Path(released.__file__).parent


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


def long_reader(work: Work, durability: Durability = "power") -> None:
    """The log cannot begin again: the store goes on in a copy of its file, in the middle of an upstream's window."""
    work.open(durability)
    work.add_cursor("central")
    work.put(Mixed, work.mixed(work.fresh(20, devices=1)))
    work.fold()
    work.reopen(durability=durability, keep_bytes="1 MB", fold_interval="1s")
    window = work.take("central", 10)
    work.outgrow()
    if window is not None:
        work.acknowledge("central", window)
    work.put(Mixed, work.mixed(work.again(20, devices=1)))
    work.put(Mixed, work.mixed(work.fresh(4)))


def long_reader_of_loose(work: Work) -> None:
    """The same where commits are not synced one by one."""
    long_reader(work, "process")


def long_log(work: Work) -> None:
    """It goes into the file beside what is stored meanwhile."""
    work.open("process" if work.rng.random() < 0.5 else "power", keep_bytes="1 MB", busy_timeout=0.001)
    work.outlast()
    work.put(Mixed, work.mixed(work.again(20, devices=1)))


def cut_by_another(work: Work) -> None:
    """Another program puts the log into the file and cuts it to nothing, after which it begins with any salt."""
    work.open("process" if work.rng.random() < 0.5 else "power", piece_rows=30)
    work.add_cursor("central")
    for step in range(6):
        work.put(Weather, work.weather(work.fresh(8)))
        work.cut_log()
        if step == 2:
            work.fold()
        work.put(Mixed, work.mixed(work.again(5, devices=1)))
        work.send("central", 9)
        if step % 2:
            work.put(Weather, work.weather(work.fresh(20)), wait=False)
            work.fold()
        if step == 3:
            work.reopen(piece_rows=30)
    work.put(Weather, work.weather(work.fresh(3)))


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


def put_away(work: Work) -> None:
    """Much of it is in the file alone from then on."""
    work.open(piece_rows=30)
    for _ in range(2):
        work.put(Weather, work.weather(work.fresh(20) + work.old(10, 400)))
        work.put(Mixed, work.mixed(work.fresh(10)))
        work.fold()


def retention(work: Work) -> None:
    """Old partitions go, of which something is owed; then pieces of the journal that nobody acknowledged."""
    work.open(piece_rows=30)
    for step in range(3):
        work.put(Weather, work.weather(work.fresh(15) + work.old(12, 500)))
        work.put(Mixed, work.mixed(work.fresh(8) + work.old(6, 200)))
        if step == 0:
            work.add_cursor("central")
        work.fold()
    work.send("central", 20)
    work.retain(30, keep={"weather": "300 days", "*": "90 days"})
    work.put(Weather, work.weather(work.fresh(15) + work.old(5, 100)))
    work.fold()
    work.retain(30, keep="100 days")
    work.put(Mixed, work.mixed(work.fresh(8)))
    work.fold()
    work.wait(days=80)
    work.retain(30, keep="50 days", keep_pending=False)
    work.put(Mixed, work.mixed(work.fresh(8)))
    work.send("central", 10)
    work.fold()


def thinning(work: Work) -> None:
    """Minutes of what waits become one reading each: of what no upstream has, or one has all and the other nothing."""
    work.open(piece_rows=30)
    work.add_cursor("central")
    work.add_cursor("quick")
    for step in range(3):
        work.put(Weather, work.weather(work.fresh(40, devices=1)))
        work.put(Mixed, work.mixed(work.fresh(20, devices=1)), wait=False)
        work.fold()
        if step == 1:
            work.send("quick", 200)
            work.send("central", 15)
        work.thin()
        work.put(Mixed, work.mixed(work.again(6, devices=1)))
    work.send("central", 40)
    work.fold()


def held(work: Work) -> None:
    """The machine starts without knowing the time, its clock is set once, and it is killed."""
    work.open(piece_rows=30)
    work.add_cursor("central")
    work.put(Weather, work.weather(work.fresh(10)))
    work.fold()
    work.reboot(piece_rows=30)
    for step in range(3):
        work.put_unstamped(Mixed, work.mixed(work.fresh(6)))
        work.put(Weather, work.weather(work.fresh(5)))
        if step == 1:
            work.send("central", 20)
            work.clock.step(7)
    os._exit(0)


def offset(work: Work) -> None:
    """What was held is placed where it must have been, or right, when the time is known."""
    work.clock.reboot(T0)
    work.open(piece_rows=30)
    work.put_unstamped(Mixed, work.mixed(work.fresh(6)))
    work.reboot(piece_rows=30)
    work.put_unstamped(Mixed, work.mixed(work.fresh(6)))
    work.put(Mixed, work.mixed(work.fresh(5)))
    work.trust()
    work.put_unstamped(Weather, work.weather(work.fresh(6)))
    work.fold()
    work.send("central", 20)
    work.put(Weather, work.weather(work.fresh(8)))
    work.fold()


def retype(work: Work) -> None:
    """A field that was int becomes float, in the journal and in several partitions; later a second one."""
    work.open(piece_rows=30)
    work.add_cursor("central")
    for step in range(3):
        work.put(COUNTS, work.tank(work.fresh(20) + work.old(8, 400), levels=int, counts=int))
        work.put(Mixed, work.mixed(work.fresh(4)), wait=False)
        if step < 2:
            work.fold()
    work.delete(COUNTS, "d1", T0, T0 + timedelta(seconds=90))
    work.send("central", 25, refuse=2)
    for step, (model, counts) in enumerate([(HALVES, int), (HALVES, int), (LEVELS, float), (LEVELS, float)]):
        work.put(model, work.tank(work.fresh(6) + work.again(6, devices=1), levels=float, counts=counts))
        if step % 2:
            work.put(Mixed, work.mixed(work.fresh(4)))
            work.fold()
        if step == 1:
            work.send("central", 40)
            work.reopen(piece_rows=30)
            work.put(HALVES, work.tank(work.fresh(9), levels=float, counts=int), wait=False)
    work.replay("central")
    work.send("central", 30)


def restored(work: Work) -> None:
    """A copy takes the store's place, which has got readings and acknowledgements since."""
    work.open(piece_rows=30)
    work.add_cursor("central")
    for step in range(3):
        work.put(Mixed, work.mixed(work.fresh(10)))
        work.send("central", 8)
        if step == 1:
            work.fold()
    work.backup()
    work.put(Mixed, work.mixed(work.again(10, devices=1)))
    work.send("central", 30, refuse=2)
    work.restore()
    work.open(piece_rows=30)
    work.put(Mixed, work.mixed(work.fresh(10) + work.again(5, devices=1)))
    work.send("central", 10)
    work.fold()


def upgrade(work: Work) -> None:
    """The last schema step, with more to write, on a file of the version before; and the program that wanted it."""
    connection = open_writer(work.path)
    prepare_writer(connection, full_sync=True)
    migrate(connection, {VERSION: _step})
    connection.close()
    fold(work)


def _step(connection: sqlite3.Connection) -> None:
    STEPS[VERSION](connection)
    connection.execute(f"CREATE TABLE {ADDED} (n INTEGER PRIMARY KEY, text)")
    connection.executemany(f"INSERT INTO {ADDED} VALUES (?, ?)", [(n, "n" * 500) for n in range(ADDED_ROWS)])
    connection.execute("ALTER TABLE _devices ADD COLUMN added")


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


def _damage(operations: list[Operation], rng: random.Random) -> Files:
    """The first pages of the file are junk."""
    *_, (_, last) = disks(operations)
    files = last.cut("kept", rng)
    lost = 4096 * rng.randint(1, 4)
    return {**files, "gateway.db": rng.randbytes(lost) + files["gateway.db"][lost:]}


def _of_an_earlier_version(operations: list[Operation], rng: random.Random) -> Files:
    """As its program left it."""
    dump = max(RELEASED.glob("*.sql"), key=lambda one: int(one.stem) if int(one.stem) < VERSION else 0)
    with closing(sqlite3.connect(":memory:")) as file:
        file.executescript(dump.read_text())
        return {"gateway.db": file.serialize()}


THEMES: dict[str, tuple[Part | Between, ...]] = {
    "ingest": (ingest,),
    "merge": (merge,),
    "fold": (fold,),
    "acknowledge": (acknowledge,),
    "delete": (delete,),
    "process": (process,),
    "retention": (retention,),
    "thinning": (thinning,),
    "offset": (held, offset),
    "retype": (retype,),
    "migration": (Between(_of_an_earlier_version), upgrade),
    "restore": (restored,),
    "salvage": (put_away, until_killed, Between(_damage), fold),
    "long reader": (long_reader, long_reader_of_loose),
    "long log": (long_log,),
    "cut log": (cut_by_another, cut_by_another),
    "killed": (until_killed, until_killed, fold),
    "cut twice": (until_killed, Between(_power_cut), until_killed, Between(_power_cut), fold),
}
"""Each theme is one or several processes, one after the other on the same folder."""
UNTIMED = {"offset"}
"""After these the machine does not know the time when it opens the store again."""


def main() -> None:
    theme, step, folder, seed, deeds = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:])
    work = Work(folder, seed + step, deeds)
    part = THEMES[theme][step]
    assert not isinstance(part, Between)
    part(work)
    work.close()


if __name__ == "__main__":
    main()
