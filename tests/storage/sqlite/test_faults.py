"""A device that fails, is read-only for a while, or is full, at every call that writes: in a process of its own, whose
calls a preloaded shim refuses. A C compiler builds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")
ROOT = Path(__file__).parents[3]

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


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("shim") / "faults.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(built), str(SOURCE)], check=True)
    return built


@pytest.mark.parametrize("code", ["EIO", "EROFS", "ENOSPC"])
def test_calls_that_fail_lose_nothing_and_all_goes_on_by_itself(shim: Path, quick_folder: Path, code: str) -> None:
    """From each call on, until the device is well again."""
    step = 1 if os.environ.get("EDGEDEPOT_TEST_LONG") else 5
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "EDGEDEPOT_FAULT_FOLDER": str(quick_folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-c", PROGRAM, str(quick_folder), code, str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    calls, failures = (int(word) for word in done.stdout.split())
    assert calls > 30
    assert failures > calls / step / 2
