"""Loads drawn at random, and what a run of each takes: of the disk, of the wire, of the card."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgedepot import Reading
from edgedepot.plan import Kind
from edgedepot.plan import Load as Planned
from edgedepot.storage.base import BaseStorage, StoreRow
from edgedepot.storage.receipt import Receipt
from tests.benchmarks.loop_mount import LoopMount
from tests.plan.load import Load
from tests.servers.proxy import TcpProxy
from tests.sync.scripted import ScriptedUpstream

FITTED = range(1, 25)
"""The seeds of the loads that the figures of `edgedepot.plan` were fitted to, those of InfluxDB also to `LOOKED_AT`."""
LOOKED_AT = range(101, 131)
"""These were measured against the fit; what they showed went into it."""
HELD_OUT = range(201, 231)
"""Measured when nothing was changed any more: how far off the plan is for loads that it knows nothing of."""

KINDS = {"float": 0.6, "int": 0.15, "bool": 0.15, "str": 0.1}
HOUR = 3600.0
FEW, SETTLED = 3.0, 18 * HOUR
"""Readings a second, and seconds."""
WRITTEN_BACK = 65_536
"""Bytes: a store's file is larger once its log was written back."""


@dataclass(frozen=True)
class Drawn:
    """What `Load` is made of."""

    devices: int
    every: float
    kinds: tuple[str, ...]
    flush: float
    models: int
    length: int
    upstreams: int

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.devices / self.every

    def planned(self, upstream: Kind = "timescale") -> Planned:
        """The same for `edgedepot.plan`."""
        return Planned(
            self.rate,
            len(self.kinds),
            self.flush,
            upstream,
            series=self.devices,
            ints=self.kinds.count("int"),
            bools=self.kinds.count("bool"),
            texts=self.kinds.count("str"),
            letters=self.kinds.count("str") * self.length,
            devices=self.devices,
            models=self.models,
        )

    def load(self, path: Path) -> Load:
        return Load(
            path, self.devices, self.every, self.kinds, self.flush, None, self.models, self.length, self.upstreams
        )


def draw(seed: int) -> Drawn:
    """One load: of 1 to 200 devices, a reading in ten seconds to 100 a second."""
    dice = random.Random(seed)
    while True:
        devices, every = round(10 ** dice.uniform(0, 2.3)), dice.choice([0.5, 1, 2, 5, 10, 30, 60, 300])
        if 0.1 <= devices / every <= 100:
            break
    kinds = dice.choices(list(KINDS), list(KINDS.values()), k=dice.randint(1, 10))
    return Drawn(
        devices=devices,
        every=every,
        kinds=tuple(sorted(kinds)),
        flush=dice.choice([1.0, 2.0, 5.0, 10.0, 30.0]),
        models=dice.randint(1, min(4, devices)),
        length=dice.randint(2, 24),
        upstreams=dice.randint(1, 2),
    )


def disk(drawn: Drawn, path: Path, readings: int) -> float:
    """Bytes of the store's file for each reading, while an upstream is away: of whole hours, about so many readings."""
    run = drawn.load(path)
    run.run(HOUR * max(2, round(readings / drawn.rate / HOUR)))
    run.store.fold()
    run.store.close()
    return path.stat().st_size / run.count


def wire(drawn: Drawn, path: Path, link: TcpProxy, upstream: BaseStorage, commits: int) -> float:
    """Bytes both ways a second."""
    run = drawn.load(path)
    run.forward(upstream)
    apart = max(drawn.flush, 1 / drawn.rate)
    run.run(5 * apart)  # connecting and making tables is no matter of months
    before, start = link.bytes_up + link.bytes_down, run.clock.monotonic()
    run.run(commits * apart)
    taken = link.bytes_up + link.bytes_down - before
    assert run.store.count_pending("central") == 0
    run.store.close()
    return taken / (run.clock.monotonic() - start)


def card(drawn: Drawn, mount: LoopMount, commits: int) -> float:
    """Bytes a second that reach the device, over whole hours with about so many commits, of a store whose upstreams
    take all at once. Not counted is the beginning, in which the log grows to the length that it keeps; of a load of few
    readings nor the time in which many devices share a page, of which there soon is one for each."""
    path = mount.path / "local.db"
    run = drawn.load(path)
    for _ in range(drawn.upstreams):
        run.forward(Taking())
    settled = SETTLED if drawn.rate <= FEW else 0.0
    while path.stat().st_size < WRITTEN_BACK or run.clock.monotonic() < settled:
        run.run(600)
    before, start = mount.written(), run.clock.monotonic()
    run.run(HOUR * max(3, round(commits * max(drawn.flush, 1 / drawn.rate) / HOUR)))
    taken = mount.written() - before
    run.store.close()
    return taken / (run.clock.monotonic() - start)


class Taking(ScriptedUpstream):
    """Takes all, and keeps nothing."""

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        return Receipt.settled(sum(1 for _ in rows), None, ())
