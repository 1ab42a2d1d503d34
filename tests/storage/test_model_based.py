"""Random readings and random calls: SQLiteStorage, and the arithmetic for own backends, against brute force."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedepot import Field, Reading, SQLiteStorage
from edgedepot.storage.query import FUNCTIONS
from edgedepot.storage.rows import aggregate_rows, select_rows
from tests.storage.brute_force import LENGTHS, BruteForce, Width

EXAMPLES = 2_000


class Probe(Reading):
    temperature: float | None = Field(range=(-40, 80))
    pulses: int | None = None
    raining: bool | None = None
    note: str | None = None


FIELDS = tuple(spec.name for spec in Probe.__fields__)
DEVICES = ["a", "b", "B", "ä", "it's"]
ZONES = [
    "UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana",
    "Africa/Cairo", "America/St_Johns", "Pacific/Apia", "Pacific/Auckland", "America/Sao_Paulo",
]  # fmt: skip
# Around changes of the clocks in these zones, the epoch, leap days, and origins of calendar buckets.
ANCHORS = [
    datetime.fromisoformat(text + "+00:00")
    for text in (
        "2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-04-04T15:00",
        "2026-10-03T15:30", "2026-03-08T05:00", "2026-11-01T05:00", "2023-04-27T22:00", "2023-10-26T21:00",
        "2010-11-07T02:31", "2011-12-30T10:00", "2018-02-18T02:00", "2018-11-04T03:00", "1970-01-01T00:00",
        "2000-01-03T00:00", "2000-01-01T00:00", "2024-02-29T12:00", "1969-07-20T20:17", "2089-12-31T23:59",
    )
]  # fmt: skip

steps = st.one_of(
    st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(microseconds=-1), timedelta(minutes=30)]),
    st.integers(-50, 50).map(lambda hours: timedelta(hours=hours)),
    st.integers(-400, 400).map(lambda days: timedelta(days=days)),
    st.integers(-(10**6), 10**6).map(lambda seconds: timedelta(seconds=seconds / 4)),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(-1e300, 1e300) | st.integers(-100, 100) | st.sampled_from([0.1, -40.0, 80.0, 80.5]),
    "pulses": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**63 - 1, -(2**63), 0, 1]),
    "raining": st.booleans(),
    "note": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
    | st.sampled_from(["", "a", "B", "ä", "\uffff", "🎈"]),
}
# At least one field has a value; any other may be absent or null.
data = st.one_of(
    *(
        st.fixed_dictionaries(
            {given_field: VALUES[given_field]},
            optional={name: value | st.none() for name, value in VALUES.items() if name != given_field},
        )
        for given_field in FIELDS
    )
)


# Readings and bounds name their device and moment by a number: of the few that an example has, so that identities meet.
number = st.integers(0, 5)
maybe = st.none() | number
names = st.sampled_from([*FIELDS, "device_id", "timestamp"])
reading = st.tuples(number, number, data)
writes = st.one_of(
    st.tuples(st.just("many"), st.lists(reading, max_size=8)),
    st.tuples(st.just("one"), reading),
    st.tuples(st.just("delete"), st.tuples(maybe, maybe, maybe)),
    st.tuples(st.just("fold"), st.none()),
)
questions = st.tuples(
    st.tuples(maybe, maybe, maybe),
    st.none() | st.lists(names | st.just("quality"), max_size=4),
    st.none() | st.integers(0, 4) | st.just(2**70),
    st.builds(lambda sign, name: sign + name, st.sampled_from(["", "-"]), names),
)
NUMERIC = [(name, function) for name in ("temperature", "pulses") for function in FUNCTIONS]
OTHERS = [(name, function) for name in (*FIELDS, "device_id", "timestamp") for function in ("count", "first", "last")]
EXTREMES = [("timestamp", "min"), ("timestamp", "max")]
UNITS = [*LENGTHS, "day", "week", "month", "year"]
widths = st.builds(Width, st.integers(1, 4) | st.integers(1, 100), st.sampled_from(UNITS))
calculations = st.tuples(
    st.tuples(maybe, maybe, maybe),
    st.sampled_from([*NUMERIC, *OTHERS, *EXTREMES]),
    st.one_of(widths, widths, st.none()),
    st.integers(0, 3),  # which way of writing the width
    st.sampled_from(ZONES),
    st.booleans(),
    st.sampled_from([None, "null", "previous"]),
)


class Pool(NamedTuple):
    """The devices and moments of an example."""

    devices: list[str]
    moments: list[datetime]

    def device(self, number: int) -> str:
        return self.devices[number % len(self.devices)]

    def moment(self, number: int) -> datetime:
        return self.moments[number % len(self.moments)]

    def scope(self, numbers: tuple[int | None, int | None, int | None]) -> dict[str, Any]:
        device, start, end = numbers
        return {
            "device": None if device is None else self.device(device),
            "start": None if start is None else self.moment(start),
            "end": None if end is None else self.moment(end),
        }


pools = st.builds(
    lambda count, anchors, steps: Pool(
        DEVICES[:count], [anchors[index % len(anchors)] + step for index, step in enumerate(steps)]
    ),
    st.integers(1, len(DEVICES)),
    st.lists(st.sampled_from(ANCHORS), min_size=1, max_size=2),
    st.lists(steps, min_size=1, max_size=6),
)


def written(width: Width, way: int) -> str | timedelta:
    """One of the ways to write a width."""
    unit = width.unit
    short = {"month": "mo"}.get(unit, unit[0])
    spellings: list[str | timedelta] = [f"{width.count} {unit}s", f"{width.count}{short}"]
    spellings += [unit] if width.count == 1 else []
    if unit in ("day", "week"):
        spellings.append(timedelta(**{f"{unit}s": width.count}))
    elif unit in LENGTHS and (width.count * LENGTHS[unit]) % timedelta(days=1):
        spellings.append(width.count * LENGTHS[unit])
    return spellings[way % len(spellings)]


def is_narrow(width: Width | None) -> bool:
    """Whether readings lie too far apart to go through all buckets between them by brute force."""
    return width is not None and width.unit in LENGTHS and width.count * LENGTHS[width.unit] < timedelta(hours=12)


@pytest.fixture(scope="module")
def store() -> Iterator[SQLiteStorage]:
    """One store for all examples: each begins by deleting what the one before left."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        SQLiteStorage(Path(folder) / "model.db") as opened,
    ):
        yield opened


@given(
    pools, st.lists(writes, min_size=1, max_size=5), st.lists(questions, max_size=3), st.lists(calculations, max_size=4)
)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_store_and_the_helpers_answer_as_brute_force_does(
    store: SQLiteStorage, pool: Pool, calls: list[Any], asked: list[Any], calculated: list[Any]
) -> None:
    store.delete_readings(Probe)
    model = BruteForce(FIELDS, "temperature", -40, 80)
    for kind, what in calls:
        write(store, model, pool, kind, what)
    rows = model.rows()
    for numbers, fields, limit, order in asked:
        question = {**pool.scope(numbers), "fields": fields, "limit": limit, "order": order}
        expected = exactly(model.query(**question))
        assert exactly(store.query_readings(Probe, **question)) == expected
        assert exactly(select_rows(rows, Probe, **question)) == expected
        if order.endswith("timestamp"):
            assert exactly(store.iter_readings(Probe, **question)) == expected
    for numbers, (name, function), width, way, tz, by_device, fill in calculated:
        scope, fill = pool.scope(numbers), None if is_narrow(width) else fill
        result = model.aggregate(name, function, **scope, width=width, tz=tz, by_device=by_device, fill=fill)
        question = {"field": name, "function": function, **scope, "tz": tz, "fill": fill}
        question |= {"interval": width and written(width, way), "group_by": "device" if by_device else None}
        scale = sum(abs(row[name] or 0) for row in rows) if name in ("temperature", "pulses") else 0
        assert_same(store.aggregate(Probe, **question), result, scale)
        assert_same(aggregate_rows(rows, Probe, **question), result, scale)


def write(store: SQLiteStorage, model: BruteForce, pool: Pool, kind: str, what: Any) -> None:
    """One call that writes, on both; their numbers agree."""
    if kind == "fold":
        store.fold()
        return
    if kind == "delete":
        scope = pool.scope(what)
        assert store.delete_readings(Probe, **scope) == model.delete(**scope)
        return
    readings = [
        (pool.device(device), pool.moment(moment), values)
        for device, moment, values in (what if kind == "many" else [what])
    ]
    fates = [model.store(*reading) for reading in readings]
    receipt = store.store_readings(Probe, readings) if kind == "many" else store.store_reading(Probe, *readings[0])
    assert receipt is not None
    assert (receipt.accepted, receipt.duplicates) == (len(fates) - fates.count("duplicate"), fates.count("duplicate"))


def exactly(rows: Any) -> list[Any]:
    """Rows with the types of their values, and the order of their keys."""
    return [[(name, type(value), value) for name, value in as_stored(row).items()] for row in rows]


def as_stored(row: dict[str, Any]) -> dict[str, Any]:
    """What was given as an integer for a float field is a float once it is stored."""
    value = row.get("temperature")
    return row if value is None else {**row, "temperature": float(value)}


def assert_same(found: Any, expected: Any, scale: float) -> None:
    """Equal, but that sums of floats may differ by a billionth of the sum of the values' amounts."""
    if isinstance(expected, dict):
        found, expected = [found], [expected]
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine) == list(theirs)
        heads = [{key: in_utc(row[key]) for key in row if key != "result"} for row in (mine, theirs)]
        assert heads[0] == heads[1]
        a, b = mine["result"], theirs["result"]
        if isinstance(a, float):
            assert b is not None
            assert abs(a - b) <= 1e-9 * scale
        else:
            assert (type(a), a) == (type(b), b)


def in_utc(value: Any) -> Any:
    """A time in UTC: in a zone a moment of a repeated hour equals no time of another zone (PEP 495)."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value
