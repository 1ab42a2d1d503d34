"""What the local store's state machines draw, and what they compare it by."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hypothesis import strategies as st

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.buffer import EVERYTHING, Choice, Lane, Start, Window
from tests.models import Meter, Weather

T0 = datetime(2026, 3, 28, 22, tzinfo=UTC)
# Few moments, so that identities meet: around hours' edges, a change to summer time, and partitions' edges. What keeps
# readings for a day has none of some of them.
OFFSETS = [-1, 0, 1, 1800, 3599, 3600, 3601, 7200, 10_800, 86_400, 90_000, 40 * 86_400, -5 * 86_400, -70 * 86_400]
moments = st.sampled_from([T0 + timedelta(seconds=offset) for offset in OFFSETS]).flatmap(
    lambda base: st.sampled_from([base, base + timedelta(microseconds=1), base + timedelta(seconds=7)])
)
devices = st.sampled_from(["a", "b", "c"])
data = st.fixed_dictionaries(
    {"temperature": st.integers(-50, 90).map(float)},
    optional={
        "humidity": st.sampled_from([0.0, 0.25, 55.5]),
        "raining": st.booleans(),
        "note": st.sampled_from(["", "wet", "größer"]),
        "count": st.sampled_from([0, 7, -3, 2**62, -(2**63)]),
    },
)
meter_data = st.fixed_dictionaries(
    {"on": st.booleans()},
    optional={
        "mode": st.sampled_from(["", "eco", "größer"]),
        "total": st.sampled_from([0, 7, -3, 2**62, -(2**63)]),
        "error": st.booleans(),
    },
)
readings = st.tuples(devices, moments, data)
meter_readings = st.tuples(devices, moments, meter_data)
Model = type[Reading]
MODELS: list[Model] = [Weather, Meter]
models = st.sampled_from([Weather, Weather, Meter])
batches = st.one_of(
    st.tuples(st.just(Weather), st.lists(readings, min_size=1, max_size=8)),
    st.tuples(st.just(Weather), st.lists(readings, min_size=1, max_size=8)),
    st.tuples(st.just(Meter), st.lists(meter_readings, min_size=1, max_size=8)),
)
stamped = st.tuples(st.just(Weather), devices, data) | st.tuples(st.just(Meter), devices, meter_data)
spans = st.tuples(st.none() | moments, st.none() | moments)
scopes = st.tuples(models, st.none() | devices, st.none() | moments, st.none() | moments)
puts = st.tuples(st.just("put"), batches)
deeds = st.one_of(puts, puts, st.tuples(st.just("delete"), scopes), st.just(("fold",)))
# A device's time that cannot be right, too.
claimed = moments | st.sampled_from([datetime(1970, 1, 1, tzinfo=UTC), T0 + timedelta(days=900)])
unchecked = st.one_of(
    st.tuples(st.just(Weather), devices, claimed, data), st.tuples(st.just(Meter), devices, claimed, meter_data)
)
deeds_with_clocks = st.one_of(
    deeds,
    deeds,
    st.tuples(st.just("stamp"), stamped),
    st.tuples(st.just("take in"), st.lists(unchecked, min_size=1, max_size=3)),
    st.tuples(st.just("set"), st.sampled_from([-7200, -0.4, 2, 86_400]), st.booleans()),
)
orders = st.sampled_from(
    [(Weather, order) for order in ("timestamp", "-timestamp", "humidity", "-note", "device_id", "-count")]
    + [(Meter, order) for order in ("timestamp", "-timestamp", "mode", "-on", "-total")]
)
NUMBERS = [(Weather, field) for field in ("temperature", "humidity", "count", "timestamp")] + [
    (Meter, field) for field in ("total", "timestamp")
]
NO_NUMBERS = [(Weather, field) for field in ("raining", "note", "device_id")] + [(Meter, "on"), (Meter, "mode")]
BOOTS = st.sampled_from([T0 - timedelta(days=100), T0, T0 + timedelta(hours=1)])
POLICIES = st.sampled_from(["release", "release", "hold"])
Durability = Literal["power", "process"]
DURABILITIES: st.SearchStrategy[Durability] = st.sampled_from(["power", "power", "process"])
FOREVER = timedelta(days=36_500)
IN_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
MICROSECOND = timedelta(microseconds=1)
SLEWED = timedelta(seconds=1)
"""By so much the clock may move without having been set."""
LANES: list[Lane] = ["backlog", "live"]
RESOLVED = ("delivered", "quarantined", "superseded", "skipped", "deleted", "thinned", "evicted", "lost")
Values = dict[str, Any]
Row = tuple[str, datetime, Values]
Span = tuple[datetime | None, datetime | None]
Scope = tuple[Model, str | None, datetime | None, datetime | None]
CHOICES = [
    EVERYTHING,
    EVERYTHING,
    Choice(devices=("a", "c*")),
    Choice(frozenset({"weather"})),
    Choice(frozenset({"meter"}), ("b", "c")),
    Choice(frozenset()),
]
choices = st.sampled_from(CHOICES)
BEGINNINGS: list[Start] = ["oldest", "oldest", "now"]
starts: st.SearchStrategy[Start] = st.sampled_from(BEGINNINGS) | moments


class Series(NamedTuple):
    """The readings of one model from one device."""

    measurement: str
    device: str


Key = tuple[Series, datetime]


def key_of(model: Model, device: str, moment: datetime) -> Key:
    return Series(model.__measurement__, device), moment


def is_in(key: Key, model: Model, device: str | None, start: datetime | None, end: datetime | None) -> bool:
    """Whether an identity is in a scope."""
    series, moment = key
    is_there = is_of(series, model.__measurement__, device)
    return is_there and (start is None or moment >= start) and (end is None or moment < end)


def is_of(series: Series, measurement: str | None, device: str | None) -> bool:
    """Whether it is of a measurement and a device, where these are given."""
    return measurement in (None, series.measurement) and device in (None, series.device)


def rows_of(model: Model, found: Iterable[tuple[Key, Values]]) -> list[dict[str, Any]]:
    """A model's readings as queries show them."""
    nothing = dict.fromkeys(spec.name for spec in model.__fields__)
    return [
        {"device_id": series.device, "timestamp": moment, **nothing, **values}
        for (series, moment), values in found
        if series.measurement == model.__measurement__
    ]


def queried(store: SQLiteStorage) -> dict[Key, Values]:
    """All readings that queries see."""
    return {
        key_of(model, row.pop("device_id"), row.pop("timestamp")): without_nulls(row)
        for model in MODELS
        for row in store.query_readings(model)
    }


def times_seen(keys: Iterable[Key]) -> dict[str, tuple[datetime, datetime]]:
    """When each device was seen first and last."""
    seen: dict[str, list[datetime]] = {}
    for series, moment in keys:
        seen.setdefault(series.device, []).append(moment)
    return {device: (min(times), max(times)) for device, times in seen.items()}


def quarantined(store: SQLiteStorage, cursor: str) -> list[tuple[Key, Values]]:
    """What waits there for somebody to decide about it, in an order of its own."""
    found = [row for row in store.quarantined(cursor, limit=10_000) if not row["replayed"]]
    keys = ((Series(row["measurement"], row["device_id"]), row["timestamp"]) for row in found)
    return sorted(zip(keys, (without_nulls(row["data"]) for row in found), strict=True), key=repr)


def after_the_last(
    stamps: Mapping[Series, datetime], rows: Iterable[Key], series: Series, moment: datetime
) -> datetime:
    """The gateway's stamp at that moment: behind the device's last, and after a restart behind what lies in the second
    ahead, which may have been one."""
    ahead = [there for one, there in rows if one == series and moment < there <= moment + SLEWED]
    last = stamps.get(series, max(ahead, default=None))
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
