"""Limits against the real servers: bytes a second, a day, hours of the day, averages; counted by a proxy in between."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from edgedepot import InfluxDBStorage, Reading, TimescaleDBStorage
from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.sync.flow import BURST
from edgedepot.sync.limits import LEAST_RATE, Limits
from tests.books import upstream_books
from tests.servers.proxy import TcpProxy
from tests.servers.victoria import VictoriaMetrics
from tests.sync.metered import Metered
from tests.sync.scripted import ScriptedUpstream, TellingStore, Weather, moment, open_store

MakeProxy = Callable[[str, int], TcpProxy]
DAY = 86_400.0


class Solar(Reading):
    a: float
    b: float
    c: float
    d: float


def fill(store: TellingStore, count: int, start: int = 0) -> None:
    """Store readings, durably, that compress as measurements do."""
    noise = random.Random(start)
    rows = [("mast", moment(number), {"temperature": noise.random()}) for number in range(start, start + count)]
    store.store_readings(Weather, rows).wait()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 2, 1, tzinfo=UTC))


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db", clock=clock) as store:
        yield store


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
    url = re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", timescale_url)
    with TimescaleDBStorage(url, gateway_id="g", connect_timeout="2s") as upstream:
        yield link, upstream


@pytest.fixture
def influxdb(victoria_metrics: VictoriaMetrics, proxy: MakeProxy) -> Iterator[tuple[TcpProxy, BaseStorage]]:
    link = proxy("127.0.0.1", victoria_metrics.port)
    with InfluxDBStorage(f"http://127.0.0.1:{link.port}", "t", "o", "b", gateway_id="g") as upstream:
        yield link, upstream


@pytest.fixture(params=["timescale", "influxdb"])
def metered(request: pytest.FixtureRequest, store: TellingStore, clock: ManualClock) -> Callable[[Limits], Metered]:
    link, upstream = request.getfixturevalue(request.param)
    return lambda limits: Metered(store, clock, link, upstream, limits)


@pytest.mark.parametrize("rate", [LEAST_RATE, 3_000, 6_000])
def test_bytes_a_second(metered: Callable[[Limits], Metered], store: TellingStore, rate: int) -> None:
    """Within 5 % in any minute; never above, also where connections are lost. At the least rate so much is left of each
    minute for a new one that less goes."""
    fill(store, 15 * rate)
    line = metered(Limits.of("central", max_rate=rate))
    line.run(60)  # connecting and making tables is over
    start, before = line.clock.monotonic(), line.counted_here()
    line.run(120)
    end = line.clock.monotonic()
    least = 0.8 if rate == LEAST_RATE else 0.95
    assert line.counted_here() - before >= least * rate * (end - start)
    assert line.least_here(60, start, end) >= least * rate * 60
    assert line.total(start, end) >= 0.8 * rate * (end - start)  # less what a busy kernel sent once more
    for _ in range(2):
        line.link.cut()
        line.link.mend()
        line.run(12)
    line.start()  # as after a crash
    line.run(12)
    assert line.most_in(60) <= 1.05 * rate * 60
    assert store.count_pending("central") > 0
    assert line.forwarder.status().limited_by == "rate"


def test_bytes_a_day(metered: Callable[[Limits], Metered], store: TellingStore) -> None:
    budget = 200_000
    fill(store, 60_000)
    line = metered(Limits.of("central", max_per_day=budget))
    for _ in range(3):
        line.run(DAY / 4)
        line.forwarder.close()
        line.start()  # in order
        line.run(DAY / 4)
        line.start()  # as after a crash
        line.run(DAY / 2)
    days = [line.total(day * DAY, (day + 1) * DAY) for day in range(3)]
    assert max(days) <= budget
    assert min(days) >= 0.85 * budget
    assert store.count_pending("central") > 0
    assert line.forwarder.status().limited_by == "budget"


@pytest.mark.parametrize(("night", "costs"), [(10_000, {"max_per_day": 100_000}), (15_000, {"max_rate": 6_000})])
def test_what_compresses_well_and_then_does_not(
    influxdb: tuple[TcpProxy, BaseStorage], store: TellingStore, clock: ManualClock, night: int, costs: dict[str, Any]
) -> None:
    """All zeros until the sun rises: what rows took so far says nothing of the next."""
    clock.step(DAY - 1_800)
    noise = random.Random(1)
    day = [dict.fromkeys("abcd", 0.0)] * night + [{field: noise.random() for field in "abcd"} for _ in range(10_000)]
    store.store_readings(Solar, [("roof", moment(number), values) for number, values in enumerate(day)]).wait()
    line = Metered(store, clock, *influxdb, Limits.of("central", **costs))
    line.run(1_790, until=lambda: not store.count_pending("central"))
    if "max_rate" in costs:
        assert line.most_in(60) <= 1.05 * 60 * costs["max_rate"]
        assert store.count_pending("central") == 0
    else:
        assert 0.8 * costs["max_per_day"] <= line.total(0, DAY) <= costs["max_per_day"]
        assert 0 < store.count_pending("central") < 10_000


def test_bytes_a_day_of_a_process_that_is_killed(
    influxdb: tuple[TcpProxy, BaseStorage], tmp_path: Path, clock: ManualClock
) -> None:
    """Right after a request, again and again: each was noted before it went out."""
    link, _ = influxdb
    budget, path = 100_000, tmp_path / "killed.db"
    with open_store(path, clock=clock) as store:
        store.add_cursor("central")
        fill(store, 20_000)

    def child(requests: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.sync.spending_child", *map(str, (path, link.port, requests, budget))]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    for requests in (15, 1, 25):
        done = child(requests)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = child(10_000)
    assert (done.returncode, done.stdout) == (0, "the day's budget is spent\n"), done.stderr
    assert 0.5 * budget <= link.bytes_up + link.bytes_down <= budget


def test_fresh_readings_come_first_in_the_days_budget(
    metered: Callable[[Limits], Metered], store: TellingStore, clock: ManualClock
) -> None:
    budget = 2_000_000
    fill(store, 120_000)
    line = metered(Limits.of("central", max_per_day=budget))
    line.longest = every = 240.0
    most = arrived = 0

    def arrive() -> None:
        nonlocal most, arrived
        if arrived <= clock.monotonic() / every:
            arrived += 1
            most = max(most, store.waiting("central", "live") if arrived > 5 else 0)
            store.store_reading(Weather, "fresh", from_micros(clock.now()), {"temperature": 1.0}).wait()

    line.on_time = arrive
    line.run(DAY / 2)
    half = line.total(0, DAY / 2)
    line.run(DAY / 2)
    whole = line.total(0, DAY)
    assert 0.4 * budget <= half <= 0.51 * budget
    assert whole <= budget
    assert arrived >= 360
    assert most <= 5  # the one before; and the books' rows count too
    assert store.count_pending("central") > 1_000


def test_a_custom_storage_is_estimated(store: TellingStore, clock: ManualClock, proxy: MakeProxy) -> None:
    fill(store, 20_000)
    upstream = ScriptedUpstream(gateway_id="g")
    line = Metered(store, clock, proxy("127.0.0.1", 1), upstream, Limits.of("central", max_rate="10 kB/s"))
    line.run(60)
    assert 2_000 < len(upstream.kept) < 10_000  # 60 to 300 bytes each


@pytest.mark.parametrize(
    ("evening", "hours"), [(datetime(2026, 3, 28, 12, tzinfo=UTC), 7), (datetime(2026, 10, 24, 12, tzinfo=UTC), 9)]
)
def test_a_window_over_a_change_of_the_clocks(
    metered: Callable[[Limits], Metered], store: TellingStore, clock: ManualClock, evening: datetime, hours: int
) -> None:
    clock.step((evening - from_micros(clock.now())).total_seconds())
    line = metered(Limits.of("central", windows=["22:00-06:00 Europe/Zurich"]))
    line.longest = 600.0
    fill(store, 10)
    line.run(1)
    assert line.sent == []
    assert (line.forwarder.status().state, line.forwarder.status().limited_by) == ("held", "window")
    number = 10

    def arrive() -> None:
        nonlocal number
        fill(store, 1, start=number)
        number += 1

    line.on_time = arrive
    line.run(DAY)
    times = [from_micros(clock.now()) - timedelta(seconds=clock.monotonic() - at) for at, _ in line.sent]
    opened = evening.replace(hour=20 if hours == 9 else 21)
    assert opened <= times[0] < opened + timedelta(minutes=1)
    closed = opened + timedelta(hours=hours)
    assert closed - timedelta(minutes=20) <= times[-1] < closed
    assert store.count_pending("central") > 10


def test_averages_alone(
    timescale: tuple[TcpProxy, BaseStorage], timescale_url: str, store: TellingStore, clock: ManualClock
) -> None:
    link, upstream = timescale
    clock.step((moment(0) - from_micros(clock.now())).total_seconds())
    line = Metered(store, clock, link, upstream, Limits.of("central", every="1 minute"))
    line.longest = 1.0

    def arrive() -> None:
        now = from_micros(clock.now())
        for device in ("mast", "roof"):
            data = {"temperature": float(now.second + now.minute)}
            store.store_reading(Weather, device, now, data).wait()

    line.on_time = arrive
    line.run(600)
    line.on_time = lambda: None
    store.store_reading(Weather, "mast", moment(65) + timedelta(microseconds=1), {"temperature": 1000.0}).wait()  # late
    line.run(120)
    with psycopg.connect(timescale_url) as connection:
        rows = connection.execute(
            "SELECT device_id, timestamp, temperature, quality FROM weather ORDER BY 1, 2"
        ).fetchall()
    found = {(device, at): (value, quality) for device, at, value, quality in rows}
    expected = {
        (device, bucket["bucket"]): (pytest.approx(bucket["result"], rel=1e-12), 8)
        for device in ("mast", "roof")
        for bucket in store.downsample(Weather, "temperature", "1 minute", device=device)
    }
    assert found == expected
    assert len(expected) >= 20
    books = store.ledger()
    assert books.balanced
    central = books.upstreams["central"]
    assert central["delivered"] == len(expected) + 1  # the late reading had its minute sent once more
    assert central["skipped"] == len(store.query_readings(Weather)) - central["delivered"]
    assert central["pending"] == 0


@pytest.mark.parametrize(("devices", "costs"), [(600, {"max_rate": 3_000}), (1_600, {"max_per_day": 100_000})])
def test_averages_of_many_devices(
    metered: Callable[[Limits], Metered], store: TellingStore, clock: ManualClock, devices: int, costs: dict[str, Any]
) -> None:
    """Those of one interval are more than a burst of the rate, or than what a day has."""
    noise = random.Random(1)
    for second in range(0, 120, 30):
        both = [{"temperature": noise.random(), "humidity": noise.random()} for _ in range(devices)]
        rows = [(f"device-{number}", moment(second), values) for number, values in enumerate(both)]
        store.store_readings(Weather, rows).wait()
    clock.step((moment(86_400) - from_micros(clock.now())).total_seconds())
    line = metered(Limits.of("central", every="1 minute", **costs))
    if "max_rate" in costs:
        line.run(5)  # connecting and making tables is over
        line.sent.clear()
        line.run(600, until=lambda: not store.count_pending("central"))
        assert line.most_in(1) <= 1.05 * (1 + BURST) * costs["max_rate"]
    else:
        line.run(5 * DAY, until=lambda: not store.count_pending("central"))
        days = [line.total(day * DAY, (day + 1) * DAY) for day in range(5)]
        assert max(days) <= costs["max_per_day"]
        assert days[0] >= 0.6 * costs["max_per_day"]  # a backlog goes by pieces, and these are few
        assert days[1]
    books = store.ledger()
    expected = upstream_books(versions=4 * devices, delivered=2 * devices, skipped=2 * devices)
    assert (books.upstreams["central"], books.problems) == (expected, [])
