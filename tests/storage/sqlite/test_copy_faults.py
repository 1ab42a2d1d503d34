"""A copy of a store's file that cannot be made or take its place, as the device does not let it; and processes that are
killed in the middle of that. In processes of their own, whose calls a preloaded shim refuses."""

import os
from pathlib import Path

import pytest

from tests.storage.sqlite.faulty import run_faulty
from tests.storage.sqlite.small_disk import SmallDisk

START = """
import ctypes, errno, logging, os, sys
from pathlib import Path
from edgedepot import StorageError
from edgedepot.storage.sqlite.aside import next_of
from edgedepot.storage.sqlite.connection import open_reader
from tests.models import Weather
from tests.storage.sqlite.audit import audit_memory
from tests.storage.sqlite.damaged import rows
from tests.storage.sqlite.test_left_behind import COUNT, Site, python
from tests.storage.sqlite.test_writer import advance_until

folder, shim = Path(sys.argv[1]), ctypes.CDLL(None)
path = folder / "x.db"

def fault(name, value):
    kind = ctypes.c_long if name in ("fault_inode", "fault_place", "fault_length") else ctypes.c_int
    if isinstance(value, bytes):
        kind = ctypes.c_char * (len(value) + 1)
    kind.in_dll(shim, name).value = value

def value(name):
    return ctypes.c_int.in_dll(shim, name).value

def fault_at(call, end, after):
    fault("fault_end", end.encode()), fault("fault_call", call.encode())
    fault("fault_calls", 0), fault("fault_after", after), fault("fault_once", 1)

def at_its_bound(durability="power"):
    site = Site(path, durability)
    for _ in range(9):
        site.put(100)  # most of it lies in the file
    return site

def fill(site):
    while site.log.st_size + 30 * 4096 <= site.bound:
        site.put(10)
"""

FAILING = f"""{START}
code, said, refused = getattr(errno, sys.argv[2]), [], []
where = [pair.split(":") for pair in sys.argv[3:]]

class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger("edgedepot").addHandler(Said())

def patiently(site):
    receipt = site.store.store_readings(Weather, rows(site.count, site.count + 10))
    site.count += 10
    advance_until(site.clock, lambda: not is_half(site) and receipt.level in ("committed", "durable"))

def is_half(site):
    if site.store.health_check()["status"] != "fail":
        return False
    try:  # the new file, with the old log
        open_reader(site.path).close()
    except StorageError as exc:
        refused.append(str(exc))
    return True

def attempt(call, end, after, reads=0):
    site = at_its_bound()
    reader = python(path)
    reader.say("BEGIN;")
    assert reader.ask(COUNT) == "900"
    fill(site)
    file = site.file
    fault_at(call, end, after)
    fault("fault_code", 0 if reads else code)
    fault("fault_inode", file if reads else 0), fault("fault_length", path.stat().st_size), fault("fault_reads", reads)
    went_on = lambda: site.file != file and "has grown" not in site.warning
    refused.clear()
    began = len(said)
    while site.log.st_size <= site.bound and not went_on():
        patiently(site)
    gave_up = lambda: any("no copy of it" in one for one in said[began:])
    advance_until(site.clock, lambda: not is_half(site) and (went_on() or gave_up()))
    failed = not value("fault_reads") if reads else not value("fault_code")
    # The folder's third sync is SQLite's, which makes nothing of it where it fails.
    is_late = call == "unlink" or (call + end == "sync" + folder.name and after < 2)
    assert bool(refused) == (failed and is_late), (call, end, after, refused)
    fault("fault_code", 0), fault("fault_reads", 0), fault("fault_end", b""), fault("fault_call", b"")
    advance_until(site.clock, lambda: site.store.health_check()["status"] == "pass")
    site.put(10)
    site.check()
    assert reader.ask(COUNT) == "900"
    if not went_on():
        assert site.file == file and not next_of(path).exists()
        site.clock.advance(700)
        while not went_on():
            patiently(site)
        site.put(10)
    site.check()
    assert reader.ask(COUNT) == "900"
    assert reader.ask("PRAGMA integrity_check;") == "ok"
    reader.end()
    site.close()
    again = Site(path)
    again.count = site.count
    assert (again.store.store_epoch, again.store.salvaged) == (1, None)
    again.check()
    again.close()
    for one in folder.iterdir():
        one.unlink()
    return failed

for call, end in where:
    after = 0
    while attempt(call, end or folder.name, after):
        after += 1 if call != "write" else 60
if code == errno.EIO:
    assert attempt("none", "none", 0, reads=1)
"""


@pytest.mark.parametrize("code", ["EIO", "ENOSPC"])
def test_a_copy_that_fails_takes_no_place(shim: Path, quick_folder: Path, code: str) -> None:
    """At every call, once: the reader sees its state, and the store has all, also when it is opened again."""
    where = ["open:.next", "write:.next", "sync:.next", "truncate:.next", "rename:.next"]
    where += ["sync:", "unlink:x.db-wal", "unlink:x.db-shm"]
    run_faulty(shim, quick_folder, FAILING, code, *where)


FULL = f"""{START}
disk = folder.parent
site = at_its_bound()
reader = python(path)
reader.say("BEGIN;")
assert reader.ask(COUNT) == "900"
fill(site)
gate, opened = os.pipe()
fault_at("write", ".next", 40)
fault("fault_gate", gate), fault("fault_code", 1)
file = site.file
while site.log.st_size <= site.bound:
    site.put(10)
advance_until(site.clock, lambda: value("fault_code") == 0)  # the copy is half written
with (disk / "filler").open("wb") as filler:
    room = os.statvfs(disk)
    os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_bsize)
receipt = site.store.store_readings(Weather, rows(site.count, site.count + 100))
site.count += 100
advance_until(site.clock, lambda: site.store.health_check()["status"] == "fail")
assert next_of(path).stat().st_size > 0
os.write(opened, b"x")
advance_until(site.clock, lambda: receipt.level == "durable")
assert not next_of(path).exists()
site.check()
(disk / "filler").unlink()
while site.file == file:
    site.put(10)
    site.clock.advance(1)
site.put(10)
site.check()
assert reader.ask(COUNT) == "900"
reader.end()
site.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_device_that_becomes_full_has_the_room_of_a_copy_on_its_way(shim: Path) -> None:
    with SmallDisk(4_000_000) as disk:
        run_faulty(shim, disk.path, FULL)


KILLED = f"""{START}
def work(tell, call, end, after, durability):
    site = at_its_bound(durability)
    reader = open_reader(path)
    reader.execute("BEGIN")
    reader.execute(COUNT).fetchone()
    fill(site)
    os.write(tell, b"%d " % site.count)
    fault_at(call, end, after)
    fault("fault_kill", 1), fault("fault_code", 1)
    for _ in range(1000):  # the call may come a moment after the file has its name
        site.put(10)
        os.write(tell, b"%d " % site.count)
        site.clock.advance(1)
    os._exit(0)

def check_killed(call, end, after):
    durability = "process" if after % 2 else "power"
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        work(tell, call, end, after, durability)
    os.close(tell)
    with open(told) as said:
        promised = int(said.read().split()[-1])
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), (call, end, after)
    site = Site(path, durability)
    site.count = len(site.store.query_readings(Weather))
    assert promised <= site.count <= promised + 10, (call, end, after)
    assert site.store.ledger().sources["direct"]["new"] == site.count
    assert (site.store.store_epoch, site.store.salvaged) == (1, None)
    assert not next_of(path).exists()
    site.check()
    site.put(10)
    site.close()
    for one in folder.iterdir():
        one.unlink()

for call, end, after in (place.split(":") for place in sys.argv[2:]):
    check_killed(call, end or folder.name, int(after))
"""


def test_a_process_that_is_killed_on_the_way_to_a_copy_leaves_all(shim: Path, quick_folder: Path) -> None:
    """Before each call that makes the copy and takes it over; what another process finds is all, and once."""
    where = ["open:.next:0", "open:.next:1", "write:.next:0", "write:.next:51", "sync:.next:0", "sync:.next:2"]
    where += ["rename:.next:0", "sync::0", "write:.lock:0", "sync:.lock:0", "unlink:x.db-wal:0", "unlink:x.db-shm:0"]
    where += ["sync::1", "write:.lock:1"]
    run_faulty(shim, quick_folder, KILLED, *where)


DAMAGED = f"""{START}
site = at_its_bound()
reader = python(path)
reader.say("BEGIN;")
assert reader.ask(COUNT) == "900"
fill(site)
gate, opened = os.pipe()
file = site.file
(root,) = reader.ask("SELECT rootpage FROM sqlite_schema WHERE name = '_meta';").split()
fault_at("unlink", "x.db-wal", 0)
fault("fault_gate", gate), fault("fault_code", 1)
while site.log.st_size <= site.bound:
    site.put(10)
receipt = site.store.store_readings(Weather, rows(site.count, site.count + 100))
advance_until(site.clock, lambda: value("fault_code") == 0)
assert site.file != file
whole = path.read_bytes()
with path.open("r+b") as copy:
    copy.seek((int(root) - 1) * 4096)
    copy.write(bytes(4096))
os.write(opened, b"x")
advance_until(site.clock, lambda: site.store.health_check()["status"] == "fail")
if sys.argv[2] == "for a moment":
    path.write_bytes(whole)
well = lambda: site.store.health_check()["status"] == "pass"
advance_until(site.clock, lambda: receipt.level == "durable" and well())
found = len(site.store.query_readings(Weather))
if sys.argv[2] == "for a moment":
    assert (found, site.store.salvaged) == (site.count + 100, None)
else:
    assert site.store.salvaged is not None
    assert found > site.count  # of what is in the other pages
assert reader.ask(COUNT) == "900"
reader.end()
audit_memory(site.store)
site.close()
"""


@pytest.mark.parametrize("how_long", ["for a moment", "for good"])
def test_a_copy_that_turns_out_damaged_is_salvaged(shim: Path, quick_folder: Path, how_long: str) -> None:
    """Once it has the store's name, and not when it is whole a moment later."""
    run_faulty(shim, quick_folder, DAMAGED, how_long)
