"""Reconcile after thinning: the averages that went in place of minutes are made anew, or left where nobody can tell."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from edgedepot import Reading, SQLiteStorage, TimescaleDBStorage
from edgedepot.storage.buffer import Choice
from edgedepot.storage.sqlite.schema import prepare
from edgedepot.storage.sqlite.withheld import THINNED, Stretch, read_withheld, withhold
from edgedepot.sync.reconcile import Finding, reconcile
from tests.sync.reconciling import Identity, Own, forward

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=20)
Look = Callable[[str], list[tuple[Any, ...]]]
LATER = T0 + timedelta(days=30)


class Mast(Reading):
    temperature: float
    gusts: int | None = None
    note: str | None = None


@pytest.fixture
def look(timescale_url: str) -> Look:
    def run(statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(timescale_url) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", piece_rows=200) as store:
        store.add_cursor("central")
        yield store


def at(number: int) -> Identity:
    return ("mast", "mast", T0 + number * STEP)


def write(store: SQLiteStorage, numbers: range, value: float = 0.0) -> None:
    rows = [
        ("mast", T0 + n * STEP, {"temperature": n / 7 + value, "note": f"{n}", "gusts": None if n % 4 else n})
        for n in numbers
    ]
    store.store_readings(Mast, rows).wait()


def thinned(store: SQLiteStorage) -> Own:
    """An upstream that got 150 readings, and then of most minutes their averages."""
    own = Own()
    write(store, range(900))
    forward(store, own, limit=150)
    store.fold()
    assert store.thin(LATER) > 400
    forward(store, own)
    books = store.ledger().upstreams["central"]
    assert books["delivered"] == len(own.kept) < 500
    assert books["thinned"] == 900 - len(own.kept)
    return own


def lost_and_found(store: SQLiteStorage, own: Own) -> set[Identity]:
    """What comes back when all is lost, each with the value that it had. Afterwards nothing is missing."""
    had = dict(own.kept)
    own.kept.clear()
    own.stored.clear()
    report = reconcile(store, "central", own)
    assert own.kept == {identity: had[identity] for identity in own.kept}, "a value that was never there"
    assert report.total() == Finding(missing=len(own.kept), sent=len(own.kept))
    again = reconcile(store, "central", own)
    assert (again.total(), again.requests) == (Finding(), 7), "nothing is looked at closer"
    assert store.ledger().problems == []
    found, own.kept = set(own.kept), had
    return found


def test_averages_are_back_as_they_were(store: SQLiteStorage) -> None:
    own = thinned(store)
    before = dict(own.kept)
    assert reconcile(store, "central", own).total() == Finding()
    assert lost_and_found(store, own) == before.keys()
    own.kept = {identity: row for place, (identity, row) in enumerate(before.items()) if place % 7}
    lost = len(before) - len(own.kept)
    assert reconcile(store, "central", own).total() == Finding(missing=lost, sent=lost)
    assert own.kept == before
    own.stored.clear()
    forward(store, own)
    assert own.stored == []


@pytest.mark.parametrize("folded", [False, True])
def test_what_changed_since_is_left_out(store: SQLiteStorage, folded: bool) -> None:
    """A reading of the minute that was merged, that came late or was deleted; what is pending, or was refused."""
    own = thinned(store)
    averages = {identity for identity in own.kept if (identity[2].second, identity[2].minute % 10) == (40, 7)}
    hours = sorted({identity[2].replace(minute=0, second=0) for identity in averages if identity[2].hour > 1})
    assert len(hours) >= 3
    merged, late, deleted = (int((hour - T0) / STEP) + 7 * 3 for hour in hours[:3])
    gone = {at(number + 2) for number in (merged, late, deleted)}
    assert gone <= own.kept.keys()
    write(store, range(merged, merged + 1), value=0.25)
    store.store_reading(Mast, "mast", T0 + late * STEP + STEP / 2, {"temperature": 1.0}).wait()
    store.delete_readings(Mast, "mast", T0 + (deleted + 1) * STEP, T0 + (deleted + 2) * STEP)
    if folded:
        store.fold()
    before = own.kept.keys() - gone
    report = reconcile(store, "central", own).total()
    assert (report.missing, report.different) == (0, 0)
    assert found_of(store, own) == before
    forward(store, own)
    assert found_of(store, own) == before | {at(merged), ("mast", "mast", T0 + late * STEP + STEP / 2)}


def test_a_deletion_from_the_first_thinned_reading_on(store: SQLiteStorage) -> None:
    """It hides nothing of what is known of the minutes after it."""
    own = thinned(store)
    assert at(152) in own.kept
    store.delete_readings(Mast, "mast", T0 + 150 * STEP, T0 + 153 * STEP)
    assert found_of(store, own) == own.kept.keys() - {at(152)}


def test_stretches_of_one_start_and_two_reasons_stay_apart() -> None:
    """Also where one goes on with a row that has the other's number."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        prepare(connection, Path("x.db"))
        for one in (Stretch(1, 0, 60, 5, 9, THINNED), Stretch(1, 0, 1, 3, 3), Stretch(1, 60, 120, 3, 12, THINNED)):
            withhold(connection, 7, one)
        assert read_withheld(connection, 7) == {
            1: [Stretch(1, 0, 1, 3, 3), Stretch(1, 0, 60, 5, 9, THINNED), Stretch(1, 60, 120, 3, 12, THINNED)]
        }


def found_of(store: SQLiteStorage, own: Own) -> set[Identity]:
    """As `lost_and_found`, where rows were deleted."""
    had, own.kept = own.kept, {}
    reconcile(store, "central", own)
    assert own.kept == {identity: had[identity] for identity in own.kept}
    assert reconcile(store, "central", own).total().missing == 0
    found, own.kept = set(own.kept), had
    return found


def test_what_is_pending_or_refused_is_not_sent(store: SQLiteStorage) -> None:
    write(store, range(900))
    store.fold()
    assert store.thin(LATER) > 400
    own = Own()
    refused = {at(number) for number in (8, 80)}
    own.refuses = lambda data: data["note"] in ("8", "80")
    forward(store, own, limit=100)
    own.refuses = lambda data: False
    assert store.count_quarantined() == {"central": 2}
    assert store.count_pending("central") > 100
    assert lost_and_found(store, own) == own.kept.keys()
    store.drop_quarantined("central", number=store.quarantined()[0]["number"])
    assert lost_and_found(store, own) == own.kept.keys()
    store.replay_quarantined("central")
    forward(store, own)
    assert len(refused & own.kept.keys()) == 1
    assert lost_and_found(store, own) == own.kept.keys()


def test_a_reading_of_one_minute_that_changed_when_the_next_came_in(store: SQLiteStorage) -> None:
    """Much later than the minute itself. It is no part of what that minute came to."""
    store.add_cursor("central", choice=Choice(None, ("mast",)))
    filler = [("filler", T0 + n * timedelta(minutes=1), {"temperature": 0.0}) for n in range(5_600)]
    write(store, range(3))
    store.store_readings(Mast, filler[:250]).wait()
    store.fold()
    store.store_readings(Mast, filler[250:5_300]).wait()
    write(store, range(1), value=0.5)
    write(store, range(3, 6))
    store.store_readings(Mast, filler[5_300:]).wait()
    store.fold()
    assert store.thin(LATER) == 1 + 2
    own = Own()
    forward(store, own)
    assert own.kept.keys() == {at(0), at(2), at(5)}
    assert lost_and_found(store, own) == {at(0), at(5)}


def test_another_upstream_that_had_the_readings_themselves(store: SQLiteStorage) -> None:
    """And one that is added later, and gets what the journal has by then."""
    store.add_cursor("other")
    write(store, range(900))
    own, other, late = Own(), Own(), Own()
    forward(store, other, name="other")
    store.fold()
    assert store.thin(LATER) > 400
    store.remove_cursor("central")  # and with it what was noted
    for name, upstream in (("late", late), ("central", own)):
        store.add_cursor(name)
        forward(store, upstream, name=name)
    for name, upstream, rows in (("other", other, 900), ("late", late, 300), ("central", own, 300)):
        assert reconcile(store, name, upstream).total() == Finding()
        before = dict(upstream.kept)
        assert len(before) == rows
        upstream.kept.clear()
        assert reconcile(store, name, upstream).total() == Finding(missing=rows, sent=rows)
        assert upstream.kept == before


def test_the_versions_are_those_that_went(store: SQLiteStorage, timescale_url: str, look: Look) -> None:
    """Also the quality, and so that a newer one is kept."""
    with TimescaleDBStorage(timescale_url) as upstream:
        write(store, range(900))
        store.fold()
        assert store.thin(LATER) > 400
        forward(store, upstream)
        before = [row[:-1] for row in look("SELECT * FROM mast ORDER BY timestamp")]  # when it came is not the same
        look("DELETE FROM mast WHERE gateway_seq % 2 = 0")
        lost = len(before) - len(look("SELECT * FROM mast"))
        look("UPDATE mast SET temperature = 500, store_epoch = 9 WHERE gateway_seq % 7 = 0")
        newer = look("SELECT * FROM mast WHERE temperature = 500 ORDER BY timestamp")
        kept = len(newer)
        total = Finding(missing=lost, different=kept, sent=lost, kept=kept)
        assert reconcile(store, "central", upstream).total() == total
        assert look("SELECT * FROM mast WHERE temperature = 500 ORDER BY timestamp") == newer
        look("DELETE FROM mast WHERE temperature = 500")
        assert reconcile(store, "central", upstream).total() == Finding(missing=kept, sent=kept)
        assert [row[:-1] for row in look("SELECT * FROM mast ORDER BY timestamp")] == before
