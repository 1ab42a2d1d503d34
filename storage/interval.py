"""Intervals, their buckets, and durations.

The grammar: ``"second" "minute" "hour" "day" "week" "month" "year"``, with a count ``"5 minutes"``, ``"1 hour"``,
short ``"30s" "5m" "1h" "1d" "2w" "1mo" "1y"`` (m is minutes), and `datetime.timedelta`.

Up to hours a bucket is aligned to 1970-01-01 UTC. Days and longer are calendar buckets in a zone: days and weeks count
from Monday 2000-01-03, months and years from 2000-01-01.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from edgedepot.storage.clock import DAY, HOUR, MINUTE, from_micros, to_micros
from edgedepot.storage.errors import InvalidValue

UNDERSTOOD = (
    'understood are "second", "minute", "hour", "day", "week", "month", "year", "5 minutes", "1 hour", '
    '"30s", "5m", "1h", "1d", "2w", "1mo", "1y" and timedelta, each more than zero and at most 1000 years'
)

_MICROS = {"second": 1_000_000, "minute": MINUTE, "hour": HOUR}
_SHORT = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
_LONG = ("second", "minute", "hour", "day", "week", "month", "year")
_UNITS = _SHORT | {unit: unit for unit in _LONG} | {unit + "s": unit for unit in _LONG}
_YEAR = 365 * DAY
_TEXT = re.compile(r"\s*(?:(\d{1,9})\s*)?([a-z]+)\s*", re.ASCII)
_DAY_ORIGIN = date(2000, 1, 3)  # a Monday, as in PostgreSQL's time_bucket
_FIRST = to_micros(datetime.min.replace(tzinfo=UTC))
_PAST_ALL = to_micros(datetime.max.replace(tzinfo=UTC)) + 1
_OUTSIDE = "a bucket of this call would start or be labelled outside the years 1 to 9999"


@contextlib.contextmanager
def _within_the_calendar() -> Iterator[None]:
    """The one place where Python's calendar errors become ours."""
    try:
        yield
    except (OverflowError, ValueError) as exc:
        raise InvalidValue(_OUTSIDE) from exc


@dataclass(frozen=True, slots=True)
class Interval:
    """A bucket width: either `micros` (fixed), or `days`, or `months` (calendar); exactly one is not zero."""

    micros: int = 0
    days: int = 0
    months: int = 0

    @classmethod
    def parse(cls, value: str | timedelta | Interval) -> Interval:
        """Read an interval. Raises `InvalidValue` (a ValueError) that lists what is understood."""
        if isinstance(value, Interval):
            return value
        if isinstance(value, timedelta):
            found = cls._of_timedelta(value)
        elif isinstance(value, str):
            found = _parse_text(value)
        else:
            raise InvalidValue(f"interval {value!r} is not understood: {UNDERSTOOD}")
        if found.shortest > 1000 * _YEAR:
            raise InvalidValue(f"interval {value!r} is too long: {UNDERSTOOD}")
        return found

    @classmethod
    def _of_timedelta(cls, value: timedelta) -> Interval:
        micros = value // timedelta(microseconds=1)
        if micros <= 0:
            raise InvalidValue(f"interval {value!r} is not more than zero: {UNDERSTOOD}")
        if micros % DAY == 0:
            return cls(days=micros // DAY)
        return cls(micros=micros)

    @property
    def is_calendar(self) -> bool:
        """True for days and longer, whose buckets follow a zone's calendar."""
        return self.micros == 0

    @property
    def shortest(self) -> int:
        """How short a bucket can be, in microseconds, but for the hour that a change of the clocks takes."""
        return self.micros or self.days * DAY or (self.months * _YEAR) // 12

    def floor(self, moment: int, zone: tzinfo = UTC) -> int:
        """The start of the bucket that holds `moment`; both in microseconds since 1970-01-01 UTC.

        Raises `InvalidValue` where that is no moment of the years 1 to 9999.
        """
        if self.micros:
            start = moment - moment % self.micros
        else:
            with _within_the_calendar():
                start = self._calendar_floor(moment, zone)
        if start < _FIRST:
            raise InvalidValue(_OUTSIDE)
        return start

    def _calendar_floor(self, moment: int, zone: tzinfo) -> int:
        local = from_micros(moment).astimezone(zone).date()
        start = self._start_of(local, zone)
        # Where a change skips midnight, a date's nominal start can lie after its first moments.
        start = start if start <= moment else self._start_of(local - timedelta(days=1), zone)
        # Where clocks go back over midnight, the old date returns for a while after the new one has begun.
        following = self.next(start, zone)
        return following if following <= moment else start

    def next(self, start: int, zone: tzinfo = UTC) -> int:
        """The start of the bucket after the one that starts at `start`; past all moments where the calendar ends."""
        if self.micros:
            return start + self.micros
        try:
            return _midnight(self._after(from_micros(start).astimezone(zone).date()), zone)
        except (OverflowError, ValueError):
            return _PAST_ALL

    def starts(self, low: int, high: int, zone: tzinfo = UTC) -> list[int]:
        """The starts of all buckets that reach into ``[low, high)``, in order; empty when high <= low."""
        found: list[int] = []
        if low >= high:
            return found
        start = self.floor(low, zone)
        while start < high:
            found.append(start)
            start = self.next(start, zone)
        return found

    def _start_of(self, local: date, zone: tzinfo) -> int:
        if self.days:
            since = (local - _DAY_ORIGIN).days
            return _midnight(local - timedelta(days=since % self.days), zone)
        index = (local.year - 2000) * 12 + local.month - 1
        return _midnight(_month(index - index % self.months), zone)

    def _after(self, local: date) -> date:
        """The first local date of the bucket after the one that holds `local`."""
        if self.days:
            since = (local - _DAY_ORIGIN).days
            return local + timedelta(days=self.days - since % self.days)
        index = (local.year - 2000) * 12 + local.month - 1
        return _month(index - index % self.months + self.months)


def start_of_date(moved: int, zone: tzinfo) -> int:
    """The first moment of a local date, given as its midnight in UTC; both in microseconds since 1970-01-01 UTC.
    Raises `InvalidValue` where it is no moment of the years 1 to 9999."""
    with _within_the_calendar():
        start = _midnight(from_micros(moved).date(), zone)
    if start < _FIRST:
        raise InvalidValue(_OUTSIDE)
    return start


def labelled(start: int, zone: tzinfo) -> datetime:
    """A bucket's start as an aware datetime in a zone. Raises `InvalidValue` where the calendar has no such moment."""
    with _within_the_calendar():
        moment = from_micros(start)
        return moment if zone is UTC else moment.astimezone(zone)


def _parse_text(text: str) -> Interval:
    match = _TEXT.fullmatch(text)
    unit = _UNITS.get(match[2]) if match else None
    count = int(match[1] or 1) if match else 0
    if unit is None or count <= 0:
        raise InvalidValue(f"interval {text!r} is not understood: {UNDERSTOOD}")
    if unit in _MICROS:
        return Interval(micros=count * _MICROS[unit])
    if unit in ("day", "week"):
        return Interval(days=count * (7 if unit == "week" else 1))
    return Interval(months=count * (12 if unit == "year" else 1))


def _month(index: int) -> date:
    """The first day of the month `index` months after January 2000."""
    year, month = divmod(index, 12)
    return date(year + 2000, month + 1, 1)


def _midnight(local: date, zone: tzinfo) -> int:
    """The first instant of a local date. Where a change skips midnight, the instant of the change (fold=0)."""
    return to_micros(datetime(local.year, local.month, local.day, tzinfo=zone))


def zone_of(name: str) -> tzinfo:
    """The time zone of an IANA name. Raises `InvalidValue` for one that is not known on this machine."""
    if name == "UTC":
        return UTC
    try:
        if isinstance(name, str):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    near = _near_zone(name) if isinstance(name, str) else ""
    raise InvalidValue(f"time zone {name!r:.80} is not known here{near}; expected an IANA name such as 'Europe/Zurich'")


def _near_zone(name: str) -> str:
    """The zone of a city by its name alone, or of a name that was misspelt, as a question."""
    import difflib  # here, as few names are misspelt: what is imported stays in memory for years

    # Not Etc/GMT+1, which is behind GMT: not what people mean.
    known = {zone.lower(): zone for zone in sorted(available_timezones()) if not zone.startswith("Etc/")}
    wanted = name[:80].replace(" ", "_").lower()
    near = [zone for zone in known if zone.endswith(f"/{wanted}")] or difflib.get_close_matches(wanted, known, 1, 0.85)
    return f' (did you mean "{known[near[0]]}"?)' if near else ""


def seconds_of(value: str | float | timedelta, what: str) -> float:
    """A duration in seconds, from text such as ``"10s"`` or ``"500 ms"``, a number of seconds, or a timedelta.

    Raises `InvalidValue`, naming `what`, for anything else, for calendar months, and for zero or less.
    """
    return _seconds(value, what, admits_months=False)


def age_of(value: str | float | timedelta, what: str) -> float:
    """As `seconds_of`, of how long something is kept: a month is 31 days and a year 366, so that nothing goes early."""
    return _seconds(value, what, admits_months=True)


def _seconds(value: str | float | timedelta, what: str, admits_months: bool) -> float:
    seconds: float | None = None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _seconds_of_text(value, admits_months)
    if seconds is None or not 0 < seconds < 1e10:
        raise InvalidValue(f"{what}: found {value!r}, expected a duration such as '10s', '500 ms', '5 minutes' or '1d'")
    return seconds


def _seconds_of_text(text: str, admits_months: bool) -> float | None:
    milliseconds = re.fullmatch(r"\s*(\d{1,9})\s*(?:ms|milliseconds?)\s*", text, re.ASCII)
    if milliseconds:
        return int(milliseconds[1]) / 1000
    try:
        interval = _parse_text(text)
    except InvalidValue:
        return None
    if interval.months and not admits_months:
        return None
    years, months = divmod(interval.months, 12)
    return interval.micros / 1e6 + (interval.days + months * 31 + years * 366) * 86_400
