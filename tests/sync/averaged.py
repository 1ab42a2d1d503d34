"""What an upstream should get of which only averages go out: of each interval one, of all that the store has of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edgedepot.storage.clock import from_micros, to_micros
from tests.models import Weather
from tests.storage.sqlite.room_model import Version
from tests.storage.sqlite.states import Key, Series, Values

FLOATS = ("temperature", "humidity")
JUST = 15_000_000


class Bucket(NamedTuple):
    """An interval of one device's readings."""

    series: Series
    start: int

    @property
    def key(self) -> Key:
        """The identity of its average."""
        return self.series, from_micros(self.start)


def bucket_of(key: Key, every: int) -> Bucket:
    micros = to_micros(key[1])
    return Bucket(key[0], micros - micros % every)


def by_bucket(versions: Iterable[Version], every: int) -> dict[Bucket, list[Version]]:
    found: dict[Bucket, list[Version]] = defaultdict(list)
    for version in versions:
        found[bucket_of(version.key, every)].append(version)
    return found


def until_one_lasts(versions: Sequence[Version], every: int, now: int) -> Sequence[Version]:
    """Those before the first whose interval is not over, or only just: it and what came after it wait. Nobody waits for
    what is more than an interval ahead."""
    for place, version in enumerate(versions):
        over = bucket_of(version.key, every).start + every + min(every // 4, JUST)
        if version.micros - every <= now < over:
            return versions[:place]
    return versions


def average_of(rows: Iterable[tuple[Key, Values]]) -> Values:
    """Floats averaged, of the others the last there is."""
    found: Values = {}
    ordered = [values for _, values in sorted(rows, key=lambda row: row[0])]
    for values in ordered:
        found |= values
    for name in FLOATS:
        known = [values[name] for values in ordered if name in values]
        if known:
            found[name] = math.fsum(known) / len(known)
    return {spec.name: found[spec.name] for spec in Weather.__fields__ if spec.name in found}
