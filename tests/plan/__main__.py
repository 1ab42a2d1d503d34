"""``python -m tests.plan [disk] [wire] [card] [--seeds 201-230]``: measures loads drawn at random, and compares each
with what `edgedepot plan` says. The card needs root, for a file system in a file."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedepot import InfluxDBStorage, TimescaleDBStorage
from edgedepot.plan import Kind, card_rate, store_bytes, wire_rate
from tests.benchmarks.loop_mount import LoopMount
from tests.plan.campaign import HELD_OUT, Drawn, card, disk, draw, wire
from tests.servers.proxy import TcpProxy
from tests.servers.timescale import TimescaleServer
from tests.servers.victoria import VictoriaMetrics

READINGS, COMMITS, CARD_COMMITS = 40_000, 60, 4_000
Measured = tuple[str, float, float]
"""What, as measured, as planned."""


def disks(drawn: Drawn, folder: Path) -> Iterator[Measured]:
    yield "bytes of the file a reading", disk(drawn, folder / "disk.db", READINGS), store_bytes(drawn.planned())


def wires(drawn: Drawn, folder: Path) -> Iterator[Measured]:
    with TimescaleServer() as server, TcpProxy("127.0.0.1", server.port) as link:
        url = re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", server.url(server.create_database()))
        with TimescaleDBStorage(url) as upstream:
            measured = wire(drawn, folder / "timescale.db", link, upstream, COMMITS)
        yield "bytes a second to TimescaleDB", measured, wire_rate(drawn.planned())
    kind: Kind = "influxdb"
    with VictoriaMetrics() as victoria, TcpProxy("127.0.0.1", victoria.port) as link:
        with InfluxDBStorage(f"http://127.0.0.1:{link.port}", "t" * 88, "farm", "iot") as lines:
            measured = wire(drawn, folder / "influxdb.db", link, lines, COMMITS)
        yield "bytes a second to InfluxDB", measured, wire_rate(drawn.planned(kind))


def cards(drawn: Drawn, folder: Path) -> Iterator[Measured]:
    with LoopMount() as mount:
        yield "bytes a second to the card", card(drawn, mount, CARD_COMMITS), card_rate(drawn.planned())


WHAT = {"disk": disks, "wire": wires, "card": cards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="disk, wire, card; all if not")
    parser.add_argument("--seeds", default=f"{HELD_OUT[0]}-{HELD_OUT[-1]}")
    given = parser.parse_args()
    low, _, high = given.seeds.partition("-")
    ratios: dict[str, list[float]] = {}
    for seed in range(int(low), int(high or low) + 1):
        drawn = draw(seed)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(drawn.kinds).items())
        print(
            f"{seed}: {drawn.devices} devices of {drawn.models} models, every {drawn.every:g} s, {kinds},"
            f" texts of {drawn.length}, commits each {drawn.flush:g} s, {drawn.upstreams} upstreams",
            flush=True,
        )
        for name in given.what or WHAT:
            with TemporaryDirectory() as folder:
                for what, measured, planned in WHAT[name](drawn, Path(folder)):
                    ratios.setdefault(what, []).append(planned / measured)
                    print(f"    {what}: {measured:,.1f}, planned {planned / measured:.3f} of that", flush=True)
    for what, found in ratios.items():
        near = sum(abs(one - 1) <= 0.1 for one in found)
        print(f"{what}: {len(found)} loads, planned {min(found):.3f} to {max(found):.3f}, {near} within 10 %")


if __name__ == "__main__":
    main()
