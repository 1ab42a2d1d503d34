"""The processes that `mqtt_to_durable` measures: `floor` and `product`."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.benchmarks.child import listen, say, settings_from_command_line

SUBSCRIPTION = "garden/+/data"
RECEIVE_MAXIMUM = 5_000
TIMEOUT = 120.0


def connect_options() -> dict[str, Any]:
    """How a receiver connects: to a session that outlives the connection."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    return {"clean_start": False, "properties": properties}


class Count:
    """Counts messages up to a number that somebody waits for."""

    def __init__(self, expected: int) -> None:
        self.messages = 0
        self._expected = expected
        self._reached = threading.Event()

    def add(self, messages: int) -> None:
        self.messages += messages
        if self.messages >= self._expected:
            self._reached.set()

    def wait(self) -> None:
        if not self._reached.wait(TIMEOUT):
            raise TimeoutError(f"{self.messages} of {self._expected} messages after {TIMEOUT:g} s")


def prepare_floor(settings: Mapping[str, Any], count: Count) -> Callable[[], None]:
    """A bare paho loop; returns what runs it until all is acknowledged."""

    def take(client: Client, userdata: object, message: MQTTMessage) -> None:
        json.loads(message.payload)
        client.ack(message.mid, message.qos)
        count.add(1)

    client = Client(CallbackAPIVersion.VERSION2, client_id="floor", protocol=MQTTv5, manual_ack=True)
    client.on_message = take

    def run() -> None:
        client.connect("127.0.0.1", settings["port"], **connect_options())
        client.loop_start()
        count.wait()
        client.disconnect()
        client.loop_stop()

    return run


def prepare_product(settings: Mapping[str, Any], count: Count) -> Callable[[], None]:
    """A gateway with one MQTT driver; returns what runs it until all is committed and acknowledged."""
    from edgedepot import Field, Gateway, MqttDriver, Reading, Receipt, SQLiteStorage
    from edgedepot.storage.buffer import Intake

    class Weather(Reading):
        counter: int
        temperature: float = Field(unit="°C", range=(-40, 80))
        humidity: float

    class CountingStorage(SQLiteStorage):
        """Tells how many messages came: with the last one the gateway is stopped, which commits at once."""

        def take_in(self, intake: Intake) -> Receipt:
            receipt = super().take_in(intake)
            count.add(intake.messages)
            return receipt

    gateway = Gateway(CountingStorage(settings["store"]))
    url = f"mqtt://127.0.0.1:{settings['port']}"
    gateway.add("garden", MqttDriver(url, "garden/{device_id}/data", Weather, client_id="product"))

    def run() -> None:
        with gateway:
            count.wait()

    return run


def committed(settings: Mapping[str, Any]) -> int:
    """How many readings are in the product's store."""
    from edgedepot import SQLiteStorage

    with SQLiteStorage(settings["store"], read_only=True) as store:
        return sum(counts["new"] for counts in store.ledger().sources.values())


def main() -> None:
    settings = settings_from_command_line()
    count = Count(settings["messages"])
    run = {"floor": prepare_floor, "product": prepare_product}[settings["kind"]](settings, count)
    say(ready=True)
    listen("go")
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    say(messages=committed(settings) if settings["kind"] == "product" else count.messages, seconds=seconds)


if __name__ == "__main__":
    main()
