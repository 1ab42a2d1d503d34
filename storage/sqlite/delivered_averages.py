"""The averages that an upstream should have in place of readings, made anew of those in history: of whole intervals,
where it gets only these (`every`), and of minutes that were thinned (thinning.py).

    time        |  a a x a  |  a a a p  |  r r a a  |  a a r r  |        one interval each
    there            -           -           o           -

a: went into an average   p: still owed   r: delivered as itself   x: refused, or anything but delivered.
An average was made of all that the local store had of its interval, so of what came before it too. It is left out
where something came later, as it may have been made without that, or was deleted here: it may have been made with that.

Of a minute that was thinned the readings are known that went into its average: those with its numbers. One that was
merged since has a later number, and then, or where some were deleted, nobody can tell what the average was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from edgedepot.storage.buffer import Pending
from edgedepot.storage.clock import HOUR, MINUTE
from edgedepot.storage.delivered import Measure, Tallies, average, functions_of
from edgedepot.storage.sqlite.withheld import DELETED, THINNED, Stretch

Passed = tuple[Pending, bool]
"""A reading, and whether the upstream is done with it, but for what it refused."""


class Averaged(NamedTuple):
    """An interval of which averages went out: its start, where they took the place of a reading that is numbered up to
    `high`; and the average itself, None where nobody can tell what it is."""

    start: int
    high: int
    row: Pending | None


def bounds_of(stretches: Iterable[Stretch], every: int, low: int, high: int) -> tuple[int, int] | None:
    """The times of the whole intervals that begin within ``low <= ts < high`` and have a part in the stretches of that
    width; None where there are none."""
    mine = [stretch for stretch in stretches if stretch.every == every]
    if not mine:
        return None
    first = max(low, min(stretch.start for stretch in mine) // every * every)
    last = min(high, max(stretch.stop for stretch in mine))
    first += -first % every
    last += -last % every
    return (first, last) if first < last else None


def averages(rows: Iterable[Passed], stretches: list[Stretch], every: int) -> Iterator[Averaged]:
    """The averages of one series, by time, of its readings in whole intervals, by time."""
    mine = [stretch for stretch in stretches if stretch.every == every]
    given_up = [stretch for stretch in stretches if stretch.every in (0, THINNED)]
    deleted = [stretch for stretch in stretches if stretch.every == DELETED]
    for start, group in groupby(rows, key=lambda row: row[0].timestamp // every * every):
        interval = list(group)
        over = [one for one in mine if any(one.start <= row.timestamp < one.stop for row, _ in interval)]
        if not over:
            continue
        last = max((row for row, _ in interval), key=lambda row: row.seq)
        went = any(_takes(stretch, last.timestamp, last.timestamp + 1, last.seq) for stretch in over)
        aside = any(_takes(stretch, start, start + every, last.seq) for stretch in given_up)
        values = None
        is_whole = not any(_meets(one, start, start + every) for one in deleted)
        if went and not aside and is_whole and all(is_done for _, is_done in interval):
            values = average(last.model, [row.row for row, _ in interval])
        found = None if values is None else Pending(last.seq, last.model, last.device_id, start, values)
        yield Averaged(start, max(stretch.high for stretch in over), found)


def spans_of(stretches: Iterable[Stretch], low: int, high: int) -> list[tuple[int, int]]:
    """From when until when there are thinned minutes that reach into ``low <= ts < high``, in order; what lies within
    an hour of each other is one."""
    found: list[tuple[int, int]] = []
    for stretch in stretches:
        start, stop = max(stretch.start, low - low % MINUTE), min(stretch.stop, high - high % -MINUTE)
        if stretch.every == THINNED and start < stop:
            if found and start <= found[-1][1] + HOUR:
                start, stop = found[-1][0], max(found.pop()[1], stop)
            found.append((start, stop))
    return found


def thinned(rows: Iterable[Passed], stretches: list[Stretch]) -> Iterator[Pending]:
    """What thinned minutes came to, by time, of a series' readings in whole minutes, by time; without those of which
    nobody can tell, or that the upstream has not."""
    for start, group in groupby(rows, key=lambda row: row[0].timestamp // MINUTE * MINUTE):
        minute = list(group)
        here = [one for one in stretches if _meets(one, start, start + MINUTE)]
        is_whole = all(one.every != DELETED for one in here)
        made: dict[int, Pending] = {}
        for stretch in [one for one in here if one.every == THINNED and is_whole]:
            went = [row for row in minute if stretch.low <= row[0].seq <= stretch.high]
            if len(went) < 2 or any(row.seq > stretch.high for row, _ in minute):
                continue
            last, is_done = went[-1]
            end = last.timestamp, last.timestamp + 1, last.seq
            if is_done and not any(_takes(one, *end) for one in here if one.every != THINNED):
                values = average(last.model, [row.row for row, _ in went])
                made[last.timestamp] = Pending(last.seq, last.model, last.device_id, last.timestamp, values)
        yield from made.values()


def tallies_of(rows: Iterable[Pending], width: int) -> Tallies:
    """What rows come to, by device and bucket."""
    found: Tallies = {}
    for row in rows:
        tally = found.setdefault((row.device_id, row.timestamp // width * width), {})
        for spec, value in zip(row.model.__fields__, row.row[1:], strict=True):
            if value is None:
                continue
            for function in functions_of(spec):
                measure = Measure(spec.name, function)
                before = tally.get(measure)
                if function == "count":
                    tally[measure] = (before or 0) + 1
                else:
                    tally[measure] = value if before is None else (min if function == "min" else max)(before, value)
    return {key: tally for key, tally in found.items() if tally}


def _meets(stretch: Stretch, start: int, stop: int) -> bool:
    """Whether a stretch reaches into ``start <= ts < stop``."""
    return stretch.start < stop and start < stretch.stop


def _takes(stretch: Stretch, start: int, stop: int, seq: int) -> bool:
    """Whether something with that number, of ``start <= ts < stop``, lies in a stretch."""
    return _meets(stretch, start, stop) and stretch.low <= seq <= stretch.high
