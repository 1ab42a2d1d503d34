"""Rows made into versions by the thousand are what each would be by itself."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgedepot import Reading
from edgedepot.storage.buffer import Pending
from edgedepot.storage.versions import Versions


class Plain(Reading):
    volts: float
    amperes: float


class Sparse(Reading):
    count: int | None = None
    level: float
    note: str | None = None
    open: bool | None = None


class Empty(Reading):
    nothing: float | None = None


VALUES: dict[type[Reading], tuple[st.SearchStrategy[Any], ...]] = {
    Plain: (st.floats(allow_nan=False), st.floats(allow_nan=False)),
    Sparse: (
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.none() | st.text(),
        st.none() | st.booleans(),
    ),
    Empty: (st.none() | st.just(0.0),),
}
times = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
qualities = st.none() | st.integers(0, 31)


@given(st.data(), st.sampled_from(list(VALUES)), st.integers(1, 9))
def test_they_are_equal(data: st.DataObject, model: type[Reading], epoch: int) -> None:
    row = st.tuples(qualities, *VALUES[model])
    pending = st.builds(Pending, st.integers(1, 2**62), st.just(model), st.text(), times, row)
    rows = data.draw(st.lists(pending, max_size=20))
    made = Versions(rows, epoch)
    expected = [row.version(epoch) for row in rows]
    assert list(made) == expected
    assert [type(version) for version in made] == [type(version) for version in expected]
    assert [made[place] for place in range(-len(rows), len(rows))] == 2 * expected
    assert list(made[1::2]) == expected[1::2]
    assert len(made) == len(expected)


def test_whoever_asks_for_the_last_row_is_said_to_have_all() -> None:
    rows = [Pending(number, Plain, "mast", number, (None, 1.0, 2.0)) for number in range(1, 601)]
    told: list[str] = []
    made = Versions(rows, 1, lambda: told.append("all"))
    iterated = iter(made)
    assert [next(iterated).gateway_seq for _ in range(600)] == list(range(1, 601))
    assert len(made[:300]) == len(made[200:500]) == 300
    assert told == []
    assert list(iterated) == []
    assert told == ["all"]
    assert [len(made[300:]), len(made[590:600]), len(made[599:700])] == [300, 10, 1]
    assert told == ["all"] * 4
