"""The product, run as a user runs it: a TOML file, the console script, signals, its log and its other commands."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgedepot import SQLiteStorage
from tests.servers.process import KEEPER, wait_until

PROGRAM = Path(sys.executable).with_name("edgedepot")
PORT_OPEN = "reading lines from"
SUBSCRIBED = "subscribed to"
RUNNING = "is running"


@dataclass(frozen=True)
class Settings:
    """What one gateway.toml says, where tests differ."""

    broker_url: str
    port: Path
    upstream_url: str
    line_format: str = "csv"
    flush_interval: float = 1.0

    def toml(self) -> str:
        columns = '["timestamp", "counter", "temperature", "humidity"]'
        return f"""\
[gateway]
id = "roof"

[storage]
path = "gateway.db"
flush_interval = "{self.flush_interval:g}s"

[models.weather]
counter = {{ type = "int" }}
temperature = {{ type = "float", unit = "°C", range = [-40, 80] }}
humidity = {{ type = "float" }}

[drivers.garden]
type = "mqtt"
url = "{self.broker_url}"
topic = "garden/{{device_id}}/data"
model = "weather"

[drivers.mast]
type = "serial"
port = "{self.port}"
model = "weather"
device_id = "mast"
baudrate = 115200
format = "{self.line_format}"
{f"columns = {columns}" if self.line_format == "csv" else ""}

[upstreams.central]
engine = "timescaledb"
url = "{self.upstream_url}"
"""


class LogLine(NamedTuple):
    """What the gateway said, when we read it (monotonic), and in which of its lives, counted from 1."""

    life: int
    moment: float
    text: str


class GatewayProcess:
    """One gateway that is started and killed as often as a test wants; its log goes on through all its lives.

    One thread at a time may start, kill and terminate it.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.configuration = folder / "gateway.toml"
        self.configuration.write_text(settings.toml())
        self.store = folder / "gateway.db"
        self.log: list[LogLine] = []
        self.lives = 0
        self.kills: list[tuple[int, float]] = []
        """The life that each SIGKILL ended, and when it was sent (monotonic)."""
        self.pid = 0
        """The process id of its present life, or of the last one."""
        self._keeper: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> float:
        """Start it, and return as soon as the process is there: since when it is (monotonic)."""
        assert self._keeper is None
        self.lives += 1
        keeper = [
            sys.executable,
            "-I",
            "-S",
            str(KEEPER),
            str(int(signal.SIGKILL)),
        ]  # or it would outlive a killed test
        self._keeper = subprocess.Popen(
            [*keeper, str(PROGRAM), "run", str(self.configuration)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout
        self.pid = int(self._keeper.stdout.readline())
        started = time.monotonic()
        self._reader = threading.Thread(target=self._read_log, args=(self._keeper, self.lives), name="log", daemon=True)
        self._reader.start()
        return started

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Fails if it ended by itself before."""
        self._check_running()
        self.kills.append((self.lives, time.monotonic()))
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        self._check_running()
        os.kill(self.pid, signal.SIGTERM)
        try:
            return self._reap(timeout)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"runs on {timeout:g} s after SIGTERM; its log:\n{self.log_tail()}") from exc

    def close(self) -> None:
        """Make sure that it does not run any more."""
        if self._keeper:
            assert self._keeper.stdin
            self._keeper.stdin.close()
            self._reap()

    def wait_for_log(self, text: str, timeout: float = 20.0) -> float:
        """Wait until the log of the present life says that; when it first did (monotonic)."""
        try:
            wait_until(lambda: bool(self._said(text, self.lives)) or not self.running, f"log says {text!r}", timeout)
        except TimeoutError as exc:
            raise AssertionError(f"{exc}; the log:\n{self.log_tail()}") from exc
        said = self._said(text, self.lives)
        assert said, f"the gateway ended and never said {text!r}; the log:\n{self.log_tail()}"
        return said[0]

    def _said(self, text: str, first_life: int) -> list[float]:
        return [line.moment for line in self.log if line.life >= first_life and text in line.text]

    @property
    def running(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    def outages(self, back: str) -> list[tuple[float, float]]:
        """For each kill: from one flush interval before it until the log said `back` again (monotonic)."""
        outages = []
        for life, killed in self.kills:
            said = self._said(back, life + 1) or [float("inf")]
            outages.append((killed - self.settings.flush_interval, said[0]))
        return outages

    def ledger(self) -> tuple[int, dict[str, Any]]:
        """What `edgedepot ledger --json` exits with, and the books it prints."""
        done = self.ask("ledger", "--json")
        assert done.stdout, f"no ledger; exit code {done.returncode}: {done.stderr}"
        books: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, books

    def rejected(self) -> dict[str, list[bytes]]:
        """The raw bytes of all rejected messages, by source. No command shows them, so the product's API has to."""
        found: dict[str, list[bytes]] = {}
        with SQLiteStorage(self.store, read_only=True) as store:
            for reject in store.rejected(limit=1_000_000):
                if reject["kind"] == "message":
                    found.setdefault(reject["source"], []).append(reject["raw"])
        return found

    def ask(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run one of the product's other commands on the same configuration."""
        call = [str(PROGRAM), command, str(self.configuration), *options]
        return subprocess.run(call, capture_output=True, text=True, timeout=30, check=False)

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(line.text for line in self.log[-lines:])

    def _check_running(self) -> None:
        assert self._keeper, "the gateway was not started"
        code = self._keeper.poll()
        assert code is None, f"the gateway ended by itself with {code}; its log:\n{self.log_tail()}"

    def _reap(self, timeout: float | None = None) -> int:
        assert self._keeper
        assert self._reader
        code = self._keeper.wait(timeout)
        self._reader.join()
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            assert pipe
            pipe.close()
        self._keeper = None
        return code

    def _read_log(self, process: subprocess.Popen[str], life: int) -> None:
        assert process.stderr
        with process.stderr:
            for line in process.stderr:
                self.log.append(LogLine(life, time.monotonic(), line.rstrip("\n")))
