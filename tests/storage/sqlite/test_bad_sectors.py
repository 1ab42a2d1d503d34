"""A device that does not give back what was written, for a moment or for good, and one that could not write it: in a
process of its own, whose calls a preloaded shim refuses."""

from pathlib import Path

import pytest

from tests.storage.sqlite.faulty import run_faulty

START = """
import ctypes, logging, shutil, sys, threading
from contextlib import suppress
from pathlib import Path
from edgedepot import SQLiteStorage, StorageError
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.sqlite.aside import move
from edgedepot.storage.sqlite.sidecar import Sidecar
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import readings, rows
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until

folder = Path(sys.argv[1])
path, clock, shim = folder / "x.db", ManualClock(T0), ctypes.CDLL(None)

def opened(**settings):
    return SQLiteStorage(path, gateway_id="roof", clock=clock, piece_rows=60, **settings)

def fault(name, value):
    kind = ctypes.c_long if name in ("fault_inode", "fault_place", "fault_length") else ctypes.c_int
    kind.in_dll(shim, name).value = value

def left_in_time(action):
    found = []
    doing = threading.Thread(target=lambda: found.append(action()))
    doing.start()
    advance_until(clock, lambda: not doing.is_alive())
    return found[0]

"""

FILLED = """
with opened() as store:
    store.add_cursor("central")
    for first in range(0, 1200, 100):
        store.store_readings(Weather, rows(first, first + 100)).wait()
    store.fold()
    store.store_readings(Weather, rows(1200, 1300)).wait()
    before = readings(store)
assert len(before) == 1300
pages = path.stat().st_size // 4096
"""

PASSING = f"""{START}{FILLED}
fault("fault_length", path.stat().st_size), fault("fault_inode", path.stat().st_ino)
asked = 0
for number in range(1, 60, 3):  # so many reads fail, and then no more
    with suppress(StorageError):
        store = left_in_time(opened)
        fault("fault_reads", number % 5)
        with suppress(StorageError):
            readings(store)
            asked += 1
        receipt = store.store_readings(Weather, rows(1300, 1301))
        advance_until(clock, lambda: receipt.level == "durable" and store.health_check()["status"] == "pass")
        assert store.salvaged is None
        assert len(readings(store)) == 1301
        left_in_time(store.close)
    fault("fault_reads", number % 4 * 4)  # while it opens
assert not list(folder.glob("*damaged*")), list(folder.glob("*damaged*"))
fault("fault_reads", 0)
audit_file(path)
"""


def test_what_cannot_be_read_for_a_moment_has_nothing_salvaged(shim: Path, quick_folder: Path) -> None:
    run_faulty(shim, quick_folder, PASSING)


LEFT = f"""{START}{FILLED}
with opened() as store:
    store.store_readings(Weather, rows(1300, 1400)).wait()
    left = [(one.name, one.read_bytes()) for one in folder.iterdir()]
    before = readings(store)
for interrupted in (False, True):
    for suffix in ("", "-wal", ".catalogue"):
        for reads in (1, 5, 12):
            path = folder / f"{{interrupted}} {{suffix}} {{reads}}" / "x.db"
            path.parent.mkdir()
            for name, content in left:
                (path.parent / name).write_bytes(content)
            if interrupted:
                Sidecar(path).mark(("salvaging", "x.db.damaged-1"))
                move(path, path.with_name("x.db.damaged-1"))
            bad = path.with_name(path.name + suffix)
            if bad.exists():
                bad_length, bad_file = bad.stat().st_size, bad.stat().st_ino
                fault("fault_place", 0), fault("fault_length", bad_length), fault("fault_inode", bad_file)
                fault("fault_reads", reads)
            with left_in_time(opened) as store:
                fault("fault_reads", 0)
                assert readings(store) == before, path
                assert (store.salvaged is None) != interrupted, (path, store.salvaged)
"""


def test_what_cannot_be_read_for_a_moment_while_it_opens_is_there(shim: Path, quick_folder: Path) -> None:
    """After a process that was killed, and after one that was killed in a salvage."""
    run_faulty(shim, quick_folder, LEFT)


FOR_GOOD = f"""{START}{FILLED}
while_open = sys.argv[2] == "open"
salvages, losses, seen = 0, 0, []

def look():
    with suppress(StorageError):
        seen.append((readings(store), store.ledger().problems, store.salvaged))
    return bool(seen)

for page in range(1, pages + 1, int(sys.argv[3])):
    shutil.copytree(folder, whole := folder.with_name(folder.name + "-whole"))
    fault("fault_place", 4096 * (page - 1)), fault("fault_length", 4096), fault("fault_inode", path.stat().st_ino)
    if not while_open:
        fault("fault_reads", -1)
    store = left_in_time(opened)
    fault("fault_reads", -1)
    advance_until(clock, look)  # whoever comes upon it first
    after, problems, report = seen.pop()
    assert after.items() <= before.items()
    salvages += report is not None
    if len(after) < len(before):
        losses += 1
        assert report is not None and report.lost >= len(before) - len(after), (page, report)
        assert len(before) - len(after) <= 130, (page, report)  # one page's
    receipt = store.store_readings(Weather, rows(1300, 1310))
    advance_until(clock, lambda: receipt.level == "durable")
    assert problems == store.ledger().problems == []
    fault("fault_reads", 0)  # the audit reads what nobody has read yet
    audit_memory(store)
    left_in_time(store.close)
    shutil.rmtree(folder), whole.rename(folder)
print(salvages, losses)
"""


@pytest.mark.parametrize("when", ["open", "opening"])
def test_of_a_sector_that_is_gone_the_rest_is_kept(shim: Path, quick_folder: Path, when: str) -> None:
    """Each page of the file in turn, found bad by whoever reads it or already at opening."""
    folder = quick_folder / "store"
    folder.mkdir()
    salvages, losses = (int(word) for word in run_faulty(shim, folder, FOR_GOOD, when, "2").split())
    assert salvages > 5
    assert losses > 0  # what is in the journal too is not lost


UNSYNCED = f"""{START}
alone = folder / "alone.db"
with opened(durability="process", sync_interval=30.0) as store:
    store.store_readings(Weather, rows(0, 100)).wait()
    fault("fault_syncs", 2 if sys.argv[2] == "twice" else 1)
    receipt = store.store_readings(Weather, rows(100, 200))
    waiting = threading.Thread(target=receipt.wait, args=("durable",))
    waiting.start()
    advance_until(clock, lambda: store.health_check()["status"] == "fail")
    assert "Input/output error" in store.health_check()["message"]
    assert receipt.level == "committed"
    advance_until(clock, lambda: receipt.level == "durable")
    shutil.copy(path, alone)  # the log is not to be relied on any more: the file has it all without
    advance_until(clock, lambda: store.health_check()["status"] == "pass")
    receipt = store.store_readings(Weather, rows(200, 300))
    left_in_time(lambda: receipt.wait("durable"))
with SQLiteStorage(alone, read_only=True) as store:
    assert len(readings(store)) == 200
audit_file(path)
"""


@pytest.mark.parametrize("how_often", ["once", "twice"])
def test_after_a_sync_that_failed_another_one_is_not_believed(shim: Path, quick_folder: Path, how_often: str) -> None:
    """The kernel takes pages for written that it could not write. What the log holds goes into the file then."""
    run_faulty(shim, quick_folder, UNSYNCED, how_often)
