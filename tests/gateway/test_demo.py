"""`edgedepot demo`, as `make demo` runs it, only shorter."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg

from edgedepot import SQLiteStorage
from tests.servers.process import free_port

PROGRAM = Path(sys.executable).with_name("edgedepot")


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it without a terminal, with its temporary folder in `folder`."""
    command = [str(PROGRAM), "demo", "--seconds", "4", *options]
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def arrived(text: str) -> int:
    """How many readings the devices sent and the upstream holds: the same number."""
    found = re.search(
        r"The devices sent ([\d,]+) good readings and \d+ broken lines?\.\nThe upstream holds ([\d,]+)\.", text
    )
    assert found, text
    sent, held = (int(number.replace(",", "")) for number in found.groups())
    assert sent == held
    return sent


def test_it_ends_with_balanced_books_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert arrived(done.stdout) > 200
    headings = [line for line in done.stdout.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "starting:",
        "all is well:",
        "the upstream is away, readings wait in the store:",
        "the upstream is back and catches up:",
        "the devices are done, the rest goes out:",
        "everything has arrived:",
    ]
    assert "upstream central is back" in done.stdout
    assert "The books balance." in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_can_be_looked_into(tmp_path: Path) -> None:
    done = demo(tmp_path, "--keep")
    assert done.returncode == 0, done
    (folder,) = tmp_path.iterdir()
    assert f"edgedepot query {folder}/gateway.db weatherstation" in done.stdout
    with (
        SQLiteStorage(folder / "gateway.db", read_only=True) as store,
        SQLiteStorage(folder / "upstream.db", read_only=True) as upstream,
    ):
        assert [device.device_id for device in store.devices()] == [f"bed-{n}" for n in range(1, 9)] + ["mast"]
        for name, model in store.models().items():
            assert upstream.query_readings(upstream.models()[name]) == store.query_readings(model)


def test_a_real_timescaledb_as_upstream(tmp_path: Path, timescale_url: str) -> None:
    done = demo(tmp_path, "--upstream", timescale_url)
    assert done.returncode == 0, done
    with psycopg.connect(timescale_url) as connection:
        rows = connection.execute(
            "SELECT (SELECT count(*) FROM bed) + (SELECT count(*) FROM weatherstation)"
        ).fetchone()
    assert rows == (arrived(done.stdout),)


def test_an_upstream_that_does_not_answer(tmp_path: Path) -> None:
    done = demo(tmp_path, "--upstream", f"postgresql://127.0.0.1:{free_port()}/iot")
    assert done.returncode == 1
    assert done.stderr.startswith("the upstream cannot be used: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_upstream_that_is_no_address(tmp_path: Path) -> None:
    done = demo(tmp_path, "--upstream", "timescale")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "TimescaleDB url 'timescale': expected postgresql://user:password@host:5432/database\n"


def test_a_demo_that_is_terminated_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([str(PROGRAM), "demo"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        while "all is well" not in process.stdout.readline():
            assert process.poll() is None
        assert list(tmp_path.iterdir())
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_there_is_a_live_picture(tmp_path: Path) -> None:
    ours, terminal = os.openpty()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    command = [str(PROGRAM), "demo", "--seconds", "3"]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        seen = bytearray()
        while True:
            try:
                seen += os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
        code = process.wait(60)
    os.close(ours)
    text = seen.decode()
    assert code == 0, text
    assert text.count("edgedepot demo") > 8
    assert "✗ cut" in text
    assert "█" in text
    assert "The books balance." in text
