"""Chunks into lines, wherever the chunks end."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgedepot.drivers.lines import LineSplitter

LONGEST = 5
noise = st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"bcd", b"longer"]), max_size=30).map(b"".join)


def split(raw: bytes, cuts: list[int], longest: int = LONGEST) -> list[bytes]:
    """The lines of `raw`, fed in pieces that end at `cuts`."""
    splitter = LineSplitter(longest)
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    pieces = [raw[low:high] for low, high in pairwise(ends)]
    return [line for piece in pieces for line in splitter.feed(piece)]


def expected(raw: bytes) -> list[bytes]:
    """All at once, from the whole text: complete lines, and an incomplete last one if it is too long already."""
    *lines, rest = raw.split(b"\n")
    found = [line.removesuffix(b"\r")[: LONGEST + 1] for line in lines]
    too_long = len(rest.removesuffix(b"\r")) > LONGEST
    return found + ([rest[: LONGEST + 1]] if too_long else [])


@given(noise, st.lists(st.integers(0, 100)))
@example(b"12345\r\n", [6])
@example(b"123456\r\nnext\n", [7])
@example(b"12345\rx\nnext\n", [6, 7])
def test_any_bytes_in_any_pieces(raw: bytes, cuts: list[int]) -> None:
    assert split(raw, cuts) == expected(raw)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_split_at_every_byte(end: bytes) -> None:
    raw = b"one" + end + b"" + end + b"two" + end + b"rest"
    for cut in range(len(raw) + 1):
        assert split(raw, [cut]) == [b"one", b"", b"two"]
    assert split(raw, list(range(len(raw)))) == [b"one", b"", b"two"]


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() -> None:
    splitter = LineSplitter(LONGEST)
    assert splitter.feed(b"1234567") == [b"123456"]
    assert splitter.feed(b"8" * 10_000) == []
    assert splitter.feed(b"9\nnext\n") == [b"next"]


def test_noise_without_an_end_takes_no_memory() -> None:
    splitter = LineSplitter(LONGEST)
    found = [line for _ in range(1000) for line in splitter.feed(b"x" * 4096)]
    assert found == [b"xxxxxx"]
    assert sum(len(value) for value in vars(splitter).values() if isinstance(value, bytes)) == 0
