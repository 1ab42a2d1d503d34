"""What a store's names may stand for: files, or nothing yet. SQLite waits for ever on a pipe, and takes a folder in the
place of one of its own files for a device that fails. And whose they are: a new file is its predecessor's owner's,
whoever made it, or who has restored a store as root shuts the gateway out."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite.checksums import PAGE

_MOUNTS = Path("/proc/self/mountinfo")
_READ = ("", "-wal", "-shm", "-journal")
_WRITTEN = (*_READ, ".lock", ".catalogue")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def real(path: str | os.PathLike[str]) -> Path:
    """The file that a name leads to: lock, log and all else of a store lie beside that, wherever the process goes."""
    return Path(os.path.realpath(path))


def check_files(path: Path, *, to_write: bool = False) -> None:
    """Raise `StoreUnusable` where one of a store's names is that of something else."""
    for suffix in _WRITTEN if to_write else _READ:
        file = path.with_name(path.name + suffix)
        kind = _kind_of(file)
        if kind is not None:
            whose = "a store's file" if file == path else f"a file of the store {path.name}"
            raise StoreUnusable(f"{file} is {kind}, expected {whose}")


def _kind_of(file: Path) -> str | None:
    """What a name stands for that is no file; None where it is one, is not there, or cannot be seen."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(file).st_mode))
    except OSError as exc:
        return "a link to itself" if exc.errno == errno.ELOOP else None


def put_in_place(new: Path, place: Path, before: Path) -> None:
    """Rename a new file, and have it of the owner and the mode of the one that was there before, where it is and as far
    as that can be done: what is in it matters more. Raises `OSError`."""
    with contextlib.suppress(OSError):
        be_like(new, before.stat())
    new.replace(place)


def be_like(file: int | Path, other: os.stat_result) -> None:
    """Of the same owner, as far as this process may say so: the next one may run as that. Raises `OSError` where the
    group has rights of its own and cannot be kept: those in it would be shut out."""
    try:
        os.chown(file, -1, other.st_gid)
    except OSError as exc:
        if (other.st_mode >> 3 ^ other.st_mode) & 0o7:
            raise OSError(f"the group of the file, {other.st_gid}, cannot be given to another: {exc.strerror}") from exc
    with contextlib.suppress(OSError):  # no right to, or an owner that has no number in a container
        os.chown(file, other.st_uid, -1)
    os.chmod(file, other.st_mode & 0o777)  # last: until then it is nobody's but ours


def why_no_more(folder: Path) -> OSError | None:
    """What the device says to one more page in a file of its own; None where it takes it. SQLite says no more than
    "disk I/O error" where a quota is used up, and "unable to open" where there may be no more files."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, PAGE)
    except OSError as exc:
        return exc
    return None


def is_mounted_itself(path: Path) -> bool:
    """Whether the file is a mount point, as in a container: no other can be renamed to it then. (`os.path.ismount` does
    not see it where the folder lies on the same device.)"""
    name = os.path.realpath(path).replace("\\", "\\134").replace(" ", "\\040")
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    return any(line.split()[4] == name for line in lines)
