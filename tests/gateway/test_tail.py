"""`edgedepot tail` beside a process that writes the store."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from edgedepot import Field, Reading, SQLiteStorage
from tests.gateway.program import PROGRAM, complaint
from tests.models import Weather
from tests.servers.process import wait_until

START = datetime(2026, 1, 1, tzinfo=UTC)


class Power(Reading):
    watts: int


class Tail:
    """A running `tail`; what it writes is read line by line."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: IO[bytes]) -> None:
        self.process = process
        self._stdout = stdout
        self._read = b""

    def line(self) -> str:
        """The next line, waited for."""
        while b"\n" not in self._read:
            readable, _, _ = select.select([self._stdout], [], [], 30)
            part = os.read(self._stdout.fileno(), 65536) if readable else b""
            assert part, f"no line came; before: {self._read!r}"
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode() + "\n"

    def row(self) -> dict[str, object]:
        """The next line of JSON."""
        found: dict[str, object] = json.loads(self.line())
        return found

    def close_pipe(self) -> None:
        self._stdout.close()


@contextmanager
def tail(*arguments: str | Path) -> Iterator[Tail]:
    command = [PROGRAM, "tail", *arguments, "--every", "50 ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield Tail(process, process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
            said = process.stderr.read().decode()
    assert (code, said) == (0, "")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "gateway.db") as store:
        yield store


def put(store: SQLiteStorage, seconds: float, temperature: float, device: str = "mast", **more: object) -> None:
    moment = START + timedelta(seconds=seconds)
    store.store_reading(Weather, device, moment, {"temperature": temperature, **more}).wait("committed")


def temperatures(shown: Tail, number: int) -> list[object]:
    return [shown.row()["temperature"] for _ in range(number)]


def test_the_last_readings_and_then_new_ones(store: SQLiteStorage) -> None:
    for index in range(5):
        put(store, index, index)
    with tail(store.path, "weather", "-n", "2", "--json") as shown:
        assert temperatures(shown, 2) == [3, 4]
        put(store, 5, 5)
        assert shown.row() == {
            "model": "weather",
            "device_id": "mast",
            "timestamp": "2026-01-01T00:00:05+00:00",
            "temperature": 5.0,
            "humidity": None,
            "raining": None,
            "note": None,
            "count": None,
        }
        put(store, 6, 6)
        put(store, 7, 7)
        assert temperatures(shown, 2) == [6, 7]


def test_late_and_merged_readings_are_shown_and_nothing_twice(store: SQLiteStorage) -> None:
    put(store, 100, 1)
    with tail(store.path, "weather", "--json") as shown:
        assert shown.row()["temperature"] == 1
        put(store, 95, 2, "cellar")
        assert shown.row()["device_id"] == "cellar"
        put(store, 95, 2, "cellar", humidity=50)
        assert shown.row()["humidity"] == 50
        put(store, 95, 2, "cellar")  # a duplicate
        put(store, 101, 3)
        assert shown.row()["temperature"] == 3


def test_a_clock_that_is_ahead_does_not_hide_other_devices(store: SQLiteStorage) -> None:
    now = datetime.now(UTC)
    for days, value in ((400, 1.0), (401, 2.0)):
        store.store_reading(Weather, "ahead", now + timedelta(days=days), {"temperature": value}).wait()
    with tail(store.path, "weather", "-n", "1", "--json") as shown:
        assert shown.row()["temperature"] == 2
        store.store_reading(Weather, "mast", now, {"temperature": 3.0}).wait()
        assert shown.row()["temperature"] == 3


def test_all_models_also_those_that_come_later(store: SQLiteStorage) -> None:
    put(store, 0, 1.5, note="a\nb\x1b[2J", raining=True)
    with tail(store.path) as shown:
        assert shown.line() == (
            '2026-01-01T00:00:00+00:00  weather  mast  temperature=1.5 °C  raining=yes  note="a\\nb\\u001b[2J"\n'
        )
        store.store_reading(Power, "meter\n2", START, {"watts": 7}).wait()
        assert shown.line() == "2026-01-01T00:00:00+00:00  power  meter\\n2  watts=7\n"


def test_an_empty_store(store: SQLiteStorage) -> None:
    with tail(store.path, "--tz", "Asia/Tokyo") as shown:
        put(store, 0, 1)
        assert shown.line() == "2026-01-01T09:00:00+09:00  weather  mast  temperature=1 °C\n"


def test_only_a_device_and_a_field(store: SQLiteStorage) -> None:
    put(store, 0, 1, "cellar", note="w")
    with tail(store.path, "weather", "--device", "cellar", "--fields", "note", "--json") as shown:
        assert shown.row()["note"] == "w"
        put(store, 1, 1)
        put(store, 2, 2, "cellar", note="x")
        assert shown.row() == {
            "model": "weather",
            "device_id": "cellar",
            "timestamp": "2026-01-01T00:00:02+00:00",
            "note": "x",
        }


def test_a_flagged_reading_shows_its_flags(store: SQLiteStorage) -> None:
    """JSON has what it always has."""

    class Boiler(Reading):
        temperature: float = Field(range=(0, 100))

    store.store_reading(Boiler, "a", START, {"temperature": 50.0}).wait()
    store.store_reading(Boiler, "b", START, {"temperature": 999.0}).wait()
    with tail(store.path) as lines:
        assert lines.line().endswith("  boiler  a  temperature=50\n")
        assert lines.line().endswith("  boiler  b  temperature=999  quality=1\n")
    with tail(store.path, "--json") as lines:
        assert list(lines.row()) == ["model", "device_id", "timestamp", "temperature"]


def test_it_ends_when_nobody_reads_any_more(store: SQLiteStorage) -> None:
    put(store, 0, 1)
    with tail(store.path, "weather") as shown:
        shown.line()
        shown.close_pipe()
        wait_until(lambda: shown.process.poll() == 0, "it ended, though nothing new came", 30)


def test_ctrl_c_ends_it(store: SQLiteStorage) -> None:
    put(store, 0, 1)
    with tail(store.path, "weather") as shown:
        shown.line()
        shown.process.send_signal(signal.SIGINT)
        assert shown.process.wait(30) == 0


def test_what_cannot_be_followed(store: SQLiteStorage) -> None:
    put(store, 0, 1)
    assert 'no model "wind"' in complaint("tail", store.path, "wind")
    assert "--fields goes with MODEL" in complaint("tail", store.path, "--fields", "note")
    assert "Weather has no field 'speed'" in complaint("tail", store.path, "weather", "--fields", "speed")
    assert "--every: found 'never'" in complaint("tail", store.path, "--every", "never")
