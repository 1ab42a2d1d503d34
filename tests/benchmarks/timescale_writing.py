"""Readings per second into a real TimescaleDB.

The floor is bare psycopg: binary COPY of tuples in memory into the same hypertable, in the same batches and commits;
and for sending all of them again, COPY into a temporary table and the same ON CONFLICT. The product is
`TimescaleDBStorage.store_readings`, with its checks, its guard against older versions and its counts. Both begin with
the same readings in memory, of four floats and 20 devices. Beside them, once: psycopg's `executemany`.
"""

import json

from tests.benchmarks.child import Child
from tests.benchmarks.report import Comparison, progress, read_options, report
from tests.benchmarks.timescale_writers import model
from tests.servers.timescale import TimescaleServer

READINGS = 500_000
BATCH = 5_000
MEMORY = {"max_wal_size": "4GB", "checkpoint_timeout": "30min"}


def measure(server: TimescaleServer, database: str, kind: str, readings: int, again: bool) -> float:
    """One round of floor or product: readings per second."""
    server.sql("CHECKPOINT", database)  # what was written before is not on the account of this one
    settings = {"kind": kind, "url": server.url(database), "readings": readings, "batch": BATCH, "again": again}
    with Child("timescale_writers", json.dumps(settings)) as child:
        child.hear()
        child.tell("go")
        seconds = float(child.hear()["seconds"])
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
        prepare(server, database)
        executemany = measure(server, database, "executemany", readings, again=False)
    comparisons = [
        Comparison(name, "readings/s", rates[again]["floor"], rates[again]["product"], factor=0.8, at_least=True)
        for name, again in (("first", False), ("again", True))
    ]
    report(options, comparisons, readings=readings, batch=BATCH, executemany=f"{executemany:,.0f} readings/s")


if __name__ == "__main__":
    main()
