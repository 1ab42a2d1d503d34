"""The local store against a pure model: whatever is done in whatever order, queries are exact and the books balance."""

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgedepot import SQLiteStorage
from edgedepot.storage.base import EVERYTHING, Choice
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.rows import aggregate_rows, select_rows
from tests.models import Weather
from tests.storage.sqlite.crashing import Deed, work_until_killed
from tests.storage.sqlite.states import (
    CHOICES,
    FIELDS,
    LANES,
    MICROSECOND,
    RESOLVED,
    T0,
    Key,
    Values,
    data,
    deeds,
    devices,
    is_in,
    moments,
    readings,
    spans,
    without_nulls,
)


class Upstream:
    """What one cursor is owed, and what became of the rest. `skips` says that it passes over some rows; rows carry the
    number of their arrival."""

    def __init__(self, rows: dict[Key, tuple[int, Values]], start: str | datetime, choice: Choice) -> None:
        self.since = start if isinstance(start, datetime) else None
        self.choice = choice
        self.skips = self.since is not None or choice != EVERYTHING
        self.pending = {} if start == "now" else {key: row for key, row in rows.items() if self.is_owed(key)}
        self.walks = bool(self.pending)
        self.quarantined: dict[Key, list[tuple[int, Values]]] = {}
        self.replayed: dict[Key, tuple[int, Values]] = {}
        self.split: int | None = None
        self.counts = dict.fromkeys(RESOLVED, 0)

    def is_owed(self, key: Key) -> bool:
        return (self.since is None or key[1] >= self.since) and self.choice.takes("weather", key[0])

    def written(self, key: Key, old: int | None, row: tuple[int, Values]) -> None:
        if key in self.replayed and self.replayed[key][0] == old:
            del self.replayed[key]
            self.counts["superseded"] += 1
        if self.is_owed(key):
            self.counts["superseded"] += key in self.pending
            self.pending[key] = row


class Store(RuleBasedStateMachine):
    """One store, its cursors, and what they should hold."""

    @initialize()
    def open_first(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(T0)
        self.rows: dict[Key, tuple[int, Values]] = {}
        self.arrivals = 0
        self.stamps: dict[str, datetime] = {}  # each device's last stamp by the gateway, since the clock was set
        self.held: set[int] = set()  # arrivals that came before the clock was trusted
        self.moving: dict[Key, timedelta] = {}  # those of them that the gateway stamped, and what the clock moved since
        self.counts = dict.fromkeys(("readings", "new", "merged", "duplicates"), 0)
        self.upstreams: dict[str, Upstream] = {}
        self.open()

    def open(self) -> None:
        self.store = SQLiteStorage(self.folder / "x.db", gateway_id="g", clock=self.clock, piece_rows=5)

    @rule(
        start=st.sampled_from(["oldest", "oldest", "now"]) | moments,
        choice=st.sampled_from(CHOICES),
        n=st.integers(0, 3),
    )
    def add_upstream(self, start: Any, choice: Choice, n: int) -> None:
        name = f"upstream-{n}"
        if name not in self.upstreams:
            self.store.add_cursor(name, start, choice)
            self.upstreams[name] = Upstream(self.rows, start, choice)

    @rule(which=st.integers(0, 3))
    def remove_upstream(self, which: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is not None:
            pending = self.store.remove_cursor(name)
            assert pending == len(upstream.pending) + len(upstream.replayed) or upstream.skips
            del self.upstreams[name]

    def upstream(self, which: int) -> tuple[str, Upstream | None]:
        return list(self.upstreams.items())[which] if which < len(self.upstreams) else ("", None)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(rows=st.lists(readings, min_size=1, max_size=8))
    def put(self, rows: list[tuple[str, datetime, dict[str, Any]]]) -> None:
        self.store.store_readings(Weather, rows)
        self.arrive_together(rows)

    def arrive_together(self, rows: list[tuple[str, datetime, Values]]) -> None:
        for device, moment, values in rows:
            self.counts["readings"] += 1
            if (device, moment) in self.moving:
                self.move([((device, moment), self.free(device, moment))])
            self.arrive((device, moment), values)

    def arrive(self, key: Key, values: Values) -> None:
        number, old = self.rows.get(key, (None, None))
        new = {**(old or {}), **values}
        if old == new:
            self.counts["duplicates"] += 1
            return
        self.counts["new" if old is None else "merged"] += 1
        self.arrivals += 1
        self.rows[key] = (self.arrivals, new)
        self.held -= {number}
        if not self.clock.trusted:
            self.held.add(self.arrivals)
        for upstream in self.upstreams.values():
            upstream.written(key, number, self.rows[key])

    def free(self, device: str, moment: datetime) -> datetime:
        while (device, moment) in self.rows:
            moment += MICROSECOND
        return moment

    def move(self, keys: list[tuple[Key, datetime]]) -> None:
        """Held rows get other times."""
        pending = [upstream.pending for upstream in self.upstreams.values()]
        tables: list[dict[Key, Any]] = [self.rows, self.moving, *pending]
        for table in tables:
            found = [(key[0], moment, table.pop(key)) for key, moment in keys if key in table]
            table.update({(device, moment): row for device, moment, row in found})

    @rule(device=devices, values=data)
    def put_stamped(self, device: str, values: Values) -> None:
        self.store.store_reading(Weather, device, None, values)
        moment = from_micros(self.clock.now())
        if device in self.stamps:
            moment = max(moment, self.stamps[device] + MICROSECOND)
        moment = self.stamps[device] = self.free(device, moment)
        self.counts["readings"] += 1
        self.arrive((device, moment), values)
        if not self.clock.trusted:
            self.moving[device, moment] = timedelta(0)

    @rule(seconds=st.sampled_from([1, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-7200, -2, 2, 1800, 40 * 86_400]), trust=st.booleans())
    def set_clock(self, seconds: int, trust: bool) -> None:
        self.store.flush()
        self.clock.step(seconds)
        released = trust and not self.clock.trusted
        self.clock.trusted = self.clock.trusted or trust
        self.store.flush()
        self.stamps.clear()
        self.moving = {key: moved + timedelta(seconds=seconds) for key, moved in self.moving.items()}
        if released:
            self.release()

    def release(self) -> None:
        """What is held is put right: stamps move with the clock, and on where a reading is in the way."""
        fixed = set(self.rows) - set(self.moving)
        last: dict[str, datetime] = {}
        moves = []
        for key in sorted(self.moving, key=lambda key: (key[1] + self.moving[key], self.rows[key][0])):
            moment = max(key[1] + self.moving[key], last.get(key[0], datetime.min.replace(tzinfo=UTC)) + MICROSECOND)
            while (key[0], moment) in fixed:
                moment += MICROSECOND
            last[key[0]] = moment
            moves.append((key, moment))
        self.move(moves)
        self.moving.clear()
        self.held.clear()

    @precondition(lambda self: not self.held)
    @rule(moment=st.sampled_from([T0 - timedelta(days=100), T0, T0 + timedelta(hours=1)]))
    def reboot_without_a_clock(self, moment: datetime) -> None:
        self.store.close()
        self.clock.reboot(moment)
        self.reopened()

    @rule(device=st.none() | devices, span=spans)
    def delete(self, device: str | None, span: tuple[datetime | None, datetime | None]) -> None:
        gone = [key for key in self.rows if is_in(key, device, *span)]
        assert self.store.delete_readings(Weather, device, *span) == len(gone)
        self.forget(gone)

    def forget(self, gone: list[Key]) -> None:
        for key in gone:
            del self.rows[key]
            self.moving.pop(key, None)
            for upstream in self.upstreams.values():
                upstream.counts["deleted"] += upstream.pending.pop(key, None) is not None

    @precondition(lambda self: self.clock.trusted)
    @rule(deeds=st.lists(deeds, min_size=1, max_size=4), done=st.integers(0, 4))
    def crash(self, deeds: list[Deed], done: int) -> None:
        """Another process does things and is killed: what it said is done is done, and the next thing is, or is not."""
        self.store.close()
        said = work_until_killed(self.folder / "x.db", from_micros(self.clock.now()), deeds, min(done, len(deeds)))
        self.reopened()
        for deed in deeds[:said]:
            self.do(deed)
        if not self.is_as_it_should_be() and said < len(deeds):
            self.do(deeds[said])
        assert self.is_as_it_should_be()

    def do(self, deed: Deed) -> None:
        """What a deed comes to."""
        if deed[0] == "put":
            self.arrive_together(deed[1])
        elif deed[0] == "delete":
            self.forget([key for key in self.rows if is_in(key, *deed[1:])])

    def is_as_it_should_be(self) -> bool:
        books = self.store.ledger().sources.get("direct", dict.fromkeys(self.counts, 0))
        rows = self.store.query_readings(Weather)
        found = {(row.pop("device_id"), row.pop("timestamp")): without_nulls(row) for row in rows}
        counts = {name: books[name] for name in self.counts}
        return counts == self.counts and found == {key: values for key, (_, values) in self.rows.items()}

    @rule()
    def fold(self) -> None:
        self.store.fold()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.reopened()

    def reopened(self) -> None:
        self.stamps.clear()
        self.open()
        for name, upstream in self.upstreams.items():
            self.store.add_cursor(name, "oldest", upstream.choice)
            upstream.split = None  # it goes on where it was, which the model does not know

    @rule(limit=st.integers(1, 20), refused=st.integers(0, 3), which=st.integers(0, 3), lane=st.sampled_from(LANES))
    def send(self, limit: int, refused: int, which: int, lane: Any) -> None:
        name, upstream = self.upstream(which)
        if upstream is None:
            return
        self.store.flush()
        window = self.store.pending(name, limit, lane)
        while window is not None and not window.rows:
            self.store.acknowledge(name, window)
            window = self.store.pending(name, limit, lane)
        if window is None:
            if all(self.store.pending(name, limit, other) is None for other in LANES):
                assert not upstream.replayed
                assert all(number in self.held for number, _ in upstream.pending.values())
            return
        rows = upstream.replayed if window.replayed else upstream.pending
        arrived = []
        for row in window.rows:
            version = row.version(1)
            number, values = rows.pop((version.device, version.timestamp))
            assert values == dict(version.data)
            assert number not in self.held
            arrived.append(number)
            if len(arrived) <= refused:
                upstream.quarantined.setdefault((version.device, version.timestamp), []).append((number, values))
        if window.low:
            assert arrived == sorted(arrived)
            assert lane == "live" or all(arrived[-1] < number for number, _ in upstream.pending.values())
        if upstream.split is not None and window.low:
            if lane == "live" or arrived[0] > upstream.split:  # a backlog that is done is no lane any more
                assert all(number > upstream.split for number in arrived)
                assert lane == "live" or all(number > upstream.split for number, _ in upstream.pending.values())
            else:
                assert arrived[-1] <= upstream.split
        assert lane == "backlog" or window.low
        self.store.quarantine(name, window.rows[:refused], "refused")
        self.store.acknowledge(name, window)
        upstream.counts["quarantined"] += len(window.rows[:refused])
        upstream.counts["delivered"] += len(window.rows[refused:])

    @rule(which=st.integers(0, 3))
    def split(self, which: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is not None:
            self.store.flush()
            assert self.store.waiting(name, "backlog") + self.store.waiting(name, "live") >= 0
            self.store.split(name)
            upstream.split = self.arrivals
            assert self.store.waiting(name, "live") == 0

    @rule(which=st.integers(0, 3), device=st.none() | devices, again=st.booleans())
    def settle_quarantined(self, which: int, device: str | None, again: bool) -> None:
        """Have quarantined rows sent once more, or drop them."""
        name, upstream = self.upstream(which)
        if upstream is None:
            return
        chosen = [key for key in upstream.quarantined if device is None or key[0] == device]
        rows = [(key, row) for key in chosen for row in upstream.quarantined.pop(key)]
        upstream.counts["quarantined"] -= len(rows)
        if not again:
            upstream.counts["deleted"] += len(rows)
            assert self.store.drop_quarantined(name, device=device) == len(rows)
            return
        current = [(key, row) for key, row in rows if self.rows.get(key, (0, {}))[0] <= row[0]]
        upstream.counts["superseded"] += len(rows) - len(current)
        replayed = self.store.replay_quarantined(name, "weather", device, reason="ref")
        assert replayed == len(current)
        upstream.replayed |= dict(current)

    @invariant()
    def quarantined_rows_are_kept(self) -> None:
        for name, upstream in getattr(self, "upstreams", {}).items():
            kept = [row for row in self.store.quarantined(name) if not row["replayed"]]
            expected = [(*key, values) for key, rows in upstream.quarantined.items() for _, values in rows]
            found = [(row["device_id"], row["timestamp"], without_nulls(row["data"])) for row in kept]
            assert sorted(found, key=repr) == sorted(expected, key=repr)

    def all_rows(self) -> list[dict[str, Any]]:
        nothing = dict.fromkeys(FIELDS)
        return [
            {"device_id": device, "timestamp": moment, **nothing, **values}
            for (device, moment), (_, values) in self.rows.items()
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
            assert found["pending"] + found["held"] == self.store.count_pending(name)
            held = sum(number in self.held for number, _ in upstream.pending.values())
            assert found["held"] == held or upstream.skips
            found["pending"] += found["held"]
            if not upstream.skips:
                assert {column: found[column] for column in RESOLVED} == upstream.counts
                assert found["pending"] == len(upstream.pending) + len(upstream.replayed)
            else:  # what it passes over is pending, then skipped; merged and deleted on the way it counts there
                assert found["delivered"] == upstream.counts["delivered"]
                assert found["quarantined"] == upstream.counts["quarantined"]
                assert found["pending"] >= len(upstream.pending) + len(upstream.replayed)

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

TestStore.settings = settings(max_examples=int(os.environ.get("STATES", "60")), stateful_step_count=40)
