"""`edgedepot reconcile`, with a real TimescaleDB beside a gateway that runs, and without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from edgedepot import Reading, SQLiteStorage
from edgedepot.cli import program
from edgedepot.sync.notes import Note, beside
from tests.gateway.program import Run, Start, complaint, on_terminal, output
from tests.gateway.program import run as edgedepot
from tests.gateway.scripted import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = 72


class Weather(Reading):
    temperature: float
    note: str | None = None


def fill(folder: Path) -> None:
    with SQLiteStorage(folder / "gateway.db", gateway_id="roof") as store:
        for device in ("mast", "pump [7]"):
            times = [START + timedelta(hours=hour) for hour in range(HOURS)]
            rows: list[Any] = [(device, time, {"temperature": time.hour / 7, "note": "ok"}) for time in times]
            store.store_readings(Weather, rows).wait()


def write_config(folder: Path, upstream: str) -> Path:
    file = folder / "gateway.toml"
    head = f'[gateway]\nid = "roof"\n[clock]\ntrust = "always"\n[storage]\npath = "gateway.db"\n{upstream}'
    file.write_text(head)
    return file


def pending(file: Path) -> int:
    found: int = json.loads(output("ledger", file, "--json"))["upstreams"].get("central", {"pending": -1})["pending"]
    return found


@pytest.fixture
def site(tmp_path: Path, timescale_url: str) -> Path:
    fill(tmp_path)
    central = f'[upstreams.central]\nengine = "timescaledb"\nurl = "{timescale_url}"\nmax_rate = "50 MB/s"\n'
    return write_config(tmp_path, central)


@pytest.fixture
def gateway(site: Path, start: Start) -> Iterator[Run]:
    """A gateway that runs, when all that was pending is delivered."""
    run = start(site)
    run.wait_for("is running")
    eventually(lambda: pending(site) == 0)
    yield run
    assert run.end() == 0


def look(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


ALL = "SELECT gateway_id, device_id, timestamp, temperature, note, store_epoch, gateway_seq FROM weather ORDER BY 2, 3"


def test_beside_a_running_gateway(site: Path, gateway: Run, timescale_url: str) -> None:
    before = look(timescale_url, ALL)
    assert len(before) == 2 * HOURS
    all_there = "central has all that was delivered to it and is here still.\n"
    assert output("reconcile", site, "central") == all_there
    look(timescale_url, "DELETE FROM weather WHERE device_id = 'mast' AND timestamp >= '2026-01-02'")
    look(timescale_url, "DELETE FROM weather WHERE timestamp = '2026-01-01 05:00Z'")
    look(timescale_url, "UPDATE weather SET note = NULL, gateway_seq = 0 WHERE timestamp = '2026-01-01 07:00Z'")
    less = look(timescale_url, ALL)

    dry = edgedepot("reconcile", site, "central", "--dry-run")
    assert (dry.returncode, dry.stderr) == (1, "")
    assert [line.split() for line in dry.stdout.splitlines() if "2026" in line or "all" in line] == [
        ["weather", "mast", "2026-01-01", "1", "1"],
        ["weather", "mast", "2026-01-02", "24", "0"],
        ["weather", "mast", "2026-01-03", "24", "0"],
        ["weather", "pump", "[7]", "2026-01-01", "1", "1"],
        ["all", "3", "days", "50", "2"],
    ]
    assert dry.stdout.splitlines()[-1] == "central lacks 52 readings. Nothing was sent."
    assert look(timescale_url, ALL) == less

    done = edgedepot("reconcile", site, "central", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    counts = {"missing": 50, "different": 2, "sent": 52, "refused": 0, "kept": 0, "only_there": 0}
    assert (found["total"], found["complete"], len(found["days"])) == (counts, True, 4)
    assert look(timescale_url, ALL) == before
    assert output("reconcile", site, "central") == all_there


def test_a_part_of_it(site: Path, gateway: Run, timescale_url: str) -> None:
    look(timescale_url, "TRUNCATE weather")
    options = ("--device", "pump [7]", "--model", "Weather", "--tz", "Europe/Zurich")
    said = output("reconcile", site, "central", *options, "--since", "2026-01-02T01:00", "--until", "2026-01-02T04:00")
    assert said.splitlines()[-1] == "central lacks 3 readings; 3 were sent."
    found = look(timescale_url, "SELECT device_id, extract(hour FROM timestamp AT TIME ZONE 'UTC') FROM weather")
    assert sorted(found) == [("pump [7]", 0), ("pump [7]", 1), ("pump [7]", 2)]
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "w") as full, redirect_stdout(full):
        program(["reconcile", str(site), "central", "--dry-run"], standalone_mode=False)
    with SQLiteStorage(site.with_name("gateway.db"), read_only=True) as store:
        note = Note.of(store.recall(beside("central")))
    assert sum(note.days.values()) > 1_000, "the gateway knows what went beside it"
    assert note.at == 0, "and that it is over, also where the report could not be shown"
    assert output("reconcile", site, "central", "--since", "1s").startswith("central has all")


def test_what_the_upstream_refuses(site: Path, gateway: Run, timescale_url: str) -> None:
    look(timescale_url, "DELETE FROM weather WHERE timestamp < '2026-01-02'")
    look(timescale_url, "ALTER TABLE weather ADD CONSTRAINT mild CHECK (timestamp <> '2026-01-01 07:00Z')")
    done = edgedepot("reconcile", site, "central")
    assert (done.returncode, done.stderr) == (1, "")
    refusal, summary = done.stdout.splitlines()[-2:]
    assert refusal.startswith("central refused 2: ")
    assert "mild" in refusal
    assert summary == "central lacks 48 readings; 46 were sent."
    assert json.loads(output("ledger", site, "--json"))["upstreams"]["central"]["quarantined"] == 0


def test_out_of_its_hours(site: Path) -> None:
    with SQLiteStorage(site.with_name("gateway.db")) as store:
        store.add_cursor("central")
    now = datetime.now(UTC)
    hours = " ".join(f"{(now + timedelta(hours=ahead)):%H:%M}" for ahead in (8, 16)).replace(" ", "-")
    site.write_text(site.read_text() + f'windows = ["{hours} UTC"]\n')
    assert edgedepot("reconcile", site, "central").returncode == 0, "there is nothing to ask for"
    with SQLiteStorage(site.with_name("gateway.db")) as store:
        window = store.pending("central", 5000)
        assert window is not None
        store.acknowledge("central", window)
    done = edgedepot("reconcile", site, "central")
    assert (done.returncode, done.stdout) == (1, "Interrupted before all was compared.\n")
    assert done.stderr == ("upstream central: it is not one of its hours (windows). Started again later, it goes on\n")


def test_an_upstream_that_is_a_local_file(tmp_path: Path, start: Start) -> None:
    """Two processes cannot write it: only while no gateway runs."""
    fill(tmp_path)
    file = write_config(tmp_path, '[upstreams.central]\nengine = "sqlite"\npath = "central.db"\n')
    run = start(file)
    run.wait_for("is running")
    eventually(lambda: pending(file) == 0)
    assert "central.db is being written by process" in complaint("reconcile", file, "central", code=1)
    assert run.end() == 0
    with SQLiteStorage(tmp_path / "central.db") as store:
        store.delete_readings(Weather, "mast")
        store.delete_readings(Weather, "pump [7]", START + timedelta(hours=3), START + timedelta(hours=5))
    said = on_terminal(tmp_path, "reconcile", str(file), "central")
    assert "compare" in said
    assert "look closer" in said
    assert (tmp_path / "stdout").read_text().splitlines()[-1] == "central lacks 74 readings; 74 were sent."
    with SQLiteStorage(tmp_path / "central.db") as store, SQLiteStorage(tmp_path / "gateway.db") as local:
        assert store.query_readings(Weather) == local.query_readings(Weather)
        local.delete_readings(Weather, "mast", START, START + timedelta(hours=4))
    whole, rest = reconciled(file).split(". ")
    assert whole == "central has all that was delivered to it and is here still"
    assert rest == "140 of the 144 versions that were delivered could be compared."
    found = json.loads(reconciled(file, "--json"))
    assert (found["here"], found["delivered"]) == (140, 144)
    assert json.loads(reconciled(file, "--json", "--device", "mast"))["here"] is None


AVERAGES = "SELECT gateway_id, device_id, timestamp, temperature, note, quality, gateway_seq FROM weather ORDER BY 2, 3"


def reconciled(file: Path, *options: str) -> str:
    """The last line that the command says, in this process."""
    done = CliRunner().invoke(program, ["reconcile", str(file), "central", *options])
    assert done.exit_code in (0, 1), done.output
    return done.output.splitlines()[-1]


def test_averages_beside_a_running_gateway(site: Path, start: Start, timescale_url: str) -> None:
    site.write_text(site.read_text() + 'every = "6 hours"\n')
    run = start(site)
    run.wait_for("is running")
    eventually(lambda: pending(site) == 0)
    before = look(timescale_url, AVERAGES)
    assert len(before) == 2 * HOURS // 6
    assert reconciled(site) == "central has all that was delivered to it and is here still."
    look(timescale_url, "DELETE FROM weather WHERE device_id = 'mast' AND timestamp >= '2026-01-02'")
    look(timescale_url, "UPDATE weather SET temperature = 0, gateway_seq = 0 WHERE timestamp = '2026-01-01 06:00Z'")
    found = json.loads(reconciled(site, "--dry-run", "--json"))["total"]
    assert (found["missing"], found["different"], found["sent"], found["only_there"]) == (8, 2, 0, 0)
    assert reconciled(site) == "central lacks 10 readings; 10 were sent."
    assert look(timescale_url, AVERAGES) == before, "and no reading went there as itself"
    look(timescale_url, "TRUNCATE weather")
    assert reconciled(site) == "central lacks 24 readings; 24 were sent."
    assert look(timescale_url, AVERAGES) == before
    assert run.end() == 0


def test_averages_to_a_storage_of_ones_own(tmp_path: Path, start: Start) -> None:
    fill(tmp_path)
    own = '[upstreams.central]\nengine = "tests.gateway.choosy.Choosy"\npath = "central.db"\nmended = "mended"\n'
    file = write_config(tmp_path, own + 'every = "12 hours"\n')
    run = start(file)
    run.wait_for("is running")
    eventually(lambda: pending(file) == 0)
    assert run.end() == 0
    with SQLiteStorage(tmp_path / "central.db") as store:
        before = store.query_readings(Weather, fields=["temperature", "note", "quality"])
        assert [row["quality"] for row in before] == [8] * 12
        store.delete_readings(Weather, "pump [7]")
    assert reconciled(file) == "central lacks 6 readings; 6 were sent."
    with SQLiteStorage(tmp_path / "central.db") as store:
        assert store.query_readings(Weather, fields=["temperature", "note", "quality"]) == before


def test_wrong_names(tmp_path: Path) -> None:
    fill(tmp_path)
    own = '[upstreams.central]\nengine = "timescaledb"\nurl = "postgresql://127.0.0.1:1/x"\n'
    file = write_config(tmp_path, own)
    said = complaint("reconcile", file, "cantral")
    assert said == f"{file}: found no upstream 'cantral' (did you mean \"central\"?); upstreams there: central\n"
    assert complaint("reconcile", file, "central").startswith('no upstream "central"; the store knows none')
    with SQLiteStorage(tmp_path / "gateway.db") as store:
        store.add_cursor("central")
        window = store.pending("central", 100)
        assert window is not None
        store.acknowledge("central", window)
    assert 'no model "wether" (did you mean "weather"?)' in complaint("reconcile", file, "central", "--model", "wether")
    assert 'no device "mats" (did you mean "mast"?)' in complaint("reconcile", file, "central", "--device", "mats")
    assert complaint("reconcile", file, "central", "--since", "soon").startswith('--since: found "soon", expected')
    assert complaint("reconcile", file, "central", "--since", "1d", "--until", "2026-01-01T00Z") == (
        "--until: 2026-01-01T00Z is not after --since, 1d\n"
    )
    away = edgedepot("reconcile", file, "central")
    assert (away.returncode, away.stdout) == (1, "Interrupted before all was compared.\n")
    assert away.stderr.startswith("no connection with postgresql://127.0.0.1:1/x")
