"""An ext4 file system of its own in a file, and how many bytes reached its device. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

SIZE = 1 << 30
SECTOR = 512
IN_MEMORY = Path("/dev/shm")
"""Where the file lies if there is room: what reaches its device is counted all the same, and nobody's disk suffers."""


class NoLoopMount(Exception):
    """This machine, or this user, cannot mount a file."""


class LoopMount:
    """Mounted from entering to leaving the context. Raises `NoLoopMount`."""

    def __init__(self) -> None:
        roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 2 * SIZE
        self._folder = TemporaryDirectory(dir=IN_MEMORY if roomy else None, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / "mounted"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NoLoopMount("mounting a file needs root")
        if missing := [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]:
            raise NoLoopMount(f"{', '.join(missing)} not found")
        image = self.path.with_name("image")
        with image.open("wb") as file:
            file.truncate(SIZE)
        self.path.mkdir()
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        _run("mount", "-o", "loop,noatime", str(image), str(self.path))
        device = os.stat(self.path).st_dev
        self._statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        return self

    def written(self) -> int:
        """Bytes that reached the device so far, all that was written before included."""
        _run("sync", "--file-system", str(self.path))
        return int(self._statistics.read_text().split()[6]) * SECTOR

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", str(self.path)], check=True)
        self._folder.cleanup()


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as exc:
        raise NoLoopMount(f"{command[0]}: {exc.stderr.strip()}") from exc
