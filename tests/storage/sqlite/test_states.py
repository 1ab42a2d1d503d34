"""The local store against a pure model: whatever is done in whatever order, queries are exact and the books balance."""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.rows import aggregate_rows, select_rows
from tests.models import Weather

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


RESOLVED = ("delivered", "quarantined", "superseded", "skipped", "deleted")


class Upstream:
    """What one cursor is owed, and what became of the rest. `old` are rows that it passes over."""

    def __init__(self, rows: dict[tuple[str, datetime], dict[str, Any]], start: str | datetime) -> None:
        self.since = start if isinstance(start, datetime) else None
        self.pending = {} if start == "now" else {key: row for key, row in rows.items() if self.is_owed(key)}
        self.counts = dict.fromkeys(RESOLVED, 0)

    def is_owed(self, key: tuple[str, datetime]) -> bool:
        return self.since is None or key[1] >= self.since


class Store(RuleBasedStateMachine):
    """One store, its cursors, and what they should hold."""

    @initialize()
    def open_first(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(T0)
        self.rows: dict[tuple[str, datetime], dict[str, Any]] = {}
        self.counts = dict.fromkeys(("readings", "new", "merged", "duplicates"), 0)
        self.upstreams: dict[str, Upstream] = {}
        self.open()

    def open(self) -> None:
        self.store = SQLiteStorage(self.folder / "x.db", gateway_id="g", clock=self.clock, piece_rows=5)

    @rule(start=st.sampled_from(["oldest", "oldest", "now"]) | moments)
    def add_upstream(self, start: Any) -> None:
        if len(self.upstreams) < 4:
            name = f"upstream-{len(self.upstreams)}"
            self.store.add_cursor(name, start)
            self.upstreams[name] = Upstream(self.rows, start)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(rows=st.lists(readings, min_size=1, max_size=8))
    def put(self, rows: list[tuple[str, datetime, dict[str, Any]]]) -> None:
        self.store.store_readings(Weather, rows)
        for device, moment, values in rows:
            self.counts["readings"] += 1
            key = (device, moment)
            old = self.rows.get(key)
            new = {**(old or {}), **values}
            if old == new:
                self.counts["duplicates"] += 1
                continue
            self.counts["new" if old is None else "merged"] += 1
            self.rows[key] = new
            for upstream in self.upstreams.values():
                if upstream.is_owed(key):
                    upstream.counts["superseded"] += key in upstream.pending
                    upstream.pending[key] = new

    @rule(device=st.none() | devices, span=spans)
    def delete(self, device: str | None, span: tuple[datetime | None, datetime | None]) -> None:
        gone = [key for key in self.rows if self.is_in(key, device, *span)]
        assert self.store.delete_readings(Weather, device, *span) == len(gone)
        for key in gone:
            del self.rows[key]
            for upstream in self.upstreams.values():
                upstream.counts["deleted"] += upstream.pending.pop(key, None) is not None

    @staticmethod
    def is_in(key: tuple[str, datetime], device: str | None, start: datetime | None, end: datetime | None) -> bool:
        return (
            (device is None or key[0] == device)
            and (start is None or key[1] >= start)
            and (end is None or key[1] < end)
        )

    @rule()
    def fold(self) -> None:
        self.store.fold()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()

    @rule(limit=st.integers(1, 20), refused=st.integers(0, 3), which=st.integers(0, 3))
    def send(self, limit: int, refused: int, which: int) -> None:
        if which >= len(self.upstreams):
            return
        name, upstream = list(self.upstreams.items())[which]
        self.store.flush()
        window = self.store.pending(name, limit)
        while window is not None and not window.rows:  # rows from before its start
            assert upstream.since is not None
            self.store.acknowledge(name, window)
            window = self.store.pending(name, limit)
        assert (window is None) == (not upstream.pending)
        if window is None:
            return
        for row in window.rows:
            version = row.version(1)
            assert upstream.pending.pop((version.device, version.timestamp)) == dict(version.data)
        self.store.quarantine(name, window.rows[:refused], "refused")
        self.store.acknowledge(name, window)
        upstream.counts["quarantined"] += len(window.rows[:refused])
        upstream.counts["delivered"] += len(window.rows[refused:])

    def all_rows(self) -> list[dict[str, Any]]:
        nothing = dict.fromkeys(FIELDS)
        return [
            {"device_id": device, "timestamp": moment, **nothing, **values}
            for (device, moment), values in self.rows.items()
        ]

    @rule(
        device=st.none() | devices,
        span=spans,
        order=st.sampled_from(["timestamp", "-timestamp", "humidity", "-note", "device_id", "-count"]),
        limit=st.none() | st.integers(0, 12),
    )
    def query(
        self, device: str | None, span: tuple[datetime | None, datetime | None], order: str, limit: int | None
    ) -> None:
        question: dict[str, Any] = {"device": device, "start": span[0], "end": span[1], "order": order, "limit": limit}
        expected = select_rows(self.all_rows(), Weather, **question)
        assert self.store.query_readings(Weather, **question) == expected
        with SQLiteStorage(self.folder / "x.db", read_only=True) as reader:
            assert reader.query_readings(Weather, **question) == expected

    @rule(
        field=st.sampled_from(["temperature", "humidity", "count", "timestamp"]),
        function=st.sampled_from(["avg", "min", "max", "sum", "count", "first", "last"]),
        device=st.none() | devices,
        span=spans,
        interval=st.sampled_from([None, "1h", "30m", "90m", "2h", "1d", "1w", "1mo"]),
        zone=st.sampled_from(["UTC", "Europe/Zurich", "Asia/Kathmandu"]),
        group_by=st.sampled_from([None, "device"]),
    )
    def aggregate(self, field: str, function: Any, **question: Any) -> None:
        if field == "timestamp" and function in ("avg", "sum"):
            return
        question["start"], question["end"] = question.pop("span")
        question["tz"] = question.pop("zone")
        expected = aggregate_rows(self.all_rows(), Weather, field, function, **question)
        assert self.store.aggregate(Weather, field, function, **question) == expected
        with SQLiteStorage(self.folder / "x.db", read_only=True) as reader:
            assert reader.aggregate(Weather, field, function, **question) == expected

    @rule(field=st.sampled_from(["raining", "note", "device_id"]), function=st.sampled_from(["count", "first", "last"]))
    def aggregate_what_is_no_number(self, field: str, function: Any) -> None:
        expected = aggregate_rows(self.all_rows(), Weather, field, function, interval="1d")
        assert self.store.aggregate(Weather, field, function, interval="1d") == expected

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "store"):
            return
        ledger = self.store.ledger()
        assert ledger.problems == []
        books = ledger.sources.get("direct", dict.fromkeys(self.counts, 0))
        assert {name: books[name] for name in self.counts} == self.counts
        for name, upstream in self.upstreams.items():
            found = ledger.upstreams[name]
            assert found["pending"] == self.store.count_pending(name)
            if upstream.since is None:
                assert {column: found[column] for column in RESOLVED} == upstream.counts
                assert found["pending"] == len(upstream.pending)
            else:  # what it passes over is pending, then skipped; merged and deleted on the way it counts there
                assert found["delivered"] == upstream.counts["delivered"]
                assert found["quarantined"] == upstream.counts["quarantined"]
                assert found["pending"] >= len(upstream.pending)

    @invariant()
    def devices_are_known(self) -> None:
        if hasattr(self, "store"):
            seen: dict[str, list[datetime]] = {}
            for device, moment in self.rows:
                seen.setdefault(device, []).append(moment)
            assert {d.device_id: (d.first_seen, d.last_seen) for d in self.store.devices()} == {
                device: (min(times), max(times)) for device, times in seen.items()
            }


TestStore = Store.TestCase

TestStore.settings = settings(max_examples=60, stateful_step_count=40)
