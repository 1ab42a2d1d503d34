"""`wire_bytes` against what a proxy in between counted."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgedepot import InfluxDBStorage, SQLiteStorage, TimescaleDBStorage
from edgedepot.storage.errors import UpstreamError
from edgedepot.storage.wire import WireMeter
from tests.servers.proxy import TcpProxy
from tests.servers.victoria import VictoriaMetrics
from tests.sync.scripted import Weather, eventually, moment

MakeProxy = Callable[[str, int], TcpProxy]
ROWS = [("mast", moment(number), {"temperature": number / 7}) for number in range(3000)]


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


def test_timescaledb(timescale_url: str, timescale_link: TcpProxy) -> None:
    with TimescaleDBStorage(through(timescale_url, timescale_link), gateway_id="g") as storage:
        assert storage.wire_bytes() == 0
        storage.store_readings(Weather, ROWS)
        storage.query_readings(Weather, limit=100)
        assert storage.wire_bytes() == counted(timescale_link) > 50_000
    # Closing says goodbye to the server on each of two connections: message type and length, 5 bytes.
    eventually(lambda: storage.wire_bytes() == counted(timescale_link))


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
        total = storage.wire_bytes()
        assert total is not None
        # The kernel also counts what it sent into a cut link: here what one socket takes before the reset is noticed.
        assert counted(timescale_link) <= total <= counted(timescale_link) + 200_000
        assert counted(timescale_link) - before > 50_000


def test_timescaledb_counts_connections_that_are_refused(timescale_url: str, timescale_link: TcpProxy) -> None:
    nobody = re.sub(r"/[^/]*$", "/no_such_database", through(timescale_url, timescale_link))
    with TimescaleDBStorage(nobody, gateway_id="g") as storage:
        with pytest.raises(UpstreamError):
            storage.store_readings(Weather, ROWS)
        eventually(lambda: storage.wire_bytes() == counted(timescale_link) > 0)


@pytest.mark.parametrize("gzip", [True, False])
def test_influxdb(victoria_metrics: VictoriaMetrics, proxy: MakeProxy, gzip: bool) -> None:
    link = proxy("127.0.0.1", victoria_metrics.port)
    url = f"http://127.0.0.1:{link.port}"
    with InfluxDBStorage(url, "token", "org", "bucket", gateway_id="g", gzip=gzip) as storage:
        assert storage.wire_bytes() == 0
        for _ in range(3):
            storage.store_readings(Weather, ROWS)
        assert storage.wire_bytes() == counted(link) > 20_000
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
        assert storage.wire_bytes() is None


def test_a_unix_socket_is_no_wire() -> None:
    one, other = socket.socketpair()
    with one, other:
        meter = WireMeter()
        assert meter.total == 0
        meter.watch(one.fileno())
        assert meter.total is None
