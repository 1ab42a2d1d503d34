"""The processes that `serial_to_durable` measures: `floor` and `product`."""

import logging
import resource
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import serial

from tests.benchmarks.child import listen, say, settings_from_command_line

FLUSH = "1s"


class BarePort:
    """A thread that reads chunks from a port and splits them into lines."""

    def __init__(self, name: str) -> None:
        self.lines = 0
        self._port = serial.Serial(name, 115200, timeout=1)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopped = True
        self._thread.join()
        self._port.close()

    def _run(self) -> None:
        port, rest = self._port, b""
        while not self._stopped:
            chunk = port.read(1)
            chunk += port.read(port.in_waiting)
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += len(lines)


def run_floor(settings: Mapping[str, Any]) -> Callable[[], int]:
    """Start the floor; returns what stops it and tells how many lines it saw."""
    ports = [BarePort(name) for name in settings["ports"]]

    def stop() -> int:
        for port in ports:
            port.close()
        return sum(port.lines for port in ports)

    return stop


def run_product(settings: Mapping[str, Any]) -> Callable[[], int]:
    """Start a gateway with a driver for each port; returns what stops it and tells how many lines it committed."""
    from edgedepot import Field, Gateway, Reading, SerialLineDriver, SQLiteStorage

    class Weather(Reading):
        counter: int
        temperature: float = Field(unit="°C", range=(-40, 80))
        humidity: float

    gateway = Gateway(SQLiteStorage(settings["store"], flush_interval=FLUSH))
    columns = ["timestamp", "counter", "temperature", "humidity"]
    for number, name in enumerate(settings["ports"]):
        driver = SerialLineDriver(
            name, Weather, device_id=f"mast-{number}", baudrate=115200, format="csv", columns=columns
        )
        gateway.add(f"mast-{number}", driver)
    opened = _Opened(len(settings["ports"]))
    gateway.start()
    opened.wait()

    def stop() -> int:
        gateway.stop()
        with SQLiteStorage(settings["store"], read_only=True) as store:
            return sum(counts["new"] for counts in store.ledger().sources.values())

    return stop


class _Opened(logging.Handler):
    """Waits until the drivers have said that they read from all ports."""

    def __init__(self, ports: int) -> None:
        super().__init__()
        self._ports = threading.Semaphore(0)
        self._number = ports
        logging.getLogger("edgedepot").addHandler(self)
        logging.getLogger("edgedepot").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if "reading lines from" in record.getMessage():
            self._ports.release()

    def wait(self) -> None:
        for _ in range(self._number):
            if not self._ports.acquire(timeout=30):
                raise TimeoutError(f"not all of {self._number} ports are open after 30 s")


def main() -> None:
    settings = settings_from_command_line()
    stop = {"floor": run_floor, "product": run_product}[settings["kind"]](settings)
    say(ready=True)
    while listen("measure", "stop") == "measure":
        usage = resource.getrusage(resource.RUSAGE_SELF)
        say(cpu=usage.ru_utime + usage.ru_stime, time=time.monotonic())
    say(lines=stop())


if __name__ == "__main__":
    main()
