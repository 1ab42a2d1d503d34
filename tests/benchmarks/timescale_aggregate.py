"""An hourly average over a million rows in a real TimescaleDB.

The floor is the SQL that one would write by hand with `time_bucket`, and psycopg. The product is
`TimescaleDBStorage.downsample`. Both answer in the same process, in turn; their answers must be equal.
"""

import time
from collections.abc import Callable
from datetime import UTC
from typing import Any

import psycopg

from edgedepot import TimescaleDBStorage
from tests.benchmarks.report import Comparison, read_options, report
from tests.benchmarks.timescale_writers import model
from tests.servers.timescale import TimescaleServer

READINGS = 1_000_000
QUESTIONS = 5
FILL = """
INSERT INTO inverter (gateway_id, device_id, "timestamp", voltage, current, power, temperature)
SELECT
    'roof', 'string ' || mod(n, 20), '2026-01-01Z'::timestamptz + n * interval '1 second',
    mod(n, 977), mod(n, 101), n, 20
FROM generate_series(0, %s - 1) AS n
"""
BY_HAND = """
SELECT time_bucket('1 hour', "timestamp") AS bucket, avg(power) FROM inverter
WHERE gateway_id = 'roof' GROUP BY bucket ORDER BY bucket
"""


def best_of(ask: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the quickest of a few calls, and the answer."""
    seconds = []
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        answer = ask()
        seconds.append(time.perf_counter() - began)
    return min(seconds), answer


def main() -> None:
    options = read_options(__doc__)
    floor, product = [], []
    with TimescaleServer() as server:
        url = server.url(server.create_database())
        inverter = model()
        with (
            TimescaleDBStorage(url, gateway_id="roof") as storage,
            psycopg.connect(url, autocommit=True) as connection,
        ):
            storage.create_hypertable(inverter)
            connection.execute(FILL, (options.of(READINGS),))
            connection.execute("VACUUM ANALYZE inverter")
            for _ in range(options.rounds):
                seconds, by_hand = best_of(lambda: connection.execute(BY_HAND).fetchall())
                floor.append(seconds * 1000)
                seconds, answer = best_of(lambda: storage.downsample(inverter, "power", "1 hour"))
                product.append(seconds * 1000)
                assert [(row["bucket"], row["result"]) for row in answer] == [
                    (bucket.astimezone(UTC), result) for bucket, result in by_hand
                ]
    report(options, [Comparison("hourly aggregate", "ms", floor, product, factor=1.1)], rows=options.of(READINGS))


if __name__ == "__main__":
    main()
