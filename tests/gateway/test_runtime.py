"""`Gateway`: what it takes, its order of stopping, what it says about itself."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgedepot import (
    ConfigError,
    Gateway,
    InvalidValue,
    SQLiteStorage,
    StorageBusy,
    StorageError,
    TimescaleDBStorage,
)
from edgedepot.control import ask, socket_path
from edgedepot.drivers.base import Sink
from edgedepot.requests import Status
from edgedepot.storage.base import BaseStorage, StoreRow
from edgedepot.storage.buffer import EVERYTHING, Choice, Start
from edgedepot.storage.errors import NotSupported
from tests.gateway.scripted import ScriptedDriver, Weather, eventually
from tests.gateway.third_party import ListStorage

NAME = "expected 1 to 63 letters, digits, _, . and -, starting with a letter or a digit"


class Chatty(ScriptedDriver):
    """Takes readings in until it is stopped, and waits for no receipt; one more after the stop, as drivers may."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def run(self, sink: Sink) -> None:
        while not self._stopping.wait(0.0005):
            self._take(sink)
        self._take(sink)
        self.stopped.set()

    def _take(self, sink: Sink) -> None:
        self.hear(sink)
        self.taken += 1


def readings(path: Path) -> int:
    with SQLiteStorage(path, read_only=True) as store:
        found = store.aggregate(Weather, "temperature", "count")
    assert isinstance(found, dict)
    count: int = found["result"]
    return count


def test_nothing_that_was_taken_in_is_lost_by_a_stop(tmp_path: Path) -> None:
    driver = Chatty()
    gateway = Gateway(SQLiteStorage(tmp_path / "gateway.db", flush_interval="1d"))
    gateway.add("mast", driver)
    with gateway:
        eventually(lambda: driver.taken > 50)
    assert driver.stopped.is_set()
    assert readings(tmp_path / "gateway.db") == driver.taken


def test_what_comes_in_goes_upstream(tmp_path: Path) -> None:
    driver = Chatty()
    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    upstream = SQLiteStorage(tmp_path / "central.db")
    gateway.add("mast", driver)
    gateway.forward_to("central", upstream)
    with gateway:
        eventually(lambda: gateway.status()["upstreams"]["central"]["delivered"] > 10)
    assert upstream.gateway_id == "roof"
    with SQLiteStorage(tmp_path / "gateway.db", read_only=True) as store:
        books = store.ledger()
    assert books.problems == []
    assert books.sources["mast"]["new"] == driver.taken
    assert books.upstreams["central"]["delivered"] == readings(tmp_path / "central.db")


def test_a_new_address_keeps_the_backlog(tmp_path: Path) -> None:
    """What an upstream has received is known by its name."""

    def run(upstream: BaseStorage, hour: int, state: str, pending: int) -> None:
        store = SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof")
        gateway = Gateway(store)
        gateway.forward_to("central", upstream)
        rows: list[StoreRow] = [
            ("mast", datetime(2026, 1, 1, hour, minute, tzinfo=UTC), {"temperature": hour}) for minute in range(5)
        ]
        with gateway:
            store.store_readings(Weather, rows).wait()
            eventually(lambda: store.ledger().upstreams["central"]["pending"] == pending)
            eventually(lambda: gateway.status()["upstreams"]["central"]["state"] == state)

    run(SQLiteStorage(tmp_path / "old.db"), 1, "idle", 0)
    run(TimescaleDBStorage("postgresql://nobody@127.0.0.1:1/none"), 2, "waiting", 5)
    run(SQLiteStorage(tmp_path / "new.db"), 3, "idle", 0)
    for name, hours in (("old.db", {1}), ("new.db", {2, 3})):
        with SQLiteStorage(tmp_path / name, read_only=True) as store:
            assert {row["temperature"] for row in store.query_readings(Weather)} == hours
    with SQLiteStorage(tmp_path / "gateway.db", read_only=True) as store:
        assert store.ledger().upstreams["central"]["delivered"] == 15
        assert store.ledger().balanced
    assert (readings(tmp_path / "old.db"), readings(tmp_path / "new.db")) == (5, 10)


def test_the_order_of_a_stop(tmp_path: Path) -> None:
    """Each part still has what it needs when its turn comes."""
    events: list[str] = []

    class LastWord(ScriptedDriver):
        def run(self, sink: Sink) -> None:
            super().run(sink)
            self.hear(sink).wait("durable", 20)
            events.append("driver done, its last reading durable")

    class Telling(SQLiteStorage):
        def flush(self) -> None:
            super().flush()
            events.append("store flushed")

        def close(self) -> None:
            super().close()
            events.append("store closed")

    class Upstream(ListStorage):
        def close(self) -> None:
            events.append("upstream closed")

    gateway = Gateway(Telling(tmp_path / "gateway.db", gateway_id="roof"))
    gateway.add("mast", LastWord())
    gateway.forward_to("central", Upstream())
    with gateway:
        pass
    assert events == ["driver done, its last reading durable", "store flushed", "upstream closed", "store closed"]


def test_run_ends_when_another_thread_stops_it(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway.db")
    driver = ScriptedDriver()
    gateway.add("mast", driver)
    runner = threading.Thread(target=gateway.run)
    runner.start()
    eventually(lambda: driver.runs == 1)
    gateway.stop()
    runner.join(20)
    assert not runner.is_alive()
    gateway.stop()
    SQLiteStorage(tmp_path / "gateway.db").close()


def test_a_gateway_runs_once(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway.db")
    with gateway, pytest.raises(ConfigError, match="before: make a new one"):
        gateway.start()
    with pytest.raises(ConfigError, match="before: make a new one"):
        gateway.start()


def test_a_stop_without_a_start_lets_go_of_the_store(tmp_path: Path) -> None:
    Gateway(tmp_path / "gateway.db").stop()
    SQLiteStorage(tmp_path / "gateway.db").close()


def test_a_start_that_fails_undoes_what_it_did(tmp_path: Path) -> None:
    class NoWatching(SQLiteStorage):
        def add_cursor(self, name: str, start: Start = "oldest", choice: Choice = EVERYTHING) -> None:
            raise StorageError("the disk is gone")

    driver = ScriptedDriver()
    gateway = Gateway(NoWatching(tmp_path / "gateway.db", gateway_id="roof"))
    gateway.add("mast", driver)
    gateway.forward_to("central", ListStorage())
    with pytest.raises(StorageError, match="the disk is gone"):
        gateway.start()
    assert driver.runs == 0
    assert not socket_path(tmp_path / "gateway.db").exists()
    SQLiteStorage(tmp_path / "gateway.db").close()


def test_the_log_of_a_life(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgedepot.gateway")
    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    gateway.add("mast", ScriptedDriver())
    gateway.add("garden", ScriptedDriver())
    gateway.forward_to("central", ListStorage())
    with gateway:
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "gateway roof is running: 2 drivers, 1 upstream",
        "gateway roof stopped; pending: 0 for central",
    ]


def test_pending_readings_of_an_upstream_that_is_not_set_up_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SQLiteStorage(tmp_path / "gateway.db", gateway_id="roof") as store:
        store.add_cursor("old")
        store.store_reading(Weather, "mast", None, {"temperature": 20.0})
    with Gateway(tmp_path / "gateway.db"):
        pass
    assert "upstream old is not set up any more; pending for it: 1 reading" in caplog.text


def test_status_while_it_runs(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    driver = ScriptedDriver([lambda sink: driver.say(sink)])
    gateway.add("mast", driver)
    gateway.forward_to("central", ListStorage())
    with gateway:
        eventually(lambda: gateway.status()["upstreams"]["central"]["delivered"] == 1)
        status = ask(socket_path(tmp_path / "gateway.db"), Status())
    assert status is not None
    assert status["gateway_id"] == "roof"
    assert status["store"]["status"] == "pass"
    assert status["drivers"]["mast"]["restarts"] == 1
    central = status["upstreams"]["central"]
    assert (central["pending"], central["delivered"], central["last_error"]) == (0, 1, None)
    assert json.loads(json.dumps(gateway.status()))["upstreams"]["central"]["state"] == "stopped"


def test_an_upstream_that_does_not_answer_is_not_removed_before_it_does(tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Slow(ListStorage):
        def store_reading(self, *arguments: object) -> None:
            asked.set()
            assert answer.wait(60)

    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    gateway.forward_to("central", Slow())
    with gateway:
        gateway.store.store_reading(Weather, "mast", None, {"temperature": 20.0})
        assert asked.wait(20)
        with pytest.raises(StorageBusy, match="upstream central: its answer to the last request is awaited still"):
            gateway.remove_upstream("central")
        assert gateway.status()["upstreams"]["central"]["pending"] == 1
        answer.set()
        assert gateway.remove_upstream("central") == (0, 0, True)
        assert gateway.status()["upstreams"] == {}
        with pytest.raises(InvalidValue, match='no upstream "central"; the store knows none'):
            gateway.remove_upstream("central")


def test_an_upstream_that_is_removed_is_closed_and_the_others_go_on(tmp_path: Path) -> None:
    closed: list[str] = []

    class Upstream(ListStorage):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    for name in ("one", "two"):
        gateway.forward_to(name, Upstream(name))
    with gateway:
        assert gateway.remove_upstream("one") == (0, 0, True)
        assert closed == ["one"]
        gateway.store.store_reading(Weather, "mast", None, {"temperature": 20.0})
        eventually(lambda: gateway.status()["upstreams"]["two"]["delivered"] == 1)
    assert closed == ["one", "two"]


def test_a_store_without_upstreams_has_none_to_remove() -> None:
    gateway = Gateway(ListStorage())
    with gateway, pytest.raises(NotSupported, match="a ListStorage has no upstreams"):
        gateway.remove_upstream("central")


def two_drivers(gateway: Gateway) -> None:
    gateway.add("mast", ScriptedDriver())
    gateway.add("mast", ScriptedDriver())


def two_upstreams(gateway: Gateway) -> None:
    gateway.forward_to("central", ListStorage())
    gateway.forward_to("central", ListStorage())


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (two_drivers, "driver 'mast': there is one of that name already"),
        (two_upstreams, "upstream 'central': there is one of that name already"),
        (lambda gateway: gateway.add("", ScriptedDriver()), f"driver '': {NAME}"),
        (lambda gateway: gateway.add("a/b", ScriptedDriver()), f"driver 'a/b': {NAME}"),
        (lambda gateway: gateway.forward_to("a b", ListStorage()), f"upstream 'a b': {NAME}"),
        (
            lambda gateway: gateway.add("direct", ScriptedDriver()),
            "driver 'direct': readings that Python code stores itself are booked under that name, expected another",
        ),
        (
            lambda gateway: gateway.add("mast", "serial"),
            "driver 'mast': found str, expected a Driver, such as MqttDriver",
        ),
        (
            lambda gateway: gateway.forward_to("central", ListStorage(), start="soon"),
            'upstream \'central\': start: found "soon", expected "oldest", "now" or a time with its zone, such as '
            "2026-01-31T12:00:00+01:00",
        ),
        (
            lambda gateway: gateway.forward_to("central", ListStorage(), models="weather"),
            "upstream 'central': models: found 'weather', expected a list of reading models, such as [WeatherStation]; "
            "leave it out to forward all",
        ),
        (
            lambda gateway: gateway.forward_to("central", gateway.store),
            "upstream 'central': is the local store itself, expected another storage",
        ),
    ],
)
def test_what_it_does_not_take(tmp_path: Path, do: Callable[[Gateway], None], expected: str) -> None:
    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    with pytest.raises(ConfigError) as caught:
        do(gateway)
    gateway.stop()
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda path: Gateway(path).forward_to("central", ListStorage()),
            "upstream 'central': the local store has no gateway_id, by which upstreams tell gateways apart; "
            'expected one, such as SQLiteStorage(path, gateway_id="farm-3")',
        ),
        (
            lambda path: Gateway(ListStorage()).forward_to("central", ListStorage()),
            "upstream 'central': cannot forward from a ListStorage, expected a local store, such as SQLiteStorage",
        ),
        (
            lambda path: Gateway(3),  # type: ignore[arg-type]
            "store: found int, expected a path or a storage such as SQLiteStorage",
        ),
        (lambda path: Gateway(path, gateway_id="a b"), f"gateway_id 'a b': {NAME}"),
        (
            lambda path: Gateway(ListStorage(), gateway_id="roof"),
            "gateway_id: found 'roof', but the storage has None; give it there",
        ),
    ],
)
def test_what_cannot_be_a_gateway(tmp_path: Path, make: Callable[[Path], object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tmp_path / "gateway.db")
    assert str(caught.value) == expected


def test_nothing_is_added_while_it_runs(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway.db", gateway_id="roof")
    with gateway, pytest.raises(ConfigError, match="driver 'mast': add it before the gateway starts"):
        gateway.add("mast", ScriptedDriver())
