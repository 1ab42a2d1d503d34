"""An ext4 file system of its own in a file, and how many bytes reached its device. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

SIZE = 1 << 30
SECTOR = 512
CARD = {"write_bps_device": 10_000_000, "write_iops_device": 500}
"""What the SD Association demands of a card of application performance class A1: 500 writes a second, wherever they go,
and 10 MB/s of writing on and on (https://www.sdcard.org/developers/sd-standard-overview/application-performance-class/).
"""
NONE: Mapping[str, int] = {}
THROTTLE = Path("/sys/fs/cgroup/blkio")
IN_MEMORY = Path("/dev/shm")
"""Where the file lies if there is room: what reaches its device is counted all the same, and nobody's disk suffers."""


class NoLoopMount(Exception):
    """This machine, or this user, cannot mount a file."""


class LoopMount:
    """Mounted from entering to leaving the context, of `size` bytes, with more options of mount(8). With `limits` its
    device is no faster than they say; control groups of version 1 are needed for that. The file lies in the folder
    `within`, where one is given, and takes up what was written to it. Raises `NoLoopMount`."""

    def __init__(
        self,
        size: int = SIZE,
        options: str = "noatime",
        limits: Mapping[str, int] = NONE,
        within: Path | None = None,
    ) -> None:
        roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 2 * size
        self._size = size
        self._options = options
        self._limits = limits
        within = within or (IN_MEMORY if roomy else None)
        self._folder = TemporaryDirectory(dir=within, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / "mounted"
        self._image = self.path.with_name("image")

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NoLoopMount("mounting a file needs root")
        if missing := [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]:
            raise NoLoopMount(f"{', '.join(missing)} not found")
        with self._image.open("wb") as file:
            file.truncate(self._size)
        self.path.mkdir()
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
        self.mount()
        return self

    def mount(self) -> None:
        """Mount it again, after `unmount`."""
        _run("mount", "-o", f"loop,{self._options}", str(self._image), str(self.path))
        device = os.stat(self.path).st_dev
        self.device = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
        self._statistics = self.device / "stat"
        try:
            self._throttle(self._limits)
        except NoLoopMount:
            _run("umount", str(self.path))
            raise

    def unmount(self) -> None:
        """Nobody may have a file in it open."""
        self._throttle(dict.fromkeys(self._limits, 0))  # the next file system may get the same device
        subprocess.run(["umount", str(self.path)], check=True)

    def _throttle(self, limits: Mapping[str, int]) -> None:
        number = (self.device / "dev").read_text().strip()
        for name, value in limits.items():
            try:
                (THROTTLE / f"blkio.throttle.{name}").write_text(f"{number} {value}")
            except OSError as exc:
                raise NoLoopMount(f"its device cannot be throttled: {exc.strerror} ({exc.filename})") from exc

    def detach(self) -> None:
        """Unmount it also while files in it are open: it is there for who has them."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def check(self) -> None:
        """What is done about a file system that had errors, when it is not mounted. Raises `NoLoopMount` where they
        cannot be mended."""
        done = subprocess.run(["e2fsck", "-f", "-p", str(self._image)], capture_output=True, text=True, check=False)
        if done.returncode > 1:
            raise NoLoopMount(f"e2fsck: {done.stdout.strip()} {done.stderr.strip()}")

    def written(self) -> int:
        """Bytes that reached the device so far, all that was written before included."""
        _run("sync", "--file-system", str(self.path))
        return int(self._statistics.read_text().split()[6]) * SECTOR

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()
        self._folder.cleanup()


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as exc:
        raise NoLoopMount(f"{command[0]}: {exc.stderr.strip()}") from exc
