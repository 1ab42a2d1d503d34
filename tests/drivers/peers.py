"""Whoever else talks to the broker in these tests, and a broker that says what no real one can be made to say."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.servers.process import wait_until

ANSWER = 10.0
HANG_UP = b""


def _session(receive_maximum: int = 65_535) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = receive_maximum
    return properties


class Publisher:
    """Sends messages with QoS 1. As a context manager it connects and disconnects. With `tls`, the files of authority,
    certificate and key, it does so with TLS."""

    def __init__(self, port: int, tls: tuple[str, str, str] | None = None) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        if tls:
            authority, certificate, key = tls
            self._client.tls_set(authority, certificate, key)
        self._client.max_inflight_messages_set(1000)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def send(self, topic: str, *payloads: bytes | str, retain: bool = False, qos: int = 1) -> None:
        """Return when the broker has acknowledged them all."""
        for sent in [self._client.publish(topic, payload, qos=qos, retain=retain) for payload in payloads]:
            sent.wait_for_publish(ANSWER)
            assert sent.is_published()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def unacknowledged(port: int, client_id: str, topic_filter: str) -> list[bytes]:
    """The payloads that the broker still holds for this client's session; they stay there.

    The answer to a subscription that the session has already comes after them; the second one certainly does.
    """
    seen: list[bytes] = []
    answers = threading.Semaphore(0)
    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, manual_ack=True)
    client.on_message = lambda _client, _userdata, message: (
        None if message.retain else seen.append(bytes(message.payload))
    )
    client.on_subscribe = lambda *_: answers.release()
    client.connect("127.0.0.1", port, clean_start=False, properties=_session())
    client.loop_start()
    for _ in range(2):
        client.subscribe(topic_filter, qos=1)
        assert answers.acquire(timeout=ANSWER), "the broker does not answer"
    client.disconnect()
    client.loop_stop()
    return seen


@contextmanager
def taking_over(port: int, client_id: str, protocol: int = MQTTv5) -> Iterator[None]:
    """Another client with the same id, connected meanwhile."""
    connected = threading.Event()
    options = {} if protocol == MQTTv5 else {"clean_session": False}
    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, **options)  # type: ignore[arg-type]
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert connected.wait(ANSWER)
    yield
    client.disconnect()
    client.loop_stop()


def connack(session_present: bool = False) -> bytes:
    """The answer to CONNECT over MQTT 5: welcome."""
    return bytes([0x20, 3, session_present, 0, 0])


def suback(code: int) -> bytes:
    """The answer to a client's first SUBSCRIBE over MQTT 5."""
    return b"\x90\x04\x00\x01\x00" + bytes([code])


def publish(topic: bytes, payload: bytes, mid: int, dup: bool = False) -> bytes:
    """A PUBLISH of MQTT 5 with QoS 1, for short messages."""
    body = struct.pack("!H", len(topic)) + topic + struct.pack("!H", mid) + b"\x00" + payload
    return bytes([0x3A if dup else 0x32, len(body)]) + body


class ScriptedBroker:
    """Answers the first packets that a client sends with the given ones, in turn, and then is silent. Each of
    `connections` is the answers on one; the next is accepted when the client has left, or after `drop`. At HANG_UP the
    broker leaves at once."""

    def __init__(self, *connections: Sequence[bytes]) -> None:
        self._connections = connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def wait_for(self, data: bytes) -> None:
        """Wait until the client has sent these bytes."""
        wait_until(lambda: data in self.received, f"the client sends {data!r}")

    def drop(self) -> None:
        """End the connection that there is."""
        assert self._client is not None
        self._client.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with self._listener:
            for answers in self._connections:
                with self._listener.accept()[0] as client:
                    self._client = client
                    self._answer(client, answers)

    def _answer(self, client: socket.socket, answers: Sequence[bytes]) -> None:
        client.settimeout(ANSWER)
        for answer in answers:
            if answer == HANG_UP:
                return
            self.received += client.recv(65_536)
            client.sendall(answer)
        while data := client.recv(65_536):
            self.received += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(ANSWER)
        assert not self._thread.is_alive()
