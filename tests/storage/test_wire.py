"""`wire_bytes` against what a proxy in between counted, and what calls wait for."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgedepot import InfluxDBStorage, SQLiteStorage, TimescaleDBStorage
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.errors import UpstreamError
from edgedepot.storage.wire import WireMeter
from tests.servers.proxy import TcpProxy
from tests.servers.victoria import VictoriaMetrics
from tests.sync.scripted import Weather, eventually, moment

MakeProxy = Callable[[str, int], TcpProxy]
ROWS = [("mast", moment(number), {"temperature": number / 7}) for number in range(20_000)]
MUCH = 32 << 20
"""Bytes: more than both ends' kernels take."""
TWICE = 66_000
"""The kernel also counts what it sends once more, as on a busy machine, which the proxy does not see: a segment, or few
per cent."""


@pytest.fixture
def timescale_link(timescale_url: str, proxy: MakeProxy) -> TcpProxy:
    address = urlsplit(timescale_url)
    assert address.hostname is not None
    assert address.port is not None
    return proxy(address.hostname, address.port)


@pytest.fixture(scope="module")
def victoria_metrics() -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics() as server:
        yield server


def through(url: str, link: TcpProxy) -> str:
    return re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", url)


def counted(link: TcpProxy) -> int:
    return link.bytes_up + link.bytes_down


def assert_counted(storage: BaseStorage, link: TcpProxy, at_least: int) -> None:
    total = storage.wire_bytes()
    assert total is not None
    assert at_least <= counted(link) <= total <= 1.05 * counted(link) + TWICE


def test_timescaledb(timescale_url: str, timescale_link: TcpProxy) -> None:
    with TimescaleDBStorage(through(timescale_url, timescale_link), gateway_id="g") as storage:
        assert storage.wire_bytes() == 0
        storage.store_readings(Weather, ROWS)
        storage.query_readings(Weather, limit=100)
        assert_counted(storage, timescale_link, at_least=1_000_000)
    eventually(lambda: (storage.wire_bytes() or 0) >= counted(timescale_link))


def test_timescaledb_over_a_link_that_breaks(timescale_url: str, timescale_link: TcpProxy) -> None:
    with TimescaleDBStorage(through(timescale_url, timescale_link), gateway_id="g", connect_timeout="2s") as storage:
        storage.store_readings(Weather, ROWS[:10])
        before = counted(timescale_link)
        timescale_link.cut()
        for _ in range(3):
            with pytest.raises(UpstreamError):
                storage.store_readings(Weather, ROWS)
        timescale_link.mend()
        storage.store_readings(Weather, ROWS)
        assert_counted(storage, timescale_link, at_least=before + 1_000_000)


def test_timescaledb_counts_connections_that_are_refused(timescale_url: str, timescale_link: TcpProxy) -> None:
    nobody = re.sub(r"/[^/]*$", "/no_such_database", through(timescale_url, timescale_link))
    with TimescaleDBStorage(nobody, gateway_id="g") as storage:
        with pytest.raises(UpstreamError):
            storage.store_readings(Weather, ROWS)
        eventually(lambda: (storage.wire_bytes() or 0) >= counted(timescale_link) > 0)


@pytest.mark.parametrize("gzip", [True, False])
def test_influxdb(victoria_metrics: VictoriaMetrics, proxy: MakeProxy, gzip: bool) -> None:
    link = proxy("127.0.0.1", victoria_metrics.port)
    url = f"http://127.0.0.1:{link.port}"
    with InfluxDBStorage(url, "token", "org", "bucket", gateway_id="g", gzip=gzip) as storage:
        assert storage.wire_bytes() == 0
        for _ in range(3):
            storage.store_readings(Weather, ROWS)
        assert_counted(storage, link, at_least=300_000)
        before = counted(link)
        link.cut()
        with pytest.raises(UpstreamError):
            storage.store_readings(Weather, ROWS)
        link.mend()
        storage.store_readings(Weather, ROWS)
        total = storage.wire_bytes()
        assert total is not None
        assert before < counted(link) <= total
    eventually(lambda: (storage.wire_bytes() or 0) >= counted(link))


def test_who_does_not_count_says_so(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "local.db") as storage:
        assert (storage.wire_bytes(), storage.wire_waits()) == (None, None)


def test_a_unix_socket_is_no_wire() -> None:
    one, other = socket.socketpair()
    with one, other:
        meter = WireMeter()
        meter.watch(one.fileno())
        assert meter.total is None
        with meter.waiting(one.fileno()):
            eventually(lambda: meter.waits.server > 0)
        assert (meter.waits.link, meter.waits.either) == (0, 0), "there is no link"


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            yield one, other


def test_who_takes_no_more_is_waited_for(connected: tuple[socket.socket, socket.socket]) -> None:
    """As a server that reads no faster than it stores: the link has room."""
    one, other = connected
    meter = WireMeter()
    meter.watch(one.fileno())

    def send() -> None:
        with meter.waiting(one.fileno()):
            one.sendall(bytes(MUCH))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    eventually(lambda: meter.waits.server > 2 * meter.waits.link + 0.2)
    left = MUCH
    while left:
        left -= len(other.recv(1 << 20))
    sender.join()
    meter.release()
    assert meter.waits.server > 2 * meter.waits.link


def test_a_wait_in_which_the_connection_ends(connected: tuple[socket.socket, socket.socket]) -> None:
    """A server that closes after each answer: what was waited for is known all the same."""
    one, other = connected
    meter = WireMeter()
    key = meter.watch(one.fileno())
    with meter.waiting(one.fileno()):
        other.sendall(b"204")
        assert one.recv(3) == b"204"
        one.close()
        meter.release(key)
    assert meter.waits.server > 0
    assert (meter.waits.link, meter.waits.either) == (0, 0)


def test_connecting_is_either() -> None:
    meter = WireMeter()
    assert meter.total == 0
    with meter.waiting():
        eventually(lambda: meter.waits.either > 0)
    assert (meter.waits.link, meter.waits.server) == (0, 0)
