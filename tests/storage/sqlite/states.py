"""What the local store's state machines draw, and what they compare it by."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from edgedepot import SQLiteStorage
from edgedepot.storage.base import EVERYTHING, Choice, Lane, Window

T0 = datetime(2026, 3, 28, 22, tzinfo=UTC)
# Few moments, so that identities meet: around hours' edges, a change to summer time, and partitions' edges.
OFFSETS = [-1, 0, 1, 1800, 3599, 3600, 3601, 7200, 10_800, 86_400, 90_000, 40 * 86_400, -70 * 86_400]
moments = st.sampled_from([T0 + timedelta(seconds=offset) for offset in OFFSETS]).flatmap(
    lambda base: st.sampled_from([base, base + timedelta(microseconds=1), base + timedelta(seconds=7)])
)
devices = st.sampled_from(["a", "b", "c"])
FIELDS = ("temperature", "humidity", "raining", "note", "count")
data = st.fixed_dictionaries(
    {"temperature": st.integers(-50, 90).map(float)},
    optional={
        "humidity": st.sampled_from([0.0, 0.25, 55.5]),
        "raining": st.booleans(),
        "note": st.sampled_from(["", "wet", "größer"]),
        "count": st.sampled_from([0, 7, -3, 2**62, -(2**63)]),
    },
)
readings = st.tuples(devices, moments, data)
spans = st.tuples(st.none() | moments, st.none() | moments)
deeds = st.one_of(
    st.tuples(st.just("put"), st.lists(readings, min_size=1, max_size=8)),
    st.tuples(st.just("put"), st.lists(readings, min_size=1, max_size=8)),
    st.tuples(st.just("delete"), st.none() | devices, st.none() | moments, st.none() | moments),
    st.just(("fold",)),
)
# A device's time that cannot be right, too.
unchecked = st.tuples(
    devices, moments | st.sampled_from([datetime(1970, 1, 1, tzinfo=UTC), T0 + timedelta(days=900)]), data
)
deeds_with_clocks = st.one_of(
    deeds,
    deeds,
    st.tuples(st.just("stamp"), devices, data),
    st.tuples(st.just("take in"), st.lists(unchecked, min_size=1, max_size=3)),
    st.tuples(st.just("set"), st.sampled_from([-7200, 2, 86_400]), st.booleans()),
)
BOOTS = st.sampled_from([T0 - timedelta(days=100), T0, T0 + timedelta(hours=1)])
POLICIES = st.sampled_from(["release", "release", "hold"])
FOREVER = timedelta(days=36_500)
IN_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
MICROSECOND = timedelta(microseconds=1)
SLEWED = timedelta(seconds=1)
"""By so much the clock may move without having been set."""
LANES: list[Lane] = ["backlog", "live"]
RESOLVED = ("delivered", "quarantined", "superseded", "skipped", "deleted", "thinned", "evicted", "lost")
Key = tuple[str, datetime]
Values = dict[str, Any]
CHOICES = [EVERYTHING, EVERYTHING, Choice(devices=("a", "c*")), Choice(frozenset({"weather"})), Choice(frozenset())]


def is_in(key: Key, device: str | None, start: datetime | None, end: datetime | None) -> bool:
    """Whether an identity is in a scope."""
    return (device is None or key[0] == device) and (start is None or key[1] >= start) and (end is None or key[1] < end)


def after_the_last(stamps: Mapping[str, datetime], rows: Iterable[Key], device: str, moment: datetime) -> datetime:
    """The gateway's stamp at that moment: behind the device's last, and after a restart behind what lies in the second
    ahead, which may have been one."""
    ahead = [there for name, there in rows if name == device and moment < there <= moment + SLEWED]
    last = stamps.get(device, max(ahead, default=None))
    return moment if last is None else max(moment, last + MICROSECOND)


def without_nulls(data: Values) -> Values:
    return {name: value for name, value in data.items() if value is not None}


def next_window(store: SQLiteStorage, cursor: str, limit: int, lane: Lane) -> Window | None:
    """The next window of a lane. One that was read ahead is what is read now."""
    before = content(store.pending(cursor, limit, lane))
    window = store.pending(cursor, limit, lane)
    assert content(window) == before
    if window is not None:
        store.read_ahead(cursor, limit, lane, window)
    return window


def content(window: Window | None) -> object:
    """What a window says. Whether its rows are of a class that was declared since or of one made for them does not
    matter."""
    if window is None:
        return None
    return replace(window, rows=[]), [(row.seq, row.model.__measurement__, *row[2:]) for row in window.rows]
