"""Readings from an MQTT broker, acknowledged once they are durable.

    network ──Connection.exchange──> messages ──decode──> Intake ──take_in──> Receipt
       ^                                                                         │ durable
       └─────────acknowledge, in order, on the same connection───── Window <─────┘

A message that was not acknowledged when the connection or the process ends is sent again by the broker, for the
session is persistent. It is then known by its identity, or, within one process, by its packet id (session.py).

Reconnecting is the supervisor's: every `run` is one connection. So there is one backoff, which a broker that accepts
and drops us does not reset, and nothing of an earlier connection can get into a later one.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

from edgedepot.drivers.address import read_address
from edgedepot.drivers.base import Driver, Sink
from edgedepot.drivers.broker import Connection
from edgedepot.drivers.decoding import MAX_PAYLOAD, Decoder
from edgedepot.drivers.formats import Format, make_format
from edgedepot.drivers.session import Session, Taken
from edgedepot.drivers.topics import Devices, TopicTemplate
from edgedepot.drivers.wake import Wake
from edgedepot.drivers.window import Window
from edgedepot.storage.errors import ConfigError, TransportError
from edgedepot.storage.reading import Reading

log = logging.getLogger(__name__)

MAX_DEVICES = 1000
BROKERS_WINDOW = 20
"""Messages in flight over 3.1.1, where the broker decides: 20 with mosquitto, not less with any other we know of."""
SHORT_LIFE = 10.0
"""Seconds; connections that keep ending within it are flapping, which mostly means two clients with one id."""
FLAPPING = 3


class MqttDriver(Driver):
    """Subscribes with QoS 1 and stores each message as a reading of the device that its topic names.

    `url` is ``mqtt://host``, ``mqtt://user:password@host:1883`` or ``mqtts://host``. `topic` has ``{device_id}`` as one
    of its levels, as in ``"weather/{device_id}/data"``; where all messages come from one device, give `device_id`
    instead. ``+`` and ``#`` may stand beside either. `format` is "json" (one object), "value" (a single value, for
    `field`), "csv" (with `columns`), "keyvalue", or a `Format`; other keywords are the format's options. `timestamp`
    names the key of the device's own time, see `drivers.timestamps`; None or "" if it has none.

    The session outlives the connection by `session_expiry` under `client_id`, by default made from the gateway's and
    the driver's name; every client needs one of its own. With `protocol` "5" at most `receive_maximum` messages are
    under way unacknowledged, and from half of that on the store commits early. Brokers that allow fewer are slowed to
    that many per flush interval: then set it to what the broker allows. With "3.1.1" the store commits as soon as
    messages pause for 20 ms, or 20 wait: more wear for the disk, and some brokers drop silently what is too much.
    What a broker holds while nobody is connected is bounded by its own queue (mosquitto: `max_queued_messages`).

    `ca_file`, `cert_file` and `key_file` are for mqtts, in PEM; without `ca_file` the system's authorities count.
    Messages over `max_payload` bytes are rejected, and so is a reading of a further new device after `max_devices`.

    Retained messages are ignored. Raises `ConfigError` that names the setting.
    """

    def __init__(
        self,
        url: str,
        topic: str,
        model: type[Reading],
        *,
        device_id: str | None = None,
        format: str | Format = "json",
        timestamp: str | None = "timestamp",
        client_id: str | None = None,
        username: str | None = None,
        password: str | None = None,
        protocol: Literal["5", "3.1.1"] = "5",
        session_expiry: str | float | timedelta = "1d",
        receive_maximum: int = 5000,
        keepalive: str | float | timedelta = "60s",
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        max_payload: int = MAX_PAYLOAD,
        max_devices: int = MAX_DEVICES,
        **format_options: Any,
    ) -> None:
        super().__init__()
        self._address = read_address(
            url,
            username=username,
            password=password,
            protocol=protocol,
            session_expiry=session_expiry,
            receive_maximum=receive_maximum,
            keepalive=keepalive,
            files=(ca_file, cert_file, key_file),
        )
        for name, found in (("max_payload", max_payload), ("max_devices", max_devices)):
            if type(found) is not int or found < 1:
                raise ConfigError(f"{name}: found {found!r}, expected a number from 1 on")
        if client_id is not None and not 0 < len(client_id.encode("utf-8", "replace")) <= 65_535:
            raise ConfigError(f"client_id: found {client_id[:80]!r}, expected 1 to 65535 bytes")
        self._client_id = client_id
        template = TopicTemplate(topic, device_id)
        self._filter = template.filter
        self._devices = Devices(template, max_devices)
        made = make_format(format, format_options, type(self))
        self._decoder = Decoder(model, made, timestamp=timestamp or None, max_payload=max_payload)
        self._taken: Taken = {}
        self._short_lives = 0
        self._wake: Wake | None = None

    def run(self, sink: Sink) -> None:
        with self._progress.running(sink.clock):
            self._wake = wake = Wake()
            try:
                if not self._stopping.is_set():  # after the wake exists: `stop` does one of the two
                    self._connect(sink, wake)
            finally:
                wake.close()

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None:
            wake.set()

    def _connect(self, sink: Sink, wake: Wake) -> None:
        self._progress.enter("connecting")
        client_id = self._client_id or f"edgedepot-{sink.gateway_id or socket.gethostname()}-{sink.source}"
        connection = Connection(self._address, client_id, wake)
        opened: float | None = None
        try:
            connection.open(self._stopping)
            if not self._stopping.is_set():
                with self._session(connection, sink, wake) as session:
                    session.subscribe(self._filter, self._stopping)
                    opened = sink.clock.monotonic()
                    self._serve(session, sink.source)
        except TransportError as exc:
            if opened is not None:
                self._explain_flapping(exc, sink.clock.monotonic() - opened, client_id)
            raise
        finally:
            connection.close()

    def _serve(self, session: Session, source: str) -> None:
        if not self._stopping.is_set():
            log.info("%s: subscribed to %s at %s", source, self._filter, self._address)
            self._progress.enter("connected")
            session.serve(self._stopping)
        self._progress.enter("stopping")
        session.finish()

    @contextmanager
    def _session(self, connection: Connection, sink: Sink, wake: Wake) -> Iterator[Session]:
        five = self._address.is_version_5
        window = Window(max(1, self._address.receive_maximum // 2) if five else BROKERS_WINDOW, wake.set)
        taken = self._taken if connection.session_present else {}
        session = Session(
            connection, window, sink, self._decoder, self._devices, self._progress, hurries=not five, taken=taken
        )
        try:
            yield session
        finally:
            self._taken = window.leftovers()
            if not connection.subscribed:  # the broker was not done with sending again
                self._taken = taken | self._taken

    def _explain_flapping(self, exc: TransportError, lasted: float, client_id: str) -> None:
        self._short_lives = self._short_lives + 1 if lasted < SHORT_LIFE else 0
        if self._short_lives >= FLAPPING:
            raise TransportError(
                f"{exc}; {self._short_lives} connections in a row ended within {SHORT_LIFE:g} s: does another client"
                f" use the client id {client_id!r}?"
            ) from exc
