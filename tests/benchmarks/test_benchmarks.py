"""The benchmarks run, at a size that says nothing about speed."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.benchmarks.others import OTHERS
from tests.benchmarks.report import Comparison, Options, report

ACKNOWLEDGING = ["acknowledging 5,000 rows"]
WAYS = ("dicts", "dicts, each awaited", "JSON", "JSON, each awaited")
MORE = ", ten times the rows"
FILLED = [f"memory, full queue {kind}" for kind in ("one by one", "in batches of 50", "with ten texts")]


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("mqtt_to_durable", ["MQTT to durable"]),
        ("serial_to_durable", ["serial to durable"]),
        ("footprint", ["resident memory", "start"]),
        ("influx_encoding", ["encoding, by hand", "encoding, Point"]),
        ("influx_writing", ["writing"]),
        ("timescale_writing", ["first", "again"]),
        ("timescale_aggregate", ["hourly aggregate"]),
        ("store_ingest", ["ingest at 50,000 rows"]),
        ("store_latency", ["put to durable, p99"]),
        ("store_read", ["newest 100", "range of 1,000"]),
        ("store_aggregate", [f"by {unit}{more}" for more in ("", MORE) for unit in ("hour", "day", "month")]),
        ("store_open", ["open with 50,000 rows against 500", "memory, 25,000 rows pending", *FILLED]),
    ],
)
def test_benchmark_runs(name: str, results: list[str]) -> None:
    found = run(name)
    assert [result["name"] for result in found["results"]] == results
    for result in found["results"]:
        assert len(result["floor"]) == len(result["product"]) == 1
        assert result["ratio"] == pytest.approx(result["product"][0] / result["floor"][0])


def test_writing_is_measured_at_the_speed_of_a_card_too() -> None:
    found = run("store_write")
    batches = ["batch 1000", "batch 50", *([] if "card_not_run" in found else ["batch 50, card"])]
    assert [result["name"] for result in found["results"]] == [f"{way}, {batch}" for batch in batches for way in WAYS]


def test_bytes_to_the_card_are_measured_or_the_reason_is_said() -> None:
    found = run("store_card")
    names = [result["name"] for result in found["results"]]
    if "not_run" in found:
        assert not names
    else:
        assert names == ["1 s commits, 1 model", "1 s commits, 5 models", "10 s commits, 1 model", *ACKNOWLEDGING]


def test_retention_is_measured() -> None:
    found = run("store_retention")
    written = [] if "bytes_not_measured" in found else ["written by retention"]
    assert [result["name"] for result in found["results"]] == ["longest commit", *written]


def test_other_libraries_run_or_are_named() -> None:
    found = run("store_others")
    measured = {result["name"].partition(",")[0] for result in found["results"]}
    missing = set() if found["not_installed"] == "none" else set(found["not_installed"])
    print(f"measured: {', '.join(sorted(measured))}; not installed: {', '.join(sorted(missing))}")
    assert measured | missing == set(OTHERS)
    assert not measured & missing


def run(name: str) -> Any:
    """A benchmark's JSON."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--json", "--scale", "0.05", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("product", "met"), [([5, 20, 5], True), ([5, 21, 5], False)])
def test_the_worst_round_decides(product: list[float], met: bool) -> None:
    assert Comparison("memory", "MiB", [1, 10, 11], product, 1, plus=10, each=True).met is met


@pytest.mark.parametrize(("product", "met"), [([8.9], False), ([9], True), ([11.1], True), ([11.2], False)])
def test_both_ways(product: list[float], met: bool) -> None:
    comparison = Comparison("speed", "m/s", [10], product, 0.9, both_ways=True)
    assert (comparison.met, comparison.demand()) == (met, "0.9x to 1.11x")


@pytest.mark.parametrize(
    ("product", "at_least", "plus", "met"),
    [
        ([5, 6, 9], True, 0, True),
        ([5, 5.9, 9], True, 0, False),
        ([5, 6, 9], False, 0, True),
        ([5, 7, 9], False, 1, True),
    ],
)
def test_medians_decide(product: list[float], at_least: bool, plus: float, met: bool) -> None:
    assert Comparison("speed", "m/s", [1, 10, 11], product, 0.6, at_least, plus).met is met


def test_a_figure_of_fewer_rounds_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    speed, memory = (Comparison(name, "m/s", [1, 2][:count], [1, 2][:count], 1) for name, count in (("a", 2), ("b", 1)))
    report(Options(1.0, 2, as_json=False), [speed, memory])
    assert capsys.readouterr().out.endswith("median (least..greatest) of 2 rounds, scale 1; b: of 1\n")
