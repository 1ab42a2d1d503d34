"""The README's examples, run as they stand there: only addresses, tokens and sensors are substituted."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from paho.mqtt import publish

from edgedepot import SQLiteStorage
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import wait_until
from tests.servers.socat import PtyPair
from tests.servers.victoria import VictoriaMetrics

README = Path(__file__).parent.parent / "README.md"
COMMAND = Path(sys.executable).with_name("edgedepot")
WEATHER = '{"temperature": 21.5, "humidity": 40}'


def example(language: str, containing: str, substitutes: Mapping[str, str]) -> str:
    """The one block of that language with that text, and what stands for what in it. Each substitute has its place."""
    blocks = [
        block for block in re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S) if containing in block
    ]
    assert len(blocks) == 1, f"{len(blocks)} {language} blocks contain {containing!r}"
    text: str = blocks[0]
    for found, instead in substitutes.items():
        assert found in text, f"the README has no {found!r} any more"
        text = text.replace(found, instead)
    return text


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, until SIGTERM at the end; fails when that does not end it well."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, text=True)
        try:
            yield process
        except BaseException:
            process.kill()
            print((folder / "log").read_text())
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
    assert code == 0, (folder / "log").read_text()


def send_and_await(mosquitto: Mosquitto, pty_pair: PtyPair, url: str) -> None:
    """Have both devices send until a reading of each is upstream: what they send before somebody listens is lost."""

    def both_arrived() -> bool:
        publish.single("weather/garden/data", WEATHER, qos=1, port=mosquitto.port)
        with pty_pair.peer.open("wb", buffering=0) as line:
            line.write(b"18.25,55\n")
        with psycopg.connect(url) as connection:
            if connection.execute("SELECT to_regclass('weatherstation')").fetchone() == (None,):
                return False
            query = "SELECT device_id, min(temperature) FROM weatherstation GROUP BY device_id ORDER BY device_id"
            return connection.execute(query).fetchall() == [("garden", 21.5), ("mast", 18.25)]

    wait_until(both_arrived, "both readings are upstream", 40)


def output_of(command: list[str], folder: Path) -> str:
    """What a command writes; of one that goes on until Ctrl-C, its first line."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if command[1] == "tail":
            written = process.stdout.readline()
            process.send_signal(signal.SIGINT)
        else:
            written = process.stdout.read()
    assert process.returncode == 0, command
    return written


@pytest.fixture
def addresses(mosquitto: Mosquitto, pty_pair: PtyPair, timescale_url: str) -> dict[str, str]:
    return {
        "mqtt://localhost": mosquitto.url,
        "/dev/serial/by-id/usb-mast": str(pty_pair.device),
        "postgresql://user:password@central/iot": timescale_url,
    }


def test_the_gateway_in_python(
    tmp_path: Path, addresses: dict[str, str], mosquitto: Mosquitto, pty_pair: PtyPair, timescale_url: str
) -> None:
    (tmp_path / "gateway.py").write_text(example("python", "gateway.run()", addresses))
    with running([sys.executable, "gateway.py"], tmp_path):
        send_and_await(mosquitto, pty_pair, timescale_url)
    with SQLiteStorage(tmp_path / "gateway.db", read_only=True) as store:
        assert store.ledger().problems == []


def test_the_gateway_in_toml_and_the_commands_beside_it(
    tmp_path: Path, addresses: dict[str, str], mosquitto: Mosquitto, pty_pair: PtyPair, timescale_url: str
) -> None:
    (tmp_path / "gateway.toml").write_text(example("toml", "[gateway]", addresses))
    commands = [line.split("#")[0].split() for line in example("sh", "edgedepot run", {}).splitlines() if line.strip()]
    names = [command[1] for command in commands]
    shown = ["status", "query", "devices", "tail", "export", "import", "ledger", "quarantine", "plan", "reconcile"]
    assert names == ["check", "run", *shown]
    check, run, *others = [[str(COMMAND), *command[1:]] for command in commands]
    subprocess.run(check, cwd=tmp_path, check=True)
    with running(run, tmp_path):
        send_and_await(mosquitto, pty_pair, timescale_url)
        printed = {other[1]: output_of(other, tmp_path) for other in others}
    assert "weather" in printed["status"]
    assert "21.5" in printed["query"]
    assert "garden" in printed["devices"]
    assert "temperature=" in printed["tail"]
    assert "in weather.csv" in printed["export"]
    assert " new, 0 merged, 0 duplicates" in printed["import"]
    assert "central" in printed["ledger"]
    assert printed["quarantine"] == "Nothing is quarantined.\n"
    assert "on the wire" in printed["plan"]
    assert "central" in printed["reconcile"]


def test_the_script(tmp_path: Path) -> None:
    """Into a real VictoriaMetrics, which takes InfluxDB's line protocol. No InfluxDB 2 can be had for the tests."""
    sensor = "class sensor:\n    @staticmethod\n    def read() -> float:\n        return 21.5\n\n"
    with VictoriaMetrics() as victoria:
        script = example("python", "while True", {"http://central:8086": victoria.url, '"..."': '"any"'})
        (tmp_path / "script.py").write_text(sensor + script)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=log)
        selector = 'greenhouse_temperature{device_id="bench-1",gateway_id="farm-3"}'
        try:
            wait_until(lambda: victoria.count(selector) > 0, "the reading is upstream", 30)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
        assert victoria.export(selector)[0]["values"][0] == 21.5
    assert (tmp_path / "log").read_text().rstrip().endswith("KeyboardInterrupt")
    with SQLiteStorage(tmp_path / "greenhouse.db", read_only=True) as store:
        assert store.ledger().problems == []


def test_receipts_and_questions(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    with SQLiteStorage(tmp_path / "greenhouse.db") as store:
        names["store"] = store
        exec("from edgedepot import Reading\nclass Greenhouse(Reading):\n    temperature: float", names)
        exec(example("python", 'receipt.wait("durable")', {}), names)
        questions = example("python", "store.query_readings", {})
        (reading,) = eval(questions.splitlines()[0], names)
        assert (reading["device_id"], reading["temperature"]) == ("bench-1", 21.5)
        assert eval(questions.splitlines()[1], names) == {"result": 21.5}
        (bucket,) = eval(questions.splitlines()[2], names)
        assert bucket["bucket"] <= datetime.now(UTC)


def test_every_example_is_run_here() -> None:
    languages = re.findall(r"```(\w+)\n", README.read_text())
    assert sorted(languages) == sorted(["sh"] * 4 + ["python"] * 4 + ["toml"])
