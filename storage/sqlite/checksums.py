"""The checksums of a write-ahead log, which SQLite has no call for: https://www.sqlite.org/fileformat2.html#walformat

A log may be as long as the store, and opening waits for all of its checksums. One is a chain over the words of a frame,
but it begins with what the frame before bears, not with what that should bear: so many frames are added up side by
side, each in 64 bits of one large integer.
"""

from __future__ import annotations

import sys
from array import array

FRAME_HEADER = 24
PAGE = 4096
FRAME = FRAME_HEADER + PAGE
_UNITS = FRAME // 8
_SALTS, _CHECKSUM = 1, 2
"""Which units of eight bytes of a frame its checksum is not over. The first is the page's number, and `commit`."""
Checksum = tuple[int, int]


def checksum(data: bytes, order: str, before: Checksum) -> Checksum:
    """Of some bytes, eight at a time, in words of that byte order, "<" or ">"."""
    words = array("I", data)
    if (order == ">") is (sys.byteorder == "little"):
        words.byteswap()
    one, two = before
    for word, other in zip(words[::2], words[1::2], strict=True):
        one = (one + word + two) & 0xFFFFFFFF
        two = (two + other + one) & 0xFFFFFFFF
    return one, two


def whole(data: bytes, order: str, before: Checksum) -> bytes:
    """Of frames one behind the other, for each 1 where its checksum is right, else 0. `before` is what the frame before
    the first of them bears."""
    count = len(data) // FRAME
    low = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * count, "little")  # of each frame's 64 bits
    borne = int.from_bytes(_swapped(array("Q", data)[_CHECKSUM::_UNITS].tobytes()), "little")
    first = (borne << 64 | before[1] << 32 | before[0]) & ((1 << 64 * count) - 1)
    one, two = first & low, first >> 32 & low
    units = array("Q", data if order == "<" else _swapped(data))
    for number in range(_UNITS):
        if number not in (_SALTS, _CHECKSUM):
            words = int.from_bytes(units[number::_UNITS].tobytes(), "little")
            one = (one + (words & low) + two) & low
            two = (two + (words >> 32 & low) + one) & low
    wrong = (one | two << 32) ^ borne
    if not wrong:
        return b"\1" * count
    return bytes(not one for one in array("Q", wrong.to_bytes(8 * count, "little")))


def _swapped(data: bytes) -> bytes:
    """Words of the other byte order."""
    words = array("I", data)
    words.byteswap()
    return words.tobytes()
