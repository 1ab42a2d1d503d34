"""`edgedepot plan` held against runs of the same load: what these take of the disk, and of the wire to real servers."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from edgedepot import InfluxDBStorage, TimescaleDBStorage
from edgedepot.plan import Kind, Load, plan
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import from_micros
from edgedepot.sync.limits import Limits
from tests.crash.campaign import quick_folder
from tests.plan import load, uneven
from tests.plan.campaign import FITTED, HELD_OUT, Drawn, Taking, disk, draw, wire
from tests.plan.test_plan import pace, planned
from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer
from tests.servers.victoria import VictoriaMetrics

ONE_BY_ONE = 13
BEFORE = 6
"""Hours."""
KEEPING = """
[gateway]
id = "roof"

[storage]
path = "local.db"
flush_interval = "30s"
keep_bytes = "5 MB"
"""
MakeProxy = Callable[[str, int], TcpProxy]


class Counted:
    """Limits go by what passes the link: what a busy machine has to send once more is nothing that a plan knows of."""

    link: TcpProxy

    def wire_bytes(self) -> int:
        return self.link.bytes_up + self.link.bytes_down


class CountedTimescale(Counted, TimescaleDBStorage): ...


class CountedInflux(Counted, InfluxDBStorage): ...


@pytest.fixture(scope="module")
def victoria_metrics() -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics() as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Whom to trust; a server's certificate with the one between, as servers out there have; and its key."""
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA(key_type=trustme.KeyType.RSA)
    between = authority.create_child_ca(key_type=trustme.KeyType.RSA)
    own = between.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    trusted, chain, key = (folder / name for name in ("ca.pem", "server.crt", "server.key"))
    authority.cert_pem.write_to_path(str(trusted))
    chain.write_bytes(b"".join(one.bytes() for one in own.cert_chain_pems))
    own.private_key_pem.write_to_path(str(key))
    return trusted, chain, key


@pytest.fixture
def timescale(timescale_url: str, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    address = urlsplit(timescale_url)
    assert address.hostname is not None
    assert address.port is not None
    link = proxy(address.hostname, address.port)
    with CountedTimescale(re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", timescale_url)) as upstream:
        upstream.link = link
        yield link, upstream


@pytest.fixture
def influxdb(victoria_metrics: VictoriaMetrics, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    link = proxy("127.0.0.1", victoria_metrics.port)
    with CountedInflux(f"http://127.0.0.1:{link.port}", "t" * 88, "farm", "iot") as upstream:
        upstream.link = link
        yield link, upstream


@pytest.fixture
def timescale_tls(certificates: tuple[Path, Path, Path], proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    trusted, *own = certificates
    files = {one.name: one.read_bytes() for one in own}
    with TimescaleServer(files=files, settings={"ssl": "on"}) as server:
        link = proxy("127.0.0.1", server.port)
        question = f"sslmode=verify-full&sslrootcert={trusted}"
        with TimescaleDBStorage(f"postgresql://postgres@127.0.0.1:{link.port}/postgres?{question}") as upstream:
            yield link, upstream


@pytest.fixture
def influxdb_tls(certificates: tuple[Path, Path, Path], proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    trusted, *own = certificates
    with VictoriaMetrics(certificate=(own[0], own[1])) as server:
        link = proxy("127.0.0.1", server.port)
        place = (f"https://127.0.0.1:{link.port}", "t" * 88, "farm", "iot")
        with InfluxDBStorage(*place, ca_file=trusted) as upstream:
            yield link, upstream


def asked(drawn: Drawn) -> list[str]:
    """The options that describe a load."""
    types = ",".join(f"str:{drawn.length}" if kind == "str" else kind for kind in drawn.kinds)
    every, flush = f"{round(drawn.every * 1000)}ms", f"{drawn.flush:g}s"
    shape = ["--fields", types, "--models", str(drawn.models)]
    return ["--devices", str(drawn.devices), "--every", every, *shape, "--flush", flush]


@pytest.mark.parametrize("seed", [*FITTED[:1], *HELD_OUT[:3]])
def test_the_disk(seed: int) -> None:
    """What the readings of some hours take, while the upstream is away."""
    drawn = draw(seed)
    with quick_folder() as folder:
        measured = disk(drawn, folder / "local.db", 10_000)
    assert planned(*asked(drawn))["store_bytes_per_reading"] == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("kinds", [("float",) * 4, ("float", "int", "int", "bool", "str")])
def test_the_disk_in_an_outage(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """History of what waits goes when the plan says so, and so the first readings that are thinned."""
    drawn = Drawn(devices=20, every=5, kinds=kinds, flush=30, models=1, length=12, upstreams=1)
    run = load.Load(tmp_path / "local.db", 20, 5, kinds, 30, 5_000_000)
    went = None
    while not run.store.ledger().given_up:
        run.run(600)
        run.store.retain()
        if went is None and run.store.history_from():
            went = run.clock.monotonic() / 3600
    thinned = run.clock.monotonic() / 3600
    run.store.close()
    found = planned(*asked(drawn), "--disk", "5 MB")
    assert found["history_hours"] == pytest.approx(went, rel=0.1)
    assert found["outage_hours"] == pytest.approx(thinned, rel=0.1)


def test_the_disk_in_an_outage_beside_what_is_kept_downsampled(tmp_path: Path) -> None:
    """It has as much room as history by then, which goes earlier for that. Of so small a store history goes by large
    parts: what counts is the mean of what it spans before and after one with the outage's first readings goes."""
    (file := tmp_path / "gateway.toml").write_text(KEEPING)
    start = datetime.now(UTC) - timedelta(hours=BEFORE)
    run = load.Load(tmp_path / "local.db", 20, 10, ("float",) * 8, 30, 5_000_000, start=start)
    run.store.keep_downsampled(run.types[0], "20 seconds", keep="730 days")
    run.forward(Taking())
    run.run(BEFORE * 3600)
    run.forwarders.clear()
    found, began, since = planned(str(file)), from_micros(run.clock.now()), start
    while since <= began:
        run.run(300)
        before = from_micros(run.clock.now()) - since
        run.store.retain()
        since = run.store.history_from()["load0"]
    after = from_micros(run.clock.now()) - since
    run.store.close()
    assert found["history_hours"] == pytest.approx((before + after).total_seconds() / 2 / 3600, rel=0.1)


def test_the_disk_in_an_outage_where_history_goes_for_its_age(tmp_path: Path) -> None:
    run = load.Load(tmp_path / "local.db", 10, 30, ("float",) * 4, 300, keep="12 hours")
    for _ in range(4):
        run.run(6 * 3600)
        run.store.fold()
        run.store.retain()
    spare = run.store.free_bytes()
    run.store.close()
    aged = Load(1 / 3, 4, 300, devices=10, disk=run.path.stat().st_size - spare, keeps=False, age=12 * 3600)
    assert plan(aged).outage_hours == pytest.approx(24, rel=0.1)
    assert plan(aged).history_hours == 12
    assert plan(replace(aged, loses=True)).outage_hours == 12


@pytest.mark.parametrize("upstream", ["timescale", "influxdb"])
@pytest.mark.parametrize("seed", [*FITTED[:1], *HELD_OUT[:3]])
def test_the_wire(request: pytest.FixtureRequest, tmp_path: Path, upstream: str, seed: int) -> None:
    link, storage = request.getfixturevalue(upstream)
    drawn = draw(seed)
    taken = wire(drawn, tmp_path / "local.db", link, storage, 40)
    month = planned(*asked(drawn), "--upstream", upstream)["wire_bytes_per_month"]
    assert month == pytest.approx(taken * 30 * 86_400, rel=0.1)


@pytest.mark.parametrize("upstream", ["timescale", "influxdb"])
def test_the_wire_of_averages(request: pytest.FixtureRequest, tmp_path: Path, upstream: Kind) -> None:
    link, storage = request.getfixturevalue(upstream)
    run = load.Load(tmp_path / "local.db", 20, 5, ("float",) * 4, 10)
    run.forward(storage, Limits.of("central", every="1 minute"))
    run.run(300)
    before = link.bytes_up + link.bytes_down
    run.run(1200)
    taken = link.bytes_up + link.bytes_down - before
    run.store.close()
    found = plan(Load(rate=4, fields=4, flush=10, upstream=upstream, series=20, every=60))
    assert found.wire_bytes_per_month == pytest.approx(taken * 30 * 72, rel=0.1)


@pytest.mark.parametrize("upstream", ["timescale", "influxdb"])
def test_the_wire_with_tls(request: pytest.FixtureRequest, tmp_path: Path, upstream: Kind) -> None:
    """Of a load that sends its readings one by one, so that most of it is what goes with each request."""
    link, storage = request.getfixturevalue(f"{upstream}_tls")
    drawn = draw(ONE_BY_ONE)
    assert drawn.planned().sent == drawn.planned().requests
    taken = wire(drawn, tmp_path / "local.db", link, storage, 40) * 30 * 86_400
    found, plain = (planned(*asked(drawn), "--upstream", upstream, *more) for more in (["--tls"], []))
    assert found["wire_bytes_per_month"] == pytest.approx(taken, rel=0.05)
    assert plain["wire_bytes_per_month"] < 0.92 * taken
    if upstream == "influxdb":
        every = Load(rate=4, fields=4, flush=10, upstream=upstream, series=20, every=300, tls=True)
        assert plan(every).wire_bytes_per_month == pytest.approx(
            averages_with_new_connections(tmp_path / "averages.db", link, storage) * 30 * 288, rel=0.1
        )


def averages_with_new_connections(path: Path, link: TcpProxy, upstream: BaseStorage) -> float:
    """Bytes of each five minutes, of averages that come so seldom that the server has closed the connection."""
    run = load.Load(path, 20, 5, ("float",) * 4, 10)
    run.forward(upstream, Limits.of("central", every="5 minutes"))
    run.run(600)
    before = link.bytes_up + link.bytes_down
    for _ in range(6):
        link.cut()
        link.mend()
        run.run(300)
    run.store.close()
    return (link.bytes_up + link.bytes_down - before) / 6


FLUSH = 10.0
RUN = """
[gateway]
id = "roof"

[storage]
path = "local.db"
flush_interval = "10s"

[upstreams.central]
engine = "timescaledb"
url = "postgresql://nowhere/iot"

[upstreams.other-1]
engine = "influxdb"
url = "http://nowhere:8086"
token = "t"
org = "farm"
bucket = "iot"
"""


RUNS = {
    "one after the other": lambda **run: load.Load(
        devices=20, every=5, kinds=("bool", "float", "float", "int", "str"), models=2, **run
    ),
    **{
        second.__name__: lambda second=second, **run: uneven.Uneven(devices=0, every=0, kinds=(), second=second, **run)
        for second in (uneven.sparse, uneven.of_two_rates, uneven.polled, uneven.gathered)
    },
}
MANY = 5_000
"""Readings: fewer take less room than a store has to begin with."""


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
def test_from_the_store_of_a_run(
    tmp_path: Path,
    timescale: tuple[TcpProxy, BaseStorage],
    influxdb: tuple[TcpProxy, BaseStorage],
    make: Callable[..., load.Load],
) -> None:
    """What the plan says from the readings of a run's last hour, against what that run took of disk and wire."""
    (file := tmp_path / "gateway.toml").write_text(RUN)
    links = {"central": timescale[0], "other-1": influxdb[0]}
    run = make(path=tmp_path / "local.db", flush=FLUSH, upstreams=3, start=datetime.now(UTC) - timedelta(hours=1))
    run.run(2970)
    for _, upstream in (timescale, influxdb):  # the third is away
        run.forward(upstream)
    run.run(30)
    before = {name: link.bytes_up + link.bytes_down for name, link in links.items()}
    run.run(600)
    taken = {name: link.bytes_up + link.bytes_down - before[name] for name, link in links.items()}
    run.store.fold()
    run.store.close()
    for name in links:
        found = planned(str(file), "--upstream", name)
        assert found["wire_bytes_per_month"] == pytest.approx(taken[name] * 30 * 144, rel=0.1)
        if run.count > MANY:
            assert found["store_bytes_per_reading"] == pytest.approx(run.path.stat().st_size / run.count, rel=0.1)


def test_catching_up_within_a_days_bytes(tmp_path: Path, influxdb: tuple[TcpProxy, BaseStorage]) -> None:
    """From midnight on: what the hours before leave of a day's bytes may go at once."""
    start = datetime(2026, 3, 1, 18, tzinfo=UTC)
    run = load.Load(tmp_path / "local.db", 20, 60, ("float",) * 4, 60, start=start)
    run.run(6 * 3600)
    run.forward(influxdb[1], Limits.of("central", max_per_day="10 MB"))
    before = run.store.count_pending("central")
    run.run(1500)
    went = before - run.store.count_pending("central")
    run.store.close()
    expected = Load(1 / 3, 4, flush=60, upstream="influxdb", devices=20, series=20, per_day=10_000_000)
    assert pace(expected) == pytest.approx(went / 1500, rel=0.1)


@pytest.mark.parametrize(("upstream", "rate"), [("timescale", 500), ("influxdb", 1_000)])
def test_catching_up_at_a_rate(request: pytest.FixtureRequest, tmp_path: Path, upstream: Kind, rate: int) -> None:
    _, storage = request.getfixturevalue(upstream)
    run = load.Load(tmp_path / "local.db", 20, 1, ("float",) * 4, 60)
    run.run(120)
    run.forward(storage, Limits.of("central", max_rate=rate))
    run.drain(60)  # it connects, and learns what requests take
    went = run.drain(60)
    run.store.close()
    assert pace(Load(4e-6, 4, flush=60, upstream=upstream, link=rate)) == pytest.approx(went / 60, rel=0.1)
