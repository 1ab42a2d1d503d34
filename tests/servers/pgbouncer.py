"""PgBouncer in front of a PostgreSQL, in transaction mode: each transaction may meet another server session."""

import os
from pathlib import Path

from tests.servers import FOLDER
from tests.servers.folders import WorkFolder
from tests.servers.process import Server, accepts, free_port
from tests.servers.timescale import CLUSTERS, POSTGRES, TimescaleServer, fetch_plain_postgres


class PgBouncer(Server):
    """A pool of two sessions of a server's user `postgres`, on 127.0.0.1."""

    name = "PgBouncer"

    def __init__(self, behind: TimescaleServer, folder: Path = FOLDER, port: int | None = None) -> None:
        self._root = fetch_plain_postgres(folder)
        self._work = WorkFolder(self._root / CLUSTERS, "pgbouncer")
        super().__init__(self._work.path / "log")
        self.port = port or free_port()
        self._behind = behind

    def url(self, database: str) -> str:
        """`postgresql://...` of a database of the server behind it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str]:
        configuration = self._work.path / "pgbouncer.ini"
        configuration.write_text(
            f"""\
[databases]
* = host=127.0.0.1 port={self._behind.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_round_robin = 1
"""
        )
        os.chmod(configuration, 0o644)
        change = ["chroot", f"--userspec={POSTGRES}:{POSTGRES}", "--groups=", str(self._root)]
        return [
            "env",
            "-i",
            "PATH=/usr/bin:/usr/sbin",
            *change,
            "/usr/sbin/pgbouncer",
            f"/{configuration.relative_to(self._root)}",
        ]

    def is_ready(self) -> bool:
        return accepts(self.port)

    def close(self) -> None:
        super().close()
        self._work.close()
