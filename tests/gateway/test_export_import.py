"""`edgedepot export` and `import`: what goes out comes in again, to the bit, and what is no reading is said."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Field, Reading, SQLiteStorage
from edgedepot.storage.base import Version
from tests.gateway.program import PROGRAM, complaint, on_terminal, output, run

START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = [
    *(
        None,
        "",
        " ",
        ",",
        '"',
        '""',
        '","',
        '"",""',
        "a\nb",
        "a\r\nb",
        "\r",
        "\n",
        'a "b", c',
        "null",
        "NaN",
        "true",
        "1",
    ),
    *("\\N", "'", "\t", "\x1b[2J", "\u2028", "\x85", "\ufeff", "日本語", "🌡️", "é", "é", "=1+1", "x" * 1024),
]
FLOATS = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, -1e-7, 1e22, 123456789.123456789, 2.0**53, 20.0]
INTEGERS = [0, -1, 2**63 - 1, -(2**63), None, 10**15]


class Everything(Reading):
    value: float | None = Field(unit="°C", range=(-40, 80))
    number: int | None = None
    flag: bool | None = None
    text: str | None = None
    other: str | None = None


FIELDS = [f"--field={name}={kind}?" for name, kind in
          (("value", "float"), ("number", "int"), ("flag", "bool"), ("text", "str"), ("other", "str"))]  # fmt: skip


def fill(path: Path) -> None:
    """Every text with every neighbour, and every number, of devices with names of their own."""
    rows = [
        Version(
            ("mast", 'cellar "b", 1', "日本\n語", "-", " ")[index % 5],
            START + timedelta(microseconds=index * 1_000_001),
            {
                "value": FLOATS[index % len(FLOATS)],
                "number": INTEGERS[index % len(INTEGERS)],
                "flag": (True, False, None)[index % 3],
                "text": text,
                "other": other,
            },
            (None, 2, 16)[index % 3],
        )
        for index, (text, other) in enumerate((text, other) for text in TEXTS for other in TEXTS)
    ]
    with SQLiteStorage(path) as store:
        receipt = store.store_readings(Everything, rows)
        assert (receipt.accepted, receipt.refused) == (len(TEXTS) ** 2, ())


def contents(path: Path) -> list[str]:
    """All readings of a store; by repr, which tells 0.0 from -0.0 and 1 from True."""
    names = [*(spec.name for spec in Everything.__fields__), "quality"]
    with SQLiteStorage(path, read_only=True) as store:
        return [repr(row) for row in store.iter_readings(Everything, fields=names, order="timestamp")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "gateway.db"
    fill(path)
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_is_exported_is_imported_exactly(store: Path, tmp_path: Path, form: str) -> None:
    file, copy = tmp_path / f"all.{form}", tmp_path / "copy.db"
    number = f"{len(TEXTS) ** 2:,}"
    assert output("export", store, "everything", "-o", file).startswith(f"{number} readings in {file}, ")
    assert os.listdir(tmp_path) == [file.name]
    assert output("import", copy, "everything", file, "--create", *FIELDS) == (
        f"{number} readings: {number} new, 0 merged, 0 duplicates\n"
    )
    assert contents(copy) == contents(store)
    assert output("import", copy, "everything", file) == (f"{number} readings: 0 new, 0 merged, {number} duplicates\n")
    output("export", copy, "everything", "-o", tmp_path / f"again.{form}")
    assert (tmp_path / f"again.{form}").read_bytes() == file.read_bytes()


def test_the_formats_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with SQLiteStorage(path) as store:
        data = {"value": 81.0, "flag": True, "text": "", "other": 'a "b"\nc'}
        store.store_readings(
            Everything, [("mast", START, data), ("mast", START + timedelta(seconds=0.5), {"number": 7})]
        )
    assert output("export", path, "everything") == (
        "device_id,timestamp,value,number,flag,text,other,quality\n"
        'mast,2026-01-01T00:00:00+00:00,81.0,,true,"","a ""b""\nc",1\n'
        "mast,2026-01-01T00:00:00.500000+00:00,,7,,,,\n"
    )
    assert output(
        "export", path, "everything", "--format", "jsonl", "--fields", "text,number", "--tz", "Asia/Tokyo"
    ) == (
        '{"device_id": "mast", "timestamp": "2026-01-01T09:00:00+09:00", "text": "", "number": null}\n'
        '{"device_id": "mast", "timestamp": "2026-01-01T09:00:00.500000+09:00", "text": null, "number": 7}\n'
    )


def test_which_readings_are_exported(store: Path) -> None:
    options = ["--device", "mast", "--start", "2026-01-01T00:00:05Z", "--end", "2026-01-01T00:00:16Z"]
    lines = output("export", store, "everything", "--fields", "number", *options).splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == [
        "2026-01-01T00:00:05.000005+00:00",
        "2026-01-01T00:00:10.000010+00:00",
        "2026-01-01T00:00:15.000015+00:00",
    ]


def test_an_export_of_nothing_has_its_head_line(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "none.csv"
    assert (
        output("export", store, "everything", "--end", "1970-01-01T00Z", "-o", file)
        == f"0 readings in {file}, 57 bytes\n"
    )
    assert file.read_text() == "device_id,timestamp,value,number,flag,text,other,quality\n"
    assert output("import", store.with_name("empty.db"), "everything", file, "--create", *FIELDS) == (
        "0 readings: 0 new, 0 merged, 0 duplicates\n"
    )


def test_an_export_that_fails_leaves_the_file_as_it_was(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    file.write_text("before")
    assert "Everything has no field 'speed'" in complaint(
        "export", store, "everything", "--fields", "speed", "-o", file
    )
    assert (file.read_text(), os.listdir(tmp_path)) == ("before", ["all.csv"])
    assert complaint("export", store, "everything", "-o", tmp_path / "no" / "all.csv") == (
        f"{tmp_path}/no/all.csv: cannot be opened: No such file or directory\n"
    )
    assert complaint("export", store, "everything", "-o", "/dev/full", code=1) == (
        "/dev/full: cannot be written: No space left on device\n"
    )


def test_a_reader_that_goes_away_early_is_no_trouble(store: Path) -> None:
    with subprocess.Popen(
        [PROGRAM, "export", store, "everything"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"device_id,")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


# -- files of other programs ------------------------------------------------------------------------------------------

WEATHER = ["--field=temperature=float", "--field=raining=bool?", "--field=count=int?", "--field=note=str?"]


def take_in(tmp_path: Path, text: str, *options: str, form: str = "csv", code: int = 0) -> tuple[list[Any], list[str]]:
    """Import a text into a new store: the rows that are there then, and the lines on stderr."""
    more = ["--format", form, "--create", *WEATHER, *options]
    done = run("import", tmp_path / "gateway.db", "weather", "-", *more, given=text)
    assert done.returncode == code, done
    rows = (
        output("query", tmp_path / "gateway.db", "weather", "--json", "--order", "timestamp")
        if " 0 new" not in done.stdout
        else "[]"
    )
    return [list(row.values()) for row in json.loads(rows)], done.stderr.splitlines()


def test_columns_of_other_names(tmp_path: Path) -> None:
    text = "\ufeffNr;x,Zeit, Temperature ,Regen\r\n1,2026-01-01T01:00+01:00,20.5,ON\r\n\r\n"
    text += "2,2026-01-01 00:01:00Z, -3e0 ,0\r\n"
    options = ["--map", "Zeit=timestamp", "--map", "Regen=raining", "--skip", "Nr;x", "--device", "mast"]
    assert take_in(tmp_path, text, *options) == (
        [
            ["mast", "2026-01-01T00:00:00+00:00", 20.5, True, None, None],
            ["mast", "2026-01-01T00:01:00+00:00", -3.0, False, None, None],
        ],
        [],
    )


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("1767225600", "2026-01-01T00:00:00+00:00"),
        ("1767225600.123456", "2026-01-01T00:00:00.123456+00:00"),
        ("1767225600123", "2026-01-01T00:00:00.123000+00:00"),
        ("1767225600123.4567", "2026-01-01T00:00:00.123456+00:00"),
        ("1767225600123456", "2026-01-01T00:00:00.123456+00:00"),
        ("1767225600123456789", "2026-01-01T00:00:00.123456+00:00"),
        ("1.7672256e9", "2026-01-01T00:00:00+00:00"),
        ("2026-01-01T05:30:00.123456+05:30", "2026-01-01T00:00:00.123456+00:00"),
        ("20260101T000000Z", "2026-01-01T00:00:00+00:00"),
        ("1850-01-01T00:00:00Z", "1850-01-01T00:00:00+00:00"),
    ],
)
def test_times(tmp_path: Path, written: str, moment: str) -> None:
    rows, _ = take_in(tmp_path, f"device_id,timestamp,temperature\nmast,{written},20\n")
    assert rows[0][1] == moment


def test_times_in_json_may_be_numbers(tmp_path: Path) -> None:
    lines = [
        '{"device_id": "mast", "timestamp": 1767225600.123456, "temperature": 20}',
        '{"device_id": "mast", "timestamp": 1767225601, "temperature": "21.5", "note": null}',
    ]
    rows, _ = take_in(tmp_path, "\n".join(lines), form="jsonl")
    assert [row[1:3] for row in rows] == [
        ["2026-01-01T00:00:00.123456+00:00", 20.0],
        ["2026-01-01T00:00:01+00:00", 21.5],
    ]


def test_local_times_are_taken_in_the_zone_that_is_given(tmp_path: Path) -> None:
    rows, _ = take_in(tmp_path, "device_id,timestamp,temperature\nm,2026-07-01 12:00,1\n", "--tz", "Europe/Zurich")
    assert rows[0][1] == "2026-07-01T10:00:00+00:00"


BAD = """device_id,timestamp,temperature,raining,count,note
mast,2026-01-01T00:00:00Z,1,,,
mast,2026-01-01T00:00:01Z,warm,perhaps,1.5,
,2026-01-01T00:00:02Z,1,,,
mast,,1,,,
mast,2026-01-01T00:00:03,1,,,
mast,20260101,1,,,
mast,tomorrow,1,,,
mast,2026-01-01T00:00:04Z,,,,
mast,2026-01-01T00:00:05Z,nan,,,
mast,2026-01-01T00:00:06Z,1,,9223372036854775808,
mast,2026-01-01T00:00:07Z,1
mast,2026-01-01T00:00:08Z,1,,,"a
b" c
mast,0001-01-01T00:00:00+14:00,1,,,
mast,2026-01-01T00:00:09Z,9,,,"two
lines"
mast,2026-01-01T00:00:10Z,10,,,"never
closed,
"""


def test_bad_rows_are_listed_and_good_ones_stored(tmp_path: Path) -> None:
    rows, said = take_in(tmp_path, BAD, code=1)
    assert [row[2] for row in rows] == [1.0, 9.0]
    assert said == [
        "-:3: temperature is str 'warm', expected float; raining is str 'perhaps', expected bool;"
        " count is str '1.5', expected int",
        "-:4: device_id is missing",
        "-:5: timestamp is missing",
        "-:6: timestamp is '2026-01-01T00:00:03', which has no zone: give --tz",
        "-:7: timestamp is 20260101, which is no time since March 1973 in s, ms, µs or ns",
        "-:8: timestamp is 'tomorrow', expected ISO 8601 or a number since 1970",
        "-:10: temperature is str 'nan', expected float",
        "-:11: count is 9223372036854775808, beyond 64 bits",
        "-:12: has 3 cells, expected 6",
        "-:13: is no CSV: ',' expected after '\"' (up to line 14)",
        "-:18: is no CSV: unexpected end of data (up to line 19)",
        "-:9: weather: temperature is missing",
        "-:15: timestamp 0001-01-01T00:00:00+14:00 is outside the years 1 to 9999 in UTC",
        "13 bad rows",
    ]


BAD_JSON = [
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:00Z", "temperature": 1}',
    "{",
    "[1]",
    "",
    "null",
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:01Z", "temperature": NaN}',
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:02Z", "temperature": 1, "speed": 2}',
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:03Z", "temperature": true}',
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:04Z", "temperature": 1, "note": "\\ud800"}',
    '{"device_id": 5, "timestamp": [], "temperature": 1}',
    '{"device_id": "mast", "Device_ID": "x", "timestamp": "2026-01-01T00:00:05Z", "temperature": 1}',
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:06Z", "temperature": 1, "quality": 64}',
    "[" * 100_000,
    '{"count": ' + "1" * 5000 + "}",
    "x" * 2_000_000,
    '{"device_id": "mast", "timestamp": "2026-01-01T00:00:07Z", "temperature": 7, "count": null}',
]


def test_bad_json_is_listed_in_a_file(tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.txt"
    rows, said = take_in(tmp_path, "\n".join(BAD_JSON), "--rejects", str(rejects), form="jsonl", code=1)
    assert [row[2] for row in rows] == [1.0, 7.0]
    assert said == [f"13 bad rows, listed in {rejects}"]
    starts = [
        *(
            "-:2: is no JSON: Expecting property name",
            "-:3: is list, expected an object",
            "-:5: is NoneType, expected an",
        ),
        *("-:6: temperature is nan, expected a finite number", "-:7: weather has no 'speed'"),
        *("-:8: temperature is True, expected float", "-:9: note holds a lone surrogate"),
        "-:10: device 5 is neither a text nor something with a device_id; timestamp is list, expected ISO 8601",
        "-:11: device_id is there twice",
        "-:12: quality is 64, expected a sum of 1, 2, 4, 8, 16",
        *("-:13: is no JSON: ", "-:14: is no JSON: ", "-:15: is a line of more than 1048576 bytes"),
    ]
    lines = rejects.read_text().splitlines()
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_only_the_first_bad_rows_go_to_stderr(tmp_path: Path) -> None:
    text = "device_id,timestamp,temperature\n" + "mast,2026-01-01T00:00:00Z,\n" * 150
    _, said = take_in(tmp_path, text, code=1)
    assert (said[99], *said[100:]) == (
        "-:101: weather: temperature is missing",
        "There are more; --rejects FILE lists all.",
        "150 bad rows",
    )


def test_bytes_that_are_no_utf8_are_a_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "latin.csv"
    head = b"device_id,timestamp,temperature,note\n"
    file.write_bytes(head + b"mast,2026-01-01T00:00:00Z,1,gr\xfcn\nmast,2026-01-01T00:00:01Z,1,green\n")
    done = run("import", tmp_path / "gateway.db", "weather", file, "--create", *WEATHER)
    assert (done.returncode, done.stdout) == (1, "1 reading: 1 new, 0 merged, 0 duplicates\n")
    assert done.stderr == f"{file}:2: note holds a lone surrogate, which no UTF-8 text can\n1 bad row\n"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("", [], "no column is device_id\nno column is timestamp\n"),
        ("device_id,timestamp,temprature\n", [], "column 'temprature': weather has no 'temprature' (did you mean"),
        ("device_id,timestamp,a,b\n", ["--map=a=note", "--map=b=note"], "more than one column is note\n"),
        (
            "device_id,timestamp\n",
            ["--map=a=note", "--skip=b"],
            "column 'a': named by --map or --skip, but not there\n",
        ),
        ("device_id,timestamp\n", ["--map=a=speed"], "--map: weather has no 'speed'"),
        ("device_id,timestamp\n", ["--map=a"], '--map: found "a", expected NAME=...'),
        ('"device_id,timestamp\n', [], "line 1 is no CSV: unexpected end of data, expected the columns' names\n"),
        ("device_id,timestamp\n", ["--tz", "Mars"], "time zone 'Mars' is not known here"),
        (
            "device_id,timestamp\n",
            ["--field=x=complex"],
            '--field x: found "complex", expected float, int, bool or str',
        ),
        ("device_id,timestamp\n", ["--field=time=int"], "reading model weather: field name 'time' is reserved"),
    ],
)
def test_a_wrong_head_line_or_option(tmp_path: Path, text: str, options: Sequence[str], expected: str) -> None:
    more = ["--format=csv", "--create", *WEATHER, *options]
    assert expected in complaint("import", tmp_path / "gateway.db", "weather", "-", *more, given=text)


def test_the_model(tmp_path: Path, store: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("device_id,timestamp,value\nmast,2026-02-01T00:00:00Z,1\n")
    (tmp_path / "gateway.toml").write_text(
        '[storage]\npath = "gateway.db"\n[models.Everything]\nvalue = { type = "float", range = [0, 0.5] }\n'
        '[drivers.broken]\ntype = "nothing"\n'
    )
    expected = "1 reading: 1 new, 0 merged, 0 duplicates\n"
    assert output("import", "gateway.toml", "everything", file, cwd=tmp_path) == expected
    assert (
        output("import", "other.db", "EVERYTHING", file, "--create", "--model-from=gateway.toml", cwd=tmp_path)
        == expected
    )
    for copy in ("gateway.db", "other.db"):
        assert output("export", copy, "everything", cwd=tmp_path).endswith(",1.0,1\n"), "flagged as out of range"
    assert 'gateway.toml: no model "wind"; there are: everything; or use' in complaint(
        "import", "gateway.toml", "wind", file, cwd=tmp_path
    )
    assert 'gateway.db: no model "wind"; there are: everything; or use' in complaint(
        "import", "gateway.db", "wind", file, cwd=tmp_path
    )
    assert "--create goes with --model-from or --field" in complaint(
        "import", "no.db", "x", file, "--create", cwd=tmp_path
    )
    assert "keeps everything.value as float" in complaint(
        "import", "gateway.db", "everything", file, "--field=value=int", cwd=tmp_path
    )


def test_merged_rows_are_counted(tmp_path: Path) -> None:
    head = "device_id,timestamp,temperature,count\n"
    take_in(tmp_path, head + "a,2026-01-01T00:00:00Z,1,\nb,2026-01-01T00:00:00Z,1,2\n")
    text = head + "a,2026-01-01T00:00:00Z,1,5\nb,2026-01-01T00:00:00Z,1,\nc,2026-01-01T00:00:00Z,1,\n"
    assert output("import", tmp_path / "gateway.db", "weather", "-", "--format=csv", given=text) == (
        "3 readings: 1 new, 1 merged, 1 duplicate\n"
    )


def test_a_store_that_a_program_writes(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with SQLiteStorage(path) as writing:
        writing.store_reading(Everything, "mast", START, {"value": 1.0}).wait()
        assert complaint("import", path, "everything", "-", "--format=csv", code=1, given="") == (
            f"{path} is being written by process {os.getpid()}, which takes no commands; stop it first\n"
        )
        assert output("export", path, "everything").count("mast") == 1


@pytest.mark.parametrize("name", ["all.xlsx", "all.csv.gz"])
def test_a_format_is_asked_for_where_the_name_does_not_say(store: Path, tmp_path: Path, name: str) -> None:
    assert "--format is needed" in complaint("import", store, "everything", "-", given="")
    said = complaint("export", store, "everything", "-o", tmp_path / name)
    assert "--format is needed, as --output's name ends neither with .csv nor with .jsonl" in said
    assert "900 readings in" in output("export", store, "everything", "-o", tmp_path / name, "--format", "csv")


def test_a_terminal_gets_progress_bars(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    assert "export everything" in on_terminal(tmp_path, "export", str(store), "everything", "-o", str(file))
    assert "import everything" in on_terminal(
        tmp_path, "import", str(tmp_path / "copy.db"), "everything", str(file), "--create", *FIELDS
    )
