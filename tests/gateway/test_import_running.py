"""`edgedepot import` into the store of a gateway that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage, StorageError
from edgedepot.cli.intake import OwnStore, RunningGateway
from edgedepot.control import socket_path
from edgedepot.storage.base import Version
from edgedepot.storage.reading import Field, define_model
from tests.gateway.program import Run, Start, complaint, output
from tests.gateway.program import run as edgedepot
from tests.gateway.scripted import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)
CSV = "device_id,timestamp,temperature,note\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n[models.weather]\n'
        'temperature = { type = "float", unit = "°C", range = [-40, 80] }\nnote = { type = "str", required = false }\n'
        '[upstreams.copy]\nengine = "sqlite"\npath = "copy.db"\n'
    )
    return file


@pytest.fixture
def gateway(site: Path, start: Start) -> Iterator[Run]:
    run = start(site)
    run.wait_for("is running")
    yield run
    assert run.end() == 0


def rows(path: Path) -> list[dict[str, Any]]:
    text = output("export", path, "weather", "--format", "jsonl")
    return [json.loads(line) for line in text.splitlines()]


def test_it_takes_them_in_and_forwards_them(site: Path, gateway: Run) -> None:
    folder = site.parent
    text = CSV + "".join(f"mast,{(START + timedelta(seconds=n)).isoformat()},{n / 100},\n" for n in range(12_345))
    (folder / "weather.csv").write_text(text)
    assert output("import", site, "weather", folder / "weather.csv") == (
        "12,345 readings: 12,345 new or merged, 0 duplicates\n"
    )
    assert output("import", folder / "gateway.db", "weather", folder / "weather.csv") == (
        "12,345 readings: 0 new or merged, 12,345 duplicates\n"
    )
    books = json.loads(output("ledger", site, "--json"))
    assert (books["sources"]["direct"]["new"], books["sources"]["direct"]["duplicates"]) == (12_345, 12_345)
    assert books["problems"] == []
    eventually(lambda: json.loads(output("ledger", site, "--json"))["upstreams"]["copy"]["delivered"] == 12_345)
    assert rows(folder / "copy.db") == rows(folder / "gateway.db")


def test_it_keeps_what_an_import_without_a_gateway_keeps(site: Path, gateway: Run, tmp_path: Path) -> None:
    """Values, units, flags of quality, and the words for bad rows; also of a row at the calendar's end."""
    text = CSV + (
        'mast,2026-01-01T00:00:00.000001+01:00,0.1,"a ""b"", ü"\n'
        "mast,2026-01-01T00:00:01Z,200,\n"
        "mast,2026-01-01T00:00:02Z,warm,\n"
        "mast,2026-01-01T00:00:03Z,,only a note\n"
        f"mast,2026-01-01T00:00:04Z,1,{'x' * 2000}\n"
        "mast,1700000000,5e-324,\n"
        "mast,0001-01-01T00:00:00+05:00,1,\n"
        "pump,2026-01-01T00:00:00Z,-0.0,\n"
    )
    alone = tmp_path / "alone.db"
    create = ["--create", f"--model-from={site}"]
    here = edgedepot("import", alone, "weather", "-", "--format", "csv", *create, given=text)
    there = edgedepot("import", site, "weather", "-", "--format", "csv", given=text)
    assert (there.returncode, there.stderr) == (here.returncode, here.stderr)
    assert here.returncode == 1
    assert rows(tmp_path / "gateway.db") == rows(alone)
    assert [row["quality"] for row in rows(alone)] == [None, None, None, 1]
    units = [
        SQLiteStorage(path, read_only=True).models()["weather"].__fields__ for path in (alone, tmp_path / "gateway.db")
    ]
    assert units[0] == units[1]


def test_a_field_of_another_type_is_refused_in_the_same_words(site: Path, gateway: Run) -> None:
    text = "device_id,timestamp,temperature\nmast,2026-01-01T00:00:00Z,1\n"
    assert output("import", site, "weather", "-", "--format", "csv", given=text).startswith("1 reading: ")
    said = complaint("import", site, "weather", "-", "--format=csv", "--field=temperature=str", given=text)
    assert "keeps weather.temperature as float" in said


def test_rows_of_any_length_get_through(site: Path, gateway: Run) -> None:
    names = [f"note_{index}" for index in range(200)]
    model = define_model("long", {name: (str, False, Field()) for name in names})
    data = dict.fromkeys(names, "ü" * 512)
    given = [Version("mast", START + timedelta(seconds=second), data) for second in range(30)]
    intake = RunningGateway(socket_path(site.parent / "gateway.db"))
    given[7] = Version("mast", START, {"note_1": "x" * 2000})
    (refusal,) = intake.store_readings(model, given).refused
    assert (refusal.index, refusal.reason) == (7, "long: note_1 is 2000 bytes long, at most 1024 are stored")
    assert intake.counts() == (29, None, 0)
    given[7] = Version("mast", START, {"note_1": "x" * 2_000_000})
    (refusal,) = intake.store_readings(model, given).refused
    assert (refusal.index, refusal.reason) == (
        7,
        "is longer than the 1048576 bytes that a running gateway takes at once",
    )
    assert intake.counts() == (29, None, 29)


def test_both_ways_refuse_in_the_same_words(site: Path, gateway: Run, tmp_path: Path) -> None:
    model = define_model("odd", {"value": (int, True, Field())})
    given = [Version("mast", START, {"value": 1}), Version("", START, {"value": 1}), Version("mast", START, {"x": 1})]
    there = RunningGateway(socket_path(site.parent / "gateway.db")).store_readings(model, given)
    with SQLiteStorage(tmp_path / "other.db") as store:
        here = OwnStore(store).store_readings(model, given)
        assert here.refused == there.refused
        assert [refusal.index for refusal in here.refused] == [1, 2]


def test_a_gateway_that_goes_away(site: Path, start: Start) -> None:
    run = start(site)
    run.wait_for("is running")
    intake = RunningGateway(socket_path(site.parent / "gateway.db"))
    assert run.end() == 0
    done = edgedepot("import", site, "weather", "-", "--format", "csv", given=CSV)
    assert done.stdout == "0 readings: 0 new, 0 merged, 0 duplicates\n", "no gateway runs, and it was asked"
    with pytest.raises(StorageError, match=r"The gateway was stopped\. Start it again to go on"):
        intake.fold()
