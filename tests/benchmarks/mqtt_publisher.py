"""The process that publishes for `mqtt_to_durable`: as fast as the broker acknowledges, QoS 1."""

import json
import threading
from datetime import UTC, datetime, timedelta

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.benchmarks.child import say, settings_from_command_line


def payload(number: int, now: datetime) -> bytes:
    """As devices send it: about 110 bytes, with a device time of its own."""
    timestamp = (now + timedelta(microseconds=number)).isoformat(timespec="microseconds")
    fields = {"counter": number, "temperature": number % 500 / 10 - 10, "humidity": number % 80 + 15.5}
    return json.dumps({"timestamp": timestamp, **fields}).encode()


def main() -> None:
    settings = settings_from_command_line()
    left = threading.Semaphore(0)
    client = Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(1000)
    client.on_publish = lambda *_: left.release()
    client.connect("127.0.0.1", settings["port"])
    client.loop_start()
    now = datetime.now(UTC)
    for number in range(settings["messages"]):
        client.publish(f"garden/plot-{number % settings['devices']:02}/data", payload(number, now), qos=1)
    for _ in range(settings["messages"]):
        if not left.acquire(timeout=60):
            raise TimeoutError("the broker does not acknowledge")
    client.disconnect()
    client.loop_stop()
    say(published=settings["messages"])


if __name__ == "__main__":
    main()
