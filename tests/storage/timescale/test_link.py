"""The link and the server fail; logins are refused; the storage is closed."""

import ctypes
import logging
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import psycopg
import pytest

from edgedepot import TimescaleDBStorage, Version
from edgedepot.storage.errors import Misconfigured, Overloaded, StorageClosed, Unreachable, UpstreamError
from edgedepot.storage.timescale.link import Link
from edgedepot.storage.timescale.place import Place
from edgedepot.storage.timescale.server import Server
from tests.models import Mixed, Weather
from tests.servers.process import free_port, wait_until
from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Connect, Look

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PASSWORD = "ge/he1m@ %?"


def batch(first: int, count: int = 100) -> list[Version]:
    return [
        Version("mast", T0 + timedelta(seconds=n), {"temperature": n / 10}, None, 1, n + 1)
        for n in range(first, first + count)
    ]


@pytest.fixture
def link(timescale_server: TimescaleServer, timescale_url: str, proxy: Callable[[str, int], TcpProxy]) -> TcpProxy:
    return proxy("127.0.0.1", timescale_server.port)


@pytest.fixture
def through(
    connect: Connect, link: TcpProxy, timescale_server: TimescaleServer, timescale_url: str
) -> TimescaleDBStorage:
    """A storage behind the proxy, that has written already."""
    url = timescale_url.replace(f":{timescale_server.port}/", f":{link.port}/")
    storage = connect(url=url, connect_timeout="200 ms", statement_timeout="1s", write_timeout="1s")
    storage.store_readings(Weather, batch(0))
    return storage


def test_nobody_listens(connect: Connect) -> None:
    storage = connect(url=f"postgresql://me:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/iot")
    for call in (lambda: storage.store_readings(Weather, batch(0)), lambda: storage.query_readings(Weather)):
        with pytest.raises(Unreachable, match=r"no connection with postgresql://me@127.0.0.1:\d+/iot: .*refused"):
            call()
    health = storage.health_check()
    assert health["status"] == "fail"
    assert "refused" in health["message"]
    assert (health["version"], health["error"]) == (None, "Unreachable")


def test_a_killed_server_is_unreachable_until_it_is_back(
    storage: TimescaleDBStorage, timescale_server: TimescaleServer
) -> None:
    storage.store_readings(Weather, batch(0))
    assert storage.aggregate(Weather, "temperature", "count") == {"result": 100}
    timescale_server.kill()
    for _ in range(3):
        with pytest.raises(Unreachable):
            storage.store_readings(Weather, batch(100))
        with pytest.raises(Unreachable):
            storage.query_readings(Weather)
    timescale_server.start()
    assert storage.store_readings(Weather, batch(100)).accepted == 100
    assert storage.aggregate(Weather, "temperature", "count") == {"result": 200}
    assert storage.health_check()["status"] == "pass"


def test_a_health_check_waits_for_no_write(connect: Connect, timescale_url: str, look: Look) -> None:
    storage = connect(write_timeout="5s")
    storage.store_readings(Weather, batch(0))
    with psycopg.connect(timescale_url) as other, ThreadPoolExecutor() as pool:
        other.execute("LOCK TABLE weather")
        writing = pool.submit(storage.store_readings, Weather, batch(100))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'edgedepot' AND wait_event_type = 'Lock'"
        wait_until(lambda: bool(look(waiting)), "the write waits")
        assert storage.health_check()["status"] == "pass"
        assert not writing.done()
        other.rollback()
        assert writing.result().accepted == 100


def test_a_connection_ended_by_an_administrator_is_opened_again(storage: TimescaleDBStorage, look: Look) -> None:
    storage.store_readings(Weather, batch(0))
    look("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'edgedepot'")
    with pytest.raises(Unreachable, match=r"going down or coming up: .*SQLSTATE 57P01|no connection with"):
        storage.store_readings(Weather, batch(100))
    assert storage.store_readings(Weather, batch(100)).accepted == 100


def test_a_lost_answer_and_a_resend_store_every_row_once(
    through: TimescaleDBStorage, link: TcpProxy, look: Look
) -> None:
    everything = "SELECT * FROM weather ORDER BY timestamp"
    link.drop_answers(after=b"COMMIT")
    with pytest.raises(Unreachable):
        through.store_readings(Weather, batch(100))
    link.wait_cut()
    before = look(everything)
    assert len(before) == 200
    with pytest.raises(Unreachable):
        through.store_readings(Weather, batch(100))
    link.mend()
    receipt = through.store_readings(Weather, batch(100))
    assert (receipt.accepted, receipt.duplicates) == (0, 100)
    assert look(everything) == before


def test_a_link_cut_in_the_middle_leaves_nothing_of_the_batch(
    through: TimescaleDBStorage, link: TcpProxy, look: Look
) -> None:
    link.drop_answers()
    with pytest.raises(Unreachable):
        through.store_readings(Weather, batch(100))
    link.wait_cut()
    assert look("SELECT count(*) FROM weather") == [(100,)]
    link.mend()
    assert through.store_readings(Weather, batch(100)).accepted == 100


def test_a_server_that_says_nothing_any_more_is_given_up(through: TimescaleDBStorage, link: TcpProxy) -> None:
    link.blackhole()
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"said nothing for 1\.2 s"):
        through.store_readings(Weather, batch(100))
    with pytest.raises(Unreachable, match="timeout"):
        through.store_readings(Weather, batch(100))
    assert time.monotonic() - began < 15
    link.mend()
    assert through.store_readings(Weather, batch(100)).accepted == 100


def test_a_statement_that_takes_too_long_is_ended_by_the_server(connect: Connect, look: Look) -> None:
    storage = connect(write_timeout="300 ms")
    storage.store_readings(Weather, batch(0))
    other = connect("cellar")
    other.store_readings(Weather, batch(0))
    with other._writing.transaction() as session:
        session.connection.execute("LOCK TABLE weather IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Overloaded, match=r"longer than the statement timeout.*SQLSTATE 57014"):
            storage.store_readings(Weather, batch(100))
    assert storage.store_readings(Weather, batch(100)).accepted == 100


def test_a_long_query_holds_up_no_write(connect: Connect, look: Look) -> None:
    storage, other = connect(), connect("cellar")
    storage.store_readings(Weather, batch(0))
    other.store_reading(Weather, "mast", T0, {"temperature": 1.0})
    found: list[int] = []
    with other._writing.transaction() as session:
        # Reads wait for this lock, writes into the other measurement do not.
        session.connection.execute("LOCK TABLE weather IN ACCESS EXCLUSIVE MODE")
        reader = threading.Thread(target=lambda: found.append(len(storage.query_readings(Weather))))
        reader.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgedepot' AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: look(waiting) == [(1,)], "the query waits")
        assert storage.store_reading(Mixed, "mast", T0, {"a": 1.0}).accepted == 1
        assert found == []
    reader.join(10)
    assert found == [100]


def test_a_dead_link_is_noticed_within_30_seconds(timescale_url: str) -> None:
    session = Server.of(timescale_url, 10, 60, Place.of(None, "")).connect()
    with socket.socket(fileno=os.dup(session.connection.fileno())) as sock:
        options = [
            sock.getsockopt(level, option)
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        ]
    session.connection.close()
    assert options == [1, 10, 5, 3, 25_000]


_SO_ATTACH_FILTER = 26
_TCP_CLOSE = 7


def lose_packets(link: Link) -> socket.socket:
    """Have the kernel drop every packet that comes in for the link's connection, data and acknowledgements, before
    TCP sees it: a filter (socket(7)) that lets through none. The connection's socket."""
    assert link._session is not None
    connection = socket.socket(fileno=os.dup(link._session.connection.fileno()))
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET, 0 bytes
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(nothing)))
    return connection


def test_packets_that_get_lost_end_idle_and_waiting_and_sending_connections(
    connect: Connect, timescale_url: str, look: Look
) -> None:
    """By what the kernel finds out, here in 2 s instead of 25, long before our own patience ends."""
    url = f"{timescale_url}?keepalives_idle=1&keepalives_interval=1&tcp_user_timeout=1000"
    idle, waiting, sending = storages = [connect(name, url=url) for name in ("idle", "waiting", "sending")]
    for storage in storages:
        storage.store_readings(Weather, batch(0))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgedepot' AND wait_event_type = 'Lock'"
    with psycopg.connect(timescale_url) as lock, ThreadPoolExecutor() as pool:
        lock.execute("LOCK TABLE weather IN ACCESS EXCLUSIVE MODE")
        calls = [pool.submit(waiting.store_readings, Weather, batch(100))]
        wait_until(lambda: look(waits) == [(1,)], "the batch waits")
        connections = [lose_packets(storage._writing) for storage in storages]
        calls.append(pool.submit(sending.store_readings, Weather, batch(100)))
        for call in calls:
            with pytest.raises(Unreachable, match="timed out"):
                call.result(20)
        info = socket.IPPROTO_TCP, socket.TCP_INFO, 1
        wait_until(lambda: connections[0].getsockopt(*info)[0] == _TCP_CLOSE, "the idle connection is given up")
    for connection in connections:
        connection.close()
    with pytest.raises(Unreachable):
        idle.store_readings(Weather, batch(100))
    for storage in storages:
        storage.store_readings(Weather, batch(100))
    assert look("SELECT gateway_id, count(*) FROM weather GROUP BY 1 ORDER BY 1") == [
        ("idle", 200),
        ("sending", 200),
        ("waiting", 200),
    ]


@pytest.fixture(scope="module")
def guarded() -> Iterator[TimescaleServer]:
    """A server that wants a password."""
    with TimescaleServer(password=PASSWORD) as server:
        yield server


def test_logins_that_are_refused_say_what_to_do_and_never_the_password(
    guarded: TimescaleServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.sql("CREATE ROLE nobody NOLOGIN")
    guarded.sql("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0 PASSWORD 'x'")
    guarded.sql("CREATE DATABASE closed")
    guarded.sql("REVOKE CONNECT ON DATABASE closed FROM public")
    guarded.sql("CREATE ROLE somebody LOGIN PASSWORD 'x'")
    secret, host = quote(PASSWORD, safe=""), f"127.0.0.1:{guarded.port}"
    cases: list[tuple[str, type[UpstreamError], str]] = [
        (f"postgresql://postgres:wrong{secret}@{host}/postgres", Misconfigured, "check user and password"),
        (f"postgresql://postgres@{host}/postgres", Misconfigured, "check user and password"),
        (f"postgresql://unheard-of:{secret}@{host}/postgres", Misconfigured, "check user and password"),
        (f"postgresql://nobody:{secret}@{host}/postgres", Misconfigured, "check user and password"),
        (f"postgresql://postgres:{secret}@{host}/nowhere", Misconfigured, "no such database"),
        (f"postgresql://somebody:x@{host}/closed", Misconfigured, "lacks a right"),
        (f"postgresql://crowd:x@{host}/postgres", Overloaded, "short of connections"),
        (f"postgresql://postgres:{secret}@{host}/postgres?sslmode=require", Misconfigured, "check sslmode"),
        (f"postgresql://postgres:{secret}@{host}/postgres?options=-cnonsense%3D1", Unreachable, "nonsense"),
    ]
    with caplog.at_level(logging.DEBUG):
        for url, kind, words in cases:
            storage = connect(url=url)
            with pytest.raises(kind) as caught:
                storage.store_readings(Weather, batch(0))
            assert words in str(caught.value), url
            assert storage.health_check()["error"] == kind.__name__
            shown = "".join(traceback.format_exception(caught.value)) + repr(storage) + str(storage.health_check())
            assert PASSWORD not in shown
            assert secret not in shown
    right = connect(url=f"postgresql://postgres:{secret}@{host}/postgres")
    assert right.store_readings(Weather, batch(0)).accepted == 100
    assert PASSWORD not in caplog.text + repr(right)
    assert secret not in caplog.text + repr(right)


def test_a_server_that_only_reads_is_waited_for(connect: Connect, timescale_url: str) -> None:
    connect().store_readings(Weather, batch(0))
    standby = connect(url=f"{timescale_url}?options=-cdefault_transaction_read_only%3Don")
    with pytest.raises(Unreachable, match=r"only reads for now.*SQLSTATE 25006"):
        standby.store_readings(Weather, batch(100))
    assert standby.aggregate(Weather, "temperature", "count") == {"result": 100}


def test_health_says_what_answers(storage: TimescaleDBStorage) -> None:
    health = storage.health_check()
    assert health["status"] == "pass"
    assert health["message"].startswith("postgresql://postgres@127.0.0.1:")
    assert health["version"].startswith("PostgreSQL 17")
    assert "TimescaleDB 2.19" in health["version"]


def test_a_closed_storage_says_so_and_lets_go_of_its_connections(connect: Connect, look: Look) -> None:
    storage = connect()
    storage.store_readings(Weather, batch(0))
    storage.query_readings(Weather)
    connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgedepot'"
    assert look(connected) == [(2,)]
    storage.flush()
    storage.close()
    storage.close()
    wait_until(lambda: look(connected) == [(0,)], "both connections are gone")
    for call in (
        lambda: storage.store_readings(Weather, batch(0)),
        lambda: storage.query_readings(Weather),
        lambda: storage.delete_readings(Weather),
        storage.devices,
        storage.health_check,
    ):
        with pytest.raises(StorageClosed):
            call()


def test_the_server_says_what_time_it_is(storage: TimescaleDBStorage) -> None:
    before = datetime.now(UTC)
    assert before <= storage.server_time() <= datetime.now(UTC)


def test_a_link_that_swallows_a_write_is_given_up_within_30_seconds(connect: Connect) -> None:
    assert connect()._writing._server.patience == 30
