"""PostgreSQL 17 with TimescaleDB 2.19 from Debian trixie, in a chroot, as a user without rights.

Debian 12 itself has neither; trixie's programs want trixie's libraries, hence the chroot with its own libc. It holds
the Apache edition: continuous aggregates and the policies answer SQLSTATE 0A000.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.servers import FOLDER, ServerError
from tests.servers.folders import WorkFolder
from tests.servers.packages import PackageSet, fetch, run
from tests.servers.process import Server, free_port

PACKAGES = PackageSet(
    "timescale",
    "trixie",
    "postgresql-17 postgresql-client-17 postgresql-17-timescaledb libpq5 libc6 libc-bin dash tzdata libzstd1"
    " liblz4-1 libxml2 libpam0g libssl3t64 libgssapi-krb5-2 zlib1g libldap2 libicu76 libsystemd0 libxxhash0"
    " liblzma5 libaudit1 libkrb5-3 libk5crypto3 libcom-err2 libkrb5support0 libsasl2-2 libstdc++6 libgcc-s1"
    " libcap2 libcap-ng0 libkeyutils1 libreadline8t64 libtinfo6",
)
PLAIN_PACKAGES = PackageSet(
    "postgresql-15",
    "bookworm",
    "postgresql-15 postgresql-client-15 pgbouncer libpq5 libc6 libc-bin dash tzdata libzstd1 liblz4-1 libxml2 libpam0g"
    " libssl3 libgssapi-krb5-2 zlib1g libldap-2.5-0 libicu72 libsystemd0 liblzma5 libaudit1 libkrb5-3 libk5crypto3"
    " libcom-err2 libkrb5support0 libsasl2-2 libstdc++6 libgcc-s1 libcap2 libcap-ng0 libkeyutils1 libreadline8"
    " libtinfo6 libgcrypt20 libgpg-error0 libcrypt1 libgnutls30 libp11-kit0 libidn2-0 libunistring2 libtasn1-6"
    " libnettle8 libhogweed6 libgmp10 libffi8 libevent-2.1-7 libc-ares2 libselinux1 libpcre2-8-0",
)
PROGRAMS = "/usr/lib/postgresql/{}/bin"
CLUSTERS = "clusters"
POSTGRES = 5432
"""User and group in the chroot: PostgreSQL refuses to run as root."""


def fetch_timescale(folder: Path = FOLDER) -> Path:
    """The chroot with PostgreSQL and TimescaleDB, fetched and laid out if it is not there yet."""
    return fetch(folder, PACKAGES, prepare=_make_chroot)


def fetch_plain_postgres(folder: Path = FOLDER) -> Path:
    """The chroot with Debian 12's own PostgreSQL 15, and PgBouncer."""
    return fetch(folder, PLAIN_PACKAGES, prepare=_make_chroot)


class TimescaleServer(Server):
    """One PostgreSQL with its own data, on 127.0.0.1; the user is `postgres`.

    `fsync=False` still keeps every commit when the server is killed, for the kernel lives on; only a power cut could
    lose it. `extension=False` makes a plain PostgreSQL. With a `password` TCP connections must give it. `settings`
    are PostgreSQL's own and override ours; `files` are put into its data directory, where settings find them by name.
    """

    name = "TimescaleDB"
    version = 17
    stop_signal = signal.SIGINT  # "fast": ends the sessions; on SIGTERM it would wait for the clients to leave

    def __init__(
        self,
        folder: Path = FOLDER,
        port: int | None = None,
        *,
        fsync: bool = False,
        extension: bool = True,
        password: str = "",
        settings: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        if os.geteuid() != 0:
            raise ServerError("TimescaleDB runs in a chroot, which needs root; run the tests as root")
        self._root = self._fetch(folder)
        self._work = WorkFolder(self._root / CLUSTERS, "cluster")
        super().__init__(self._work.path / "log")
        self.port = port or free_port()
        self._password = password
        self._extension = extension
        self._files = dict(files or {})
        self._settings = _settings(self.port, fsync, extension) | dict(settings or {})
        self._numbers = count(1)

    @staticmethod
    def _fetch(folder: Path) -> Path:
        return fetch_timescale(folder)

    @property
    def _data(self) -> Path:
        return self._work.path / "data"

    def command(self) -> list[str]:
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        return self._inside("postgres", "-D", self._path_inside(self._data), *settings)

    def is_ready(self) -> bool:
        """PostgreSQL accepts TCP before it has recovered from a crash; its pid file says when it takes sessions."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def start(self) -> None:
        if not self._data.exists():
            self._initialise()
        super().start()

    def close(self) -> None:
        super().close()
        self._work.close()

    def url(self, database: str = "postgres") -> str:
        """`postgresql://...` of a database on this server."""
        user = f"postgres:{quote(self._password, safe='')}" if self._password else "postgres"
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as the superuser, over the socket in the chroot; its rows, columns separated by `|`."""
        options = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        where = [f"--dbname=host=/tmp port={self.port} user=postgres dbname={database}"]
        return run(self._inside("psql", *options, *where, "-c", statement), f"{statement!r} on {self.name}").strip()

    def create_database(self) -> str:
        """The name of a fresh database, with the extension in it (unless `extension=False`)."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        if self._extension:
            self.sql("CREATE EXTENSION timescaledb", name)
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, also under its users: each with the extension holds one of the few background workers."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _initialise(self) -> None:
        os.chown(self._work.path, POSTGRES, POSTGRES)
        options = ["--locale=C.UTF-8", "--username=postgres", "--no-sync", "--auth-local=trust"]
        if self._password:
            secret = self._work.path / "password"
            secret.write_text(self._password)
            os.chown(secret, POSTGRES, POSTGRES)
            options += ["--auth-host=scram-sha-256", f"--pwfile={self._path_inside(secret)}"]
        else:
            options += ["--auth-host=trust"]
        run(
            self._inside("initdb", "-D", self._path_inside(self._data), *options),
            "cannot make a PostgreSQL cluster",
        )
        self.put_files(self._files)

    def put_files(self, files: Mapping[str, bytes]) -> None:
        """Put files into its data directory; `reload` has it look at them."""
        for name, content in files.items():
            path = self._data / name
            path.write_bytes(content)
            path.chmod(0o600)
            os.chown(path, POSTGRES, POSTGRES)

    def reload(self) -> None:
        """Have it read its configuration and certificates again. Does not wait until it has."""
        os.kill(self.pid, signal.SIGHUP)

    @contextmanager
    def small_disk(self, size: str) -> Iterator[Callable[[str], object]]:
        """A tablespace `small` on a disk of its own. What is given makes it larger. At the end nothing may be in it."""
        folder = self._work.path / "small"
        folder.mkdir()
        owner = f"uid={POSTGRES},gid={POSTGRES},mode=0700"
        mount = ["mount", "-t", "tmpfs", "-o"]
        run([*mount, f"size={size},{owner}", "tmpfs", str(folder)], "cannot mount a small disk")
        try:
            self.sql(f"CREATE TABLESPACE small LOCATION '{self._path_inside(folder)}'")
            yield lambda other: run(["mount", "-o", f"remount,size={other}", str(folder)], "cannot mount it anew")
            self.sql("DROP TABLESPACE small")
        finally:
            run(["umount", "--lazy", str(folder)], "cannot unmount the small disk")
            folder.rmdir()

    def _path_inside(self, path: Path) -> str:
        return f"/{path.relative_to(self._root)}"

    def _inside(self, program: str, *arguments: str) -> list[str]:
        """A command line that runs a PostgreSQL program in the chroot, free of our environment."""
        change = ["chroot", f"--userspec={POSTGRES}:{POSTGRES}", "--groups=", str(self._root)]
        return [
            "env",
            "-i",
            "LC_ALL=C.UTF-8",
            "PATH=/usr/bin:/usr/sbin",
            *change,
            f"{PROGRAMS.format(self.version)}/{program}",
            *arguments,
        ]


class PlainPostgres(TimescaleServer):
    """PostgreSQL 15 as Debian 12 has it, without the extension."""

    name = "PostgreSQL 15"
    version = 15

    def __init__(self, folder: Path = FOLDER, **settings: Any) -> None:
        super().__init__(folder, extension=False, **settings)

    @staticmethod
    def _fetch(folder: Path) -> Path:
        return fetch_plain_postgres(folder)


def _settings(port: int, fsync: bool, extension: bool) -> dict[str, str]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "/tmp",
        "timezone": "UTC",
        "shared_buffers": "64MB",
        "dynamic_shared_memory_type": "mmap",  # in the data directory, so it goes with it
        "max_worker_processes": "16",
        "jit": "off",  # its library was not unpacked
        "fsync": "on" if fsync else "off",
    }
    if extension:
        settings |= {"shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off"}
    return settings


def _make_chroot(root: Path) -> None:
    """Make the unpacked packages a place to live in: what Debian's installer does, as far as PostgreSQL needs it."""
    for unneeded in ("bitcode", "llvmjit.so", "llvmjit_types.bc"):
        for path in root.glob(f"usr/lib/postgresql/*/lib/{unneeded}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("bin", "sbin", "lib", "lib64"):
        if (root / name).is_dir():  # trixie has everything below /usr, bookworm not yet
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
        if (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    for name in ("tmp", "dev/shm", CLUSTERS):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(0o1777)
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o020666, os.makedev(1, minor))
        (root / "dev" / name).chmod(0o666)  # mknod heeds the umask
    (root / "etc/passwd").write_text(f"postgres:x:{POSTGRES}:{POSTGRES}::/:/bin/sh\n")
    (root / "etc/group").write_text(f"postgres:x:{POSTGRES}:\n")
    root.chmod(0o755)
