"""`edgedepot quarantine` and `edgedepot upstream`, beside a gateway that runs in a process of its own, and without."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Field, Reading, SQLiteStorage
from tests.gateway.program import PROGRAM, Run, Start, complaint, output
from tests.gateway.program import run as edgedepot
from tests.gateway.scripted import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)
HOT = (3, 10)
"""The minutes of the readings that `Choosy` refuses."""


class Weather(Reading):
    temperature: float = Field(unit="°C", range=(-40, 80))
    note: str | None = None


def fill(folder: Path) -> None:
    """A store with 12 readings, 2 of them too hot, owed to an upstream that is not set up."""
    with SQLiteStorage(folder / "gateway.db", gateway_id="roof") as store:
        store.add_cursor("old")
        rows: list[Any] = [
            (
                "mast" if minute % 2 else "pump [7]",
                START + timedelta(minutes=minute),
                {"temperature": 900.5 if minute in HOT else 20.0, "note": 'a "b"' if minute == 3 else None},
            )
            for minute in range(12)
        ]
        store.store_readings(Weather, rows).wait()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    fill(tmp_path)
    return write_config(tmp_path)


def write_config(folder: Path) -> Path:
    file = folder / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n[upstreams.central]\n'
        'engine = "tests.gateway.choosy.Choosy"\npath = "central.db"\nmended = "mended"\n'
    )
    return file


@pytest.fixture
def gateway(site: Path, start: Start) -> Iterator[Run]:
    """A gateway that runs, when all that was pending is delivered or quarantined."""
    run = start(site)
    run.wait_for("is running")
    eventually(lambda: books(site)["pending"] == 0)
    yield run
    assert run.end() == 0


def books(file: Path, name: str = "central") -> dict[str, int]:
    found: dict[str, int] = json.loads(output("ledger", file, "--json"))["upstreams"].get(name, {"pending": -1})
    return found


def listed(file: Path, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output("quarantine", "list", file, "--json", *options))
    return found


def central(folder: Path) -> int:
    with SQLiteStorage(folder / "central.db", read_only=True) as store:
        return store.readings(Weather).count()


def settled(folder: Path) -> Path:
    """The file of a gateway that ran until two readings were quarantined, and runs no more."""
    fill(folder)
    file = write_config(folder)
    run = Run(file)
    try:
        run.wait_for("is running")
        eventually(lambda: books(file)["pending"] == 0)
        assert run.end() == 0
    finally:
        run.close()
    return file


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway's file for tests that change nothing."""
    return settled(tmp_path_factory.mktemp("quiet"))


# -- looking ----------------------------------------------------------------------------------------------------------


def test_list_as_a_table(quiet: Path) -> None:
    lines = output("quarantine", "list", quiet).splitlines()
    assert [line.split()[:5] for line in (lines[0], *lines[3:5])] == [
        ["number", "model", "device", "time", "refused"],
        ["11", "weather", "pump", "[7]", "2026-01-01T00:10:00+00:00"],
        ["4", "weather", "mast", "2026-01-01T00:03:00+00:00", lines[4].split()[4]],
    ]
    assert lines[2] == "central: 22003: numeric field overflow ..."
    assert lines[-2:] == ["2 readings", f"One whole, and what to do: edgedepot quarantine show {quiet} 11"]
    assert max(map(len, lines[:-1])) <= 80


def test_list_as_json(quiet: Path) -> None:
    second, first = listed(quiet)
    assert datetime.fromisoformat(first.pop("at")) > START
    assert first == {
        "upstream": "central",
        "number": 4,
        "measurement": "weather",
        "device_id": "mast",
        "timestamp": "2026-01-01T00:03:00+00:00",
        "quality": 1,
        "data": {"temperature": 900.5, "note": 'a "b"'},
        "reason": "22003: numeric field overflow\nDETAIL: A field with precision 5, scale 2.",
        "replayed": False,
    }
    assert second["number"] == 11


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], [11, 4]),
        (["--upstream", "central"], [11, 4]),
        (["--upstream", "old"], []),
        (["--model", "Weather"], [11, 4]),
        (["--model", "wind"], []),
        (["--device", "mast"], [4]),
        (["--start", "2026-01-01T00:03Z", "--end", "2026-01-01T00:10Z"], [4]),
        (["--start", "2026-01-01T01:04", "--tz", "Europe/Zurich"], [11]),
        (["--last", "1h"], []),
        (["--reason", "precision 5"], [11, 4]),
        (["--reason", "23505"], []),
        (["--limit", "1"], [11]),
    ],
)
def test_which(quiet: Path, options: list[str], numbers: list[int]) -> None:
    assert [row["number"] for row in listed(quiet, *options)] == numbers


def test_list_says_what_it_leaves_out(quiet: Path, tmp_path: Path) -> None:
    assert "The last 1 of 2; --limit shows more.\n" in output("quarantine", "list", quiet, "--limit", "1")
    assert output("quarantine", "list", quiet, "--device", "x") == "None of the 2 quarantined readings fits.\n"
    SQLiteStorage(tmp_path / "gateway.db").close()
    assert output("quarantine", "list", tmp_path / "gateway.db") == "Nothing is quarantined.\n"
    assert listed(tmp_path / "gateway.db") == []


def test_show(quiet: Path) -> None:
    text = output("quarantine", "show", quiet, "4", "--tz", "Europe/Zurich")
    assert re.sub(r"said, .* ago", "said, 3 s ago", text) == (
        "Reading 4, refused by central\n"
        "  model        weather\n"
        "  device       mast\n"
        "  time         2026-01-01T01:03:00+01:00\n"
        "  temperature  900.5 °C\n"
        '  note         "a \\"b\\""\n'
        "  quality      1 (out of range)\n"
        "\n"
        "central said, 3 s ago\n"
        "  22003: numeric field overflow\n"
        "  DETAIL: A field with precision 5, scale 2.\n"
        "\n"
        "What to do\n"
        "  Mend what central complains of, and have it sent once more:\n"
        f"    edgedepot quarantine replay {quiet} --upstream central --number 4\n"
        "  Without --number: all that it refused. Or give it up:\n"
        f"    edgedepot quarantine drop {quiet} --upstream central --number 4\n"
    )
    assert json.loads(output("quarantine", "show", quiet, "4", "--json")) == listed(quiet, "--device", "mast")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["quarantine", "show", "FILE", "5"], "reading 5 is not quarantined; `edgedepot quarantine list FILE` shows"),
        (["quarantine", "show", "FILE", "4", "--upstream", "old"], "reading 4 is not quarantined"),
        (["quarantine", "list", "FILE", "--upstream", "centrall"], 'no upstream "centrall" (did you mean "central"?)'),
        (["quarantine", "replay", "FILE", "--upstream", "centrall"], 'no upstream "centrall" (did you mean'),
        (["quarantine", "drop", "FILE", "--upstream", "centrall"], 'no upstream "centrall" (did you mean'),
        (["quarantine", "replay", "FILE", "--start", "2026-01-01"], '--start: "2026-01-01" has no zone'),
        (["quarantine", "replay", "FILE", "--device", "\udcff"], r"'\udcff' holds a lone surrogate"),
        (["quarantine", "replay", "FILE", "--wait", "long"], "--wait: found 'long', expected a duration"),
        (["quarantine", "replay", "FILE", "--number", "0"], "Invalid value for '--number'"),
        (["quarantine", "show", "FILE", "9" * 30], f"reading {'9' * 30} is not quarantined"),
        (["upstream", "remove", "FILE", "centrall"], 'no upstream "centrall" (did you mean "central"?)'),
    ],
)
def test_what_cannot_be_done(quiet: Path, command: list[str], expected: str) -> None:
    words = [str(quiet) if word == "FILE" else word for word in command]
    assert expected.replace("FILE", str(quiet)) in complaint(*words)


# -- with a gateway that runs ------------------------------------------------------------------------------------------


def test_replay_delivers_once_the_cause_is_mended(site: Path, gateway: Run) -> None:
    assert output("quarantine", "replay", site) == (
        "central: 2 readings to be sent once more\ncentral: 0 delivered, 2 refused again\n"
    )
    assert (books(site)["delivered"], books(site)["quarantined"], central(site.parent)) == (10, 2, 10)
    (site.parent / "mended").touch()
    assert output("quarantine", "replay", site, "--device", "mast") == (
        "central: 1 reading to be sent once more\ncentral: 1 delivered\n"
    )
    assert output("quarantine", "replay", site.parent / "gateway.db", "--number", "11") == (
        "central: 1 reading to be sent once more\ncentral: 1 delivered\n"
    )
    assert output("quarantine", "replay", site) == "No quarantined reading fits.\n"
    assert (books(site)["delivered"], books(site)["quarantined"], central(site.parent)) == (12, 0, 12)


def test_drop_is_counted(site: Path, gateway: Run) -> None:
    refused = edgedepot("quarantine", "drop", site, given="n\n")
    assert (refused.returncode, refused.stderr) == (1, "")
    assert refused.stdout == (
        "To be given up: 2 quarantined readings (central 2).\n"
        "No upstream gets what is given up, and the ledger counts it as deleted. The local\n"
        "store keeps it. Drop? [y/N]: Nothing was dropped.\n"
    )
    assert edgedepot("quarantine", "drop", site).returncode == 1, "no answer was taken for a yes"
    assert edgedepot("quarantine", "drop", site, "--device", "mast", given="y\n").stdout.endswith(
        "central: 1 reading dropped\n"
    )
    assert output("quarantine", "drop", site, "--yes") == "central: 1 reading dropped\n"
    assert output("quarantine", "drop", site, "--yes") == "No quarantined reading fits.\n"
    assert (books(site)["quarantined"], books(site)["deleted"]) == (0, 2)
    with SQLiteStorage(site.parent / "gateway.db", read_only=True) as store:
        assert store.readings(Weather).count() == 12


def test_remove_stops_the_worker_and_says_that_the_file_names_it_still(site: Path, gateway: Run) -> None:
    refused = edgedepot("upstream", "remove", site, "central", given="\n")
    assert refused.returncode == 1
    assert refused.stdout == (
        "central is still owed 0 readings, and 2 are quarantined for it.\n"
        "It will get none of them any more.\n"
        f"{site} still names it: unless [upstreams.central] goes from there, the next start adds it again.\n"
        "Remove upstream central? [y/N]: Nothing was removed.\n"
    )
    done = edgedepot("upstream", "remove", site, "central", "--yes")
    assert (done.returncode, done.stdout) == (
        0,
        "central was removed. It was owed 0 readings, and 2 were quarantined for it.\n",
    )
    assert done.stderr == f"{site} still names it: unless that changes, the next start adds it again.\n"
    gateway.wait_for("upstream central was removed; pending for it were 0 readings")
    assert list(json.loads(output("upstream", "list", site, "--json"))) == ["old"]
    assert output("upstream", "remove", site, "old", "--yes").startswith("old was removed. It was owed 12 readings,")
    assert output("upstream", "list", site) == "Nothing is forwarded.\n"


def test_remove_by_the_stores_file(site: Path, gateway: Run) -> None:
    done = edgedepot("upstream", "remove", site.parent / "gateway.db", "central", "--yes")
    assert done.stderr == (
        "What set up the running gateway still names it: unless that changes, the next start adds it again.\n"
    )


def test_what_was_removed_begins_anew(site: Path, start: Start) -> None:
    run = start(site)
    run.wait_for("is running")
    eventually(lambda: books(site)["pending"] == 0)
    assert edgedepot("upstream", "remove", site, "central", "--yes").returncode == 0
    assert run.end() == 0
    again = start(site)
    again.wait_for("is running")
    eventually(lambda: books(site)["pending"] == 0)
    assert (books(site)["delivered"], books(site)["quarantined"], central(site.parent)) == (10, 2, 10)
    assert again.end() == 0


def test_status_says_how_the_upstreams_stand_and_what_to_do(site: Path, gateway: Run) -> None:
    lines = output("status", site).splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("upstream "))
    rows = [re.split(r"  +", line) for line in (lines[head], *lines[head + 2 : head + 4])]
    assert re.fullmatch(r"[\d.]+ (s|min|h|days)", rows[2].pop(3))  # of central nothing waits
    assert rows[0].pop(3) == "behind"
    assert [row[:5] for row in rows] == [
        ["upstream", "state", "pending", "quarantined", "delivered"],
        ["central", "idle", "0", "2", "10"],
        ["old", "not set up", "12", "0", "0"],
    ]
    assert lines[head + 4 :] == [
        "central refused 2 readings for good.",
        f"    See why, and what to do: edgedepot quarantine list {site} --upstream central",
        "old is not set up any more, and 12 readings wait for it.",
        f"    Set it up again, or forget it: edgedepot upstream remove {site} old",
    ]
    assert output("upstream", "list", site).splitlines()[-4:] == lines[head + 4 :]


def test_status_of_an_upstream_that_is_away(site: Path, start: Start) -> None:
    site.write_text(site.read_text() + '[upstreams.far]\nengine = "timescaledb"\nurl = "postgresql://127.0.0.1:1/x"\n')
    run = start(site)
    run.wait_for("upstream far does not take readings")
    found = json.loads(output("upstream", "list", site, "--json"))["far"]
    assert (found["live"]["state"], found["books"]["pending"]) == ("waiting", 12)
    text = output("status", site)
    assert "far: no connection with postgresql://127.0.0.1:1/x" in text
    assert "Its readings wait, and go out when it takes them. It is tried again " in text
    assert run.end() == 0


@pytest.mark.parametrize(
    ("misconfigured", "state", "expected"),
    [
        (
            "true",
            "misconfigured",
            ["far: 42501: permission denied for table weather", "    Mend that. Nothing is lost: its readings wait"],
        ),
        (
            "false",
            "waiting",
            [
                "far: KeyError: 'weather'",
                "    If it stays so, somebody has to see to it. Nothing is lost, and it is tried again ",
            ],
        ),
    ],
)
def test_status_of_an_upstream_that_somebody_has_to_look_after(
    site: Path, start: Start, misconfigured: str, state: str, expected: list[str]
) -> None:
    engine = "tests.gateway.choosy.Barred"
    site.write_text(
        site.read_text() + f'[upstreams.far]\nengine = "{engine}"\npath = "far.db"\nmisconfigured = {misconfigured}\n'
    )
    run = start(site)
    run.wait_for("upstream far")

    def upstream() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(output("upstream", "list", site, "--json"))["far"]
        return found

    eventually(lambda: upstream()["live"]["alarm"] is not None)
    eventually(lambda: upstream()["live"]["state"] == state)
    eventually(lambda: expected[1] in output("status", site))  # for a moment it is tried, and waits for nothing
    assert f"{expected[0]}\n" in output("status", site)
    assert upstream()["books"]["pending"] == 12
    assert run.end() == 0


def test_status_of_a_gateway_that_hangs(site: Path, gateway: Run) -> None:
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        text = output("status", site)
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    assert text.startswith(f"Gateway roof does not answer: {site.parent}/gateway.db.sock: no answer within 5 s")
    assert "Upstreams" in text
    assert output("status", site).startswith("Gateway roof is running")


def test_a_gateway_that_is_told_nonsense_by_many_goes_on(site: Path, gateway: Run) -> None:
    """Clients that flood it, hang and vanish, while others ask for what makes sense."""
    path = str(site.parent / "gateway.db.sock")
    hanging = []
    for number in range(60):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        with contextlib.suppress(OSError):  # it does not read to the end what is too long
            client.sendall((b"[" * 500_000, b'{"version": 1, "do": "drop"', b"\xff\n", b"")[number % 4])
        if number % 2:
            client.close()
        else:
            hanging.append(client)
    assert output("quarantine", "drop", site, "--number", "4", "--yes") == "central: 1 reading dropped\n"
    for client in hanging:
        client.close()
    assert [row["number"] for row in listed(site)] == [11]
    assert not gateway.said("Traceback")


def test_two_at_once(site: Path, gateway: Run) -> None:
    """Whoever comes second finds nothing left; nothing is counted twice."""
    (site.parent / "mended").touch()
    command = [str(PROGRAM), "quarantine", "replay", str(site)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "superseded" not in "".join(said)
    assert sum(int(found) for text in said for found in re.findall(r"(\d+) readings? to be sent", text)) == 2
    eventually(lambda: books(site)["delivered"] == 12)


# -- without ----------------------------------------------------------------------------------------------------------


def test_replay_and_drop_of_a_gateway_that_does_not_run(tmp_path: Path, start: Start) -> None:
    file = settled(tmp_path)
    assert output("quarantine", "replay", file, "--device", "mast") == (
        "central: 1 reading to be sent once more\nThey go out when the gateway runs.\n"
    )
    assert listed(file, "--device", "mast")[0]["replayed"] is True
    assert ", is sent again" in output("quarantine", "list", file)
    assert "It is being sent once more." in output("quarantine", "show", file, "4")
    assert output("quarantine", "drop", file, "--yes") == "central: 1 reading dropped\n"
    assert (books(file)["pending"], books(file)["deleted"]) == (1, 1)
    (tmp_path / "mended").touch()
    run = start(file)
    eventually(lambda: books(file)["delivered"] == 11)
    assert run.end() == 0


def test_a_replayed_reading_that_changed_meanwhile_is_superseded(tmp_path: Path) -> None:
    file = settled(tmp_path)
    with SQLiteStorage(tmp_path / "gateway.db") as store:
        store.store_reading(Weather, "mast", START + timedelta(minutes=3), {"temperature": 30.0})
    assert output("quarantine", "replay", file) == (
        "central: 1 reading to be sent once more, 1 superseded by newer versions\nThey go out when the gateway runs.\n"
    )


def test_remove_without_a_gateway(tmp_path: Path) -> None:
    file = settled(tmp_path)
    done = edgedepot("upstream", "remove", file, "central", "--yes")
    assert (done.returncode, done.stderr) == (
        0,
        f"{file} still names it: unless that changes, the next start adds it again.\n",
    )
    assert output("upstream", "remove", file, "old", "--yes").startswith("old was removed. It was owed 12 readings,")
    assert json.loads(output("ledger", file, "--json"))["upstreams"] == {}


def test_a_program_that_writes_the_store_and_takes_no_commands(tmp_path: Path) -> None:
    file = settled(tmp_path)
    with SQLiteStorage(tmp_path / "gateway.db"):
        for command in (("quarantine", "replay", file), ("upstream", "remove", file, "central", "--yes")):
            assert complaint(*command, code=1) == (
                f"{tmp_path}/gateway.db is being written by process {os.getpid()}, which takes no commands; "
                "stop it first\n"
            )


def test_a_socket_that_a_killed_gateway_left(site: Path, start: Start) -> None:
    run = start(site)
    run.wait_for("is running")
    eventually(lambda: books(site)["pending"] == 0)
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert (site.parent / "gateway.db.sock").is_socket()
    assert output("quarantine", "drop", site, "--number", "4", "--yes") == "central: 1 reading dropped\n"
    again = start(site)
    again.wait_for("is running")
    assert output("quarantine", "drop", site, "--yes") == "central: 1 reading dropped\n"
    assert again.end() == 0
    assert not (site.parent / "gateway.db.sock").exists()


def test_no_store_is_made_by_looking_for_one(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    for command in (("quarantine", "replay", file), ("upstream", "remove", file, "central", "--yes")):
        assert complaint(*command) == (
            f"{tmp_path}/gateway.db does not exist; the first `edgedepot run {file}` makes it\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_hears_whom_the_gateway_listens_to(start: Start) -> None:
    """Also where files and folder are open to all: reading goes, changing does not."""
    folder = Path(tempfile.mkdtemp())
    try:
        fill(folder)
        file = write_config(folder)
        run = start(file)
        run.wait_for("is running")
        eventually(lambda: books(file)["pending"] == 0)
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o666)
        words = "the gateway that is running takes commands from root only, and this is nobody: try it as that user"
        code = (
            "import os, sys, sqlite3, click, rich.console, rich.table\n"  # now, while it may read them
            "import edgedepot.cli.quarantine, edgedepot.config, edgedepot.storage.sqlite.storage\n"
            "from edgedepot.cli import main\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "main()\n"
        )
        command = [str(PROGRAM.with_name("python")), "-c", code, "quarantine", "drop", str(file), "--yes"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(words)
        command[3:] = ["status", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Gateway roof does not answer: {words}")
        assert "central" in done.stdout
        assert books(file)["quarantined"] == 2
        assert run.end() == 0
    finally:
        shutil.rmtree(folder)
