"""Random scripts of what can happen, against a model that knows only what was stored and what is bad."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgedepot import SyncWorker, Version
from edgedepot.storage.clock import SystemClock
from edgedepot.storage.errors import Misconfigured, Overloaded, StorageError, Unreachable
from edgedepot.sync.delivery import Delivery, Interrupted
from tests.sync.scripted import (
    ACCEPT,
    Answer,
    Fail,
    Identity,
    Power,
    ScriptedUpstream,
    Weather,
    eventually,
    moment,
    open_store,
)

BAD = 50.0
"""From this value on the upstream refuses a reading, each for a reason of its own."""

ANSWERS = st.sampled_from(
    [
        ACCEPT,
        Fail(Unreachable("down")),
        Fail(Unreachable("no answer"), applied=True),
        Fail(Overloaded("less", retry_after=0.001)),
        Fail(Overloaded("less"), applied=True),
        Fail(Misconfigured("no rights")),
        Fail(StorageError("no idea")),
    ]
)
DEVICES = st.sampled_from(["mast", "roof"])
MOMENTS = st.integers(0, 7)
VALUES = st.integers(40, 54).map(float)


def refuses(row: Version) -> str | None:
    value = row.data.get("temperature", row.data.get("watts", 0.0))
    if value < BAD:
        return None
    letters = "".join(chr(ord("a") + int(digit)) for digit in str(row.gateway_seq))
    return f"{letters} is out of range"


class Gateway(RuleBasedStateMachine):
    """A store, one delivery at a time, and an upstream, in one thread; `stored` is what the store must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.upstream = ScriptedUpstream()
        self.upstream.refuses = refuses
        self.stored: dict[Identity, dict[str, float]] = {}
        self.deleted: set[object] = set()
        self.open()

    def open(self) -> None:
        self.store = open_store(Path(self.folder.name) / "local.db")
        self.store.add_cursor("central")
        self.restart_worker()

    def teardown(self) -> None:
        self.upstream.script.clear()
        for _ in range(100):
            if not self.deliver(1000):
                break
        assert self.store.pending("central", 1) is None
        self.compare()
        self.store.close()
        self.folder.cleanup()

    def compare(self) -> None:
        """Every good reading is upstream as it stands here, and every bad one is in quarantine."""
        quarantined = {row.seq: row.version(1) for row, _ in self.store.refusals}
        aside = [(row.device, row.timestamp, row.data) for row in quarantined.values()]
        for identity, data in self.stored.items():
            if refuses(Version(identity[1], identity[2], data)) is None:
                assert self.upstream.kept[identity].data == data
            else:
                assert (identity[1], identity[2], data) in aside
        for kept in self.upstream.kept.values():
            assert refuses(kept) is None
            assert kept.gateway_seq not in quarantined
        still = {row["number"] for row in self.store.quarantined("central", limit=10_000)}
        assert len(still) == self.store.ledger().upstreams["central"]["quarantined"]
        assert still <= quarantined.keys()
        # What was replaced and then deleted is superseded; all else stays.
        assert {quarantined[seq].device for seq in quarantined.keys() - still} <= self.deleted

    def deliver(self, limit: int) -> bool:
        window = self.store.pending("central", limit)
        if window is None:
            return False
        try:
            self.delivery.deliver(window)
        except (StorageError, Interrupted):
            return False
        return True

    @rule(device=DEVICES, number=MOMENTS, value=VALUES, humidity=st.none() | VALUES)
    def store_weather(self, device: str, number: int, value: float, humidity: float | None) -> None:
        data = {"temperature": value} | ({} if humidity is None else {"humidity": humidity})
        self.store.store_reading(Weather, device, moment(number), data).wait()
        self.stored.setdefault(("weather", device, moment(number)), {}).update(data)

    @rule(number=MOMENTS, value=VALUES)
    def store_power(self, number: int, value: float) -> None:
        self.store.store_reading(Power, "inverter", moment(number), {"watts": value}).wait()
        self.stored["power", "inverter", moment(number)] = {"watts": value}

    @rule(device=DEVICES)
    def delete_device(self, device: str) -> None:
        self.store.delete_readings(Weather, device)
        self.deleted.add(device)
        self.stored = {key: data for key, data in self.stored.items() if key[:2] != ("weather", device)}

    @rule(answers=st.lists(ANSWERS, min_size=1, max_size=4))
    def expect(self, answers: list[Answer]) -> None:
        self.upstream.script.extend(answers)

    @rule(limit=st.integers(1, 12))
    def send_window(self, limit: int) -> None:
        self.deliver(limit)

    @rule()
    def stop_after_the_next_request(self) -> None:
        sent = len(self.upstream.requests)
        self.delivery = self.new_delivery(lambda: len(self.upstream.requests) == sent)
        self.deliver(12)
        self.restart_worker()

    @rule()
    def restart_worker(self) -> None:
        self.delivery = self.new_delivery(lambda: True)

    def new_delivery(self, go_on: Callable[[], bool]) -> Delivery:
        return Delivery(self.store, "central", self.upstream, SystemClock(), go_on)

    @rule()
    def restart_store(self) -> None:
        self.store.close()
        quarantined = self.store.refusals
        self.open()
        self.store.refusals = quarantined

    @invariant()
    def the_books_balance(self) -> None:
        assert self.store.ledger().problems == []


TestGateway = Gateway.TestCase
TestGateway.settings = settings(
    max_examples=200, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@given(
    answers=st.lists(ANSWERS, max_size=12),
    pieces=st.lists(st.lists(VALUES, max_size=30), min_size=1, max_size=4),
    batch_size=st.integers(1, 40),
)
@settings(max_examples=150, deadline=None)
def test_a_running_worker_gets_everything_through(
    answers: list[Answer], pieces: list[list[float]], batch_size: int
) -> None:
    upstream = ScriptedUpstream(refuses=refuses)
    upstream.script.extend(answers)
    numbers = count()
    stored: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "local.db", flush_interval="1 ms") as store:
        worker = SyncWorker(store, "central", upstream, batch_size=batch_size, backoff=("1 ms", "2 ms"))
        for piece in pieces:
            with worker:
                for value in piece:
                    stored[number := next(numbers)] = value
                    store.store_reading(Weather, "mast", moment(number), {"temperature": value})
        store.flush()
        with worker:
            eventually(lambda: store.count_pending("central") == 0)
        good = {moment(number): value for number, value in stored.items() if value < BAD}
        assert {row.timestamp: row.data["temperature"] for row in upstream.kept.values()} == good
        assert sorted(row.row[1] for row, _ in store.refusals) == sorted(v for v in stored.values() if v >= BAD)
        assert worker.status().delivered == len(good)
        assert worker.status().faults == 0
        books = store.ledger()
        assert books.problems == []
        assert (books.upstreams["central"]["delivered"], books.upstreams["central"]["pending"]) == (len(good), 0)
