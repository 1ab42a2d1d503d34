"""A limit on the memory of a process: a control group's where that can be made, which counts all it has resident, else
`RLIMIT_DATA`, which counts what it has asked for."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup/memory")
"""Version 1, where there is one."""


@contextlib.contextmanager
def control_group(name: str, limit: int) -> Iterator[Path | None]:
    """A control group of at most `limit` bytes, gone on leaving when its processes have ended; None where none can be
    made."""
    group = _GROUPS / f"{name}-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        deadline = time.monotonic() + 5
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)  # a process that was killed leaves a moment later
        group.rmdir()


def obey(group: str | None, limit: int) -> None:
    """In the process itself: enter the group, or limit what may be asked for."""
    if group is None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    else:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))


def resident() -> int:
    """Bytes of its own that this process has resident, files left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")
