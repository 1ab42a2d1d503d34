"""What goes to COPY: the short way from a reading to bytes, and the long one over checked cells, say the same."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot import Reading, Version
from edgedepot.storage.buffer import Pending
from edgedepot.storage.timescale.cells import Checked, Rows
from edgedepot.storage.timescale.encode import encoder_of
from edgedepot.storage.versions import Versions
from tests.models import Mixed, Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Sparse(Reading):
    """Numbers that are always there before, between and behind such that may be absent."""

    first: int
    second: bool
    maybe: int | None = None
    third: float
    word: str
    perhaps: bool | None = None
    last: float


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(), st.text(max_size=5), st.just("x" * 1025)
)
DEVICES = st.sampled_from(["mast", "roof", "漢", "", "a\0b", 7, None])
MOMENTS = st.sampled_from(
    [T0, T0 + timedelta(microseconds=1), T0.replace(tzinfo=None), datetime.min.replace(tzinfo=UTC)]
)
NUMBERS = st.sampled_from([0, 1, 2**63 - 1, 2**63, -1, True, 1.0])


def rows_of(model: type[Reading]) -> st.SearchStrategy[list[Any]]:
    typed: dict[type, Any] = {float: st.floats(), int: st.integers(), bool: st.booleans(), str: st.text(max_size=5)}
    data = st.fixed_dictionaries({}, optional={spec.name: typed[spec.type] | VALUES for spec in model.__fields__})
    ordinary = st.fixed_dictionaries({spec.name: typed[spec.type] for spec in model.__fields__})
    qualities = st.sampled_from([None, None, 1, 2**15, "bad"])
    versions = st.builds(Version, DEVICES, MOMENTS, ordinary | data, qualities, NUMBERS, NUMBERS)
    return st.lists(versions | st.tuples(DEVICES, MOMENTS, data) | st.just(7), max_size=8)


@pytest.mark.parametrize("model", [Weather, Mixed, Sparse])
@given(data=st.data())
def test_both_ways_send_the_same_and_refuse_the_same(model: type[Reading], data: st.DataObject) -> None:
    given_rows = data.draw(rows_of(model))
    short = Rows(model, "roof", given_rows, lambda: 0)
    sent = list(short.encoded(encoder_of(model)))
    long = Rows(model, "roof", given_rows, lambda: 0)
    cells = list(long.cells())
    checked = list(Checked(cells).encoded(encoder_of(model)))
    assert sum(number for number, _ in sent) == len(cells)
    assert b"".join(piece for _, piece in sent) == b"".join(piece for _, piece in checked)
    assert short.refusals() == long.refusals()
    assert short.direct == long.direct
    assert len(cells) + len(long.refusals()) == len(given_rows)


def stored_rows(model: type[Reading]) -> st.SearchStrategy[list[Pending]]:
    """As the local store has them, and some with a number that it should not have."""
    typed: dict[type, Any] = {
        **{float: st.floats(allow_nan=False, allow_infinity=False) | st.just(0.5), int: st.integers(-(2**63), 2**63)},
        **{bool: st.booleans(), str: st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)},
    }
    values = [typed[spec.type] if spec.required else st.none() | typed[spec.type] for spec in model.__fields__]
    row = st.tuples(st.sampled_from([None, 1, 2**15]), *values).filter(
        lambda row: any(cell is not None for cell in row[1:])
    )
    moments = st.integers(-(10**15), 10**16)
    devices = st.sampled_from(["mast", "roof", "漢"])
    return st.lists(st.builds(Pending, st.integers(1, 2**62), st.just(model), devices, moments, row), max_size=8)


@pytest.mark.parametrize("model", [Weather, Mixed, Sparse])
@given(data=st.data(), epoch=st.sampled_from([1, 2**40, 0]))
def test_rows_of_the_local_store_are_sent_as_their_versions_are(
    model: type[Reading], data: st.DataObject, epoch: int
) -> None:
    stored = data.draw(stored_rows(model))
    short = Rows(model, "roof", Versions(stored, epoch), lambda: 0)
    sent = list(short.encoded(encoder_of(model)))
    long = Rows(model, "roof", [row.version(epoch) for row in stored], lambda: 0)
    expected = list(long.encoded(encoder_of(model)))
    assert sent == expected
    assert (short.refusals(), short.direct) == (long.refusals(), long.direct)


def test_what_is_sent_is_what_the_manual_says() -> None:
    whole = {"first": 1, "second": False, "maybe": 7, "third": 0, "word": "", "perhaps": True, "last": 2}
    part = {"first": -1, "second": True, "third": 1.5, "word": "é", "last": -0.0}
    given_rows = [Version("ä", T0, part, None, 1, 2), Version("ä", T0, whole, 3, 1, 3)]
    rows = Rows(Sparse, "roof", given_rows, lambda: 0)
    sent = b"".join(piece for _, piece in rows.encoded(encoder_of(Sparse)))
    assert sent[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    micros = (datetime(2026, 1, 1) - datetime(2000, 1, 1)) // timedelta(microseconds=1)
    first, second = _tuples(sent[19:])
    keys = [b"roof", "ä".encode()]
    assert first[:6] == [*keys, None, *_big(micros, 1, 2)]
    assert first[6:] == [*_big(-1), b"\1", None, struct.pack(">d", 1.5), "é".encode(), None, struct.pack(">d", -0.0)]
    assert second[:6] == [*keys, b"\0\3", *_big(micros, 1, 3)]
    assert second[6:] == [*_big(1), b"\0", *_big(7), bytes(8), b"", b"\1", struct.pack(">d", 2)]


def _big(*numbers: int) -> list[bytes]:
    return [struct.pack(">q", number) for number in numbers]


def _tuples(data: bytes) -> Iterator[list[bytes | None]]:
    position = 0
    while True:
        (count,) = struct.unpack_from(">h", data, position)
        position += 2
        if count == -1:
            assert position == len(data)
            return
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", data, position)
            position += 4
            row.append(None if length == -1 else data[position : position + length])
            position += max(0, length)
        yield row
