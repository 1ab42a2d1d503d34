"""What goes at a rate, whatever requests take."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from edgedepot.sync.flow import BURST, MOST, Flow

RATE = 1_000.0
SURPRISE = 12_000.0


@given(
    st.lists(
        st.tuples(
            st.floats(0, 30),  # seconds before it
            st.floats(0, 8),  # seconds that it lasts
            st.integers(1, round(BURST * RATE)),  # what it is expected to take
            st.just(0) | st.integers(0, round(SURPRISE)),  # what it takes beyond that
        ),
        max_size=120,
    )
)
def test_no_minute_has_more(requests: list[tuple[float, float, int, int]]) -> None:
    now, flow = 100.0, Flow(100.0)
    went: list[tuple[float, int]] = []
    for pause, lasts, expected, beyond in requests:
        now += pause
        flow.pass_time(now, RATE)
        while (free_at := flow.free_at(expected, SURPRISE)) > now:
            now = free_at
            flow.pass_time(now, RATE)
        went.append((now, expected + beyond))
        now += lasts
        flow.take(expected + beyond, now)
    sums = [0, *accumulate(count for _, count in went)]
    for first, (start, _) in enumerate(went):
        last = sum(moment < start + 60 for moment, _ in went)
        assert sums[last] - sums[first] <= MOST * RATE


def test_all_that_the_rate_allows_goes() -> None:
    """Where nothing surprises, and one request follows the other: from the start, though what went before is not
    known."""
    now, flow, total = 0.0, Flow(0.0), 0
    while now < 600:
        flow.pass_time(now, RATE)
        free_at = flow.free_at(1_500, 0)
        if free_at <= now:
            flow.take(1_500, now)
            total += 1_500
        now = max(now, free_at)
    assert 600 * RATE - 1_500 <= total <= 600 * RATE + 1_500


def test_what_is_more_than_a_minutes_worth_goes_alone() -> None:
    flow = Flow(0.0)
    flow.pass_time(10.0, RATE)
    flow.take(500, 10.0)
    flow.pass_time(20.0, RATE)
    assert flow.free_at(100_000, SURPRISE) == 70.0
    flow.pass_time(70.0, RATE)
    assert flow.free_at(100_000, SURPRISE) == 70.0


def test_what_went_before_is_not_known() -> None:
    """At the start, and where somebody else has had half of the rate."""
    flow = Flow(0.0)
    flow.pass_time(10.0, RATE / 2)
    assert flow.free_at(1_000, SURPRISE) == 23.0  # 63 seconds' worth less 24 and 2: of 60 so much has to be over
    flow.pass_time(70.0, RATE / 2)
    assert flow.free_at(1_000, SURPRISE) == 70.0
    flow.pass_time(80.0, RATE)
    assert flow.free_at(1_000, SURPRISE) == 80.0
    flow.take(20_000, 80.0)
    flow.pass_time(100.0, RATE)
    assert flow.free_at(1_000, SURPRISE) == 100.0
