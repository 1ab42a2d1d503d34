"""The write-ahead log stays bounded while another program holds an old state: the store goes on in a copy of its file.
With real programs that read."""

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.sqlite.aside import next_of
from edgedepot.storage.sqlite.checkpoint import checkpoint, log_bytes
from edgedepot.storage.sqlite.connection import open_reader, open_writer, prepare_writer
from edgedepot.storage.sqlite.emptying import Index
from edgedepot.storage.sqlite.files import be_like
from edgedepot.storage.sqlite.left import Left
from edgedepot.storage.sqlite.log_length import AGAIN_SECONDS, LogLength
from edgedepot.storage.sqlite.names import names_of
from edgedepot.storage.sqlite.reserve import Reserve
from edgedepot.storage.sqlite.successor import Successor
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import rows
from tests.storage.sqlite.small_disk import SmallDisk
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_long_readers import BOTH, in_use
from tests.storage.sqlite.test_writer import advance_until

PYTHON = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
for statement in sys.stdin:
    try:
        for row in connection.execute(statement):
            print(*row, flush=True)
    except sqlite3.Error as exc:
        print(exc, flush=True)
connection.close()
"""
OURS = """
import sys
from edgedepot import SQLiteStorage
from tests.models import Weather
with SQLiteStorage(sys.argv[1], read_only=True) as store:
    for _ in sys.stdin:
        print(len(store.query_readings(Weather)), flush=True)
"""
WRITER = """
import sys
from pathlib import Path
from tests.storage.sqlite.test_left_behind import Site
site = Site(Path(sys.argv[1]), sys.argv[2])
for line in sys.stdin:
    site.until_left() if line == "until left\\n" else site.put(10)
    print(site.count, flush=True)
"""
CHECKPOINTING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 121)  # WAL_CKPT_LOCK
for _ in sys.stdin:
    print("locked", flush=True)
"""
COUNT = "SELECT count(*) FROM weather;"
LONGEST = 4 * 30 * 4096


class Program:
    """Another process, asked line by line."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    @classmethod
    def python(cls, program: str, *arguments: str) -> "Program":
        return cls(sys.executable, "-c", program, *arguments)

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, line: str) -> str:
        self.say(line)
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        """As a program that has read all that it was told: it closes what it has open."""
        self._process.communicate()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.communicate()


class Site:
    """A store with a log of 30 pages, so that what is tested of long ones takes little."""

    def __init__(self, path: Path, durability: Any = "power", **options: Any) -> None:
        self.path = path
        self.count = 0
        self.clock = ManualClock(T0)
        self.store = SQLiteStorage(
            path, gateway_id="roof", clock=self.clock, keep_bytes="1 MB", durability=durability, **options
        )
        assert self.store._writing is not None
        # A commit that had to wait for anybody would fail.
        self.store._writing._connection.execute("PRAGMA busy_timeout = 0")

    def put(self, count: int) -> None:
        self.store.store_readings(Weather, rows(self.count, self.count + count)).wait("committed")
        self.count += count

    @property
    def file(self) -> int:
        return self.path.stat().st_ino

    @property
    def log(self) -> os.stat_result:
        return self.path.with_name(self.path.name + "-wal").stat()

    @property
    def bound(self) -> int:
        """How large the log becomes, but for the commit that makes it too large and what comes while it is copied."""
        return max(LONGEST, self.path.stat().st_size)

    @property
    def warning(self) -> str:
        return str(self.store.health_check().get("warning", ""))

    def until_left(self) -> None:
        """Store readings until the store is in another file."""
        file = self.file
        while self.log.st_size <= self.bound:
            assert self.file == file, "it was left too early"
            self.put(10)
            self.clock.advance(1)
            assert self.log.st_size < self.bound + 30 * 4096
        advance_until(self.clock, lambda: self.file != file and "has grown" not in self.warning)
        assert self.log.st_size < LONGEST

    def check(self) -> None:
        """Everything is there, once."""
        found = self.store.query_readings(Weather, order="timestamp")
        assert [row["count"] for row in found] == list(range(self.count))
        assert self.store.ledger().problems == []
        audit_memory(self.store)

    def close(self) -> None:
        self.store.close()
        audit_file(self.path)


@pytest.fixture(params=["power", "process"])
def site(request: pytest.FixtureRequest, quick_folder: Path) -> Iterator[Site]:
    opened = Site(quick_folder / "x.db", request.param)
    opened.put(100)
    yield opened
    opened.close()


def shell(path: Path) -> Program:
    """SQLite's own, which says each answer when it has it."""
    found = shutil.which("sqlite3")
    if found is None:
        pytest.skip("needs the sqlite3 shell: apt-get install sqlite3")
    return Program("stdbuf", "-oL", found, str(path))


def python(path: Path) -> Program:
    return Program.python(PYTHON, str(path))


@pytest.mark.parametrize("reader_of", [shell, python])
def test_a_long_reader_is_left_behind_with_the_old_file(
    site: Site, reader_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It sees what it saw, the log is short again, and its end touches nothing of the store."""
    site.store.add_cursor("central")
    site.store.flush()
    window = site.store.pending("central", 60)
    reader, late, ours = reader_of(site.path), python(site.path), Program.python(OURS, str(site.path))
    reader.say("BEGIN;")
    assert reader.ask(COUNT) == "100"
    assert ours.ask("") == "100"
    site.until_left()
    assert f"process {reader.pid} (" in site.warning
    assert "has an older file of this store open" in site.warning
    assert f"process {late.pid} (" in site.warning
    assert "went" not in caplog.text
    assert sum("write-ahead log has grown" in one.message for one in caplog.records) == 1
    site.check()
    assert ours.ask("") == str(site.count)
    assert reader.ask(COUNT) == "100"
    assert reader.ask("PRAGMA integrity_check;") == "ok"
    assert window is not None
    site.store.acknowledge("central", window)  # it was out before
    assert late.ask(COUNT) == "database is locked"  # it had opened the old file, and not read yet
    late.end()
    second = python(site.path)
    second.say("BEGIN;")
    seen = second.ask(COUNT)
    assert seen == str(site.count)
    site.until_left()  # once more
    assert second.ask(COUNT) == seen
    assert reader.ask(COUNT) == "100"
    site.put(10)
    log = site.log
    for program in (reader, second):
        program.say("COMMIT;")
        program.end()
    assert (site.log.st_ino, site.log.st_size) == (log.st_ino, log.st_size)
    assert ours.ask("") == str(site.count)
    advance_until(site.clock, lambda: site.warning == "")
    ours.end()
    site.check()
    assert site.store.ledger().upstreams["central"]["delivered"] == 60
    site.store.fold()
    site.check()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_killed_process_leaves_it_whole(quick_folder: Path, durability: str) -> None:
    """With the reader of the old file still there, and its end afterwards."""
    path = quick_folder / "x.db"
    writer = Program.python(WRITER, str(path), durability)
    writer.ask("put")
    reader = python(path)
    reader.say("BEGIN;")
    assert reader.ask(COUNT) == "10"
    writer.ask("until left")
    count = int(writer.ask("put"))
    writer.kill()
    next_of(path).write_bytes(b"half a copy")
    with SQLiteStorage(path, gateway_id="roof") as store:
        assert not next_of(path).exists()
        assert len(store.query_readings(Weather)) == count
        assert (store.store_epoch, store.salvaged) == (1, None)
        store.store_readings(Weather, rows(count, count + 10)).wait()
        assert reader.ask(COUNT) == "10"
        reader.end()
        assert len(store.query_readings(Weather)) == count + 10
        audit_memory(store)
    audit_file(path)
    with SQLiteStorage(path, gateway_id="roof") as store:
        assert len(store.query_readings(Weather)) == count + 10


def test_a_long_query_of_this_process_is_left_behind_too(site: Site) -> None:
    assert site.store._writing is not None
    with site.store._readers.lend() as connection:
        (seen,) = connection.execute(COUNT).fetchone()
        site.until_left()
        assert site.warning.startswith("this process has an older file")
        assert connection.execute(COUNT).fetchone() == (seen,)
        site.check()
    advance_until(site.clock, lambda: site.warning == "")


def test_a_file_that_everybody_has_closed_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    left = Left((tmp_path / "x.db").stat(), 12_000_000)
    assert str(left) == "nobody has the older file open any more, which took 12 MB"


@pytest.mark.parametrize("durability", ["power", "process"])
def test_readers_that_take_turns_keep_the_log_within_its_bounds(quick_folder: Path, durability: str) -> None:
    """Each begins before the one before ends, and reads for longer than anybody waits."""
    site = Site(quick_folder / "x.db", durability, busy_timeout=0.001)
    site.put(10)
    file, left = site.file, 0
    reader = reading(site)
    while left < 2:
        site.put(10)
        site.clock.advance(1)
        assert site.log.st_size < 2 * site.bound + 30 * 4096
        after = reading(site)
        reader.close()
        reader = after
        left, file = left + (site.file != file), site.file
    site.check()
    reader.close()
    site.close()


def reading(site: Site) -> sqlite3.Connection:
    """In the middle of it."""
    reader = open_reader(site.path)
    reader.execute("BEGIN")
    assert reader.execute(COUNT).fetchone() == (site.count,)
    return reader


@contextmanager
def member_of(user: int, group: int) -> Iterator[None]:
    """This process as another user, of that group beside its own."""
    before = os.getgroups()
    os.setgroups([group])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o660, 0o644])
@pytest.mark.parametrize("is_member", [True, False])
def test_the_file_stays_of_its_group(quick_folder: Path, mode: int, is_member: bool) -> None:
    """Who is in it reads what somebody else's process writes."""
    path = quick_folder / "x.db"
    path.touch()
    os.chown(path, 1001, 2000)
    path.chmod(mode)
    other = path.stat()
    with (quick_folder / "next").open("wb") as file:
        os.chown(file.fileno(), 1002, 1002)
        with member_of(1002, 2000 if is_member else 2001):
            if mode == 0o660 and not is_member:
                with pytest.raises(OSError, match="the group of the file, 2000, cannot be given to another"):
                    be_like(file.fileno(), other)
                return
            be_like(file.fileno(), other)
        found = os.fstat(file.fileno())
    assert (found.st_uid, found.st_gid) == (1002, 2000 if is_member else 1002)
    assert found.st_mode & 0o777 == mode


def test_who_is_called_back_may_wait_for_a_reader(quick_folder: Path) -> None:
    """Also in the moment when the file gets its new name, in which all is synced."""
    site = Site(quick_folder / "x.db", "process")
    lock, found = names_of(site.path).lock, list[bool]()

    def look() -> None:
        found.append(lock.acquire(blocking=False))
        if found[-1]:
            lock.release()

    def called() -> None:
        looking = threading.Thread(target=look)
        looking.start()
        looking.join()

    file = site.file
    with closing(site.store), closing(open_reader(site.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM _meta").fetchone()
        while site.file == file:
            site.store.store_readings(Weather, rows(site.count, site.count + 50)).then(called)
            site.put(50)
            site.clock.advance(0.2)
    assert len(found) > 1
    assert all(found)


def test_a_fold_goes_on_in_the_other_file(quick_folder: Path) -> None:
    """One that takes many steps, and the log grows by it alone."""
    site = Site(quick_folder / "x.db", piece_rows=200)
    reader = python(site.path)
    site.put(2000)
    reader.say("BEGIN;")
    reader.ask(COUNT)
    site.until_left()
    assert in_use(site.store) == BOTH
    site.store.fold()
    site.check()
    reader.end()
    site.close()


def test_where_a_copy_cannot_be_made_the_log_grows_on(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Readings go on to be stored; it is tried again, not at once."""
    next_of(site.path).mkdir()
    reader = python(site.path)
    reader.say("BEGIN;")
    reader.ask(COUNT)
    file, bound = site.file, site.bound
    while site.log.st_size < 2 * bound:
        site.put(10)
        site.clock.advance(1)
    said = [one.message for one in caplog.records if "no copy of it could be made" in one.message]
    assert len(said) == 1
    assert site.file == file
    assert f"process {reader.pid} (" in site.warning
    next_of(site.path).rmdir()
    site.clock.advance(AGAIN_SECONDS)
    advance_until(site.clock, lambda: site.file != file)
    site.check()
    reader.end()


def test_without_room_for_a_copy_it_is_said_and_nothing_is_lost() -> None:
    with SmallDisk(4_000_000) as disk:
        site = Site(disk.path / "x.db")
        site.put(1000)
        reader = python(site.path)
        reader.say("BEGIN;")
        reader.ask(COUNT)
        file = site.file
        disk.fill(leave=LONGEST // 4096 + 40)
        while "free: end it" not in site.warning:
            site.put(10)
            site.clock.advance(1)
        assert f"process {reader.pid} (" in site.warning
        site.put(10)
        assert (site.file, next_of(site.path).exists()) == (file, False)
        reader.end()
        advance_until(site.clock, lambda: site.warning == "")
        assert site.log.st_size < LONGEST
        site.check()
        site.close()


def test_a_copy_of_a_log_that_began_anew_is_none(quick_folder: Path) -> None:
    """What was committed since would not be in it. (A reader of the newest state, with all of the log in the file, does
    not keep the log from beginning anew: no copy is begun then.)"""
    path, ready = quick_folder / "x.db", threading.Event()
    with closing(open_writer(path)) as connection:
        prepare_writer(connection, full_sync=True)
        connection.execute("CREATE TABLE t (n)")
        frames = checkpoint(connection, "PASSIVE").frames
        successor = Successor(path, frames, ready.set)
        ready.wait()
        connection.execute("INSERT INTO t VALUES (1)")
        now = checkpoint(connection, "PASSIVE")
        assert now.frames < frames
        with pytest.raises(OSError, match="began anew"):
            successor.catch_up(now.frames)
        successor.close()
    assert not next_of(path).exists()


class Held:
    """A store's file whose log a reader keeps, and what is done about it, but for going on in a copy."""

    def __init__(self, path: Path, patience: float = 0.001, most: float = math.inf) -> None:
        self.path, self.clock = path, ManualClock(T0)
        self.connection, self.done = open_writer(path), threading.Event()
        prepare_writer(self.connection, full_sync=True)
        self.connection.execute("PRAGMA wal_autocheckpoint = 30")
        self.connection.execute("CREATE TABLE t (n)")
        self.length = LogLength(path, self.clock, Reserve(path, 30), patience, most)
        self.waited = 0
        self.is_waiting = threading.Event()
        self._waiting = f"PRAGMA busy_timeout = {round(patience * 1000)}"
        self.connection.set_trace_callback(self._trace)
        self.reader = self.reading()

    def _trace(self, statement: str) -> None:
        if statement == self._waiting:
            self.waited += 1
            self.is_waiting.set()

    def reading(self) -> sqlite3.Connection:
        reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        return reader

    def pass_on(self) -> None:
        """Another begins to read before the one before ends."""
        after = self.reading()
        self.reader.close()
        self.reader = after

    def relay(self, size: int) -> None:
        """Grow, read by one after the other."""
        for _ in range(0, size, 40_000):
            self.pass_on()
            self.grow(40_000)

    @contextmanager
    def passing_on(self) -> Iterator[None]:
        """From when somebody waits for them on, until the log is cut."""
        is_over = threading.Event()

        def run() -> None:
            self.is_waiting.wait()
            while not (self.is_cut or is_over.is_set()):
                self.pass_on()

        thread = threading.Thread(target=run)
        thread.start()
        yield
        is_over.set()
        self.is_waiting.set()
        thread.join()

    def heir(self) -> Successor | None:
        assert self.done.wait(30)
        return self.length.heir(self.connection, lambda: None)

    def grow(self, size: int) -> None:
        until = log_bytes(self.path) + size
        while log_bytes(self.path) < until:
            self.connection.execute("INSERT INTO t VALUES (zeroblob(9000))")

    @property
    def is_cut(self) -> bool:
        return log_bytes(self.path) < 10 * 4096

    def look(self) -> None:
        self.clock.advance(11)
        self.length.look(self.connection, self.done.set)
        for thread in threading.enumerate():
            if thread.name == "edgedepot-emptying":
                thread.join()
        self.length.look(self.connection, self.done.set)

    def copies(self) -> bool:
        return next_of(self.path).exists()

    def close(self) -> None:
        self.length.let_go()
        self.reader.close()
        self.connection.close()


@pytest.fixture
def held(quick_folder: Path) -> Iterator[Held]:
    opened = Held(quick_folder / "x.db")
    opened.grow(LONGEST + 40_000)
    opened.look()
    yield opened
    opened.close()


@pytest.fixture
def patient(quick_folder: Path) -> Iterator[Held]:
    """Which waits for longer than anybody reads."""
    opened = Held(quick_folder / "x.db", 600)
    yield opened
    opened.close()


def test_readers_that_come_and_go_are_waited_for(patient: Held) -> None:
    """There is one at any time."""
    patient.relay(LONGEST + 40_000)
    with patient.passing_on():
        patient.look()
    assert (patient.waited, patient.is_cut, patient.length.warning) == (1, True, None)
    assert not patient.copies()


def test_a_reader_that_stays_is_not_waited_for(held: Held) -> None:
    """But for one that came while others did and went: once, and no commit waits for it again."""
    for _ in range(3):
        held.grow(10_000)
        held.look()
    assert (held.waited, held.copies()) == (0, True)
    assert held.done.wait(30)
    held.length.drop()
    held.pass_on()
    held.look()
    assert held.waited == 1
    for _ in range(3):
        held.look()
        held.grow(10_000)
    assert held.waited == 1
    held.reader.close()
    held.look()
    assert (held.is_cut, held.waited) == (True, 1)


def test_where_readers_that_take_turns_end_in_time_a_copy_is_needless(patient: Held) -> None:
    patient.grow(LONGEST + 40_000)
    patient.look()
    assert patient.copies()
    patient.relay(80_000)
    with patient.passing_on():
        assert patient.heir() is None
    assert (patient.waited, patient.is_cut, patient.copies()) == (1, True, False)
    patient.look()
    assert patient.length.warning is None


def test_readers_that_take_turns_for_longer_keep_the_old_file(held: Held) -> None:
    """They would have one copy after the other be made in vain."""
    held.relay(80_000)
    heir = held.heir()
    assert heir is not None
    assert heir.is_in_place
    assert held.waited == 1
    (count,) = held.connection.execute("SELECT count(*) FROM t").fetchone()
    heir.take_place(lambda: None)
    held.length.inherited()
    with closing(open_writer(held.path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (count,)
    assert held.reader.execute("SELECT count(*) FROM t").fetchone()[0] < count


def test_no_log_becomes_so_long_that_a_card_takes_long_to_empty_it(quick_folder: Path) -> None:
    """However large the file is."""
    held = Held(quick_folder / "x.db", most=LONGEST + 200_000)
    held.connection.execute("INSERT INTO t VALUES (zeroblob(4000000))")
    held.reader.close()
    held.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    held.reader = held.reading()
    held.grow(LONGEST + 40_000)
    held.look()
    assert not held.copies()
    held.grow(200_000)
    held.look()
    assert held.copies()
    held.close()


def test_a_reader_leaves_no_commit_more_to_do_than_callers_wait_for(quick_folder: Path) -> None:
    """They wait for less than a card takes for a log that is not too long yet: what has gathered goes into the file
    beside the commits, as with longer ones."""
    site = Site(quick_folder / "x.db", busy_timeout=0.001)
    site.put(100)
    reader = python(site.path)
    reader.say("BEGIN;")
    assert reader.ask(COUNT) == "100"
    index = Index(site.path)
    while index.read().frames - index.read().copied <= 30:
        site.put(10)
    assert site.log.st_size < LONGEST
    advance_until(site.clock, lambda: f"process {reader.pid} (" in site.warning)
    reader.end()
    before = index.read()
    for _ in range(3):
        site.put(10)
    assert index.read().copied == before.copied
    advance_until(site.clock, lambda: site.warning == "" and index.read().frames < 10)
    site.check()
    site.close()


def test_a_copy_in_vain_is_made_again_when_as_much_was_logged(held: Held) -> None:
    """Once: then it is known that others come before the older ones end."""
    assert held.copies()
    assert held.done.wait(30)
    size = next_of(held.path).stat().st_size
    held.grow(20_000)
    held.pass_on()
    held.grow(20_000)
    held.look()
    assert not held.copies()
    held.grow(size - 80_000)
    held.look()
    assert not held.copies()
    held.grow(100_000)
    held.look()
    assert held.copies()
    held.relay(40_000)
    held.look()
    assert held.copies()


def test_the_room_of_a_copy_is_given_back_where_it_is_wanted(held: Held) -> None:
    held.length.drop()
    held.look()
    assert not held.copies()
    assert held.length.due_at is not None
    assert held.length.due_at > held.clock.monotonic()


def test_while_another_program_moves_the_log_the_writer_rests(held: Held) -> None:
    assert held.done.wait(30)
    assert held.length.expects_heir
    shm = held.path.with_name("x.db-shm")
    other = Program.python(CHECKPOINTING, str(shm))
    other.ask("")
    assert held.length.heir(held.connection, lambda: None) is None
    assert held.length.due_at is not None
    assert held.length.due_at > held.clock.monotonic()
    other.end()
    held.clock.advance(1)
    assert held.length.expects_heir


def test_a_log_that_another_program_cuts_is_long_no_more(quick_folder: Path) -> None:
    """Found long at opening, when commits are kept from putting it into the file."""
    held = Held(quick_folder / "x.db")
    held.grow(LONGEST + 40_000)
    held.reader.close()
    held.length.begin(held.connection)
    with closing(open_writer(held.path)) as other:
        assert checkpoint(other, "TRUNCATE").is_whole
    held.look()
    for _ in range(60):
        held.connection.execute("INSERT INTO t VALUES (zeroblob(9000))")
        assert log_bytes(held.path) < LONGEST // 2
    held.close()


def test_a_copy_that_turns_out_needless_while_the_log_is_synced_takes_no_place(held: Held) -> None:
    """To sync is to look, where a sync has failed before."""
    assert held.done.wait(30)
    file = held.path.stat().st_ino

    def sync() -> None:
        held.reader.close()
        with closing(open_writer(held.path)) as other:
            checkpoint(other, "PASSIVE")
        held.look()

    assert held.length.heir(held.connection, sync) is None
    assert held.path.stat().st_ino == file
    assert not held.copies()
    held.look()
    assert held.is_cut


def test_a_file_that_is_mounted_by_itself_is_not_copied(quick_folder: Path) -> None:
    path = quick_folder / "x.db"
    path.touch()
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        held = Held(path)
        held.grow(LONGEST + 40_000)
        held.look()
        assert not held.copies()
        assert "mounted by itself" in str(held.length.warning)
        held.close()
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
