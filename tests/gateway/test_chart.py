"""`edgedepot query --chart`: what is drawn, dot by dot."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from edgedepot.cli.chart import Point, Scale, draw
from tests.gateway.program import output
from tests.models import Weather

START = datetime(2026, 1, 1, tzinfo=UTC)


def points(*values: float | None) -> list[Point]:
    return [(START + timedelta(minutes=index), value) for index, value in enumerate(values)]


def test_a_rising_line() -> None:
    assert draw(points(0.0, 1.0, 2.0, 3.0), Scale(1, 0, 3), 13, 4) == [
        "3 ┤       ⢀⡠⠊",
        "2 ┤     ⡠⠔⠁",
        "1 ┤  ⢀⠔⠊",
        "0 ┤⡠⠒⠁",
        "  └┬─────────",
        "   00:00:00",
    ]


def test_where_there_are_no_values_the_line_breaks() -> None:
    lines = draw(points(1.0, 1.0, None, 1.0, 1.0), Scale(1, 0, 1), 13, 2)
    assert lines[:2] == ["1 ┤⠉⠉⠉    ⠉⠉⠉", "0 ┤"]


@pytest.mark.parametrize("values", [[5.0], [0.0], [-3.0, -3.0], [1e-320, 2e-320], [-1e300, 1e300], [1e15, 1e15 + 1]])
def test_every_scale_holds_its_values(values: list[float]) -> None:
    scale = Scale.of(values, 4)
    assert scale.first < scale.last
    assert len(scale.labels()) <= 12
    assert all(0 <= scale.place(value, 50) < 50 for value in values)
    assert draw(points(*values), scale, 80, 13)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 100, ["100", "50", "0"]),
        (18.2, 23.9, ["24", "22", "20", "18"]),
        (-0.31, 0.12, ["0.2", "0", "-0.2", "-0.4"]),
        (1013.2, 1013.4, ["1013.4", "1013.3", "1013.2"]),
        (80.5, 80.5, ["85", "80"]),
        (0, 0, ["0.5", "0"]),
    ],
)
def test_labels_are_round(low: float, high: float, labels: list[str]) -> None:
    assert Scale.of([low, high], 3).labels() == labels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chart") / "gateway.db"
    rows = [
        (
            ("mast", "日本\x1b[2J")[index % 2],
            START + timedelta(minutes=10 * index),
            {"temperature": math.sin(index / 20)},
        )
        for index in range(288)
        if not 100 < index < 150
    ]
    with SQLiteStorage(path) as store:
        assert store.store_readings(Weather, rows).refused == ()
    return path


def chart(store: Path, *options: str) -> list[str]:
    return output("query", store, "weather", "--field", "temperature", "--chart", *options).splitlines()


def test_of_one_series(store: Path) -> None:
    lines = chart(store, "--tz", "Europe/Zurich")
    assert lines[0] == "avg temperature, °C, every 1h"
    assert lines[-1] == "2026-01-01T01:00:00+01:00 to 2026-01-03T00:00:00+01:00"
    assert lines[-2] == "40 values, -0.993878 to 0.994895"
    assert "01-01 01:00" in lines[-3]
    assert max(map(len, lines)) <= 80
    assert any("⠀" <= char <= "⣿" for char in "".join(lines))


def test_of_each_device_with_one_scale(store: Path) -> None:
    lines = chart(store, "--group-by", "device", "--interval", "2h", "--function", "max")
    assert lines[0] == "max temperature, °C, every 2h"
    assert [line for line in lines if line in ("mast", "日本\\x1b[2J")] == ["mast", "日本\\x1b[2J"]
    assert len([line for line in lines if line.startswith(" 1 ┤")]) == 2


def test_of_nothing(store: Path) -> None:
    assert chart(store, "--device", "nobody") == ["No values to draw."]
    assert chart(store, "--last", "1s") == ["No values to draw."]
