"""A week without the upstream on a file system of 64 MB, in simulated time: history goes first, then what the
upstream awaits is thinned, then the oldest is evicted. What it gets in the end is what the books say, and its minute
averages are those of the readings as they came."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from edgedepot import Reading, SQLiteStorage, TimescaleDBStorage
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.given_up import GivenUp
from edgedepot.sync.forwarder import PROBE, Forwarder
from tests.books import upstream_books
from tests.servers.proxy import TcpProxy
from tests.storage.sqlite.audit import audit_file
from tests.storage.sqlite.small_disk import SmallDisk
from tests.sync.simulated import forwarder_to

T0 = datetime(2026, 3, 2, tzinfo=UTC)
HOUR, MINUTE, INSTANT = timedelta(hours=1), timedelta(minutes=1), timedelta(microseconds=1)
HOURS = 7 * 24
DEVICES = ("mast", "pump", "roof")
PER_MINUTE = 3
KEEP = 48_000_000
STATES = ("evicted", "thinned", "whole")
FIELDS = ("temperature", "rain", "frame", "count", "quality")
FRAME = "f" * 960
"""A device's own text, so that few readings fill the disk."""
Minute = tuple[str, datetime]


class Station(Reading):
    temperature: float
    rain: float | None = None
    frame: str | None = None
    count: int | None = None


def hour_of_readings(hour: int) -> Iterator[tuple[str, datetime, dict[str, Any]]]:
    for number in range(hour * 60 * PER_MINUTE, (hour + 1) * 60 * PER_MINUTE):
        moment = T0 + number * MINUTE / PER_MINUTE
        for place, device in enumerate(DEVICES):
            value = math.sin(number / 500 + place) * 20 + number % 7 / 9
            more = {"rain": value / 3} if number % 5 == place else {}
            yield device, moment, {"temperature": value, "frame": f"{number} {FRAME}", "count": number} | more


def minutes_of(rows: list[dict[str, Any]]) -> dict[Minute, list[dict[str, Any]]]:
    found: dict[Minute, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["device_id"], row["timestamp"].replace(second=0)].append(row)
    return found


def as_they_came() -> dict[Minute, list[dict[str, Any]]]:
    nothing = dict.fromkeys(FIELDS)
    return minutes_of(
        [
            {"device_id": device, "timestamp": moment} | nothing | data
            for hour in range(HOURS)
            for device, moment, data in hour_of_readings(hour)
        ]
    )


def averaged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A minute's one reading."""
    means = {}
    for field in ("temperature", "rain"):
        values = [row[field] for row in rows if row[field] is not None]
        means[field] = math.fsum(values) / len(values) if values else None
    return rows[-1] | means | {"quality": 8}


class Outage:
    """The gateway in the week; what became of readings is noted hour by hour."""

    def __init__(self, store: SQLiteStorage, clock: ManualClock, forwarder: Forwarder) -> None:
        self.store = store
        self.clock = clock
        self.forwarder = forwarder
        self.order: list[str] = []
        """What happened, each when it was seen first."""

    def passes(self) -> None:
        for hour in range(HOURS):
            self.store.store_readings(Station, hour_of_readings(hour)).wait()
            self.clock.advance(3600)
            self.forwarder.step()
            self.store.fold()
            self.store.retain()
            self.look()

    def look(self) -> None:
        ledger = self.store.ledger()
        assert ledger.problems == []
        counts = ledger.upstreams["central"]
        assert counts["delivered"] == 0
        (oldest,) = self.store.query_readings(Station, order="timestamp", limit=1, fields=["count"]) or [
            {"timestamp": from_micros(self.clock.now())}
        ]
        seen = {"history": oldest["timestamp"] > T0, "thinned": counts["thinned"] > 0, "evicted": counts["evicted"] > 0}
        self.order += [what for what, has_begun in seen.items() if has_begun and what not in self.order]
        if not counts["evicted"]:
            assert counts["pending"] + counts["thinned"] == counts["versions"]
        assert sum(file.stat().st_size for file in self.store.path.parent.glob("x.db*")) < KEEP + 5_000_000
        assert self.store.health_check()["status"] == "pass"


@pytest.fixture
def link(timescale_url: str, proxy: Callable[[str, int], TcpProxy]) -> TcpProxy:
    address = urlsplit(timescale_url)
    assert address.hostname is not None
    assert address.port is not None
    return proxy(address.hostname, address.port)


@pytest.fixture
def upstream(timescale_url: str, link: TcpProxy) -> Iterator[TimescaleDBStorage]:
    url = re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", timescale_url)
    with TimescaleDBStorage(url, connect_timeout="2s") as storage:
        yield storage


def log_ranges(lines: list[str], what: str) -> list[tuple[str, str]]:
    """From when until when the log says that readings were thinned, say, line by line."""
    pattern = rf"upstream central: \d+ readings {what}, of (\S+) to (\S+), as the store is full \(keep_bytes\)"
    return [match.groups() for line in lines if (match := re.fullmatch(pattern, line))]  # type: ignore[misc]


def test_a_week_away(upstream: TimescaleDBStorage, link: TcpProxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with SmallDisk(64_000_000) as disk:
        clock = ManualClock(T0)
        with SQLiteStorage(disk.path / "x.db", gateway_id="g", keep_bytes=KEEP, clock=clock) as store:
            upstream.gateway_id = "g"
            forwarder = forwarder_to(store, upstream, clock)
            link.cut()
            outage = Outage(store, clock, forwarder)
            outage.passes()
            link.mend()
            given_up = check_what_arrives(outage, upstream)
        audit_file(disk.path / "x.db")
    check_log([record.getMessage() for record in caplog.records], given_up)


def check_what_arrives(outage: Outage, upstream: TimescaleDBStorage) -> dict[str, GivenUp]:
    assert outage.order == ["history", "thinned", "evicted"]
    before = outage.store.ledger()
    while outage.store.count_pending("central"):
        wait = outage.forwarder.step()
        outage.clock.advance(0 if wait is None else max(0.0, wait.until - outage.clock.monotonic()))
        outage.store.flush()
    came, there = as_they_came(), minutes_of(upstream.query_readings(Station, order="timestamp", fields=FIELDS))
    states = {minute: state_of(rows, there.get(minute, [])) for minute, rows in came.items()}
    for device in DEVICES:
        mine = [what for (name, _), what in states.items() if name == device]
        assert mine == sorted(mine, key=STATES.index), "the oldest goes first"
    counts = {what: list(states.values()).count(what) for what in STATES}
    assert min(counts["evicted"], counts["thinned"]) > 1000
    assert counts["whole"] >= 60 * len(DEVICES), "the latest are left alone"
    # All that was evicted was thinned before, but for the minutes of the request of which nobody knew what became.
    in_hand = math.ceil(PROBE / PER_MINUTE / len(DEVICES)) * len(DEVICES)
    ledger = outage.store.ledger()
    assert ledger.problems == []
    assert ledger.upstreams["central"] == upstream_books(
        versions=HOURS * 60 * PER_MINUTE * len(DEVICES),
        delivered=counts["thinned"] + counts["whole"] * PER_MINUTE,
        thinned=(counts["evicted"] + counts["thinned"] - in_hand) * (PER_MINUTE - 1),
        evicted=counts["evicted"] + in_hand * (PER_MINUTE - 1),
    )
    assert sum(len(rows) for rows in there.values()) == ledger.upstreams["central"]["delivered"]
    assert ledger.given_up == before.given_up
    given_up: dict[str, GivenUp] = {one.what: one for one in ledger.given_up}
    assert len(given_up) == len(ledger.given_up) == 2
    for what, one in given_up.items():
        start = T0 if what == "evicted" else T0 + in_hand // len(DEVICES) * MINUTE
        assert (one.upstream, one.start, one.rows) == ("central", start, ledger.upstreams["central"][what])
        rest = MINUTE if what == "thinned" else MINUTE * (PER_MINUTE - 1) / PER_MINUTE + INSTANT
        assert one.end == max(minute for (_, minute), state in states.items() if state == what) + rest
    return given_up


def state_of(came: list[dict[str, Any]], there: list[dict[str, Any]]) -> str:
    """What became of a minute, of which the upstream has nothing wrong."""
    if not there:
        return "evicted"
    if len(there) == 1:
        assert there == [averaged(came)]
        return "thinned"
    assert there == came
    return "whole"


def check_log(lines: list[str], given_up: dict[str, GivenUp]) -> None:
    """Each step has a line, and their ranges follow one another."""
    kinds = [what for line in lines for what in ("history of", "thinned", "evicted") if what in line]
    assert list(dict.fromkeys(kinds)) == ["history of", "thinned", "evicted"]
    for what, one in given_up.items():
        ranges = log_ranges(lines, what)
        assert ranges[0][0] == f"{one.start:%Y-%m-%dT%H:%MZ}"
        assert max(end for _, end in ranges) == f"{one.end:%Y-%m-%dT%H:%MZ}"
        starts = [start for start, _ in ranges]
        assert starts == sorted(starts)
        assert len(ranges) > 3
