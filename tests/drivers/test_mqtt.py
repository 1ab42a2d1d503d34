"""From a real broker into the store: what is read, what is rejected, and when it is acknowledged."""

import json
import logging
import re
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgedepot import MqttDriver, SQLiteStorage
from edgedepot.drivers.broker import BATCH, LONGEST_WAIT
from edgedepot.storage.errors import StorageError, TransportError
from tests.drivers.peers import Publisher, unacknowledged
from tests.drivers.running import HeldInlet, Running, file_numbers_from
from tests.models import Weather
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import wait_until
from tests.servers.proxy import TcpProxy

TOPIC = "weather/{device_id}/data"
FILTER = "weather/+/data"
CLIENT = "edgedepot-roof-garden"


@pytest.fixture
def publisher(mosquitto: Mosquitto) -> Iterator[Publisher]:
    with Publisher(mosquitto.port) as publisher:
        yield publisher


def driver(broker: Mosquitto | TcpProxy, **settings: Any) -> MqttDriver:
    return MqttDriver(f"mqtt://127.0.0.1:{broker.port}", **{"topic": TOPIC, "model": Weather, **settings})


def reading(count: int, **fields: object) -> str:
    return json.dumps({"temperature": 20.5, "count": count, **fields})


def timed(count: int) -> str:
    return reading(count, timestamp=1_780_000_000 + count)


def counts(held: HeldInlet) -> list[object]:
    return [arrival.row[5] for arrival in held.arrivals]


def books(store: SQLiteStorage) -> dict[str, int]:
    return store.ledger().sources.get("garden", {})


def wait_books(store: SQLiteStorage, messages: int) -> dict[str, int]:
    """The source's books once they know of that many messages."""
    wait_until(lambda: books(store).get("messages", 0) >= messages, f"{messages} messages are in the books")
    assert books(store)["messages"] == messages
    return books(store)


def wait_acknowledged(broker: Mosquitto, count: int, client_id: str = "edgedepot-test-garden") -> list[int]:
    """The packet ids that the broker heard acknowledged by this client, in order, once they are that many."""
    pattern = re.compile(rf"Received PUBACK from {client_id} \(Mid: (\d+)")
    wait_until(lambda: len(pattern.findall(broker.log.read_text())) >= count, f"{count} acknowledgements")
    return [int(mid) for mid in pattern.findall(broker.log.read_text())]


@pytest.fixture
def talkative() -> Iterator[Mosquitto]:
    """A broker that logs every packet."""
    with Mosquitto(settings={"log_type": "all"}) as broker:
        yield broker


class TestMessages:
    def test_become_readings_of_the_topics_device(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        with Running(driver(mosquitto), store).wait_for("connected"):
            publisher.send("weather/mast/data", timed(1), timed(2))
            publisher.send("weather/Süd 1/data", timed(1))
            assert wait_books(store, 3)["new"] == 3
        found = store.query_readings(Weather, order="timestamp")
        assert [(row["device_id"], row["count"]) for row in found] == [("Süd 1", 1), ("mast", 1), ("mast", 2)]
        assert found[0]["timestamp"].timestamp() == 1_780_000_001
        assert unacknowledged(mosquitto.port, CLIENT, FILTER) == []

    def test_of_qos_0_too(self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher) -> None:
        with Running(driver(mosquitto), store).wait_for("connected"):
            publisher.send("weather/mast/data", timed(1), qos=0)
            assert wait_books(store, 1)["new"] == 1

    def test_that_are_a_single_value(self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher) -> None:
        settings = {"topic": "{device_id}/temperature", "format": "value", "field": "temperature"}
        with Running(driver(mosquitto, **settings), store).wait_for("connected"):
            publisher.send("kitchen/temperature", b"21.5", b"warm", b"")
            found = wait_books(store, 3)
        assert (found["new"], found["rejected_readings"], found["rejected"]) == (1, 1, 1)
        (row,) = store.query_readings(Weather)
        assert (row["device_id"], row["temperature"]) == ("kitchen", 21.5)

    def test_of_a_fixed_device(self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher) -> None:
        with Running(driver(mosquitto, topic="house/#", device_id="house"), store).wait_for("connected"):
            publisher.send("house/kitchen", timed(1))
            publisher.send("house/cellar/left", timed(2))
            wait_books(store, 2)
        assert {row["device_id"] for row in store.query_readings(Weather)} == {"house"}

    def test_that_were_retained_are_no_fresh_readings(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        publisher.send("weather/mast/data", timed(1), retain=True)
        garden = driver(mosquitto)
        with Running(garden, store).wait_for("connected"):
            assert wait_books(store, 1)["ignored"] == 1
            publisher.send("weather/mast/data", timed(2), retain=True)  # fresh to a subscriber who is there
            assert wait_books(store, 2)["new"] == 1
        assert garden.status().counters["retained"] == 1
        assert unacknowledged(mosquitto.port, CLIENT, FILTER) == []

    def test_from_too_many_devices_are_rejected(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        with Running(driver(mosquitto, max_devices=2), store).wait_for("connected"):
            for name in ("noise", "a", "b", "c", "a"):
                publisher.send(f"weather/{name}/data", b"nonsense" if name == "noise" else reading(1))
            found = wait_books(store, 5)
        assert (found["new"], found["rejected"]) == (3, 2)
        assert "device 'c' is new" in store.rejected("garden")[0]["reason"]

    def test_of_a_subscription_that_an_earlier_configuration_left(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        Running(driver(mosquitto, topic="old/{device_id}"), store).wait_for("connected").stop()
        with Running(driver(mosquitto), store).wait_for("connected"):
            publisher.send("old/mast", timed(1))
            assert wait_books(store, 1)["rejected"] == 1
        assert "does not match" in store.rejected("garden")[0]["reason"]

    def test_that_are_hostile_are_kept_as_rejects_acknowledged_and_survived(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        undecodable = [b"[" * 100_000, b"[" * 50_000, b"x" * 1_000_000, b"\xff\xfe", b"", b'{"temperature": 1', b"[]"]
        unusable = [b'{"temperature": NaN}', b'{"temperature": 1e999}', b'{"temperature": "\\ud800"}', b"{}"]
        flawed = [
            b'{"temperature": 1, "count": 9223372036854775808}',
            b'{"temperature": 1, "note": "\\udfff"}',
            b'{"temperature": 1, "timestamp": "2026-01-01T00:00:00"}',
        ]
        good = [b'{"temperature": 1, "temperature": 2, "count": 7}']
        payloads = [*undecodable, *unusable, *flawed, *good]
        with Running(driver(mosquitto), store).wait_for("connected"):
            publisher.send("weather/mast/data", *payloads)
            found = wait_books(store, len(payloads))
        assert (found["rejected"], found["rejected_readings"], found["rejected_fields"]) == (7, 4, 3)
        assert found["new"] == 4
        kept = {reject["raw"]: reject["kind"] for reject in store.rejected("garden")}
        kinds = [(undecodable, "message"), (unusable, "reading"), (flawed, "field")]
        assert kept == {payload[:1024]: kind for some, kind in kinds for payload in some}
        assert [row["temperature"] for row in store.query_readings(Weather) if row["count"] == 7] == [2]
        assert unacknowledged(mosquitto.port, CLIENT, FILTER) == []


class TestAcknowledgement:
    def test_follows_the_receipt_never_precedes_it(self, held: HeldInlet, talkative: Mosquitto) -> None:
        with Publisher(talkative.port) as publisher, Running(driver(talkative), held).wait_for("connected"):
            publisher.send("weather/mast/data", *map(timed, range(10)))
            held.wait_messages(10)
            held.settle()
            wait_acknowledged(talkative, 10)
            publisher.send("weather/mast/data", *map(timed, range(10, 15)))
            held.wait_messages(15)
            publisher.send("weather/mast/data", timed(15))
            held.wait_messages(16)
            assert len(wait_acknowledged(talkative, 10)) == 10
            held.settle()

    def test_keeps_the_order_whatever_becomes_durable_first(self, held: HeldInlet, talkative: Mosquitto) -> None:
        with Publisher(talkative.port) as publisher, Running(driver(talkative), held).wait_for("connected"):
            for count in range(5):
                publisher.send("weather/mast/data", timed(count))
                held.wait_messages(count + 1)
            assert len(held.intakes) == 5
            held.settle_last()
            publisher.send("weather/mast/data", timed(5))
            held.wait_messages(6)
            assert wait_acknowledged(talkative, 0) == []
            held.settle()
            mids = wait_acknowledged(talkative, 6)
        assert mids == sorted(mids)
        assert len(mids) == 6

    def test_is_waited_for_without_the_payloads(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        payloads = [*(timed(count).ljust(60_000) for count in range(50)), *("x" * 100_000 for _ in range(10))]
        Running(driver(mosquitto), held).wait_for("connected").stop()
        publisher.send("weather/mast/data", *payloads)
        tracemalloc.start()
        try:
            with Running(driver(mosquitto), held).wait_for("connected"):
                held.wait_messages(len(payloads))
                held.settle()
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < sum(map(len, payloads)) / 2

    def test_never_came_so_a_new_process_gets_the_messages_again(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher, proxy: Callable[[str, int], TcpProxy]
    ) -> None:
        link = proxy("127.0.0.1", mosquitto.port)
        running = Running(driver(link), held).wait_for("connected")
        publisher.send("weather/mast/data", *map(timed, range(10)))
        held.wait_messages(10)
        link.cut()
        assert isinstance(running.wait_error(), TransportError)
        held.settle()  # too late: the connection that could have acknowledged them is gone
        link.mend()
        again = HeldInlet()
        with Running(driver(link), again).wait_for("connected"):
            again.wait_messages(10)
            again.settle()
        assert [arrival[1:3] for arrival in again.arrivals] == [arrival[1:3] for arrival in held.arrivals]
        assert unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER) == []

    def test_of_an_earlier_connection_is_dropped_as_its_packet_ids_mean_other_messages_now(
        self, held: HeldInlet
    ) -> None:
        with Mosquitto(settings={"persistence": "false"}) as broker:
            garden = driver(broker)
            running = Running(garden, held).wait_for("connected")
            with Publisher(broker.port) as publisher:
                publisher.send("weather/mast/data", *map(timed, range(5)))
            held.wait_messages(5)
            of_earlier_connection = len(held.intakes)
            broker.kill()
            assert isinstance(running.wait_error(), TransportError)
            broker.start()  # it knows nothing of any session
            running = Running(garden, held).wait_for("connected")
            with Publisher(broker.port) as publisher:
                publisher.send("weather/mast/data", *map(timed, range(5, 10)))
                held.wait_messages(10)
                held.settle(of_earlier_connection)
                publisher.send("weather/mast/data", timed(10))
                held.wait_messages(11)
            # Taking the session over ends the driver's connection, so that it cannot acknowledge at its stop.
            broker_holds = unacknowledged(broker.port, "edgedepot-test-garden", FILTER)
            assert isinstance(running.wait_error(), TransportError)
        assert [json.loads(payload)["count"] for payload in broker_holds] == [5, 6, 7, 8, 9, 10]

    def test_of_what_comes_again_waits_for_the_receipt_it_has(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher, proxy: Callable[[str, int], TcpProxy]
    ) -> None:
        link = proxy("127.0.0.1", mosquitto.port)
        garden = driver(link)
        running = Running(garden, held).wait_for("connected")
        publisher.send("weather/mast/data", *map(reading, range(10)))  # stamped here: no identity would tell
        held.wait_messages(10)
        link.cut()
        running.wait_error()
        publisher.send("weather/mast/data", *map(reading, range(10, 20)))
        link.mend()
        with Running(garden, held).wait_for("connected"):
            held.wait_messages(20)
            assert garden.status().counters["redelivered"] == 10
            held.settle()
        assert counts(held) == list(range(20))
        assert unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER) == []

    def test_is_not_given_for_what_the_store_gave_up(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        running = Running(driver(mosquitto), held).wait_for("connected")
        publisher.send("weather/mast/data", timed(1))
        held.wait_messages(1)
        held.settle(error=StorageError("not stored: the disk is gone"))
        assert "the disk is gone" in str(running.wait_error())
        assert len(unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER)) == 1

    def test_waits_until_a_full_store_has_room(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        held.busy = 3
        with Running(driver(mosquitto), held).wait_for("connected") as running:
            publisher.send("weather/mast/data", timed(1))
            running.wait_for("waiting for the store")
            publisher.send("weather/mast/data", timed(2))
            held.wait_messages(2)
            running.wait_for("connected")
            held.settle()
        assert counts(held) == [1, 2]
        assert unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER) == []

    def test_and_a_stop_meanwhile_leaves_them_to_the_broker(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        held.busy = 10**9
        running = Running(driver(mosquitto), held).wait_for("connected")
        publisher.send("weather/mast/data", timed(1))
        running.wait_for("waiting for the store").stop()
        assert held.intakes == []
        assert len(unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER)) == 1


class TestEarlyCommit:
    def test_is_not_asked_for_while_the_brokers_window_is_wide(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        with Running(driver(mosquitto, receive_maximum=100), held).wait_for("connected"):
            publisher.send("weather/mast/data", *map(timed, range(49)))
            held.wait_messages(49)
            assert held.hastened == 0
            publisher.send("weather/mast/data", timed(49))
            held.wait_messages(50)
            wait_until(lambda: held.hastened == 1, "a commit is asked for at half of the window")
            held.settle()

    def test_is_asked_for_again_so_a_backlog_drains_without_waiting(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        garden = driver(mosquitto, receive_maximum=10)
        Running(garden, held).wait_for("connected").stop()
        publisher.send("weather/mast/data", *map(timed, range(200)))
        held.settles_when_hastened = True
        with Running(driver(mosquitto, receive_maximum=10), held).wait_for("connected"):
            held.wait_messages(200)
        assert counts(held) == list(range(200))
        assert unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER) == []

    def test_over_3_1_1_is_asked_for_when_messages_pause_and_once_for_each_pause(
        self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        with Running(driver(mosquitto, protocol="3.1.1"), held).wait_for("connected"):
            for count in range(3):
                publisher.send("weather/mast/data", timed(count))
                wait_until(lambda expected=count: held.hastened == expected + 1, "a commit is asked for")  # type: ignore[misc]
                held.settle()
        assert held.hastened == 3

    def test_over_3_1_1_is_asked_for_when_the_brokers_window_is_full(self, held: HeldInlet) -> None:
        held.settles_when_hastened = True
        with Mosquitto(settings={"max_inflight_messages": "20"}) as broker, Publisher(broker.port) as publisher:
            with Running(driver(broker, protocol="3.1.1"), held).wait_for("connected"):
                publisher.send("weather/mast/data", *map(timed, range(200)))
                held.wait_messages(200)
            assert unacknowledged(broker.port, "edgedepot-test-garden", FILTER) == []


class TestStop:
    def test_waits_for_the_last_receipts_and_acknowledges_them(self, mosquitto: Mosquitto, tmp_path: Any) -> None:
        with (
            SQLiteStorage(tmp_path / "slow.db", gateway_id="roof", flush_interval="1h") as store,
            Publisher(mosquitto.port) as publisher,
        ):
            running = Running(driver(mosquitto), store).wait_for("connected")
            publisher.send("weather/mast/data", *map(timed, range(100)))
            wait_until(lambda: len(store.query_readings(Weather)) == 100, "all are taken in")
            publisher.send("weather/mast/data", timed(100))
            running.stop()
            left = [json.loads(payload)["count"] for payload in unacknowledged(mosquitto.port, CLIENT, FILTER)]
            stored = sorted(row["count"] for row in store.query_readings(Weather))
        assert running.error is None
        assert sorted(stored + left) == list(range(101))

    def test_keeps_the_session_so_what_comes_meanwhile_is_there_at_the_next_start(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        Running(driver(mosquitto), store).wait_for("connected").stop()
        count = BATCH + 100
        publisher.send("weather/mast/data", *map(timed, range(count)))
        with Running(driver(mosquitto), store).wait_for("connected"):
            assert wait_books(store, count)["new"] == count

    def test_and_what_comes_with_the_connection_is_not_kept_waiting(
        self, store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher
    ) -> None:
        Running(driver(mosquitto), store).wait_for("connected").stop()
        publisher.send("weather/mast/data", *map(timed, range(10)))
        with Running(driver(mosquitto), store).wait_for("connected"):
            wait_until(lambda: len(books(store)) > 0, "they are in the store", timeout=LONGEST_WAIT / 2)

    def test_before_the_run_it_is_final(self, store: SQLiteStorage, mosquitto: Mosquitto) -> None:
        garden = driver(mosquitto)
        garden.stop()
        garden.stop()
        running = Running(garden, store)
        wait_until(lambda: running.ended, "the run ends")
        assert (running.error, garden.status().state) == (None, "stopped")

    def test_while_it_connects(
        self, store: SQLiteStorage, mosquitto: Mosquitto, proxy: Callable[[str, int], TcpProxy]
    ) -> None:
        link = proxy("127.0.0.1", mosquitto.port)
        link.blackhole()
        running = Running(driver(link), store).wait_for("connecting")
        wait_until(lambda: link.connections == 1, "it waits for an answer")
        running.stop()
        assert running.error is None

    def test_with_receipts_that_never_come(self, held: HeldInlet, mosquitto: Mosquitto, publisher: Publisher) -> None:
        running = Running(driver(mosquitto), held).wait_for("connected")
        publisher.send("weather/mast/data", timed(1))
        held.wait_messages(1)
        running.stop()
        assert running.error is None
        assert len(unacknowledged(mosquitto.port, "edgedepot-test-garden", FILTER)) == 1


def test_a_killed_broker_costs_nothing(store: SQLiteStorage, mosquitto: Mosquitto) -> None:
    garden = driver(mosquitto)
    for life in range(3):
        running = Running(garden, store).wait_for("connected")
        with Publisher(mosquitto.port) as publisher:
            publisher.send("weather/mast/data", *map(timed, range(50 * life, 50 * life + 50)))
            wait_until(lambda expected=50 * life + 50: books(store).get("new") == expected, "all are in")  # type: ignore[misc]
        mosquitto.kill()
        assert isinstance(running.wait_error(), TransportError)
        mosquitto.start()
    assert sorted(row["count"] for row in store.query_readings(Weather)) == list(range(150))


def test_file_numbers_from_1024_on(store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher) -> None:
    with file_numbers_from(1024):
        running = Running(driver(mosquitto), store).wait_for("connected")
    with running:
        publisher.send("weather/mast/data", timed(1))
        assert wait_books(store, 1)["new"] == 1


def test_status_and_log(
    store: SQLiteStorage, mosquitto: Mosquitto, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgedepot")
    garden = driver(mosquitto)
    assert (garden.status().state, garden.status().last_message) == ("new", None)
    with Running(garden, store).wait_for("connected"):
        assert garden.status().last_message is None
        publisher.send("weather/mast/data", timed(1))
        wait_until(lambda: garden.status().last_message is not None, "the message is noticed")
    assert f"garden: subscribed to {FILTER} at mqtt://127.0.0.1:{mosquitto.port}" in caplog.text
