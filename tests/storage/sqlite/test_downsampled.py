"""What is kept downsampled answers as the raw rows did, or says why it cannot."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgedepot import InvalidValue, SQLiteStorage
from edgedepot.storage.clock import ManualClock, to_micros
from edgedepot.storage.query import FUNCTIONS
from edgedepot.storage.reading import define_model
from edgedepot.storage.rows import aggregate_rows, select_rows
from edgedepot.storage.sqlite.downsampled import keep_more
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.limits import Limits
from edgedepot.storage.sqlite.retention import Retention
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.minutes import killed_at_some_moment
from tests.storage.sqlite.test_failures import Failing, act, state, whatever_fails
from tests.storage.sqlite.test_retention import clock_of, drain, fill, horizon, numbers, opened

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOW = T0 + 40 * DAY
Rows = dict[tuple[str, datetime], dict[str, Any]]


@pytest.fixture
def path(quick_folder: Path) -> Path:
    return quick_folder / "x.db"


def readings(seed: int = 0) -> Rows:
    """Of forty days, some minutes apart, with everything that a field may be."""
    rng = random.Random(seed)
    found: Rows = {}
    for minute in range(0, 40 * 1440, 50):
        for device in "abc":
            data: dict[str, Any] = {"temperature": float(rng.randint(-20, 90))}
            data |= {"count": rng.choice([7, -(2**63), 2**63 - 1, 2**61])} if rng.random() < 0.6 else {}
            data |= {"note": rng.choice(["", "wet"])} if rng.random() < 0.3 else {}
            data |= {"raining": rng.random() < 0.5} if rng.random() < 0.3 else {}
            found[device, T0 + timedelta(minutes=minute + rng.randint(0, 49), microseconds=rng.randint(0, 99))] = data
    return found


def put(store: SQLiteStorage, rows: Rows) -> None:
    store.store_readings(Weather, [(device, moment, data) for (device, moment), data in rows.items()])


def dicts(rows: Rows) -> list[dict[str, Any]]:
    nothing = dict.fromkeys(spec.name for spec in Weather.__fields__)
    return [{"device_id": device, "timestamp": moment, **nothing, **data} for (device, moment), data in rows.items()]


def check(store: SQLiteStorage, rows: Rows, intervals: Sequence[str | None], **question: Any) -> None:
    """Aggregates are those over these rows, whatever of them is kept how."""
    there = dicts(rows)
    for interval in intervals:
        for field, functions in {
            "temperature": FUNCTIONS,
            "count": FUNCTIONS,
            "timestamp": ("count", "min", "max", "first", "last"),
            "note": ("count", "first", "last"),
            "raining": ("count", "last"),
            "device_id": ("first",),
        }.items():
            for function in functions:
                asked: dict[str, Any] = {"interval": interval, **question}
                expected = aggregate_rows(there, Weather, field, function, **asked)
                assert store.aggregate(Weather, field, function, **asked) == expected, (field, function, asked)


def gone(store: SQLiteStorage) -> datetime:
    found = horizon(store)
    assert found is not None
    assert T0 + 5 * DAY < found < NOW + DAY
    assert [row["timestamp"] for row in store.query_readings(Weather, order="timestamp", limit=1)] >= [found]
    return found


def test_aggregates_are_the_same_when_raw_rows_are_gone(path: Path) -> None:
    rows = readings()
    with opened(path, NOW) as store:
        store.keep_downsampled(Weather, "15 minutes", functions=FUNCTIONS)
        put(store, rows)
        store.fold()
        check(store, rows, [None, "1d"])
    with opened(path, NOW, keep="10 days") as store:
        store.retain()
        first = gone(store)
        for group_by in (None, "device"):
            check(store, rows, [None, "15 minutes", "1h", "90 minutes", "1d", "1mo"], group_by=group_by)
        for zone in ("Asia/Kathmandu", "America/New_York"):
            check(store, rows, ["1d", "1w", "1mo"], tz=zone)
        check(store, rows, [None, "1h"], start=T0 + 3 * DAY, end=first + HOUR / 3)
        check(store, rows, [None, "1d"], start=first - 5 * HOUR, end=first - HOUR, device="b")
        check(store, rows, [None, "7 minutes"], start=first)
        audit_memory(store)
    audit_file(path)
    with SQLiteStorage(path, read_only=True) as store:
        check(store, rows, [None, "1d"], tz="Europe/Zurich")


def test_days_that_a_partition_cuts_are_put_together_again(path: Path) -> None:
    rows = readings()
    with opened(path, T0, keep="2 days") as store:
        store.keep_downsampled(Weather, "1 day", functions=FUNCTIONS)
        for day in range(0, 41, 1):
            chosen = {
                key: data for key, data in rows.items() if T0 + day * DAY <= key[1] + 7 * HOUR < T0 + (day + 1) * DAY
            }
            clock_of(store).step(86_400)
            put(store, chosen)
            store.fold()
            store.retain()
        assert gone(store) > T0 + 35 * DAY
        last = {key: data for key, data in rows.items() if key[1] + 7 * HOUR < T0 + 41 * DAY}
        check(store, last, [None, "1d", "1w"])


def test_late_merged_and_deleted_rows_are_exact(path: Path) -> None:
    rows = readings()
    late = {("late", moment + timedelta(seconds=1)): data for (_, moment), data in list(readings(1).items())[::9]}
    merged = {key: {"temperature": -5.5, "note": "again"} for key in list(rows)[::7]}
    with opened(path, NOW) as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS)
        put(store, rows)
        store.fold()
        put(store, late | merged)
        store.fold()
        store.delete_readings(Weather, "a", T0 + DAY, T0 + 3 * DAY)
    for key, data in (late | merged).items():
        rows[key] = rows.get(key, {}) | data
    rows = {key: data for key, data in rows.items() if key[0] != "a" or not T0 + DAY <= key[1] < T0 + 3 * DAY}
    with opened(path, NOW, keep="10 days") as store:
        store.retain()
        gone(store)
        check(store, rows, [None, "1h", "1d"])
        check(store, rows, ["1d"], device="late")


def leave_half_unfolded(path: Path) -> Rows:
    """A store that is closed before the fold: half of its readings lie in the journal alone, between the others."""
    rows = readings()
    with opened(path, NOW, fold_interval="1000 days") as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS)
        put(store, {key: rows[key] for key in list(rows)[::2]})
        store.fold()
        put(store, rows)
    return rows


def test_readings_that_wait_for_the_fold_are_in_what_is_kept(path: Path) -> None:
    """They came in time, then the machine was off for longer than readings are kept."""
    rows = leave_half_unfolded(path)
    with opened(path, NOW, keep="10 days", fold_interval="1000 days") as store:
        store.retain()
        gone(store)
        check(store, rows, [None, "1h", "1d"])
        assert store.ledger().sources["direct"]["late"] == 0
        audit_memory(store)
    audit_file(path)


def test_readings_that_are_released_as_their_time_goes_are_in_what_is_kept(path: Path) -> None:
    rows, clock = readings(), ManualClock(NOW)
    with opened(path, NOW) as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS)
        put(store, {key: rows[key] for key in list(rows)[::2]})
        store.fold()
    clock.trusted = False
    with opened(path, keep="10 days", fold_interval="1000 days", clock=clock) as store:
        put(store, rows)
        store.flush()
        clock.trusted = True
        store.retain()
        gone(store)
        check(store, rows, [None, "1h", "1d"])
        audit_memory(store)
    audit_file(path)


def test_history_goes_without_the_fold_where_that_cannot_be(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = leave_half_unfolded(path)
    clock = ManualClock(NOW)
    clock.trusted = False  # nothing is too old yet
    with opened(path, keep="10 days", fold_interval="1000 days", clock=clock) as store:
        assert store._writing is not None
        store._writing.writer._upkeep.put_fold_off()  # as on a full device
        clock.trusted = True
        store.retain()
        before = gone(store)
        counted = store.aggregate(Weather, "timestamp", "count")
        assert isinstance(counted, dict)
        assert sum(moment >= before for _, moment in rows) < counted["result"] < len(rows)
    assert "readings of weather are missing in what is kept of it" in caplog.text


def test_history_goes_although_readings_of_its_time_come_on_and_on(path: Path) -> None:
    leave_half_unfolded(path)
    with opened(path, NOW, fold_interval="1000 days") as store:
        writing = store._writing
        assert writing is not None
        limits = Limits.of("10 days", None, "evict", keep_pending=True)
        found: list[bool] = []

        def look(journal: Journal) -> None:
            retention = Retention(journal.connection, journal, writing.cursors, limits, None)
            found.extend(retention.next(to_micros(NOW), may_fold=True) is retention.fold_first for _ in range(10))

        store._do(look)
    assert True in found
    assert found[-1] is False


def test_what_changes_while_a_partition_is_brought_together_counts_as_it_is_then(path: Path) -> None:
    rows = readings()
    with opened(path, NOW) as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS)
        put(store, rows)
        store.fold()
        assert store._writing is not None
        layout = store._writing.catalogue.find(Weather)
        assert layout is not None

        def keep() -> None:
            def act(journal: Any) -> None:
                keep_more(journal.connection, journal, layout, journal.shape.partitions[layout.id][0])

            store._do(act)

        for change in ("merge", "late", "delete"):
            keep()
            assert is_keeping(store)
            if change == "merge":
                key = next(iter(rows))
                rows[key] = rows[key] | {"temperature": -33.0}
                put(store, {key: rows[key]})
                store.flush()
            elif change == "late":
                rows["new", T0 + HOUR] = {"temperature": 77.0}
                put(store, {("new", T0 + HOUR): {"temperature": 77.0}})
                store.fold()
            else:
                store.delete_readings(Weather, "b", T0, T0 + DAY)
                rows = {key: data for key, data in rows.items() if key[0] != "b" or key[1] >= T0 + DAY}
            assert not is_keeping(store)
            audit_memory(store)
        keep()
    with opened(path, NOW, keep="10 days") as store:
        store.retain()
        gone(store)
        check(store, rows, [None, "1h", "1d"])


def is_keeping(store: SQLiteStorage) -> bool:
    assert store._writing is not None
    return store._writing.writer._journal.shape.keeping is not None


# -- what cannot be said ----------------------------------------------------------------------------------------------


@pytest.fixture
def thin_one(path: Path) -> SQLiteStorage:
    """A store that keeps little: two functions of one field, by the hour."""
    with opened(path, NOW, keep="10 days") as store:
        store.keep_downsampled(Weather, "1 hour", ["temperature"], ["avg", "max"])
        put(store, readings())
        store.fold()
        store.retain()
    return opened(path, NOW)


def test_a_question_that_cuts_what_is_kept_is_refused(thin_one: SQLiteStorage) -> None:
    with thin_one as store:
        first = gone(store)
        for question in (
            {"interval": "30 minutes"},
            {"interval": "90 minutes"},
            {"interval": "1d", "tz": "Asia/Kathmandu"},
            {"start": T0 + timedelta(minutes=90)},
            {"end": T0 + timedelta(minutes=90)},
        ):
            with pytest.raises(InvalidValue, match="cuts a bucket that is kept: raw readings are there from 2026-01-"):
                store.aggregate(Weather, "temperature", "avg", **question)
        assert store.aggregate(Weather, "temperature", "avg", interval="30 minutes", start=first)
        assert store.aggregate(Weather, "temperature", "avg", end=T0 - timedelta(minutes=30)) == {"result": None}


def test_what_is_not_kept_is_refused(thin_one: SQLiteStorage) -> None:
    with thin_one as store:
        first = gone(store)
        check = aggregate_rows(dicts(readings()), Weather, "temperature", "sum", interval="1d")
        assert store.aggregate(Weather, "temperature", "sum", interval="1d") == check  # from what an average needs
        for field, function in (("temperature", "min"), ("temperature", "last"), ("count", "max")):
            kept = "kept are avg, max of temperature by 1:00:00 from 2026-01-01"
            with pytest.raises(InvalidValue, match=f"{function} of {field} is not kept .* {kept}"):
                store.aggregate(Weather, field, function)  # type: ignore[arg-type]
            assert store.aggregate(Weather, field, function, start=first)  # type: ignore[arg-type]


def test_the_rule_that_can_answer_does(path: Path) -> None:
    rows = readings()
    with opened(path, NOW, keep="10 days") as store:
        store.keep_downsampled(Weather, interval="1 hour", fields=["temperature"], functions=["avg"], keep="2 years")
        store.keep_downsampled(Weather, "1 minute", ["temperature"], ["max"], keep="15 days")
        put(store, rows)
        store.fold()
        store.retain()
        gone(store)
        for function, interval, start in (("avg", "1h", None), ("max", "1 minute", NOW - 15 * DAY)):
            expected = aggregate_rows(dicts(rows), Weather, "temperature", function, interval=interval, start=start)  # type: ignore[arg-type]
            found = store.aggregate(Weather, "temperature", function, interval=interval, start=start)  # type: ignore[arg-type]
            assert found == expected
        with pytest.raises(InvalidValue):
            store.aggregate(Weather, "temperature", "avg", interval="1 minute")


def test_whole_kept_buckets_are_deleted_and_cut_ones_refused(path: Path) -> None:
    rows = readings()
    with opened(path, NOW, keep="10 days") as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS)
        put(store, rows)
        store.fold()
        store.retain()
        first = gone(store)
        with pytest.raises(InvalidValue, match="to be deleted cuts a bucket that is kept"):
            store.delete_readings(Weather, None, T0 + HOUR / 2, T0 + DAY)
        check(store, rows, ["1d"])
        doomed = [key for key in rows if key[0] == "a" and T0 + HOUR <= key[1] < first + HOUR / 2]
        assert store.delete_readings(Weather, "a", T0 + HOUR, first + HOUR / 2) == len(doomed)
        rows = {key: data for key, data in rows.items() if key not in doomed}
        check(store, rows, ["1h", "1d"])
        assert store.delete_readings(Weather) == len(rows)
        check(store, {}, [None, "1d"])
        audit_memory(store)
    audit_file(path)


def test_what_is_kept_goes_when_its_own_age_has_come(path: Path) -> None:
    rows = readings()
    with opened(path, NOW, keep="10 days") as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS, keep="1 month")
        put(store, rows)
        store.fold()
        store.retain()
        gone(store)
        there = {key: data for key, data in rows.items() if key[1] >= NOW - 31 * DAY}
        check(store, there, [None, "1h", "1d"])
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS, keep="15 days")
        store.retain()
        check(store, {key: data for key, data in rows.items() if key[1] >= NOW - 15 * DAY}, [None, "1d"])
        first = store.aggregate(Weather, "temperature", "count", interval="1h")
        assert isinstance(first, list)
        assert first[0]["bucket"] >= NOW - 15 * DAY


def test_late_readings_are_kept_too_where_they_cannot_be_counted_twice(path: Path) -> None:
    rows = {key: data for key, data in readings().items() if key[0] != "b" or key[1] < T0 + 5 * DAY}
    with opened(path, NOW, keep="10 days") as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS)
        put(store, rows)
        store.fold()
        store.retain()
        first = gone(store)
        late = {key: data for key, data in readings().items() if key not in rows and key[1] < first}
        known = dict(list(rows.items())[:50])
        store.add_cursor("central", "now")
        for part in (list(late.items())[::2], list(late.items())[1::2]):
            put(store, dict(part))  # of a bucket one row comes with the first, or before or behind it with the second
            there = {key: data for key, data in rows.items() if key[1] >= first}
            assert store.query_readings(Weather) == select_rows(dicts(there), Weather)
            check(store, rows, ["1d"])
            store.fold()
            rows |= dict(part)
            check(store, rows, [None, "1h", "1d"])
        moments = sorted(moment for device, moment in rows if device == "a" and moment < first)
        low, high = next(two for two in pairwise(moments) if two[0].hour == two[1].hour)
        doubtful = {("a", low + (high - low) / 2): {"temperature": 1e6}}
        put(store, late | known | doubtful)
        store.fold()
        check(store, rows, ["1h"])
        counts = 2 * len(late) + len(known | doubtful)
        assert (store.ledger().sources["direct"]["late"], store.count_pending("central")) == (counts, counts)
        audit_memory(store)
    audit_file(path)


def test_what_is_kept_takes_no_more_room_than_history_and_goes_before_what_upstreams_await(path: Path) -> None:
    """Here all of it would take more than the readings."""
    with opened(path, keep_bytes=1_000_000, piece_rows=1000) as store:
        store.keep_downsampled(Weather, "1 second", functions=("count", "sum", "last"))
        store.add_cursor("central")
        for start in range(0, 24_000, 4000):
            fill(store, start, start + 4000, 1)
            if start:
                drain(store, "central", 2000)
            store.fold()
            store.retain()
        fill(store, 24_000, 28_000)  # which nobody has
        store.fold()
        store.retain()
        assert path.stat().st_size <= 1_300_000  # the folds of so small a store are large for it
        books = store.ledger().upstreams["central"]
        assert (books["thinned"], books["evicted"], books["pending"]) == (0, 0, 4000)
        counts = store.aggregate(Weather, "count", "sum", interval="1 second")
        assert isinstance(counts, list)
        found = [bucket["result"] for bucket in counts]
        assert found == list(range(found[0], 28_000))
        assert 10_000 < found[0] < numbers(store)[0] < 28_000
        audit_memory(store)
    audit_file(path)


def test_a_field_that_comes_later_is_kept_too(path: Path) -> None:
    wider = define_model(
        "Weather",
        {"temperature": (float, True, None), "wind": (float, False, None), "count": (int, False, None)},
    )
    with opened(path, T0 + 100 * DAY, keep="5 days") as store:
        store.keep_downsampled(Weather, "1 hour", functions=["avg", "last"])
        put(store, readings())
        store.fold()
        store.retain()
        rows = [("a", T0 + 50 * DAY + hour * HOUR, {"temperature": 1.0, "wind": float(hour)}) for hour in range(48)]
        store.store_readings(wider, rows)
        store.fold()
        store.retain()
        assert store.query_readings(wider) == []
        assert store.aggregate(wider, "wind", "sum") == {"result": float(sum(range(48)))}
        assert store.aggregate(wider, "wind", "last") == {"result": 47.0}
        assert store.aggregate(wider, "temperature", "count") == {"result": len(readings()) + 48}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": "1 month"}, "expected a part of a day"),
        ({"interval": "7 minutes"}, "expected a part of a day"),
        ({"fields": ["wind"]}, "wind"),
        ({"functions": ["median"]}, "expected some of avg, min"),
        ({"functions": []}, "expected some of avg, min"),
        ({"keep": "soon"}, "keep: found 'soon'"),
    ],
)
def test_a_wrong_rule_is_named(path: Path, arguments: dict[str, Any], message: str) -> None:
    with opened(path) as store, pytest.raises(InvalidValue, match=message):
        store.keep_downsampled(Weather, **arguments)


def test_a_rule_may_change_until_something_is_kept_by_it(path: Path) -> None:
    with opened(path, NOW) as store:
        store.keep_downsampled(Weather, "1 hour", ["temperature"], ["avg"])
        store.keep_downsampled(Weather, "1 hour", ["count"], ["max"])
        put(store, readings())
        store.fold()
    with opened(path, NOW, keep="10 days") as store:
        store.retain()
        expected = aggregate_rows(dicts(readings()), Weather, "count", "max")
        assert store.aggregate(Weather, "count", "max") == expected
        with pytest.raises(InvalidValue, match="max of count by 1:00:00 are kept already"):
            store.keep_downsampled(Weather, "1 hour", ["count"], ["min"])


# -- failures and kills -----------------------------------------------------------------------------------------------


def test_keeping_that_fails_anywhere_is_done_once_in_the_end(path: Path, tmp_path: Path) -> None:
    rows = dict(list(readings().items())[::20])
    with opened(path, NOW) as store:
        store.keep_downsampled(Weather, "1 hour", functions=FUNCTIONS, keep="20 days")
        put(store, rows)
        store.fold()
    original = path.read_bytes()

    def attempt(place: float) -> tuple[str, Failing]:
        copy = tmp_path / "x.db"
        copy.write_bytes(original)
        with opened(copy, NOW) as store:
            assert store._writing is not None
            store._writing.writer._upkeep._limits = Limits.of("10 days", None, "evict", True)  # from `retain` on
            with Failing(store, place, 3) as failing:
                act(store, lambda store: store.retain())
            audit_memory(store)
            seen = state(store)
        audit_file(copy)
        return seen, failing

    whatever_fails(attempt, 25)


CHILD = """
from edgedepot.storage.sqlite import downsampled
from tests.models import Weather
from tests.storage.sqlite.minutes import opened_by_child

downsampled.CHUNK = 40
store, storing = opened_by_child(keep="1 day")
store.keep_downsampled(Weather, "10 minutes", functions=["avg", "count", "first", "last"])
for _ in storing:
    pass
"""


def test_killed_at_any_moment_nothing_is_kept_twice_or_not_at_all(path: Path) -> None:
    rng = random.Random(20260101)
    promised = 0
    for _ in range(12):
        promised = killed_at_some_moment(CHILD, path, promised, rng)
        audit_file(path)
        with opened(path) as store:
            numbers = store.aggregate(Weather, "count", "count")
            assert isinstance(numbers, dict)
            assert promised <= numbers["result"] <= promised + 50
            promised = numbers["result"]
            hours = store.aggregate(Weather, "count", "sum", interval="1h")
            assert hours == [
                {"bucket": T0 + hour * HOUR, "result": sum(range(60 * hour, min(60 * hour + 60, promised)))}
                for hour in range(-(-promised // 60))
            ]
            audit_memory(store)
            assert len(store.query_readings(Weather)) < promised or promised < 3000
    assert promised > 3000
