"""Simulated devices: what they send is counted here, apart from everything that the gateway counts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import threading
import time
import tty
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from edgedepot.storage.reading import Field, Reading

_PATIENCE = 20.0


class WeatherStation(Reading):
    """What the station on the serial line measures."""

    temperature: float = Field(unit="°C", range=(-40, 80))
    humidity: float = Field(unit="%", range=(0, 100))
    wind: float = Field(unit="m/s", range=(0, 100))


class Bed(Reading):
    """What a device in the garden measures."""

    moisture: float = Field(unit="%", range=(0, 100))
    light: int = Field(unit="lx")


class _Sender:
    """Something that sends at a steady pace, in a thread, from `start` until `stop`."""

    def __init__(self, name: str, rate: float) -> None:
        self.sent = 0
        """Good readings so far."""
        self._pace = 1 / rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edgedepot-demo-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no more; returns when what was sent is on its way."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due += self._pace
            self._send()

    def _send(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Station(_Sender):
    """A weather station that writes CSV lines to a serial port: a pseudo-terminal. Now and then a line is broken."""

    BROKEN_EVERY = 100

    def __init__(self, rate: float) -> None:
        super().__init__("station", rate)
        self.broken = 0
        self._line, self._port = os.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._line, False)
        self.port = os.ttyname(self._port)

    def _send(self) -> None:
        phase = time.monotonic() / 10
        values = (21 + 3 * math.sin(phase) + random.gauss(0, 0.1), 55 + 5 * math.cos(phase), abs(random.gauss(3, 1)))
        is_broken = (self.sent + self.broken) % self.BROKEN_EVERY == self.BROKEN_EVERY // 2
        line = "?#!$%" if is_broken else ",".join(f"{value:.2f}" for value in values)
        with contextlib.suppress(BlockingIOError):  # nobody reads: as on a wire, the line is gone
            os.write(self._line, line.encode() + b"\n")
            self.broken += is_broken
            self.sent += not is_broken

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        os.close(self._line)
        os.close(self._port)


class Garden(_Sender):
    """Devices that publish JSON with QoS 1, each with its own clock's time."""

    def __init__(self, port: int, rate: float, devices: int) -> None:
        super().__init__("garden", rate)
        self.devices = devices
        self._port = port
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._last: MQTTMessageInfo | None = None

    def start(self) -> None:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._last is not None:
            self._last.wait_for_publish(_PATIENCE)
        self._client.disconnect()
        self._client.loop_stop()

    def _send(self) -> None:
        device = self.sent % self.devices + 1
        reading = {
            "timestamp": datetime.now(UTC).isoformat(),
            "moisture": round(40 + 5 * math.sin(time.monotonic() / 20 + device), 2),
            "light": random.randrange(200, 60_000),
        }
        self._last = self._client.publish(f"garden/bed-{device}/data", json.dumps(reading), qos=1)
        self.sent += 1
