"""A card that is pulled out from under an open store, and put in again or another one: what was being written when it
went may be on it or not. Before the store is open again its log cannot be opened: the first time, then the second, and
so on. In a process of its own, whose calls a preloaded shim refuses. Mounting needs root."""

import os
from pathlib import Path

import pytest

from tests.storage.sqlite.faulty import run_faulty

START = """
import ctypes, errno, os, shutil, subprocess, sys
from pathlib import Path
from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import copy_at_rest, rows
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until

folder, durability = Path(sys.argv[1]), sys.argv[2]
card, copy, elsewhere = (folder / name for name in ("card", "copy", "elsewhere"))
shim = ctypes.CDLL(None)
failing_syncs, code, calls, after, once = (
    ctypes.c_int.in_dll(shim, f"fault_{name}") for name in ("syncs", "code", "calls", "after", "once")
)
clock = ManualClock(T0)

def run(*command):
    subprocess.run(command, check=True)

def plug(*files):
    run("mount", "-t", "tmpfs", "tmpfs", elsewhere)
    for file in files:
        shutil.copy2(file, elsewhere)
    run("mount", "--bind", elsewhere, card)
    run("umount", elsewhere)

def fault_in(name, value):
    (ctypes.c_char * (len(value) + 1)).in_dll(shim, name).value = value.encode()

def plug_copy():
    run("umount", "--lazy", card)
    failing_syncs.value = calls.value = 0
    once.value, code.value = 1, errno.EMFILE
    # SQLite's own openings, or ours.
    fault_in("fault_call", "open" if durability == "power" else "look"), fault_in("fault_end", "card/x.db-wal")
    plug(*copy.iterdir())

def is_back(store):
    if code.value == 0:  # it was refused
        calls.value, after.value, code.value = 0, after.value + 1, errno.EMFILE
    return not is_failing(store)

def opened():
    return SQLiteStorage(card / "x.db", gateway_id="roof", clock=clock, durability=durability)

def is_failing(store):
    return store.health_check()["status"] == "fail"

card.mkdir()
elsewhere.mkdir()
plug()
files = len(os.listdir("/proc/self/fd"))
"""
END = """
assert after.value > (0 if durability == "power" else 3), after.value
fault_in("fault_call", ""), fault_in("fault_end", "")
code.value = 0
assert len(os.listdir("/proc/self/fd")) == files
audit_file(card / "x.db")
run("umount", "--lazy", card)
"""

WRITTEN = f"""{START}
with opened() as store:
    store.add_cursor("central")
    store.store_readings(Weather, rows(0, 100)).wait()
    failing_syncs.value = 1000
    receipt = store.store_readings(Weather, [("d0", None, {{"temperature": float(n)}}) for n in range(50)])
    advance_until(clock, lambda: is_failing(store))
    more = store.store_readings(Weather, rows(200, 210))  # is in none of the attempts, or in the last ones
    copy_at_rest(card, copy)
    plug_copy()
    advance_until(clock, lambda: is_back(store) and receipt.level == more.level == "durable")
    assert (receipt.accepted, receipt.duplicates) == (50, 0)
    assert len(store.query_readings(Weather)) == store.count_pending("central") == 160
    counts = store.ledger().sources["direct"]
    assert (counts["new"], counts["duplicates"]) == (160, 0), counts
    assert store.ledger().problems == []
    audit_memory(store)
{END}"""

OLDER = f"""{START}
with opened() as store:
    store.add_cursor("central")
    store.store_readings(Weather, rows(0, 100)).wait()
    store.store_readings(Weather, rows(0, 1)).wait("committed")  # what comes next is not synced for who waited before
    copy_at_rest(card, copy)
    receipt = store.store_readings(Weather, rows(100, 150)).wait("committed")
    failing_syncs.value = 1000
    store.store_readings(Weather, rows(200, 210))
    advance_until(clock, lambda: is_failing(store))
    more = store.store_readings(Weather, rows(200, 210))
    plug_copy()
    advance_until(clock, lambda: is_back(store) and more.level == "durable")
    if durability == "power":  # durable was promised: the report says that it is gone
        assert ("older than it was" in store.salvaged.reason, store.salvaged.lost) == (True, 51)
        assert store.store_epoch == 2
    else:
        assert "lost before it was synced" in str(receipt.error)
        assert store.store_epoch == 1
    assert len(store.query_readings(Weather)) == store.count_pending("central") == 110
    assert store.ledger().problems == []
    audit_memory(store)
{END}"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("durability", ["power", "process"])
@pytest.mark.parametrize("program", [WRITTEN, OLDER], ids=["what was being written is there", "an older state"])
def test_another_device_with_the_files(shim: Path, quick_folder: Path, program: str, durability: str) -> None:
    run_faulty(shim, quick_folder, program, durability)
