"""The machine's own clocks."""

import subprocess
import sys

import pytest

ASKING = """
import time
from edgedepot.storage.clock import SystemClock
print(SystemClock().monotonic() - time.monotonic())
"""


def test_seconds_go_on_while_the_machine_sleeps() -> None:
    """As if it had slept for an hour: in a time namespace, which takes root and Linux 5.6."""
    slept = ["unshare", "--time", "--boottime", "3600"]
    if subprocess.run([*slept, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespaces here")
    gained = [
        float(subprocess.run([*command, sys.executable, "-c", ASKING], capture_output=True, check=True).stdout)
        for command in ([], slept)
    ]
    assert round(gained[1] - gained[0]) == 3600
