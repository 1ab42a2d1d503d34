"""`edgedepot run`, with a real broker and a real serial line, as a process that gets signals."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.gateway.program import PROGRAM, Start
from tests.gateway.scripted import eventually
from tests.servers.mosquitto import Mosquitto
from tests.servers.socat import PtyPair


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto, pty_pair: PtyPair) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"""
[gateway]
id = "roof"
[storage]
path = "gateway.db"
flush_interval = "1d"
[models.weather]
temperature = {{ type = "float", range = [-40, 80] }}
[drivers.garden]
type = "mqtt"
url = "{mosquitto.url}"
topic = "garden/{{device_id}}/data"
model = "weather"
[drivers.mast]
type = "serial"
port = "{pty_pair.device}"
model = "weather"
device_id = "mast"
format = "csv"
columns = ["temperature"]
[upstreams.copy]
engine = "sqlite"
path = "copy.db"
"""
    )
    return file


def ask(command: str, file: Path) -> Any:
    call = [str(PROGRAM), command, str(file), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def publish(broker: Mosquitto, payloads: list[bytes]) -> None:
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    for payload in payloads:
        client.publish("garden/bed-1/data", payload, qos=1).wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_life_from_start_to_stop(
    site: Path, start: Start, mosquitto: Mosquitto, pty_pair: PtyPair, number: int
) -> None:
    run = start(site)
    run.wait_for("gateway roof is running: 2 drivers, 1 upstream")
    run.wait_for("subscribed to")
    run.wait_for("reading lines from")
    publish(mosquitto, [b'{"temperature": 20}', b'{"temperature": 21}', b"hot"])
    with pty_pair.peer.open("wb", buffering=0) as line:
        line.write(b"\n22.5\nwarm\n")  # the first line after the port was opened may be taken for a fragment

        def heard() -> bool:
            live = {name: source["live"] for name, source in ask("status", site)["sources"].items()}
            return all(source["last_message_age"] is not None for source in live.values())

        eventually(heard)
    status = ask("status", site)
    assert status["running"] is True
    assert status["pid"] == run.process.pid
    assert status["sources"]["mast"]["live"]["state"] == "reading"
    assert status["upstreams"]["copy"]["live"]["state"] == "idle"
    assert run.end(number) == 0
    assert not (site.parent / "gateway.db.sock").exists()
    books = ask("ledger", site)
    columns = ("messages", "ignored", "new", "rejected", "rejected_readings")
    counts = {name: [source[column] for column in columns] for name, source in books["sources"].items()}
    assert counts == {"garden": [3, 0, 2, 1, 0], "mast": [3, 1, 1, 0, 1]}
    assert books["upstreams"]["copy"]["versions"] == 3
    pending = books["upstreams"]["copy"]["pending"]
    assert any(" INFO gateway roof is stopping: what is under way" in line for line in run.lines)
    assert run.lines[-1].endswith(f" INFO gateway roof stopped; pending: {pending} for copy")
    assert ask("status", site)["running"] is False


def test_the_log_is_plain_lines_with_time_level_and_source(site: Path, start: Start) -> None:
    run = start(site, "--log-level", "info")
    run.wait_for("reading lines from")
    assert run.end() == 0
    for line in run.lines:
        moment, level, _ = line.split(" ", 2)
        assert moment.endswith("+00:00")
        assert level == "INFO"


def test_a_log_level_leaves_the_rest_out(site: Path, start: Start, pty_pair: PtyPair) -> None:
    pty_pair.unplug()
    run = start(site, "--log-level", "warning")
    run.wait_for("mast: is away")
    assert run.end() == 0
    assert len(run.lines) == 1


def test_a_port_that_goes_and_comes_back(site: Path, start: Start, pty_pair: PtyPair) -> None:
    run = start(site)
    run.wait_for("reading lines from")
    pty_pair.unplug()
    run.wait_for("WARNING mast: is away")
    pty_pair.replug()
    with pty_pair.peer.open("wb", buffering=0) as line:
        eventually(lambda: bool(line.write(b"22.5\n")) and run.said("INFO mast: is back, after"))
    assert run.end() == 0
    assert sum("mast: is away" in line for line in run.lines) == 1


def test_two_processes_do_not_write_one_store(site: Path, start: Start) -> None:
    first = start(site)
    first.wait_for("is running")
    second = start(site)
    assert second.process.wait(30) == 1
    second.wait_for(f"gateway.db is being written by process {first.process.pid}; stop it first")
    assert len(second.lines) == 1
    assert ask("status", site)["pid"] == first.process.pid, "the second took the first one's socket away"
    assert first.end() == 0
