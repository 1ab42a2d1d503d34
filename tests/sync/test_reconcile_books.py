"""Reconcile sends nothing that the books count as anything but delivered, whatever came together."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.base import Choice
from edgedepot.storage.clock import ManualClock, to_micros
from edgedepot.storage.errors import DataRefused
from edgedepot.storage.rows import make_row
from edgedepot.sync.reconcile import Finding, reconcile
from tests.sync.reconciling import Identity, Own, Power, Weather, fill, forward, lose, moment, readings

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", piece_rows=200) as store:
        yield store


def weather(store: SQLiteStorage, numbers: range, step: timedelta = timedelta(seconds=20), value: float = 0.0) -> None:
    rows: list[Any] = [("mast", T0 + number * step, {"temperature": number + value}) for number in numbers]
    store.store_readings(Weather, rows).wait()


def at(number: int, step: timedelta = timedelta(seconds=20)) -> Identity:
    return ("weather", "mast", T0 + number * step)


def lost_and_found(store: SQLiteStorage, own: Own, name: str = "central", **more: Any) -> list[Identity]:
    """What comes back when all is lost: what the store takes for delivered. Afterwards nothing is missing."""
    had = dict(own.kept)
    own.kept.clear()
    own.stored.clear()
    report = reconcile(store, name, own, **more)
    assert own.kept == {identity: had[identity] for identity in own.kept}, "a value that was never there"
    assert report.total() == Finding(missing=len(own.kept), sent=len(own.kept))
    assert reconcile(store, name, own, **more).total() == Finding()
    assert store.ledger().problems == []
    return sorted(own.kept)


def delivered(store: SQLiteStorage, name: str = "central") -> int:
    return store.ledger().upstreams[name]["delivered"]


@pytest.mark.parametrize("folded", [False, True])
def test_what_is_pending_is_left_to_the_worker(store: SQLiteStorage, folded: bool) -> None:
    store.add_cursor("central")
    own = Own()
    weather(store, range(300))
    forward(store, own, limit=100)
    if folded:
        store.fold()
    assert lost_and_found(store, own) == [at(number) for number in range(100)]


@pytest.mark.parametrize("folded", [False, True])
def test_a_merged_reading_is_left_until_its_new_version_is_there(store: SQLiteStorage, folded: bool) -> None:
    store.add_cursor("central")
    own = Own()
    weather(store, range(300))
    forward(store, own)
    store.fold()
    weather(store, range(100, 110), value=0.5)
    if folded:
        store.fold()
    before = dict(own.kept)
    own.stored.clear()
    assert reconcile(store, "central", own).total() == Finding(only_there=10)
    assert (own.kept, own.stored) == (before, [])
    assert lost_and_found(store, own) == [at(number) for number in range(300) if not 100 <= number < 110]
    forward(store, own)
    assert own.kept[at(105)]["temperature"] == 105.5
    assert len(lost_and_found(store, own)) == 300


def test_what_was_deleted_here_stays_there(store: SQLiteStorage) -> None:
    store.add_cursor("central")
    own = Own()
    weather(store, range(300))
    forward(store, own)
    store.fold()
    store.delete_readings(Weather, "mast", T0, at(10)[2])
    before = dict(own.kept)
    own.stored.clear()
    assert reconcile(store, "central", own).total().only_there == 10
    assert (own.kept, own.stored) == (before, [])


def test_thinned_minutes(store: SQLiteStorage) -> None:
    """History has all their readings; the upstream got one of each, or is to get it."""
    store.add_cursor("central")
    own = Own()
    weather(store, range(900))
    forward(store, own, limit=150)
    store.fold()
    assert store.thin(T0 + timedelta(days=1)) > 400
    forward(store, own)
    books = store.ledger().upstreams["central"]
    assert books["delivered"] + books["thinned"] == 900
    found = lost_and_found(store, own)
    assert set(found) >= {at(number) for number in range(150)}
    before = delivered(store)
    assert len(found) < before < 900
    own.stored.clear()
    forward(store, own)
    assert own.stored == []


def test_evicted_readings_that_history_still_has(tmp_path: Path) -> None:
    clock = ManualClock(to_micros(T0 + timedelta(days=3)))
    options: dict[str, Any] = {"gateway_id": "roof", "piece_rows": 200, "clock": clock}
    with SQLiteStorage(tmp_path / "local.db", **options) as store:
        store.add_cursor("central")
        own = Own()
        for start in range(0, 3000, 250):
            weather(store, range(start, start + 250), timedelta(minutes=5))
            store.fold()
        forward(store, own, limit=300)
    clock.advance(15 * 86_400)
    with SQLiteStorage(tmp_path / "local.db", keep="12 days", keep_pending=False, **options) as store:
        store.retain()
        evicted = store.ledger().upstreams["central"]["evicted"]
        there = store.readings(Weather).count()
        assert evicted > 3000 - there > 0, "else history has none of them"
        forward(store, own)
        expected = {identity for identity in own.kept if identity[2] >= oldest(store)}
        assert set(lost_and_found(store, own)) == expected


def oldest(store: SQLiteStorage) -> datetime:
    found = store.aggregate(Weather, "timestamp", "min")
    assert isinstance(found, dict)
    moment: datetime = found["result"]
    return moment


def test_quarantined_replayed_and_dropped(store: SQLiteStorage) -> None:
    class Choosy(Own):
        def store_reading(self, reading_model: Any, device: object, timestamp: datetime | None, data: Any) -> None:
            if data["temperature"] in (30, 40, 50) and self.refuses(data):
                raise ValueError("no")
            super().store_reading(reading_model, device, timestamp, data)

    store.add_cursor("central")
    own = Choosy()
    own.refuses = lambda data: True
    weather(store, range(100))
    refused = {at(30), at(40), at(50)}
    everything = {at(number) for number in range(100)}

    def refuse(data: Any) -> bool:
        return data["temperature"] in (30, 40, 50)

    own = Own()
    own.refuses = refuse
    forward(store, own)
    store.fold()
    assert store.count_quarantined() == {"central": 3}
    own.refuses = lambda data: False
    assert set(lost_and_found(store, own)) == everything - refused
    numbers = {row["data"]["temperature"]: row["number"] for row in store.quarantined()}
    store.drop_quarantined("central", number=numbers[30])
    store.replay_quarantined("central", number=numbers[40])
    assert set(lost_and_found(store, own)) == everything - refused, "one given up, one pending, one refused"
    forward(store, own)
    assert set(lost_and_found(store, own)) == everything - refused | {at(40)}
    weather(store, range(30, 31), value=0.25)
    forward(store, own)
    assert set(lost_and_found(store, own)) == everything - {at(50)}


def test_skipped_as_older_than_the_start_or_not_chosen(store: SQLiteStorage) -> None:
    fill(store, readings(300))
    store.fold()
    choice = Choice(frozenset({"weather"}), ("roof*",))
    store.add_cursor("late", moment(100), choice)
    own = Own()
    forward(store, own, name="late")
    assert len(own.kept) == 200
    assert len(lost_and_found(store, own, "late", choice=choice)) == 200


def test_an_upstream_that_began_with_now(store: SQLiteStorage) -> None:
    weather(store, range(300))
    store.fold()
    weather(store, range(300, 400))
    store.add_cursor("central", "now")
    own = Own()
    weather(store, range(400, 500))
    forward(store, own)
    assert lost_and_found(store, own) == [at(number) for number in range(400, 500)]
    store.fold()
    assert lost_and_found(store, own) == [at(number) for number in range(400, 500)]


def test_an_upstream_that_is_on_its_way_through_history(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", piece_rows=200) as store:
        for start in range(0, 1500, 300):
            fill(store, readings(1500)[start * 2 : start * 2 + 600])
            store.fold()
        store.add_cursor("central")
        own = Own()
        forward(store, own, limit=1400)
        sent = sorted(own.kept)
        assert 1000 < len(sent) < len(readings(1500)) - 300
        assert lost_and_found(store, own) == sent


def test_what_is_gone_from_here_is_not_looked_at(tmp_path: Path) -> None:
    clock = ManualClock(to_micros(T0))
    path = tmp_path / "local.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=200, clock=clock) as store:
        store.add_cursor("central")
        own = Own()
        for start in range(0, 3000, 250):
            weather(store, range(start, start + 250), timedelta(minutes=5))
            store.fold()
            forward(store, own)
    clock.advance(15 * 86_400)
    with SQLiteStorage(path, keep="8 days", clock=clock) as store:
        store.retain()
        there = store.readings(Weather).count()
        assert 0 < there < 3000
        own.stored.clear()
        report = reconcile(store, "central", own)
        assert (report.total(), report.read) == (Finding(), 0)
        before = dict(own.kept)
        lose(own, lambda identity: identity[2].hour == 3)
        gone_for_good = {identity for identity in before if identity[2].hour == 3 and identity[2] < oldest(store)}
        assert gone_for_good
        reconcile(store, "central", own)
        assert before.keys() - own.kept.keys() == gone_for_good
