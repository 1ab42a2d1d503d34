"""When an upstream may be sent to: hours of the day, as the clock on the wall there shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import pairwise

import msgspec

from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import Interval, zone_of

_TEXT = re.compile(r"\s*(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)\s+(\S+)\s*", re.ASCII)
_EXPECTED = 'expected hours and a zone, such as "22:00-06:00 Europe/Zurich" or "01:30-04:00 UTC"'
_DAY = Interval(days=1)
_SECOND = 1_000_000
Span = tuple[int, int]
"""From and until, in microseconds since 1970 UTC."""


class Window(msgspec.Struct, frozen=True):
    """From one time of the day until another, over midnight where that is not later. What a change of the clocks skips
    is not there, and what it repeats is there twice."""

    begin: time
    end: time
    zone: tzinfo

    @classmethod
    def parse(cls, text: object, what: str) -> Window:
        """Raises `ConfigError` that begins with `what`."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ConfigError(f"{what}: found {text!r}, {_EXPECTED}")
        try:
            begin, end = _time(match[1], match[2]), _time(match[3], match[4])
            return cls(begin, end, zone_of(match[5]))
        except ValueError as exc:
            why = str(exc) if isinstance(exc, InvalidValue) else _EXPECTED
            raise ConfigError(f"{what}: found {text!r}, {why}") from exc

    def is_open(self, moment: int) -> bool:
        """Whether it is, at a time in microseconds since 1970 UTC."""
        now = from_micros(moment).astimezone(self.zone).time()
        if self.begin < self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end

    def may_change(self, low: int, high: int) -> set[int]:
        """Times in ``[low, high)`` at which it may open or close: all at which it does are among them."""
        found: set[int] = set()
        day = from_micros(low).astimezone(self.zone).date() - timedelta(days=1)
        while to_micros(datetime.combine(day, time(), UTC)) < high + 2 * 86_400 * _SECOND:
            for moment in (self.begin, self.end):
                found.update(_readings(day, moment, self.zone))
            found.update(_change_of_clocks(day, self.zone))
            day += timedelta(days=1)
        return {moment for moment in found if low <= moment < high}


class Schedule(msgspec.Struct, frozen=True):
    """When at least one of the windows is open: always where there are none. Days begin at midnight in the first
    window's zone, in UTC without one."""

    windows: Sequence[Window] = ()

    @property
    def zone(self) -> tzinfo:
        return self.windows[0].zone if self.windows else UTC

    def is_open(self, moment: int) -> bool:
        """Whether anything may be sent, at a time in microseconds since 1970 UTC."""
        return not self.windows or any(window.is_open(moment) for window in self.windows)

    def next_change(self, moment: int) -> int | None:
        """When that changes next; None where it does not within four days, as every hour is within some window."""
        now = self.is_open(moment)
        end = moment + 4 * 86_400 * _SECOND
        times = sorted(set[int]().union(*(window.may_change(moment + 1, end) for window in self.windows)))
        return next((time for time in times if self.is_open(time) != now), None)

    def day(self, moment: int) -> Span:
        """The day that holds a moment."""
        start = _DAY.floor(moment, self.zone)
        return start, _DAY.next(start, self.zone)

    def spans(self, low: int, high: int) -> list[Span]:
        """The times within ``[low, high)`` when something may be sent."""
        times = sorted({low, high}.union(*(window.may_change(low, high) for window in self.windows)))
        return [(one, other) for one, other in pairwise(times) if self.is_open(one)]


def _time(hours: str, minutes: str) -> time:
    """24:00 is midnight too."""
    return time() if (hours, minutes) == ("24", "00") else time(int(hours), int(minutes))


def _readings(day: date, moment: time, zone: tzinfo) -> set[int]:
    """When the clock on the wall shows that: once, or twice."""
    local = datetime.combine(day, moment, zone)
    return {to_micros(local.replace(fold=fold)) for fold in (0, 1)}


def _change_of_clocks(day: date, zone: tzinfo) -> set[int]:
    """When they are changed on that day, to the second."""
    low = to_micros(datetime.combine(day, time(), zone)) // _SECOND
    high = to_micros(datetime.combine(day + timedelta(days=1), time(), zone)) // _SECOND
    before = _offset(low, zone)
    if _offset(high, zone) == before:
        return set()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, zone) == before else (low, middle)
    return {high * _SECOND}


def _offset(seconds: int, zone: tzinfo) -> timedelta | None:
    return from_micros(seconds * _SECOND).astimezone(zone).utcoffset()
