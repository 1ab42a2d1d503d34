"""The supervisor: when it tries again, what it says, what it counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from edgedepot.drivers.base import Sink
from edgedepot.storage.clock import SystemClock
from edgedepot.storage.errors import ConfigError, TransportError
from edgedepot.supervisor import Supervisor
from tests.gateway.scripted import ScriptedDriver, SkippingClock, Step, eventually

Supervise = Callable[[ScriptedDriver], Supervisor]


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "store.db", flush_interval="20 ms") as store:
        yield store


@pytest.fixture
def supervise(store: SQLiteStorage, clock: SkippingClock) -> Iterator[Supervise]:
    """Start a supervisor, wait until its driver is through, stop both after the test."""
    made: list[Supervisor] = []

    def start(driver: ScriptedDriver, random: float = 0.5) -> Supervisor:
        supervisor = Supervisor("mast", driver, store, clock, lambda: random)
        made.append(supervisor)
        supervisor.start()
        eventually(lambda: driver.is_through)
        return supervisor

    yield start
    for supervisor in made:
        supervisor.stop()
        assert supervisor.join(20)


def fail(error: Exception) -> Step:
    def step(sink: Sink) -> None:
        raise error

    return step


AWAY = fail(TransportError("no such port"))


@pytest.mark.parametrize(("random", "expected"), [(0.0, 0.2), (1.0, 60.0)])
def test_waits_are_drawn_from_a_range_that_grows_up_to_a_minute(
    store: SQLiteStorage, clock: SkippingClock, random: float, expected: float
) -> None:
    driver = ScriptedDriver([AWAY] * 12)
    supervisor = Supervisor("mast", driver, store, clock, lambda: random)
    supervisor.start()
    eventually(lambda: driver.is_through)
    supervisor.stop()
    assert supervisor.join(20)
    assert len(clock.waits) == 12
    assert [round(wait, 6) for wait in clock.waits] == sorted(round(wait, 6) for wait in clock.waits)
    assert clock.waits[0] <= 0.4
    assert clock.waits[-1] == pytest.approx(expected)


def test_a_run_with_data_after_ten_seconds_makes_the_next_wait_short(
    supervise: Supervise, clock: SkippingClock
) -> None:
    def work(sink: Sink) -> None:
        clock.advance(10)
        driver.hear(sink)
        raise TransportError("unplugged")

    driver = ScriptedDriver([AWAY] * 8 + [work, AWAY])
    supervise(driver)
    assert clock.waits[7] > 10
    assert clock.waits[8] < 0.4


@pytest.mark.parametrize("heard_after", [None, 0.0, 9.9])
def test_a_run_that_only_looked_well_does_not(
    supervise: Supervise, clock: SkippingClock, heard_after: float | None
) -> None:
    def work(sink: Sink) -> None:
        if heard_after is not None:
            clock.advance(heard_after)
            driver.hear(sink)
        clock.advance(600)
        raise TransportError("unplugged")

    driver = ScriptedDriver([AWAY] * 8 + [work, AWAY])
    supervise(driver)
    assert clock.waits[8] > clock.waits[7]


def test_one_line_when_it_goes_and_one_when_it_is_back(
    supervise: Supervise, clock: SkippingClock, caplog: pytest.LogCaptureFixture
) -> None:
    def work(sink: Sink) -> None:
        driver.hear(sink)
        driver.hear(sink)
        raise TransportError("unplugged")

    caplog.set_level(logging.INFO, "edgedepot.gateway")
    driver = ScriptedDriver([AWAY, AWAY, AWAY, work, AWAY])
    supervise(driver)
    assert [record.getMessage() for record in caplog.records] == [
        "mast: is away (no such port); it is tried again until it is back",
        f"mast: is back, after {sum(clock.waits[:3]):.0f} s",
        "mast: is away (unplugged); it is tried again until it is back",
    ]


def test_a_fault_is_counted_and_logged_once_with_its_traceback(
    supervise: Supervise, caplog: pytest.LogCaptureFixture
) -> None:
    driver = ScriptedDriver([fail(KeyError("speed")), fail(KeyError("speed")), fail(ZeroDivisionError("by zero"))])
    status = supervise(driver).status()
    assert (status["faults"], status["restarts"]) == (3, 3)
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info and record.exc_info[0] for record in faults] == [KeyError, ZeroDivisionError]


def test_an_error_of_ours_is_no_fault(supervise: Supervise) -> None:
    driver = ScriptedDriver([fail(ConfigError("ca_file: not there any more"))])
    status = supervise(driver).status()
    assert (status["faults"], status["restarts"]) == (0, 1)
    assert status["last_error"] == "ca_file: not there any more"


def test_a_driver_that_ends_by_itself_is_started_again(supervise: Supervise) -> None:
    driver = ScriptedDriver([lambda sink: None])
    status = supervise(driver).status()
    assert driver.runs == 2
    assert (status["restarts"], status["last_error"]) == (1, "it ended by itself")


def test_the_status_while_all_is_well(supervise: Supervise, clock: SkippingClock) -> None:
    status = supervise(ScriptedDriver()).status()
    assert status == {
        "state": "running",
        "state_age": 0.0,
        "last_message_age": None,
        "last_error": None,
        "retry_in": None,
        "restarts": 0,
        "faults": 0,
        "counters": {},
    }


def test_the_status_while_it_is_away_and_a_stop_that_does_not_wait(store: SQLiteStorage) -> None:
    """On the machine's own clock: with the longest wait ahead, the stop ends it."""
    driver = ScriptedDriver([AWAY] * 100)
    draws = iter([0.0] * 3 + [1.0] * 100)
    supervisor = Supervisor("mast", driver, store, SystemClock(), lambda: next(draws))
    supervisor.start()
    eventually(lambda: supervisor.status()["restarts"] == 4)
    status = supervisor.status()
    assert status["state"] == "away"
    assert 0.5 < status["state_age"] < 20
    assert 1 < status["retry_in"] <= 3.2
    supervisor.stop()
    assert supervisor.join(0.9)
    assert driver.runs == 4


def test_the_end_of_the_store_is_the_end(store: SQLiteStorage, caplog: pytest.LogCaptureFixture) -> None:
    store.close()

    def work(sink: Sink) -> None:
        driver.hear(sink)

    driver = ScriptedDriver([work])
    supervisor = Supervisor("mast", driver, store, SkippingClock(), lambda: 0.5)
    supervisor.start()
    assert supervisor.join(20)
    assert driver.runs == 1
    assert supervisor.status()["faults"] == 0
    assert "the local store was closed" in caplog.text
