"""Where an upstream lacks what it should have: counts and exact extremes by day, then by hour.

day     |  =  |  =  |  x  |  =  | gone|  =  |         one request for each field and function, whatever the range
                                                      (some where bytes are limited: each has to fit)
hour                |..x.x|                           one more for each run of days that differ, of what differs
rows                  ^ ^        ^^^^^                only here rows are read; where nothing is left, none there

Where rows were deleted here, counts and extremes that are the same say nothing: as many others may be gone there. That
is always narrowed.

Where reading an hour's rows takes more requests than counting by the minute, that comes in between; and then by the
second. Where bytes are limited also where it takes many more of these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.clock import DAY, HOUR, MINUTE, from_micros, to_micros
from edgedepot.storage.delivered import Delivered, Measure, Tallies, measures_of, rows_in
from edgedepot.storage.errors import NotSupported
from edgedepot.storage.reading import Reading
from edgedepot.sync.cost import NOTHING, Size, bucket_size, largest_row, size_of
from edgedepot.sync.pace import TOGETHER, Asked, Pace

RUN = 31
"""At most so many days are narrowed to their hours together: answers have a bound."""
GAP = 200
"""A stretch goes on over so many rows that need no looking at: they cost about as much as a request more."""
_SECOND = MINUTE // 60
_INTERVALS = {DAY: "1 day", HOUR: "1 hour", MINUTE: "1 minute", _SECOND: "1 second"}
_FINER = {DAY: HOUR, HOUR: MINUTE, MINUTE: _SECOND}
Key = tuple[str, int]
"""A device, and the start of a bucket."""


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
class Run:
    """Buckets of some width, one after the other, in each of which the upstream has something and differs in these
    measures; of about so many rows. They are narrowed first."""

    model: type[Reading]
    start: int
    end: int
    width: int
    buckets: dict[Key, set[Measure]]
    rows: int


Difference = Stretch | Run


class Days(NamedTuple):
    """What an upstream should have of a model, by device and day, of ``start <= ts < end``."""

    model: type[Reading]
    start: int
    end: int
    tallies: Tallies


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be compared: of one device or of all, ``start <= ts < end``, None for open."""

    device: str | None = None
    start: int | None = None
    end: int | None = None


class Comparison:
    """Compares what an upstream should have with what it has. `requests` counts those to the upstream. For one
    thread."""

    def __init__(self, delivered: Delivered, upstream: BaseStorage, scope: Scope, pace: Pace | None = None) -> None:
        self._pace = pace
        self._delivered = delivered
        self._upstream = upstream
        self._scope = scope
        self.requests = 0
        self.extra: dict[tuple[str, str, int], int] = {}
        """How many more readings the upstream has in days in which none is expected, by measurement, device, day."""

    def days(self, models: Iterable[type[Reading]]) -> list[Days]:
        """What is to be compared of each model. Raises `ConfigError` or `LimitReached` where a day's bytes, or what is
        left of them, would be used up by that: all would be asked for again, and nothing be sent."""
        found = [days for model in models for days in self._days(model)]
        if self._pace is not None and found:
            self._pace.begin([_asked(days.model, measures_of(days.model), days.tallies) for days in found])
        return found

    def _days(self, model: type[Reading]) -> Iterator[Days]:
        start = _latest(self._scope.start, self._delivered.beginning(model))
        ours = self._delivered.tallies(model, self._scope.device, start, self._scope.end, DAY)
        if ours:
            days = [day for _, day in ours]
            low = min(days) if start is None else max(start, min(days))
            high = max(days) + DAY if self._scope.end is None else min(self._scope.end, max(days) + DAY)
            yield Days(model, low, high, ours)

    def differences(self, days: Days, asked: Callable[[], object] = lambda: None) -> list[Difference]:
        """Where the upstream differs; `asked` is called after each measure. Raises what the upstream raises, but for
        `NotSupported`: then every row is to be looked at."""
        model, low, high, ours = days
        measures = measures_of(model)
        try:
            theirs = self._ask(model, self._scope.device, low, high, DAY, measures, ours, asked)
        except NotSupported:
            if self._pace is not None:
                self._pace.read_all(self._row_of(model, ours, DAY).times(sum(map(rows_in, ours.values()))))
            every = {key: set(tally) for key, tally in ours.items()}
            return [*_stretches(model, every, ours, ours, (low, high), DAY, GAP)]
        self._note_extra(model, ours, theirs)
        differing = self._differing(model, ours, theirs, DAY)
        gone = {key: measures for key, measures in differing.items() if key not in theirs}
        found: list[Difference] = [*_stretches(model, gone, ours, theirs, (low, high), DAY, GAP)]
        there = {key: measures for key, measures in differing.items() if key in theirs}
        for keys in self._runs(there):
            start, end = max(low, min(day for _, day in keys)), min(high, max(day for _, day in keys) + DAY)
            rows = sum(_rows(key, ours, theirs) for key in keys)
            found.append(Run(model, start, end, DAY, {key: there[key] for key in keys}, rows))
        return sorted(found, key=lambda one: one.start)

    def narrowed(self, run: Run) -> list[Difference]:
        """The smaller buckets of a run in which there is a difference. Only that is asked for in which it differs."""
        model, width = run.model, _FINER[run.width]
        devices = {device for device, _ in run.buckets}
        device = devices.pop() if len(devices) == 1 else self._scope.device
        wanted = set[Measure]().union(*run.buckets.values())
        ours = self._delivered.tallies(model, device, run.start, run.end, width)
        if not ours:  # they have gone from here meanwhile
            return []
        asked = [one for one in measures_of(model) if one in wanted]
        if self._pace is not None:
            self._pace.narrow(_asked(model, asked, ours))
        theirs = self._ask(model, device, run.start, run.end, width, asked, ours)
        ours = {key: tally for key, tally in ours.items() if (key[0], key[1] - key[1] % run.width) in run.buckets}
        narrowed = {key: {one: value for one, value in tally.items() if one in wanted} for key, tally in ours.items()}
        differing = self._differing(model, narrowed, theirs, width)
        each = self._row_of(model, differing, width)
        costly = {
            key
            for key, measures in differing.items()
            if key in theirs and self._is_costly(key, width, _rows(key, ours, theirs), each, len(measures))
        }
        finer = [
            Run(model, max(run.start, key[1]), min(run.end, key[1] + width), width, {key: differing.pop(key)}, 0)
            for key in sorted(costly)
        ]
        rest = _stretches(model, differing, ours, theirs, (run.start, run.end), width, self._gap(each))
        return sorted([*rest, *finer], key=lambda one: one.start)

    def _differing(self, model: type[Reading], ours: Tallies, theirs: Tallies, width: int) -> dict[Key, set[Measure]]:
        """In what each bucket differs in which there should be something: maybe in all, where some was deleted here."""
        deleted = self._delivered.deleted(model, self._scope.device)
        found = {}
        for key, tally in ours.items():
            other, (device, start) = theirs.get(key, {}), key
            is_sure = not any(low < start + width and start < high for low, high in deleted.get(device, ()))
            measures = {one for one in tally.keys() | other.keys() if not is_sure or tally.get(one) != other.get(one)}
            if measures:
                found[key] = measures
        return found

    def _row_of(self, model: type[Reading], differing: Collection[Key], width: int) -> Size:
        """What a row takes, by those of the first bucket; nothing where that does not matter."""
        if self._pace is None or not differing:
            return NOTHING
        device, start = min(differing, key=lambda key: key[1])
        for first in range(start, start + width, HOUR):  # not all of a day into memory
            if rows := self._delivered.rows(model, device, first, first + min(HOUR, width)):
                return size_of(rows).times(1 / len(rows))
        return NOTHING

    def _is_costly(self, key: Key, width: int, rows: int, each: Size, measures: int) -> bool:
        """Whether to count by smaller buckets before rows are read."""
        if width not in _FINER:
            return False
        if self._pace is None:
            return rows > TOGETHER * measures
        parts = bucket_size(key[0]).times(min(rows, width // _FINER[width]))
        return self._pace.is_dear(each.times(rows), parts, measures)

    def _gap(self, each: Size) -> int:
        return GAP if self._pace is None else self._pace.rows_for_a_request(each)

    def _ask(
        self,
        model: type[Reading],
        device: str | None,
        low: int,
        high: int,
        width: int,
        measures: Iterable[Measure],
        ours: Tallies,
        asked: Callable[[], object] = lambda: None,
    ) -> Tallies:
        """The upstream's tallies, where it should have these: one request for each measure, or for each piece of it."""
        found: Tallies = {}
        for measure in measures:
            for start, end, size in self._pieces(ours, low, high):
                span: Any = {"start": moment_of(start), "end": moment_of(end), "interval": _INTERVALS[width]}
                question = partial(self._upstream.aggregate, model, *measure, device, group_by="device", **span)
                self.requests += 1
                answer = question() if self._pace is None else self._pace.ask_counts(size, question)
                for row in answer if isinstance(answer, list) else []:
                    if row["result"] is not None and (row["result"] or measure.function != "count"):
                        found.setdefault((row["device_id"], to_micros(row["bucket"])), {})[measure] = row["result"]
            asked()
        return found

    def _pieces(self, ours: Tallies, low: int, high: int) -> Iterator[tuple[int, int, Size]]:
        """From when until when is asked for together, and how large the answer is to be."""
        if self._pace is None or not ours:
            yield low, high, NOTHING
            return
        pieces = self._pace.pieces(_sizes(ours))
        edges = [low, *(start for start, _ in pieces[1:]), high]
        for (start, end), (_, size) in zip(pairwise(edges), pieces, strict=True):
            yield start, end, size

    def _runs(self, differing: dict[Key, set[Measure]]) -> Iterator[list[Key]]:
        """Days one after the other that are narrowed together: where bytes are limited of one device, as then there is
        a bound for the answer."""
        if self._pace is None:
            yield from _runs(differing, RUN)
            return
        for device, group in groupby(sorted(differing), key=itemgetter(0)):
            keys = list(group)
            measures = max(len(differing[key]) for key in keys)
            most = self._pace.buckets_within_piece(bucket_size(device).times(DAY // HOUR), measures)
            yield from _runs(keys, int(max(1, min(RUN, most))))

    def _note_extra(self, model: type[Reading], ours: Tallies, theirs: Tallies) -> None:
        for (device, day), tally in theirs.items():
            if (device, day) not in ours:
                self.extra[model.__measurement__, device, day] = rows_in(tally)


def _asked(model: type[Reading], measures: Sequence[Measure], ours: Tallies) -> Asked:
    """What is asked of a model."""
    longest = max((device for device, _ in ours), key=len, default="")
    return Asked(len(measures), _sizes(ours), bucket_size(longest), largest_row(model, longest))


def _sizes(tallies: Tallies) -> dict[int, Size]:
    """What an answer with these takes, by the start of the buckets."""
    found: dict[int, Size] = {}
    for device, start in tallies:
        found[start] = found.get(start, NOTHING).plus(bucket_size(device))
    return found


def _rows(key: Key, ours: Tallies, theirs: Tallies) -> int:
    return max(rows_in(ours[key]), rows_in(theirs.get(key, {})))


def _runs(keys: Iterable[Key], most: int) -> Iterator[list[Key]]:
    """Days one after the other, at most so many together."""
    run: list[Key] = []
    for day, group in groupby(sorted(keys, key=itemgetter(1)), key=itemgetter(1)):
        if run and (day - run[-1][1] > DAY or day - run[0][1] >= most * DAY):
            yield run
            run = []
        run += group
    if run:
        yield run


def _stretches(
    model: type[Reading],
    differing: dict[Key, set[Measure]],
    ours: Tallies,
    theirs: Tallies,
    bounds: tuple[int, int],
    width: int,
    gap: int,
) -> list[Stretch]:
    """The buckets that differ, as few stretches: the rows between two, up to `gap`, are looked at too."""
    found: list[Stretch] = []
    low, high = bounds
    for device, group in groupby(sorted(ours), key=lambda key: key[0]):
        passed = 0
        current: Stretch | None = None
        for key in group:
            rows = _rows(key, ours, theirs)
            if key not in differing:
                passed += rows
                continue
            start, end, is_empty = max(low, key[1]), min(high, key[1] + width), key not in theirs
            if current is not None and _goes_on(current, passed, rows, is_empty, gap):
                current = Stretch(model, device, current.start, end, current.rows + passed + rows, is_empty)
                found[-1] = current
            else:
                current = Stretch(model, device, start, end, rows, is_empty)
                found.append(current)
            passed = 0
    return found


def _goes_on(stretch: Stretch, passed: int, rows: int, is_empty: bool, gap: int) -> bool:
    allowed = 0 if is_empty else gap
    return is_empty == stretch.is_empty and passed <= allowed and stretch.rows + passed + rows <= TOGETHER


def _latest(*bounds: int | None) -> int | None:
    return max((bound for bound in bounds if bound is not None), default=None)


def moment_of(micros: int) -> datetime | None:
    """The time as storages take it; None for one at the calendar's ends, where a bucket reaches beyond."""
    try:
        return from_micros(micros)
    except OverflowError:
        return None
