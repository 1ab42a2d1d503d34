"""Limits over TLS: what goes over the wire is counted as it goes there, encrypted, the handshakes with it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from edgedepot import InfluxDBStorage, TimescaleDBStorage
from edgedepot.storage.base import BaseStorage
from edgedepot.sync.limits import Limits
from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer
from tests.storage.influxdb.scripted import BUCKET, ORG, TOKEN, ScriptedInfluxDB
from tests.sync.metered import Metered
from tests.sync.scripted import TellingStore
from tests.sync.test_limits import DAY, MakeProxy, clock, fill, metered, store

__all__ = ["clock", "metered", "store"]


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def timescale(tmp_path: Path, authority: trustme.CA, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    own = authority.issue_cert("127.0.0.1")
    files = {"server.crt": own.cert_chain_pems[0].bytes(), "server.key": own.private_key_pem.bytes()}
    with TimescaleServer(files=files, settings={"ssl": "on"}) as server:
        link = proxy("127.0.0.1", server.port)
        url = f"postgresql://postgres@127.0.0.1:{link.port}/postgres"
        question = f"sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
        with TimescaleDBStorage(f"{url}?{question}", gateway_id="g") as upstream:
            yield link, upstream


@pytest.fixture
def influxdb(tmp_path: Path, authority: trustme.CA, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedInfluxDB(context) as server:
        link = proxy("127.0.0.1", int(server.url.rpartition(":")[2]))
        place = (f"https://127.0.0.1:{link.port}", TOKEN, ORG, BUCKET)
        with InfluxDBStorage(*place, gateway_id="g", ca_file=tmp_path / "ca.pem") as upstream:
            yield link, upstream


def test_bytes_a_second(metered: Callable[[Limits], Metered], store: TellingStore) -> None:
    rate = 4_000  # a handshake and what goes with it is two seconds of that
    fill(store, 40_000)
    line = metered(Limits.of("central", max_rate=rate))
    line.run(60)  # connecting and making tables is over
    start, before = line.clock.monotonic(), line.counted_here()
    line.run(100)
    end = line.clock.monotonic()
    assert line.counted_here() - before >= 0.95 * rate * (end - start)
    assert line.least_here(60, start, end) >= 0.95 * rate * 60
    line.link.cut()
    line.link.mend()
    line.run(20)
    assert line.most_in(60) <= 1.05 * rate * 60
    assert store.count_pending("central") > 0


def test_bytes_a_day(metered: Callable[[Limits], Metered], store: TellingStore) -> None:
    """Of the smallest budget, whose last requests need a new connection, with all that TLS has to say first."""
    budget = 100_000
    fill(store, 40_000)
    line = metered(Limits.of("central", max_per_day=budget))
    line.run(0.95 * DAY)
    line.link.cut()
    line.link.mend()
    line.run(0.05 * DAY)
    total = line.total(0, DAY)
    assert 0.7 * budget <= total <= budget
    spent = line.forwarder.status().spent_today
    assert spent is not None
    assert total <= spent <= 1.05 * total + 10_000
    assert store.count_pending("central") > 0
