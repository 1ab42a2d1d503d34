"""Messages per second from the wire to committed and acknowledged.

The floor is a bare paho loop with manual acknowledgement that runs `json.loads` and stores nothing. The product
receives the same messages through `Gateway` and commits them to its local store before it acknowledges. Both have a
persistent session, connect with the same MQTT version and receive maximum, and begin when the broker holds all
messages for them: so nothing but the receiver limits the rate. The time runs from just before the connect until all
messages are acknowledged and the connection is closed in order. Afterwards the session must be empty.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.benchmarks.child import Child
from tests.benchmarks.mqtt_receivers import RECEIVE_MAXIMUM, SUBSCRIPTION, connect_options
from tests.benchmarks.report import Comparison, progress, read_options, report
from tests.servers.mosquitto import Mosquitto

MESSAGES = 20_000
DEVICES = 20
KINDS = ("floor", "product")
BROKER = {"persistence": "false", "max_queued_messages": "0", "max_inflight_messages": "0"}
"""Sessions live in memory, and nothing is dropped: the broker is not what is measured."""


def measure(broker: Mosquitto, messages: int, order: Sequence[str]) -> dict[str, float]:
    """One round: let the broker hold the messages for both, then time one after the other; messages per second."""
    for kind in order:
        count_held(broker.port, kind)
    publish(broker.port, messages)
    return {kind: time_receiver(broker.port, kind, messages) for kind in order}


def publish(port: int, messages: int) -> None:
    """Have another process publish; returns when the broker has acknowledged all."""
    with Child("mqtt_publisher", json.dumps({"port": port, "messages": messages, "devices": DEVICES})) as child:
        child.hear()


def time_receiver(port: int, kind: str, messages: int) -> float:
    """Messages per second of one receiver, which takes all that the broker holds for it."""
    with TemporaryDirectory() as folder:
        settings = {"kind": kind, "port": port, "messages": messages, "store": str(Path(folder) / "store.db")}
        with Child("mqtt_receivers", json.dumps(settings)) as child:
            child.hear()
            child.tell("go")
            found = child.hear()
    if found["messages"] != messages:
        raise RuntimeError(f"{kind} took {found['messages']} messages of {messages}")
    if left := count_held(port, kind):
        raise RuntimeError(f"{kind} left {left} messages of {messages} unacknowledged")
    return float(messages / found["seconds"])


def count_held(port: int, kind: str) -> int:
    """How many messages the broker holds in the session of this receiver, which is made if there is none.

    The broker sends what it holds as soon as we connect, before it answers our subscription.
    """
    held: list[int] = []
    answered = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, client_id=kind, protocol=MQTTv5, manual_ack=True)
    client.on_message = lambda _client, _userdata, message: held.append(message.mid)
    client.on_subscribe = lambda *_: answered.set()
    client.connect("127.0.0.1", port, **connect_options())
    client.loop_start()
    client.subscribe(SUBSCRIPTION, qos=1)
    if not answered.wait(10):
        raise TimeoutError("the broker does not answer a subscription")
    client.disconnect()
    client.loop_stop()
    return len(held)


def main() -> None:
    options = read_options(__doc__)
    messages = options.of(MESSAGES)
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with Mosquitto(settings=BROKER) as broker:
        for number in range(options.rounds):
            order = KINDS if number % 2 else KINDS[::-1]
            for kind, rate in measure(broker, messages, order).items():
                rates[kind].append(rate)
                progress(f"round {number + 1}, {kind}: {rate:,.0f} messages/s")
    comparison = Comparison("MQTT to durable", "messages/s", rates["floor"], rates["product"], 0.6, at_least=True)
    report(options, [comparison], messages=messages, receive_maximum=RECEIVE_MAXIMUM)


if __name__ == "__main__":
    main()
