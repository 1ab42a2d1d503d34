"""A zone's clock, as stretches of time in which it is a fixed shift from UTC.

Flux knows zones too (`location`), but leaves out rows: those of an hour that comes again after midnight has passed, and
with the rules of daylight saving, as servers have them for years after 2037 (or for all years, where their zone files
are of the slim sort), most of the last day of a leap year. So the server gets plain shifts and needs no zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from edgedepot.storage.clock import DAY, from_micros, to_micros

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """``start <= moment < stop``, in microseconds since 1970 UTC, where ``moment + shift`` is what calendars there say
    it is, as microseconds since 1970-01-01 on their clock."""

    start: int
    stop: int
    shift: int


def stretches(zone: tzinfo, start: int, stop: int) -> list[Stretch]:
    """The stretches of ``[start, stop)``, in order.

    Days never go back: where clocks do, over a midnight, the day that had begun goes on, as in `Interval`.
    """
    found: list[Stretch] = []
    shift = _shift(zone, start)
    begin = start
    for change in _changes(zone, start, stop):
        after = _shift(zone, change)
        change = _when_the_day_returns(zone, change, shift, after)
        if change >= stop:
            break
        found.append(Stretch(begin, change, shift))
        begin, shift = change, after
    return [*found, Stretch(begin, stop, shift)]


def moment_of(clock: int, zone: tzinfo) -> int:
    """When a clock of the zone shows that for the first time; where it skips it, the moment at which it does."""
    return to_micros(from_micros(clock).replace(tzinfo=zone))


def _shift(zone: tzinfo, moment: int) -> int:
    offset = from_micros(moment).astimezone(zone).utcoffset()
    assert offset is not None
    return offset // _MICROSECOND


def _changes(zone: tzinfo, start: int, stop: int) -> Iterator[int]:
    """The moments from which on the shift is another one. Two within a day, which have not been, would be missed."""
    low, shift = start, _shift(zone, start)
    while low < stop:
        high = min(low + DAY, stop)
        if _shift(zone, high) != shift:
            yield (low := _first_other(zone, low, high))
            shift = _shift(zone, low)
        else:
            low = high


def _first_other(zone: tzinfo, low: int, high: int) -> int:
    """The first moment after `low` that has the shift of `high`."""
    shift = _shift(zone, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _shift(zone, middle) == shift else (middle, high)
    return high


def _when_the_day_returns(zone: tzinfo, change: int, before: int, after: int) -> int:
    """The change itself, unless it leads back into the day before: then the second midnight of the day."""
    last, first = from_micros(change - 1 + before), from_micros(change + after)
    if first.date() >= last.date():
        return change
    return to_micros(datetime(last.year, last.month, last.day, tzinfo=last.tzinfo)) - after
