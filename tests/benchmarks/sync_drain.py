"""Draining a backlog into a real TimescaleDB, behind a proxy, while fresh readings come in.

A store has a million readings pending when the link comes back, and 500 more come in each second. The floor is bare
binary COPY of the same readings, as tuples in memory, through the same proxy into the same hypertable, in batches of
5,000. Beside the rate: how old the newest reading upstream was at worst, asked of the database twice a second; by how
much the process grew; and the rate beside a second upstream that is dead. At last, with none coming in, the rate of the
first tenth of the backlog against that of a store which has no more than that pending (with `--long`: the first 100,000
of 5,000,000 readings): into tables of one size, or it would be the server that is measured.
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
    """Asks twice a second how old the newest fresh reading is."""

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
                found = connection.execute(query).fetchone()
                if time.monotonic() - began > FRESH:  # that long it may take until the first is there
                    newest = found[0] if found and found[0] else datetime.fromtimestamp(0, UTC)
                    self.ages.append((datetime.now(UTC) - newest).total_seconds())


def floor(place: Place, readings: int) -> float:
    place.prepare()
    settings = {"kind": "floor", "url": place.url, "readings": readings, "batch": BATCH, "again": False}
    with Child("timescale_writers", json.dumps(settings)) as child:
        child.hear()
        child.tell("go")
        return readings / float(child.hear()["seconds"])


def product(
    place: Place, folder: Path, readings: int, rate: int, *, dead: bool = False, measured: int = 0
) -> dict[str, Any]:
    """Drain a backlog, or so many readings of it: what the process says, and the ages of the newest one upstream."""
    place.prepare()
    path = folder / f"store {time.monotonic_ns()}.db"
    cursors = ["central", *(["dead"] if dead else [])]
    with Child(
        "sync_processes", json.dumps({"task": "fill", "store": str(path), "readings": readings, "cursors": cursors})
    ) as child:
        child.hear()
    place.proxy.cut()
    task = {"task": "drain", "store": str(path), "url": place.url, "readings": readings, "rate": rate, "dead": dead}
    task["measured"] = measured or readings
    with Child("sync_processes", json.dumps(task)) as child:
        child.hear()
        watch = Watch(place.direct)
        place.proxy.mend()
        child.tell("go")
        if rate:
            watch.start()
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
    rates, floors, ages, grown, idle, beside, small, large = ([] for _ in range(8))
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
                ages.append(max(found["ages"], default=0.0))
                idle.append(found["idle"] / MEBIBYTE)
                grown.append(found["most"] / MEBIBYTE)
                progress(f"newest reading at most {ages[-1]:.1f} s old, {grown[-1] - idle[-1]:.1f} MiB above idle")
            beside.append(product(place, folder, readings, RATE, dead=True)["rate"])
            small.append(product(place, folder, few, 0)["rate"])
            large.append(product(place, folder, many, 0, measured=few)["rate"])
    comparisons = [
        Comparison("drain", "readings/s", floors, rates, factor=0.6, at_least=True),
        Comparison("newest reading upstream", "s", [FRESH] * len(ages), ages, factor=1.0),
        Comparison("memory", "MiB", idle, grown, factor=1.0, plus=GROWTH),
        Comparison("beside a dead upstream", "readings/s", rates, beside, factor=0.9, at_least=True),
        Comparison(f"{few:,} of {many:,} pending", "readings/s", small, large, factor=0.9, at_least=True),
    ]
    report(options, comparisons, readings=readings, fresh_readings_a_second=RATE)


if __name__ == "__main__":
    main()
