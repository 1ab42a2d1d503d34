"""How many rows go out together: bounded by time, by what the upstream takes, and by bytes."""

from __future__ import annotations

import pytest

from edgedepot.storage.buffer import WINDOW_BYTES, Pending
from edgedepot.sync.batch import FIRST, TARGET, BatchSize
from tests.sync.scripted import Weather


def quick(batch: BatchSize, times: int) -> list[int]:
    sizes = []
    for _ in range(times):
        batch.went_through(batch.limit, 0.01)
        sizes.append(batch.limit)
    return sizes


def over_link(batch: BatchSize, fixed: float, each: float, times: int = 40) -> list[float]:
    """How long windows take on a link with so many seconds for a window and for each row of it."""
    took = []
    for _ in range(times):
        took.append(fixed + each * batch.limit)
        batch.went_through(batch.limit, took[-1])
    return took


def test_it_begins_small_and_doubles() -> None:
    assert BatchSize(5000).limit == FIRST == 500
    assert quick(BatchSize(5000), 5) == [1000, 2000, 4000, 5000, 5000]
    assert BatchSize(20).limit == 20


def test_it_halves_down_to_one_row_and_grows_back_slowly() -> None:
    batch = BatchSize(5000)
    quick(batch, 5)
    sizes = []
    for _ in range(14):
        batch.shrink()
        sizes.append(batch.limit)
    assert sizes[:3] == [2500, 1250, 625]
    assert sizes[-3:] == [1, 1, 1]
    grown = quick(batch, 20)
    assert grown[:2] == [313, 625]
    assert grown[-1] == 5000
    batch.went_through(5000, 4.0)
    assert quick(batch, 1) == [2500]  # what was slow, and not refused, doubles again


def test_a_small_batch_grows_back_too() -> None:
    batch = BatchSize(3)
    batch.shrink()
    assert batch.limit == 1
    assert quick(batch, 3) == [2, 3, 3]


def test_a_window_that_was_not_full_says_nothing_of_fuller_ones() -> None:
    batch = BatchSize(5000)
    batch.went_through(10, 0.01)
    assert batch.limit == FIRST
    batch.went_through(10, 0.3)
    assert batch.limit == FIRST


@pytest.mark.parametrize("each", [0.5, 0.01, 0.001])
def test_windows_come_to_take_about_a_second(each: float) -> None:
    batch = BatchSize(5000)
    took = over_link(batch, 0.02, each)
    assert all(0.5 * TARGET <= seconds <= 1.05 * TARGET for seconds in took[-20:])


def test_a_far_away_upstream_still_gets_large_windows() -> None:
    """Three seconds go by before anything moves: windows of a few rows would be no quicker."""
    batch = BatchSize(5000)
    took = over_link(batch, 3.0, 0.0005)
    assert batch.limit >= 2500
    assert max(took) <= 6.5


def test_one_slow_answer_costs_a_quarter_at_most() -> None:
    batch = BatchSize(5000)
    quick(batch, 5)
    batch.went_through(5000, 600.0)
    assert batch.limit == 1250
    over_link(batch, 0.01, 0.00001)
    assert batch.limit == 5000


def rows(count: int, text: str | float) -> list[Pending]:
    return [Pending(seq, Weather, "mast", 0, (None, text)) for seq in range(count)]


def test_long_rows_make_small_windows() -> None:
    batch = BatchSize(5000)
    quick(batch, 5)
    batch.weigh(rows(5000, "x" * 10_000))
    assert batch.limit == pytest.approx(WINDOW_BYTES / 10_000, rel=0.01)
    batch.weigh(rows(5000, 1.0))
    assert batch.limit == 5000
    batch.weigh([])
    assert batch.limit == 5000
    batch.weigh(rows(1, "x" * (2 * WINDOW_BYTES)))
    assert batch.limit == 1
