"""An InfluxDB 2 of our own that answers the questions of reconcile from the points that it keeps. It does not run Flux:
it knows these two texts. Whether they mean that to a real server, the storage's own tests have to say."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from edgedepot.storage.clock import from_micros, to_micros
from tests.storage.influxdb.scripted import Answer, Request, ScriptedInfluxDB
from tests.storage.influxdb.test_read import table

_WIDTHS = {"1d": 86_400_000_000, "1h": 3_600_000_000}
_FUNCTIONS: Mapping[str, Callable[[list[Any]], Any]] = {"count": len, "min": min, "max": max}
_KINDS = {bool: "boolean", int: "long", float: "double", str: "string"}
Point = tuple[str, int, dict[str, Any]]
"""Device, time in microseconds, fields."""


class AnsweringInfluxDB(ScriptedInfluxDB):
    """`queries` are the texts that it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[str] = []

    def _query(self, request: Request) -> Answer:
        sent = json.loads(request.content)
        text: str = sent["query"]
        self.queries.append(text)
        options = {
            statement["assignment"]["id"]["name"]: statement["assignment"]["init"]["value"]
            for statement in sent["extern"]["body"]
        }
        points = self._points(text, options)
        grouped = re.search(r"aggregateWindow\(every: (\w+), fn: (\w+), ", text)
        if grouped is None:
            csv = "".join(_row(*point) for point in points)
        else:
            (field,) = re.findall(r'r\._field == "(\w+)"', text)
            csv = _buckets(points, field, _WIDTHS[grouped[1]], grouped[2])
        return Answer(200, headers={"Content-Type": "text/csv; charset=utf-8"}, content=csv.encode())

    def _points(self, text: str, options: Mapping[str, str]) -> list[Point]:
        (measurement,) = re.findall(r'r\._measurement == "(\w+)"', text)
        low, high = (to_micros(datetime.fromisoformat(options[end])) for end in ("rangeStart", "rangeStop"))
        found = []
        for (name, tags, time), fields in self.points.items():
            tag = dict(tags)
            device = tag["device_id"]
            is_asked = device == options.get("deviceId", device) and tag["gateway_id"] == options["gatewayId"]
            if name == measurement and is_asked and low <= time // 1000 < high:
                found.append((device, time // 1000, fields))
        return sorted(found, key=lambda point: point[:2])


def _row(device: str, micros: int, fields: dict[str, Any]) -> str:
    columns = ["_time", "device_id", "gateway_id", *fields]
    kinds: dict[str, Any] = {name: _KINDS[type(value)] for name, value in fields.items()}
    return table(columns, (from_micros(micros), device, "g", *fields.values()), **kinds)


def _buckets(points: list[Point], field: str, width: int, function: str) -> str:
    values: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for device, micros, fields in points:
        if field in fields:
            values[device, micros - micros % width].append(fields[field])
    found = ""
    for (device, start), those in values.items():
        result = _FUNCTIONS[function](those)
        found += table(
            ["_time", "device_id", "_value"], (from_micros(start), device, result), value=_KINDS[type(result)]
        )
    return found
