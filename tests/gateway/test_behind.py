"""Status answers: how far behind, for how long still, what holds it up, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedepot import Gateway, Reading, SQLiteStorage
from edgedepot.cli import program
from edgedepot.cli.behind import say_behind
from edgedepot.storage.clock import ManualClock
from edgedepot.sync.progress import Progress
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
    assert found["spent_today"] == 0
    result = CliRunner().invoke(program, ["status", str(tmp_path / "gateway.db")])
    assert result.exit_code == 0
    assert "central is 2 h behind, by 50 readings; goes on in 8 h." in result.stdout
    assert "It is not one of its hours" in result.stdout
    assert "Of the day's budget 0 bytes are spent." in result.stdout


@pytest.mark.parametrize(
    ("live", "words"),
    [
        ({"state": "sending", "limited_by": "link", "lag": 300.0, "eta": 120.0}, ["5 min behind", "2 min", "averages"]),
        ({"state": "held", "limited_by": "budget", "lag": 5.0, "eta": None}, ["does not become less", "max_per_day"]),
        ({"state": "waiting", "limited_by": "server", "lag": 300.0, "eta": None}, ["its own log"]),
        ({"state": "sending", "limited_by": None, "lag": 5.0, "eta": 1.0}, []),
    ],
)
def test_what_is_said(live: dict[str, object], words: list[str]) -> None:
    lines = " ".join(text for _, text in say_behind("central", {"retry_in": None, **live}, {"pending": 7}))
    assert all(word in lines for word in words)
    assert bool(lines) == bool(words)
    assert not list(say_behind("central", {"retry_in": None, **live}, {"pending": 0}))


def test_time_left() -> None:
    progress = Progress()
    assert progress.eta(0.0, 10) is None
    for second in range(0, 400, 2):
        progress.note(float(second), 10_000 - 10 * second)
    assert progress.eta(400.0, 6_000) == pytest.approx(600, rel=0.02)
    assert progress.eta(400.0, 0) == 0
    assert progress.eta(400.0, 20_000) is None
