"""Forwarding against a pure model, whatever the upstream does and in whatever order: nothing is lost, nothing is sent
twice without need, no version goes backwards, the books balance at every step, and the lanes keep their promises.

The store is the real one, the clock stands still but for the rules that move it, and one thread does it all: the steps
are those that `SyncWorker`'s thread takes.
"""

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgedepot import Reading
from edgedepot.storage.clock import ManualClock
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.reconcile import reconcile
from tests.sync.scripted import Power, Weather
from tests.sync.simulated import forwarder_to
from tests.sync.watched import BATCH, Fickle, Key, Model, WatchedStore

T0 = datetime(2026, 3, 28, 22, tzinfo=UTC)
MODELS: dict[str, tuple[type[Reading], str]] = {"weather": (Weather, "temperature"), "power": (Power, "watts")}
WHICH = st.sampled_from(["one", "two"])
moments = st.integers(0, 60).map(lambda number: T0 + timedelta(seconds=600 * number))
answers = st.sampled_from(
    ["accept", "accept", "lost before", "lost after", "no receipt", "throttle", "wrong set-up", "bug"]
)


class Forwarding(RuleBasedStateMachine):
    """One store, two upstreams."""

    @initialize()
    def open_first(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(T0)
        self.rows: dict[Key, int] = {}
        """The version that stands of each reading."""
        self.models = {"one": Model(), "two": Model()}
        self.upstreams = {"one": Fickle(), "two": Fickle()}
        self.written = 0
        self.open()

    def open(self) -> None:
        self.store = WatchedStore(self.folder / "x.db", gateway_id="g", clock=self.clock, piece_rows=5)
        self.store.watch_over(self.models, self.upstreams, self.clock)
        self.forwarders: dict[str, Forwarder] = {
            name: forwarder_to(self.store, upstream, self.clock, name, BATCH)
            for name, upstream in self.upstreams.items()
        }

    def teardown(self) -> None:
        if hasattr(self, "store"):
            try:
                self.everything_arrives()
            finally:
                self.store.close()
                shutil.rmtree(self.folder)

    @rule(first=st.integers(0, 40), count=st.integers(1, 40), apart=st.integers(1, 5))
    def put(self, first: int, count: int, apart: int) -> None:
        """Readings of four series in turn, some of them again with other values."""
        for number in range(first, first + count * apart, apart):
            key = (sorted(MODELS)[number % 2], "ab"[number // 2 % 2], T0 + timedelta(seconds=600 * (number // 4)))
            old = self.rows.get(key)
            self.written += 1
            self.write(key, self.written)
            self.rows[key] = self.written
            for name, model in self.models.items():
                model.written(key, old, self.written)
                self.upstreams[name].gone |= {old} if old is not None else set()
        self.store.flush()

    @rule(which=st.integers(0, 100))
    def put_again(self, which: int) -> None:
        """A duplicate: nothing comes of it."""
        if self.rows:
            key = sorted(self.rows)[which % len(self.rows)]
            self.write(key, self.rows[key])

    def write(self, key: Key, number: int) -> None:
        model, field = MODELS[key[0]]
        self.store.store_reading(model, key[1], key[2], {field: number})

    @rule(name=st.sampled_from(sorted(MODELS)), device=st.sampled_from(["a", "b"]), since=moments)
    def delete(self, name: str, device: str, since: datetime) -> None:
        keys = [key for key in self.rows if key[:2] == (name, device) and since <= key[2] < since + timedelta(hours=1)]
        deleted = self.store.delete_readings(MODELS[name][0], device, since, since + timedelta(hours=1))
        assert deleted == len(keys)
        for key in keys:
            number = self.rows.pop(key)
            for upstream, model in self.models.items():
                model.counts["deleted"] += model.pending.pop(number, None) is not None
                for old in [n for n, one in model.quarantined.items() if one == key and n < number]:
                    del model.quarantined[old]
                    model.counts["superseded"] += 1
                # One that a person has sent once more goes all the same.
                self.upstreams[upstream].gone |= set() if number in model.replayed else {number}

    @rule()
    def fold(self) -> None:
        self.store.fold()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        for upstream in self.upstreams.values():
            upstream.sender_forgets()
        self.open()

    @rule(which=WHICH, script=st.lists(answers, min_size=1, max_size=4))
    def will_answer(self, which: str, script: list[str]) -> None:
        self.upstreams[which].script.extend(script)

    @rule(which=WHICH, down=st.booleans())
    def goes_away_or_comes_back(self, which: str, down: bool) -> None:
        self.upstreams[which].down = down

    @rule(which=WHICH, bad=st.sets(st.integers(0, 29), max_size=6) | st.just(set(range(30))), listed=st.booleans())
    def refuses(self, which: str, bad: set[int], listed: bool) -> None:
        upstream = self.upstreams[which]
        if not upstream.open:  # who refuses today what it took yesterday and did not say so: its word stands
            upstream.bad, upstream.listed = bad, listed

    @rule(which=WHICH)
    def loses_its_data(self, which: str) -> None:
        """Restored from an old backup, say: what was acknowledged is not sent again by itself."""
        self.upstreams[which].kept.clear()

    @rule(which=WHICH)
    def reconcile(self, which: str) -> None:
        """All that it had and that did not change since is there again, and all else as it was: but for days of which
        it has as many others in their place, with the same extremes."""
        upstream = self.upstreams[which]
        before = dict(upstream.kept)
        due = {key for key, number in self.rows.items() if number in upstream.acknowledged}
        upstream.is_reconciled = True
        report = reconcile(self.store, which, upstream).total()
        upstream.is_reconciled = False
        mixed = {(name, device, at.date()) for name, device, at in before.keys() - due}
        plain = {key for key in due if (key[0], key[1], key[2].date()) not in mixed}
        assert before.keys() | plain <= upstream.kept.keys() <= before.keys() | due
        assert upstream.kept | before == upstream.kept
        assert report.sent == len(upstream.kept.keys() - before.keys())

    @rule(which=WHICH)
    def replay(self, which: str) -> None:
        model = self.models[which]
        current = {n: key for n, key in model.quarantined.items() if self.rows.get(key) == n}
        gone = {n: key for n, key in model.quarantined.items() if key in self.rows and n not in current}
        current |= {n: key for n, key in model.quarantined.items() if key not in self.rows}
        model.counts["superseded"] += len(gone)
        model.quarantined.clear()
        model.replayed |= current
        self.upstreams[which].gone -= current.keys()  # a person may send again what was deleted here
        assert self.store.replay_quarantined(which) == len(current)

    @rule(which=WHICH, first=st.integers(0, 200), few=st.integers(0, 3), times=st.integers(5, 25))
    def steps_while_more_comes(self, which: str, first: int, few: int, times: int) -> None:
        for number in range(times):
            self.put(first + number * few, few, 1)
            self.step(which, 1)

    @rule(which=WHICH, times=st.integers(1, 6))
    def step(self, which: str, times: int) -> None:
        for _ in range(times):
            wait = self.forwarders[which].step()
            if wait is not None:
                self.clock.advance(max(0.0, wait.until - self.clock.monotonic()))
                return
            self.clock.advance(0.2)

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "store"):
            ledger = self.store.ledger()
            assert ledger.problems == []
            for name, model in self.models.items():
                found = {column: ledger.upstreams[name][column] for column in model.books()}
                assert found == model.books()
                assert self.upstreams[name].wrong == [], self.upstreams[name].wrong
                assert self.forwarders[name].status().faults == self.upstreams[name].bugs

    def everything_arrives(self) -> None:
        """All comes back, and takes all: what is not quarantined or deleted is there, as it stands now."""
        for name, upstream in self.upstreams.items():
            upstream.script.clear()
            upstream.down, upstream.bad = False, set()
            for _ in range(20 + 3 * self.written):
                if not self.store.count_pending(name):
                    break
                self.step(name, 1)
                self.store.flush()
            model = self.models[name]
            assert not model.pending | model.replayed
            assert self.store.count_pending(name) == 0
            missing = {key: number for key, number in self.rows.items() if number not in upstream.confirmed}
            assert missing == {key: n for n, key in model.quarantined.items() if self.rows.get(key) == n}
        self.the_books_balance()


TestForwarding = Forwarding.TestCase
TestForwarding.settings = settings(max_examples=int(os.environ.get("STATES", "60")), stateful_step_count=40)
