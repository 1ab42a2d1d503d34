"""What goes wrong between the driver and a broker is said in words that help, and never hangs."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from paho.mqtt.client import MQTTv5, MQTTv311

from edgedepot import MqttDriver, SQLiteStorage
from edgedepot.storage.errors import ConfigError, InvalidValue
from tests.drivers.peers import HANG_UP, ScriptedBroker, connack, publish, suback, taking_over
from tests.drivers.running import HeldInlet, Running, error_of
from tests.models import Weather
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import free_port, wait_until
from tests.servers.proxy import TcpProxy

TOPIC = "weather/{device_id}/data"
READING = '{"temperature": 20.5}'


def driver(port: int, **settings: Any) -> MqttDriver:
    return MqttDriver(f"mqtt://127.0.0.1:{port}", TOPIC, Weather, **settings)


class TestRefused:
    def test_nobody_listens(self, held: HeldInlet) -> None:
        port = free_port()
        assert f"cannot connect to mqtt://127.0.0.1:{port}: " in error_of(driver(port), held)

    def test_no_such_host(self, held: HeldInlet) -> None:
        garden = MqttDriver("mqtt://no-such-host.invalid", TOPIC, Weather)
        assert "cannot connect to mqtt://no-such-host.invalid:1883" in error_of(garden, held)

    def test_wrong_password(self, held: HeldInlet) -> None:
        with Mosquitto(settings={"allow_anonymous": "false"}) as broker:
            with_user = error_of(driver(broker.port, username="roof", password="secret"), held)
            without = error_of(driver(broker.port), held)
            over_3 = error_of(driver(broker.port, protocol="3.1.1"), held)
        assert "refuses user 'roof': Not authorized; check username and password" in with_user
        assert "secret" not in with_user
        assert "refuses a client without username: Not authorized" in without
        assert "refuses a client without username: Not authorized" in over_3

    @pytest.mark.parametrize("before", [b"", publish(b"weather/a/data", READING.encode(), 7)])
    def test_a_subscription_that_is_not_allowed(
        self, held: HeldInlet, caplog: pytest.LogCaptureFixture, before: bytes
    ) -> None:
        caplog.set_level(logging.INFO, "edgedepot")
        with ScriptedBroker([connack(), before + suback(0x87)]) as broker:
            text = error_of(driver(broker.port), held)
        assert "refuses the subscription to 'weather/+/data': Not authorized" in text
        assert "subscribed" not in caplog.text
        assert len(held.arrivals) == bool(before), "what it held is taken in"

    def test_a_broker_without_mqtt_5(self, held: HeldInlet) -> None:
        with ScriptedBroker([b"\x20\x03\x00\x84\x00"]) as broker:
            assert "does not speak MQTT 5; set protocol to '3.1.1'" in error_of(driver(broker.port), held)

    def test_who_never_answers(self, held: HeldInlet) -> None:
        with ScriptedBroker([]) as broker:
            text = error_of(driver(broker.port, keepalive="1s"), held)
        assert "does not answer CONNECT; is it a broker for MQTT 5 (if it speaks 3.1.1 alone, set protocol)?" in text
        with ScriptedBroker([connack()]) as broker:
            assert "does not answer SUBSCRIBE" in error_of(driver(broker.port, keepalive="1s"), held)

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\xff\xff\xff\xff\xff", b"\xf0\x00"])
    def test_what_is_no_broker(self, held: HeldInlet, answer: bytes) -> None:
        with ScriptedBroker([answer]) as broker:
            assert f"127.0.0.1:{broker.port}" in error_of(driver(broker.port, keepalive="1s"), held)


class TestLost:
    @pytest.mark.parametrize(
        "packet", [b"\x32\x00", b"\x36\x05\x00\x01ax\x00", b"\x32\x04\x00\xff\x00\x00", b"\x32\x80\x80\x80\x80\x80"]
    )
    def test_a_broken_packet(self, held: HeldInlet, packet: bytes) -> None:
        with ScriptedBroker([connack(), suback(1) + packet]) as broker:
            assert f"mqtt://127.0.0.1:{broker.port}" in error_of(driver(broker.port), held)

    def test_a_topic_that_is_no_text_is_rejected_and_acknowledged(self, held: HeldInlet) -> None:
        held.settles_when_hastened = True
        messages = publish(b"weather/\xff/data", READING.encode(), 7) + publish(b"weather/a/data", READING.encode(), 8)
        with (
            ScriptedBroker([connack(), suback(1) + messages]) as broker,
            Running(driver(broker.port), held).wait_for("connected"),
        ):
            held.wait_messages(2)
            held.settle()
            broker.wait_for(b"\x40\x02\x00\x07\x40\x02\x00\x08")
        (reject,) = [reject for intake in held.intakes for reject in intake.rejects]
        assert (reject.kind, reject.reason, reject.raw) == ("message", "its topic is not UTF-8", READING.encode())
        assert [arrival.device_id for arrival in held.arrivals] == ["a"]

    def test_the_broker_says_why(self, held: HeldInlet) -> None:
        with ScriptedBroker([connack(), suback(1) + b"\xe0\x02\x8b\x00"]) as broker:
            assert "the broker ended it: Server shutting down" in error_of(driver(broker.port), held)
        with ScriptedBroker([connack(), suback(1) + b"\xe0\x02\x8e\x00"]) as broker:
            text = error_of(driver(broker.port, client_id="mine"), held)
        assert "another client took over the client id 'mine'; give each its own client_id" in text

    def test_a_link_that_swallows_everything_is_noticed_within_the_keepalive(
        self, store: SQLiteStorage, mosquitto: Mosquitto, proxy: Callable[[str, int], TcpProxy]
    ) -> None:
        link = proxy("127.0.0.1", mosquitto.port)
        running = Running(driver(link.port, keepalive="1s"), store).wait_for("connected")
        link.blackhole()
        assert "has not answered for as long as the keepalive" in str(running.wait_error())

    def test_an_idle_connection_is_kept(self, store: SQLiteStorage, mosquitto: Mosquitto) -> None:
        """mosquitto drops whoever is silent for one and a half times the keepalive."""
        with (
            Mosquitto(settings={"log_type": "all"}) as broker,
            Running(driver(broker.port, keepalive="1s"), store).wait_for("connected") as running,
        ):
            wait_until(lambda: broker.log.read_text().count("Received PINGREQ") >= 3, "three pings")
            assert not running.ended

    @pytest.mark.parametrize(("protocol", "version"), [("5", MQTTv5), ("3.1.1", MQTTv311)])
    def test_two_clients_with_one_id_are_called_that(
        self, store: SQLiteStorage, mosquitto: Mosquitto, protocol: str, version: int
    ) -> None:
        garden = driver(mosquitto.port, client_id="mine", protocol=protocol)
        texts = []
        for _ in range(3):
            running = Running(garden, store).wait_for("connected")
            with taking_over(mosquitto.port, "mine", version):
                texts.append(str(running.wait_error()))
        assert "does another client use the client id 'mine'?" in texts[-1]
        assert "does another client" not in texts[0]


def test_what_came_just_before_the_end_is_taken_in(held: HeldInlet) -> None:
    messages = publish(b"weather/a/data", READING.encode(), 7) + publish(b"weather/b/data", READING.encode(), 8)
    with ScriptedBroker([connack(), suback(1) + messages, HANG_UP]) as broker:
        Running(driver(broker.port), held).wait_error()
    assert [arrival.device_id for arrival in held.arrivals] == ["a", "b"]


def test_what_the_broker_sends_before_it_confirms_the_subscription_is_acknowledged_meanwhile(held: HeldInlet) -> None:
    held.settles_when_hastened = True
    message = publish(b"weather/a/data", READING.encode(), 7)
    with (
        ScriptedBroker([connack(), message, suback(1)]) as broker,
        Running(driver(broker.port, receive_maximum=1), held).wait_for("connected"),
    ):
        broker.wait_for(b"\x40\x02\x00\x07")


class TestRedelivery:
    """What comes again on a second connection is known by its packet id, if there can be no doubt."""

    A, B = (b"weather/%s/data" % name for name in (b"a", b"b"))

    def taken_in(self, held: HeldInlet, again: bytes, later: bytes = b"", session_present: bool = True) -> list[str]:
        """The devices of what is taken in from a second connection, after messages 7 and 8 on a first one: `again` and
        message 9, and `later` and message 10, sent once the former were acknowledged."""
        first = publish(self.A, READING.encode(), 7) + publish(self.B, READING.encode(), 8)
        again += publish(b"weather/middle/data", READING.encode(), 9)
        later += publish(b"weather/last/data", READING.encode(), 10)
        with ScriptedBroker(
            [connack(), suback(1) + first], [connack(session_present), suback(1) + again, later]
        ) as broker:
            garden = driver(broker.port)
            running = Running(garden, held).wait_for("connected")
            held.wait_messages(2)
            broker.drop()
            running.wait_error()
            with Running(garden, held).wait_for("connected"):
                for device, acknowledgement in (("middle", b"\x40\x02\x00\x09"), ("last", b"\x40\x02\x00\x0a")):
                    wait_until(lambda name=device: held.arrivals[-1].device_id == name, "all are taken in")  # type: ignore[misc]
                    held.settle()
                    broker.wait_for(acknowledgement)
        return [arrival.device_id for arrival in held.arrivals[2:]]

    def test_it_is_not_taken_in_again(self, held: HeldInlet) -> None:
        again = [publish(self.A, READING.encode(), 7, dup=True), publish(self.B, READING.encode(), 8, dup=True)]
        assert self.taken_in(held, b"".join(again)) == ["middle", "last"]

    def test_also_after_a_connection_that_ended_amid_it(self, held: HeldInlet) -> None:
        first, again = (
            [publish(topic, READING.encode(), mid, dup) for topic, mid in ((self.A, 7), (self.B, 8))]
            for dup in (False, True)
        )
        with ScriptedBroker(
            [connack(), suback(1) + b"".join(first), HANG_UP],
            [connack(True), again[0], HANG_UP],
            [connack(True), b"".join(again) + suback(1)],
        ) as broker:
            garden = driver(broker.port)
            for _ in range(2):
                Running(garden, held).wait_error()
            with Running(garden, held).wait_for("connected"):
                held.settle()
                broker.wait_for(b"\x40\x02\x00\x07\x40\x02\x00\x08")
        assert [arrival.device_id for arrival in held.arrivals] == ["a", "b"]

    def test_unless_the_broker_forgot_the_session(self, held: HeldInlet) -> None:
        again = publish(self.A, READING.encode(), 7, dup=True)
        assert self.taken_in(held, again, session_present=False) == ["a", "middle", "last"]

    def test_unless_it_is_sent_as_new(self, held: HeldInlet) -> None:
        assert self.taken_in(held, publish(self.A, READING.encode(), 7)) == ["a", "middle", "last"]

    def test_unless_it_differs(self, held: HeldInlet) -> None:
        other = publish(self.A, b'{"temperature": 21}', 7, dup=True)
        assert self.taken_in(held, other) == ["a", "middle", "last"]

    def test_unless_something_else_came_before_it(self, held: HeldInlet) -> None:
        again = publish(self.B, READING.encode(), 8, dup=True)
        assert self.taken_in(held, b"", later=again) == ["middle", "b", "last"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "localhost"}, "url: found 'localhost', expected mqtt://host"),
        ({"url": "http://host"}, "url: found 'http://host', expected mqtt://host"),
        ({"url": "mqtt://"}, "url: found 'mqtt://' with the host ''"),
        ({"url": "mqtt://x..y"}, "url: found 'mqtt://x..y' with the host 'x..y'"),
        ({"url": f"mqtt://{'x' * 70}.de"}, "with the host 'xxx"),
        ({"url": "mqtt://a b"}, "with the host 'a b'"),
        ({"url": "mqtt://host:99999"}, "url: Port out of range"),
        ({"url": "mqtt://host:port"}, "url: Port could not be cast"),
        ({"url": "mqtt://host:0"}, "with port 0"),
        ({"url": "mqtt://host/weather"}, "the topic is a setting of its own"),
        ({"url": "mqtt://a:b@host", "username": "c"}, "username: found one in the url too"),
        ({"password": "secret"}, "password: found one without a username"),
        ({"protocol": "4"}, "protocol: found '4', expected '5' or '3.1.1'"),
        ({"keepalive": "1d"}, "keepalive: found 86400, expected 1 to 65535"),
        ({"keepalive": "100 ms"}, "keepalive: found '100 ms', expected at least 1 s"),
        ({"receive_maximum": 0}, "receive_maximum: found 0, expected 1 to 65535"),
        ({"max_payload": 0}, "max_payload: found 0"),
        ({"max_devices": "many"}, "max_devices: found 'many'"),
        ({"client_id": ""}, "client_id: found ''"),
        ({"ca_file": "ca.pem"}, "ca_file: found it with mqtt://, expected mqtts://"),
        ({"topic": "weather"}, "topic: found 'weather', expected {device_id}"),
        ({"format": "xml"}, "format: "),
        ({"topci": "x"}, "'topci'.*did you mean .topic"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        MqttDriver(**{"url": "mqtt://host", "topic": TOPIC, "model": Weather, **settings})


def test_wrong_durations_and_models_are_named() -> None:
    for settings, problem in (
        ({"session_expiry": "soon"}, "session_expiry: found 'soon', expected a duration"),
        ({"keepalive": "0s"}, "keepalive: found '0s'"),
        ({"model": dict}, "no reading model"),
    ):
        arguments: dict[str, Any] = {"url": "mqtt://host", "topic": TOPIC, "model": Weather, **settings}
        with pytest.raises(InvalidValue, match=problem):
            MqttDriver(**arguments)


def test_no_password_is_shown() -> None:
    for url in (
        "mqtt://roof:secret@x..y",
        "http://roof:secret@host",
        "mqtt://roof:secret@host/x",
        "mqtt://roof:secret@host:x",
    ):
        with pytest.raises(ConfigError) as found:
            MqttDriver(url, TOPIC, Weather)
        assert "secret" not in str(found.value)
