"""The file system that a store lies on, where it goes and comes back: a card that had errors is unmounted, checked and
mounted again, or a disk is unplugged and plugged in.

Files that are open keep a file system there that nobody sees any more. While it is there the kernel gives the same one,
with its errors, to whoever mounts that device again. So a store that cannot be written looks whether its folder still
lies on the device that it did. Where it does not, it lets go of all its files, and opens them again when a file system
with this store is mounted there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite.opening import Opened
from edgedepot.storage.sqlite.schema import settings_of
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.wal import wal_of


def device_of(path: Path) -> int:
    """The number of the device that a file's folder lies on; where there is no such folder, the nearest above."""
    for folder in path.absolute().parents:
        try:
            return folder.stat().st_dev
        except (FileNotFoundError, NotADirectoryError):
            continue
    return 0


class Mount:
    """Of one open store. `let_go` closes its files, told why; `open_again` opens them, told up to which row number
    it was durable. Used on the writer's thread alone, but for `is_away`."""

    def __init__(
        self, path: Path, store_id: str | None, let_go: Callable[[str], None], open_again: Callable[[int], Opened]
    ) -> None:
        self.is_away = False
        """Whether the store's files are closed."""
        self._path = path
        self._store_id = store_id
        self._let_go = let_go
        self._open_again = open_again
        self._device = device_of(path)
        self._seen: list[tuple[int, int]] = []

    def is_gone(self) -> bool:
        """Whether something else is there than the file system that has the store's files."""
        return not self.is_away and device_of(self._path) != self._device

    def let_go(self, why: str) -> None:
        """`why` is for those who would read meanwhile."""
        self._let_go(why)
        self.is_away, self._seen = True, []

    def come_back(self, durable: int) -> Opened:
        """The store as it is found. Raises `StorageError` while it is not there, and what opening it does."""
        if not self._is_there():
            raise StorageError(not_mounted(self._path))
        if not self._is_at_rest():
            raise StorageError(f"{self._path} is there again, and is opened when nobody changes it any more")
        opened = self._open_again(durable)
        self._device, self.is_away = device_of(self._path), False
        return opened

    def _is_there(self) -> bool:
        """Nothing may be made in a folder that waits for something to be mounted on it."""
        ids = (Sidecar(self._path).store_id, settings_of(self._path).get("store_id"))
        return self._path.exists() and self._store_id in ids

    def _is_at_rest(self) -> bool:
        """Whether its files are those of the last look: somebody may be copying them."""
        seen, self._seen = self._seen, [(one.stat().st_size, one.stat().st_mtime_ns) for one in self._files()]
        return seen == self._seen

    def _files(self) -> list[Path]:
        return [one for one in (self._path, wal_of(self._path)) if one.exists()]


def not_mounted(path: Path) -> str:
    return f"{path}: its file system is not mounted any more"
