"""Status answers: how far behind, for how long still, what holds it up, what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgedepot import Gateway, Reading, SQLiteStorage
from edgedepot.cli import program
from edgedepot.cli.behind import say_behind, say_held, say_trouble
from edgedepot.storage.clock import ManualClock
from tests.sync.scripted import ScriptedUpstream, eventually


class Mast(Reading):
    speed: float


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose upstream has hours, and it is not one of them; 50 readings of two hours ago wait."""
    clock = ManualClock(datetime(2026, 5, 4, 12, tzinfo=UTC))
    store = SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof", clock=clock)
    old = datetime(2026, 5, 4, 10, tzinfo=UTC)
    store.store_readings(Mast, [("mast", old + timedelta(seconds=n), {"speed": 1.0}) for n in range(50)]).wait()
    gateway = Gateway(store)
    gateway.forward_to("central", ScriptedUpstream(), windows=["22:00-06:00 Europe/Zurich"], max_per_day="10 MB")
    with gateway:
        yield gateway


def test_a_window(closed: Gateway, tmp_path: Path) -> None:
    eventually(lambda: closed.status()["upstreams"]["central"]["state"] == "held")
    found = closed.status()["upstreams"]["central"]
    assert (found["limited_by"], found["pending"], found["lag"]) == ("window", 50, 7200)
    assert found["retry_in"] == pytest.approx(8 * 3600, abs=1)
    assert (found["spent_today"], found["per_day"]) == (0, 10_000_000)
    result = CliRunner().invoke(program, ["status", str(tmp_path / "gateway.db")])
    assert result.exit_code == 0
    assert "central is 2 h behind, by 50 readings; goes on in 8 h." in result.stdout
    assert "It is not one of its hours" in result.stdout
    assert "Of the day's budget of 10.0 MB, 0 bytes are spent." in result.stdout


@pytest.mark.parametrize(
    ("live", "words"),
    [
        (
            {"state": "sending", "limited_by": "link or server", "lag": 300.0, "eta": 120.0},
            ["5 min behind", "2 min", "If the server is busy", "averages"],
        ),
        ({"state": "sending", "limited_by": "link", "lag": 300.0, "eta": 120.0}, ["link carries", "A faster link"]),
        ({"state": "sending", "limited_by": "server", "lag": 300.0, "eta": 9.0}, ["the link has room", "Its own log"]),
        ({"state": "sending", "limited_by": "backend", "lag": 300.0, "eta": 9.0}, ["as its storage takes it"]),
        ({"state": "sending", "limited_by": "gateway", "lag": 300.0, "eta": 9.0}, ["this machine", "processor"]),
        ({"state": "waiting", "limited_by": "link", "lag": 300.0, "eta": None}, ["no link", "last error"]),
        (
            {"state": "held", "limited_by": "clock", "lag": 5.0, "eta": None, "delivered": 9},
            ["by 7 readings; nothing goes out until somebody knows the time. ", "Nobody knows the time yet", "NTP"],
        ),
        ({"state": "sending", "limited_by": None, "lag": 300.0, "eta": None}, ["nobody can tell yet for how long."]),
        ({"state": "stopped", "limited_by": None, "lag": 300.0, "eta": None, "delivered": 9}, ["nothing goes out."]),
        (
            {"state": "held", "limited_by": "window", "lag": 300.0, "eta": 40_000.0, "retry_in": 3600.0},
            ["goes on in 60 min, and is up to date in 11 h", "not one of its hours"],
        ),
        (
            {"state": "held", "limited_by": "budget", "lag": 5.0, "eta": None, "delivered": 9},
            ["does not become less", "max_per_day"],
        ),
        ({"state": "held", "limited_by": "rate", "lag": 300.0, "eta": None}, ["raise max_rate,"]),
        ({"state": "sending", "limited_by": "rate", "lag": 300.0, "eta": None}, ["raise max_rate,"]),
        ({"state": "held", "limited_by": "rate", "lag": 5.0, "eta": 1.0}, []),
        ({"state": "waiting", "limited_by": "server", "lag": 300.0, "eta": None}, ["its own log"]),
        ({"state": "sending", "limited_by": None, "lag": 5.0, "eta": 1.0}, []),
        ({"state": "idle", "limited_by": None, "lag": 3_900.0, "eta": None}, []),
    ],
)
def test_what_is_said(live: dict[str, object], words: list[str]) -> None:
    live = {"retry_in": None, "delivered": 0, "per_day": None, **live}
    lines = " ".join(text for _, text in say_behind("central", live, {"pending": 7}))
    assert all(word in lines for word in words)
    assert bool(lines) == bool(words)
    assert not list(say_behind("central", live, {"pending": 0}))


def test_what_a_person_has_to_mend_is_said_as_the_last_error_alone() -> None:
    live = {"state": "misconfigured", "limited_by": "server", "lag": 300.0, "eta": None, "per_day": None}
    ((_, text),) = say_behind("central", live, {"pending": 7})
    assert text == "central is 5 min behind, by 7 readings; nothing goes out."


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("the store cannot be written: database or disk is full", "Make room on its device"),
        ("the store cannot be written: disk I/O error (Read-only file system)", "mount it again"),
        ("the store cannot be written: disk I/O error (Input/output error)", "dmesg. What was stored is there"),
        ("the store has reached its limit of 9 bytes (keep_bytes) and takes no readings until", None),
    ],
)
def test_what_is_said_of_the_local_store(trouble: str, words: str | None) -> None:
    said, *more = (text for _, text in say_trouble(trouble))
    assert said == trouble
    assert [words is not None and words in line for line in more] == [True] * (words is not None)


def test_what_is_said_of_readings_that_are_held_back() -> None:
    said = {trusted: " ".join(text for _, text in say_held(2, trusted)) for trusted in (True, False, None)}
    assert 'With uncertain_times = "release"' in said[True]
    assert "Held back: 2 readings, until somebody knows the time." in said[False] == said[None]
    assert not list(say_held(0, False))


def test_of_a_gateway_that_does_not_run(tmp_path: Path) -> None:
    """The store knows how far behind an upstream is; whether somebody forwards it does not, where a script has it."""
    path = tmp_path / "gateway.db"
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.add_cursor("central")
        old = datetime.now(UTC) - timedelta(hours=3)
        store.store_readings(Mast, [("mast", old + timedelta(seconds=n), {"speed": 1.0}) for n in range(50)]).wait()
        text = said(path)
        assert ["central", "50", "3", "h", "0", "0"] in [line.split() for line in text.splitlines()]
        assert "Nothing forwards" not in text
    text = said(path)
    assert ["central", "50", "3", "h", "0", "0"] in [line.split() for line in text.splitlines()]
    assert "Nothing forwards now: what is pending goes out when the gateway runs." in text
    found = json.loads(said(path, "--json"))["upstreams"]["central"]
    assert found["lag"] == pytest.approx(10_800, abs=120)
    with SQLiteStorage(path, gateway_id="roof") as store:
        window = store.pending("central", 100)
        assert window is not None
        store.acknowledge("central", window)
    assert ["central", "0", "0", "50"] in [line.split() for line in said(path).splitlines()]
    assert json.loads(said(path, "--json"))["upstreams"]["central"]["lag"] == 0.0


def said(path: Path, *options: str) -> str:
    result = CliRunner().invoke(program, ["status", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def poor(tmp_path: Path) -> Path:
    """A store of which the upstream gets some minutes as averages, and of others nothing."""
    path = tmp_path / "gateway.db"
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = ManualClock(start)
    limits: dict[str, Any] = {"keep": "2 days", "keep_pending": False, "piece_rows": 10}
    with SQLiteStorage(path, gateway_id="roof", clock=clock, **limits) as store:
        store.add_cursor("central")
        for day in range(4):
            moments = [start + timedelta(days=day, seconds=number) for number in range(90)]
            store.store_readings(Mast, [("mast", moment, {"speed": 1.0}) for moment in moments])
            store.fold()
        assert store.thin(start + timedelta(days=2)) == 2 * (59 + 29)
        clock.advance(3 * 86_400)
        store.retain()
    return path


def test_what_had_no_room(poor: Path) -> None:
    text = CliRunner().invoke(program, ["ledger", str(poor)]).stdout
    assert "central: 88 readings thinned, of 2026-01-02T00:00Z to 2026-01-02T00:02Z\n" in text
    assert "central: 2 readings evicted, of 2026-01-01T00:00Z to 2026-01-01T00:01Z\n" in text
    found = json.loads(CliRunner().invoke(program, ["ledger", str(poor), "--json"]).stdout)["given_up"]
    assert [(one["upstream"], one["what"], one["rows"]) for one in found] == [
        ("central", "thinned", 88),
        ("central", "thinned", 88),
        ("central", "evicted", 2),
    ]
    assert found[-1]["start"] == "2026-01-01T00:00:59+00:00"
    assert found[-1]["end"] == "2026-01-01T00:01:29.000001+00:00"
    assert found[-1]["at"] == "2026-01-04T00:00:00+00:00"
    text = " ".join(CliRunner().invoke(program, ["status", str(poor)]).stdout.split())
    assert "central does not get 2 readings of 2026-01-01 00:00Z to 2026-01-01 00:01Z: evicted" in text
    assert "thinned to their minutes' averages" in text
    assert "allow it more (keep_bytes, keep)" in text
    assert "History of mast from 2026-01-0" in text
