"""A long log goes into the file beside the commits, once those that kept it from that have ended; also where the device
does not let it, in processes of their own, whose calls a preloaded shim makes wait or refuses."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgedepot.storage.sqlite.checkpoint import checkpoint, cut, keep_out, log_bytes
from edgedepot.storage.sqlite.connection import open_reader, open_writer, prepare_writer
from edgedepot.storage.sqlite.emptying import Emptying, Index
from edgedepot.storage.sqlite.log_length import PORTION
from tests.storage.sqlite.faulty import run_faulty
from tests.storage.sqlite.test_copy_faults import START

HELD = f"""{START}
import shutil
from edgedepot.storage.sqlite.checkpoint import log_bytes
from edgedepot.storage.sqlite.log_length import AGAIN_SECONDS
from edgedepot.storage.sqlite.wal import wal_of
from tests.storage.sqlite.test_left_behind import LONGEST

def held(size, durability="power"):
    \"\"\"A store whose log is long by a reader, and that cannot go on in a copy.\"\"\"
    next_of(path).mkdir()
    site = Site(path, durability, busy_timeout=0.001)
    site.put(900)
    reader = python(path)
    reader.say("BEGIN;")
    assert reader.ask(COUNT) == "900"
    while site.log.st_size < size:
        site.put(100)
    advance_until(site.clock, lambda: "write-ahead log" in site.warning)
    assert f"process {{reader.pid}} (" in site.warning
    return site, reader

def until_short(site):
    well = lambda: site.store.health_check()["status"] == "pass"
    advance_until(site.clock, lambda: site.warning == "" and site.log.st_size < LONGEST and well())
    for _ in range(50):  # with no look at it
        site.put(50)
    assert site.log.st_size < LONGEST
    site.check()
"""

WAITING = f"""{HELD}
def put(count):
    receipt = site.store.store_readings(Weather, rows(site.count, site.count + count))
    site.count += count
    advance_until(site.clock, lambda: receipt.level in ("committed", "durable"))
    return receipt

def fail_a_sync():
    fault("fault_syncs", 1)
    put(10)
    advance_until(site.clock, lambda: value("fault_syncs") == 0)
    advance_until(site.clock, lambda: "its log could not be synced" in site.store.health_check()["message"])

how = sys.argv[2]
site, reader = held(3 * LONGEST, "process" if how == "unsynced" else "power")
if how == "unsynced":
    fail_a_sync()
if how == "left":  # by a killed process
    (folder / "left").mkdir()
    for one in (path, wal_of(path)):
        shutil.copy(one, folder / "left")
    count = site.count
    site.store.close()
gate, opened = os.pipe()
fault_at("write", "x.db", 1)
fault("fault_gate", gate), fault("fault_code", 1)
if how == "left":
    site = Site(folder / "left" / "x.db", busy_timeout=0.001)
    site.count = count
    put(10)
reader.end()
advance_until(site.clock, lambda: value("fault_code") == 0)  # the log is half in the file
for _ in range(20):
    last = put(10)
if how != "left":
    advance_until(site.clock, lambda: "goes into the file now" in site.warning)
os.write(opened, b"x")
until_short(site)
advance_until(site.clock, lambda: last.level == "durable")
site.close()
"""


@pytest.mark.parametrize("how", ["held", "unsynced", "left"])
def test_commits_go_on_while_a_long_log_goes_into_the_file(shim: Path, quick_folder: Path, how: str) -> None:
    """Also after a sync of it that failed, when all of it has to be there before readings are durable; and where it was
    found when the store was opened."""
    run_faulty(shim, quick_folder, WAITING, how)


FAILING = f"""{HELD}
call, code, size, then = sys.argv[2], getattr(errno, sys.argv[3]), int(sys.argv[4]), sys.argv[5]
site, reader = held(size)
log = site.log.st_size
fault_at(call, "x.db", 3 if call == "write" else 0)
fault("fault_code", code)
reader.end()
advance_until(site.clock, lambda: "cannot be put into the file" in site.warning)
assert value("fault_code") == 0
assert site.store.health_check()["status"] == "pass"
for _ in range(20):
    site.put(10)
    site.clock.advance(1)
assert site.log.st_size >= log
fault("fault_calls", 0), fault("fault_code", 0), fault("fault_call", b"write")
if then == "closed":
    site.close()
    assert log_bytes(path) == 0
    written = value("fault_calls")
else:
    site.clock.advance(AGAIN_SECONDS)
    advance_until(site.clock, lambda: site.log.st_size < LONGEST)
    written = value("fault_calls")
    until_short(site)
    site.close()
assert written > path.stat().st_size / 4096 / 2  # most of it was written once more
again = Site(path)
again.count = site.count
assert (again.store.store_epoch, again.store.salvaged) == (1, None)
again.store.fold()  # which begins by itself: nothing may be under way
again.check()
again.close()
"""


@pytest.mark.parametrize(
    ("call", "code", "pages", "then"),
    [
        ("write", "EIO", 300, "tried again"),
        ("write", "ENOSPC", 300, "tried again"),
        ("sync", "EIO", 300, "tried again"),  # SQLite's own
        ("sync", "EIO", 1100, "tried again"),  # that of a portion
        ("sync", "EIO", 1100, "closed"),
    ],
)
def test_a_log_that_could_not_be_put_into_the_file_stays(
    shim: Path, quick_folder: Path, call: str, code: str, pages: int, then: str
) -> None:
    """Readings go on to be stored, and it is tried again, not at once."""
    run_faulty(shim, quick_folder, FAILING, call, code, str(pages * 4096), then)


class Long:
    """A store's file with a log of some thousand pages."""

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, threading.Event()
        self.connection = open_writer(path)
        prepare_writer(self.connection, full_sync=False)
        keep_out(self.connection)
        self.connection.execute("CREATE TABLE t (n)")
        self.count = 0

    def grow(self, pages: int) -> None:
        """Of four pages each."""
        for _ in range(pages // 4):
            self.connection.execute("INSERT INTO t VALUES (zeroblob(12000))")
            self.count += 1

    def reading(self) -> sqlite3.Connection:
        reader = open_reader(self.path)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (self.count,)
        return reader

    def emptied(self) -> Emptying:
        """Until it has ended."""
        emptying = Emptying(self.path, PORTION, self.done.set)
        assert self.done.wait(30)
        self.done.clear()
        assert emptying.failure is None
        return emptying

    def check(self) -> None:
        assert self.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with closing(self.reading()):
            pass


@pytest.fixture
def long(quick_folder: Path) -> Iterator[Long]:
    opened = Long(quick_folder / "x.db")
    opened.grow(3500)
    yield opened
    opened.check()
    opened.connection.close()


def test_it_goes_in_portions_up_to_where_somebody_reads(long: Long) -> None:
    reader = long.reading()
    seen, at = long.count, Index(long.path).read().frames
    long.grow(2500)
    with closing(long.emptied()) as emptying:
        assert emptying.copied == at
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (seen,)
    reader.close()
    there = Index(long.path).read().frames
    with closing(long.emptied()) as emptying:
        long.grow(40)  # it does not begin anew
        found = Index(long.path).read()
        assert (found.copied, emptying.copied) == (there, there)
        assert found.frames > there > at
    assert cut(long.connection).is_whole
    assert log_bytes(long.path) < 10 * 4096


def test_those_who_begin_meanwhile_may_share_the_mark_of_ours(long: Long) -> None:
    """As where the index has no other left for them. What they see stays."""
    others = []
    for _ in range(3):
        others.append(long.reading())
        long.grow(40)
    with closing(long.emptied()) as emptying:
        long.grow(40)
        late = long.reading()
        seen = long.count
        long.grow(40)
        for one in others:
            one.close()
        emptying.go_on()
        assert long.done.wait(30)
        assert emptying.copied == Index(long.path).read().copied
        assert late.execute("SELECT count(*) FROM t").fetchone() == (seen,)
        late.close()


def test_where_the_index_has_no_mark_left_it_has_to_wait(long: Long) -> None:
    readers = []
    for _ in range(4):
        readers.append(long.reading())
        long.grow(40)
    with pytest.raises(OSError, match="as many as its index has room for"):
        Emptying(long.path, PORTION, long.done.set)
    for one in readers:
        one.close()
    long.emptied().close()


def test_a_log_that_is_in_the_file_is_left_alone(long: Long) -> None:
    checkpoint(long.connection, "PASSIVE")
    with pytest.raises(OSError, match="all of it is in the file"):
        Emptying(long.path, PORTION, long.done.set)
