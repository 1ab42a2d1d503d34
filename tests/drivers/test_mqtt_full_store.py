"""A store that takes nothing more for a while, as its device or it itself is full: the broker holds what comes."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import MqttDriver, SQLiteStorage, StorageBusy
from tests.drivers.peers import Publisher, unacknowledged
from tests.drivers.running import Running
from tests.models import Weather, Wordy
from tests.servers.mosquitto import Mosquitto
from tests.servers.process import wait_until
from tests.storage.sqlite.small_disk import SmallDisk

CLIENT = "edgedepot-roof-garden"
Full = tuple[SQLiteStorage, Callable[[], None], Callable[[], None]]
"""A store, what fills it, and what makes room."""


@contextmanager
def on_a_small_device(folder: Path) -> Iterator[Full]:
    with SmallDisk() as disk, SQLiteStorage(disk.path / "x.db", gateway_id="roof", flush_interval="20 ms") as store:

        def fill() -> None:
            store.flush()
            disk.fill()

        yield store, fill, disk.clear


@contextmanager
def with_a_full_queue(folder: Path) -> Iterator[Full]:
    with (
        SmallDisk(64_000_000) as disk,
        SQLiteStorage(disk.path / "x.db", gateway_id="roof", flush_interval="20 ms", busy_timeout="1 ms") as store,
    ):
        wordy = [("bulk", None, {spec.name: "x" * 1000 for spec in Wordy.__fields__})] * 10

        def fill() -> None:
            store.flush()
            disk.fill()
            with suppress(StorageBusy):
                while True:
                    store.store_readings(Wordy, wordy)

        yield store, fill, disk.clear


@contextmanager
def that_blocks(folder: Path) -> Iterator[Full]:
    path = folder / "x.db"
    with SQLiteStorage(
        path,
        gateway_id="roof",
        flush_interval="20 ms",
        piece_rows=500,
        keep_bytes=1_000_000,
        when_full="block",
        busy_timeout="1 ms",
    ) as store:
        store.add_cursor("central")

        def fill() -> None:
            rows = [("bulk", None, {"temperature": 1.0, "note": "x" * 1000})] * 200
            with suppress(StorageBusy):
                while True:
                    store.store_readings(Weather, rows).wait()

        def forward() -> None:
            while window := store.pending("central", 5000):
                store.acknowledge("central", window)

        yield store, fill, forward


@pytest.mark.parametrize("full", [on_a_small_device, with_a_full_queue, that_blocks])
def test_what_comes_meanwhile_is_acknowledged_once_there_is_room(
    tmp_path: Path, full: Callable[[Path], AbstractContextManager[Full]]
) -> None:
    with (
        Mosquitto(settings={"log_type": "all"}) as broker,
        Publisher(broker.port) as publisher,
        full(tmp_path) as (store, fill, make_room),
    ):
        began = datetime.now(UTC) - timedelta(minutes=2)
        driver = MqttDriver(f"mqtt://127.0.0.1:{broker.port}", "weather/{device_id}/data", Weather)

        def heard(what: str) -> int:
            return len(re.findall(rf"{what} {CLIENT} ", broker.log.read_text()))

        def acknowledged() -> int:
            return heard("Received PUBACK from")

        def send(first: int, last: int) -> None:
            moments = [(began + timedelta(seconds=number)).timestamp() for number in range(first, last)]
            texts = [json.dumps({"temperature": 20.5, "note": "y" * 1000, "timestamp": one}) for one in moments]
            publisher.send("weather/mast/data", *texts)

        with Running(driver, store).wait_for("connected"):
            send(0, 5)
            wait_until(lambda: acknowledged() == 5, "all are acknowledged")
            fill()
            send(5, 65)
            wait_until(lambda: heard("Sending PUBLISH to") == 65, "all are sent")
            assert acknowledged() < 65
            make_room()
            wait_until(lambda: acknowledged() == 65, "all are acknowledged")
        assert unacknowledged(broker.port, CLIENT, "weather/+/data") == []
        books = store.ledger().sources["garden"]
        assert (books["new"], books["duplicates"], books["rejected"]) == (65, 0, 0)
