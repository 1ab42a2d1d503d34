"""Devices: they send readings with their own time and a counter, and keep a record of what they sent."""

import json
import os
import random
import threading
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

NOBODY_LISTENS = 0x10
"""PUBACK's reason when no session wants the message: accepted, and gone."""


class Sample(NamedTuple):
    """One reading, as its device knows it."""

    device: str
    timestamp: datetime
    counter: int
    temperature: float
    humidity: float


class Sensor:
    """Makes the readings of one device: every one has a time and a counter of its own."""

    def __init__(self, device: str, seed: int) -> None:
        self.device = device
        self._dice = random.Random(f"{seed} {device}")
        self._counter = 0
        self._last = datetime.min.replace(tzinfo=UTC)

    def measure(self) -> Sample:
        self._counter += 1
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        temperature = round(self._dice.uniform(-20, 45), 2)
        humidity = float(self._dice.randrange(20, 95))  # goes out as 40.0 or 40: a device may send either
        return Sample(self.device, self._last, self._counter, temperature, humidity)


def as_json(sample: Sample) -> bytes:
    """Device time as ISO 8601 in UTC with microseconds; every other humidity without a decimal point."""
    humidity = int(sample.humidity) if sample.counter % 2 else sample.humidity
    fields = {"counter": sample.counter, "temperature": sample.temperature, "humidity": humidity}
    return json.dumps({"timestamp": _iso(sample), **fields}).encode()


def as_csv(sample: Sample) -> bytes:
    """`timestamp,counter,temperature,humidity`"""
    return f"{_iso(sample)},{sample.counter},{sample.temperature},{sample.humidity}".encode()


def _iso(sample: Sample) -> str:
    return sample.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z")


def undecodable(number: int, device: str) -> bytes:
    """Bytes that are no reading in any format that is used here, different each time."""
    text = f"no reading {number} of {device}".encode()
    return (text, b"\xff\xfe " + text, b'{"timestamp": "' + text, b"[1, 2, " + text)[number % 4]


@dataclass
class Message:
    """One MQTT message: its reading (None: undecodable), and when the broker acknowledged it (monotonic)."""

    payload: bytes
    sample: Sample | None
    acknowledged: float | None = None
    heard: bool = True
    """False when the broker answered that no session wants it."""


class MqttDevice:
    """One device with a connection and a session of its own. What is not acknowledged is sent again after a
    reconnect, by paho. `send` may be called from one thread."""

    def __init__(self, name: str, port: int, seed: int) -> None:
        self.sensor = Sensor(name, seed)
        self.messages: list[Message] = []
        self._by_mid: dict[int, Message] = {}
        self._early: dict[int, tuple[float, bool]] = {}
        self._lock = threading.Lock()
        self._topic = f"garden/{name}/data"
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"device-{name}", protocol=MQTTv5)
        self._client.on_publish = self._on_puback
        self._client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=session)
        self._client.loop_start()

    def send(self, payload: bytes, sample: Sample | None) -> None:
        """Hand a message to the connection; while there is none it is kept. Does not block."""
        message = Message(payload, sample)
        self.messages.append(message)
        mid = self._client.publish(self._topic, payload, qos=1).mid
        # The PUBACK may have come already. Not locked around publish(): paho calls us back with its own lock held.
        with self._lock:
            if mid in self._early:
                message.acknowledged, message.heard = self._early.pop(mid)
            else:
                self._by_mid[mid] = message

    @property
    def unacknowledged(self) -> int:
        with self._lock:
            return len(self._by_mid)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_puback(self, client: Client, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        answer = time.monotonic(), reason.value != NOBODY_LISTENS
        with self._lock:
            if mid in self._by_mid:
                message = self._by_mid.pop(mid)
                message.acknowledged, message.heard = answer
            else:
                self._early[mid] = answer


class Paced:
    """A thread that does `total` steps spread over `duration` seconds, a little unevenly; late ones follow at once."""

    def __init__(self, name: str, total: int, duration: float, seed: int) -> None:
        self.total = total
        self.done = 0
        self._duration = duration
        self._dice = random.Random(f"{seed} {name}")
        self._given_up = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether it did all its steps. Raises what went wrong in one of them."""
        if self._error:
            raise self._error
        return self.done == self.total

    def stop(self) -> None:
        """Give up what is not done yet."""
        self._given_up.set()
        self._thread.join(10)

    def step(self, index: int) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        began = time.monotonic()
        try:
            for index in range(self.total):
                due = began + (index + self._dice.random()) / self.total * self._duration
                if self._given_up.wait(max(0.0, due - time.monotonic())):
                    return
                self.step(index)
                self.done = index + 1
        except Exception as exc:  # noqa: BLE001  (a thread's outermost edge: `finished` raises it)
            self._error = exc


class MqttFleet(Paced):
    """Many devices that publish with QoS 1, in turn; `broken` of their messages are undecodable, evenly spread."""

    def __init__(
        self, port: int, devices: int, messages: int, duration: float, *, broken: int = 0, seed: int = 0
    ) -> None:
        super().__init__("fleet", messages + broken, duration, seed)
        self.broken = broken
        self.devices = [MqttDevice(f"plot-{number:02}", port, seed) for number in range(devices)]

    def step(self, index: int) -> None:
        device = self.devices[index % len(self.devices)]
        if _is_broken(index, self.total, self.broken):
            device.send(undecodable(index, device.sensor.device), None)
        else:
            sample = device.sensor.measure()
            device.send(as_json(sample), sample)

    @property
    def messages(self) -> list[Message]:
        return [message for device in self.devices for message in device.messages]

    @property
    def all_acknowledged(self) -> bool:
        return self.finished and not any(device.unacknowledged for device in self.devices)

    def close(self) -> None:
        self.stop()
        for device in self.devices:
            device.close()


@dataclass(frozen=True)
class Line:
    """One serial line: its reading (None: undecodable), and when its write began and was done (monotonic)."""

    text: bytes
    sample: Sample | None
    began: float
    done: float


class SerialDevice(Paced):
    """A device at the far end of a serial line. Unlike a wire a pty makes it wait when nobody reads for long."""

    def __init__(
        self,
        path: Path,
        lines: int,
        duration: float,
        *,
        device: str = "mast",
        encode: Callable[[Sample], bytes] = as_csv,
        broken: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__("serial", lines + broken, duration, seed)
        self.broken = broken
        self.lines: list[Line] = []
        self._sensor = Sensor(device, seed)
        self._encode = encode
        self._port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._port)

    def step(self, index: int) -> None:
        sample = None if _is_broken(index, self.total, self.broken) else self._sensor.measure()
        text = self._encode(sample) if sample else undecodable(index, self._sensor.device)
        began = time.monotonic()
        left = text + b"\r\n"
        while left:
            left = left[os.write(self._port, left) :]
        self.lines.append(Line(text, sample, began, time.monotonic()))

    def close(self) -> None:
        self.stop()
        os.close(self._port)


def _is_broken(index: int, total: int, broken: int) -> bool:
    """Whether step `index` of `total` is one of the `broken` evenly spread ones."""
    return index * broken // total != (index + 1) * broken // total
