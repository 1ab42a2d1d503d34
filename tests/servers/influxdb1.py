"""InfluxDB 1.6, the last one that Debian has: InfluxDB 2 keeps its line protocol and its storage engine."""

import json
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tests.servers import FOLDER
from tests.servers.folders import WorkFolder
from tests.servers.packages import PackageSet, fetch
from tests.servers.process import Server, accepts, free_port

PACKAGES = PackageSet("influxdb", "bookworm", "influxdb")
DATABASE = "iot"


def fetch_influxdb1(folder: Path = FOLDER) -> Path:
    """The unpacked package, fetched if it is not there yet."""
    return fetch(folder, PACKAGES)


class InfluxDB1(Server):
    """One server with its own data on 127.0.0.1, with the database `iot`. It has no `/api/v2`; lines go to `/write`."""

    name = "InfluxDB 1"

    def __init__(self, folder: Path = FOLDER, port: int | None = None) -> None:
        self._root = fetch_influxdb1(folder)
        self._work = WorkFolder(folder / "running", "influxdb")
        super().__init__(self._work.path / "log")
        self.port = port or free_port()
        self._internal_port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        configuration = self._work.path / "influxdb.conf"
        configuration.write_text(
            f"""\
reporting-disabled = true
bind-address = "127.0.0.1:{self._internal_port}"
[meta]
dir = "{self._work.path}/meta"
[data]
dir = "{self._work.path}/data"
wal-dir = "{self._work.path}/wal"
index-version = "tsi1"
[http]
bind-address = "127.0.0.1:{self.port}"
log-enabled = false
[monitor]
store-enabled = false
"""
        )
        return [str(self._root / "usr/bin/influxd"), "-config", str(configuration)]

    def is_ready(self) -> bool:
        return accepts(self.port)

    def start(self) -> None:
        super().start()
        self._post("query", {"q": f'CREATE DATABASE "{DATABASE}"'}, b"")

    def write(self, lines: bytes) -> None:
        """Write line protocol. Raises ValueError with the server's words where it refuses any of it."""
        try:
            self._post("write", {"db": DATABASE, "precision": "ns"}, lines)
        except HTTPError as exc:
            raise ValueError(exc.read().decode()) from exc

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series of one InfluxQL query: `{"name", "tags", "columns", "values"}`, times in nanoseconds."""
        answer = json.loads(self._post("query", {"db": DATABASE, "epoch": "ns", "q": text}, b""))
        (result,) = answer["results"]
        if "error" in result:
            raise ValueError(result["error"])
        series: list[dict[str, Any]] = result.get("series", [])
        return series

    def _post(self, path: str, parameters: dict[str, str], body: bytes) -> bytes:
        request = Request(f"{self.url}/{path}?{urlencode(parameters)}", data=body, method="POST")
        with urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def close(self) -> None:
        super().close()
        self._work.close()
