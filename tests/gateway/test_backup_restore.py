"""`edgedepot backup` and `restore`, and what `status` and `ledger` say of a store that was salvaged."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from tests.gateway.program import PROGRAM, Start, complaint, output
from tests.gateway.program import run as edgedepot
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file
from tests.storage.sqlite.damaged import rows


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A gateway whose store has 20,000 readings, and an upstream that is away."""
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        store.add_cursor("away")
        store.store_readings(Weather, rows(0, 20_000)).wait()
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "roof"\n[storage]\npath = "gateway.db"\n'
        '[upstreams.away]\nengine = "timescaledb"\nurl = "postgresql://nobody@127.0.0.1:1/none"\n'
    )
    return file


def pending(file: Path) -> int:
    return int(json.loads(output("ledger", file, "--json"))["upstreams"]["away"]["pending"])


def more(folder: Path, first: int, last: int) -> Path:
    """A file of readings to import."""
    file = folder / f"{first}.csv"
    lines = [
        f"{device},{moment.isoformat()},{data['temperature']},{data['count']}\n"
        for device, moment, data in rows(first, last)
    ]
    file.write_text("device_id,timestamp,temperature,count\n" + "".join(lines))
    return file


def test_a_backup_beside_a_running_gateway_that_takes_in_more(site: Path, start: Start) -> None:
    run = start(site)
    run.wait_for("is running")
    done: list[str] = []
    file = more(site.parent, 20_000, 40_000)
    importing = threading.Thread(target=lambda: done.append(output("import", site, "weather", file)))
    importing.start()
    copies = [site.parent / f"copy {number}.db" for number in range(3)]
    for copy in copies:
        assert output("backup", site, copy).startswith(f"{copy}: ")
    importing.join()
    assert done == ["20,000 readings: 20,000 new or merged, 0 duplicates\n"]
    assert pending(site) == 40_000
    assert run.end() == 0
    for copy in copies:
        audit_file(copy)
        assert json.loads(output("ledger", copy, "--json"))["problems"] == []
        assert 20_000 <= pending(copy) <= 40_000
    assert not [one for one in site.parent.iterdir() if one.name.endswith(".part")]


def test_what_backup_refuses(site: Path) -> None:
    copy = site.parent / "copy.db"
    output("backup", site, copy)
    before = copy.read_bytes()
    assert "exists" in complaint("backup", site, copy)
    assert copy.read_bytes() == before
    assert "nowhere is no folder" in complaint("backup", site, site.parent / "nowhere" / "copy.db")
    assert "No such file" in complaint("backup", site.parent / "none.db", site.parent / "b.db")


def test_a_terminal_shows_how_far_it_is(site: Path) -> None:
    """On stderr alone, and it is gone afterwards; elsewhere there is none (`output` says so)."""
    copy = site.parent / "copy.db"
    for command in (["backup", site, copy], ["restore", copy, site.parent / "new.db"]):
        mine, theirs = pty.openpty()
        process = subprocess.Popen(
            [str(PROGRAM), *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        shown = read_all(mine)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert str(command[0]) in shown
        assert "━" in shown
        assert "MB" in shown
        assert b"\x1b" not in said


def read_all(terminal: int) -> str:
    """What is written to a terminal until nobody has it open."""
    found = b""
    while True:
        try:
            found += os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            os.close(terminal)
            return found.decode()


def test_restore_puts_the_store_aside_and_what_was_pending_back(site: Path, start: Start) -> None:
    folder, copy = site.parent, site.parent / "copy.db"
    output("backup", site, copy)
    output("import", site, "weather", more(folder, 20_000, 20_500))
    assert "--force" in complaint("restore", copy, site)
    assert pending(site) == 20_500

    run = start(site)
    run.wait_for("is running")
    words = f"is being written by process {run.process.pid}; stop it first\n"
    assert complaint("restore", "--force", copy, site, code=1).endswith(words)
    assert pending(site) == 20_500
    assert run.end() == 0

    done = edgedepot("restore", "--force", copy, site)
    assert done.returncode == 0
    assert "restored from a backup" in done.stderr  # the store's log says so too
    said = done.stdout.splitlines()
    assert said[0] == f"{folder / 'gateway.db'}: 20,000 readings pending"
    assert said[1].startswith(f"What was there is {folder / 'gateway.db.replaced-'}")
    assert pending(Path(said[1].removeprefix("What was there is "))) == 20_500
    assert pending(site) == 20_000
    assert "restored from a backup" in output("status", site)
    audit_file(folder / "gateway.db")
    again = start(site)
    again.wait_for("is running")
    assert json.loads(output("status", site, "--json"))["upstreams"]["away"]["books"]["pending"] == 20_000
    assert again.end() == 0


def test_what_restore_refuses(site: Path) -> None:
    text = site.parent / "text"
    text.write_text("no store")
    complaint("restore", "--force", text, site)
    complaint("restore", "--force", site.parent / "none.db", site)
    assert pending(site) == 20_000
    complaint("restore", text, site.parent / "new.db")
    complaint("restore", site.parent / "none.db", site.parent / "new.db")
    assert list(site.parent.glob("new.db*")) == []


def test_status_and_ledger_say_what_a_salvage_found(site: Path) -> None:
    store = site.parent / "gateway.db"
    with store.open("r+b") as file:
        file.seek(store.stat().st_size // 2 // 4096 * 4096)
        file.write(bytes(4096))
    SQLiteStorage(store).close()
    with SQLiteStorage(store, read_only=True) as opened:
        found = opened.salvaged
        if found is None:  # the page was not needed to open it: a query meets it
            pytest.fail("the damage was not met")
        assert found.put_aside is not None
    for command in ("status", "ledger"):
        plain = " ".join(edgedepot(command, site).stdout.split())
        assert f"{found.lost}" in plain.replace(",", "")
        assert found.put_aside in plain
    assert found.put_aside in json.loads(output("status", site, "--json"))["salvaged"]["report"]
    books = json.loads(output("ledger", site, "--json"))
    assert books["problems"] == []
    assert books["upstreams"]["away"]["lost"] > 0
