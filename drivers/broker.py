"""One connection to an MQTT broker, with paho out of sight.

paho's own network thread is not used: `exchange` waits, reads and writes in the driver's thread. A message then costs
no switch between threads (44 µs instead of 73 in a loop that decodes and acknowledges), one wait serves as many packets
as have come, no callback can end a thread that nobody watches, and `select`'s limit of 1024 files is not met.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgedepot.drivers.address import Address
from edgedepot.drivers.wake import Wake
from edgedepot.storage.errors import TransportError

ANSWER_TIMEOUT = 10.0
"""Seconds for the broker to answer CONNECT and SUBSCRIBE; not longer than the keepalive."""
FAREWELL = 2.0
"""Seconds for the last packets to leave."""
BATCH = 500
"""Messages that are read before they are handed over."""
BATCH_SIZE = 1 << 20
"""Bytes of payload after which they are handed over though they are fewer."""
LONGEST_WAIT = 5.0
"""Seconds until the keepalive is looked at again."""

_LOST = {
    "Keep alive timeout": "the broker has not answered for as long as the keepalive",
    "Protocol error": "what came is not MQTT",
}
"""paho's words for why a connection was lost, and ours."""


class Stub(NamedTuple):
    """What is kept of a message until it is acknowledged. Thousands may wait, of any size, for a store that cannot
    write; what was in them is the store's to hold, and counted there."""

    mid: int
    qos: int
    digest: bytes
    """Of the payload: by it the message is known when it comes again."""


class Message(NamedTuple):
    """A message as it came; `topic` is None where it is not UTF-8."""

    topic: str | None
    payload: bytes
    mid: int
    qos: int
    dup: bool
    retain: bool

    @property
    def stub(self) -> Stub:
        return Stub(self.mid, self.qos, blake2b(self.payload, digest_size=16).digest())


class Connection:
    """A connection with a persistent session, from CONNECT to the end. All calls from one thread.

    Every call may raise `TransportError`, and then the connection is of no use any more. It is the generation of the
    messages that came over it: only it can acknowledge them.
    """

    def __init__(self, address: Address, client_id: str, wake: Wake) -> None:
        self._address = address
        self._client_id = client_id
        self._wake = wake
        self._messages: list[Message] = []
        self._refusal: str | None = None
        self._connected = False
        self._topic_filter = ""
        self._answer_by = 0.0
        self._farewell: str | None = None
        self._selector = selectors.DefaultSelector()
        self._watched = 0
        self.session_present = False
        """Whether the broker still knew us: only then a packet id means what it meant before."""
        self.subscribed = False
        """Whether the broker has confirmed it."""
        self._client = self._make_client()

    def open(self, stopping: threading.Event) -> None:
        """Connect; blocks until the broker has confirmed it, or until `stopping` is set."""
        host: Any = self._address.host
        if host.isascii() and self._address.tls is None:
            host = host.encode()  # for a text Python loads a table of Unicode to look it up: 0.4 MB that stay
        with self._errors():
            self._client.connect(host, self._address.port, self._address.keepalive, **self._session())
        self._selector.register(self._wake.fileno(), selectors.EVENT_READ)
        self._await_welcome(stopping)

    def subscribe(self, topic_filter: str) -> None:
        """Ask for it. The messages that the broker holds for us come before its answer: `exchange` them meanwhile."""
        self._topic_filter = topic_filter
        self._expect_answer()
        if self._address.is_version_5:
            # Retained messages are left aside anyway; with 1 they come only if the session did not know the filter.
            self._client.subscribe(topic_filter, options=SubscribeOptions(qos=1, retainHandling=1))
        else:
            self._client.subscribe(topic_filter, 1)

    def exchange(self, timeout: float | None, reading: bool = True) -> list[Message]:
        """Wait at most `timeout` seconds for messages or the wake; return the messages that came. Sends what is to be
        sent, and keeps the connection alive: to be called again and again. Without `reading` none are taken from the
        network."""
        longest = min(LONGEST_WAIT, self._address.keepalive / 4)
        if self._messages or self._refusal:  # they came with the broker's welcome; it came with messages
            timeout = 0.0
        try:
            self._wait(longest if timeout is None else min(timeout, longest), reading)
            self._wake.clear()
            if reading:
                self._read()
            self.flush()
            self._check(self._client.loop_misc())
            if not self.subscribed:
                self._check_silence(reading)
        except TransportError:
            # What came before the end is handed over, for a broker that was killed may not know of it any more. The
            # next call raises again.
            if not self._messages:
                raise
        messages, self._messages = self._messages, []
        return messages

    def acknowledge(self, stubs: Iterable[Stub]) -> None:
        """Acknowledge messages of this connection, in this order; sent by the next `exchange` or `flush`."""
        for stub in stubs:
            self._client.ack(stub.mid, stub.qos)

    def flush(self) -> None:
        """Send as much as the network takes now."""
        if self._client.want_write():
            self._check(self._client.loop_write())

    def close(self) -> None:
        """Say goodbye, after what was to be sent, and close. The session stays with the broker. Idempotent."""
        found = self._client.socket()
        if found is not None:
            if self._connected:
                with contextlib.suppress(TransportError, OSError), socket.socket(fileno=os.dup(found.fileno())) as line:
                    self._say_goodbye(line)
            found.close()
        self._selector.close()

    def _make_client(self) -> Client:
        five = self._address.is_version_5
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            clean_session=None if five else False,
            protocol=MQTTv5 if five else MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        if self._address.username is not None:
            client.username_pw_set(self._address.username, self._address.password)
        if self._address.tls is not None:
            with self._errors():
                client.tls_set_context(self._address.tls())
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_register_write = _leave_it  # or paho would send each acknowledgement by itself
        return client

    def _session(self) -> dict[str, Any]:
        if not self._address.is_version_5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._address.session_expiry
        properties.ReceiveMaximum = self._address.receive_maximum
        return {"clean_start": False, "properties": properties}

    # paho's callbacks: they note what came, and never raise.

    def _on_connect(self, _: Client, __: Any, flags: ConnectFlags, reason: ReasonCode, ___: Any) -> None:
        if reason.is_failure:
            self._refusal = self._explain_refusal(reason)
        else:
            self._connected = True
            self.session_present = flags.session_present

    def _on_subscribe(self, _: Client, __: Any, ___: int, reasons: list[ReasonCode], ____: Any) -> None:
        failures = [reason for reason in reasons if reason.is_failure]
        if failures:
            self._refusal = (
                f"refuses the subscription to {self._topic_filter!r}: {failures[0]};"
                " does its access list allow this user to read there?"
            )
        else:
            self.subscribed = True

    def _on_disconnect(self, _: Client, __: Any, flags: DisconnectFlags, reason: ReasonCode, ___: Any) -> None:
        name = str(reason)
        if not flags.is_disconnect_packet_from_server:
            self._farewell = _LOST.get(name, "it was closed from the other side")
        elif name == "Session taken over":
            self._farewell = f"another client took over the client id {self._client_id!r}; give each its own client_id"
        else:
            self._farewell = f"the broker ended it: {name}"

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = None
        payload = bytes(message.payload)
        self._messages.append(Message(topic, payload, message.mid, message.qos, message.dup, message.retain))

    def _await_welcome(self, stopping: threading.Event) -> None:
        self._expect_answer()
        while not self._connected and not stopping.is_set():
            self._wait(max(0.0, self._answer_by - time.monotonic()), reading=True)
            self._wake.clear()
            self._read()
            self.flush()
            if not self._connected:
                self._check_answered("CONNECT")

    def _check_silence(self, reading: bool) -> None:
        """Until it has confirmed the subscription, the broker has that long for each message before it, too."""
        if self._messages or not reading:
            self._expect_answer()
        else:
            self._check_answered("SUBSCRIBE")

    def _expect_answer(self) -> None:
        # The network's time, not that of a clock which a test may hold still.
        self._answer_by = time.monotonic() + min(ANSWER_TIMEOUT, self._address.keepalive)

    def _check_answered(self, what: str) -> None:
        if time.monotonic() >= self._answer_by:
            version = "5 (if it speaks 3.1.1 alone, set protocol)" if self._address.is_version_5 else "3.1.1"
            raise TransportError(f"{self._address} does not answer {what}; is it a broker for MQTT {version}?")

    def _wait(self, timeout: float, reading: bool) -> None:
        sock = self._socket()
        if reading and isinstance(sock, ssl.SSLSocket) and sock.pending():
            return  # what TLS holds decrypted does not make the socket readable
        events = selectors.EVENT_READ if reading else 0
        if self._client.want_write():
            events |= selectors.EVENT_WRITE
        if events != self._watched:
            if self._watched:
                self._selector.unregister(sock)
            if events:
                self._selector.register(sock, events)
            self._watched = events
        self._selector.select(timeout)

    def _read(self) -> None:
        """Read what is there; paho does not say whether it found a packet, but a message shows."""
        size = 0
        while True:
            before = len(self._messages)
            self._check(self._client.loop_read())
            if len(self._messages) == before or len(self._messages) >= BATCH:
                return
            size += len(self._messages[-1].payload)
            if size >= BATCH_SIZE:
                return

    def _say_goodbye(self, line: socket.socket) -> None:
        """Send what is left and DISCONNECT. paho closes its socket right after; `line` is a second handle of it: closed
        before all was read, a socket resets the connection, and the broker may never see what we sent last."""
        deadline = time.monotonic() + FAREWELL
        self._client.disconnect()
        while self._client.want_write() and (left := deadline - time.monotonic()) > 0:
            self._wait(left, reading=False)
            self._client.loop_write()
        line.shutdown(socket.SHUT_WR)
        line.settimeout(FAREWELL)
        while line.recv(65_536) and time.monotonic() < deadline:
            pass

    def _socket(self) -> Any:
        found = self._client.socket()
        if found is None:
            self._check(MQTTErrorCode.MQTT_ERR_NO_CONN)
        return found

    def _check(self, code: MQTTErrorCode) -> None:
        """Raise what paho's answers and callbacks amount to, if it is an error."""
        if self._refusal is not None:
            raise TransportError(f"{self._address} {self._refusal}")
        if self._farewell is not None:
            raise TransportError(f"connection to {self._address}: {self._farewell}")
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise TransportError(f"connection to {self._address}: {code.name}")

    def _explain_refusal(self, reason: ReasonCode) -> str:
        name = str(reason)
        if name in ("Bad user name or password", "Not authorized"):
            who = "a client without username" if self._address.username is None else f"user {self._address.username!r}"
            return f"refuses {who}: {name}; check username and password"
        if name == "Unsupported protocol version":
            return "does not speak MQTT 5; set protocol to '3.1.1'"
        if name == "Client identifier not valid":
            return f"refuses the client id {self._client_id!r}; set another client_id"
        return f"refuses the connection: {name}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """The one place where errors of sockets, TLS and name look-ups are mapped."""
        try:
            yield
        except ssl.SSLCertVerificationError as exc:
            why = f"its certificate is not trusted ({exc.verify_message}); is ca_file the authority that signed it?"
            raise TransportError(f"cannot connect to {self._address}: {why}") from exc
        except (OSError, ValueError) as exc:  # ValueError: a host name that cannot be encoded
            raise TransportError(f"cannot connect to {self._address}: {exc}") from exc


def _leave_it(client: Client, userdata: Any, sock: Any) -> None:
    return None
