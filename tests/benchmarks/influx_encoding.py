"""Readings as line protocol: the product's encoder, a hand-written one, and influxdb-client's `Point`.

All three make the lines of the same readings with four floats of 20 devices, ready to be sent. The floor is one
f-string for the model, joined, that escapes each device's tag once.
"""

import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from influxdb_client.client.write.point import Point

from edgedepot import Reading
from edgedepot.storage.influxdb.line import encoder_of, head_of
from tests.benchmarks.report import Comparison, alternate, read_options, report

READINGS = 200_000
DEVICES = 20
Row = tuple[str, int, tuple[None, float, float, float, float]]
"""Device, microseconds since 1970, quality and four values."""


class Inverter(Reading):
    voltage: float
    current: float
    power: float
    temperature: float


def readings(count: int) -> list[Row]:
    numbers = random.Random(7)
    return [
        (
            f"string {number % DEVICES}",
            1_767_614_400_000_000 + number * 1_003,
            (None, *(numbers.uniform(-40, 400) for _ in range(4))),  # type: ignore[misc]
        )
        for number in range(count)
    ]


def by_hand(rows: Iterable[Row]) -> str:
    def escaped(tag: str) -> str:
        return tag.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")

    heads: dict[str, str] = {}
    lines = []
    for device, micros, (_, voltage, current, power, temperature) in rows:
        head = heads.get(device)
        if head is None:
            head = heads[device] = f"inverter,device_id={escaped(device)},gateway_id=roof"
        lines.append(
            f"{head} voltage={voltage!r},current={current!r},power={power!r},temperature={temperature!r} {micros}000"
        )
    return "\n".join(lines)


def by_product(rows: Iterable[Row]) -> str:
    encode = encoder_of(Inverter)
    heads: dict[str, str] = {}
    lines = []
    for device, micros, row in rows:
        head = heads.get(device)
        if head is None:
            head = heads[device] = head_of(Inverter, device, "roof")
        lines.append(encode(head, micros, row))
    return "\n".join(lines)


def by_point(rows: Iterable[Row]) -> str:
    lines = []
    for device, micros, (_, voltage, current, power, temperature) in rows:
        point: Any = Point("inverter").tag("device_id", device).tag("gateway_id", "roof")
        point.field("voltage", voltage).field("current", current).field("power", power)
        lines.append(point.field("temperature", temperature).time(micros * 1000).to_line_protocol())
    return "\n".join(lines)


def rate(encode: Callable[[Iterable[Row]], str], rows: list[Row]) -> float:
    """Readings per second."""
    began = time.perf_counter()
    encode(rows)
    return len(rows) / (time.perf_counter() - began)


def main() -> None:
    options = read_options(__doc__)
    rows = readings(options.of(READINGS))
    if by_product(rows[:1000]) != by_hand(rows[:1000]):
        raise RuntimeError("the product's lines are not those of the floor")
    encoders = {"by hand": by_hand, "Point": by_point, "product": by_product}
    rates = alternate(options, "readings/s", {name: partial(rate, encode, rows) for name, encode in encoders.items()})
    bars = (("by hand", 0.7), ("Point", 4))
    comparisons = [
        Comparison(f"encoding, {name}", "readings/s", rates[name], rates["product"], factor, at_least=True)
        for name, factor in bars
    ]
    report(options, comparisons, readings=len(rows), fields=4)


if __name__ == "__main__":
    main()
