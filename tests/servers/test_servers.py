"""The servers do what the other tests rely on: start, survive a kill with their data, and leave nothing behind."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import paho.mqtt.client as paho
import psycopg
import pytest
import serial
from paho.mqtt import MQTTException, publish
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.servers import ServerError
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import accepts, wait_until
from tests.servers.socat import PtyPair
from tests.servers.timescale import TimescaleServer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def own_timescale() -> Iterator[TimescaleServer]:
    """A server of the test's own, not started."""
    server = TimescaleServer()
    yield server
    server.close()


def test_hypertable(timescale_url: str) -> None:
    with psycopg.connect(timescale_url) as connection:
        connection.execute("CREATE TABLE r (time timestamptz NOT NULL, value float)")
        connection.execute("SELECT create_hypertable('r', 'time')")
        connection.execute(
            "INSERT INTO r SELECT '2026-01-01Z'::timestamptz + n * '1 day'::interval, n FROM generate_series(0, 29) n"
        )
        chunks = connection.execute("SELECT count(*) FROM show_chunks('r')").fetchone()
        weeks = connection.execute("SELECT count(DISTINCT time_bucket('7 days', time)) FROM r").fetchone()
    assert chunks == weeks == (5,)


def test_every_database_is_fresh(timescale_server: TimescaleServer) -> None:
    first, second = timescale_server.create_database(), timescale_server.create_database()
    timescale_server.sql("CREATE TABLE here (x int)", first)
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert (timescale_server.sql(tables, first), timescale_server.sql(tables, second)) == ("1", "0")
    for database in (first, second):
        timescale_server.drop_database(database)
    left = f"SELECT count(*) FROM pg_database WHERE datname IN ('{first}', '{second}')"
    assert timescale_server.sql(left) == "0"


def test_killed_timescale_keeps_what_was_committed(own_timescale: TimescaleServer) -> None:
    own_timescale.start()
    url = own_timescale.url(own_timescale.create_database())
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE r (x int)")
        connection.execute("INSERT INTO r VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO r VALUES (2)")
        own_timescale.kill()
        assert not own_timescale.running
        assert not accepts(own_timescale.port)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    own_timescale.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT x FROM r").fetchall() == [(1,)]


def test_kill_waits_for_busy_sessions(own_timescale: TimescaleServer) -> None:
    """A restart on the same data fails as long as one old session lives."""
    own_timescale.start()
    active = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
    for _ in range(3):
        with psycopg.connect(own_timescale.url(), autocommit=True) as connection:
            asked = threading.Thread(target=_ignore_loss, args=(connection, "SELECT pg_sleep(60)"))
            asked.start()
            wait_until(lambda: own_timescale.sql(active) == "1", "the query runs")
            own_timescale.kill()
            own_timescale.start()
            asked.join()
    assert own_timescale.sql("SELECT 1") == "1"


def _ignore_loss(connection: psycopg.Connection[tuple[object, ...]], query: str) -> None:
    with pytest.raises(psycopg.OperationalError):
        connection.execute(query.encode())


def test_timescale_with_password() -> None:
    with TimescaleServer(password="p@ss/word") as server:
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres")


def test_plain_postgresql_with_fsync() -> None:
    with TimescaleServer(extension=False, fsync=True) as server:
        extensions = server.sql(
            "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'", server.create_database()
        )
        assert (extensions, server.sql("SHOW fsync")) == ("0", "on")


def test_failed_start_shows_the_log(timescale_server: TimescaleServer) -> None:
    server = TimescaleServer(port=timescale_server.port)
    with pytest.raises(ServerError, match=r"(?s)TimescaleDB ended with 1 while starting.*Address already in use"):
        server.start()
    server.close()


def test_killed_broker_keeps_session_and_messages(mosquitto: Mosquitto) -> None:
    with Subscriber(mosquitto.port) as subscriber:
        assert not subscriber.session_present
    publish.single("weather/roof", b"while it was away", qos=1, hostname="127.0.0.1", port=mosquitto.port)
    wait_until(lambda: b"while it was away" in mosquitto.saved_state.read_bytes(), "the message is saved")
    mosquitto.kill()
    assert not accepts(mosquitto.port)
    mosquitto.start()
    with Subscriber(mosquitto.port) as subscriber:
        assert subscriber.session_present
        assert subscriber.messages.get(timeout=10) == b"while it was away"


def test_broker_settings() -> None:
    with Mosquitto(settings={"allow_anonymous": "false"}) as broker, pytest.raises(MQTTException, match="authori"):
        publish.single("weather/roof", b"x", qos=1, hostname="127.0.0.1", port=broker.port)


class Subscriber:
    """An MQTT 5 client with a persistent session, subscribed to everything; leaves without ending the session."""

    def __init__(self, port: int) -> None:
        self.session_present = False
        self.messages: SimpleQueue[bytes] = SimpleQueue()
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "gateway", protocol=paho.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self.messages.put(bytes(message.payload))
        self._port = port

    def _on_connect(self, client: paho.Client, _data: object, flags: paho.ConnectFlags, *_: object) -> None:
        self.session_present = flags.session_present
        client.subscribe("#", qos=1)

    def __enter__(self) -> "Subscriber":
        expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        expiry.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=expiry)
        self._client.loop_start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


EVERY_BYTE = bytes(range(256))


def test_pty_pair_carries_every_byte_both_ways(pty_pair: PtyPair) -> None:
    with (
        serial.Serial(str(pty_pair.device), timeout=10) as device,
        serial.Serial(str(pty_pair.peer), timeout=10) as peer,
    ):
        peer.write(EVERY_BYTE)
        assert device.read(256) == EVERY_BYTE
        device.write(EVERY_BYTE)
        assert peer.read(256) == EVERY_BYTE


def test_pty_pair_stays_while_its_user_comes_and_goes(pty_pair: PtyPair) -> None:
    with serial.Serial(str(pty_pair.peer), timeout=10) as peer:
        for line in (b"one\n", b"two\n"):
            with serial.Serial(str(pty_pair.device), timeout=10) as device:
                peer.write(line)
                assert device.readline() == line
    assert pty_pair.running


def test_unplugged_and_plugged_in_again(pty_pair: PtyPair) -> None:
    for _ in range(3):
        with serial.Serial(str(pty_pair.device), timeout=10) as device:
            pty_pair.unplug()
            assert not os.path.lexists(pty_pair.device)
            assert not os.path.lexists(pty_pair.peer)
            with pytest.raises(serial.SerialException):
                device.read(1)
        pty_pair.replug()
        test_pty_pair_carries_every_byte_both_ways(pty_pair)


def test_server_outlives_the_thread_that_started_it() -> None:
    broker = Mosquitto()
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    assert not starter.is_alive()
    publish.single("weather/roof", b"x", qos=1, hostname="127.0.0.1", port=broker.port)
    assert broker.running
    broker.close()


STARTS_ALL = """
from tests.servers.mosquitto import Mosquitto
from tests.servers.socat import PtyPair
from tests.servers.timescale import TimescaleServer
servers = [TimescaleServer(), Mosquitto(), PtyPair()]
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
print(*(server.log.parent for server in servers), flush=True)
input()
"""


def test_nothing_is_left_when_the_test_run_is_killed() -> None:
    run = [sys.executable, "-c", STARTS_ALL]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout
        pids = [int(pid) for pid in process.stdout.readline().split()]
        folders = [Path(folder) for folder in process.stdout.readline().split()]
        assert len(pids) == len(folders) == 3
        assert all(path.exists() for path in [*folders, *(Path(f"/proc/{pid}") for pid in pids)])
        process.kill()
    for pid in pids:
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"process {pid} is gone")  # type: ignore[misc]
    for server in (TimescaleServer(), Mosquitto()):  # whoever comes next tidies up
        server.close()
    assert not any(folder.exists() for folder in folders)
