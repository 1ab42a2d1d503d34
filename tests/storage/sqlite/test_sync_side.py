"""What the local store hands to sync, and what it keeps on the books about it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import InvalidValue, SQLiteStorage
from edgedepot.storage.buffer import Choice, Window
from edgedepot.storage.clock import ManualClock
from tests.books import upstream_books
from tests.models import Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(path, gateway_id="roof") as opened:
        opened.add_cursor("central")
        yield opened


def put(store: SQLiteStorage, *seconds: int, value: float = 1.0) -> None:
    rows = [("a", T0 + timedelta(seconds=second), {"temperature": value}) for second in seconds]
    store.store_readings(Weather, rows).wait()


def next_window(store: SQLiteStorage, limit: int = 1000) -> Window:
    window = store.pending("central", limit)
    assert window is not None
    return window


def test_rows_come_in_the_order_of_arrival_in_windows(store: SQLiteStorage) -> None:
    put(store, 5, 1, 3)
    first = next_window(store, 2)
    assert [row.version(1).timestamp.second for row in first.rows] == [5, 1]
    assert next_window(store, 2) == first
    store.acknowledge("central", first)
    second = next_window(store, 2)
    assert (second.low, [row.version(1).timestamp.second for row in second.rows]) == (first.high + 1, [3])
    store.acknowledge("central", second)
    assert store.pending("central", 2) is None
    assert store.ledger().upstreams["central"] == upstream_books(versions=3, delivered=3)


def test_a_window_that_was_read_ahead_is_the_next(store: SQLiteStorage) -> None:
    put(store, *range(10))
    first = next_window(store, 3)
    kept = read_ahead(store, first)
    store.acknowledge("central", first)
    second = next_window(store, 3)
    assert second is kept
    assert [row.seq for row in second.rows] == [4, 5, 6]
    anew = next_window(store, 3)
    assert anew == second
    assert anew is not second


@pytest.mark.parametrize("change", ["merge", "delete", "other readings", "other size", "replay", "fold"])
def test_a_window_that_was_read_ahead_is_as_it_would_be_read_now(store: SQLiteStorage, change: str) -> None:
    put(store, *range(10))
    first = next_window(store, 3)
    store.quarantine("central", first.rows[:1], "too warm")
    store.acknowledge("central", first)
    out = next_window(store, 3)
    kept = read_ahead(store, out)
    limit, seqs = 3, [7, 8, 9]
    if change == "merge":
        put(store, 7, value=2.0)
        seqs = [7, 9, 10]
    elif change == "delete":
        store.delete_readings(Weather, start=T0 + timedelta(seconds=7), end=T0 + timedelta(seconds=8))
        seqs = [7, 9, 10]
    elif change == "other readings":
        store.add_cursor("central", choice=Choice(None, ("b",)))
        seqs = []
    elif change == "other size":
        limit, seqs = 2, [7, 8]
    elif change == "replay":
        assert store.replay_quarantined("central") == 1
        seqs = [1]
    else:
        store.fold()
    store.acknowledge("central", out)
    found = next_window(store, limit)
    assert found is not kept
    assert [row.seq for row in found.rows] == seqs


def test_what_was_read_ahead_of_history_is_the_next(path: Path) -> None:
    with SQLiteStorage(path, gateway_id="roof", piece_rows=5) as store:
        put(store, *range(20))
        store.fold()
        store.add_cursor("late")
        window = store.pending("late", 4)
        assert window is not None
        assert window.place is not None
        waiting = store.waiting("late", "backlog")
        kept = read_ahead(store, window, "late", 4)
        assert store.waiting("late", "backlog") == waiting >= 20
        store.acknowledge("late", window)
        assert store.waiting("late", "backlog") == waiting - 4
        assert store.pending("late", 4) is kept
        assert kept.place is not None


def read_ahead(store: SQLiteStorage, out: Window, cursor: str = "central", limit: int = 3) -> Window:
    store.read_ahead(cursor, limit, "backlog", out)
    assert store._writing is not None
    return store._writing.pending_reader._ahead[cursor, "backlog"].window


def test_an_upstream_that_comes_late_gets_what_went_through_anothers_live_lane(path: Path) -> None:
    """These readings are in history alone, between a backlog that is still in the journal and what comes in."""
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock(), piece_rows=5) as store:
        store.add_cursor("central")
        put(store, *range(5))
        store.fold()
        store.split("central")
        for second in range(5, 25):
            put(store, second)
            while (window := store.pending("central", 100, "live")) is not None:
                store.acknowledge("central", window)
            store.flush()
            store.fold()
        store.add_cursor("late")
        assert store.ledger().problems == []
        put(store, 7, value=2.0)
        found: list[tuple[int, float]] = []
        while (window := store.pending("late", 4)) is not None:
            found += [
                (one.timestamp.second, one.data["temperature"]) for one in (row.version(1) for row in window.rows)
            ]
            store.acknowledge("late", window)
        store.flush()
        expected = [(second, 1.0) for second in range(25) if second != 7]
        assert sorted(found) == sorted([*expected, (7, 2.0)])
        assert store.ledger().upstreams["late"] == upstream_books(versions=26, delivered=25, superseded=1)
        delivered = store.delivered("late").rows(Weather, "a", -(2**63), 2**62)
        assert len(delivered) == 25
        assert store.ledger().problems == []


def test_rows_sent_once_more_are_not_handed_out_again_before_their_acknowledgement_is_committed(path: Path) -> None:
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock()) as store:
        store.add_cursor("central")
        put(store, 1, 2, 3)
        for _ in range(2):
            window = next_window(store)
            store.quarantine("central", window.rows, "refused")
            store.acknowledge("central", window)
            assert store.pending("central", 10) is None
            assert store.replay_quarantined("central") == 3
            assert [row["reason"] for row in store.quarantined("central") if row["replayed"]] == ["refused"] * 3
        first = next_window(store, 2)
        store.acknowledge("central", first)
        assert store.count_pending("central") == 1
        second = next_window(store)
        assert [len(first.rows), len(second.rows)] == [2, 1]
        store.acknowledge("central", second)
        assert store.pending("central", 10) is None
        assert store.count_pending("central") == 0
        assert store.ledger().upstreams["central"] == upstream_books(versions=3, delivered=3)


@pytest.mark.parametrize("limit", [2, 10])
def test_what_is_sent_once_more_goes_on_before_what_a_person_adds_to_it(path: Path, limit: int) -> None:
    """A request whose outcome nobody knows is repeated before another goes out, also where that has older rows."""
    with SQLiteStorage(path, gateway_id="roof", clock=ManualClock()) as store:
        store.add_cursor("central")
        put(store, *range(6))
        window = next_window(store)
        store.quarantine("central", window.rows, "refused")
        store.acknowledge("central", window)
        assert store.replay_quarantined("central", start=T0 + timedelta(seconds=3)) == 3
        out = next_window(store)
        assert store.replay_quarantined("central") == 3
        sent: list[int] = []
        while (window_again := store.pending("central", limit)) is not None:
            sent += [row.version(1).timestamp.second for row in window_again.rows]
            store.acknowledge("central", window_again)
        assert [row.version(1).timestamp.second for row in out.rows] == [3, 4, 5]
        assert sent == [3, 4, 5, 0, 1, 2]
        assert store.ledger().upstreams["central"] == upstream_books(versions=6, delivered=6)


def test_an_acknowledgement_rides_in_the_next_commit_and_survives(store: SQLiteStorage, path: Path) -> None:
    put(store, 1, 2)
    store.acknowledge("central", next_window(store))
    put(store, 3)
    store.close()
    with SQLiteStorage(path) as again:
        assert [row.version(1).timestamp.second for row in next_window(again).rows] == [3]


def test_an_acknowledgement_changes_nothing_under_who_counts_meanwhile(store: SQLiteStorage) -> None:
    """The status is asked for from any thread."""
    put(store, *range(6))
    assert store._writing is not None
    seen = store._writing.cursors.position("central").acknowledged
    before = list(seen)
    store.acknowledge("central", next_window(store, 3))
    assert list(seen) == before
    assert store._writing.cursors.position("central").acknowledged is not seen


def test_a_window_out_of_turn_is_refused(store: SQLiteStorage) -> None:
    put(store, 1, 2)
    window = next_window(store)
    store.acknowledge("central", window)
    with pytest.raises(InvalidValue, match="has acknowledged some of 1 to 2 before"):
        store.acknowledge("central", window)
    with pytest.raises(InvalidValue, match="there is no cursor 'centrall'"):
        store.pending("centrall", 1)


def test_a_version_that_was_never_sent_is_superseded(store: SQLiteStorage) -> None:
    put(store, 1)
    put(store, 1, value=2.0)
    (row,) = next_window(store).rows
    assert row.row[1] == 2.0
    counts = store.ledger().upstreams["central"]
    assert (counts["versions"], counts["pending"], counts["superseded"]) == (2, 1, 1)


def test_a_version_after_the_delivery_is_sent_again(store: SQLiteStorage) -> None:
    put(store, 1)
    old = next_window(store)
    store.acknowledge("central", old)
    put(store, 1, value=2.0)
    new = next_window(store)
    assert new.rows[0].seq > old.rows[0].seq
    store.acknowledge("central", new)
    counts = store.ledger().upstreams["central"]
    assert (counts["versions"], counts["delivered"], counts["superseded"]) == (2, 2, 0)


def test_a_row_merged_or_deleted_while_it_was_being_sent_is_counted_once(store: SQLiteStorage) -> None:
    put(store, 1, 2, 3)
    window = next_window(store)
    put(store, 1, value=2.0)
    store.delete_readings(Weather, start=T0 + timedelta(seconds=2), end=T0 + timedelta(seconds=3))
    store.quarantine("central", window.rows[:2], "refused")
    store.acknowledge("central", window)
    assert store.ledger().upstreams["central"] == upstream_books(
        versions=4, pending=1, delivered=1, superseded=1, deleted=1
    )
    assert store.ledger().problems == []


def test_a_quarantined_row_is_kept_whole_with_its_reason(store: SQLiteStorage, path: Path) -> None:
    put(store, 1, 2)
    window = next_window(store)
    store.quarantine("central", window.rows[1:], "22P02 no such number")
    store.acknowledge("central", window)
    counts = store.ledger().upstreams["central"]
    assert (counts["delivered"], counts["quarantined"]) == (1, 1)
    with closing(sqlite3.connect(path)) as other:
        ((model, device, data, reason),) = other.execute("SELECT model, device_id, data, reason FROM _quarantined")
    assert (model, device, reason, json.loads(data)["temperature"]) == ("weather", "a", "22P02 no such number", 1.0)


def test_quarantined_rows_are_known_by_their_numbers_and_counted(store: SQLiteStorage) -> None:
    put(store, 1, 2, 3)
    window = next_window(store)
    store.quarantine("central", window.rows, "refused")
    store.acknowledge("central", window)
    latest, middle, first = store.quarantined()
    assert [row["timestamp"].second for row in (first, middle, latest)] == [1, 2, 3]
    assert store.quarantined(number=middle["number"]) == [middle]
    assert store.count_quarantined() == {"central": 3}
    assert store.replay_quarantined("central", number=first["number"]) == 1
    assert store.drop_quarantined("central", number=middle["number"]) == 1
    assert store.count_quarantined("central", reason="fuse") == {"central": 1}
    assert store.count_quarantined(replayed=True) == {"central": 1}
    assert store.count_quarantined("central", reason="other") == {}
    assert [row["replayed"] for row in store.quarantined()] == [False, True]


def test_what_is_sent_once_more_never_goes_behind_what_is_newer(store: SQLiteStorage) -> None:
    """Also where the newer reading, or the older one itself, was deleted here meanwhile."""
    for value in (1.0, 2.0):
        put(store, 1, 2, value=value)
        window = next_window(store)
        if value == 1.0:
            store.quarantine("central", window.rows, "out of range")
        store.acknowledge("central", window)
    store.delete_readings(Weather, "a", T0 + timedelta(seconds=1), T0 + timedelta(seconds=2))
    assert store.count_quarantined() == {"central": 1}
    assert store.replay_quarantined("central") == 0
    assert store.ledger().upstreams["central"] == upstream_books(versions=4, delivered=2, superseded=2)
    put(store, 3)
    window = next_window(store)
    store.quarantine("central", window.rows, "out of range")
    store.acknowledge("central", window)
    store.delete_readings(Weather, "a", T0 + timedelta(seconds=3), T0 + timedelta(seconds=4))
    assert store.replay_quarantined("central") == 1
    put(store, 3, value=2.0)
    window = next_window(store)
    assert [row.row[1] for row in window.rows] == [2.0]
    store.acknowledge("central", window)
    assert store.pending("central", 10) is None
    assert store.ledger().upstreams["central"] == upstream_books(versions=6, delivered=3, superseded=3)


def test_a_second_cursor_starts_at_the_oldest_row_that_is_there(store: SQLiteStorage) -> None:
    put(store, 1, 2, 3)
    put(store, 1, value=2.0)
    store.delete_readings(Weather, end=T0 + timedelta(seconds=2))
    store.add_cursor("backup")
    store.add_cursor("backup")
    assert store.cursors() == ["backup", "central"]
    assert store.ledger().upstreams["backup"]["versions"] == 2
    assert store.ledger().problems == []


def test_a_row_that_vanished_shows_on_the_books(store: SQLiteStorage, path: Path) -> None:
    put(store, 1, 2, 3)
    store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("DELETE FROM _j_1 WHERE seq = 2")
    other.close()
    with SQLiteStorage(path, read_only=True) as reader:
        assert reader.ledger().problems == [
            "upstream central: 3 versions were written, 2 are accounted for;"
            " the difference lies in rows 2 to 2 of the journal"
        ]


def test_numbers_are_never_used_twice(store: SQLiteStorage, path: Path) -> None:
    put(store, 1, 2)
    last = next_window(store).high
    store.delete_readings(Weather)
    store.close()
    with SQLiteStorage(path) as again:
        put(again, 3)
        assert next_window(again).rows[0].seq > last


def test_an_upstream_may_start_now(store: SQLiteStorage) -> None:
    put(store, 1, 2)
    store.add_cursor("new", "now")
    put(store, 3)
    window = store.pending("new", 10)
    assert window is not None
    assert [row.version(1).timestamp.second for row in window.rows] == [3]
    assert store.ledger().upstreams["new"]["versions"] == 1


def test_an_upstream_may_start_at_a_time(store: SQLiteStorage, path: Path) -> None:
    put(store, 1, 2, 3)
    store.fold()
    put(store, 4)
    store.add_cursor("new", T0 + timedelta(seconds=3))
    put(store, 0, 5)
    sent = []
    while (window := store.pending("new", 2)) is not None:
        sent += [row.version(1).timestamp.second for row in window.rows]
        store.acknowledge("new", window)
    assert sent == [3, 4, 5]
    counts = store.ledger().upstreams["new"]
    assert (counts["delivered"], counts["skipped"], counts["pending"]) == (3, counts["versions"] - 3, 0)
    assert store.ledger().problems == []
    store.close()
    with SQLiteStorage(path) as again:
        assert again.pending("new", 2) is None


@pytest.mark.parametrize("start", ["newest", 5, datetime(2026, 1, 1)])
def test_a_wrong_start_is_named(store: SQLiteStorage, start: Any) -> None:
    with pytest.raises(InvalidValue, match="start"):
        store.add_cursor("new", start)


def test_what_a_late_cursor_skips_of_history_is_not_counted_when_it_is_deleted(path: Path) -> None:
    with SQLiteStorage(path, gateway_id="roof", piece_rows=1) as store:
        put(store, 1, 2, 3)
        store.fold()
        store.add_cursor("central", T0 + timedelta(seconds=3))
        store.delete_readings(Weather, end=T0 + timedelta(seconds=2))
        assert (store.count_pending("central"), store.ledger().problems) == (1, [])


def test_books_that_do_not_balance_are_said_when_the_store_is_opened(
    store: SQLiteStorage, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, 1, 2)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM _j_1 WHERE seq = 1")
    connection.close()
    with SQLiteStorage(path):
        pass
    assert "the books do not balance: upstream central: 2 versions were written, 1 are accounted for" in caplog.text
