"""What the status says a backlog goes as fast as: by a clock that the test moves, and over real connections, on which
the kernel is told to send slowly, or where the server takes its time."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import trustme

from edgedepot import InfluxDBStorage, Reading, SyncWorker, TimescaleDBStorage
from edgedepot.storage.base import StoreRow
from edgedepot.storage.buffer import Lane, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.remote import RemoteStorage
from edgedepot.storage.wire import Waits
from edgedepot.sync.status import Limit
from tests.storage.influxdb.scripted import BUCKET, ORG, TOKEN, Answer, Request, ScriptedInfluxDB
from tests.sync.scripted import ScriptedUpstream, TellingStore, eventually, fill, moment, open_store
from tests.sync.simulated import forwarder_to

# -- by a clock that the test moves ----------------------------------------------------------------------------------


@dataclass
class Slow(ScriptedUpstream):
    """Each request takes `takes` seconds, for which it waits as `waits` says; None: it does not tell."""

    clock: ManualClock = field(default_factory=ManualClock)
    takes: float = 0.0
    waits: Waits | None = None
    waited: Waits = field(default_factory=Waits)
    meanwhile: Callable[[], object] = lambda: None
    """Called when a request has taken its time, before the answer."""

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        self.clock.advance(self.takes)
        self.waited = self.waited.plus(self.waits or Waits())
        self.meanwhile()
        return super().store_readings(reading_model, rows)

    def wire_waits(self) -> Waits | None:
        return None if self.waits is None else self.waited


class SlowStore(TellingStore):
    """A local store of which each window takes so many seconds to be read."""

    hand: ManualClock
    takes = 0.0

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        self.hand.advance(self.takes)
        return super().pending(cursor, limit, lane)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SlowStore]:
    clock = ManualClock(moment(3600))
    with SlowStore(tmp_path / "local.db", gateway_id="g", clock=clock, flush_interval="20 ms") as store:
        store.windows, store.read_before, store.refusals, store.hand = [], [], [], clock
        fill(store, 10_000)
        yield store


@pytest.mark.parametrize(
    ("takes", "waits", "reading", "limit"),
    [
        (2.0, Waits(link=1.7, server=0.2, either=0.1), 0.0, "link"),
        (2.0, Waits(link=0.2, server=1.7, either=0.1), 0.0, "server"),
        (2.0, Waits(link=0.9, server=0.8, either=0.3), 0.0, "link or server"),
        (2.0, Waits(either=2.0), 0.0, "link or server"),
        (2.0, Waits(link=0.4, server=0.4), 0.0, "gateway"),  # it encodes for longer than it waits
        (0.1, Waits(link=0.1), 0.3, "gateway"),
        (2.0, None, 0.0, "backend"),
        (0.1, None, 0.3, "gateway"),
    ],
)
def test_what_takes_most_of_the_time(
    store: SlowStore, takes: float, waits: Waits | None, reading: float, limit: Limit
) -> None:
    upstream = Slow(gateway_id="g", clock=store.hand, takes=takes, waits=waits)
    forwarder = forwarder_to(store, upstream, store.hand, batch_size=100)
    store.takes = reading
    for _ in range(5):
        assert forwarder.step() is None
    assert (forwarder.status().state, forwarder.status().limited_by) == ("sending", limit)


def test_the_latest_minute_counts_and_what_is_under_way(store: SlowStore) -> None:
    upstream = Slow(gateway_id="g", clock=store.hand, takes=1.0, waits=Waits(link=1.0))
    forwarder = forwarder_to(store, upstream, store.hand, batch_size=50)
    said: list[Limit | None] = []
    upstream.meanwhile = lambda: said.append(forwarder.status().limited_by)
    for _ in range(90):
        forwarder.step()
    upstream.waits = Waits(server=1.0)
    for _ in range(60):
        forwarder.step()
    assert said[:90] == ["link"] * 90
    assert said[-30:] == ["server"] * 30
    upstream.takes, upstream.waits = 40.0, Waits(link=40.0)
    forwarder.step()
    assert said[-1] == "link"


# -- over real connections -------------------------------------------------------------------------------------------

SLOWLY = 400_000
"""Bytes a second."""
UNLIMITED = 2**31 - 1
_SO_MAX_PACING_RATE = 47
"""Linux' include/uapi/asm-generic/socket.h: bytes a second that TCP sends at most."""


class Note(Reading):
    text: str


ROWS = 3_000
TEXT = 500
"""Bytes of a reading: a request with the first 500 is more than the kernel sends at once."""


@dataclass
class Line:
    """An upstream whose server can be told to keep its answers. `port` is the server's."""

    upstream: RemoteStorage
    port: int
    kept: Callable[[], AbstractContextManager[object]]


def pace(port: int, rate: int) -> None:
    """Have the kernel send no faster on this process's connections to a port, as if the link carried no more."""
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=int(one.name)) as found:
            try:
                if found.family == socket.AF_INET and found.getpeername()[1] == port:
                    found.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
            finally:
                found.detach()


@pytest.fixture
def timescale(timescale_url: str) -> Iterator[Line]:
    """Its server waits for who has locked the table."""

    @contextmanager
    def kept() -> Iterator[None]:
        with psycopg.connect(timescale_url) as other:
            other.execute("LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
            yield

    with TimescaleDBStorage(timescale_url, gateway_id="g") as upstream:
        yield Line(upstream, urlsplit(timescale_url).port or 5432, kept)


class Keeping(ScriptedInfluxDB):
    """Answers once `open` is set."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(context)
        self.open = threading.Event()
        self.open.set()

    def answer(self, request: Request) -> Answer:
        assert self.open.wait(20)
        return super().answer(request)

    @contextmanager
    def kept(self) -> Iterator[None]:
        self.open.clear()
        try:
            yield
        finally:
            self.open.set()


@contextmanager
def influxdb_at(server: Keeping, ca_file: Path | None = None) -> Iterator[Line]:
    with server, InfluxDBStorage(server.url, TOKEN, ORG, BUCKET, gateway_id="g", ca_file=ca_file) as upstream:
        yield Line(upstream, server.port, server.kept)


@pytest.fixture
def influxdb() -> Iterator[Line]:
    with influxdb_at(Keeping()) as line:
        yield line


@pytest.fixture
def influxdb_tls(tmp_path: Path) -> Iterator[Line]:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with influxdb_at(Keeping(context), tmp_path / "ca.pem") as line:
        yield line


KINDS = ["timescale", "influxdb", "influxdb_tls"]


@pytest.fixture(params=KINDS)
def line(request: pytest.FixtureRequest) -> Line:
    """Connected, and with the table there."""
    found: Line = request.getfixturevalue(request.param)
    found.upstream.store_readings(Note, [("mast", moment(ROWS), {"text": ""})])
    return found


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[TellingStore]:
    noise = random.Random(1)
    rows = [("mast", moment(n), {"text": noise.randbytes(TEXT // 2).hex()}) for n in range(ROWS)]
    with open_store(tmp_path / "local.db") as store:
        store.store_readings(Note, rows).wait()
        yield store


def test_a_link_that_is_slow(notes: TellingStore, line: Line) -> None:
    with ExitStack() as at_end:
        pace(line.port, SLOWLY)
        before = waits(line).link
        worker = at_end.enter_context(SyncWorker(notes, "central", line.upstream))
        at_end.callback(pace, line.port, UNLIMITED)
        eventually(lambda: waits(line).link - before > 0.15)
        eventually(lambda: worker.status().limited_by == "link")
    assert worker.status().last_error is None


def test_a_server_that_is_slow(notes: TellingStore, line: Line) -> None:
    before = waits(line).server
    worker = SyncWorker(notes, "central", line.upstream)
    with line.kept():
        worker.start()
        eventually(lambda: waits(line).server - before > 0.15)
        eventually(lambda: worker.status().limited_by == "server")
    with worker:
        eventually(lambda: worker.status().delivered == ROWS)
    assert worker.status().last_error is None


def waits(line: Line) -> Waits:
    found = line.upstream.wire_waits()
    assert found is not None
    return found
