"""What `edgedepot plan` says: of a load that is described, of a store, of a gateway's file."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgedepot import Reading, SQLiteStorage
from edgedepot.cli import program
from edgedepot.cli.plan import _lines
from edgedepot.plan import CARD_TBW, Kind, Load, Plan, card_rate, kept_bytes, plan
from edgedepot.storage.reading import define_model
from tests.plan.campaign import draw
from tests.plan.uneven import Came, Meter, Uneven, polled
from tests.storage.sqlite.small_disk import PAGE, SmallDisk


def planned(*options: str) -> dict[str, Any]:
    result = CliRunner().invoke(program, ["plan", *options, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


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


DRAINS: dict[tuple[Kind, int], dict[int, float]] = {
    ("timescale", 1): {500: 0.48, 1_000: 3.88, 2_000: 12.4, 3_000: 21.8, 5_000: 39.5, 20_000: 175},
    ("timescale", 4): {500: 0.48, 3_000: 13.1, 20_000: 159},
    ("influxdb", 1): {500: 1.66, 1_000: 9.82, 2_000: 38.3, 3_000: 70.6, 5_000: 142, 20_000: 784},
    ("influxdb", 4): {3_000: 28.8, 20_000: 611},
}
"""By upstream, how many reading models and max_rate: the readings a second, of 4 floats, of a backlog that drained from
a store with nothing else to send."""


def pace(load: Load) -> float:
    """Readings a second by which there are fewer of a backlog."""
    later = plan(load).catch_up_seconds
    assert later is not None
    return load.outage * 3600 * load.rate / later


@pytest.mark.parametrize(("upstream", "models"), DRAINS)
def test_a_backlog_at_a_rate(upstream: Kind, models: int) -> None:
    """Few readings go together then, each time with what a request takes beside them."""
    for rate, measured in DRAINS[upstream, models].items():
        load = Load(4e-6, 4, flush=60, upstream=upstream, link=rate, models=models)
        assert pace(load) == pytest.approx(measured, rel=0.15), rate


def test_catching_up() -> None:
    found = plan(Load(rate=50, fields=4, link=20_000, outage=24))
    slower = plan(Load(rate=50, fields=4, link=10_000, outage=24))
    never = plan(Load(rate=50, fields=4, link=5_000, outage=24))
    assert never.catch_up_seconds is None
    assert found.catch_up_seconds is not None
    assert slower.catch_up_seconds is not None
    backlog = 50 * 86_400 * 114.4
    assert found.catch_up_seconds == pytest.approx(
        backlog / (20_000 - found.wire_bytes_per_month / 2_592_000), rel=0.01
    )
    assert slower.catch_up_seconds > 2 * found.catch_up_seconds


Wide = define_model("Wide", {f"f{number}": (float, True, None) for number in range(20)})


class Tank(Reading):
    level: float
    warm: float | None = None


def store_each(
    store: SQLiteStorage, model: type[Reading], rows: Iterable[tuple[str, datetime, dict[str, Any]]]
) -> None:
    """Each reading in a commit of its own."""
    for row in rows:
        store.store_reading(model, *row).wait()


@pytest.mark.parametrize("is_open", [False, True])
def test_from_a_store(tmp_path: Path, is_open: bool) -> None:
    """The rates of the last hour, also beside who writes it."""
    with ExitStack() as at_end:
        store = at_end.enter_context(SQLiteStorage(tmp_path / "local.db", gateway_id="g"))
        now, data = datetime.now(UTC), {"level": 1.0, "warm": 2.0}
        old = [("tank-1", now - timedelta(hours=3, seconds=number), {"level": 1.0}) for number in range(500)]
        store.store_readings(Tank, old).wait()
        times = ((number, now - timedelta(seconds=number)) for number in range(3901, 0, -10))
        store_each(store, Tank, ((f"tank-{number % 50}", moment, data) for number, moment in times))
        if not is_open:
            at_end.close()
        found = planned(str(tmp_path / "local.db"), "--disk", "1 GB")
        assert found["readings_per_second"] == pytest.approx(0.1, rel=0.01)
        described = planned("--devices", "5", "--every", "50s", "--fields", "2", "--disk", "1 GB")
        assert found["outage_hours"] == pytest.approx(found["history_hours"]), "nothing goes by itself"
        assert found["history_hours"] == pytest.approx(described["history_hours"], rel=0.05)
        result = CliRunner().invoke(program, ["plan", str(tmp_path / "local.db")])
        assert "local.db: counted as if all went to TimescaleDB" in result.stdout
        for word in (
            "outage that the disk holds",
            "without keep_bytes",
            "with all its history",
            "a month",
            "of the card's rated writes",
            "to catch up after 24 hours",
        ):
            assert word in result.stdout


@pytest.mark.parametrize(
    ("settings", "then"),
    [
        ("", "without keep_bytes"),
        ('keep_bytes = "6 MB"', "then thinning begins"),
        ('keep_bytes = "6 MB"\nwhen_full = "block"', "then no more is taken"),
        ('keep = "90 days"', "without keep_bytes"),
        ('keep = "90 days"\nkeep_pending = false', "without keep_bytes"),
        ('keep = "1 minute"\nkeep_pending = false', "then the oldest go (keep)"),
    ],
)
def test_of_a_disk_that_the_store_itself_fills(tmp_path: Path, settings: str, then: str) -> None:
    """With a limit all that it holds makes room for what comes; without one only what is free, in its file too."""
    with SmallDisk(8_000_000) as disk:
        path = disk.path / "local.db"
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'[gateway]\nid = "roof"\n[storage]\npath = "{path}"\n{settings}\n[models.tank]\nlevel = "float"\n'
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
        age = 60 if "minute" in settings else 90 * 86_400 if "keep = " in settings else None
        whole = free + (held if settings else spare)
        there = plan(
            # all but in one commit
            Load(
                1, 1, disk=whole, keeps="keep_bytes" in settings, age=age, loses="pending" in settings, committed=0.001
            )
        )
        found = planned(str(file))
        assert then in said(str(file))
    assert found["outage_hours"] == pytest.approx(there.outage_hours, rel=0.05)
    assert found["history_hours"] == pytest.approx(there.history_hours, rel=0.05)


@pytest.mark.parametrize("keep", ["1 day", None])
def test_what_is_kept_downsampled_has_room_that_history_has_not(tmp_path: Path, keep: str | None) -> None:
    """What that comes to when it is as old as it may be; for ever, as much as history has. Without a limit nobody knows
    how much there is beside it, and that is said."""
    (file := tmp_path / "gateway.toml").write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "local.db"\nkeep_bytes = "50 MB"\n'
    )
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof") as store:
        store.keep_downsampled(Tank, "1 minute", fields=["level"], functions=("avg", "max"), keep=keep)
        now = datetime.now(UTC)
        store_each(store, Tank, (("tank", now - timedelta(seconds=age), {"level": 1.0}) for age in range(3600, 0, -10)))
    each = kept_bytes([("n", float), ("sum", float), ("max", float)])
    load = Load(0.1, 1, disk=50e6, kept=math.inf if keep is None else 2 * 1440 * each)
    bare = plan(replace(load, kept=0.0))
    assert planned(str(file))["history_hours"] == pytest.approx(plan(load).history_hours, rel=0.02)
    assert planned(str(file))["outage_hours"] == pytest.approx(bare.outage_hours, rel=0.02)
    less = bare.history_hours - plan(load).history_hours
    assert less / bare.history_hours == pytest.approx(2 * 1440 * each / load.room if keep else 1 / 3, rel=0.05)
    assert "bytes a reading, beside what is kept downsampled" in said(str(file))
    assert "is not counted: there is no keep_bytes." in said(str(tmp_path / "local.db"))


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
            moment = now - timedelta(seconds=3600 - 10 * number)
            store_each(store, models[number % 2], [(f"pump-{number % 4}", moment, data)])
    found = planned(str(tmp_path / "local.db"), "--disk", "1 GB")
    shape = ["--devices", "4", "--every", "40s", "--models", "2", "--disk", "1 GB", "--fields"]
    described = planned(*shape, "float,int,bool,str:4")
    for name in ("readings_per_second", "store_bytes_per_reading", "wire_bytes_per_month", "card_bytes_per_day"):
        assert found[name] == pytest.approx(described[name], rel=0.02), name
    floats = planned(*shape, "4")
    assert described["store_bytes_per_reading"] < 0.8 * floats["store_bytes_per_reading"]


def test_a_gateway_that_was_off_and_clocks_that_are_wrong(tmp_path: Path) -> None:
    """What counts is when readings came, not when their devices say that they are from; nor what single ones say, such
    as are from a day before, to come, or were when they came."""
    off = {"behind": -7200.0, "slow": -1500.0, "ahead": 1800.0}
    devices = [*off, *(f"right-{number}" for number in range(7))]
    stray = {
        ("right-0", 300): 43_200.0,
        ("right-1", 6700): 43_200.0,
        ("right-2", 310): 6600.0,
        ("right-3", 6710): -2400.0,
        ("right-4", 320): -86_400.0,
        ("ahead", 330): 43_200.0,
        ("behind", 6720): 43_200.0,
    }

    def second(number: int) -> Iterator[Came]:
        if not 600 <= number < 6600:
            for place, device in enumerate(devices):
                after = stray.get((device, number), off.get(device, 0.0))
                yield Meter, device, place / 10 + after, {f"f{field}": 1.0 for field in range(4)}

    path, start = tmp_path / "local.db", datetime.now(UTC) - timedelta(hours=2)
    run = Uneven(path, 0, 0, (), flush=5, start=start, second=second)
    run.run(7200)
    run.store.close()
    found = planned(str(path), "--flush", "5s")
    assert found["readings_per_second"] == pytest.approx(10, rel=0.05)
    assert found["card_bytes_per_day"] == pytest.approx(86_400 * card_rate(Load(10, 4, flush=5, devices=10)), rel=0.05)
    assert "From the readings of the last 10 min: none came for 100 min before." in said(str(path))


def test_a_pause_within_the_hour_is_said(tmp_path: Path) -> None:
    with SQLiteStorage(path := tmp_path / "local.db", gateway_id="g") as store:
        ages = [age for age in range(7200, 0, -30) if not 1200 <= age < 2400]
        now = datetime.now(UTC)
        store_each(store, Tank, (("tank", now - timedelta(seconds=age), {"level": 1.0}) for age in ages))
    assert "For 20 min of the last hour nothing came: where the gateway was off then" in said(str(path))


def test_a_quiet_load_is_no_gateway_that_was_off(tmp_path: Path) -> None:
    """Nor are so few readings that nobody can tell."""
    with SQLiteStorage(path := tmp_path / "local.db", gateway_id="g") as store:
        now = datetime.now(UTC)
        store_each(store, Tank, (("tank", now - timedelta(minutes=age), {"level": 1.0}) for age in (95, 50, 5)))
    assert planned(str(path))["readings_per_second"] == pytest.approx(2 / 3600)
    assert "nothing came" not in (text := said(str(path)))
    assert "From the readings" not in text


def test_the_first_readings_of_a_store(tmp_path: Path) -> None:
    """Before them there was no load, so few as they are."""
    with SQLiteStorage(path := tmp_path / "local.db", gateway_id="g") as store:
        now = datetime.now(UTC)
        store_each(store, Tank, (("tank", now - timedelta(minutes=age), {"level": 1.0}) for age in (5, 3, 1)))
    assert planned(str(path))["readings_per_second"] == pytest.approx(3 / 300, rel=0.05)
    assert "From the readings of the last 5 min: none came before." in said(str(path))


def test_readings_that_come_together(tmp_path: Path) -> None:
    """It says so, and with commits further apart there are no more, with such that are closer no more than that."""
    run = Uneven(tmp_path / "local.db", 0, 0, (), flush=5, start=datetime.now(UTC) - timedelta(hours=1), second=polled)
    run.run(3600)
    run.store.close()
    assert "4 values each, which come together: a commit every 60 s" in said(str(run.path))
    cards = [planned(str(run.path), "--flush", one)["card_bytes_per_day"] for one in ("500ms", "1s", "30s")]
    assert cards == [pytest.approx(86_400 * card_rate(Load(1 / 3, 4, devices=20, committed=1 / 60)), rel=0.05)] * 3


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
url = "postgresql://nowhere/iot?sslmode=require"
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
gzip = false

[upstreams.attic]
engine = "timescaledb"
url = "postgresql://nowhere/iot"
devices = ["tank-99"]

[upstreams.copy]
engine = "sqlite"
path = "copy.db"
"""


def ways(found: dict[str, Any]) -> dict[str, Any]:
    """What goes to each upstream, but for the time that passed since it was asked before."""
    return {
        name: {one: pytest.approx(value, rel=0.02) for one, value in way.items()}
        for name, way in found["upstreams"].items()
    }


def near(found: dict[str, Any], expected: Plan) -> None:
    other = expected.as_json()
    assert found["upstreams"] == ways(other)
    assert found | {"upstreams": {}} == {
        name: pytest.approx(value, rel=0.02) for name, value in (other | {"upstreams": {}}).items()
    }


def said(*options: str) -> str:
    """The table, on one line."""
    result = CliRunner().invoke(program, ["plan", *options])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


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
    every, central, lab, kind = (
        planned(str(file), *more) for more in ([], *(["--upstream", one] for one in ("central", "lab", "influxdb")))
    )
    assert lab["upstreams"] == ways(kind)
    load = Load(2.2, 40 / 11, flush=10, disk=100e6, devices=11)
    to_central = replace(load, fields=2, link=2_000, share=2 / 11, series=2, tls=True)
    near(central, plan(load, {"central": to_central}))
    alone = plan(Load(rate=0.4, fields=2, flush=10, link=2_000, series=2, devices=2, tls=True))
    assert central["wire_bytes_per_month"] == pytest.approx(alone.wire_bytes_per_month, rel=0.02)
    to_lab = replace(load, upstream="influxdb", series=11, models=2)
    to_lab = replace(to_lab, every=60, per_day=10_000_000, open=0.25, batch=1000)
    near(lab, plan(load, {"lab": to_lab}))
    assert lab["wire_bytes_per_month"] < central["wire_bytes_per_month"]
    near(every, plan(load, {"central": to_central, "lab": to_lab}))
    assert every["wire_bytes_per_month"] == pytest.approx(
        central["wire_bytes_per_month"] + lab["wire_bytes_per_month"], rel=0.01
    )
    assert every["catch_up_seconds"] == pytest.approx(
        max(central["catch_up_seconds"], lab["catch_up_seconds"]), rel=0.01
    )
    plain = planned(str(file), "--no-tls")["upstreams"]["central"]
    assert plain["wire_bytes_per_month"] < 0.95 * central["wire_bytes_per_month"]
    text = said(str(file), "--upstream", "lab", "--flush", "1s")
    for word in ("commit every 1 s", "lab (InfluxDB) without TLS, 60 s averages", "10.0 MB a day, open 25% of the day"):
        assert word in text
    text = said(str(file))
    for word in ("to central", "TimescaleDB with TLS", "to lab", "InfluxDB without TLS", "to all together"):
        assert word in text
    assert "upstream copy is not counted: nothing is known of its engine, sqlite." in text
    assert "upstream attic got no reading within the last hour, and is not counted." in text
    assert "upstream attic: its url leaves TLS to the server" in text
    assert "TLS to the server" not in said(str(file), "--tls")
    assert "upstream lab: gzip is off, and 1 to 5 times" in text
    result = CliRunner().invoke(program, ["plan", str(file), "--upstream", "attic"])
    assert result.exit_code == 2
    assert "attic got no reading within the last hour" in result.stderr
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


def test_what_limits_leave_unused_carries_nothing() -> None:
    """Of a day's bytes some are left for what nobody foresees, and of a low rate's minute what connecting takes."""
    quiet = Load(rate=0.4, fields=4, flush=2.5, tls=True)
    a_day = plan(quiet).wire_bytes_per_month / 30
    assert plan(replace(quiet, per_day=1.01 * a_day)).catch_up_seconds is None
    assert plan(replace(quiet, per_day=1.1 * a_day)).catch_up_seconds is not None
    assert a_day / 86_400 == pytest.approx(444, rel=0.01)
    assert plan(replace(quiet, link=500)).catch_up_seconds is None
    assert plan(replace(quiet, link=700)).catch_up_seconds is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--devices", "20", "--every", "5s", "--fields", "4", "--upstream", "lab"], "expected timescale or influxdb"),
        (["--devices", "20"], "--every, --fields"),
        (["--devices", "20", "--every", "often", "--fields", "4"], "--every"),
        (["--devices", "20", "--every", "5s", "--fields", "4", "--disk", "big"], "--disk: found 'big'"),
        (["--devices", "20", "--every", "5s", "--fields", "4", "--disk", "100kB"], "at least 1000000 bytes"),
        (["--devices", "20", "--every", "5s", "--fields", "4", "--card-tbw", "nan"], "--card-tbw: found nan"),
        (["--devices", "20", "--every", "5s", "--fields", "4", "--link", "fast"], "--link: found 'fast'"),
        (["no-such.db"], "no-such.db"),
        (["no-such.db", "--fields", "4"], "not both"),
        (["--devices", "2", "--every", "5s", "--fields", "float,number"], "--fields: found 'float,number'"),
        (["--devices", "2", "--every", "5s", "--fields", "0"], "--fields: found '0'"),
        (["--devices", "2", "--every", "5s", "--fields", "1" * 5000], "--fields: found '111"),
        (["--devices", "2", "--every", "5s", "--fields", "str:" + "1" * 320], "--fields: found 'str:111"),
        (["--devices", "1" * 320, "--every", "5s", "--fields", "4"], "'--devices': 111"),
        (["--devices", "2", "--every", "5s", "--fields", "4", "--models", "1" * 320], "'--models': 111"),
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
        "load         4 readings/s  4 values each, commit",
        "                           every 1 s",
        "to the card  1.6 GB a day",
    ]


def test_what_is_one_or_many_is_named_so() -> None:
    text = said("--devices", "1", "--every", "1d", "--fields", "1", "--outage", "1h")
    for word in ("1 value each, committed one by one", "to catch up after 1 hour ", ",747 days"):
        assert word in text


@pytest.mark.parametrize("fields", ["4", "250"])
def test_what_is_usual_fits_into_80_columns(fields: str) -> None:
    result = CliRunner().invoke(program, ["plan", "--devices", "20", "--every", "5s", "--fields", fields])
    assert f"{fields} values each" in result.stdout
    assert len(result.stdout.splitlines()) == 7
    assert max(map(len, result.stdout.splitlines())) <= 80
