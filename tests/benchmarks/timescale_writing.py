"""Readings per second into a real TimescaleDB.

The floor is bare psycopg: binary COPY of tuples in memory into the same hypertable, in the same batches and commits;
and for sending all of them again, COPY into a temporary table and the same ON CONFLICT. The product is
`TimescaleDBStorage.store_readings`, with its checks, its guard against older versions and its counts. Both begin with
the same readings in memory, of four floats and 20 devices.

Beside them, once each and not judged: psycopg's `executemany`, SQLAlchemy's ORM with fewer readings, and
django-devicehub's `store_reading`, a call and a commit for each of a few, into a table of its own.
"""

import json
import sys

from tests.benchmarks.child import Child
from tests.benchmarks.report import Comparison, progress, read_options, report
from tests.benchmarks.timescale_peers import fetch_peers
from tests.benchmarks.timescale_writers import model
from tests.servers.timescale import TimescaleServer

READINGS = 500_000
BATCH = 5_000
OTHERS = {"executemany": READINGS, "SQLAlchemy": 100_000, "django-devicehub": 5_000}
"""How many readings each of them writes."""
MEMORY = {"max_wal_size": "4GB", "checkpoint_timeout": "30min"}


def take_time(
    server: TimescaleServer, database: str, kind: str, readings: int, again: bool = False, python: str | None = None
) -> float:
    """Seconds that a process takes to write so many readings."""
    server.sql("CHECKPOINT", database)  # what was written before is not on the account of this one
    settings = {"kind": kind, "url": server.url(database), "readings": readings, "batch": BATCH, "again": again}
    module = "timescale_peers" if python else "timescale_writers"
    with Child(module, json.dumps(settings), python=python or sys.executable) as child:
        child.hear()
        child.tell("go")
        return float(child.hear()["seconds"])


def measure(server: TimescaleServer, database: str, kind: str, readings: int, again: bool) -> float:
    """One round of floor or product: readings per second."""
    seconds = take_time(server, database, kind, readings, again)
    found = server.sql("SELECT count(*) FROM inverter", database)
    assert int(found) == readings, f"{kind}: {found} of {readings} readings are there"
    return readings / seconds


def prepare(server: TimescaleServer, database: str) -> None:
    """The product's table, empty."""
    from edgedepot import TimescaleDBStorage

    with TimescaleDBStorage(server.url(database), gateway_id="roof") as storage:
        storage.create_hypertable(model())
    server.sql("TRUNCATE inverter", database)


def main() -> None:
    options = read_options(__doc__)
    readings = options.of(READINGS)
    rates: dict[bool, dict[str, list[float]]] = {
        again: {"floor": [], "product": []} for again in (False, True)
    }  # fmt: skip
    with TimescaleServer(settings=MEMORY) as server:
        database = server.create_database()
        for number in range(options.rounds):
            # Whoever comes second finds warm caches: they take turns.
            for kind in ("floor", "product") if number % 2 else ("product", "floor"):
                prepare(server, database)
                for again, found in rates.items():
                    found[kind].append(measure(server, database, kind, readings, again))
                    word = "again" if again else "first"
                    progress(f"round {number + 1}, {kind}, {word}: {found[kind][-1]:,.0f} readings/s")
        python = fetch_peers()
        others = {}
        for kind, most in OTHERS.items():
            prepare(server, database)
            number = options.of(most)
            seconds = take_time(server, database, kind, number, python=None if kind == "executemany" else python)
            others[kind] = f"{number / seconds:,.0f} readings/s ({number:,} readings)"
    comparisons = [
        Comparison(name, "readings/s", rates[again]["floor"], rates[again]["product"], factor=0.8, at_least=True)
        for name, again in (("first", False), ("again", True))
    ]
    report(options, comparisons, readings=readings, batch=BATCH, **others)


if __name__ == "__main__":
    main()
