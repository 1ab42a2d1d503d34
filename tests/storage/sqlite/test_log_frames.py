"""The write-ahead log as bytes: what SQLite would read of it is known without SQLite, however long it is."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot.storage.sqlite.checksums import FRAME, FRAME_HEADER, PAGE, Checksum, checksum, whole
from edgedepot.storage.sqlite.wal import HEADER, Log, wal_of


def framed(body: bytes, order: str, before: Checksum) -> bytes:
    """A frame with that page number, `commit` and page, and the salts of nobody."""
    return body[:8] + b"8 bytes." + struct.pack(">II", *checksum(body, order, before)) + body[8:]


@given(
    bodies=st.lists(st.randoms(use_true_random=False).map(lambda random: random.randbytes(8 + PAGE)), max_size=9),
    order=st.sampled_from("<>"),
    before=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    wrong=st.sets(st.integers(0, 8)),
)
def test_frames_side_by_side_are_added_up_as_one_by_one(
    bodies: list[bytes], order: str, before: Checksum, wrong: set[int]
) -> None:
    frames, borne = [], before
    for number, body in enumerate(bodies):
        frame = framed(body, order, borne)
        borne = struct.unpack_from(">II", frame, 16)
        # Of the page alone: a checksum that is changed spoils the next frame too.
        frames.append(frame[:-1] + bytes([frame[-1] ^ 64]) if number in wrong else frame)
    assert whole(b"".join(frames), order, before) == bytes(number not in wrong for number in range(len(bodies)))


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with commits in its log that are small, and one of 48 MB."""
    path = tmp_path_factory.mktemp("log") / "any.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE pages (content)")
        for size in (*range(1000, 50_000, 1000), 48 << 20):
            connection.execute("INSERT INTO pages VALUES (randomblob(?))", (size,))
        yield path


def test_a_long_log_takes_little_memory(long_log: Path) -> None:
    size = wal_of(long_log).stat().st_size
    tracemalloc.start()
    try:
        log = Log(long_log)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.readable == (size - HEADER) // FRAME > 12_000
    assert most < 8 << 20


@pytest.mark.parametrize("flipped", range(0, 300, 23))
def test_as_much_is_readable_as_sqlite_reads(long_log: Path, tmp_path: Path, flipped: int) -> None:
    path = tmp_path / "any.db"
    path.write_bytes(long_log.read_bytes())
    with wal_of(long_log).open("rb") as file:
        data = bytearray(file.read(HEADER + 300 * FRAME))
    data[HEADER + flipped * FRAME + FRAME_HEADER + flipped] ^= 1
    wal_of(path).write_bytes(data)
    readable = Log(path).readable
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint").fetchone() == (0, readable, readable)
