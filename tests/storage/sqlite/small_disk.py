"""A file system of some megabytes, in memory, that can be filled to the page. To mount one needs root."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PAGE = 4096


class SmallDisk:
    """Mounted from entering to leaving the context. `path` is a folder in it."""

    def __init__(self, size: int = 8_000_000, files: int = 0) -> None:
        """Of so many bytes, and so many files at most where that is not 0."""
        self._options = f"size={size},nr_inodes={files}"
        self._folder = tempfile.TemporaryDirectory()
        self._mounted = Path(self._folder.name)
        self.path = self._mounted / "store"
        self._filler = self._mounted / "filler"

    def __enter__(self) -> Self:
        subprocess.run(["mount", "-t", "tmpfs", "-o", self._options, "tmpfs", self._folder.name], check=True)
        self.path.mkdir()
        return self

    @property
    def free(self) -> int:
        """In pages."""
        return os.statvfs(self._mounted).f_bavail

    def fill(self, leave: int = 0) -> None:
        """Leave so many pages."""
        with self._filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, file.tell() + (self.free - leave) * PAGE)
        assert self.free == leave

    def make_read_only(self) -> None:
        """With no file open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", str(self._mounted)], check=True)

    def make_writable(self) -> None:
        """After that."""
        subprocess.run(["mount", "-o", "remount,rw", str(self._mounted)], check=True)

    def clear(self) -> None:
        """Have what was filled free again."""
        self._filler.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", self._folder.name], check=True)
        self._folder.cleanup()
