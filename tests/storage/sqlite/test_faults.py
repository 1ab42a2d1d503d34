"""A device that fails, is read-only for a while, or is full, at every call that writes: in a process of its own, whose
calls a preloaded shim refuses. A C compiler builds it."""

import os
from pathlib import Path

import pytest

from tests.storage.sqlite.faulty import run_faulty

PROGRAM = """
import ctypes, errno, sys, threading
from pathlib import Path
from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import deliver, rows
from tests.storage.sqlite.test_failures import T0
from tests.storage.sqlite.test_writer import advance_until

folder, code, step = Path(sys.argv[1]), getattr(errno, sys.argv[2]), int(sys.argv[3])
shim = ctypes.CDLL(None)
fault_code, fault_after, fault_calls = (
    ctypes.c_int.in_dll(shim, name) for name in ("fault_code", "fault_after", "fault_calls")
)

def work(store):
    receipt = store.store_readings(Weather, rows(100, 200)).wait()
    store.delete_readings(Weather, "d1", rows(0, 1)[0][1], rows(20, 21)[0][1])
    store._writing._connection.execute("PRAGMA wal_autocheckpoint = 4")  # a checkpoint too
    store.store_readings(Weather, rows(200, 300)).wait()
    store.fold()

def attempt(number, after):
    path = folder / f"{number}.db"
    clock = ManualClock(T0)
    with SQLiteStorage(path, gateway_id="roof", clock=clock, piece_rows=60) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 100)).wait()
        fault_calls.value, fault_after.value, fault_code.value = 0, after, code
        working = threading.Thread(target=work, args=(store,))
        working.start()
        failed = False

        while working.is_alive() and not failed:
            advance_until(clock, lambda: not working.is_alive() or store.health_check()["status"] == "fail")
            failed = store.health_check()["status"] == "fail"
        if failed:
            assert "cannot be written" in store.health_check()["message"]
            assert len(store.query_readings(Weather)) >= 95  # reads go on, without waiting
        calls = fault_calls.value
        fault_code.value = 0
        advance_until(clock, lambda: not working.is_alive())
        advance_until(clock, lambda: store.health_check()["status"] == "pass")
        assert len(store.query_readings(Weather)) == 295, len(store.query_readings(Weather))
        assert store.ledger().problems == []
        assert store.count_pending("central") == 295
        audit_memory(store)
    audit_file(path)
    for file in folder.iterdir():
        file.unlink()
    return failed, calls

_, calls = attempt(0, 2**30)
failures = sum(attempt(1 + after, after)[0] for after in range(0, calls, step))
print(calls, failures)
"""


@pytest.mark.parametrize("code", ["EIO", "EROFS", "ENOSPC"])
def test_calls_that_fail_lose_nothing_and_all_goes_on_by_itself(shim: Path, quick_folder: Path, code: str) -> None:
    """From each call on, until the device is well again."""
    step = 1 if os.environ.get("EDGEDEPOT_TEST_LONG") else 5
    calls, failures = (int(word) for word in run_faulty(shim, quick_folder, PROGRAM, code, str(step)).split())
    assert calls > 30
    assert failures > calls / step / 2


ONE_WRITE = """
import ctypes, errno, sys
from pathlib import Path
from edgedepot import SQLiteStorage
from tests.models import Weather
from tests.storage.sqlite.damaged import rows
from tests.storage.sqlite.test_salvage import damage_page

shim = ctypes.CDLL(None)
path = Path(sys.argv[1]) / "x.db"
store = SQLiteStorage(path, gateway_id="roof", piece_rows=100)
store.store_readings(Weather, rows(0, 600)).wait()
store.fold()
damage_page(store)
(ctypes.c_char * 64).in_dll(shim, "fault_end").value = b"x.db.salvaging"
(ctypes.c_char * 16).in_dll(shim, "fault_call").value = b"write"
ctypes.c_int.in_dll(shim, "fault_once").value = 1
ctypes.c_int.in_dll(shim, "fault_calls").value = 0
ctypes.c_int.in_dll(shim, "fault_after").value = 45
fault_code = ctypes.c_int.in_dll(shim, "fault_code")
fault_code.value = errno.ENOSPC
store.store_readings(Weather, rows(300, 310)).wait(timeout=60)  # somewhere it comes upon the damage
assert fault_code.value == 0
print(len(store.query_readings(Weather)), store.salvaged)
store.close()
"""


def test_a_write_to_a_salvaged_file_that_fails_once_costs_no_history(shim: Path, quick_folder: Path) -> None:
    said = run_faulty(shim, quick_folder, ONE_WRITE)
    assert "no room for more" not in said
    assert int(said.split()[0]) > 500
