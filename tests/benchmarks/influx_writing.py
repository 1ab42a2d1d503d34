"""Readings per second into a real VictoriaMetrics over InfluxDB's protocol.

The floor is influxdb-client's batching `WriteApi` with a `Point` for each reading, in batches of 5,000. The product is
one call of `InfluxDBStorage.store_readings`, checks and compression included. Both begin with the same readings in
memory, of four floats and 20 devices, and end when the server has acknowledged all; then it must hold all of them.
"""

import json
from collections.abc import Iterator
from functools import partial
from itertools import count

from tests.benchmarks.child import Child
from tests.benchmarks.report import Comparison, alternate, read_options, report
from tests.servers.process import wait_until
from tests.servers.victoria import VictoriaMetrics

READINGS = 500_000
FIELDS = 4


def measure(server: VictoriaMetrics, kind: str, rounds: Iterator[int], readings: int) -> float:
    """One round of floor or product, as a gateway of its own: readings per second."""
    gateway = f"{kind}-{next(rounds)}"
    settings = {"kind": kind, "url": server.url, "gateway": gateway, "readings": readings}
    with Child("influx_writers", json.dumps(settings)) as child:
        child.hear()
        child.tell("go")
        seconds = float(child.hear()["seconds"])
    selector = f'{{gateway_id="{gateway}"}}'
    wait_until(lambda: server.count(selector) == readings * FIELDS, f"all values of {kind} are there", 30)
    return readings / seconds


def main() -> None:
    options = read_options(__doc__)
    readings = options.of(READINGS)
    rounds = count()
    with VictoriaMetrics() as server:
        contestants = {kind: partial(measure, server, kind, rounds, readings) for kind in ("floor", "product")}
        rates = alternate(options, "readings/s", contestants)
    comparison = Comparison("writing", "readings/s", rates["floor"], rates["product"], factor=3, at_least=True)
    report(options, [comparison], readings=readings, fields=FIELDS)


if __name__ == "__main__":
    main()
