"""Locks and working folders under `.servers/`, for several test runs in one checkout at the same time."""

import fcntl
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def say(text: str) -> None:
    """One line of progress, on standard error."""
    print(f"servers: {text}", file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock file; say `waiting` if somebody else holds it. The kernel frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                say(waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class WorkFolder:
    """A folder for one server: its data, its log. `close()` removes it; if the run that made it was killed before
    that, the next run that makes one beside it does (the dead owner's lock is free)."""

    def __init__(self, parent: Path, name: str) -> None:
        with locked(parent / "lock"):
            _remove_abandoned(parent)
            self.path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
            self.path.chmod(0o755)  # PostgreSQL and its data directory below belong to a user of their own
            self._owner = (self.path / "owner").open("w")
            fcntl.flock(self._owner, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder and all in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._owner.close()


def _remove_abandoned(parent: Path) -> None:
    for owner in parent.glob("*/owner"):
        with owner.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its run is alive
            shutil.rmtree(owner.parent, ignore_errors=True)
