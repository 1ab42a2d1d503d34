"""The storage contract over again, by brute force: a dictionary, loops, and a calendar of its own.

Written from the contract's words, sharing no code with the product, to compare it with. Slow, and plain to see.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

Key = tuple[str, datetime]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LENGTHS = {"second": timedelta(seconds=1), "minute": timedelta(minutes=1), "hour": timedelta(hours=1)}


@dataclass(frozen=True)
class Width:
    """A bucket width: `count` of a unit, "second" to "year"."""

    count: int
    unit: str

    def floor(self, moment: datetime, zone: str) -> datetime:
        """The start of the bucket that a moment lies in, in UTC."""
        if self.unit in LENGTHS:
            return EPOCH + (moment - EPOCH) // (self.count * LENGTHS[self.unit]) * (self.count * LENGTHS[self.unit])
        number = self._number(moment.astimezone(ZoneInfo(zone)).date())
        later = first_instant(self._date(number + 1), zone)
        return later if later <= moment else first_instant(self._date(number), zone)

    def next(self, start: datetime, zone: str) -> datetime:
        """The start of the bucket after the one that starts there."""
        if self.unit in LENGTHS:
            return start + self.count * LENGTHS[self.unit]
        number = self._number(start.astimezone(ZoneInfo(zone)).date())
        while first_instant(self._date(number), zone) <= start:
            number += 1
        return first_instant(self._date(number), zone)

    def _number(self, day: date) -> int:
        """How many buckets after the origin a date's bucket is."""
        if self.unit in ("day", "week"):
            return (day - date(2000, 1, 3)).days // (self.count * (7 if self.unit == "week" else 1))
        return ((day.year - 2000) * 12 + day.month - 1) // (self.count * (12 if self.unit == "year" else 1))

    def _date(self, number: int) -> date:
        if self.unit in ("day", "week"):
            return date(2000, 1, 3) + timedelta(days=number * self.count * (7 if self.unit == "week" else 1))
        months = number * self.count * (12 if self.unit == "year" else 1)
        return date(2000 + months // 12, months % 12 + 1, 1)


@cache
def first_instant(day: date, zone: str) -> datetime:
    """The first minute at which clocks in a zone show that date, or a later one, found by looking at all of them."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    around = [midnight + timedelta(hours=hours) for hours in range(-36, 37, 6)]
    offsets = [moment.astimezone(ZoneInfo(zone)).utcoffset() or timedelta(0) for moment in around]
    moment = midnight - max(offsets) - timedelta(hours=2)
    while moment.astimezone(ZoneInfo(zone)).date() < day:
        moment += timedelta(minutes=1)
    return moment


@dataclass
class BruteForce:
    """Readings of one model. `fields` are its names, those in `required` must be there, `low` and `high` are what
    `ranged` may be without a flag."""

    fields: tuple[str, ...]
    ranged: str
    low: float
    high: float
    readings: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def store(self, device: str, moment: datetime, data: Mapping[str, Any]) -> str:
        """Store a good reading; whether it was ``"new"``, ``"merged"`` or a ``"duplicate"``."""
        there = self.readings.get((device, moment))
        if there is None:
            self.readings[device, moment] = {name: data.get(name) for name in self.fields}
            return "new"
        changed = {name: value for name, value in data.items() if value is not None and value != there[name]}
        there.update(changed)
        return "merged" if changed else "duplicate"

    def rows(self) -> list[dict[str, Any]]:
        """All readings as rows, in no order."""
        return [
            {"device_id": device, "timestamp": moment, **values, "quality": self._quality(values)}
            for (device, moment), values in self.readings.items()
        ]

    def _quality(self, values: Mapping[str, Any]) -> int | None:
        value = values[self.ranged]
        return None if value is None or self.low <= value <= self.high else 1

    def matching(self, device: str | None, start: datetime | None, end: datetime | None) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows()
            if device in (None, row["device_id"])
            and (start is None or start <= row["timestamp"])
            and (end is None or row["timestamp"] < end)
        ]

    def delete(self, device: str | None, start: datetime | None, end: datetime | None) -> int:
        doomed = self.matching(device, start, end)
        for row in doomed:
            del self.readings[row["device_id"], row["timestamp"]]
        return len(doomed)

    def query(
        self,
        device: str | None,
        start: datetime | None,
        end: datetime | None,
        fields: list[str] | None,
        limit: int | None,
        order: str,
    ) -> list[dict[str, Any]]:
        left = self.matching(device, start, end)
        found: list[dict[str, Any]] = []
        while left and (limit is None or len(found) < limit):
            best = left[0]
            for row in left[1:]:
                if _before(row, best, order):
                    best = row
            left.remove(best)
            found.append(best)
        names = ["device_id", "timestamp"]
        for name in self.fields if fields is None else fields:
            if name not in names:
                names.append(name)
        return [{name: row[name] for name in names} for row in found]

    def aggregate(
        self,
        name: str,
        function: str,
        device: str | None,
        start: datetime | None,
        end: datetime | None,
        width: Width | None,
        tz: str,
        by_device: bool,
        fill: str | None,
    ) -> Any:
        rows = [row for row in self.matching(device, start, end) if row[name] is not None]
        devices = sorted({row["device_id"] for row in rows}) if by_device else [None]
        answer: list[dict[str, Any]] = []
        for one in devices:
            head = {"device_id": one} if by_device else {}
            mine = [row for row in rows if one in (None, row["device_id"])]
            if width is None:
                answer.append({**head, "result": calculate(function, name, mine)})
                continue
            for bucket in self._buckets(mine, start, end, width, tz, fill):
                inside = [row for row in mine if width.floor(row["timestamp"], tz) == bucket]
                result = calculate(function, name, inside)
                previous = answer[-1] if fill == "previous" and answer else None
                if not inside and function != "count" and previous and previous.get("device_id") == one:
                    result = previous["result"]
                answer.append({**head, "bucket": bucket, "result": result})
        return answer[0] if width is None and not by_device else answer

    def _buckets(
        self,
        rows: list[dict[str, Any]],
        start: datetime | None,
        end: datetime | None,
        width: Width,
        tz: str,
        fill: str | None,
    ) -> Iterable[datetime]:
        moments = [row["timestamp"] for row in rows]
        if fill is None:
            return sorted({width.floor(moment, tz) for moment in moments})
        if not moments and None in (start, end):
            return []
        low = start if start is not None else min(moments)
        high = end if end is not None else max(moments) + timedelta(microseconds=1)
        found = []
        bucket = width.floor(low, tz)
        while low < high and bucket < high:
            found.append(bucket)
            bucket = width.next(bucket, tz)
        return found


def _before(one: Mapping[str, Any], other: Mapping[str, Any], order: str) -> bool:
    """Whether a row comes before another one."""
    name = order.lstrip("-")
    a, b = one[name], other[name]
    if a != b:
        smaller = a is None or (b is not None and a < b)
        return smaller != order.startswith("-")
    return bool((one["device_id"], one["timestamp"]) < (other["device_id"], other["timestamp"]))


def calculate(function: str, name: str, rows: list[dict[str, Any]]) -> Any:
    """The function over the values of a field, all of which are there."""
    in_time = sorted(rows, key=lambda row: (row["timestamp"], row["device_id"]))
    values = [row[name] for row in in_time]
    if function == "count":
        return len(values)
    if not values:
        return None
    add: Callable[[list[Any]], Any] = sum if type(values[0]) is int else math.fsum
    results: dict[str, Callable[[], Any]] = {
        "first": lambda: values[0],
        "last": lambda: values[-1],
        "min": lambda: min(values),
        "max": lambda: max(values),
        "sum": lambda: add(values),
        "avg": lambda: add(values) / len(values),
    }
    return results[function]()
