"""The command line as a person meets it: the console script, its output, its exit codes."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Field, Reading, SQLiteStorage
from edgedepot.storage.buffer import Intake, Reject
from tests.gateway import third_party
from tests.gateway.program import PROGRAM, complaint, output
from tests.gateway.program import run as edgedepot

START = datetime(2026, 1, 1, tzinfo=UTC)


class Weather(Reading):
    temperature: float = Field(unit="°C")
    humidity: float | None = None
    raining: bool | None = None
    note: str | None = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with some readings, and the file of its gateway."""
    folder = tmp_path_factory.mktemp("gateway")
    with SQLiteStorage(folder / "gateway.db", gateway_id="roof") as store:
        store.add_cursor("central")
        rows = [
            ("mast", START + timedelta(minutes=20 * index), {"temperature": 20.0 + index, "raining": index == 1})
            for index in range(4)
        ]
        store.store_readings(Weather, rows).wait()
        store.store_reading(Weather, "cellar [b]", START, {"temperature": 1 / 3, "note": 'a "b", c'}).wait()
    (folder / "gateway.toml").write_text('[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n')
    return folder


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["check"],
        ["status"],
        ["ledger"],
        ["verify"],
        ["query"],
        ["tail"],
        ["devices"],
        ["export"],
        ["import"],
    ],
)
def test_help_teaches_with_examples(command: list[str]) -> None:
    text = output(*command, "--help")
    assert f"edgedepot {' '.join(command)}" in text
    assert "gateway.toml" in text


def test_version() -> None:
    name, version = output("--version").split()
    assert name == "edgedepot"
    assert version[0].isdigit()
    as_module = subprocess.run(
        [sys.executable, "-m", "edgedepot", "--version"], capture_output=True, text=True, check=True
    )
    assert as_module.stdout == output("--version")


WITH_MODEL = {"query": ["weather"], "tail": [], "export": ["weather"], "import": ["weather", "-", "--format", "csv"]}


@pytest.mark.parametrize("command", ["run", "check", "status", "ledger", "devices", *WITH_MODEL])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gateway.toml", None, "gateway.toml: cannot be read: No such file or directory"),
        ("gateway.toml", "[storage]\npath = 3", "gateway.toml: storage.path: found 3, expected a path"),
        ("gateway.toml", "[storage", "gateway.toml:1: Expected ']' at the end of a table declaration, up to the end"),
    ],
)
def test_a_wrong_file_is_said_in_one_line(
    tmp_path: Path, command: str, name: str, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert complaint(command, name, *WITH_MODEL.get(command, []), cwd=tmp_path) == expected + "\n"


@pytest.mark.parametrize("command", ["status", "ledger", "devices", *WITH_MODEL])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gateway.db", None, "gateway.db: cannot be read: No such file or directory"),
        ("gateway.db", b"", "gateway.db: is no store's database; expected one, or a gateway's file, gateway.toml"),
        ("notes.txt", b"hello", "notes.txt: is no store's database; expected one, or a gateway's file, gateway.toml"),
        ("gateway.db", b"SQLite format 3\0junk", "{}/gateway.db cannot be read as a store: file is not a database"),
        (".", None, ".: cannot be read: Is a directory"),
    ],
)
def test_what_is_no_store_is_said_in_one_line(
    tmp_path: Path, command: str, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    elif command == "import" and name == "gateway.db":
        expected = "gateway.db does not exist; --create makes it"
    found = complaint(command, name, *WITH_MODEL.get(command, []), cwd=tmp_path)
    assert found == expected.format(tmp_path) + "\n"


def test_a_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    assert complaint("ledger", "other.db", cwd=tmp_path) == (
        f"{tmp_path}/other.db is an SQLite file of another program; name a new file for the store\n"
    )


def test_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text('[storage]\npath = "gateway.db"\n')
    expected = "gateway.db does not exist; the first `edgedepot run gateway.toml` makes it\n"
    assert complaint("status", "gateway.toml", cwd=tmp_path) == expected


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    assert "No such command 'stauts' (did you mean \"status\"?)" in complaint("stauts", cwd=tmp_path)
    assert "No such command 'xyzzy'; there are: run, check, status, " in complaint("xyzzy", cwd=tmp_path)


@pytest.mark.parametrize("command", [("run",), ("check",), ("reconcile", "central")])
def test_a_database_in_place_of_the_gateways_file(tmp_path: Path, command: tuple[str, ...]) -> None:
    SQLiteStorage(tmp_path / "gateway.db").close()
    name, *more = command
    expected = "gateway.db: is a store's database, expected a gateway's file, gateway.toml\n"
    assert complaint(name, "gateway.db", *more, cwd=tmp_path) == expected


def test_a_device_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    """Beside the empty answer, which is one."""
    file, known = folder / "gateway.db", json.loads(output("devices", folder / "gateway.db", "--json"))
    name = known[0]["device_id"]
    for command in (("query", file, "weather"), ("export", file, "weather", "-o", tmp_path / "none.csv")):
        done = edgedepot(*command, "--device", name[:-1])
        assert done.returncode == 0
        assert done.stderr == f'{file}: no device "{name[:-1]}" (did you mean "{name}"?)\n'
        done = edgedepot(*command, "--device", name, "--end", "1999-01-01T00Z")
        assert (done.returncode, done.stderr) == (0, "")


def test_every_mistake_in_a_file_gets_a_line(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[storage]\npth = 'x'\n[drivers.mast]\ntype = 'serail'\n")
    lines = [
        'gateway.toml: storage.pth: unknown key (did you mean "path"?)',
        "gateway.toml: storage.path: missing, expected a path",
        'gateway.toml: drivers.mast.type: found "serail", expected one of mqtt, serial, or a dotted path'
        ' (did you mean "serial"?)',
    ]
    for command in ("check", "run"):
        assert complaint(command, "gateway.toml", cwd=tmp_path).splitlines() == lines


def test_check_says_what_would_be_done_and_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n'
        'keep = { weather = "90 days", "*" = "30 days" }\n[models.weather]\n'
        'temperature = { type = "float", unit = "°C", range = [-40, 80] }\n'
        'raining = { type = "bool", required = false }\n'
        '[drivers.garden]\ntype = "mqtt"\nurl = "mqtt://me:hush@localhost"\ntopic = "garden/{device_id}"\n'
        'model = "weather"\n[upstreams.central]\nengine = "timescaledb"\nurl = "postgresql://me:hush@central/iot"\n'
        "start = 2026-01-01T00:00:00+01:00\nmodels = ['weather']\ndevices = ['mast', 'pump-*']\n"
    )
    assert output("check", "gateway.toml", cwd=tmp_path) == (
        "gateway.toml is good.\n"
        "\n"
        "gateway   roof\n"
        "store     sqlite\n"
        "            path = gateway.db\n"
        '            keep = { weather = "90 days", "*" = "30 days" }\n'
        "model     weather\n"
        "            temperature float, °C, -40..80\n"
        "            raining bool, may be absent\n"
        "driver    garden: mqtt\n"
        '            url = "mqtt://me:***@localhost"\n'
        '            topic = "garden/{device_id}"\n'
        "            model = weather\n"
        "upstream  central: timescaledb\n"
        '            url = "postgresql://me:***@central/iot"\n'
        "            start = 2026-01-01T00:00:00+01:00\n"
        '            models = ["weather"]\n'
        '            devices = ["mast", "pump-*"]\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.toml"]


def test_another_packages_driver_and_storage_go_by_their_short_names(tmp_path: Path) -> None:
    package = tmp_path / "packages"
    described = package / "gauge-1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: gauge\nVersion: 1\n")
    (described / "entry_points.txt").write_text(
        "[edgedepot.drivers]\nrain = gauge:RainGauge\n[edgedepot.storages]\nlist = gauge:ListStorage\n"
    )
    (package / "gauge.py").write_text(Path(third_party.__file__).read_text())
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n[models.weather]\ntemperature = "float"\n'
        '[drivers.roof]\ntype = "rain"\nmodel = "weather"\npins = [4, 5]\n[upstreams.copy]\nengine = "list"\n'
    )
    command = [str(PROGRAM), "check", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "driver    roof: rain\n            model = weather\n            pins = [4, 5]\n" in done.stdout
    assert "upstream  copy: list\n" in done.stdout
    assert 'found "rain", expected one of mqtt, serial, or a dotted path' in complaint("check", file)


def test_ledger(folder: Path) -> None:
    text = output("ledger", folder / "gateway.toml")
    assert text == output("ledger", folder / "gateway.db")
    table = [line.split() for line in text.splitlines()]
    assert ["direct", "5", "5", "0", "0", "0"] in table
    assert ["central", "5", "5", "0"] in table
    assert "Versions = pending + delivered\n" in text
    assert text.endswith("\nThe books balance.\n")


def test_the_ledger_shows_what_is_rare_where_it_happened(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        store.add_cursor("central")
        rows = [("mast", START + timedelta(minutes=minute), {"temperature": 20.0}) for minute in range(3)]
        store.store_readings(Weather, rows).wait()
        assert store.delete_readings(Weather, start=START + timedelta(minutes=1)) == 2
    text = output("ledger", tmp_path / "gateway.db")
    assert "Versions = pending + delivered + deleted\n" in text
    assert ["central", "3", "1", "0", "2"] in [line.split() for line in text.splitlines()]


def test_a_ledger_too_wide_for_a_terminal_is_turned(tmp_path: Path) -> None:
    """All that can become of a version, at once, for more upstreams than fit beside each other."""
    ends = ["delivered", "quarantined", "superseded", "skipped", "deleted", "thinned", "evicted", "lost"]
    names = [f"upstream-{index}" for index in range(5)]
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        for name in names:
            store.add_cursor(name)
    with sqlite3.connect(tmp_path / "gateway.db") as store_file:
        counts = ", ".join(f"{end} = 123456789{index}" for index, end in enumerate(ends))
        store_file.execute(f"UPDATE _cursors SET versions_before = -{sum(1234567890 + i for i in range(8))}, {counts}")
    store_file.close()
    text = output("ledger", tmp_path / "gateway.db")
    table = [line.split() for line in text.splitlines()]
    assert "Versions, and where they went" in text
    heads = [row for row in table if row and row[0] == "upstream"]
    assert [name for _, *found in heads for name in found] == names
    assert len(heads) == 2
    for index, end in enumerate(ends):
        assert [len(row) - 1 for row in table if row and row[0] == end] == [4, 1]
        assert all(set(row[1:]) == {f"1,234,567,89{index}"} for row in table if row and row[0] == end)
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("\nThe books balance.\n")


def test_the_ledger_says_why(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        store.add_cursor("central")
        torn = [Reject("message", "the line is\ntorn", b"12,") for _ in range(3)]
        odd = [Reject("field", f"humidity: {'long ' * 20}", b"12,x")]
        store.take_in(Intake("mast", messages=4, decoded=1, rejects=[*torn, *odd])).wait()
        for minute in range(2):
            store.store_reading(Weather, "a", START + timedelta(minutes=minute), {"temperature": 1.0}).wait()
        window = store.pending("central", 10)
        assert window is not None
        store.quarantine("central", window.rows, "[23514] too cold")
        store.acknowledge("central", window)
    text = output("ledger", tmp_path / "gateway.db")
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[lines.index("Reasons") + 3 :][:3] == [
        "mast     message rejected       3  the line is\\ntorn",
        "central  quarantined            2  [23514] too cold",
        "mast     field rejected         1  humidity: long long long long long long long…",
    ]
    assert max(map(len, text.splitlines())) <= 80
    hint = f"Why something was rejected: edgedepot ledger {tmp_path}/gateway.db"
    assert hint in output("status", tmp_path / "gateway.db").splitlines()
    assert json.loads(output("ledger", tmp_path / "gateway.db", "--json"))["reasons"] == [
        {"source": "mast", "what": "message", "reason": "the line is\ntorn", "count": 3},
        {"source": "mast", "what": "field", "reason": f"humidity: {'long ' * 20}", "count": 1},
        {"upstream": "central", "what": "quarantined", "reason": "[23514] too cold", "count": 2},
    ]


def test_ledger_as_json(folder: Path) -> None:
    books = json.loads(output("ledger", folder / "gateway.db", "--json"))
    assert (books["balanced"], books["problems"]) == (True, [])
    assert books["sources"]["direct"]["new"] == 5
    assert books["upstreams"]["central"]["pending"] == 5


def test_a_ledger_that_does_not_balance(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "gateway.db") as store:
        store.store_reading(Weather, "mast", START, {"temperature": 20.0})
    with sqlite3.connect(tmp_path / "gateway.db") as store_file:
        duplicates = 7
        store_file.execute(f"INSERT INTO _books VALUES (1, 0, 0, 0, 0, 0, 0, 0, {duplicates}, 0, 0, 0, 0)")
    store_file.close()
    done = edgedepot("ledger", tmp_path / "gateway.db")
    assert done.returncode == 1
    assert done.stdout.endswith(
        "source direct: 1 readings were decoded, 8 are accounted for; the difference lies in what was written down"
        " before row 1 of the journal\nThe books do not balance.\n"
    )
    done = edgedepot("ledger", tmp_path / "gateway.db", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["balanced"] is False


def test_status_of_a_store_that_is_written_by_one_that_does_not_answer(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof"):
        assert output("status", tmp_path / "gateway.db").startswith(
            f"Gateway roof does not answer: process {os.getpid()} writes its store and takes no commands, "
            "such as a script without a Gateway\n"
        )
        found = json.loads(output("status", tmp_path / "gateway.db", "--json"))
        assert (found["running"], found["pid"]) == (False, os.getpid())


def test_status_of_a_gateway_that_does_not_run(folder: Path) -> None:
    text = output("status", folder / "gateway.toml")
    assert text.startswith("Gateway roof is not running\n")
    assert "1 model, 2 devices, newest reading " in text
    assert "days ago" in text
    assert re.search(r"^central +5 +[\d.]+ (s|min|h|days) +0 +0$", text, re.MULTILINE)


def test_query_as_a_table(folder: Path) -> None:
    lines = output("query", folder / "gateway.toml", "weather", "--limit", "2").splitlines()
    assert [line.split() for line in lines] == [
        ["temperature"],
        ["device_id", "timestamp", "°C", "humidity", "raining", "note"],
        ["─" * len(lines[2])],
        ["mast", "2026-01-01T01:00:00+00:00", "23", "no"],
        ["mast", "2026-01-01T00:40:00+00:00", "22", "no"],
        ["2", "rows"],
    ]


def query_json(folder: Path, *options: str) -> Any:
    return json.loads(output("query", folder / "gateway.db", "weather", "--json", *options))


def test_query_as_json_has_everything(folder: Path) -> None:
    assert query_json(folder, "--order", "temperature", "--limit", "1") == [
        {
            "device_id": "cellar [b]",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "temperature": 1 / 3,
            "humidity": None,
            "raining": None,
            "note": 'a "b", c',
        }
    ]


def test_query_as_csv(folder: Path) -> None:
    options = ["--order", "temperature", "--fields", "temperature,raining,note", "--limit", "2", "--csv"]
    assert output("query", folder / "gateway.db", "weather", *options) == (
        "device_id,timestamp,temperature,raining,note\n"
        'cellar [b],2026-01-01T00:00:00+00:00,0.3333333333333333,,"a ""b"", c"\n'
        "mast,2026-01-01T00:00:00+00:00,20.0,false,\n"
    )


def test_a_name_in_brackets_is_no_style(folder: Path) -> None:
    assert "cellar [b]  " in output("query", folder / "gateway.db", "weather")


@pytest.mark.parametrize(
    ("options", "temperatures"),
    [
        (["--device", "mast"], [23, 22, 21, 20]),
        (["--device", "mast", "--order", "timestamp"], [20, 21, 22, 23]),
        (["--start", "2026-01-01T00:20:00Z", "--end", "2026-01-01T01:00:00+00:00"], [22, 21]),
        (["--start", "2026-01-01T01:40", "--tz", "Europe/Zurich"], [23, 22]),
        (["--start", "2026-01-01", "--device", "mast", "--tz", "Europe/Zurich", "--limit", "1"], [23]),
        (["--last", "1h"], []),
        (["--last", "5000d", "--device", "mast", "--limit", "1"], [23]),
    ],
)
def test_which_readings(folder: Path, options: list[str], temperatures: list[int]) -> None:
    assert [row["temperature"] for row in query_json(folder, *options)] == temperatures


def test_times_are_shown_in_the_zone(folder: Path) -> None:
    (row,) = query_json(folder, "--limit", "1", "--tz", "Asia/Kolkata")
    assert row["timestamp"] == "2026-01-01T06:30:00+05:30"


def test_one_figure(folder: Path) -> None:
    options = ["--function", "max", "--field", "temperature"]
    assert query_json(folder, *options) == [{"result": 23}]
    assert query_json(folder, *options, "--group-by", "device") == [
        {"device_id": "cellar [b]", "result": 1 / 3},
        {"device_id": "mast", "result": 23},
    ]
    lines = output("query", folder / "gateway.db", "weather", *options).splitlines()
    assert [line.strip() for line in lines if "─" not in line] == ["max temperature", "°C", "23", "1 row"]


def test_a_figure_for_each_interval(folder: Path) -> None:
    options = ["--field", "temperature", "--interval", "30m", "--device", "mast"]
    assert query_json(folder, *options, "--tz", "Asia/Kolkata") == [
        {"bucket": "2026-01-01T05:30:00+05:30", "result": 20.5},
        {"bucket": "2026-01-01T06:00:00+05:30", "result": 22},
        {"bucket": "2026-01-01T06:30:00+05:30", "result": 23},
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["wether"], 'no model "wether" (did you mean "weather"?); there are: weather'),
        (["weather", "--fields", "speed"], "Weather has no field 'speed'; its fields are temperature, "),
        (["weather", "--start", "soon"], '--start: found "soon", expected a time such as 2026-01-31T12:00:00+01:00'),
        (
            ["weather", "--end", "2026-01-01"],
            '--end: "2026-01-01" has no zone: write 2026-01-01T00:00:00Z or the like, or give --tz',
        ),
        (
            ["weather", "--start", "2026-01-02", "--end", "2026-01-01T23:00Z", "--tz", "UTC"],
            "--end: 2026-01-01T23:00Z is not after --start, 2026-01-02",
        ),
        (["weather", "--tz", "Zurich"], "time zone 'Zurich' is not known here (did you mean \"Europe/Zurich\"?)"),
        (["weather", "--tz", "Europe/Zürich"], "time zone 'Europe/Zürich' is not known here"),
        (["weather", "--last", "long"], "--last: found 'long', expected a duration"),
        (["weather", "--last", "1h", "--start", "2026-01-01T00:00:00Z"], "--last goes neither with --start nor with"),
        (["weather", "--interval", "1h"], "--interval goes with --field"),
        (["weather", "--function", "avg"], "--function goes with --field"),
        (["weather", "--group-by", "device"], "--group-by goes with --field"),
        (["weather", "--chart"], "--chart goes with --field"),
        (["weather", "--field", "temperature", "--fill", "null"], "--fill goes with --interval"),
        (["weather", "--field", "note"], "avg needs a float or int field; note is str"),
        (["weather", "--field", "note", "--function", "last", "--chart"], "--chart draws numbers"),
        (["weather", "--field", "speed"], "Weather has no field 'speed'"),
        (["weather", "--field", "temperature", "--interval", "1x"], "interval '1x' is not"),
        (["weather", "--field", "temperature", "--limit", "1"], "--fields, --limit and --order do not go with --field"),
        (["weather", "--field", "temperature", "--order", "note"], "--order do not go with --field"),
        (["weather", "--order", "speed"], "Weather has no field 'speed'"),
        (["weather", "--limit", "-1"], "Invalid value for '--limit'"),
    ],
)
def test_a_question_that_cannot_be_answered(folder: Path, options: list[str], expected: str) -> None:
    assert expected in complaint("query", folder / "gateway.db", *options)


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "gateway.db") as store:
        rows = [("mast", START + timedelta(seconds=index), {"temperature": 20.0}) for index in range(101)]
        store.store_readings(Weather, rows)
    done = edgedepot("query", tmp_path / "gateway.db", "weather")
    assert done.stdout.count("mast") == 100
    assert done.stderr == "The first 100; --limit shows more, --csv, --jsonl and --json show all.\n"
    assert output("query", tmp_path / "gateway.db", "weather", "--limit", "200").count("mast") == 101
    assert output("query", tmp_path / "gateway.db", "weather", "--csv").count("mast") == 101


def test_verify_says_what_changed_and_its_exit_code_does_too(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        store.store_readings(Weather, [("mast", START + timedelta(hours=n), {"temperature": n / 7}) for n in range(5)])
        store.fold()
        store.store_reading(Weather, "mast", START + timedelta(hours=9), {"temperature": 1.0})
    assert output("verify", "gateway.db", cwd=tmp_path) == (
        "gateway.db: nothing is wrong. 5 readings in 5 hours; 1 reading not in history yet\n"
    )
    with sqlite3.connect(tmp_path / "gateway.db") as file:
        file.execute("UPDATE _h_weather_1 SET c0 = c0 + 1e-15 WHERE c0 BETWEEN 0.4 AND 0.5")
        file.execute("DELETE FROM _j_1 WHERE seq < 5")  # or they would differ from those in history
    file.close()
    done = edgedepot("verify", "gateway.db", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "hours: weather mast 2026-01-01T03Z to 2026-01-01T04Z: its readings are not those that were stored",
        "gateway.db: 1 problem. 5 readings in 5 hours; 1 reading not in history yet",
    ]
    found = json.loads(edgedepot("verify", "gateway.db", "--json", cwd=tmp_path).stdout)
    assert found["sound"] is False
    (problem,) = found["problems"]
    assert problem["readings"]["device_id"] == "mast"
    assert problem["readings"]["count"] == 1


def test_a_flagged_reading_shows_its_flags_to_people(tmp_path: Path) -> None:
    """A value out of its range is one. CSV and JSON have what they always have."""

    class Boiler(Reading):
        temperature: float = Field(range=(0, 100))

    file = tmp_path / "gateway.db"
    with SQLiteStorage(file) as store:
        store.store_reading(Boiler, "a", START, {"temperature": 50.0}).wait()
        assert "quality" not in output("query", file, "boiler")
        store.store_reading(Boiler, "b", START, {"temperature": 999.0}).wait()
        head, _, first, second, _ = output("query", file, "boiler", "--order", "device_id").splitlines()
    assert head.split() == ["device_id", "timestamp", "temperature", "quality"]
    assert (first.split()[-1], second.split()[-1]) == ("50", "1")
    assert output("query", file, "boiler", "--csv").splitlines()[0] == "device_id,timestamp,temperature"
