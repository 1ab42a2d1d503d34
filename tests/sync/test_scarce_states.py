"""Sync under scarcity against a pure model: a store that fills up, thins and evicts, links with a rate, a day's budget
and hours, and an upstream that loses what it had and gets it again; the other may get averages alone (`every`). The
ledger balances at every step, to the row; no budget is ever exceeded; fresh readings go first; reconcile sends what was
delivered and is gone, and nothing else; averages are exact, and go once.

What the store holds and does is modelled as in tests/storage/sqlite/test_room_states.py; here forwarders as they are at
work take from it, in simulated time and one thread.
"""

import os
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from edgedepot import StorageBusy
from edgedepot.storage.base import Version as Sent
from edgedepot.storage.buffer import EVERYTHING, Lane, Pending, Window
from edgedepot.storage.clock import MINUTE
from edgedepot.storage.errors import LimitReached, UpstreamError
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.lanes import LIVE_PAUSE
from edgedepot.sync.limits import Limits
from edgedepot.sync.reconcile import Finding, Reconciliation
from tests.models import Weather
from tests.storage.sqlite.room_model import Hand, Upstream, Version
from tests.storage.sqlite.room_states import Room
from tests.storage.sqlite.states import T0, Key, Row, Values, data, devices, is_in, key_of, readings
from tests.sync.averaged import Bucket, average_of, bucket_of, by_bucket, until_one_lasts
from tests.sync.scarce import Metered, WatchedStore, Watcher

DAY = timedelta(days=1)
BATCH = 40
MANY = 800
NAMES = ["one", "two"]
rooms = st.fixed_dictionaries(
    {}, optional={"keep_bytes": st.just("1 MB"), "when_full": st.sampled_from(["evict", "evict", "block"])}
).map(lambda drawn: drawn if "keep_bytes" in drawn else {})
costs = st.fixed_dictionaries(
    {},
    optional={
        "max_rate": st.sampled_from(["2 kB/s", "20 kB/s"]),
        "max_per_day": st.sampled_from(["100 kB", "300 kB"]),
        "windows": st.sampled_from([["22:00-06:00 Europe/Zurich"], ["00:00-12:00 UTC", "13:00-14:00 UTC"]]),
    },
)
averages = st.fixed_dictionaries({}, optional={"every": st.sampled_from(["1 minute", "10 minutes", "2 hours"])})
which_one = st.sampled_from(NAMES)


class Scarce(Room, Watcher):
    """One store, two upstreams, each behind a link of its own."""

    storage = WatchedStore
    store: WatchedStore

    @initialize(room=rooms, links=st.tuples(costs, st.builds(dict.__or__, costs, averages)))
    def begin(self, room: dict[str, Any], links: tuple[dict[str, Any], dict[str, Any]]) -> None:
        self.links: dict[str, Metered] = {}
        self.delivered: dict[str, set[Version]] = {name: set() for name in NAMES}
        self.forwarders: dict[str, Forwarder] = {}
        self.reconciled: list[tuple[str, Finding]] = []  # how each ended, and with what
        self.restarted = False  # what was sent and not acknowledged goes once more
        self.deleted: set[Key] = set()
        self.make(room)
        for name, link in zip(NAMES, links, strict=True):
            self.links[name] = Metered(self.clock, Limits.of(name, **link), compresses=name == "two")
            self.links[name].gateway_id = "g"
            self.links[name].arriving = partial(self.averages_arrive, name)
            self.store.add_cursor(name)
            self.upstreams[name] = Upstream("oldest", EVERYTHING, self.file.first - 1)
        self.connect()

    def open(self, limits: dict[str, Any]) -> None:
        super().open(limits)
        self.store.watch_by(self)

    def connect(self) -> None:
        """Forwarders as of a process that has just started."""
        self.live_at = dict.fromkeys(NAMES, self.clock.monotonic())
        self.in_doubt = dict.fromkeys(NAMES, False)
        for name, link in self.links.items():
            self.forwarders[name] = Forwarder(
                self.store,
                name,
                link,
                clock=self.clock,
                batch_size=BATCH,
                poll_interval=60.0,
                backoff=Backoff(0.2, 60.0, lambda: 0.5),
                limits=link.limits,
            )

    # -- what comes in --------------------------------------------------------------------------------------------

    def store_rows(self, rows: list[Row]) -> None:
        try:
            self.store.store_readings(Weather, rows)
        except StorageBusy:
            assert self.limits.get("when_full") == "block"
        else:
            self.arrive_together(Weather, rows)

    @rule(rows=st.lists(readings, min_size=1, max_size=8))
    def put(self, rows: list[Row]) -> None:
        self.store_rows(rows)

    @rule(device=devices, minute=st.integers(0, 30), values=st.lists(data, min_size=2, max_size=9))
    def put_a_minute(self, device: str, minute: int, values: list[Values]) -> None:
        start = T0 + timedelta(minutes=minute)
        self.store_rows([(device, start + timedelta(seconds=6 * n), one) for n, one in enumerate(values)])

    @rule(
        hours=st.integers(-48, 0),
        count=st.sampled_from([40, 150]),
        size=st.sampled_from([10, 1000]),
        is_noise=st.booleans(),
    )
    def fill_up(self, hours: int, count: int, size: int, is_noise: bool) -> None:
        """Much at once: after some of these there is no room."""
        if len(self.rows) > MANY:
            return
        start = T0 + timedelta(hours=hours)
        noise = random.Random(size)
        notes = [noise.randbytes(size // 2).hex() if is_noise else "x" * size for _ in range(count)]
        values: list[Values] = [{"temperature": float(n), "note": note, "count": n} for n, note in enumerate(notes)]
        self.store_rows([("fill", start + timedelta(seconds=20 * n), one) for n, one in enumerate(values)])
        self.the_file_is_as_it_should_be()
        self.fold()

    @rule(device=devices, since=st.integers(0, 20))
    def delete(self, device: str, since: int) -> None:
        scope = (Weather, device, T0 + timedelta(minutes=since), T0 + timedelta(minutes=since + 10))
        self.deleted |= {key for key in self.rows if is_in(key, *scope)}
        assert self.store.delete_readings(*scope) == self.forget(scope)

    # -- room -----------------------------------------------------------------------------------------------------

    @rule()
    def fold(self) -> None:
        self.store.fold()
        self.fold_past()

    @rule()
    def thin(self) -> None:
        for _ in range(2):  # the second finds no piece to end or to drop
            self.fold()
            self.the_file_is_as_it_should_be()
        before = T0 + 50 * DAY
        self.store.thin(before)
        self.settle()
        self.look(before)

    @rule(room=rooms, in_order=st.booleans())
    def start_again(self, room: dict[str, Any], in_order: bool) -> None:
        """What is spent of a day is not forgotten, neither by a crash."""
        if in_order:
            for forwarder in self.forwarders.values():
                forwarder.close()
        self.store.close()
        self.open(room)
        for name, upstream in self.upstreams.items():
            self.store.add_cursor(name)
            upstream.hands.clear()
        self.settle()
        self.look()
        self.connect()
        self.restarted = True

    # -- the link -------------------------------------------------------------------------------------------------

    @rule(which=which_one, away=st.booleans())
    def goes_away_or_comes_back(self, which: str, away: bool) -> None:
        self.links[which].away = away

    @rule(which=which_one, remainder=st.none() | st.integers(0, 9))
    def refuses(self, which: str, remainder: int | None) -> None:
        if not self.in_doubt[which]:
            self.links[which].refuses = remainder

    @rule(which=which_one, times=st.integers(1, 8), hours=st.sampled_from([0.01, 1, 30]))
    def forward(self, which: str, times: int, hours: float) -> None:
        """Some steps, and the waits between them as far as they are not too long."""
        until = self.clock.monotonic() + hours * 3600
        for _ in range(times):
            if not self.step(which, until):
                return

    def step(self, which: str, until: float) -> bool:
        self.in_doubt[which] = self.forwarders[which]._lanes.is_unresolved  # that is finished first
        wait = self.forwarders[which].step()
        assert self.store.wrong == []
        if wait is not None:
            self.clock.advance(max(0.0, min(wait.until, until) - self.clock.monotonic()))
        self.the_file_is_as_it_should_be()
        return self.clock.monotonic() < until

    @rule(seconds=st.sampled_from([1, 600, 20_000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(
        which=which_one,
        part=st.integers(0, 3),
        answers=st.none() | st.integers(0, 12),
        remainder=st.none() | st.integers(0, 9),
    )
    def loses_and_reconciles(
        self, which: str, part: int = 0, answers: int | None = None, remainder: int | None = None
    ) -> None:
        """Some rows, or all, are gone there; what was delivered and stands as it was is there again, or as much of it
        as the limits let through; averages of thinned minutes too. The link may break after some answers, and readings
        be refused."""
        link, upstream = self.links[which], self.upstreams[which]
        every = link.limits.every
        gone = [key for place, key in enumerate(sorted(link.kept)) if not part or place % part == 0]
        before = {key: link.kept.pop(key) for key in gone}
        had, beside = dict(link.kept), link.beside(answers, remainder)
        work = Reconciliation(self.store, which, beside, costs=link.limits, clock=self.clock, wait=self.clock.advance)
        end = self.reconcile(work)
        sent, total = beside.again, work.report.total()
        self.reconciled.append((end, total))
        keys = {key_of(Weather, row.device, row.timestamp) for row in sent}
        assert len(keys) == len(sent), "nothing goes twice"
        assert len(sent) == total.sent or end == "away", "what was sent is in the report"
        refused = {key for key, row in before.items() if row.data.get("count", -1) % 10 == remainder}
        if every is None:
            due = {version.key for version in self.delivered[which] if self.rows.get(version.key) is version}
            due &= before.keys()
            changed = self.changed_minutes()
            doubtful = {
                one.key for one in self.delivered[which] if one.thinned and bucket_of(one.key, MINUTE) in changed
            }
            assert keys <= due, "sent though the books do not count it as delivered, or though it was there"
            assert link.kept == had | {key: before[key] for key in keys}, "as it was the first time"
            assert not keys & refused
        else:
            due, doubtful = self.averages_due(upstream, every) & before.keys(), set()
            for row in sent:
                self.check_average(row, every, [])
            assert keys <= before.keys() | {bucket_of(key, every).key for key in self.deleted}
        if end == "done" and not upstream.counts["evicted"] and not (every and upstream.counts["thinned"]):
            assert due - refused - doubtful <= keys <= due - refused  # eviction may withhold more, thinning averages
            assert len(due & refused - doubtful) <= total.refused <= len(due & refused)
        for key, row in before.items():
            link.kept.setdefault(key, row)

    def changed_minutes(self) -> set[Bucket]:
        """Those of which some came later, changed or was deleted: nobody can tell what one that was thinned came to."""
        minutes = by_bucket(self.rows.values(), MINUTE).items()
        several = {minute for minute, versions in minutes if len({one.piece for one in versions}) > 1}
        return several | {bucket_of(key, MINUTE) for key in self.deleted}

    def reconcile(self, work: Reconciliation) -> str:
        """How it ended."""
        try:
            for difference in work.find():
                work.mend(difference)
        except LimitReached:
            return "held"
        except UpstreamError:
            return "away"
        finally:
            work.close()
        return "done"

    # -- what sync does -------------------------------------------------------------------------------------------

    def handed_out(self, cursor: str, lane: Lane, window: Window) -> None:
        upstream = self.upstreams[cursor]
        assert len(window.rows) <= BATCH or self.links[cursor].limits.every
        versions = [self.received(upstream, window, row) for row in window.rows]
        expected = [version for version in self.rows_of(upstream, window) if not version.held]
        assert window.replayed or set(versions) == set(expected), "a window has all of its stretch"
        upstream.hands[lane] = Hand(window, versions)

    def acknowledged(self, cursor: str, window: Window, refused: Sequence[int], do: Callable[[], None]) -> None:
        upstream = self.upstreams[cursor]
        beginning = (window.low, window.place)  # of averages it may be a part
        lane = next(lane for lane, hand in upstream.hands.items() if (hand.window.low, hand.window.place) == beginning)
        hand = upstream.hands.pop(lane)
        assert window.every or hand.window is window
        if window.every:
            self.averages_acknowledged(cursor, window, refused)
            do()
            self.settle()
            self.look()
            return
        self.check_turn(cursor, lane)
        aside = [version for version in hand.rows if version.seq in refused]
        upstream.resolve(self.rows_of(upstream, window), aside)
        taken = {version for version in hand.rows if version not in aside}
        kept = self.links[cursor].kept
        assert all(version.key in kept for version in taken), "acknowledged without being there"
        self.delivered[cursor] |= taken
        do()
        if window.low:
            upstream.acknowledged.append((window.low, window.high))
        self.settle()
        self.look()

    # -- averages -------------------------------------------------------------------------------------------------

    def averages_arrive(self, cursor: str, rows: Sequence[Sent]) -> None:
        """Each is exact, and goes once, but where it has to do with a reading that came later."""
        every = self.links[cursor].limits.every
        if every is None:
            return
        with self.store.noting():
            now, hands = self.clock.now(), self.upstreams[cursor].hands.values()
            windows = [hand.rows if hand.window.place else until_one_lasts(hand.rows, every, now) for hand in hands]
            for row in rows:
                window = next(window for window in windows if any(one.seq == row.gateway_seq for one in window))
                self.check_average(row, every, window)
                had = self.links[cursor].kept.get(key_of(Weather, row.device, row.timestamp))
                assert had is None or had.gateway_seq != row.gateway_seq or self.restarted, "it was there"

    def check_average(self, row: Sent, every: int, waiting: Sequence[Version]) -> None:
        """Of all that the store has of its interval, and of what waits where history is gone."""
        bucket = bucket_of(key_of(Weather, row.device, row.timestamp), every)
        assert bucket.key[1] == row.timestamp
        there = {one.key: one.sent for one in by_bucket(waiting, every)[bucket]}
        there |= {one.key: one.values for one in by_bucket(self.seen.values(), every)[bucket]}
        assert dict(row.data) == average_of(there.items())
        assert (row.quality or 0) & 8

    def averages_acknowledged(self, cursor: str, window: Window, refused: Sequence[int]) -> None:
        """In the books one reading of each interval is delivered; of those that have none here there is a later one."""
        upstream = self.upstreams[cursor]
        owed = [version for version in self.rows_of(upstream, window) if not version.held]
        passed, sent = by_bucket(owed, window.every), {row.seq: row for row in window.rows}
        later = by_bucket((one for one in upstream.owed if one.seq > window.high), window.every)
        for bucket, versions in passed.items():
            stand_ins = [sent.pop(version.seq) for version in versions if version.seq in sent]
            assert len(stand_ins) == 1 if bucket not in later or stand_ins else not window.place
            for row in stand_ins:
                assert (row.device_id, row.timestamp) == (bucket.series.device, bucket.start)
                if row.seq in refused:
                    self.refuse_average(upstream, row, bucket)
        assert not sent, "averages of nothing"
        for version in owed:
            (upstream.walk if window.place else upstream.owed).remove(version)
        upstream.counts["quarantined"] += len(refused)
        upstream.counts["delivered"] += len(window.rows) - len(refused)
        upstream.counts["skipped"] += len(owed) - len(window.rows)
        if window.low:
            upstream.acknowledged.append((window.low, window.high))

    def refuse_average(self, upstream: Upstream, row: Pending, bucket: Bucket) -> None:
        aside = Version(bucket.key, dict(row.version(1).data), 0, False, row.seq)
        upstream.quarantined[aside] = aside.values

    def averages_due(self, upstream: Upstream, every: int) -> set[Key]:
        """Those that can be made anew: nothing of their intervals is owed, was refused or has gone from history."""
        waiting, there = by_bucket(upstream.owed | upstream.walk, every), by_bucket(self.seen.values(), every)
        doubtful = {bucket_of(key, every) for key in self.deleted}
        doubtful |= {bucket_of(version.key, every) for version in upstream.quarantined}
        return {bucket.key for bucket in there.keys() - waiting.keys() - doubtful if not self.file.is_late(bucket.key)}

    def check_all_averages(self, cursor: str, every: int) -> None:
        """In the end the upstream has what the store has."""
        upstream, kept = self.upstreams[cursor], self.links[cursor].kept
        if upstream.counts["thinned"] + upstream.counts["evicted"]:
            return
        due = self.averages_due(upstream, every)
        for bucket, versions in by_bucket(self.seen.values(), every).items():
            if bucket.key in due:
                assert dict(kept[bucket.key].data) == average_of((one.key, one.values) for one in versions)

    def check_turn(self, cursor: str, lane: Lane) -> None:
        """Where bytes are scarce fresh readings do not wait for a backlog."""
        now = self.clock.monotonic()
        if lane == "live":
            self.live_at[cursor] = now
        elif self.links[cursor].limits.has_bytes and not self.in_doubt[cursor]:
            assert self.store._writing is not None
            split = self.store._writing.cursors.position(cursor).split
            waits = split is not None and any(row.seq > split and not row.held for row in self.upstreams[cursor].owed)
            assert not waits or now - self.live_at[cursor] <= LIVE_PAUSE, "a backlog went before fresh readings"

    @invariant()
    def promises_are_kept(self) -> None:
        for name in getattr(self, "links", {}):
            self.links[name].check()
            status = self.forwarders[name].status()
            assert (status.faults, self.store.wrong) == (0, [])
            spent = status.spent_today
            assert spent is None or spent <= (self.links[name].limits.per_day or 0)

    # -- in the end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if getattr(self, "forwarders", None):
                self.everything_arrives()
        finally:
            super().teardown()

    def everything_arrives(self) -> None:
        """All that is not in the books as something else is there, as it stands, or as its minute's average."""
        for name, link in self.links.items():
            link.away, link.refuses = False, None
            self.step_until_nothing_waits(name, 50)
            link.check()
            link.limits = Limits(every=link.limits.every)  # the rest would take days, and this test minutes
        self.connect()
        for name in NAMES:
            self.step_until_nothing_waits(name, 1000)
            assert not self.upstreams[name].pending
            assert self.store.count_pending(name) == 0
            every = self.links[name].limits.every
            if every is not None:
                self.check_all_averages(name, every)

    def step_until_nothing_waits(self, name: str, most: int) -> None:
        for _ in range(most):
            if not self.upstreams[name].pending:
                return
            self.step(name, self.clock.monotonic() + 2 * 86_400)


TestScarce = Scarce.TestCase
TestScarce.settings = settings(max_examples=int(os.environ.get("STATES", "14")), stateful_step_count=30)
