"""What `edgedepot plan` says, against what a run of the same load then takes."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from edgedepot import InfluxDBStorage, Reading, SQLiteStorage, TimescaleDBStorage
from edgedepot.cli import program
from edgedepot.cli.plan import _lines
from edgedepot.plan import CARD_TBW, Kind, Load, card_rate, plan
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.reading import define_model
from edgedepot.sync.limits import Limits
from tests.crash.campaign import quick_folder
from tests.plan import load
from tests.plan.campaign import FITTED, HELD_OUT, Drawn, disk, draw, wire
from tests.servers.proxy import TcpProxy
from tests.servers.victoria import VictoriaMetrics
from tests.storage.sqlite.small_disk import PAGE, SmallDisk

MakeProxy = Callable[[str, int], TcpProxy]


@pytest.fixture(scope="module")
def victoria_metrics() -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics() as server:
        yield server


@pytest.fixture
def timescale(timescale_url: str, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    address = urlsplit(timescale_url)
    assert address.hostname is not None
    assert address.port is not None
    link = proxy(address.hostname, address.port)
    with TimescaleDBStorage(re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", timescale_url)) as upstream:
        yield link, upstream


@pytest.fixture
def influxdb(victoria_metrics: VictoriaMetrics, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    link = proxy("127.0.0.1", victoria_metrics.port)
    with InfluxDBStorage(f"http://127.0.0.1:{link.port}", "t" * 88, "farm", "iot") as upstream:
        yield link, upstream


def planned(*options: str) -> dict[str, float]:
    result = CliRunner().invoke(program, ["plan", *options, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, float] = json.loads(result.stdout)
    return found


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


@pytest.mark.parametrize(
    ("rate", "flush", "bytes_each"),
    [(50, 1, 619), (50, 3, 403), (50, 10, 293), (4, 1, 2673), (4, 5, 1018), (4, 10, 805), (1, 1, 9570)],
)
def test_the_card_as_measured(rate: float, flush: float, bytes_each: float) -> None:
    """docs/benchmarks.md, bytes to the card: of 4 fields, from 20 devices."""
    found = plan(Load(rate=rate, fields=4, flush=flush, devices=20))
    assert found.card_bytes_per_day == pytest.approx(bytes_each * rate * 86_400, rel=0.07)
    assert found.card_share_per_year == pytest.approx(found.card_bytes_per_day * 365 / (CARD_TBW * 1e12))


CARDS = {
    "fitted": {
        1: 1_830, 2: 6_847, 3: 1_383, 4: 2_053, 5: 2_100, 6: 34_285, 7: 3_394, 8: 1_130, 9: 4_096, 10: 4_005,
        11: 5_360, 12: 1_437, 13: 9_281, 14: 1_187, 15: 16_115, 16: 977, 17: 2_093, 18: 5_445, 19: 21_307,
        20: 49_385, 21: 5_107, 22: 37_143, 23: 8_574, 24: 12_424,
    },
    "not known before": {
        201: 1_082, 202: 3_131, 203: 1_689, 204: 4_030, 205: 10_142, 206: 978, 207: 2_353, 208: 637, 209: 17_523,
        210: 1_423, 211: 1_681, 212: 10_842, 213: 600, 214: 5_189, 215: 1_929,
    },
}  # fmt: skip
"""Bytes a second by seed, as `python -m tests.plan card` measured them: it needs root, and hours of simulated time."""


@pytest.mark.parametrize("which", CARDS)
def test_the_card_of_loads_drawn_at_random(which: str) -> None:
    for seed, measured in CARDS[which].items():
        assert card_rate(draw(seed).planned()) == pytest.approx(measured, rel=0.2), seed


def test_catching_up() -> None:
    found = plan(Load(rate=50, fields=4, link=20_000, outage=24))
    slower = plan(Load(rate=50, fields=4, link=10_000, outage=24))
    never = plan(Load(rate=50, fields=4, link=5_000, outage=24))
    assert never.catch_up_seconds is None
    assert found.catch_up_seconds is not None
    assert slower.catch_up_seconds is not None
    backlog = 50 * 86_400 * 110.5
    assert found.catch_up_seconds == pytest.approx(
        backlog / (20_000 - found.wire_bytes_per_month / 2_592_000), rel=0.01
    )
    assert slower.catch_up_seconds > 2 * found.catch_up_seconds


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


def test_from_the_store_of_a_run(
    tmp_path: Path, timescale: tuple[TcpProxy, BaseStorage], influxdb: tuple[TcpProxy, BaseStorage]
) -> None:
    """What the plan says from the readings of a run's last hour, against what that run took of disk and wire."""
    (file := tmp_path / "gateway.toml").write_text(RUN)
    links = {"central": timescale[0], "other-1": influxdb[0]}
    kinds, start = ("bool", "float", "float", "int", "str"), datetime.now(UTC) - timedelta(hours=1)
    run = load.Load(tmp_path / "local.db", 20, 5, kinds, 10, models=2, upstreams=3, start=start)
    run.run(3270)
    for _, upstream in (timescale, influxdb):  # the third is away
        run.forward(upstream)
    run.run(30)
    before = {name: link.bytes_up + link.bytes_down for name, link in links.items()}
    run.run(300)
    taken = {name: link.bytes_up + link.bytes_down - before[name] for name, link in links.items()}
    run.store.fold()
    run.store.close()
    for name in links:
        found = planned(str(file), "--upstream", name)
        assert found["wire_bytes_per_month"] == pytest.approx(taken[name] * 30 * 288, rel=0.1)
        assert found["store_bytes_per_reading"] == pytest.approx(run.path.stat().st_size / run.count, rel=0.1)


Wide = define_model("Wide", {f"f{number}": (float, True, None) for number in range(20)})


class Tank(Reading):
    level: float
    warm: float | None = None


@pytest.mark.parametrize("is_open", [False, True])
def test_from_a_store(tmp_path: Path, is_open: bool) -> None:
    """The rates of the last hour, also beside who writes it."""
    with ExitStack() as at_end:
        store = at_end.enter_context(SQLiteStorage(tmp_path / "local.db", gateway_id="g"))
        now = datetime.now(UTC)
        for number in range(1, 3600, 2):
            moment = now - timedelta(seconds=number)
            store.store_reading(Tank, f"tank-{number % 10}", moment, {"level": 1.0, "warm": 2.0})
        old = [("tank-1", now - timedelta(hours=3, seconds=number), {"level": 1.0}) for number in range(500)]
        store.store_readings(Tank, old).wait()
        if not is_open:
            at_end.close()
        found = planned(str(tmp_path / "local.db"), "--disk", "1 GB")
        assert found["readings_per_second"] == pytest.approx(0.5, rel=0.05)
        described = planned("--devices", "1", "--every", "2s", "--fields", "2", "--disk", "1 GB")
        assert found["outage_hours"] == found["history_hours"], "nothing goes by itself"
        assert found["history_hours"] == pytest.approx(described["history_hours"], rel=0.05)
        result = CliRunner().invoke(program, ["plan", str(tmp_path / "local.db")])
        for word in (
            "outage that the disk holds",
            "keep_bytes is not set",
            "with all its history",
            "a month",
            "of the card's rated writes",
            "to catch up after 24 hours",
        ):
            assert word in result.stdout


@pytest.mark.parametrize("keep", [None, "6 MB"])
def test_of_a_disk_that_the_store_itself_fills(tmp_path: Path, keep: str | None) -> None:
    """With a limit all that it holds makes room for what comes; without one only what is free, in its file too."""
    with SmallDisk(8_000_000) as disk:
        path = disk.path / "local.db"
        file = tmp_path / "gateway.toml"
        limit = f'keep_bytes = "{keep}"' if keep else ""
        file.write_text(
            f'[gateway]\nid = "roof"\n[storage]\npath = "{path}"\n{limit}\n[models.tank]\nlevel = "float"\n'
        )
        with SQLiteStorage(path, gateway_id="roof") as store:
            now = datetime.now(UTC)
            rows = [("tank", now - timedelta(seconds=number), {"level": 1.0}) for number in range(30_000)]
            store.store_readings(Tank, rows).wait()
            store.fold()
        disk.fill(leave=100)
        free, held = 100 * PAGE, sum(one.stat().st_size for one in disk.path.iterdir() if "reserve" not in one.name)
        assert free + held < 6_000_000
        with closing(sqlite3.connect(path)) as connection:
            spare = connection.execute("PRAGMA freelist_count").fetchone()[0] * PAGE
        assert spare > 100_000
        there = plan(Load(1, 1, disk=free + held if keep else free + spare, keeps=keep is not None))
        found = planned(str(file))
    assert found["outage_hours"] == pytest.approx(there.outage_hours, rel=0.05)
    assert found["history_hours"] == pytest.approx(there.history_hours, rel=0.05)


class Pump(Reading):
    flow: float
    starts: int
    runs: bool
    state: str


def test_what_came_has_types(tmp_path: Path) -> None:
    """A store of two models says what its readings are made of; described, the load is the same."""
    models = (Pump, define_model("Pipe", {spec.name: (spec.type, True, None) for spec in Pump.__fields__}))
    with SQLiteStorage(tmp_path / "local.db", gateway_id="g") as store:
        now = datetime.now(UTC)
        for number in range(360):
            data = {"flow": 1.5, "starts": number, "runs": True, "state": "idle"}
            moment = now - timedelta(seconds=10 * number)
            store.store_reading(models[number % 2], f"pump-{number % 4}", moment, data)
    found = planned(str(tmp_path / "local.db"), "--disk", "1 GB")
    shape = ["--devices", "4", "--every", "40s", "--models", "2", "--disk", "1 GB", "--fields"]
    described = planned(*shape, "float,int,bool,str:4")
    for name in ("readings_per_second", "store_bytes_per_reading", "wire_bytes_per_month", "card_bytes_per_day"):
        assert found[name] == pytest.approx(described[name], rel=0.02), name
    floats = planned(*shape, "4")
    assert described["store_bytes_per_reading"] < 0.8 * floats["store_bytes_per_reading"]


FIELDS = "\n".join(f'f{number} = "float"' for number in range(20))
GATEWAY = f"""
[gateway]
id = "roof"

[storage]
path = "local.db"
flush_interval = "10s"
keep_bytes = "100 MB"

[models.tank]
level = "float"
warm = "float"

[models.wide]
{FIELDS}

[upstreams.central]
engine = "timescaledb"
url = "postgresql://nowhere/iot"
models = ["tank"]
devices = ["tank-1", "tank-2"]
max_rate = "2 kB/s"

[upstreams.lab]
engine = "influxdb"
url = "http://nowhere:8086"
token = "t"
org = "farm"
bucket = "iot"
every = "1 minute"
max_per_day = "10 MB"
windows = ["22:00-04:00 UTC"]
batch_size = 1000
"""


def test_from_a_gateways_file(tmp_path: Path) -> None:
    """Its store's settings and its upstreams' limits count; on the wire only what the upstream gets."""
    file = tmp_path / "gateway.toml"
    file.write_text(GATEWAY)
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof") as store:
        now = datetime.now(UTC)
        for device in range(10):
            rows = [(f"tank-{device}", now - timedelta(seconds=5 * n), {"level": 1.0, "warm": 2.0}) for n in range(719)]
            store.store_readings(Tank, rows).wait()
        wide = {f"f{number}": 1.0 for number in range(20)}
        store.store_readings(Wide, [("hall", now - timedelta(seconds=5 * n), wide) for n in range(719)]).wait()
    central, lab, kind = (planned(str(file), *more) for more in ([], ["--upstream", "lab"], ["--upstream", "influxdb"]))
    assert lab == pytest.approx(kind, rel=0.01)
    load = Load(2.2, 40 / 11, flush=10, disk=100e6, link=2_000, share=2 / 11, series=2, devices=11)
    found = plan(load, replace(load, fields=2)).as_json()
    assert central == {name: pytest.approx(value, rel=0.02) for name, value in found.items()}
    alone = plan(Load(rate=0.4, fields=2, flush=10, link=2_000, series=2, devices=2))
    assert central["wire_bytes_per_month"] == pytest.approx(alone.wire_bytes_per_month, rel=0.02)
    load = replace(load, upstream="influxdb", link=1e6, share=1.0, series=11, models=2)
    load = replace(load, every=60, per_day=10_000_000, open=0.25, batch=1000)
    near = {name: pytest.approx(value, rel=0.02) for name, value in plan(load).as_json().items()}
    assert lab == near
    assert lab["wire_bytes_per_month"] < central["wire_bytes_per_month"]
    text = CliRunner().invoke(program, ["plan", str(file), "--upstream", "lab", "--flush", "1s"]).stdout
    for word in ("commit every 1 s", "lab (InfluxDB)", "averages of 60 s", "10.0 MB a day", "open 25% of the day"):
        assert word in " ".join(text.split())
    result = CliRunner().invoke(program, ["plan", str(file), "--upstream", "labor"])
    assert result.exit_code == 2
    assert "found 'labor', expected timescale, influxdb or one of" in result.stderr


def test_averages_and_a_days_budget() -> None:
    whole = plan(Load(rate=20, fields=4))
    averages = plan(Load(rate=20, fields=4, series=20, every=60))
    assert averages.wire_bytes_per_month < whole.wire_bytes_per_month / 30
    assert averages.outage_hours == whole.outage_hours
    fixed = plan(Load(rate=20, fields=4, per_day=400_000_000, link=1e9))
    assert fixed.catch_up_seconds is not None
    assert whole.catch_up_seconds is not None
    assert fixed.catch_up_seconds > whole.catch_up_seconds
    assert plan(Load(rate=20, fields=4, per_day=1_000_000)).catch_up_seconds is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--devices", "20", "--every", "5s", "--fields", "4", "--upstream", "lab"], "expected timescale or influxdb"),
        (["--devices", "20"], "--every, --fields"),
        (["--devices", "20", "--every", "often", "--fields", "4"], "--every"),
        (["--devices", "20", "--every", "5s", "--fields", "4", "--disk", "big"], "--disk: found 'big'"),
        (["--devices", "20", "--every", "5s", "--fields", "4", "--link", "fast"], "--link: found 'fast'"),
        (["no-such.db"], "no-such.db"),
        (["no-such.db", "--fields", "4"], "not both"),
        (["--devices", "2", "--every", "5s", "--fields", "float,number"], "--fields: found 'float,number'"),
        (["--devices", "2", "--every", "5s", "--fields", "0"], "--fields: found '0'"),
    ],
)
def test_mistakes(options: list[str], words: str) -> None:
    result = CliRunner().invoke(program, ["plan", *options])
    assert result.exit_code == 2
    assert words in result.stderr


ROWS = [("load", "4 readings/s", "4 values each, commit every 1 s"), ("to the card", "1.6 GB a day", "")]


def test_what_is_too_wide_for_the_terminal_goes_below() -> None:
    assert list(_lines(ROWS, 80)) == [
        "load         4 readings/s  4 values each, commit every 1 s",
        "to the card  1.6 GB a day",
    ]
    assert list(_lines(ROWS, 50)) == [
        "load         4 readings/s",
        "             4 values each, commit every 1 s",
        "to the card  1.6 GB a day",
    ]


def test_what_is_usual_fits_into_80_columns() -> None:
    result = CliRunner().invoke(program, ["plan", "--devices", "20", "--every", "5s", "--fields", "4"])
    assert max(map(len, result.stdout.splitlines())) <= 80
