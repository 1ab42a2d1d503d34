"""How old what waits for an upstream is, as anybody may ask of the file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.buffer import Choice
from edgedepot.storage.clock import ManualClock

START = datetime(2026, 3, 1, tzinfo=UTC)


class Tank(Reading):
    level: float


class Pump(Reading):
    flow: float


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def put(store: SQLiteStorage, model: type[Reading], device: str, *minutes: int) -> None:
    (name,) = (spec.name for spec in model.__fields__)
    store.store_readings(model, [(device, at(minute), {name: float(minute)}) for minute in minutes]).wait()


def oldest(store: SQLiteStorage, cursor: str = "central") -> datetime | None:
    """As the store and who only reads the file see it."""
    with SQLiteStorage(store.path, read_only=True) as beside:
        assert beside.oldest_pending(cursor) == store.oldest_pending(cursor)
        return beside.oldest_pending(cursor)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    clock = ManualClock(START + timedelta(days=1))
    with SQLiteStorage(tmp_path / "local.db", gateway_id="g", clock=clock, piece_rows=4) as made:
        yield made


def take(store: SQLiteStorage, rows: int, refuse: bool = False) -> None:
    window = store.pending("central", rows)
    assert window is not None
    if refuse:
        store.quarantine("central", window.rows, "too cold")
    store.acknowledge("central", window)
    store.flush()


def test_of_the_journal(store: SQLiteStorage) -> None:
    """Of several pieces, also where a reading comes late, and without those that went."""
    assert oldest(store) is None
    store.add_cursor("central")
    assert oldest(store) is None
    put(store, Tank, "a", 10, 11, 12, 5, 20, 21, 22)
    assert oldest(store) == at(5)
    take(store, 4)
    assert oldest(store) == at(20)
    take(store, 100)
    assert oldest(store) is None


def test_of_what_it_is_to_get(store: SQLiteStorage) -> None:
    store.add_cursor("central", at(7), Choice(frozenset({"tank"}), ("b*",)))
    put(store, Tank, "a", 10)
    put(store, Tank, "b1", 5, 12)
    put(store, Pump, "b1", 9)
    assert oldest(store) == at(12)


def test_of_history(store: SQLiteStorage) -> None:
    """What an upstream that came late is owed, that the journal has no more."""
    put(store, Tank, "b", 4, 5)
    put(store, Tank, "a", 3, 6)
    put(store, Pump, "a", 2)
    store.fold()
    store.add_cursor("central", "oldest")
    assert oldest(store) == at(2)
    put(store, Pump, "a", 7)  # of the journal
    for minute in (2, 2, 7):  # history goes first, of the tanks and then of the pump
        assert oldest(store) == at(minute)
        take(store, 100)
    assert oldest(store) is None


def test_of_what_is_sent_once_more(store: SQLiteStorage) -> None:
    store.add_cursor("central")
    put(store, Tank, "a", 10)
    take(store, 1, refuse=True)
    assert oldest(store) is None
    store.replay_quarantined("central")
    assert oldest(store) == at(10)
