"""One window: requests by model, bad rows found within the bound, the guard against a wrong set-up, nothing sent twice
without need."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgedepot import BaseStorage, Reading, Receipt, Version
from edgedepot.storage.base import Data
from edgedepot.storage.buffer import Window
from edgedepot.storage.clock import SystemClock
from edgedepot.storage.errors import DataRefused, Misconfigured, NotSupported, StorageClosed, Unreachable
from edgedepot.sync.delivery import GUARD, Delivery, Interrupted
from tests.books import upstream_books
from tests.sync.scripted import (
    ACCEPT,
    Fail,
    Power,
    ScriptedUpstream,
    TellingStore,
    Weather,
    failing,
    fill,
    moment,
    numbers,
    open_store,
    temperatures,
)

SIZE = 5000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db") as store:
        store.add_cursor("central")
        yield store


def delivery_to(store: TellingStore, upstream: BaseStorage, go_on: Callable[[], bool] = lambda: True) -> Delivery:
    return Delivery(store, "central", upstream, SystemClock(), go_on)


def window_of(store: TellingStore, limit: int = SIZE) -> Window:
    window = store.pending("central", limit)
    assert window is not None
    return window


def books(store: TellingStore) -> dict[str, int]:
    ledger = store.ledger()
    assert ledger.problems == []
    return ledger.upstreams["central"]


def letters(number: float) -> str:
    """A number that `_kind_of` does not take for one, so that every reason is of a kind of its own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(int(number)))


def refusing(bad: set[int], reason: Callable[[float], str]) -> Callable[[Version], str | None]:
    def refuses(row: Version) -> str | None:
        temperature = row.data.get("temperature")
        return reason(temperature) if temperature in bad else None

    return refuses


def bound(bad: int, rows: int) -> float:
    return 2 * bad * math.log2(rows) + 2


def test_models_go_out_as_one_request_each_in_order(store: TellingStore) -> None:
    for number in range(6):
        store.store_reading(Weather, "mast", moment(number), {"temperature": number})
        store.store_reading(Power, "inverter", moment(number), {"watts": number})
    store.flush()
    upstream = ScriptedUpstream()
    delivery = delivery_to(store, upstream)
    delivery.deliver(window_of(store))
    assert [request.model for request in upstream.requests] == [Weather, Power]
    assert [row.gateway_seq for row in upstream.requests[0].rows] == [1, 3, 5, 7, 9, 11]
    assert [row.gateway_seq for row in upstream.requests[1].rows] == [2, 4, 6, 8, 10, 12]
    assert upstream.requests[1].rows[3] == Version("inverter", moment(3), {"watts": 3.0}, None, store.store_epoch, 8)
    assert store.pending("central", SIZE) is None
    assert (delivery.requests, delivery.delivered) == (2, 12)


@pytest.mark.parametrize("bad", [{0}, {SIZE - 1}, {SIZE // 2}, {SIZE // 2 - 1}, {1234}, {0, SIZE - 1}, {7, 8}])
def test_few_poison_rows_are_found_within_the_bound(store: TellingStore, bad: set[int]) -> None:
    check_poison(store, bad, listed=False)


@pytest.mark.parametrize("seed", range(6))
def test_scattered_poison_rows_are_found_within_the_bound(store: TellingStore, seed: int) -> None:
    chance = random.Random(seed)
    check_poison(store, set(chance.sample(range(SIZE), chance.choice([1, 3, 20, 300]))), listed=False)


@pytest.mark.parametrize("bad", [range(0, SIZE, 2), range(1, SIZE, 2), range(SIZE // 2), range(SIZE // 2, SIZE)])
def test_half_of_the_rows_poisoned(store: TellingStore, bad: range) -> None:
    check_poison(store, set(bad), listed=False)


def test_all_rows_poisoned_for_reasons_of_their_own(store: TellingStore) -> None:
    check_poison(store, set(range(SIZE)), listed=False)


@pytest.mark.parametrize("bad", [{0}, {SIZE - 1}, set(range(SIZE))])
def test_rows_listed_in_the_receipt_need_no_search(store: TellingStore, bad: set[int]) -> None:
    assert check_poison(store, bad, listed=True) == 1


def check_poison(store: TellingStore, bad: set[int], *, listed: bool) -> int:
    """Every bad row is quarantined with its own reason and every good one is delivered; the number of requests."""
    fill(store, SIZE)
    upstream = ScriptedUpstream(refuses=refusing(bad, lambda t: f"sensor {letters(t)} is unknown"), listed=listed)
    delivery = delivery_to(store, upstream)
    delivery.deliver(window_of(store))
    assert temperatures(upstream) == [t for t in numbers(SIZE) if t not in bad]
    assert upstream.duplicates == 0
    found = {row.row[1]: reason for row, reason in store.refusals}
    assert found == {float(t): f"sensor {letters(t)} is unknown" for t in bad}
    assert len(store.refusals) == len(bad)
    assert delivery.requests == len(upstream.requests) <= bound(len(bad), SIZE)
    assert (books(store)["delivered"], books(store)["quarantined"]) == (SIZE - len(bad), len(bad))
    assert books(store)["pending"] == 0
    return delivery.requests


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 32, 33])
def test_the_bound_holds_for_every_single_row_of_small_windows(tmp_path: Path, size: int) -> None:
    for bad in range(size):
        with open_store(tmp_path / f"{bad}.db") as store:
            store.add_cursor("central")
            fill(store, size)
            upstream = ScriptedUpstream(refuses=refusing({bad}, lambda t: "no"))
            delivery_to(store, upstream).deliver(window_of(store))
            assert [row.row[1] for row, _ in store.refusals] == [bad]
            assert len(upstream.requests) <= bound(1, size)


def test_all_rows_refused_for_one_reason_is_a_wrong_set_up(store: TellingStore) -> None:
    fill(store, SIZE)
    text = 'null value in column "site" of relation "weather"; Failing row contains'
    upstream = ScriptedUpstream(refuses=lambda row: f"{text} ({row.timestamp}, {letters(row.gateway_seq)}).")
    delivery = delivery_to(store, upstream)
    with pytest.raises(Misconfigured, match='column "site"'):
        delivery.deliver(window_of(store))
    assert store.refusals == []
    assert books(store)["pending"] == SIZE
    assert len(upstream.requests) < 4 * GUARD
    alone = [request.rows[0].gateway_seq for request in upstream.requests if len(request.rows) == 1]
    assert len(alone) == GUARD
    assert (min(alone), max(alone)) == (1, SIZE)
    assert max(b - a for a, b in pairwise(alone)) < SIZE / 10  # from all over the batch


def test_a_wrong_set_up_is_probed_with_single_rows_until_it_is_mended(store: TellingStore) -> None:
    fill(store, SIZE)
    upstream = ScriptedUpstream(refuses=lambda row: f"value {row.data['temperature']} has no column")
    delivery = delivery_to(store, upstream)
    with pytest.raises(Misconfigured):
        delivery.deliver(window_of(store))
    first_try = len(upstream.requests)
    with pytest.raises(Misconfigured):
        delivery.deliver(window_of(store))
    assert [len(request.rows) for request in upstream.requests[first_try:]] == [1] * GUARD
    upstream.refuses = lambda row: None
    delivery.deliver(window_of(store))
    assert [len(request.rows) for request in upstream.requests[first_try + GUARD :]] == [1, SIZE - 1]
    assert temperatures(upstream) == numbers(SIZE)
    assert store.refusals == []


def test_what_was_refused_before_the_set_up_was_mended_is_asked_again(store: TellingStore) -> None:
    fill(store, SIZE)
    delivery = delivery_to(store, upstream := ScriptedUpstream(refuses=lambda row: 'column "site" is null'))
    with pytest.raises(Misconfigured):
        delivery.deliver(window_of(store))
    upstream.refuses = refusing({0}, lambda _: "too warm")
    upstream.script.extend(Fail(DataRefused('column "site" is null')) for _ in range(GUARD - 1))
    delivery.deliver(window_of(store))
    assert [reason for _, reason in store.refusals] == ["too warm"]
    assert (books(store)["delivered"], books(store)["quarantined"]) == (SIZE - 1, 1)


@pytest.mark.parametrize("listed", [False, True])
def test_a_lasting_refusal_for_one_reason_is_noticed_over_small_windows(store: TellingStore, listed: bool) -> None:
    """A slow gateway never has 16 rows in hand; its upstream's wrong schema shows all the same."""
    upstream = ScriptedUpstream(refuses=lambda row: f"value {row.data['temperature']} has no column", listed=listed)
    delivery = delivery_to(store, upstream)
    for number in range(GUARD - 1):
        fill(store, 1, start=number)
        delivery.deliver(window_of(store))
    fill(store, 1, start=GUARD - 1)
    with pytest.raises(Misconfigured):
        delivery.deliver(window_of(store))
    assert len(store.refusals) == GUARD - 1
    assert books(store)["pending"] == 1


class Forgetful(ScriptedUpstream):
    """It keeps nothing as old as what it is sent, and says so of every row."""

    def store_readings(self, reading_model: type[Reading], rows: Any) -> Receipt | None:
        self.script = failing(DataRefused("too old", at_fault=len(rows)))
        return super().store_readings(reading_model, rows)


def test_what_is_certainly_the_rows_own_fault_is_no_wrong_set_up(store: TellingStore) -> None:
    fill(store, SIZE)
    upstream = Forgetful()
    delivery = delivery_to(store, upstream)
    delivery.deliver(window_of(store))
    for number in range(SIZE, SIZE + GUARD):
        fill(store, 1, start=number)
        delivery.deliver(window_of(store))
    assert [len(request.rows) for request in upstream.requests] == [SIZE] + [1] * GUARD
    assert len(store.refusals) == books(store)["quarantined"] == SIZE + GUARD
    assert {reason for _, reason in store.refusals} == {"too old"}


def test_rows_that_are_too_old_do_not_hide_a_wrong_set_up(store: TellingStore) -> None:
    fill(store, SIZE)

    class Both(ScriptedUpstream):
        def store_readings(self, reading_model: type[Reading], rows: Any) -> Receipt | None:
            too_old = all(row.gateway_seq % 2 for row in rows)
            self.script = failing(DataRefused("too old", at_fault=len(rows)) if too_old else DataRefused("no column"))
            return super().store_readings(reading_model, rows)

    upstream = Both()
    delivery = delivery_to(store, upstream)
    for _ in range(2):
        with pytest.raises(Misconfigured, match="no column"):
            delivery.deliver(window_of(store))
    assert len(upstream.requests) < 300
    assert store.refusals == []


def test_a_reading_accepted_in_between_starts_the_count_anew(store: TellingStore) -> None:
    upstream = ScriptedUpstream(refuses=lambda row: "no" if row.data["temperature"] % GUARD else None)
    delivery = delivery_to(store, upstream)
    for number in range(3 * GUARD):
        fill(store, 1, start=number)
        delivery.deliver(window_of(store))
    assert temperatures(upstream) == [0, GUARD, 2 * GUARD]
    assert len(store.refusals) == 3 * (GUARD - 1)


def test_one_accepted_row_shows_that_the_set_up_is_right(store: TellingStore) -> None:
    fill(store, SIZE)
    good = set(range(0, SIZE, 20))
    upstream = ScriptedUpstream(refuses=refusing(set(range(SIZE)) - good, lambda t: f"{t} is out of range"))
    delivery_to(store, upstream).deliver(window_of(store))
    assert temperatures(upstream) == sorted(good)
    assert books(store)["quarantined"] == SIZE - len(good)


def test_another_model_accepted_shows_it_too(store: TellingStore) -> None:
    fill(store, 100)
    store.store_reading(Power, "inverter", moment(0), {"watts": 5.0}).wait()
    upstream = ScriptedUpstream(refuses=lambda row: "no" if "temperature" in row.data else None)
    delivery_to(store, upstream).deliver(window_of(store))
    assert (books(store)["delivered"], books(store)["quarantined"]) == (1, 100)


def test_a_window_whose_rows_went_meanwhile_is_acknowledged_in_spite_of_the_guard(store: TellingStore) -> None:
    fill(store, 2 * GUARD)
    upstream = ScriptedUpstream(refuses=lambda row: "no column")
    delivery = delivery_to(store, upstream)
    with pytest.raises(Misconfigured):
        delivery.deliver(window_of(store))
    store.delete_readings(Weather)
    delivery.deliver(Window(1, 2 * GUARD, []))
    assert store.pending("central", SIZE) is None
    assert books(store)["deleted"] == 2 * GUARD


def test_after_a_failure_only_what_is_unresolved_is_sent_again(store: TellingStore) -> None:
    fill(store, 64)
    store.store_reading(Power, "inverter", moment(0), {"watts": 1.0}).wait()
    upstream = ScriptedUpstream(refuses=refusing({40}, lambda t: "bad"))
    # Weather refused, Power accepted, left half accepted, then the link breaks while the right half is searched.
    upstream.script = deque([ACCEPT, ACCEPT, ACCEPT, Fail(Unreachable("reset"))])
    delivery = delivery_to(store, upstream)
    with pytest.raises(Unreachable):
        delivery.deliver(window_of(store))
    assert store.refusals == []
    assert books(store)["pending"] == 65
    before = len(upstream.requests)
    delivery.deliver(window_of(store))
    again = upstream.requests[before]
    assert (again.model, [row.data["temperature"] for row in again.rows]) == (Weather, numbers(64)[32:])
    assert upstream.duplicates == 0
    assert len(upstream.kept) == 64
    assert delivery.delivered == 64
    assert [row.row[1] for row, _ in store.refusals] == [40.0]


def test_a_lost_answer_is_sent_again_and_kept_once(store: TellingStore) -> None:
    fill(store, 100)
    upstream = ScriptedUpstream(script=deque([Fail(Unreachable("no answer"), applied=True)]))
    delivery = delivery_to(store, upstream)
    with pytest.raises(Unreachable):
        delivery.deliver(window_of(store))
    assert len(upstream.kept) == 100
    delivery.deliver(window_of(store))
    assert temperatures(upstream) == numbers(100)
    assert upstream.duplicates == 100
    assert delivery.delivered == 100


def test_a_retry_sends_the_version_that_stands_then(store: TellingStore) -> None:
    fill(store, 3)
    upstream = ScriptedUpstream(script=deque([Fail(Unreachable("no answer"), applied=True)]))
    delivery = delivery_to(store, upstream)
    with pytest.raises(Unreachable):
        delivery.deliver(window_of(store))
    store.store_reading(Weather, "mast", moment(1), {"temperature": 1, "humidity": 50}).wait()
    delivery.deliver(window_of(store))
    sent, again = upstream.requests
    assert [row.timestamp for row in again.rows] == [moment(0), moment(2), moment(1)]
    assert [row.gateway_seq for row in again.rows[:2]] == [sent.rows[0].gateway_seq, sent.rows[2].gateway_seq]
    assert again.rows[2].gateway_seq > sent.rows[2].gateway_seq
    assert upstream.kept["weather", "mast", moment(1)].data == {"temperature": 1.0, "humidity": 50.0}
    assert books(store) == upstream_books(versions=4, delivered=3, superseded=1)


def test_a_refused_row_that_was_merged_meanwhile_is_judged_anew(store: TellingStore) -> None:
    fill(store, 2)
    store.store_reading(Power, "inverter", moment(0), {"watts": 1.0}).wait()
    upstream = ScriptedUpstream(
        refuses=lambda row: (
            "needs humidity" if row.data.get("temperature") == 1 and "humidity" not in row.data else None
        )
    )
    upstream.script = deque([ACCEPT, ACCEPT, ACCEPT, ACCEPT])
    delivery = delivery_to(store, upstream, go_on=lambda: len(upstream.requests) != 3)
    with pytest.raises(Interrupted):
        delivery.deliver(window_of(store))
    store.store_reading(Weather, "mast", moment(1), {"temperature": 1, "humidity": 50}).wait()
    delivery = delivery_to(store, upstream)
    delivery.deliver(window_of(store))
    assert store.refusals == []
    assert len(upstream.kept) == 3


def test_a_shorter_window_does_not_forget_what_lies_beyond_it(store: TellingStore) -> None:
    fill(store, 10)
    store.store_reading(Power, "inverter", moment(0), {"watts": 1.0}).wait()
    fill(store, 10, start=10)
    upstream = ScriptedUpstream(script=deque([ACCEPT, Fail(Unreachable("reset"))]))
    delivery = delivery_to(store, upstream)
    with pytest.raises(Unreachable):
        delivery.deliver(window_of(store))
    delivery.deliver(window_of(store, 5))
    delivery.deliver(window_of(store))
    assert [len(request.rows) for request in upstream.requests] == [20, 1, 1]
    assert len(upstream.kept) == 21


def test_told_to_stop_it_sends_no_further_request(store: TellingStore) -> None:
    fill(store, 10)
    upstream = ScriptedUpstream(refuses=refusing({3}, lambda t: "bad"))
    with pytest.raises(Interrupted):
        delivery_to(store, upstream, go_on=lambda: len(upstream.requests) < 2).deliver(window_of(store))
    assert len(upstream.requests) == 2
    assert books(store)["pending"] == 10


def test_an_upstream_that_was_closed_is_not_taken_for_the_local_store(store: TellingStore) -> None:
    fill(store, 1)
    upstream = ScriptedUpstream(script=deque([Fail(StorageClosed("closed"))]))
    with pytest.raises(Unreachable, match="upstream storage was closed"):
        delivery_to(store, upstream).deliver(window_of(store))


class Smallest(BaseStorage):
    """A user's own storage, with nothing but what it must have: returns None, raises ValueError for bad data."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def store_reading(
        self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Data
    ) -> Receipt | None:
        if data["temperature"] == 2:
            raise ValueError("two is not for us")
        self.kept.append(data["temperature"])
        return None

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        raise NotSupported("not asked here")

    def aggregate(self, reading_model: type[Reading], *args: Any, **more: Any) -> dict[str, Any]:
        raise NotSupported("not asked here")


class Strict(Smallest):
    """The same with a `store_readings` of its own that refuses all for one."""

    def store_readings(self, reading_model: type[Reading], rows: Any) -> None:
        found = [row.data["temperature"] for row in rows]
        if 2 in found:
            raise ValueError("two is not for us")
        self.kept += found


@pytest.mark.parametrize("upstream", [Smallest(), Strict()], ids=["row by row", "all or none"])
def test_a_users_own_storage(store: TellingStore, upstream: Smallest) -> None:
    fill(store, 5)
    delivery = delivery_to(store, upstream)
    delivery.deliver(window_of(store))
    assert sorted(upstream.kept) == [0, 1, 3, 4]
    assert [(row.row[1], reason) for row, reason in store.refusals] == [(2.0, "two is not for us")]
    assert delivery.delivered == 4
