"""Resident memory and start of an idle gateway with one MQTT driver, one serial driver and one TimescaleDB upstream.

The floor is a bare interpreter that imported sqlite3, paho, pyserial, msgspec and psycopg. The gateway is `edgedepot
run` with real peers; it has carried a message and a line upstream before its memory is read, so everything it needs for
its job is loaded. Its start is timed until its log says that it is running.
"""

import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil
import psycopg

from tests.benchmarks.report import Comparison, progress, read_options, report
from tests.end_to_end.devices import MqttFleet, SerialDevice
from tests.end_to_end.gateway_process import RUNNING, GatewayProcess, Settings
from tests.end_to_end.judge import read_table
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import wait_until
from tests.servers.socat import PtyPair
from tests.servers.timescale import TimescaleServer

FLOOR = "import sqlite3, paho.mqtt.client, serial, msgspec, psycopg; print(flush=True); input()"
MEBIBYTE = 1 << 20
SETTLED_SECONDS = 2.0
"""The memory is read when it did not grow for that long."""


class Footprint(NamedTuple):
    """Start in seconds, resident memory in MiB."""

    start: float
    memory: float


def measure_floor() -> Footprint:
    command = [sys.executable, "-c", FLOOR]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        began = time.monotonic()
        assert process.stdout
        process.stdout.readline()
        started = time.monotonic()
        memory = settled_memory(process.pid)
        process.communicate(b"\n")
    return Footprint(started - began, memory)


def measure_product(broker: Mosquitto, ports: PtyPair, database: TimescaleServer) -> Footprint:
    url = database.url(database.create_database())
    with TemporaryDirectory() as folder, ExitStack() as running:
        gateway = GatewayProcess(Path(folder), Settings(broker.url, ports.device, url))
        running.callback(gateway.close)
        began = gateway.start()
        started = gateway.wait_for_log(RUNNING)
        carry(broker, ports, url)
        memory = settled_memory(gateway.pid)
        if gateway.terminate() != 0:
            raise RuntimeError(f"the gateway did not stop in order:\n{gateway.log_tail()}")
    return Footprint(started - began, memory)


def carry(broker: Mosquitto, ports: PtyPair, url: str) -> None:
    """Have the gateway carry a message and some lines (the first may be taken for a fragment) to the database."""

    def arrived() -> bool:
        try:
            return len({row.sample.device for row in read_table(url)}) == 2
        except psycopg.errors.UndefinedTable:
            return False

    with closing(MqttFleet(broker.port, 1, 1, 0.1)) as fleet, closing(SerialDevice(ports.peer, 3, 0.1)) as mast:
        fleet.start()
        mast.start()
        wait_until(arrived, "a message and a line are upstream", 30)


def settled_memory(pid: int) -> float:
    """The resident memory of a process in MiB, once it does not grow any more."""
    process = psutil.Process(pid)
    greatest, since = 0, time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS:
        found = process.memory_info().rss
        if found > greatest:
            greatest, since = found, time.monotonic()
        time.sleep(0.05)
    return greatest / MEBIBYTE


def main() -> None:
    options = read_options(__doc__)
    floor, product = [], []
    with Mosquitto() as broker, PtyPair() as ports, TimescaleServer() as database:
        for number in range(options.rounds):
            floor.append(measure_floor())
            product.append(measure_product(broker, ports, database))
            for kind, found in ("floor", floor[-1]), ("product", product[-1]):
                progress(f"round {number + 1}, {kind}: {found.memory:.1f} MiB, {found.start:.3f} s")
    memory = Comparison("resident memory", "MiB", [it.memory for it in floor], [it.memory for it in product], 1.25)
    start = Comparison("start", "s", [it.start for it in floor], [it.start for it in product], 1.5, plus=0.3)
    report(options, [memory, start])


if __name__ == "__main__":
    main()
