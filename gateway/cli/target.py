"""FILE of the commands that look into a store: the gateway's TOML file, or the database file of its store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.storage.errors import ConfigError, NotSupported, StorageLocked, StoreUnusable

if TYPE_CHECKING:
    from edgedepot.requests import Removed, Request
    from edgedepot.storage.sqlite.storage import SQLiteStorage

FILE = click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
_SQLITE_HEADER = b"SQLite format 3\0"


def open_store(file: Path) -> SQLiteStorage:
    """The local store, for reading, whether a gateway writes it or not. Raises `ConfigError` and `StoreUnusable`."""
    from edgedepot.storage.sqlite.storage import SQLiteStorage

    path = store_path(file)
    if is_toml(file) and not path.exists():
        raise StoreUnusable(f"{path} does not exist; the first `edgedepot run {file}` makes it")
    return SQLiteStorage(path, read_only=True)


def open_store_to_write(file: Path, create: bool) -> SQLiteStorage:
    """The local store, for writing; made where there is none, if FILE is the gateway's or `create` says so.

    Raises `ConfigError`, `StoreUnusable`, and `StorageLocked` while another process writes it.
    """
    with locked_until_stopped(", which takes no commands"):
        return _open_to_write(file, create)


@contextlib.contextmanager
def locked_until_stopped(more: str = "") -> Iterator[None]:
    """Say of a store that another process writes who has to be stopped, and nothing that a command cannot do."""
    try:
        yield
    except StorageLocked as exc:
        raise StorageLocked(f"{exc.args[0].partition(';')[0]}{more}; stop it first") from exc


def _open_to_write(file: Path, create: bool) -> SQLiteStorage:
    from edgedepot.clock import GatewayClock
    from edgedepot.storage.sqlite.storage import SQLiteStorage

    # Where nobody knows the time, what a gateway holds is not a command's to release.
    if not is_toml(file) and create and not file.exists():
        return SQLiteStorage(file, clock=GatewayClock())
    path = store_path(file)
    if not is_toml(file):
        return SQLiteStorage(path, clock=GatewayClock())
    from edgedepot.config import load_clock, load_storage

    made: SQLiteStorage = load_storage(file).make_with(clock=load_clock(file))
    return made


def change(file: Path, request: Request) -> tuple[dict[str, Any], bool]:
    """Have the running gateway carry a request out, or do it here where none runs: the answer, and whether one does.

    Raises what carrying it out raises, `ConfigError`, `StoreUnusable`, and `StorageLocked` where another process writes
    the store and takes no requests, or none from this user.
    """
    from edgedepot.control import ask

    with open_store(file):  # or it would be made here
        socket = socket_of(file)
    answer = ask(socket, request)
    if answer is not None:
        return answer, True
    try:
        desk = _Desk(open_store_to_write(file, create=False))
    except StorageLocked:
        answer = ask(socket, request)  # it may have been starting
        if answer is None:
            raise
        return answer, True
    with desk.store:
        return request.run(desk), False


def running_socket(file: Path) -> Path | None:
    """Where the gateway answers that runs on the store; None where none does. Raises as `change` does."""
    from edgedepot.control import ask
    from edgedepot.requests import Status

    socket = socket_of(file)
    return None if ask(socket, Status()) is None else socket


def socket_of(file: Path) -> Path:
    """Where a gateway that runs on the store would answer. Raises `ConfigError` and `StoreUnusable`."""
    from edgedepot.control import socket_path

    path = store_path(file)
    return socket_path(path.resolve() if path.is_symlink() else path)


class _Desk:
    """A store that no gateway runs on."""

    def __init__(self, store: SQLiteStorage) -> None:
        self.store = store

    def status(self) -> dict[str, Any]:
        raise NotSupported("no gateway runs")

    def remove_upstream(self, name: str) -> Removed:
        from edgedepot.requests import remove_cursor

        return remove_cursor(self.store, name)


def size_on_disk(path: Path) -> int:
    """The bytes of a store: the database, and its write-ahead log where there is one."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def is_toml(file: Path) -> bool:
    """Whether FILE is a gateway's, by its name."""
    return file.suffix.lower() == ".toml"


def store_path(file: Path, *, must_exist: bool = True) -> Path:
    """The database file of a store. Raises `ConfigError` and `StoreUnusable`."""
    if not must_exist and not file.exists() and not is_toml(file):
        return file
    if not must_exist and is_toml(file):
        return _path_in(file)
    try:
        with file.open("rb") as opened:
            head = opened.read(len(_SQLITE_HEADER))
    except OSError as exc:
        raise StoreUnusable(f"{file}: cannot be read: {exc.strerror}") from exc
    if head == _SQLITE_HEADER:
        return file
    if not is_toml(file):
        raise StoreUnusable(f"{file}: is no store's database; expected one, or a gateway's file, gateway.toml")
    return _path_in(file)


def _path_in(file: Path) -> Path:
    from edgedepot.config import load_storage
    from edgedepot.storage.sqlite.storage import SQLiteStorage

    part = load_storage(file)
    path = part.options.get("path")
    if not issubclass(part.target, SQLiteStorage) or not isinstance(path, Path):
        raise ConfigError(f'{file}: storage.engine: found "{part.kind}", but this command can look into "sqlite" only')
    return path
