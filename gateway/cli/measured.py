"""What a gateway has to bear, from the readings of the last hour in its store and from the settings in its file."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgedepot.cli.output import duration
from edgedepot.cli.target import is_toml, open_store, size_on_disk
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.sqlite.limits import REST
from edgedepot.storage.sqlite.limits import Limits as Kept
from edgedepot.sync.limits import Limits
from edgedepot.sync.settings import choice_of

if TYPE_CHECKING:
    from edgedepot.plan import Kind
    from edgedepot.storage.buffer import Choice
    from edgedepot.storage.sqlite.downsampled import KeptColumns
    from edgedepot.storage.sqlite.recent import Recent, Values

_DAY = 86_400.0
KINDS: Mapping[str, Kind] = {"timescaledb": "timescale", "influxdb": "influxdb"}


class Shape(NamedTuple):
    """How many values a reading has, and of these ints, bools, and texts with so many letters in all; and how many of
    the fields it lacks that others of its model have."""

    fields: float = 0.0
    ints: float = 0.0
    bools: float = 0.0
    texts: float = 0.0
    letters: float = 0.0
    nulls: float = 0.0

    def plus(self, other: Shape, factor: float = 1.0) -> Shape:
        """The sum."""
        return Shape(*(one + factor * more for one, more in zip(self, other, strict=True)))


_OF: Mapping[type, Shape] = {float: Shape(1), int: Shape(1, ints=1), bool: Shape(1, bools=1), str: Shape(1, texts=1)}
_NAMES: Mapping[str, Shape] = {"float": _OF[float], "int": _OF[int], "bool": _OF[bool], "str": _OF[str]}
_ABOUT_AN_HOUR = 3_500.0
"""Seconds: what is so long needs no word about it."""
_LETTERS = 12
"""Of a text, where that is not given."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Readings a second of each series, (measurement, device); what a reading of each measurement is on average; what
    came, that says it; and the rules of what is kept downsampled."""

    series: dict[tuple[str, str], float]
    shapes: dict[str, Shape]
    came: Recent
    rules: Sequence[KeptColumns]

    @classmethod
    def of(cls, came: Recent, rules: Sequence[KeptColumns]) -> Rates:
        """A device counts with the time by its own clock where that is longer: what it gathered comes all at once."""
        series = {key: len(one.times) / max(came.seconds, _span(one.times) / 1e6) for key, one in came.series.items()}
        return cls(series, {name: _shape_of(*found) for name, found in came.values.items()}, came, rules)

    @property
    def rate(self) -> float:
        return sum(self.series.values())

    def shape(self, series: Mapping[tuple[str, str], float]) -> Shape:
        """What a reading of some series is on average."""
        shape, rate = Shape(), sum(series.values())
        for (measurement, _), one in series.items():
            shape = shape.plus(self.shapes[measurement], one / rate)
        return shape

    def commits(self, series: Iterable[tuple[str, str]], flush: float, own: float) -> float:
        """How many commits a second have readings of some series: as many as there were, no more than are due with that
        `flush_interval`. Where that is shorter than the store's own, as many as are due."""
        keys = list(series)
        some = [self.came.series[key] for key in keys]
        due = _due(sorted(time for one in some for time in one.times), flush * 1e6)
        there = len({commit for one in some for commit in one.commits})
        count = due if flush < own else min(due, there)
        return min(count / self.came.seconds, sum(self.series[key] for key in keys))

    def parts(self, series: Iterable[tuple[str, str]], flush: float, own: float) -> tuple[float, ...]:
        """The same of the series of each model."""
        keys = sorted(series)
        return tuple(self.commits(mine, flush, own) for _, mine in groupby(keys, key=itemgetter(0)))

    @property
    def kept(self) -> float:
        """The bytes of what is kept downsampled once that goes too, a day's at a time; inf where it never does."""
        from edgedepot.plan import kept_bytes

        return sum(
            min(rate, 1 / rule.interval)
            * kept_bytes(rule.columns)
            * (math.inf if rule.keep is None else rule.keep + _DAY)
            for rule in self.rules
            for (measurement, _), rate in self.series.items()
            if measurement == rule.measurement
        )

    @property
    def notes(self) -> Iterator[str]:
        """What there is to say of a time that is no whole hour, or in which the gateway may have been off."""
        silence, when = self.came.silence, f"From the readings of the last {duration(self.came.seconds)}"
        if self.came.seconds < _ABOUT_AN_HOUR:
            if silence is None:
                yield f"{when}, which are {sum(len(one.times) for one in self.came.series.values()):,}."
            else:
                before = "" if math.isinf(silence) else f"for {duration(silence)} "
                yield f"{when}: none came {before}before."
        if self.came.pause is not None:
            whole = "the last hour" if self.came.seconds >= _ABOUT_AN_HOUR else "that time"
            pause = f"For {duration(self.came.pause)} of {whole} nothing came"
            yield f"{pause}: where the gateway was off then, its rates are higher."


class Room(NamedTuple):
    """Bytes: `free` on the device, those of the `store`, and of these the `spare` ones, which hold nothing any more."""

    free: float
    store: float
    spare: float

    def within(self, limit: float | None, age: float | None) -> float:
        """What the store may have with that `keep_bytes`, or where it keeps nothing beyond an age, as all that is in it
        may go. Without either nothing in it goes, and there is only what comes on top."""
        whole = self.free + (self.spare if limit is None and age is None else self.store)
        return whole if limit is None else min(limit, whole)


def measure(file: Path) -> tuple[Rates, Room]:
    """The rates of the last hour, or of the part of it since readings came (again); and the room that the store has.
    Raises `InvalidValue` where no reading came."""
    import shutil

    with open_store(file) as store:
        rates = Rates.of(store.recent(datetime.now(UTC)), store.kept_columns())
        room = Room(shutil.disk_usage(store.path.parent).free, size_on_disk(store.path), store.free_bytes())
    if not rates.series:
        raise InvalidValue(f"{file}: no reading came within the last hour; expected --devices, --every and --fields")
    return rates, room


def _span(times: Iterable[int]) -> int:
    """From the first to the last of these, where they are spread evenly; single ones far from the others do not count:
    then it is twice that of the half in the middle."""
    ordered = sorted(times)
    half = ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]
    return min(ordered[-1] - ordered[0], 2 * half)


def _shape_of(readings: int, fields: Sequence[Values]) -> Shape:
    """What that many readings with these values are on average."""
    shape = Shape()
    for kind, count, letters in fields:
        if count:
            own = _OF[kind]._replace(letters=letters / count, nulls=readings / count - 1)
            shape = shape.plus(own, count / readings)
    return shape


def _due(times: Sequence[int], flush: float) -> int:
    """How many commits are due, of which each has what comes within a time from its first reading on."""
    count = place = 0
    while place < len(times):
        place = bisect_left(times, times[place] + flush)
        count += 1
    return count


def fields_of(text: str) -> dict[str, float]:
    """What a reading has, as `Load` names it: of "4", so many floats, or of types such as "float,bool,str:12". Raises
    `InvalidValue`."""
    count = _count_of(text)
    if count:
        return Shape(count)._asdict()
    shape = Shape()
    for one in text.split(","):
        name, _, length = one.strip().partition(":")
        kind = _NAMES.get(name)
        if kind is None or (length and (name != "str" or _count_of(length) is None)):
            expected = 'a number, or types (float, int, bool, str) as in "float,bool,str:12"'
            raise InvalidValue(f"--fields: found {text!r}, expected {expected}")
        shape = shape.plus(kind._replace(letters=float(length or _LETTERS) if name == "str" else 0.0))
    return shape._asdict()


def _count_of(text: str) -> int | None:
    """A number of up to four digits; None for anything else."""
    return int(text) if len(text) <= 4 and text.isascii() and text.isdecimal() else None


_OFF: Mapping[str, str] = {
    "gzip": "gzip is off, and 1 to 5 times as much goes over the wire as is counted.",
    "copy": "copy is off, and 0.7 to 2.4 times as much goes over the wire as is counted.",
}
"""What is said of settings that are off: by seeds 1, 2, 3, 4, 7, 9, 13 and 22 of tests/plan."""


class Upstream(NamedTuple):
    """One of a gateway's file: what it gets, and its settings as `Load` has them."""

    choice: Choice
    settings: Mapping[str, Any]


class Settings(NamedTuple):
    """What a gateway's file says that matters here: of the store `flush`, `disk` and what it does when that is full, as
    `Load` has them; its upstreams of a known kind by name; and what there is to say of any."""

    store: Mapping[str, Any] = {}
    upstreams: Mapping[str, Upstream] = {}
    notes: Sequence[str] = ()


def settings_of(file: Path, upstream: str | None, tls: bool | None) -> Settings:
    """`upstream` is the name of one, or a kind, of which all others are left out; `tls` what a person says.
    Raises `InvalidValue` where there is none of that name, `ConfigError`."""
    if not is_toml(file):
        return Settings()
    from edgedepot.config import load

    settings = load(file)
    known = {name: part for name, part in settings.upstreams.items() if part.kind in KINDS}
    names = [name for name, part in known.items() if upstream in (None, name, KINDS[part.kind])]
    notes = [
        f"upstream {name} is not counted: nothing is known of its engine, {part.kind}."
        for name, part in settings.upstreams.items()
        if name not in known and upstream is None
    ]
    if not names and upstream is not None and upstream not in KINDS.values():
        there = ", ".join(known) or "none"
        raise InvalidValue(f"--upstream: found {upstream!r}, expected timescale, influxdb or one of {file}: {there}")
    found = {}
    for name in names:
        with known[name].make() as storage:
            uses_tls: bool | None = storage.uses_tls
        if uses_tls is None and tls is None:
            notes.append(f"upstream {name}: its url leaves TLS to the server (sslmode); --tls counts it.")
        notes += [f"upstream {name}: {text}" for key, text in _OFF.items() if known[name].options.get(key) is False]
        found[name] = _of_upstream(name, settings.forwarding[name], KINDS[known[name].kind], bool(uses_tls))
    return Settings(_of_storage(settings.storage.options), found, notes)


def _of_storage(options: Mapping[str, Any]) -> dict[str, Any]:
    asked = (options.get("keep"), options.get("keep_bytes"), options.get("when_full", "evict"))
    kept = Kept.of(*asked, options.get("keep_pending", True))
    age = kept.ages.get(REST)
    found = {"blocks": kept.block, "loses": not kept.keep_pending, "age": None if age is None else age / 1e6}
    if "flush_interval" in options:
        found["flush"] = seconds_of(options["flush_interval"], "flush_interval")
    return found | ({"disk": kept.size} if kept.size else {})


def _of_upstream(name: str, options: Mapping[str, Any], kind: Kind, tls: bool) -> Upstream:
    limits = Limits.of(name, *(options.get(key) for key in ("max_rate", "max_per_day", "windows", "every")))
    low, high = limits.schedule.day(time.time_ns() // 1000)
    opened = sum(end - start for start, end in limits.schedule.spans(low, high))
    found = {
        "link": limits.rate,
        "per_day": limits.per_day,
        "every": limits.every / 1e6 if limits.every else None,
        "open": opened / (high - low),
        "batch": options.get("batch_size"),
        "upstream": kind,
        "tls": tls,
    }
    choice = choice_of(options.get("models"), options.get("devices"), name)
    return Upstream(choice, {key: value for key, value in found.items() if value is not None})


def chosen(rates: Rates, choice: Choice) -> dict[tuple[str, str], float]:
    """The readings a second that an upstream gets, of each series."""
    return {key: rate for key, rate in rates.series.items() if choice.takes(*key)}
