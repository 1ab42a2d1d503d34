"""VictoriaMetrics, a time series database that takes InfluxDB's writes, from Debian 12."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.servers import FOLDER
from tests.servers.folders import WorkFolder
from tests.servers.packages import PackageSet, fetch, libraries
from tests.servers.process import Server, accepts, free_port

PACKAGES = PackageSet("victoria-metrics", "bookworm", "victoria-metrics libzstd1")


def fetch_victoria_metrics(folder: Path = FOLDER) -> Path:
    """The unpacked packages, fetched if they are not there yet."""
    return fetch(folder, PACKAGES)


class VictoriaMetrics(Server):
    """One server with its own data, on 127.0.0.1. It takes InfluxDB's writes at its root, whatever token, organisation
    and bucket say, and rejects nothing; it keeps numbers, by the millisecond."""

    name = "VictoriaMetrics"

    def __init__(
        self, folder: Path = FOLDER, port: int | None = None, certificate: tuple[Path, Path] | None = None
    ) -> None:
        """`certificate` and its key: with them it speaks TLS."""
        self._certificate = certificate
        self._root = fetch_victoria_metrics(folder)
        self._work = WorkFolder(folder / "running", "victoria-metrics")
        super().__init__(self._work.path / "log")
        self.port = port or free_port()

    @property
    def url(self) -> str:
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        options = {
            "httpListenAddr": f"127.0.0.1:{self.port}",
            "storageDataPath": self._work.path / "data",
            "retentionPeriod": "100y",
            "search.latencyOffset": "0s",
            "search.maxUniqueTimeseries": 100_000,
        }
        if self._certificate:
            options |= {"tls": "true", "tlsCertFile": self._certificate[0], "tlsKeyFile": self._certificate[1]}
        program = str(self._root / "usr/bin/victoria-metrics")
        arguments = [f"-{name}={value}" for name, value in options.items()]
        return ["env", f"LD_LIBRARY_PATH={libraries(self._root)}", program, *arguments]

    def is_ready(self) -> bool:
        return accepts(self.port)

    def export(self, selector: str) -> list[dict[str, Any]]:
        """All series that a selector such as `{device_id="mast"}` finds: `{"metric": labels, "values": [...],
        "timestamps": [milliseconds, ...]}`. What was written before is in it."""
        with urlopen(f"{self.url}/internal/force_flush", timeout=30):
            pass
        question = urlencode({"match[]": selector, "start": "1970-01-02T00:00:00Z", "end": "2200-01-01T00:00:00Z"})
        with urlopen(f"{self.url}/api/v1/export?{question}", timeout=60) as answer:
            return [json.loads(line) for line in answer]

    def count(self, selector: str) -> int:
        """How many values all series that a selector finds have together, from 2020 on."""
        with urlopen(f"{self.url}/internal/force_flush", timeout=30):
            pass
        question = urlencode({"query": f"sum(count_over_time({selector}[30y]))", "time": "2049-12-31T00:00:00Z"})
        with urlopen(f"{self.url}/api/v1/query?{question}", timeout=60) as answer:
            found = json.load(answer)["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    def close(self) -> None:
        super().close()
        self._work.close()
