"""What is too old or too much goes: whole partitions and pieces, in the books, and nothing else changes."""

import logging
import random
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, InvalidValue, Reading, SQLiteStorage, StorageBusy
from edgedepot.config import load
from edgedepot.storage.buffer import Choice
from edgedepot.storage.clock import ManualClock, from_micros, to_micros
from edgedepot.storage.query import FUNCTIONS
from edgedepot.storage.reading import define_model
from edgedepot.storage.rows import aggregate_rows, select_rows
from edgedepot.storage.sqlite.limits import Limits
from tests.models import Mixed, Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.minutes import killed_at_some_moment
from tests.storage.sqlite.test_failures import Failing, act, on_writer, state, whatever_fails
from tests.storage.sqlite.test_writer import advance_until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
Row = tuple[str, datetime, dict[str, Any]]


@pytest.fixture
def path(quick_folder: Path) -> Path:
    return quick_folder / "x.db"


def opened(path: Path, now: datetime = T0, **settings: Any) -> SQLiteStorage:
    settings = dict[str, Any]() | {"gateway_id": "roof", "clock": ManualClock(now), "piece_rows": 100} | settings
    return SQLiteStorage(path, **settings)


def clock_of(store: SQLiteStorage) -> ManualClock:
    assert isinstance(store.clock, ManualClock)
    return store.clock


def days(first: int, last: int, step: float = 0.25) -> list[Row]:
    """Readings of three devices, each some hours, from a day to another."""
    rng = random.Random(first)
    moments = [T0 + (first + number * step) * DAY for number in range(int((last - first) / step))]
    return [
        (device, moment, {"temperature": float(rng.randint(-9, 40)), "count": rng.choice([None, 2**62, 3])})
        for moment in moments
        for device in ("a", "b", "c")
    ]


def horizon(store: SQLiteStorage, model: type[Reading] = Weather) -> datetime | None:
    assert store._writing is not None
    layout = store._writing.catalogue.find(model)
    assert layout is not None
    micros = store._writing.writer._journal.shape.horizons.get(layout.id)
    return None if micros is None else from_micros(micros)


def check_answers(store: SQLiteStorage, rows: list[Row]) -> None:
    """Queries and aggregates are those over these rows."""
    nothing = {spec.name: None for spec in Weather.__fields__}
    dicts = [{"device_id": device, "timestamp": moment, **nothing, **data} for device, moment, data in rows]
    assert store.query_readings(Weather) == select_rows(dicts, Weather)
    for function in FUNCTIONS:
        for field, interval, zone in [("temperature", "1d", "Europe/Zurich"), ("count", "1mo", "UTC")]:
            for group_by in (None, "device"):
                question: dict[str, Any] = {"interval": interval, "tz": zone, "group_by": group_by}
                expected = aggregate_rows(dicts, Weather, field, function, **question)
                assert store.aggregate(Weather, field, function, **question) == expected
    times = [moment for _, moment, _ in rows]
    seen = {(one.first_seen, one.last_seen) for one in store.devices()}
    assert not rows or (min(times) in {low for low, _ in seen} and max(times) in {high for _, high in seen})


# -- by age -----------------------------------------------------------------------------------------------------------


def test_what_is_older_than_the_age_goes_by_whole_partitions(path: Path) -> None:
    rows = days(-200, 0)
    with opened(path, keep="80 days") as store:
        store.store_readings(Weather, rows)
        store.fold()
        store.retain()
        first = horizon(store)
        assert first is not None
        assert T0 - 90 * DAY < first <= T0 - 80 * DAY
        check_answers(store, [row for row in rows if row[1] >= first])
        audit_memory(store)
    found = audit_file(path)
    assert found["history"] == sum(row[1] >= first for row in rows)
    with opened(path) as store:
        check_answers(store, [row for row in rows if row[1] >= first])


def test_an_age_for_each_model(path: Path) -> None:
    rows = [("other", moment, {"a": 1.0}) for device, moment, _ in days(-30, 0) if device == "a"]
    with opened(path, keep={Weather: timedelta(days=10), "*": "20 days"}) as store:
        store.store_readings(Weather, days(-30, 0))
        store.store_readings(Mixed, rows)
        store.fold()
        store.retain()
        first, other = horizon(store), horizon(store, Mixed)
        assert first is not None
        assert other is not None
        assert T0 - 12 * DAY < first <= T0 - 10 * DAY
        assert T0 - 23 * DAY < other <= T0 - 20 * DAY
        check_answers(store, [row for row in days(-30, 0) if row[1] >= first])
        assert len(store.query_readings(Mixed)) == sum(row[1] >= other for row in rows)
    audit_file(path)


def test_an_age_for_a_model_that_nobody_knows_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once the store has folded: whoever declares models has done so by then. One that was refused is none."""
    with pytest.raises(InvalidValue) as refused:
        define_model("Refused", {}, measurement="not one")
    with opened(
        path, keep={"Weather": "20 days", "mixd": "10 days", "*": "30 days"}, keep_bytes={"xyzzy": "1 MB"}
    ) as store:
        for moment in (-30, 0):
            store.store_readings(Weather, days(moment, moment + 1))
            store.fold()
        assert horizon(store) is not None
    assert "not one" in str(refused.value)  # which has held the class until here
    assert [record.getMessage() for record in caplog.records if "no reading model" in record.getMessage()] == [
        'keep: there is no reading model "mixd" (did you mean "mixed"?)',
        'keep_bytes: there is no reading model "xyzzy"',
    ]


def test_without_limits_nothing_goes(path: Path) -> None:
    with opened(path) as store:
        store.store_readings(Weather, days(-2000, -1000))
        store.fold()
        store.retain()
        assert horizon(store) is None
        check_answers(store, days(-2000, -1000))


def test_it_happens_by_itself(path: Path) -> None:
    with opened(path, keep="80 days") as store:
        store.store_readings(Weather, days(-100, 0))
        store.fold()
        before = horizon(store)
        clock_of(store).step(40 * 86_400)
        advance_until(clock_of(store), lambda: horizon(store) != before)
        assert clock_of(store).monotonic() <= 305
        on_writer(store, lambda: None)  # what has gone is still being forgotten in memory
        audit_memory(store)


def test_partitions_are_as_short_as_the_age_needs(path: Path) -> None:
    """Also one that was begun before there was an age."""
    with opened(path) as store:
        store.store_readings(Weather, days(-1, 0, 0.05))
        store.fold()
    with opened(path, keep="1 day") as store:
        for hours in range(48):
            moment = T0 + timedelta(hours=hours)
            clock_of(store).step(3600)
            store.store_readings(Weather, [("a", moment, {"temperature": 1})])
            store.fold()
        store.retain()
        first = horizon(store)
        now = from_micros(clock_of(store).now())
        assert first is not None
        assert now - timedelta(hours=29) < first <= now - timedelta(hours=24)
        assert [row["timestamp"] for row in store.query_readings(Weather)][-1] == first
    audit_file(path)


# -- late readings ----------------------------------------------------------------------------------------------------


def test_a_reading_from_before_the_horizon_is_forwarded_and_counted_late(path: Path) -> None:
    with opened(path, keep="80 days") as store:
        store.add_cursor("central")
        store.store_readings(Weather, days(-200, 0))
        drain(store, "central")
        store.fold()
        store.retain()
        first = horizon(store)
        assert first is not None
        old: Row = ("a", T0 - 150 * DAY, {"temperature": 1.5})
        store.store_readings(Weather, [old, ("b", T0, {"temperature": 1})])
        assert store.query_readings(Weather, end=first) == []  # and so it stays when it is folded
        check_answers(store, [row for row in days(-200, 0) if row[1] >= first] + [("b", T0, {"temperature": 1.0})])
        assert store.delete_readings(Weather, "c", T0 - 150 * DAY, first) == 0
        assert store.ledger().sources["direct"]["late"] == 1
        store.fold()
        audit_memory(store)
        assert store.query_readings(Weather, end=first) == []
        assert len(store.query_readings(Weather, start=T0)) == 1
        store.store_readings(Weather, [old])  # whether it was there nobody knows any more
        books = store.ledger().sources["direct"]
        assert (books["late"], books["duplicates"]) == (2, 0)
        assert horizon(store) == first
    assert audit_file(path)["below the horizon"] == 1
    with opened(path) as store:
        assert [row[1:] for row in drain(store, "central")] == [("a", old[1]), ("b", T0), ("a", old[1])]
        assert store.ledger().problems == []


def test_what_is_pending_is_forwarded_though_history_let_go_of_it(path: Path) -> None:
    rows = days(-200, 0)
    with opened(path, keep="80 days") as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows)
        store.fold()
        store.retain()
        assert store.count_pending("central") == len(rows)
        first = horizon(store)
        assert first is not None
        assert store.delete_readings(Weather, "a", None, first) == 0  # not to be seen any more, but not sent either
        gone = sum(device == "a" and moment < first for device, moment, _ in rows)
        assert gone > 0
        assert store.ledger().upstreams["central"]["deleted"] == gone
        assert len(drain(store, "central")) == len(rows) - gone
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


def drain(store: SQLiteStorage, cursor: str, limit: int = 70) -> list[tuple[int, str, datetime]]:
    """All that a cursor is owed: model, device and time of each."""
    found = []
    store.flush()
    while window := store.pending(cursor, limit):
        found += [(row.seq, row.device_id, from_micros(row.timestamp)) for row in window.rows]
        store.acknowledge(cursor, window)
        store.flush()
    return found


# -- upstreams that come late -----------------------------------------------------------------------------------------


@pytest.fixture
def with_a_late_upstream(path: Path) -> Path:
    """A store whose rows are in history alone, when an upstream is added."""
    with opened(path) as store:
        store.add_cursor("early")
        store.store_readings(Weather, days(-200, 0))
        drain(store, "early")
        store.fold()
        store.fold()  # the first closes the piece, the second drops it
        store.store_readings(Weather, days(0, 10))
        store.fold()
        store.add_cursor("late")
        window = store.pending("late", 30)
        assert window is not None
        assert window.place is not None
        store.acknowledge("late", window)
    return path


def test_age_leaves_what_a_late_upstream_is_still_owed(with_a_late_upstream: Path) -> None:
    rows = days(-200, 0) + days(0, 10)
    with opened(with_a_late_upstream, T0 + 60 * DAY, keep="80 days") as store:
        store.retain()
        check_answers(store, rows)
        assert store.ledger().problems == []
        assert len(drain(store, "late", 400)) == len(rows) - 30
        store.retain()
        first = horizon(store)
        assert first is not None
        check_answers(store, [row for row in rows if row[1] >= first])
        assert store.ledger().upstreams["late"]["evicted"] == 0
        assert store.ledger().problems == []


def test_age_takes_it_where_that_is_wanted(with_a_late_upstream: Path) -> None:
    rows = days(-200, 0) + days(0, 10)
    with opened(with_a_late_upstream, T0 - 121 * DAY, keep="80 days", keep_pending=False) as store:
        store.add_cursor("few", "oldest", Choice(devices=("a",)))
        window = store.pending("late", 40)  # handed out before it goes, acknowledged afterwards
        assert window is not None
        clock_of(store).step(181 * 86_400)
        store.retain()
        first = horizon(store)
        assert first is not None
        ledger = store.ledger()
        gone = sum(moment < first for _, moment, _ in rows)
        assert ledger.upstreams["late"]["evicted"] == gone - 30
        few = ledger.upstreams["few"]
        assert (few["evicted"], few["skipped"]) == (gone // 3, gone // 3 * 2)  # of three devices it wants one
        assert sum(one.rows for one in ledger.given_up if one.upstream == "few") == gone // 3
        assert ledger.problems == []
        store.acknowledge("late", window)
        assert len(drain(store, "late")) == len(rows) - gone
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(with_a_late_upstream)


def test_age_takes_pieces_of_the_journal_where_that_is_wanted(path: Path) -> None:
    with opened(path) as store:
        store.add_cursor("central")
        for day in range(-100, 0):
            store.store_readings(Weather, days(day, day + 1, 0.02))
            store.fold()
    with opened(path, keep="50 days", keep_pending=False) as store:
        store.retain()
        evicted = store.ledger().upstreams["central"]["evicted"]
        assert 43 * 150 <= evicted <= 50 * 150
        assert store.ledger().problems == []
        assert len(drain(store, "central", 1000)) == 100 * 150 - evicted
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


# -- by bytes ---------------------------------------------------------------------------------------------------------


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.name))


def fill(store: SQLiteStorage, first: int, last: int, step: float = 1) -> None:
    """Readings some seconds apart, from a number to another, at the time that they say."""
    clock = clock_of(store)
    for start in range(first, last, 2000):
        clock.step(to_micros(T0 + timedelta(seconds=step * (start + 2000))) / 1e6 - clock.now() / 1e6)
        moments = ((number, T0 + timedelta(seconds=step * number)) for number in range(start, start + 2000))
        rows = [(f"d{n % 7}", moment, {"temperature": n / 7, "humidity": n / 3, "count": n}) for n, moment in moments]
        store.store_readings(Weather, rows).wait("committed")
        if start % 10_000 == 0:
            store.fold()
            store.retain()


def numbers(store: SQLiteStorage) -> list[int]:
    return [row["count"] for row in store.query_readings(Weather, fields=["count"], order="timestamp")]


def test_a_store_stays_within_its_bytes(path: Path) -> None:
    with opened(path, keep_bytes="4 MB", piece_rows=2000) as store:
        largest = 0
        for start in range(0, 200_000, 20_000):
            fill(store, start, start + 20_000)
            largest = max(largest, size_of(path))
        assert largest <= 4_000_000
        store.fold()
        store.retain()
        there = numbers(store)
        assert there == list(range(there[0], 200_000))
        assert len(there) > 20_000
        counts = store.aggregate(Weather, "count", "sum", interval="1h")
        assert isinstance(counts, list)
        assert sum(bucket["result"] for bucket in counts) == sum(there)
        audit_memory(store)
    audit_file(path)


def test_bytes_of_a_model(path: Path) -> None:
    with opened(path, keep_bytes={Weather: "1 MB"}, piece_rows=2000) as store:
        store.store_readings(Mixed, [("a", T0 - 900 * DAY, {"a": 1})])
        fill(store, 0, 60_000)
        store.fold()
        store.retain()
        assert store._writing is not None
        shape = store._writing.writer._journal.shape
        layout = store._writing.catalogue.find(Weather)
        assert layout is not None
        pages = sum(partition.pages for partition in shape.partitions[layout.id])
        assert 700_000 < pages * 4096 <= 1_000_000
        with closing(sqlite3.connect(path)) as other:
            measured = other.execute(
                "SELECT count(*) FROM dbstat WHERE name LIKE '%~_weather~_%' ESCAPE '~'"
            ).fetchone()[0]
        assert abs(measured - pages) < 25
        assert len(store.query_readings(Mixed)) == 1
    audit_file(path)


@pytest.mark.parametrize("limit", [1_000_000, {Weather: 1_000_000}], ids=["of the store", "of a model"])
def test_more_in_an_hour_than_the_limit_holds(path: Path, limit: Any) -> None:
    """Part of the hour goes: what comes in is never late, and what there is goes up to the latest."""
    with opened(path, keep_bytes=limit, piece_rows=2000) as store:
        for start in range(0, 60_000, 10_000):
            fill(store, start, start + 10_000, 0.01)
            store.fold()
            store.retain()
            there = numbers(store)
            assert there == list(range(there[0], start + 10_000))
            assert len(there) >= 8000
            first = horizon(store)
            assert first is None or first <= from_micros(clock_of(store).now())
            sums = store.aggregate(Weather, "count", "sum", interval="1h")
            assert sums == [{"bucket": T0, "result": sum(there)}]
        assert there[0] > 30_000
        assert store.ledger().sources["direct"]["late"] == 0
        ones = [number for number in there if number % 7 == 1]
        merged = [("d1", T0 + timedelta(seconds=0.01 * number), {"temperature": -1.0}) for number in ones]
        store.store_readings(Weather, merged)
        store.fold()
        audit_memory(store)
    audit_file(path)


def test_bytes_go_before_a_late_upstream_and_the_books_say_so(
    with_a_late_upstream: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But first what nobody is owed, younger though it be; then what waits is thinned, as far as it can be."""
    caplog.set_level(logging.INFO, "edgedepot.storage.sqlite.room_log")
    with opened(with_a_late_upstream, T0 + 10 * DAY, keep_bytes=1_000_000, piece_rows=2000) as store:
        store.store_readings(Mixed, [("m", T0 + timedelta(minutes=number), {"a": 1.0}) for number in range(100)])
        drain(store, "early")
        store.retain()
        caplog.clear()  # what went at opening: there was nothing else
        fill_pending(store, 20_000)
        store.retain()
        assert horizon(store) is not None
        said = " ".join(record.getMessage() for record in caplog.records)
        assert 0 <= said.find("history of mixed") < said.find("thinned") < said.find("evicted")
        assert store.ledger().upstreams["late"]["evicted"] > 0
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(with_a_late_upstream)


@pytest.mark.parametrize(
    "limits",
    [{"keep": "30 days"}, {"keep_bytes": "1 MB", "when_full": "block"}, {"keep_bytes": "1 MB"}],
    ids=["too old", "too much, and blocks", "too much"],
)
def test_what_an_upstream_does_not_want_nobody_keeps_for_it(
    path: Path, limits: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """History that it has not walked through, in the middle of a partition too, and pieces of the journal."""
    caplog.set_level(logging.INFO, "edgedepot.storage.sqlite.room_log")
    choice = Choice(frozenset({"mixed"}))
    with opened(path, T0 - 99 * DAY) as store:
        store.add_cursor("early")
        store.store_readings(Weather, days(-99, 0, 0.05))
        drain(store, "early", 9000)
        store.fold()
        store.fold()  # the first closes the piece, the second drops it
        store.add_cursor("late", "oldest", choice)
        store.remove_cursor("early")
        window = store.pending("late", 30)
        assert window is not None
        store.acknowledge("late", window)
        assert not window.rows
        assert window.place is not None
        store.store_readings(Mixed, [("m", T0, {"a": 1.0})])
        store.fold()
    with opened(path, piece_rows=2000, busy_timeout=1e-20, **limits) as store:
        clock_of(store).advance(1)  # from now on it cannot tell so short a time
        store.add_cursor("late", "oldest", choice)
        fill(store, 0, 2000 if "keep" in limits else 20_000)
        store.fold()
        store.retain()
        first = horizon(store)
        assert first is not None
        assert first > T0 - 60 * DAY
        late = store.ledger().upstreams["late"]
        assert (late["skipped"] > 30, late["evicted"], late["thinned"]) == (True, 0, 0)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert store.ledger().problems == []
        assert [row[1:] for row in drain(store, "late", 5000)] == [("m", T0)]
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


def fill_pending(store: SQLiteStorage, count: int) -> None:
    start = from_micros(clock_of(store).now())
    for first in range(0, count, 2000):
        moments = (start + timedelta(seconds=number) for number in range(first, first + 2000))
        store.store_readings(Weather, [("a", moment, {"temperature": 1.0, "count": 1}) for moment in moments])
        store.fold()
    clock_of(store).step(count)


def test_pending_rows_are_evicted_last_and_oldest_first(path: Path) -> None:
    with opened(path, keep_bytes=1_000_000, piece_rows=1000) as store:
        store.add_cursor("central")
        store.add_cursor("since", T0 + timedelta(minutes=500))
        store.store_readings(Weather, days(-2, 0)).wait("committed")
        window = store.pending("central", 10)
        assert window is not None
        store.acknowledge("central", window)
        window = store.pending("central", 10)
        assert window is not None
        fill(store, 0, 60_000, 60)
        store.fold()
        store.retain()
        books = store.ledger()
        assert books.problems == []
        evicted = books.upstreams["central"]["evicted"]
        assert evicted > 10_000
        assert books.upstreams["since"]["skipped"] == 524
        assert books.upstreams["since"]["evicted"] == evicted - 514
        store.acknowledge("central", window)  # delivered all the same, but in the books as evicted
        left = drain(store, "central", 5000)
        assert len(left) == 60_024 - 10 - evicted
        assert [moment for _, _, moment in left] == [
            T0 + timedelta(minutes=n) for n in range(60_000 - len(left), 60_000)
        ]
        assert len(drain(store, "since", 5000)) == len(left)
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


def test_a_full_store_that_is_to_block_takes_no_readings_until_upstreams_acknowledge(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgedepot.storage.sqlite.room_log")
    with opened(path, keep_bytes=1_000_000, when_full="block", piece_rows=1000, busy_timeout="5s") as store:
        store.add_cursor("central")
        stored = 0
        while not (failure := put_2000(store, stored)):
            stored += 2000
            store.fold()
            store.retain()
        why = (
            "the store has reached its limit of 1000000 bytes (keep_bytes) and takes no readings until upstreams have"
            f" acknowledged enough of what waits for them, from {T0:%Y-%m-%dT%H:%MZ} on"
        )
        assert str(failure) == store.health_check()["message"] == why
        assert store.health_check()["status"] == "fail"
        assert stored > 4000
        assert store.ledger().upstreams["central"]["pending"] == stored
        assert store.ledger().upstreams["central"]["evicted"] == 0
        assert len(drain(store, "central", 1000)) == stored
        assert put_2000(store, stored) is None
        assert store.health_check()["status"] == "pass"
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert said == [why, "the store takes readings again"]
        assert drain(store, "central", 5000)[0][2] == T0 + timedelta(seconds=stored)
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


def test_a_full_store_takes_no_readings_when_it_is_salvaged_either(tmp_path: Path) -> None:
    with opened(tmp_path / "x.db", keep_bytes=1_000_000, when_full="block", busy_timeout="5s") as store:
        store.add_cursor("central")
        stored = 0
        while not put_2000(store, stored):
            stored += 2000
        writing = store._writing
        assert writing is not None
        writing.writer.suspect(sqlite3.IntegrityError("two tables contradict"))
        advance_until(clock_of(store), lambda: writing.opened.report is not None, step=0)
        assert "has reached its limit" in str(put_2000(store, stored))


def put_2000(store: SQLiteStorage, first: int) -> StorageBusy | None:
    """Store readings, which may have to wait; what was raised."""
    rows = [("a", T0 + timedelta(seconds=first + n), {"temperature": 1.0}) for n in range(2000)]
    failures: list[StorageBusy] = []

    def put() -> None:
        try:
            store.store_readings(Weather, rows).wait("committed")
        except StorageBusy as exc:
            failures.append(exc)

    storing = threading.Thread(target=put)
    storing.start()
    advance_until(clock_of(store), lambda: not storing.is_alive())
    return failures[0] if failures else None


# -- failures and kills -----------------------------------------------------------------------------------------------


def test_retention_that_fails_anywhere_is_done_in_the_end(with_a_late_upstream: Path, tmp_path: Path) -> None:
    original = with_a_late_upstream.read_bytes()

    def attempt(place: float) -> tuple[str, Failing]:
        path = tmp_path / "x.db"
        path.write_bytes(original)
        with opened(path, T0 + 60 * DAY) as store:
            assert store._writing is not None
            limits = Limits.of("80 days", None, "evict", keep_pending=False)
            store._writing.writer._upkeep._limits = limits  # from `retain` on
            with Failing(store, place, 3) as failing:
                act(store, lambda store: store.retain())
            audit_memory(store)
            seen = state(store)
        audit_file(path)
        return seen, failing

    whatever_fails(attempt, 25)


CHILD = """
from tests.storage.sqlite.minutes import opened_by_child

store, storing = opened_by_child(keep="3 days", keep_bytes={"*": 1_000_000}, keep_pending=False)
store.add_cursor("central")
store.add_cursor("dead")
for _ in storing:
    if window := store.pending("central", 60):
        store.acknowledge("central", window)
"""


def test_killed_at_any_moment_the_books_balance_and_no_row_is_missing_in_between(path: Path) -> None:
    rng = random.Random(20260101)
    promised = 0
    for _ in range(12):
        promised = killed_at_some_moment(CHILD, path, promised, rng)
        audit_file(path)
        with opened(path, T0 + timedelta(minutes=promised)) as store:
            there = numbers(store)
            assert there == list(range(there[0], there[-1] + 1))
            assert promised <= there[-1] + 1 <= promised + 50
            assert store.ledger().problems == []
            dead = store.ledger().upstreams["dead"]
            assert dead["pending"] + dead["evicted"] == there[-1] + 1
            audit_memory(store)
            promised = there[-1] + 1
    assert there[0] > 0
    assert dead["evicted"] > 0


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"keep": "soon"}, "keep: found 'soon', expected a duration"),
        ({"keep": {"weather": "1 moon"}}, "keep: found '1 moon', expected a duration"),
        ({"keep": {3: "1d"}}, "keep: found 3, expected reading models, measurements or"),
        ({"keep_bytes": "2 apples"}, "keep_bytes: found '2 apples', expected a size such as '500 MB'"),
        ({"keep_bytes": 999}, "keep_bytes: found 999, .* at least 1 MB"),
        ({"when_full": "explode"}, "when_full: found 'explode', expected 'evict' or 'block'"),
    ],
)
def test_a_wrong_limit_is_named(path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SQLiteStorage(path, **setting)


def toml(folder: Path, lines: str) -> Path:
    file = folder / "gateway.toml"
    file.write_text(f'[gateway]\nid = "roof"\n[storage]\npath = "x.db"\n{lines}\n')
    return file


def test_limits_in_a_file(tmp_path: Path) -> None:
    lines = 'keep_bytes = "2 GB"\nwhen_full = "block"\n[storage.keep]\nweather = "2 years"\n"*" = "1 month"'
    store = load(toml(tmp_path, lines)).storage.make()
    limits = store._writing.writer._upkeep._limits
    store.close()
    day = 86_400_000_000
    assert (limits.age("weather"), limits.age("pump"), limits.size, limits.block) == (
        732 * day,
        31 * day,
        2 * 10**9,
        True,
    )


def test_a_wrong_limit_in_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'storage.keep: found "soon", expected a duration'):
        load(toml(tmp_path, 'keep = "soon"'))
    with pytest.raises(ConfigError, match=r"storage.keep_bytes: found '9 apples', expected a size"):
        load(toml(tmp_path, 'keep_bytes = "9 apples"')).build()
