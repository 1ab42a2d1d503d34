"""Of what upstreams await, whole minutes become one row: in the books, and nothing that anybody received is touched."""

import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.buffer import Choice, Pending
from edgedepot.storage.clock import from_micros, to_micros
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.test_failures import Failing, act, state, whatever_fails
from tests.storage.sqlite.test_retention import clock_of, fill, opened

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
Row = tuple[str, datetime, dict[str, Any]]


@pytest.fixture
def path(quick_folder: Path) -> Path:
    return quick_folder / "x.db"


def rows(minutes: int, per_minute: int = 6, first: int = 0) -> list[Row]:
    rng = random.Random(first)
    found: list[Row] = []
    for number in range(first * per_minute, (first + minutes) * per_minute):
        moment = T0 + MINUTE * number / per_minute
        for device in "ab":
            data: dict[str, Any] = {"temperature": rng.choice([20.25, 21.5, 90.0])}
            data |= {"humidity": rng.uniform(0, 99)} if rng.random() < 0.5 else {}
            data |= {"count": number, "note": f"{number}"} if rng.random() < 0.7 else {}
            found.append((device, moment, data | ({"raining": rng.random() < 0.5} if rng.random() < 0.5 else {})))
    return found


def stored(path: Path, minutes: int = 100, **settings: Any) -> SQLiteStorage:
    store = opened(path, **settings)
    store.add_cursor("central")
    store.store_readings(Weather, rows(minutes))
    store.fold()
    return store


def pending(store: SQLiteStorage, cursor: str = "central") -> list[Pending]:
    window = store.pending(cursor, 100_000)
    return [] if window is None else window.rows


def thinned(there: list[Row]) -> dict[tuple[str, datetime], tuple[Any, ...]]:
    """What each minute's last row is then, by arithmetic of its own."""
    minutes: dict[tuple[str, datetime], list[Row]] = defaultdict(list)
    for row in there:
        minutes[row[0], row[1].replace(second=0, microsecond=0)].append(row)
    found = {}
    for (device, _), group in minutes.items():
        quality = 8 | (1 if any(row[2]["temperature"] > 80 for row in group) else 0)
        values: list[Any] = []
        for spec in Weather.__fields__:
            known = [row[2][spec.name] for row in group if row[2].get(spec.name) is not None]
            average = math.fsum(known) / len(known) if known and spec.type is float else None
            values.append(average if spec.type is float else known[-1] if known else None)
        found[device, group[-1][1]] = (quality, *values)
    return found


def test_a_window_that_was_read_ahead_has_the_rows_as_they_are_after_thinning(path: Path) -> None:
    with stored(path) as store:
        first = store.pending("central", 12)
        assert first is not None
        store.read_ahead("central", 12, "backlog", first)
        assert store.thin(T0 + 60 * MINUTE) == 59 * 2 * 5  # but for the minute in hand
        store.acknowledge("central", first)
        window = store.pending("central", 12)
        assert window is not None
        assert {(row.device_id, row.timestamp): row.row for row in window.rows} == dict(
            list({(device, to_micros(at)): row for (device, at), row in thinned(rows(60)).items()}.items())[2:14]
        )


def test_each_whole_minute_becomes_its_last_row(path: Path) -> None:
    with stored(path) as store:
        seqs = {(row.device_id, row.timestamp): row.seq for row in pending(store)}
        assert store.thin(T0 + 60 * MINUTE) == 0  # they are in hand
    with opened(path) as store:
        assert store.thin(T0 + 60 * MINUTE + timedelta(seconds=30)) == 60 * 2 * 5
        left = pending(store)
        expected = thinned(rows(60))
        assert {(row.device_id, from_micros(row.timestamp)): row.row for row in left[:120]} == expected
        assert [row.seq for row in left] == [seqs[row.device_id, row.timestamp] for row in left]
        assert len(left) == 60 * 2 + 40 * 12
        ledger = store.ledger()
        assert ledger.problems == []
        assert ledger.upstreams["central"]["thinned"] == 600
        assert len(store.query_readings(Weather)) == 1200
        assert store.thin(T0 + 60 * MINUTE) == 0
        audit_memory(store)
    audit_file(path)


def test_what_an_upstream_received_or_has_in_hand_stays(path: Path) -> None:
    with stored(path) as store:
        store.add_cursor("other")
        acknowledged = store.pending("central", 100)
        assert acknowledged is not None
        store.acknowledge("central", acknowledged)
        in_hand = store.pending("central", 50)
        assert in_hand is not None
        store.flush()
        # "other" has received nothing: rows that "central" has wholly acknowledged become fewer for it.
        assert store.thin(T0 + 200 * MINUTE) == (8 + 100 - 13) * 2 * 5
        left = pending(store, "other")
        assert sum(not (row.row[0] or 0) & 8 for row in left) == 5 * 12
        ledger = store.ledger()
        assert ledger.problems == []
        assert ledger.upstreams["other"]["thinned"] == 950
        assert ledger.upstreams["central"]["thinned"] == 870
        store.acknowledge("central", in_hand)
        store.flush()
        assert store.ledger().upstreams["central"]["delivered"] == 150
        store.acknowledge("central", whole(store, "central"))
        store.acknowledge("other", whole(store, "other"))
        store.flush()
        assert store.ledger().problems == []
        assert store.count_pending("central") == store.count_pending("other") == 0
        audit_memory(store)
    audit_file(path)


def test_what_an_upstream_would_not_have_got_anyway_counts_as_skipped(path: Path) -> None:
    with opened(path) as store:
        store.add_cursor("central")
        store.add_cursor("other models", "oldest", Choice(frozenset({"mixed"})))
        store.add_cursor("other devices", "oldest", Choice(devices=("b",)))
        store.add_cursor("younger", T0 + 49 * MINUTE + timedelta(seconds=30))
        store.store_readings(Weather, rows(100))
        store.fold()
    with opened(path) as store:  # nobody has come yet to say again what it wants
        assert store.thin(T0 + 60 * MINUTE) == 600
        ledger = store.ledger()
        assert ledger.problems == []
        found = {name: (books["thinned"], books["skipped"]) for name, books in ledger.upstreams.items()}
        assert found == {
            "central": (600, 0),
            "other models": (0, 600),
            "other devices": (300, 300),
            "younger": (10 * 10 + 4, 500 - 4),
        }
        given_up = {(one.upstream, one.rows, one.start, one.end) for one in ledger.given_up}
        assert given_up == {
            ("central", 600, T0, T0 + 60 * MINUTE),
            ("other devices", 300, T0, T0 + 60 * MINUTE),
            ("younger", 104, T0 + 49 * MINUTE, T0 + 60 * MINUTE),
        }


def whole(store: SQLiteStorage, cursor: str) -> Any:
    window = store.pending(cursor, 100_000)
    assert window is not None
    return window


def test_without_upstreams_and_before_the_fold_nothing_is_thinned(path: Path) -> None:
    with opened(path, piece_rows=100_000) as store:
        store.store_readings(Weather, rows(10))
        store.add_cursor("central")
        assert store.thin(T0 + 200 * MINUTE) == 0  # the piece is still open
        assert len(pending(store)) == 120


def test_a_minute_that_two_pieces_share_is_left(path: Path) -> None:
    with opened(path, piece_rows=10) as store:
        store.add_cursor("central")
        for first in range(0, 240, 30):
            store.store_readings(Weather, rows(20)[first : first + 30])
            store.fold()
        store.thin(T0 + 20 * MINUTE)
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for row in pending(store):
            counts[row.device_id, row.timestamp // 60_000_000] += 1
        assert set(counts.values()) == {1, 6}
        assert store.ledger().problems == []


def test_a_thinned_row_that_is_merged_or_deleted_counts_once(path: Path) -> None:
    with stored(path) as store:
        assert store.thin(T0 + 200 * MINUTE) == 1000
        store.store_readings(Weather, [(device, moment, {"temperature": -5.0}) for device, moment, _ in rows(10)])
        store.flush()
        ledger = store.ledger()
        assert ledger.problems == []
        assert (ledger.upstreams["central"]["thinned"], ledger.upstreams["central"]["superseded"]) == (1000, 20)
        assert store.ledger().sources["direct"]["merged"] == 120
        assert store.delete_readings(Weather, "b", T0, T0 + 50 * MINUTE) == 300
        ledger = store.ledger()
        assert ledger.problems == []
        assert ledger.upstreams["central"]["deleted"] == 40 + 60
        again = store.store_readings(Weather, [row for row in rows(60) if row[0] == "a"][60:])
        assert again.wait("committed").duplicates == 300
        assert len(store.query_readings(Weather, "a")) == 600
        store.fold()
        audit_memory(store)
        assert store.ledger().problems == []
    audit_file(path)


def test_averages_of_huge_numbers(path: Path) -> None:
    with opened(path, piece_rows=1) as store:
        store.add_cursor("central")
        for second, value in enumerate([1.5e308, 1.7e308, 1.6e308]):
            store.store_reading(Weather, "a", T0 + timedelta(seconds=second), {"temperature": 0.0, "humidity": value})
        store.fold()
        assert store.thin(T0 + MINUTE) == 2
        (row,) = pending(store)
        assert row.row[2] == pytest.approx(1.6e308)


def test_a_piece_of_many_rows_is_thinned_in_parts(path: Path) -> None:
    with opened(path, piece_rows=20_000) as store:
        store.add_cursor("central")
        there = [
            (f"d{n % 3 // 2}", T0 + timedelta(seconds=n / 4), {"temperature": float(n % 7)}) for n in range(24_000)
        ]
        store.store_readings(Weather, there)
        store.fold()
        assert store.thin(T0 + 1000 * MINUTE) == 24_000 - 2 * 100
        expected = thinned(there)
        assert {(row.device_id, from_micros(row.timestamp)): row.row for row in pending(store)} == expected
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


def test_a_full_store_thins_before_it_evicts(path: Path) -> None:
    with opened(path, keep_bytes=1_000_000, piece_rows=1000) as store:
        store.add_cursor("central")
        fill(store, 0, 14_000)
        store.fold()
        store.retain()
        books = store.ledger().upstreams["central"]
        assert store.ledger().problems == []
        assert books["evicted"] == 0
        assert books["thinned"] > 1000
        assert books["pending"] == 14_000 - books["thinned"]
        assert pending(store)[0].timestamp < to_micros(T0 + MINUTE)
        fill(store, 14_000, 60_000)
        store.fold()
        store.retain()
        assert store.ledger().problems == []
        assert store.ledger().upstreams["central"]["thinned"] > books["thinned"]
        clock_of(store).advance(20)
        store.retain()
        audit_memory(store)
    audit_file(path)


def test_thinning_that_fails_anywhere_is_done_once_in_the_end(path: Path, tmp_path: Path) -> None:
    stored(path, 60).close()
    original = path.read_bytes()

    def attempt(place: float) -> tuple[str, Failing]:
        copy = tmp_path / "x.db"
        copy.write_bytes(original)
        with opened(copy) as store:
            with Failing(store, place, 3) as failing:
                act(store, lambda store: store.thin(T0 + 50 * MINUTE))
            audit_memory(store)
            seen = state(store)
        audit_file(copy)
        return seen, failing

    whatever_fails(attempt, 15)
