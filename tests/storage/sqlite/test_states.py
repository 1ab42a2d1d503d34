"""The local store against a pure model: whatever is done in whatever order, queries are exact and the books balance."""

import os
import shutil
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgedepot import SQLiteStorage
from edgedepot.storage.buffer import Choice, Ledger, Start, Window
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.rows import aggregate_rows, select_rows
from edgedepot.storage.sqlite.checkpoint import log_bytes
from edgedepot.storage.sqlite.log_length import SHORTEN_SECONDS
from edgedepot.storage.values import Quality
from tests.models import Weather
from tests.storage.sqlite.crashing import Deed, Offsets, State, intake, known_offsets, stamp, work_until_killed
from tests.storage.sqlite.foreign import Foreign
from tests.storage.sqlite.held_model import DAY, FIRST, HeldRows, boot_time
from tests.storage.sqlite.room_model import File
from tests.storage.sqlite.states import (
    BOOTS,
    DURABILITIES,
    FOREVER,
    IN_MEMORY,
    LANES,
    MICROSECOND,
    MODELS,
    NO_NUMBERS,
    NUMBERS,
    POLICIES,
    RESOLVED,
    SLEWED,
    T0,
    Key,
    Model,
    Row,
    Scope,
    Series,
    Span,
    Values,
    after_the_last,
    batches,
    choices,
    deeds_with_clocks,
    devices,
    is_in,
    is_of,
    key_of,
    models,
    next_window,
    orders,
    quarantined,
    queried,
    readings,
    rows_of,
    scopes,
    spans,
    stamped,
    starts,
    times_seen,
    unchecked,
)
from tests.storage.sqlite.upstream_model import Rows, Upstream

LONGEST = 4 * 30 * 4096
"""A log that is longer than that is too long, in a store of 1 MB."""
TIME_FLAGS = int(Quality.TIME_REPLACED | Quality.TIME_UNCERTAIN)
Stamped = tuple[Model, str, Values]
Unchecked = tuple[Model, str, datetime, Values]
# With little room a store has a log that becomes too long in no time. It is not reached here.
ROOM = st.sampled_from([None, "1 MB"])
options = st.fixed_dictionaries({"uncertain_times": POLICIES, "durability": DURABILITIES, "keep_bytes": ROOM})


class Store(RuleBasedStateMachine):
    """One store, its cursors, and what they should hold."""

    @initialize(durability=DURABILITIES, room=ROOM, upstreams=st.lists(st.tuples(starts, choices), max_size=3))
    def open_first(self, durability: str, room: str | None, upstreams: list[tuple[Start, Choice]]) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=IN_MEMORY))
        self.path = self.folder / "x.db"
        self.clock = ManualClock(T0)
        self.rows: dict[Key, tuple[int, Values]] = {}
        self.arrivals = 0
        self.stamps: dict[Series, datetime] = {}  # each device's last stamp by this process, since the clock was set
        self.own: dict[Series, datetime] = {}  # by whichever process
        self.own_boot, self.own_began = self.clock.boot, boot_time(self.clock)
        self.numbers: dict[int, int] = {}  # what numbers the file has given those that arrived
        self.held = HeldRows()
        self.options: dict[str, Any] = {"uncertain_times": "release", "durability": durability, "keep_bytes": room}
        self.foreign: Foreign | None = None
        self.counts = dict.fromkeys(("readings", "new", "merged", "duplicates"), 0)
        self.upstreams: dict[str, Upstream] = {}
        self.open()
        self.settle()
        for number, (start, choice) in enumerate(upstreams):
            self.add_upstream(start, choice, number)

    def open(self) -> None:
        self.restarted()
        settings: dict[str, Any] = {"fold_interval": FOREVER, **self.options}
        self.store = SQLiteStorage(self.path, gateway_id="g", clock=self.clock, piece_rows=5, **settings)

    def restarted(self) -> None:
        """Another process has the store."""
        self.stamps.clear()
        self.held.restarted()

    @property
    def estimates(self) -> bool:
        """What becomes of boots that ended before they knew the time."""
        return bool(self.options["uncertain_times"] == "release")

    @rule(start=starts, choice=choices, n=st.integers(0, 3))
    def add_upstream(self, start: Start, choice: Choice, n: int) -> None:
        name = f"upstream-{n}"
        if name not in self.upstreams:
            self.store.add_cursor(name, start, choice)
            there = self.learn().journal
            journal = {key: row for key, row in self.rows.items() if self.numbers[row[0]] in there}
            history = {key: row for key, row in self.rows.items() if key not in journal}
            self.upstreams[name] = Upstream(start, choice, journal, history)

    @rule(start=starts, choice=choices, n=st.integers(0, 3))
    def add_late_upstream(self, start: Start, choice: Choice, n: int) -> None:
        """The others get what there is, so that history alone has it; then one comes."""
        for name, upstream in self.upstreams.items():
            for lane in LANES:
                while self.store.pending(name, 20, lane) is not None:
                    self.send_one(name, upstream, 20, 0, lane)
        for _ in range(2):  # the first ends the piece, the second drops it
            self.store.fold()
        self.add_upstream(start, choice, n)

    @rule(which=st.integers(0, 3))
    def remove_upstream(self, which: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is not None:
            assert self.store.remove_cursor(name) == upstream.left
            del self.upstreams[name]

    def upstream(self, which: int) -> tuple[str, Upstream | None]:
        return list(self.upstreams.items())[which % len(self.upstreams)] if self.upstreams else ("", None)

    def teardown(self) -> None:
        self.store.close()
        self.foreign_ends()
        shutil.rmtree(self.folder)

    @rule(what=st.sampled_from(["begins", "begins", "looks", "ends", "stays"]), reading=readings)
    def foreign_reads(self, what: str, reading: Row) -> None:
        """Another program is in the middle of a read, maybe until the store goes on in a copy of its file."""
        if what == "begins" and self.foreign is not None and not self.foreign.is_at(self.path):
            self.foreign_ends()
        self.foreign = self.foreign or Foreign(self.path)
        self.foreign.check()
        if what == "ends":
            self.foreign_ends()
        elif what == "stays" and self.options["keep_bytes"] is not None and self.foreign.is_at(self.path):
            self.outgrow(Weather, [reading])

    def foreign_ends(self) -> None:
        if self.foreign is not None:
            self.foreign.end()
            self.foreign = None

    def outgrow(self, *batch: Any) -> None:
        file = self.path.stat()
        while log_bytes(self.path) <= max(LONGEST, self.size()) + LONGEST // 4:
            self.put(batch)
            self.store.flush()
        self.clock.advance(SHORTEN_SECONDS + 1)
        self.put(batch)
        self.store.flush()
        until = time.monotonic() + 60
        while os.path.samestat(file, self.path.stat()):
            assert time.monotonic() < until, "it does not go on in a copy"
            self.store.flush()  # the clock stands still, so that an example can be run again

    def size(self) -> int:
        """Of the file, with all that is in the log."""
        with self.store._readers.lend() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        return 4096 * int(pages)

    def learn(self) -> File:
        """The numbers of what came in since."""
        self.store.flush()
        file = File(self.path, max(self.numbers.values(), default=0))
        new = sorted({seq for found in file.new.values() for seq, _ in found})
        came = sorted(number for number, _ in self.rows.values() if number not in self.numbers)
        self.numbers |= zip(came, new, strict=True)
        return file

    @rule(batch=batches)
    def put(self, batch: tuple[Model, list[Row]]) -> None:
        self.store.store_readings(*batch)
        self.arrive_together(*batch)

    def arrive_together(self, model: Model, rows: list[Row]) -> None:
        for device, moment, values in rows:
            self.counts["readings"] += 1
            self.arrive(key_of(model, device, moment), values)

    def arrive(self, key: Key, values: Values, stamp: bool = False, came: datetime | None = None) -> None:
        number, old = self.rows.get(key, (None, None))
        if number is not None and self.held.gives_way(number):
            self.move([(key, self.free(*key))])
            number, old = None, None
        new = {**(old or {}), **values}
        if old == new:
            self.counts["duplicates"] += 1
            return
        self.counts["new" if old is None else "merged"] += 1
        self.arrivals += 1
        self.rows[key] = (self.arrivals, new)
        if number is not None:
            self.held.merge(number, self.arrivals)
        self.held.arrive(self.arrivals, self.clock, stamp, came)
        for upstream in self.upstreams.values():
            upstream.written(key, number, self.rows[key])

    def free(self, series: Series, moment: datetime) -> datetime:
        while (series, moment) in self.rows:
            moment += MICROSECOND
        return moment

    def move(self, keys: list[tuple[Key, datetime]]) -> None:
        """Held rows get other times."""
        pending = [upstream.pending for upstream in self.upstreams.values()]
        tables: list[dict[Key, Any]] = [self.rows, *pending]
        for table in tables:
            found = [(key[0], moment, table.pop(key)) for key, moment in keys if key in table]
            table.update({(device, moment): row for device, moment, row in found})

    @rule(reading=stamped)
    def put_stamped(self, reading: Stamped) -> None:
        stamp(self.store, *reading)
        self.arrive_stamped(reading, from_micros(self.clock.now()))

    def arrive_stamped(self, reading: Stamped, moment: datetime) -> None:
        model, device, values = reading
        series = Series(model.__measurement__, device)
        moment = self.stamps[series] = self.free(series, after_the_last(self.stamps, self.rows, series, moment))
        self.check_stamp(series, moment)
        self.counts["readings"] += 1
        self.arrive((series, moment), values, stamp=True)

    def check_stamp(self, series: Series, moment: datetime) -> None:
        """Stamps increase strictly for as long as the clock is not set, also across restarts. What waited to be written
        while it was set, and what came right behind that, has stamps by the clock as it was before."""
        boot, began = self.clock.boot, boot_time(self.clock)
        if boot != self.own_boot or abs(began - self.own_began) > SLEWED:
            self.own_boot, self.own_began = boot, began
            self.own.clear()
        if abs(moment - from_micros(self.clock.now())) <= SLEWED:
            last = self.own.get(series)
            assert last is None or moment > last or (series, last) not in self.rows
            self.own[series] = moment

    @rule(rows=st.lists(unchecked, min_size=1, max_size=5))
    def take_in(self, rows: list[Unchecked]) -> None:
        """What devices say that have clocks of their own, before anybody knows whether these are right."""
        self.store.take_in(intake(rows, self.clock))
        self.arrive_unchecked(rows, from_micros(self.clock.now()))

    def arrive_unchecked(self, rows: list[Unchecked], came: datetime) -> None:
        self.counts["readings"] += len(rows)
        for model, device, moment, values in rows:
            self.arrive(key_of(model, device, moment), values, came=came)

    @rule(seconds=st.sampled_from([1, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(
        seconds=st.sampled_from([-7200, -2, -0.4, -0.4, 2, 1800, 40 * 86_400]),
        trust=st.booleans(),
        queued=st.lists(unchecked, max_size=2),
        reading=st.none() | stamped,
    )
    def set_clock(self, seconds: float, trust: bool, queued: list[Unchecked], reading: Stamped | None) -> None:
        """The clock is set, and maybe trusted from now on, while readings wait in the queue."""
        self.store.flush()
        was_trusted = self.clock.trusted
        if reading is not None:
            stamp(self.store, *reading)
        self.store.take_in(intake(queued, self.clock))
        before = from_micros(self.clock.now())
        self.step(seconds, trust)
        came = self.held.put_right(before, self.settle(), self.clock)
        if reading is not None:
            self.arrive_stamped(reading, came)
        if self.clock.trusted and not was_trusted:
            self.arrive_checked(queued, came)
        else:
            self.arrive_unchecked(queued, came)

    def arrive_checked(self, rows: list[Unchecked], came: datetime) -> None:
        """What was taken in before the clock was trusted, and is written after."""
        for model, device, moment, values in rows:
            if FIRST <= moment <= came + DAY:
                self.arrive_together(model, [(device, moment, values)])
            else:
                self.arrive_stamped((model, device, values), came)
                self.held.flags[self.arrivals] = int(Quality.TIME_REPLACED)

    def settle(self) -> timedelta | None:
        """The store does what is to be done about its clock; by how much that was set."""
        self.store.flush()
        return self.clock_was_seen(known_offsets(self.store), self.estimates)

    def clock_was_seen(self, offsets: Offsets, estimate: bool) -> timedelta | None:
        moved = self.held.look(self.clock)
        if moved is not None:
            self.stamps.clear()
        due = self.held.due(self.clock, estimate)
        if due:
            self.stamps.clear()
            self.own.clear()
            numbers = {key: number for key, (number, _) in self.rows.items()}
            self.move(self.held.release(due, offsets, numbers, self.clock))
        return moved

    @rule()
    def release_held(self) -> None:
        self.store.release_held()
        if self.held.due(self.clock, estimate=True):
            self.clock_was_seen(known_offsets(self.store), estimate=True)

    @rule(
        moment=BOOTS,
        trusted=st.booleans(),
        options=options,
        readings=st.lists(stamped, max_size=4),
        slew=st.sampled_from([0.0, -0.4]),
    )
    def reboot(
        self, moment: datetime, trusted: bool, options: dict[str, Any], readings: list[Stamped], slew: float
    ) -> None:
        self.store.close()
        self.reboot_at(moment)
        self.clock.trusted = trusted
        self.reopened(options)
        for reading in readings:
            self.put_stamped(reading)
            self.store.flush()
            self.step(slew, trust=False)
            self.settle()

    def reboot_at(self, moment: datetime | None) -> None:
        if moment is not None:
            self.clock.reboot(moment)

    @rule(scope=scopes)
    def delete(self, scope: Scope) -> None:
        gone = [key for key in self.rows if is_in(key, *scope)]
        assert self.store.delete_readings(*scope) == len(gone)
        self.forget(gone)

    def forget(self, gone: list[Key]) -> None:
        for key in gone:
            number, _ = self.rows.pop(key)
            self.held.rows.pop(number, None)
            for upstream in self.upstreams.values():
                refused = upstream.quarantined.pop(key, [])
                older = [row for row in refused if row[0] < number]
                upstream.counts["quarantined"] -= len(older)
                upstream.counts["superseded"] += len(older)
                if len(older) < len(refused):
                    upstream.quarantined[key] = [row for row in refused if row[0] >= number]
                upstream.out_of_the_way(key, "deleted")

    @rule(
        deeds=st.lists(deeds_with_clocks, min_size=1, max_size=4),
        done=st.integers(0, 4),
        options=options,
        reboots_at=st.none() | st.none() | BOOTS,
    )
    def crash(self, deeds: list[Deed], done: int, options: dict[str, Any], reboots_at: datetime | None) -> None:
        """Another process does things and is killed: what it said is done is done, and the next thing is, or is not.
        The machine may go down with it."""
        self.store.close()
        self.options = options
        state = State.of(self.path, self.clock, fold_interval=FOREVER, **options)
        said, offsets = work_until_killed(state, deeds, min(done, len(deeds)))
        self.restarted()
        self.clock_was_seen(offsets, self.estimates)
        for deed in deeds[:said]:
            self.do(deed, offsets)
        doubtful = deeds[said] if said < len(deeds) else ("nothing",)
        if doubtful[0] == "set":  # to the next process it makes no difference whether the one before saw it
            self.step(*doubtful[1:])
        else:
            self.do_where_done(doubtful)
            self.reboot_at(reboots_at)
        if doubtful[0] == "fold":
            self.finish_fold()
        self.reopened(options)
        assert self.is_as_it_should_be(self.store)

    def do(self, deed: Deed, offsets: Offsets) -> None:
        """What a deed comes to."""
        what, *details = deed
        if what == "put":
            self.arrive_together(*details[0])
        elif what == "delete":
            self.forget([key for key in self.rows if is_in(key, *details[0])])
        elif what == "stamp":
            self.arrive_stamped(details[0], from_micros(self.clock.now()))
        elif what == "take in":
            self.arrive_unchecked(details[0], from_micros(self.clock.now()))
        elif what == "set":
            self.step(*details)
            self.clock_was_seen(offsets, self.estimates)

    def step(self, seconds: float, trust: bool) -> None:
        self.clock.step(seconds)
        self.clock.trusted = self.clock.trusted or trust

    def do_where_done(self, doubtful: Deed) -> None:
        with SQLiteStorage(self.path, read_only=True) as reader:
            if not self.is_as_it_should_be(reader):
                self.do(doubtful, {})
            assert self.is_as_it_should_be(reader)

    def finish_fold(self) -> None:
        """Before anything is released, for that and the fold behind it take away what says by how much."""
        if self.clock.trusted:
            self.options = {**self.options, "uncertain_times": "hold"}
            self.open()
            self.store.fold()
            self.settle()
            self.store.close()

    def is_as_it_should_be(self, store: SQLiteStorage) -> bool:
        expected = {key: values for key, (_, values) in self.rows.items()}
        return self.counted(store.ledger()) == self.counts and queried(store) == expected

    def counted(self, ledger: Ledger) -> dict[str, int]:
        return {name: sum(books[name] for books in ledger.sources.values()) for name in self.counts}

    @rule()
    def fold(self) -> None:
        self.store.fold()

    @rule(options=options)
    def reopen(self, options: dict[str, Any]) -> None:
        self.store.close()
        self.reopened(options)

    def reopened(self, options: dict[str, Any]) -> None:
        self.options = options
        self.open()
        self.settle()
        for name, upstream in self.upstreams.items():
            self.store.add_cursor(name, "oldest", upstream.choice)
            upstream.split = None  # it goes on where it was, which the model does not know

    @rule(
        limit=st.sampled_from([2, 5, 20]),
        refused=st.integers(0, 3),
        which=st.integers(0, 3),
        lane=st.sampled_from([*LANES, "backlog"]),
        times=st.integers(1, 5),
        batch=st.none() | batches,
    )
    def send(
        self, limit: int, refused: int, which: int, lane: Any, times: int, batch: tuple[Model, list[Row]] | None
    ) -> None:
        """Some windows go out, and are acknowledged but for a few rows."""
        name, upstream = self.upstream(which)
        if batch is not None:
            self.put(batch)
        if upstream is not None:
            for _ in range(times):
                self.send_one(name, upstream, limit, refused, lane)

    def send_one(self, name: str, upstream: Upstream, limit: int, refused: int, lane: Any) -> None:
        file = self.learn()
        window = next_window(self.store, name, limit, lane)
        while window is not None and not window.rows:
            assert not upstream.passed(self.passed_by(window, upstream, file))
            self.store.acknowledge(name, window)
            window = next_window(self.store, name, limit, lane)
        if window is None:
            if all(self.store.pending(name, limit, other) is None for other in LANES):
                assert not upstream.replayed
                assert not upstream.walk
                assert all(number in self.held.rows for number, _ in upstream.pending.values())
            return
        arrived = self.received(window, upstream, file)
        self.check_order(window, [number for number, _ in arrived.values()], upstream, lane)
        for key, row in list(arrived.items())[:refused]:
            upstream.quarantined.setdefault(key, []).append(row)
        self.store.quarantine(name, window.rows[:refused], "refused")
        self.store.acknowledge(name, window)
        upstream.counts["quarantined"] += len(window.rows[:refused])
        upstream.counts["delivered"] += len(window.rows[refused:])

    def passed_by(self, window: Window, upstream: Upstream, file: File) -> list[Key]:
        """What lies in a window's stretch."""
        if window.place is not None:
            return [key for key in upstream.walk if file.place(key) <= window.place]
        numbers = {key: self.numbers[number] for key, (number, _) in upstream.pending.items()}
        return [key for key, number in numbers.items() if window.low <= number <= window.high]

    def received(self, window: Window, upstream: Upstream, file: File) -> Rows:
        """What came: all that the upstream takes of the window's stretch, or what was to be sent once more."""
        keys = [key_of(row.model, row.device_id, from_micros(row.timestamp)) for row in window.rows]
        if window.replayed:
            expected = {key: upstream.replayed.pop(key) for key in keys}
        else:
            expected = upstream.passed(self.passed_by(window, upstream, file))
        assert expected.keys() == set(keys)
        for key, row in zip(keys, window.rows, strict=True):
            number, values = expected[key]
            assert (row.seq, dict(row.version(1).data)) == (self.numbers[number], values)
            assert number not in self.held.rows
            assert (row.row[0] or 0) & TIME_FLAGS == self.held.flags.get(number, 0)
        return {key: expected[key] for key in keys}

    def check_order(self, window: Window, arrived: list[int], upstream: Upstream, lane: Any) -> None:
        """In each lane the oldest go first, but for what is held: that is a hole."""
        left = [number for number, _ in upstream.pending.values() if number not in self.held.rows]
        if window.low:
            assert arrived == sorted(arrived)
            assert lane == "live" or all(arrived[-1] < number for number in left)
        if upstream.split is not None and window.low:
            if lane == "live" or arrived[0] > upstream.split:  # a backlog that is done is no lane any more
                assert all(number > upstream.split for number in arrived)
                assert lane == "live" or all(number > upstream.split for number in left)
            else:
                assert arrived[-1] <= upstream.split
        assert lane == "backlog" or window.low

    @rule(which=st.integers(0, 3))
    def split(self, which: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is not None:
            self.store.flush()
            assert self.store.waiting(name, "backlog") + self.store.waiting(name, "live") >= 0
            self.store.split(name)
            upstream.split = self.arrivals
            assert self.store.waiting(name, "live") == 0

    @rule(which=st.integers(0, 3), model=st.none() | models, device=st.none() | devices, again=st.booleans())
    def settle_quarantined(self, which: int, model: Model | None, device: str | None, again: bool) -> None:
        """Have quarantined rows sent once more, or drop them."""
        name, upstream = self.upstream(which)
        if upstream is None:
            return
        measurement = None if model is None else model.__measurement__
        chosen = [key for key in upstream.quarantined if is_of(key[0], measurement, device)]
        rows = [(key, row) for key in chosen for row in upstream.quarantined.pop(key)]
        upstream.counts["quarantined"] -= len(rows)
        if not again:
            upstream.counts["deleted"] += len(rows)
            assert self.store.drop_quarantined(name, measurement=measurement, device=device) == len(rows)
            return
        current = [(key, row) for key, row in rows if self.rows.get(key, (0, {}))[0] <= row[0]]
        upstream.counts["superseded"] += len(rows) - len(current)
        replayed = self.store.replay_quarantined(name, measurement=measurement, device=device, reason="ref")
        assert replayed == len(current)
        upstream.replayed |= dict(current)

    @invariant()
    def quarantined_rows_are_kept(self) -> None:
        for name, upstream in getattr(self, "upstreams", {}).items():
            expected = [(key, values) for key, rows in upstream.quarantined.items() for _, values in rows]
            assert quarantined(self.store, name) == sorted(expected, key=repr)

    @rule()
    def look_at_flags(self) -> None:
        found = {
            key_of(model, row["device_id"], row["timestamp"]): (row["quality"] or 0) & TIME_FLAGS
            for model in MODELS
            for row in self.store.query_readings(model, fields=["device_id", "timestamp", "quality"])
        }
        assert found == {key: self.held.flags.get(number, 0) for key, (number, _) in self.rows.items()}

    def all_rows(self, model: Model) -> list[dict[str, Any]]:
        return rows_of(model, ((key, values) for key, (_, values) in self.rows.items()))

    @rule(device=st.none() | devices, span=spans, order=orders, limit=st.none() | st.integers(0, 12))
    def query(self, device: str | None, span: Span, order: tuple[Model, str], limit: int | None) -> None:
        model, by = order
        question: dict[str, Any] = {"device": device, "start": span[0], "end": span[1], "order": by, "limit": limit}
        expected = select_rows(self.all_rows(model), model, **question)
        assert self.store.query_readings(model, **question) == expected
        with SQLiteStorage(self.path, read_only=True) as reader:
            assert reader.query_readings(model, **question) == expected

    @rule(
        of=st.sampled_from(NUMBERS),
        function=st.sampled_from(["avg", "min", "max", "sum", "count", "first", "last"]),
        device=st.none() | devices,
        span=spans,
        interval=st.sampled_from([None, "1h", "30m", "90m", "2h", "1d", "1w", "1mo"]),
        zone=st.sampled_from(["UTC", "Europe/Zurich", "Asia/Kathmandu"]),
        group_by=st.sampled_from([None, "device"]),
    )
    def aggregate(self, of: tuple[Model, str], function: Any, **question: Any) -> None:
        model, field = of
        if field == "timestamp" and function in ("avg", "sum"):
            return
        question["start"], question["end"] = question.pop("span")
        question["tz"] = question.pop("zone")
        expected = aggregate_rows(self.all_rows(model), model, field, function, **question)
        assert self.store.aggregate(model, field, function, **question) == expected
        with SQLiteStorage(self.path, read_only=True) as reader:
            assert reader.aggregate(model, field, function, **question) == expected

    @rule(of=st.sampled_from(NO_NUMBERS), function=st.sampled_from(["count", "first", "last"]))
    def aggregate_what_is_no_number(self, of: tuple[Model, str], function: Any) -> None:
        model, field = of
        expected = aggregate_rows(self.all_rows(model), model, field, function, interval="1d")
        assert self.store.aggregate(model, field, function, interval="1d") == expected

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "store"):
            return
        ledger = self.store.ledger()
        assert ledger.problems == []
        assert self.counted(ledger) == self.counts
        for name, upstream in self.upstreams.items():
            found = ledger.upstreams[name]
            assert found["pending"] + found["held"] == self.store.count_pending(name)
            held = sum(number in self.held.rows for number, _ in upstream.pending.values())
            assert found["held"] == held
            assert found["pending"] + held == upstream.left
            assert {column: found[column] for column in RESOLVED} == upstream.counts

    @invariant()
    def devices_are_known(self) -> None:
        if hasattr(self, "store"):
            found = {device.device_id: (device.first_seen, device.last_seen) for device in self.store.devices()}
            assert found == times_seen(self.rows)


TestStore = Store.TestCase

TestStore.settings = settings(max_examples=int(os.environ.get("STATES", "50")), stateful_step_count=40)
