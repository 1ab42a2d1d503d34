"""What a write counts for in the queue is what it takes in memory."""

import gc
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from edgedepot import Reading
from edgedepot.storage.buffer import Intake, Reject
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite.arrivals import check_rows
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.items import Write

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK = ManualClock(T0)


class Numbers(Reading):
    a: float
    b: float


class Text(Reading):
    a: float
    text: str


Make = Callable[[int], Write]
"""A write of so many rows."""


def readings(model: type[Reading], fill: str) -> Make:
    catalogue = Catalogue()

    def make(count: int) -> Write:
        rows = [
            (
                f"station {number % 5}",
                T0 + timedelta(seconds=number),
                {"a": number / 3, **({"text": f"{number}{fill}"} if fill else {"b": number / 7})},
            )
            for number in range(count)
        ]
        return Write(Receipt(), "direct", check_rows(catalogue, model, rows, CLOCK)[0])

    return make


def devices(count: int) -> Write:
    """Each with a name of its own."""
    rows = [(f"{number}" + "x" * 1000, T0, {"a": 1.0, "b": 2.0}) for number in range(count)]
    return Write(Receipt(), "direct", check_rows(Catalogue(), Numbers, rows, CLOCK)[0])


def refusals(count: int) -> Write:
    """None of the rows is stored."""
    rows = [("a", T0, {f"name {number}": 1.0}) for number in range(count)]
    arrivals, refused = check_rows(Catalogue(), Numbers, rows, CLOCK)
    return Write(Receipt(None, tuple(refused)), "direct", arrivals)


def rejects(count: int) -> Write:
    intake = Intake("mqtt")
    for number in range(count):
        intake.rejects.append(Reject("message", f"is no {number}", b"%d" % number * 200))
    return Write(Receipt(), "mqtt", intake.arrivals, intake)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(readings(Numbers, ""), id="numbers"),
        pytest.param(readings(Text, "x" * 20), id="short texts"),
        pytest.param(readings(Text, "x" * 1000), id="long texts"),
        pytest.param(readings(Text, "\N{THERMOMETER}" * 250), id="texts of four bytes a letter"),
        pytest.param(devices, id="long names of devices"),
        pytest.param(refusals, id="refusals"),
        pytest.param(rejects, id="rejects"),
    ],
)
@pytest.mark.parametrize("count", [1, 100])
def test_a_write_counts_for_what_it_takes(make: Make, count: int) -> None:
    make(count)
    gc.collect()  # which also empties what Python keeps of tuples and floats, to use it again
    tracemalloc.start()
    writes = [make(count) for _ in range(1000 // count)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(write.size for write in writes) == pytest.approx(taken, rel=0.2)
