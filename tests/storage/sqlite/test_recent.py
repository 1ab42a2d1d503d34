"""When the commits of the last hour were, by the times of the readings in them, against brute force."""

from array import array
from itertools import combinations

from hypothesis import assume, given
from hypothesis import strategies as st

from edgedepot.storage.clock import DAY, HOUR
from edgedepot.storage.sqlite.recent import Came, in_order, pause_in, starts_of, times_of

SECOND = 1_000_000
COMMITS = st.lists(
    st.tuples(st.integers(0, 60 * SECOND), st.sets(st.sampled_from("abc"), min_size=1)), min_size=1, max_size=20
)
"""How long after the one before, and whose readings are in it."""


@given(st.sets(st.integers(1, 40)))
def test_a_commit_begins_behind_a_number_that_is_no_readings(numbers: set[int]) -> None:
    assert starts_of(sorted(numbers)) == sorted(one for one in numbers if one - 1 not in numbers)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).map(lambda times: list(enumerate(times))))
def test_no_more_are_in_order(times: list[tuple[int, int]]) -> None:
    found = list(in_order(times))
    assert found in [list(some) for some in combinations(times, len(found))]
    assert is_in_order(found)
    assert not any(map(is_in_order, combinations(times, len(found) + 1)))


def is_in_order(times: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> bool:
    return [ts for _, ts in times] == sorted(ts for _, ts in times)


@given(COMMITS)
def test_a_commit_is_when_the_latest_reading_so_far_was(commits: list[tuple[int, set[str]]]) -> None:
    came = readings_of(commits)
    assert times(came, len(commits)) == latest_so_far(came, len(commits))


@given(COMMITS, st.data())
def test_a_time_that_a_wrong_clock_said_does_not_count(
    commits: list[tuple[int, set[str]]], data: st.DataObject
) -> None:
    came = readings_of(commits)
    device = max(came, key=lambda one: len(came[one]))
    assume(len(came[device]) > 3)
    wrong = data.draw(st.sampled_from(sorted(came[device])[2:-1]))
    del came[device][wrong]
    expected = latest_so_far(came, len(commits))
    came[device][wrong] = data.draw(st.sampled_from([-DAY, DAY]))
    assert times(came, len(commits)) == expected


def readings_of(commits: list[tuple[int, set[str]]]) -> dict[str, dict[int, int]]:
    """By device and commit when the last reading was. Devices take the readings of a commit at different times."""
    now, came = HOUR, dict[str, dict[int, int]]()
    for place, (after, devices) in enumerate(commits):
        now += after
        for device in sorted(devices):
            came.setdefault(device, {})[place] = now - "cab".index(device) * SECOND
    return came


def latest_so_far(came: dict[str, dict[int, int]], commits: int) -> list[int]:
    return [max(ts for of in came.values() for at, ts in of.items() if at <= place) for place in range(commits)]


def times(came: dict[str, dict[int, int]], commits: int) -> list[int]:
    """With one more reading of each, from before."""
    twice = [[(at, ts - after) for at, ts in of.items() for after in (0, SECOND)] for of in came.values()]
    return times_of([Came(array("q", (ts for _, ts in of)), array("q", (at for at, _ in of))) for of in twice], commits)


@given(
    st.lists(st.sampled_from([0, 1, 29, 30, 31, 299, 301]), min_size=6, max_size=14),
    st.sampled_from([299, 300, 301, 2_990, 2_991, 3_010, 3_011]),
    st.integers(0, 14),
)
def test_a_pause_is_far_longer_than_any_other_time(gaps: list[int], long: int, place: int) -> None:
    gaps.insert(place, long)
    moments = [sum(gaps[:count]) * SECOND for count in range(len(gaps) + 1)]
    others = [gaps[:place] + gaps[place + 1 :] for place in range(len(gaps))]
    pauses = [gap for gap, rest in zip(gaps, others, strict=True) if gap > 300 and all(gap > 10 * one for one in rest)]
    assert pause_in(moments) == (pauses[0] if pauses and len(moments) > 10 else None)
