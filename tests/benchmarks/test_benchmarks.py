"""The benchmarks run, at a size that says nothing about speed."""

import json
import subprocess
import sys

import pytest

from tests.benchmarks.report import Comparison


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("mqtt_to_durable", ["MQTT to durable"]),
        ("serial_to_durable", ["serial to durable"]),
        ("footprint", ["resident memory", "start"]),
    ],
)
def test_benchmark_runs(name: str, results: list[str]) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--json", "--scale", "0.05", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [result["name"] for result in found["results"]] == results
    for result in found["results"]:
        assert len(result["floor"]) == len(result["product"]) == 1
        assert result["ratio"] == pytest.approx(result["product"][0] / result["floor"][0])


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
