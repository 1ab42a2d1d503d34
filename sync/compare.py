"""Where an upstream lacks what it should have: counts and exact extremes by day, then by hour.

day     |  =  |  =  |  x  |  =  | gone|  =  |         one request for each field and function, whatever the range
hour                |..x.x|                           one more for each run of days that differ, of what differs
rows                  ^ ^        ^^^^^                only here rows are read; where nothing is left, none there
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.delivered import DAY, HOUR, Delivered, Measure, Tallies, measures_of, rows_in
from edgedepot.storage.errors import NotSupported
from edgedepot.storage.reading import Reading
from edgedepot.sync.pace import Pace

RUN = 31
"""At most so many days are narrowed to their hours together: answers have a bound."""
TOGETHER = 5_000
"""So many rows are read together, about."""
GAP = 200
"""A stretch goes on over so many rows that need no looking at: they cost about as much as a request more."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A device's rows ``start <= ts < end`` (microseconds since 1970 UTC) among which something is missing or another;
    about how many. `is_empty`: the upstream has none of them."""

    model: type[Reading]
    device: str
    start: int
    end: int
    rows: int
    is_empty: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be compared: of one device or of all, ``start <= ts < end``, None for open."""

    device: str | None = None
    start: int | None = None
    end: int | None = None


class Comparison:
    """Compares what an upstream should have with what it has. `requests` counts those to the upstream; `asked` is
    called after each. For one thread."""

    def __init__(
        self,
        delivered: Delivered,
        upstream: BaseStorage,
        scope: Scope,
        asked: Callable[[], object] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace
        self._delivered = delivered
        self._upstream = upstream
        self._scope = scope
        self._asked = asked
        self.requests = 0
        self.extra: dict[tuple[str, str, int], int] = {}
        """How many more readings the upstream has in days in which none is expected, by measurement, device, day."""

    def stretches(self, model: type[Reading]) -> list[Stretch]:
        """Where the upstream differs. Raises what it raises, but for `NotSupported`: then every row is to be looked
        at."""
        start = _latest(self._scope.start, self._delivered.beginning(model))
        ours = self._delivered.tallies(model, self._scope.device, start, self._scope.end, DAY)
        if not ours:
            return []
        days = [day for _, day in ours]
        low = min(days) if start is None else max(start, min(days))
        high = max(days) + DAY if self._scope.end is None else min(self._scope.end, max(days) + DAY)
        try:
            theirs = self._ask(model, self._scope.device, low, high, DAY, measures_of(model), len(ours))
        except NotSupported:
            every = {key: set(tally) for key, tally in ours.items()}
            return _stretches(model, every, ours, ours, (low, high), DAY)
        self._note_extra(model, ours, theirs)
        differing = _differing(ours, theirs)
        gone = {key: measures for key, measures in differing.items() if key not in theirs}
        found = _stretches(model, gone, ours, theirs, (low, high), DAY)
        for run in _runs(key for key in differing if key in theirs):
            found += self._narrowed(model, {key: differing[key] for key in run}, low, high)
        return sorted(found, key=lambda stretch: (stretch.device, stretch.start))

    def _narrowed(
        self, model: type[Reading], days: dict[tuple[str, int], set[Measure]], low: int, high: int
    ) -> list[Stretch]:
        """The hours of some days in which there is a difference. Only that is asked for in which the days differ."""
        low = max(low, min(day for _, day in days))
        high = min(high, max(day for _, day in days) + DAY)
        devices = {device for device, _ in days}
        device = devices.pop() if len(devices) == 1 else self._scope.device
        wanted = set().union(*days.values())
        ours = self._delivered.tallies(model, device, low, high, HOUR)
        asked = [one for one in measures_of(model) if one in wanted]
        theirs = self._ask(model, device, low, high, HOUR, asked, len(ours))
        ours = {key: tally for key, tally in ours.items() if (key[0], key[1] - key[1] % DAY) in days}
        narrowed = {key: {one: value for one, value in tally.items() if one in wanted} for key, tally in ours.items()}
        return _stretches(model, _differing(narrowed, theirs), ours, theirs, (low, high), HOUR)

    def _ask(
        self,
        model: type[Reading],
        device: str | None,
        low: int,
        high: int,
        width: int,
        measures: Iterable[Measure],
        buckets: int,
    ) -> Tallies:
        """The upstream's tallies, about so many: one request for each measure."""
        found: Tallies = {}
        span: Any = {"start": moment_of(low), "end": moment_of(high), "interval": "1 day" if width == DAY else "1 hour"}
        for measure in measures:
            self.requests += 1
            question = partial(self._upstream.aggregate, model, *measure, device, group_by="device", **span)
            answer = question() if self._pace is None else self._pace.ask(buckets, question)
            for row in answer if isinstance(answer, list) else []:
                if row["result"] is not None and (row["result"] or measure.function != "count"):
                    found.setdefault((row["device_id"], to_micros(row["bucket"])), {})[measure] = row["result"]
            self._asked()
        return found

    def _note_extra(self, model: type[Reading], ours: Tallies, theirs: Tallies) -> None:
        for (device, day), tally in theirs.items():
            if (device, day) not in ours:
                self.extra[model.__measurement__, device, day] = rows_in(tally)


def _differing(ours: Tallies, theirs: Tallies) -> dict[tuple[str, int], set[Measure]]:
    """In what each bucket differs in which there should be something."""
    found = {}
    for key, tally in ours.items():
        other = theirs.get(key, {})
        measures = {one for one in tally.keys() | other.keys() if tally.get(one) != other.get(one)}
        if measures:
            found[key] = measures
    return found


def _runs(keys: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Days one after the other that are narrowed together."""
    run: list[tuple[str, int]] = []
    for day, group in groupby(sorted(keys, key=lambda key: key[1]), key=lambda key: key[1]):
        if run and (day - run[-1][1] > DAY or day - run[0][1] >= RUN * DAY):
            yield run
            run = []
        run += group
    if run:
        yield run


def _stretches(
    model: type[Reading],
    differing: dict[tuple[str, int], set[Measure]],
    ours: Tallies,
    theirs: Tallies,
    bounds: tuple[int, int],
    width: int,
) -> list[Stretch]:
    """The buckets that differ, as few stretches: the rows between two are looked at too where they are few."""
    found: list[Stretch] = []
    low, high = bounds
    for device, group in groupby(sorted(ours), key=lambda key: key[0]):
        passed = 0
        current: Stretch | None = None
        for key in group:
            rows = max(rows_in(ours[key]), rows_in(theirs.get(key, {})))
            if key not in differing:
                passed += rows
                continue
            start, end, is_empty = max(low, key[1]), min(high, key[1] + width), key not in theirs
            if current is not None and _goes_on(current, passed, rows, is_empty):
                current = Stretch(model, device, current.start, end, current.rows + passed + rows, is_empty)
                found[-1] = current
            else:
                current = Stretch(model, device, start, end, rows, is_empty)
                found.append(current)
            passed = 0
    return found


def _goes_on(stretch: Stretch, passed: int, rows: int, is_empty: bool) -> bool:
    allowed = 0 if is_empty else GAP
    return is_empty == stretch.is_empty and passed <= allowed and stretch.rows + passed + rows <= TOGETHER


def _latest(*bounds: int | None) -> int | None:
    return max((bound for bound in bounds if bound is not None), default=None)


def moment_of(micros: int) -> datetime | None:
    """The time as storages take it; None for one at the calendar's ends, where a bucket reaches beyond."""
    try:
        return from_micros(micros)
    except OverflowError:
        return None
