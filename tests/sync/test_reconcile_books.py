"""Reconcile sends nothing that the books count as anything but delivered, whatever came together."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedepot import Reading, SQLiteStorage, Version
from edgedepot.storage.base import Data
from edgedepot.storage.buffer import EVERYTHING, Choice
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.delivered import measures_of
from edgedepot.sync.reconcile import Finding, reconcile
from tests.sync.reconciling import (
    Identity,
    Own,
    Power,
    Weather,
    fill,
    forward,
    forward_averages,
    lose,
    moment,
    readings,
)

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
    again = reconcile(store, name, own, **more)
    assert (again.total(), again.read, again.written) == (Finding(), 0, 0)
    models = {Weather: "weather", Power: "power"}
    there = {model for model, name in models.items() if any(identity[0] == name for identity in own.kept)}
    assert again.compared == sum(len(measures_of(model)) for model in there), "nothing is looked at closer"
    assert store.ledger().problems == []
    return sorted(own.kept)


@pytest.mark.parametrize("every", ["1 minute", "1 second"])
@pytest.mark.parametrize("folded", [False, True])
def test_readings_that_went_into_averages(store: SQLiteStorage, folded: bool, every: str) -> None:
    """None of them is there as itself: not those that the books skip, and not the one that stands for them. Their
    averages are, and come back with the values that they had."""
    store.add_cursor("central")
    own = Own()
    weather(store, range(300))
    forward(store, own, limit=90)
    forward_averages(store, own, every, limit=40, windows=3)
    weather(store, range(90, 92), value=0.5)  # of which the averages come later
    if folded:
        store.fold()
    forward_averages(store, own, every, limit=40)
    weather(store, range(300, 400))
    weather(store, range(85, 90), value=0.25)
    if folded:
        store.fold()
    forward(store, own)
    expected = {
        at(number) for number in (*range(90), *range(90, 300, 3 if every == "1 minute" else 1), *range(300, 400))
    }
    assert set(lost_and_found(store, own)) == expected
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM _withheld").fetchone() == (1,)


@pytest.mark.parametrize("folded", [False, True])
def test_an_average_of_which_a_reading_was_deleted_here_is_left_as_it_is(store: SQLiteStorage, folded: bool) -> None:
    """Nobody can tell any more what it was made of. However often the oldest go, no more is noted."""
    store.add_cursor("central")
    own = Own()
    weather(store, range(300))
    forward_averages(store, own, "1 minute", limit=40)
    if folded:
        store.fold()
    before = dict(own.kept)
    assert store.delete_readings(Weather, "mast", at(61)[2], at(62)[2]) == 1
    for number in range(3, 33, 3):
        assert store.delete_readings(Weather, end=at(number)[2]) == 3
    assert reconcile(store, "central", own).total() == Finding(only_there=11)
    assert own.kept == before
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT count(*) FROM _withheld WHERE every = -2").fetchone() == (2,)
    own.kept = {}
    reconcile(store, "central", own)
    left = before.keys() - {at(number) for number in (60, *range(0, 30, 3))}
    assert own.kept == {identity: before[identity] for identity in left}


def test_history_that_went_into_averages(tmp_path: Path) -> None:
    """Of a late upstream: that it once got averages, and then no more, each in the middle of a series."""
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", piece_rows=200) as store:
        for start in range(0, 1500, 300):
            fill(store, readings(1500)[start * 2 : start * 2 + 600])
            store.fold()
        store.add_cursor("central")
        own = Own()
        forward(store, own, limit=498)  # whole hours
        before = set(own.kept)
        forward_averages(store, own, "1 hour", limit=300, windows=5)
        averages = set(own.kept) - before
        assert averages
        forward(store, own)
        walked = {(model.__measurement__, device, time) for model, device, time, _ in readings(1500)[:3000]}
        after = set(own.kept) - before - averages
        found = set(lost_and_found(store, own))
        assert found == ((before | after) & walked) | averages
        assert 800 < len(found) < store.ledger().upstreams["central"]["versions"] - 500


def test_history_of_which_a_part_went_twice_goes_on(store: SQLiteStorage) -> None:
    """From where a partition begins to where the walk is came in anew meanwhile, and went into averages too."""
    begin = 25_920
    assert (at(begin)[2] - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(days=30) == timedelta(0)
    for first in (begin, begin + 300):
        weather(store, range(first, first + 300))
        store.fold()
    store.add_cursor("central")
    own = Own()
    forward_averages(store, own, "1 minute", limit=9, windows=1)
    store.split("central")
    weather(store, range(begin, begin + 9), value=0.5)
    forward_averages(store, own, "1 minute", limit=9, lane="live")
    forward_averages(store, own, "1 minute", limit=30)
    assert own.kept[at(begin)]["temperature"] == begin + 1.5
    assert lost_and_found(store, own) == [at(number) for number in range(begin, begin + 600, 3)]


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


@pytest.mark.parametrize("folded", [False, True])
def test_what_was_deleted_here_stays_there(store: SQLiteStorage, folded: bool) -> None:
    """And does not stand in for as many others that are gone there, of the same minute, hour or day."""
    store.add_cursor("central")
    own = Own()
    weather(store, range(4000))
    forward(store, own)
    if folded:
        store.fold()
    assert store.delete_readings(Weather, "mast", at(3)[2], at(6)[2]) == 3
    before = dict(own.kept)
    own.stored.clear()
    assert reconcile(store, "central", own).total().only_there == 3
    assert (own.kept, own.stored) == (before, [])
    for first in (0, 20, 1440, 2880):
        lost = [at(number) for number in range(first, first + 3)]
        for identity in lost:
            del own.kept[identity]
        own.stored.clear()
        report = reconcile(store, "central", own)
        assert (report.total(), own.stored) == (Finding(missing=3, sent=3, only_there=3), lost)
        assert own.kept == before
        assert report.requests < 20


def test_evicted_readings_that_history_still_has(tmp_path: Path) -> None:
    """As of devices whose clocks are ahead: history ends in the future, so nothing of it is dropped yet."""
    clock = ManualClock(T0 - timedelta(days=2))
    options: dict[str, Any] = {"gateway_id": "roof", "piece_rows": 1000, "clock": clock}
    with SQLiteStorage(tmp_path / "local.db", keep_bytes=1_000_000, **options) as store:
        store.add_cursor("central")
        own = Own()
        weather(store, range(700), timedelta(minutes=5))
        forward(store, own, limit=300)
        for start in range(700, 20_000, 700):
            weather(store, range(start, start + 700), timedelta(minutes=5))
            store.fold()
            store.retain()
        forward(store, own)
        books = store.ledger().upstreams["central"]
        assert (books["delivered"], books["evicted"]) == (300, 20_000)
        assert store.readings(Weather).count() == 20_300
        assert len(lost_and_found(store, own)) == 300


def oldest(store: SQLiteStorage) -> datetime:
    moment: datetime = store.query_readings(Weather, limit=1, order="timestamp")[0]["timestamp"]
    return moment


def test_quarantined_replayed_and_dropped(store: SQLiteStorage) -> None:
    store.add_cursor("central")
    weather(store, range(100))
    refused = {at(30), at(40), at(50)}
    everything = {at(number) for number in range(100)}
    own = Own()
    own.refuses = lambda data: data["temperature"] in (30, 40, 50)
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
    assert len(lost_and_found(store, own, "late")) == 200


def test_a_choice_that_changes(store: SQLiteStorage) -> None:
    """What an earlier one skipped stays skipped, and what an earlier one took was delivered."""
    own = Own()
    rows = readings(400)

    def choose(choice: Choice, low: int, high: int) -> set[Identity]:
        store.add_cursor("central", choice=choice)
        fill(store, rows[low:high])
        forward(store, own)
        store.fold()
        return {(model.__measurement__, device, time) for model, device, time, _ in rows[low:high]}

    expected = choose(Choice(None, ("mast", "inverter")), 0, 200)
    expected = {one for one in expected if one[1] != "roof (north)"}
    expected |= choose(EVERYTHING, 200, 400)
    expected |= {one for one in choose(Choice(frozenset({"power"})), 400, 600) if one[0] == "power"}
    in_power = {one for one in expected if one[0] == "power"}
    had = dict(own.kept)
    assert set(lost_and_found(store, own)) == in_power
    own.kept = had
    expected |= choose(EVERYTHING, 600, 1000)
    assert set(own.kept) == set(lost_and_found(store, own)) == expected


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


@pytest.mark.parametrize("every", [None, "1 hour"])
def test_what_is_gone_from_here_is_not_looked_at(tmp_path: Path, every: str | None) -> None:
    """Nor are averages of which some readings are."""
    clock = ManualClock(T0)
    path = tmp_path / "local.db"
    with SQLiteStorage(path, gateway_id="roof", piece_rows=200, clock=clock) as store:
        store.add_cursor("central")
        store.keep_downsampled(Weather, "1 hour")
        own = Own()
        for start in range(0, 3000, 250):
            weather(store, range(start, start + 250), timedelta(minutes=5))
            store.fold()
            if every is None:
                forward(store, own)
            else:
                forward_averages(store, own, every, limit=1000)
    clock.advance(15 * 86_400)
    with SQLiteStorage(path, keep="8 days", clock=clock) as store:
        store.retain()
        assert 0 < len(store.query_readings(Weather)) < 3000
        own.stored.clear()
        report = reconcile(store, "central", own)
        assert (report.total(), report.read) == (Finding(), 0)
        before = dict(own.kept)
        lose(own, lambda identity: identity[2].hour == 3)
        gone_for_good = {identity for identity in before if identity[2].hour == 3 and identity[2] < oldest(store)}
        assert gone_for_good
        reconcile(store, "central", own)
        assert before.keys() - own.kept.keys() == gone_for_good


class Remembering(Own):
    """Knows which versions it was ever given; refuses some."""

    def __init__(self) -> None:
        super().__init__()
        self.given: set[tuple[Identity, int]] = set()
        self.refused: set[int] = set()

    def store_reading(
        self,
        reading_model: type[Reading],
        device: object,
        timestamp: datetime | None,
        data: Data,
        *,
        version: Version | None = None,
    ) -> None:
        assert version is not None
        assert timestamp is not None
        if version.gateway_seq in self.refused:
            raise ValueError("will not have it")
        super().store_reading(reading_model, device, timestamp, data)
        self.given.add((("weather", str(device), timestamp), version.gateway_seq))


devices, places = st.sampled_from(["a", "b"]), st.integers(0, 60)
steps = st.one_of(
    st.tuples(st.just("write"), devices, places, st.integers(1, 30)),
    st.tuples(st.just("delete"), devices, places, st.integers(1, 4)),
    st.tuples(st.just("delete before"), devices, places),
    st.tuples(st.just("forward"), st.integers(1, 60)),
    st.tuples(st.just("averages"), st.integers(1, 60)),
    st.tuples(st.just("refuse"), st.integers(1, 200)),
    st.tuples(st.just("replay")),
    st.tuples(st.just("drop")),
    st.tuples(st.just("fold")),
    st.tuples(st.just("thin")),
)


FIRST = [("write", "a", 0, 30), ("forward", 25)]


def take(store: SQLiteStorage, own: Remembering, step: tuple[Any, ...], turn: int) -> None:
    """No value comes twice: a value says which version it is."""
    match step:
        case ("write", device, first, count):
            numbers = range(first, first + count)
            rows: list[Any] = [(device, at(number)[2], {"temperature": turn * 1000.0 + number}) for number in numbers]
            store.store_readings(Weather, rows).wait()
        case ("delete", device, first, count):
            store.delete_readings(Weather, device, at(first)[2], at(first + count)[2])
        case ("delete before", device, first):
            store.delete_readings(Weather, device, end=at(first)[2])
        case ("forward", rows):
            forward(store, own, limit=rows)
        case ("averages", rows):
            forward_averages(store, own, "1 minute", limit=rows, windows=2)
        case ("refuse", seq):
            own.refused ^= {seq}
        case ("replay",):
            store.replay_quarantined("central")
        case ("drop",):
            store.drop_quarantined("central")
        case ("fold",):
            store.fold()
        case ("thin",):
            store.thin(T0 + timedelta(days=1))


@settings(max_examples=80)
@given(st.lists(steps, min_size=3, max_size=25), st.integers(0, 5))
def test_any_mixture(taken: list[tuple[Any, ...]], kept_every: int) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        SQLiteStorage(Path(folder) / "local.db", gateway_id="roof", piece_rows=20, flush_interval="1ms") as store,
    ):
        store.add_cursor("central")
        own = Remembering()
        averages = any(step[0] == "averages" for step in taken)
        for turn, step in enumerate([*FIRST, *taken]):
            take(store, own, step, turn)
        had, given_before, books = dict(own.kept), set(own.given), store.ledger()
        lost = set(lose(own, lambda identity: kept_every == 0 or (identity[2].second // 20) % 3 != kept_every % 3))
        own.refused.clear()
        own.stored.clear()
        report = reconcile(store, "central", own).total()
        assert set(own.stored) <= lost, "what was there is left alone"
        assert own.given <= given_before, "only versions that it was given before"
        assert own.kept == {identity: had[identity] for identity in own.kept}, "just as they were"
        assert report.sent == len(own.stored) == len(set(own.stored))
        assert store.ledger() == books
        assert reconcile(store, "central", own).total().missing == 0
        if (
            not averages and not books.upstreams["central"]["thinned"]
        ):  # thinning may withhold a little more than it took
            here = {("weather", row["device_id"], row["timestamp"]): row for row in store.query_readings(Weather)}
            current = {one for one in lost if one in here and here[one]["temperature"] == had[one]["temperature"]}
            assert current == set(own.stored), "all is back that did not change since"
