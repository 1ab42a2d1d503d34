"""What opening a store reads does not grow with the readings that wait for an upstream."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from tests.models import Weather
from tests.storage.sqlite.room_model import File

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 4096
LATEST = 20


def opened(path: Path, piece_rows: int = 25_000) -> SQLiteStorage:
    return SQLiteStorage(path, gateway_id="roof", clock=ManualClock(T0), piece_rows=piece_rows)


def put(store: SQLiteStorage, start: datetime, count: int) -> None:
    rows = [(f"d{n % 5}", start + timedelta(seconds=n), {"temperature": 1.0, "count": n}) for n in range(count)]
    store.store_readings(Weather, rows).wait()


def a_backlog(path: Path, piece_rows: int) -> None:
    """Three pieces that get no more rows, and one that does; an upstream has received nothing."""
    with opened(path, piece_rows - 1) as store:
        store.add_cursor("central")
        for day in range(3):
            put(store, T0 + timedelta(days=day), piece_rows)
            store.fold()
        put(store, T0 + timedelta(days=3), LATEST)
    assert len(File(path, 0).firsts) == 4


def bytes_read() -> int:
    """By this process so far, from whatever file."""
    return int(Path("/proc/self/io").read_text("ascii").split()[1])


def test_opening_reads_as_much_of_a_long_backlog_as_of_a_short_one(quick_folder: Path) -> None:
    """How many readings a piece has that gets no more is on record. Those of the last piece are counted, and of a piece
    that an upstream has a part of."""
    found = []
    for piece_rows in (500, 500, 5000):  # at first Python reads modules, too
        path = quick_folder / f"{piece_rows}.db"
        if not path.exists():
            a_backlog(path, piece_rows)
        before = bytes_read()
        store = opened(path)
        found.append(bytes_read() - before)
        assert store.count_pending("central") == 3 * piece_rows + LATEST
        store.close()
    _, short, long = found
    assert long < short + PAGE
