"""`edgedepot devices`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import Device, SQLiteStorage
from tests.gateway.program import complaint, output
from tests.models import Weather

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("devices") / "gateway.db"
    with SQLiteStorage(path) as store:
        for device in ("mast", "日本 [b]\n\x1b[2J"):
            rows = [(device, START + timedelta(hours=hour), {"temperature": 20.0}) for hour in range(3)]
            store.store_readings(Weather, rows).wait()
        store.save_device(Device("mast", "The mast", {"height": 10, "place": "röof"}))
        store.save_device(Device("spare"))
    return path


def test_as_a_table(store: Path) -> None:
    lines = output("devices", store, "--tz", "Europe/Zurich").splitlines()
    seen = ["2026-01-01T01:00:00+01:00", "2026-01-01T03:00:00+01:00"]
    assert [line.split() for line in lines if "─" not in line and "日本" not in line] == [
        ["device", "name", "first", "seen", "last", "seen", "metadata"],
        ["mast", "The", "mast", *seen, "height=10", 'place="röof"'],
        ["spare", "never", "never"],
        ["3", "devices"],
    ]
    assert any(line.startswith("日本 [b]\\n\\x1b[2J  ") for line in lines)


def test_as_json(store: Path) -> None:
    mast, spare, other = json.loads(output("devices", store, "--json"))
    assert mast == {
        "device_id": "mast",
        "name": "The mast",
        "first_seen": "2026-01-01T00:00:00+00:00",
        "last_seen": "2026-01-01T02:00:00+00:00",
        "metadata": {"height": 10, "place": "röof"},
    }
    assert (spare["device_id"], spare["first_seen"], spare["last_seen"]) == ("spare", None, None)
    assert other["device_id"] == "日本 [b]\n\x1b[2J"


def test_an_empty_store(tmp_path: Path) -> None:
    SQLiteStorage(tmp_path / "gateway.db").close()
    assert output("devices", tmp_path / "gateway.db").splitlines()[-1] == "0 devices"
    assert output("devices", tmp_path / "gateway.db", "--json") == "[]\n"


def test_a_zone_that_is_none(store: Path) -> None:
    assert "time zone 'Mars' is not known here" in complaint("devices", store, "--tz", "Mars")
