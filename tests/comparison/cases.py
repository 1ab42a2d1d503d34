"""The calls that both are asked, in words and as code. Each case starts with an empty store and ends in one line of
text: the answer, or the error. Imports neither of the two, so that it runs beside either."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ZURICH = ZoneInfo("Europe/Zurich")


class Peer(Protocol):
    """One of the two: a storage with one model of two numbers, `temperature` and `humidity`, and one device."""

    def store(self, moment: Any, data: dict[str, Any]) -> object: ...

    def query(self, **question: Any) -> list[dict[str, Any]]: ...

    def aggregate(self, field: str, function: str, **more: Any) -> Any: ...

    def downsample(self, field: str, interval: Any, function: str, **more: Any) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Case:
    """A question for the table; `ask` writes and asks, and returns what is shown."""

    title: str
    ask: Callable[[Peer], object]
    zone: str | None = None
    """The zone that is meant: a parameter for one of the two, a setting for the other."""

    def answer(self, peer: Peer) -> str:
        """One line: what was answered, or which error was raised."""
        try:
            return shown(self.ask(peer))
        except Exception as exc:  # noqa: BLE001  # whatever is raised is the answer
            text = str(exc).splitlines()[0]
            return f"{type(exc).__name__}: {text if len(text) <= 90 else text[:87] + '...'}"


def shown(answer: object) -> str:
    """An answer as short text; buckets as ``start: result``."""
    if isinstance(answer, list):
        return ", ".join(shown(item) for item in answer) or "nothing"
    if isinstance(answer, dict) and "bucket" in answer:
        return f"{answer['bucket']:%Y-%m-%d %H:%M}: {answer['result']}"
    if isinstance(answer, dict):
        return str(answer.get("result", answer))
    return str(answer)


def put(peer: Peer, minutes: list[int]) -> None:
    """Readings so many minutes after noon; the temperature is that number."""
    for minute in minutes:
        peer.store(NOON + timedelta(minutes=minute), {"temperature": float(minute)})


def buckets(peer: Peer, minutes: list[int], interval: Any, function: str = "count") -> object:
    put(peer, minutes)
    return peer.downsample("temperature", interval, function)


def days_of_change(peer: Peer, first: datetime, hours: int) -> object:
    start = first.replace(tzinfo=ZURICH).astimezone(UTC)
    for hour in range(hours):
        peer.store(start + timedelta(hours=hour), {"temperature": 1.0})
    return peer.downsample("temperature", "day", "count")


def hours_of_change(peer: Peer) -> object:
    """One reading in each hour from 1:30 to 3:30 of clocks in Zurich that show 2:30 twice."""
    for hour in (23, 24, 25, 26):
        peer.store(datetime(2026, 10, 24, tzinfo=UTC) + timedelta(hours=hour, minutes=30), {"temperature": 1.0})
    return f"{len(peer.downsample('temperature', 'hour', 'count'))} buckets"


def stored_once_or_twice(peer: Peer) -> object:
    for _ in range(2):
        peer.store(NOON, {"temperature": 20.0})
    count, total = (peer.aggregate("temperature", function)["result"] for function in ("count", "sum"))
    return f"{count} stored, sum {total}"


def stored_in_parts(peer: Peer) -> object:
    peer.store(NOON, {"temperature": 20.0})
    peer.store(NOON, {"humidity": 50.0})
    return [f"{row['temperature']} °C and {row['humidity']} %" for row in peer.query(order="timestamp")]


def what_comes_back(peer: Peer, value: Any) -> object:
    peer.store(NOON, {"temperature": value})
    return [row["temperature"] for row in peer.query(order="timestamp")]


def half_open(peer: Peer) -> object:
    put(peer, [0, 1, 2])
    rows = peer.query(start=NOON, end=NOON + timedelta(minutes=2), order="timestamp")
    return [f"{row['timestamp']:%H:%M}" for row in rows]


def limited(peer: Peer, limit: int) -> object:
    put(peer, [0, 1, 2])
    return f"{len(peer.query(limit=limit))} readings"


def ordered(peer: Peer, order: str) -> object:
    put(peer, [0, 1])
    return f"{len(peer.query(order=order))} readings"


def chosen(peer: Peer, field: str) -> object:
    put(peer, [0])
    return [row[field] for row in peer.query(fields=[field])]


def naive(peer: Peer) -> object:
    peer.store(datetime(2026, 1, 5, 12), {"temperature": 20.0})
    return [str(row["timestamp"]) for row in peer.query()]


def mapped(peer: Peer, field: str) -> object:
    put(peer, [0])
    return peer.aggregate(field, "max")


CASES = [
    Case('`downsample("5 minutes")`, readings at 12:01, 12:04, 12:07', lambda p: buckets(p, [1, 4, 7], "5 minutes")),
    Case(
        "`downsample(timedelta(minutes=90))`, readings at 12:00, 13:00, 13:45",
        lambda p: buckets(p, [0, 60, 105], timedelta(minutes=90)),
    ),
    Case('`downsample("fortnight")`', lambda p: buckets(p, [0], "fortnight")),
    Case('`downsample("hour", "last")`, readings at 12:01, 12:04', lambda p: buckets(p, [1, 4], "hour", "last")),
    Case(
        "days in Zurich, hourly from the day before an hour was put back",
        lambda p: days_of_change(p, datetime(2026, 10, 24), 73),
        zone="Europe/Zurich",
    ),
    Case(
        "days in Zurich, hourly from the day before an hour was put forward",
        lambda p: days_of_change(p, datetime(2026, 3, 28), 71),
        zone="Europe/Zurich",
    ),
    Case(
        "hours in Zurich, readings at 1:30, 2:30, 2:30 again and 3:30, when an hour was put back",
        hours_of_change,
        zone="Europe/Zurich",
    ),
    Case("store NaN, then read", lambda p: what_comes_back(p, math.nan)),
    Case("store infinity, then read", lambda p: what_comes_back(p, math.inf)),
    Case("store `True` for a float, then read", lambda p: what_comes_back(p, True)),
    Case('store `"21.5"` for a float, then read', lambda p: what_comes_back(p, "21.5")),
    Case("store the same reading twice", stored_once_or_twice),
    Case("store two fields of one moment in two calls", stored_in_parts),
    Case("store a naive time, then read", naive),
    Case("query from 12:00 to 12:02, readings at 12:00, 12:01, 12:02", half_open),
    Case("`query_readings(limit=0)` of 3 readings", lambda p: limited(p, 0)),
    Case("`query_readings(limit=-1)` of 3 readings", lambda p: limited(p, -1)),
    Case('`query_readings(fields=["device__api_key"])`', lambda p: chosen(p, "device__api_key")),
    Case('`query_readings(order="device__api_key")`', lambda p: ordered(p, "device__api_key")),
    Case('`query_readings(order="1; DROP TABLE x")`', lambda p: ordered(p, "1; DROP TABLE x")),
    Case('`aggregate("device__api_key", "max")`', lambda p: mapped(p, "device__api_key")),
]
