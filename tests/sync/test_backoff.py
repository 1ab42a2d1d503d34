"""Waits lie within their bounds, grow, start anew, and honour what the server named."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot.sync.backoff import RETRY_AFTER_LIMIT, Backoff


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(0.2, 60, lambda: 1.0)
    waits = [backoff.next() for _ in range(12)]
    assert waits[:4] == pytest.approx([0.4, 0.8, 1.6, 3.2])
    assert waits[8:] == pytest.approx([60, 60, 60, 60])


def test_the_shortest_draw_is_the_shortest_wait_however_long_it_lasts() -> None:
    backoff = Backoff(0.2, 60, lambda: 0.0)
    assert [backoff.next() for _ in range(2000)] == [0.2] * 2000


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50))
def test_every_wait_is_drawn_from_low_to_the_ceiling(draws: list[float]) -> None:
    left = iter(draws)
    backoff = Backoff(0.2, 60, lambda: next(left))
    for tries, draw in enumerate(draws, 1):
        ceiling = min(60, 0.2 * 2**tries)
        assert backoff.next() == pytest.approx(0.2 + draw * (ceiling - 0.2))
        assert backoff.tries == tries


def test_success_starts_anew() -> None:
    backoff = Backoff(0.2, 60, lambda: 1.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.tries == 0
    assert backoff.next() == pytest.approx(0.4)


def test_what_the_server_named_is_waited_for_and_then_jittered() -> None:
    draws = iter([0.0, 0.5])
    backoff = Backoff(0.2, 60, lambda: next(draws))
    assert backoff.next(30) == pytest.approx(30.2)
    assert backoff.next(30) == pytest.approx(30 + 0.2 + 0.5 * 0.6)


@pytest.mark.parametrize("nonsense", [-5.0, 0.0, math.nan])
def test_a_nonsense_time_counts_as_none(nonsense: float) -> None:
    assert Backoff(0.2, 60, lambda: 0.0).next(nonsense) == 0.2


@pytest.mark.parametrize("far", [1e9, math.inf])
def test_a_time_beyond_reason_is_cut(far: float) -> None:
    assert Backoff(0.2, 60, lambda: 0.0).next(far) == RETRY_AFTER_LIMIT + 0.2


def test_what_a_person_must_mend_is_tried_at_the_cap() -> None:
    backoff = Backoff(0.2, 60, lambda: 0.0)
    assert backoff.slow() == 60
    assert backoff.slow(90) == 90
    assert backoff.slow(5) == 60
