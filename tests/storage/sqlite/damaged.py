"""Stores at several stages, as a killed process leaves them, and what can happen to their files."""

import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.clock import SystemClock, to_micros
from tests.models import Mixed, Weather

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 4096
SUFFIXES = ("", "-wal", "-shm")
Identity = tuple[str, datetime]
_TO_SPRING = to_micros(T0 + timedelta(days=100)) - SystemClock().now()


class SpringClock(SystemClock):
    """The machine's clock, but in the spring of 2026, where it is not stepped."""

    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted
        self._moved = _TO_SPRING

    def now(self) -> int:
        return super().now() + self._moved

    def step(self, seconds: float) -> None:
        """Step the wall clock, as a time server does."""
        self._moved += round(seconds * 1e6)


def rows(first: int, last: int, minutes: int = 1) -> list[tuple[str, datetime, dict[str, Any]]]:
    return [
        (f"d{n % 4}", T0 + timedelta(minutes=n * minutes), {"temperature": n / 7, "count": n, "note": f"reading {n}"})
        for n in range(first, last)
    ]


def empty(store: SQLiteStorage) -> None:
    store.add_cursor("central")


def unfolded(store: SQLiteStorage) -> None:
    """600 readings in the journal, 200 of them delivered."""
    store.add_cursor("central")
    for first in range(0, 600, 50):
        store.store_readings(Weather, rows(first, first + 50)).wait()
    deliver(store, 200)


def folded(store: SQLiteStorage) -> None:
    """600 readings in history, and 60 that came since."""
    unfolded(store)
    store.fold()
    store.store_readings(Weather, rows(600, 660)).wait()


def by_month(first: int, last: int) -> list[tuple[str, datetime, dict[str, Any]]]:
    """Half an hour of minutes every 31 days."""
    return [
        (device, T0 + timedelta(days=31 * (n // 32), minutes=n % 32), data)
        for n, (device, _, data) in enumerate(rows(first, last), first)
    ]


def partitioned(store: SQLiteStorage) -> None:
    """1,200 readings and 36 of another model in over 64 partitions, 100 of them merged since, a piece that is gone, one
    that is not, and 60 that came since."""
    store.add_cursor("central")
    for first in range(0, 1200, 100):
        store.store_readings(Weather, by_month(first, first + 100)).wait()
        if first in (400, 800):
            deliver(store, first)
            store.fold()
    meter = [("meter", moment, {"number": data["count"]}) for _, moment, data in by_month(0, 36 * 32)[::32]]
    store.store_readings(Mixed, meter).wait()
    store.fold()
    store.store_readings(Weather, [(d, t, {**data, "temperature": -1.0}) for d, t, data in by_month(0, 100)])
    store.delete_readings(Weather, "d1", T0, by_month(52, 53)[0][1])
    store.store_readings(Weather, by_month(1200, 1260)).wait()


def held(store: SQLiteStorage) -> None:
    """400 readings in history, then the machine starts anew and does not know the time: 120 with the gateway's stamps,
    in two time bases, and 40 whose times code gave."""
    clock = clock_of(store)
    clock.trusted = True
    store.add_cursor("central")
    store.store_readings(Weather, rows(0, 400)).wait()
    deliver(store, 100)
    store.fold()
    clock.trusted = False
    for number in range(120):
        if number == 60:
            clock.step(500)
        store.store_reading(Weather, f"d{number % 4}", None, {"temperature": 40.0, "count": 1000 + number}).wait()
    store.store_readings(Weather, rows(2000, 2040)).wait()
    store.fold()


def released(store: SQLiteStorage) -> None:
    """The same when the time is known again: the fold has not taken them over yet."""
    held(store)
    clock = clock_of(store)
    clock.step(86_400)
    clock.trusted = True
    store.store_readings(Weather, rows(2100, 2150)).wait()


def retained(store: SQLiteStorage) -> None:
    """Of 1,500 readings those of the last 30 days; of those before them 1,000 are pending in the journal."""
    store.add_cursor("central")
    for first in range(0, 1500, 500):
        store.store_readings(Weather, rows(first, first + 500, minutes=90)).wait()
        store.fold()
    deliver(store, 500)
    store.fold()
    store.retain()
    store.store_readings(Weather, [("late", T0, {"temperature": 1.0, "count": 7})]).wait()


def downsampled(store: SQLiteStorage) -> None:
    """The same, with the hours of what is gone."""
    store.keep_downsampled(Weather, "1 hour")
    retained(store)


def thinned(store: SQLiteStorage) -> None:
    """1,200 pending readings of a second each, of which all but the last minutes are thinned."""
    store.add_cursor("central")
    for first in range(0, 1200, 300):
        moments = [(device, T0 + (moment - T0) / 60, data) for device, moment, data in rows(first, first + 300)]
        store.store_readings(Weather, moments).wait()
        store.fold()
    store.thin(T0 + timedelta(minutes=15))


def clock_of(store: SQLiteStorage) -> SpringClock:
    assert isinstance(store.clock, SpringClock)
    return store.clock


STAGES: dict[str, Callable[[SQLiteStorage], None]] = {
    "empty": empty,
    "unfolded": unfolded,
    "folded": folded,
    "partitioned": partitioned,
}
LATER_STAGES: dict[str, Callable[[SQLiteStorage], None]] = {
    "held": held,
    "released": released,
    "retained": retained,
    "downsampled": downsampled,
    "thinned": thinned,
}
"""Stores that have seen more. They are tried less."""


def opened(path: Path, stage: str, **settings: Any) -> SQLiteStorage:
    """Open a store of that stage, with a clock and limits that fit it."""
    if stage in LATER_STAGES:
        settings["clock"] = SpringClock(trusted=stage != "held")
    if stage in ("retained", "downsampled"):
        settings["keep"] = "40 days"
    return SQLiteStorage(path, piece_rows=300, **settings)


def deliver(store: SQLiteStorage, limit: int) -> None:
    store.flush()
    window = store.pending("central", limit)
    if window is not None:
        store.acknowledge("central", window)
    store.flush()


def copy_at_rest(folder: Path, to: Path) -> Path:
    """Copy a store's files as they are at one moment: its thread may write on after what waited for it."""
    found, before = _files(folder), None
    while found != before:
        found, before = _files(folder), found
    to.mkdir(exist_ok=True)
    for name, content in found.items():
        (to / name).write_bytes(content)
    return to


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def leave(folder: Path, stage: str, gateway_id: str = "roof", checkpointed: bool = False) -> Path:
    """The files that a store of that stage leaves when its process is killed."""
    path = folder / "x.db"
    (folder / "live").mkdir()
    with opened(folder / "live" / "x.db", stage, gateway_id=gateway_id) as store:
        (STAGES | LATER_STAGES)[stage](store)
        if checkpointed and store._writing is not None:
            store._writing._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            store.store_readings(Weather, rows(3000, 3010, minutes=121)).wait()
        copy_at_rest(store.path.parent, folder)
    shutil.rmtree(folder / "live")
    return path


def readings(store: SQLiteStorage, model: type[Reading] = Weather) -> dict[Identity, dict[str, Any]]:
    found = {(row.pop("device_id"), row.pop("timestamp")): row for row in store.query_readings(model)}
    return found


# -- what can happen to a file --------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    """To half its pages."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2 // PAGE * PAGE)


def zero_a_page(file: Path) -> None:
    """In the middle, behind a frame's header where it is the log."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2 // PAGE * PAGE)
        opened.write(bytes(PAGE))


def flip_a_byte(file: Path) -> None:
    place = file.stat().st_size // 2 // PAGE * PAGE + 3  # of a page's head: how many rows it has
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 0x41]))


def fill_with_junk(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(file.stat().st_size))


def remove(file: Path) -> None:
    file.unlink()


def resize(file: Path) -> None:
    """By some bytes that make no whole page."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1000)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "zeroed page": zero_a_page,
    "flipped byte": flip_a_byte,
    "junk": fill_with_junk,
    "missing": remove,
    "wrong size": resize,
}
