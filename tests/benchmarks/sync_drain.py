"""Draining a backlog into a real TimescaleDB, behind a proxy, while fresh readings come in.

A store has a million readings pending when the link comes back, and 500 more come in each second. The floor is bare
binary COPY of the same readings, as tuples in memory, through the same proxy into the same hypertable, in batches of
5,000. The rate is that of the backlog alone. Beside it: how old the newest reading upstream was at worst, asked of the
database twice a second until the backlog is gone, with 5 s for the first to arrive; by how much the process grew; and
the rate beside a second upstream that is dead. At last, with none coming in, the rates of the first and, in one round,
of the last tenth of the backlog against that of a store which has no more than that pending (with `--long`: 100,000 of
5,000,000 readings): into tables of one size, or it would be the server that is measured.
"""

import json
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from tests.benchmarks.child import Child
from tests.benchmarks.report import Comparison, progress, read_options, report
from tests.benchmarks.timescale_writers import model
from tests.benchmarks.timescale_writing import BATCH, MEMORY
from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer

READINGS = 1_000_000
FEW, LONG = 100_000, 5_000_000
RATE = 500
"""Readings that come in each second meanwhile."""
FRESH = 5.0
"""Seconds after which a fresh reading is upstream at the latest."""
GROWTH = 20.0
"""MiB by which the process may grow."""
MEBIBYTE = 1 << 20


class Place:
    """A fresh database behind a proxy."""

    def __init__(self, server: TimescaleServer, proxy: TcpProxy) -> None:
        self._server = server
        self.proxy = proxy
        self.database = server.create_database()
        self.direct = server.url(self.database)
        self.url = self.direct.replace(f":{server.port}/", f":{proxy.port}/")

    def prepare(self) -> None:
        """The product's table, empty, and no old work on the account of what follows."""
        from edgedepot import TimescaleDBStorage

        with TimescaleDBStorage(self.direct, gateway_id="roof") as storage:
            storage.create_hypertable(model())
        self._server.sql("TRUNCATE inverter", self.database)
        self._server.sql("CHECKPOINT", self.database)

    def count(self) -> int:
        return int(self._server.sql("SELECT count(*) FROM inverter", self.database))


class Watch(threading.Thread):
    """Asks twice a second how old the newest fresh reading is, from the first on, which has its time to arrive."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.ages: list[float] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        query = "SELECT max(timestamp) FROM inverter WHERE gateway_id = 'roof' AND device_id = 'fresh 0'"
        with psycopg.connect(self._url, autocommit=True) as connection:
            began = time.monotonic()
            while not self.stopped.wait(0.5):
                asked = datetime.now(UTC)
                (newest,) = connection.execute(query).fetchone() or (None,)
                if newest is not None:
                    self.ages.append((asked - newest).total_seconds())
                elif time.monotonic() - began > FRESH:
                    self.ages.append(float("inf"))


def floor(place: Place, readings: int) -> float:
    place.prepare()
    settings = {"kind": "floor", "url": place.url, "readings": readings, "batch": BATCH, "again": False}
    with Child("timescale_writers", json.dumps(settings)) as child:
        child.hear()
        child.tell("go")
        return readings / float(child.hear()["seconds"])


def product(
    place: Place, folder: Path, readings: int, rate: int, *, dead: bool = False, measured: int = 0, last: bool = False
) -> dict[str, Any]:
    """Drain a backlog, or so many readings of it, with `last` as many of its end too: what the process says, and the
    ages of the newest one upstream."""
    place.prepare()
    path = folder / f"store {time.monotonic_ns()}.db"
    cursors = ["central", *(["dead"] if dead else [])]
    with Child(
        "sync_processes", json.dumps({"task": "fill", "store": str(path), "readings": readings, "cursors": cursors})
    ) as child:
        child.hear()
    place.proxy.cut()
    task = {"task": "drain", "store": str(path), "url": place.url, "readings": readings, "rate": rate, "dead": dead}
    task |= {"measured": measured or readings, "last": last}
    with Child("sync_processes", json.dumps(task)) as child:
        child.hear()
        watch = Watch(place.direct)
        place.proxy.mend()
        child.tell("go")
        if rate:
            watch.start()
        if last:
            child.hear()
            place.prepare()
            child.tell("go")
        found: dict[str, Any] = child.hear()
        watch.stopped.set()
        if rate:
            watch.join()
    if not found["balanced"] or place.count() != found["all_delivered"]:
        raise RuntimeError(f"{place.count()} readings are upstream, and the store says {found}")
    for file in folder.glob(path.name + "*"):
        with suppress(FileNotFoundError):
            file.unlink()
    rate_found = found["delivered"] / found["seconds"]
    progress(f"{readings:,} pending: {rate_found:,.0f} readings/s, {found['requests']} requests")
    return {**found, "rate": rate_found, "ages": watch.ages}


def main() -> None:
    options = read_options(__doc__)
    readings = options.of(READINGS)
    few, many = (FEW, LONG) if options.long else (max(1, readings // 10), readings)
    rates, floors, ages, grown, idle, beside, small, first, last = (list[float]() for _ in range(9))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        server = stack.enter_context(TimescaleServer(settings=MEMORY))
        place = Place(server, stack.enter_context(TcpProxy("127.0.0.1", server.port)))
        for number in range(options.rounds):
            for kind in ("floor", "product") if number % 2 else ("product", "floor"):
                if kind == "floor":
                    floors.append(floor(place, readings))
                    progress(f"round {number + 1}, floor: {floors[-1]:,.0f} readings/s")
                    continue
                found = product(place, folder, readings, RATE)
                rates.append(found["rate"])
                ages += [max(found["ages"])] if found["ages"] else []
                idle.append(found["idle"] / MEBIBYTE)
                grown.append(found["most"] / MEBIBYTE)
                progress(f"newest reading: {ages[-1:]} s old at most, {grown[-1] - idle[-1]:.1f} MiB above idle")
            beside.append(product(place, folder, readings, RATE, dead=True)["rate"])
            small.append(product(place, folder, few, 0)["rate"])
            found = product(place, folder, many, 0, measured=few, last=number == 0)
            first.append(found["rate"])
            last += [found["last"]] if found["last"] else []
    if len(ages) < options.rounds and options.scale >= 1:
        raise RuntimeError("a backlog was gone before anybody asked for the newest reading upstream")
    comparisons = [
        Comparison("drain", "readings/s", floors, rates, factor=0.6, at_least=True),
        Comparison("newest reading upstream", "s", [FRESH] * len(ages), ages, factor=1.0, each=True),
        Comparison("memory", "MiB", idle, grown, factor=1.0, plus=GROWTH, each=True),
        Comparison("beside a dead upstream", "readings/s", rates, beside, factor=0.9, at_least=True),
        Comparison(f"first {few:,} of {many:,}", "readings/s", small, first, factor=0.9, both_ways=True),
        Comparison(f"last {few:,} of {many:,}", "readings/s", small, last, factor=0.9, both_ways=True),
    ]
    measured = [one for one in comparisons if one.product]  # a small backlog is gone before some are
    report(options, measured, readings=readings, fresh_readings_a_second=RATE)


if __name__ == "__main__":
    main()
