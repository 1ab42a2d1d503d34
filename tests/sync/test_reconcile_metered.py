"""Reconcile within a day's bytes and a rate, against a real TimescaleDB with the bytes in between counted by a proxy:
readings with long texts, the first that an estimate gets wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from edgedepot import Reading, SQLiteStorage, TimescaleDBStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import ConfigError, LimitReached
from edgedepot.sync.limits import Limits
from edgedepot.sync.reconcile import Finding, reconcile
from tests.servers.proxy import TcpProxy
from tests.sync.metered import Carried
from tests.sync.reconciling import forward

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400.0
COUNT, HOURS = 240, 2
BUDGET = 150_000
LONG = 1_024
Table = list[tuple[Any, ...]]


class Log(Reading):
    level: float
    text: str | None = None


@dataclass
class Reconciled(Carried):
    """An upstream at the end of a metered link, and the store whose readings it had. `found` is what the runs did."""

    store: SQLiteStorage
    clock: ManualClock
    link: TcpProxy
    url: str
    sent: list[tuple[float, int]] = field(default_factory=list)
    found: Finding = field(default_factory=Finding)

    def __post_init__(self) -> None:
        self.counted = self.on_the_wire()

    def ask(self, statement: str) -> Table:
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def contents(self) -> Table:
        return self.ask("SELECT device_id, timestamp, store_epoch, gateway_seq, level, text FROM log ORDER BY 1, 2")

    def run(self, **limits: Any) -> bool:
        """As the command does, by a connection of its own; whether it came to its end."""

        def wait(seconds: float) -> None:
            self.note()
            self.clock.advance(seconds)

        url = re.sub(r"@[^/]*/", f"@127.0.0.1:{self.link.port}/", self.url)
        with TimescaleDBStorage(url, gateway_id="roof") as upstream:
            costs = Limits.of("central", **limits)
            try:
                report = reconcile(self.store, "central", upstream, costs=costs, clock=self.clock, wait=wait)
            except LimitReached:
                return False
            finally:
                self.note()
        self.found = report.total()
        return True

    def run_daily(self, most: int, **limits: Any) -> int:
        """Each evening, until it comes to its end; how many days that took."""
        for day in range(1, most + 1):
            if self.run(**limits):
                return day
            self.clock.advance(DAY - self.clock.monotonic() % DAY)
        raise AssertionError(f"not done after {most} days")

    def of_days(self, count: int) -> list[int]:
        return [self.total(day * DAY, (day + 1) * DAY) for day in range(count)]


def texts(length: int) -> Iterator[str]:
    noise = random.Random(7)
    while True:
        yield noise.randbytes(length // 2).hex()


@pytest.fixture
def make(
    tmp_path: Path, timescale_url: str, proxy: Callable[[str, int], TcpProxy]
) -> Iterator[Callable[..., Reconciled]]:
    """`make(length)`: readings with texts that long were delivered."""
    clock = ManualClock(START + timedelta(days=30, hours=23))
    address = urlsplit(timescale_url)
    assert address.hostname is not None
    assert address.port is not None
    link = proxy(address.hostname, address.port)
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", clock=clock) as store:

        def made(length: int) -> Reconciled:
            store.add_cursor("central")
            step = timedelta(hours=HOURS) / COUNT
            rows = [
                ("mast", START + number * step, {"level": number / 7, "text": text})
                for number, text in zip(range(COUNT), texts(length), strict=False)
            ]
            store.store_readings(Log, rows).wait()
            with TimescaleDBStorage(timescale_url) as upstream:
                forward(store, upstream)
            store.fold()
            return Reconciled(store, clock, link, timescale_url)

        yield made


LOST = "extract(epoch FROM timestamp)::int % 90 = 0"
"""One of three readings, all over the hours."""


def test_long_texts_within_a_days_budget(make: Callable[..., Reconciled]) -> None:
    line = make(LONG)
    before = line.contents()
    line.ask(f"DELETE FROM log WHERE {LOST}")
    days = line.run_daily(8, max_per_day=BUDGET)
    assert line.contents() == before
    assert max(line.of_days(days)) <= BUDGET
    assert 3 <= days <= 4
    assert sum(line.of_days(days)) <= 1.5 * COUNT * LONG, "nothing is asked twice needlessly"


def test_a_single_reading_behind_more_than_a_day_may_read(make: Callable[..., Reconciled]) -> None:
    """It is not looked for from the hour's first reading on, each day anew."""
    line = make(LONG)
    before = line.contents()
    line.ask("DELETE FROM log WHERE timestamp = (SELECT max(timestamp) FROM log)")
    assert line.run(max_per_day=BUDGET)
    assert line.found == Finding(missing=1, sent=1)
    assert line.contents() == before
    assert line.total(0, DAY) <= 0.2 * COUNT * LONG


@pytest.mark.parametrize("limits", [{"max_per_day": BUDGET}, {"max_rate": 8_000}])
def test_texts_there_that_are_longer_than_here(make: Callable[..., Reconciled], limits: dict[str, int]) -> None:
    """What is here says nothing of what an answer takes."""
    line = make(4)
    before = line.contents()
    line.ask(f"UPDATE log SET gateway_seq = 0, level = -1, text = repeat(text, {LONG // 4})")
    days = line.run_daily(8, **limits)
    assert line.contents() == before
    assert max(line.of_days(days)) <= limits.get("max_per_day", 10**9)
    assert line.most_in(60) <= 1.05 * 60 * limits.get("max_rate", 10**9) / 2


@pytest.mark.parametrize(("rate", "times"), [(3_000, 2.0), (8_000, 1.3)])
def test_long_texts_within_a_rate(make: Callable[..., Reconciled], rate: int, times: float) -> None:
    """With a rate so low that a row goes alone, there is as much again that goes with it."""
    line = make(LONG)
    before = line.contents()
    line.ask(f"DELETE FROM log WHERE {LOST}")
    assert line.run(max_rate=rate)
    took = line.clock.monotonic()
    assert line.contents() == before
    assert line.most_in(60) <= 1.05 * 60 * rate / 2, "the other half is the gateway's"
    assert line.total(0, DAY) >= 0.8 * took * rate / 2
    assert line.total(0, DAY) <= times * COUNT * LONG


def test_counts_of_many_days_and_devices(make: Callable[..., Reconciled]) -> None:
    """They take more than the rate lets go together, and more than the day has."""
    rate = 3_000
    line = make(4)
    rows = [
        (f"device-{device:03}", START + timedelta(days=day), {"level": 1.0})
        for device in range(100)
        for day in range(9)
    ]
    line.store.store_readings(Log, rows).wait()
    with TimescaleDBStorage(line.url) as upstream:
        forward(line.store, upstream)
    line.sent.clear()
    with pytest.raises(ConfigError, match="upstream central: max_per_day"):
        line.run(max_per_day=100_000)
    assert line.sent == []
    assert line.run(max_rate=rate)
    assert line.total(0, DAY) > 100_000
    assert line.most_in(60) <= 1.05 * 60 * rate / 2
