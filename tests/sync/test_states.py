"""Forwarding against a pure model, whatever the upstream does and in whatever order: nothing is lost, nothing is sent
twice without need, no version goes backwards, the books balance at every step, and the lanes keep their promises.

The store is the real one, the clock stands still but for the rules that move it, and one thread does it all: the steps
are those that `SyncWorker`'s thread takes.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgedepot import Reading, Version
from edgedepot.storage.base import BaseStorage, Data, Lane, Pending, StoreRow, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import (
    DataRefused,
    Misconfigured,
    NotSupported,
    Overloaded,
    ReceiptTimeout,
    Unreachable,
)
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.rows import aggregate_rows, select_rows
from edgedepot.storage.sqlite.storage import SQLiteStorage
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.lanes import ROUND
from edgedepot.sync.reconcile import reconcile
from tests.storage.sqlite.states import content
from tests.sync.scripted import Power, Weather
from tests.sync.simulated import forwarder_to

T0 = datetime(2026, 3, 28, 22, tzinfo=UTC)
BATCH = 3
"""Rows at most in a window: few, so that an upstream falls behind often and has two lanes."""
MODELS: dict[str, tuple[type[Reading], str]] = {"weather": (Weather, "temperature"), "power": (Power, "watts")}
Key = tuple[str, str, datetime]
WHICH = st.sampled_from(["one", "two"])
moments = st.integers(0, 60).map(lambda number: T0 + timedelta(seconds=600 * number))
answers = st.sampled_from(
    ["accept", "accept", "lost before", "lost after", "no receipt", "throttle", "wrong set-up", "bug"]
)


def number_of(row: Version) -> int:
    """Which version this is. Every one that the test writes has a value of its own, in the order of arrival."""
    (value,) = row.data.values()
    return int(value)


class Fickle(BaseStorage):
    """An upstream that does what it is told to, then accepts. It knows of every version what became of it here."""

    def __init__(self) -> None:
        self.script: deque[str] = deque()
        self.down = False
        self.bad: set[int] = set()
        self.listed = False
        self.confirmed: set[int] = set()
        """The versions that it said to have stored."""
        self.refused: dict[int, str] = {}
        """The versions that it refused, with the reason."""
        self.acknowledged: set[int] = set()
        """The versions of which the store knows that."""
        self.open: dict[str, set[int]] = {}
        """By measurement, the versions of the request of which the sender does not know what became."""
        self.kept: dict[Key, Version] = {}
        self.gone: set[int] = set()
        """The versions that are no more to be sent: superseded or deleted."""
        self.bugs = 0
        self.is_reconciled = False
        """What is sent now is what it had."""
        self.wrong: list[str] = []
        """What sync did that it must not do."""
        self._newest: dict[Key, int] = {}

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        name = reading_model.__measurement__
        versions = [row for row in rows if isinstance(row, Version)]
        if self.is_reconciled:
            return self._take_again(name, versions)
        self._check(name, versions)
        answer = "lost before" if self.down else self.script.popleft() if self.script else "accept"
        if answer in ("throttle", "wrong set-up"):
            raise Overloaded("later") if answer == "throttle" else Misconfigured("no such table")
        refused = [Refusal(n, reason) for n, row in enumerate(versions) if (reason := self.refusal(row)) is not None]
        sent = {number_of(row) for row in versions}
        if answer in ("lost before", "bug"):
            self.open[name] = sent
            self.bugs += answer == "bug"
            raise Unreachable("no answer") if answer == "lost before" else ZeroDivisionError
        self.refused |= {number_of(versions[refusal.index]): refusal.reason for refusal in refused}
        if refused and not self.listed:
            self.open.pop(name, None)
            raise DataRefused(refused[0].reason)
        bad = {refusal.index for refusal in refused}
        good = [row for n, row in enumerate(versions) if n not in bad]
        for row in good:
            self.kept[name, row.device, row.timestamp] = row
        if answer in ("lost after", "no receipt"):
            self.open[name] = sent
            raise Unreachable("no answer") if answer == "lost after" else ReceiptTimeout("not durable yet")
        self.open.pop(name, None)
        self.confirmed |= {number_of(row) for row in good}
        return Receipt.settled(len(good), None, tuple(refused))

    def _take_again(self, name: str, versions: Sequence[Version]) -> Receipt:
        sent = {number_of(row) for row in versions}
        self.must(sent <= self.acknowledged, "reconciled without having been delivered")
        self.must(not sent & self.gone, "reconciled although it was superseded or deleted")
        self.must(not any((name, *row[:2]) in self.kept for row in versions), "reconciled although it was there")
        self.kept |= {(name, row.device, row.timestamp): row for row in versions}
        return Receipt.settled(len(versions), None)

    def sender_forgets(self) -> None:
        """Whoever sends was started again, and knows only what the store knows: of windows that were acknowledged."""
        self.open.clear()
        self.bugs = 0
        self.confirmed &= self.acknowledged

    def refusal(self, row: Version) -> str | None:
        """Why it takes a row in no request: each for a reason of its own, or it would be the set-up."""
        number = number_of(row)
        return f"sensor {letters(number)} is unknown" if number % 30 in self.bad else None

    def _check(self, name: str, versions: Sequence[Version]) -> None:
        sent = [number_of(row) for row in versions]
        self.must(sent == sorted(set(sent)), "out of order")
        self.must(not self.confirmed & set(sent), "sent again although it was known to have arrived")
        self.must(not self.gone & set(sent), "sent although it was superseded")
        for row in versions:
            key = (name, row.device, row.timestamp)
            self.must(row.gateway_seq >= self._newest.get(key, 0), "an older version after a newer one")
            self._newest[key] = row.gateway_seq
        unresolved = self.open.get(name, set()) - self.gone
        self.must(not unresolved or min(unresolved) in sent, "something else goes before what is unresolved")

    def must(self, condition: bool, wrong: str) -> None:
        """Note what is wrong if it is: whatever an upstream raises, sync goes on."""
        if not condition:
            self.wrong.append(wrong)

    def store_reading(self, reading_model: Any, device: object, timestamp: Any, data: Data) -> Receipt | None:
        raise NotSupported("sync sends many")

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        return select_rows(self._rows(reading_model), reading_model, *args, **more)

    def aggregate(self, reading_model: type[Reading], *args: Any, **more: Any) -> dict[str, Any] | list[dict[str, Any]]:
        return aggregate_rows(self._rows(reading_model), reading_model, *args, **more)

    def _rows(self, model: type[Reading]) -> list[dict[str, Any]]:
        return [
            {"device_id": device, "timestamp": timestamp, **row.data}
            for (name, device, timestamp), row in self.kept.items()
            if name == model.__measurement__
        ]


class Model:
    """What became of every version, by its number, for one upstream."""

    def __init__(self) -> None:
        self.pending: dict[int, Key] = {}
        self.quarantined: dict[int, Key] = {}
        self.replayed: dict[int, Key] = {}
        self.counts = dict.fromkeys(("delivered", "superseded", "deleted"), 0)

    def written(self, key: Key, old: int | None, number: int) -> None:
        again = [n for n, one in self.replayed.items() if one == key]  # it may have been deleted here
        for rows, numbers in ((self.pending, [old]), (self.replayed, again)):
            for one in numbers:
                self.counts["superseded"] += one is not None and rows.pop(one, None) is not None
        self.pending[number] = key

    def acknowledged(self, window: Window, refused: set[int]) -> None:
        for row in window.rows:
            number = number_of(row.version(1))
            key = (self.replayed if window.replayed else self.pending).pop(number)
            if number in refused:
                self.quarantined[number] = key
            else:
                self.counts["delivered"] += 1

    def books(self) -> dict[str, int]:
        return {
            "pending": len(self.pending) + len(self.replayed),
            "quarantined": len(self.quarantined),
            "skipped": 0,
            **self.counts,
        }


class WatchedStore(SQLiteStorage):
    """The local store. It checks what sync does with windows, and has the models follow."""

    expected: dict[str, Model]
    upstreams: dict[str, Fickle]

    def watch_over(self, models: dict[str, Model], upstreams: dict[str, Fickle]) -> None:
        self.expected = models
        self.upstreams = upstreams
        self._aside: dict[int, str] = {}
        self._lanes: dict[int, Lane] = {}
        self._live_running = dict.fromkeys(models, 0)

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        before = content(super().pending(cursor, limit, lane))
        window = super().pending(cursor, limit, lane)
        self.upstreams[cursor].must(content(window) == before, "read ahead, and not so any more")
        if window is not None:
            self.upstreams[cursor].must(len(window.rows) <= limit <= BATCH, "too large a window")
            self._lanes = {id(window): lane}
        return window

    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        super().quarantine(cursor, rows, reason)
        self._aside |= {number_of(row.version(1)): reason for row in rows}

    def acknowledge(self, cursor: str, window: Window) -> None:
        upstream = self.upstreams[cursor]
        versions = {number_of(row.version(1)) for row in window.rows}
        for number in versions:
            if number in self._aside:
                upstream.must(upstream.refused.get(number) == self._aside[number], "set aside without that reason")
            else:
                upstream.must(number in upstream.confirmed, "acknowledged without being there")
        upstream.acknowledged |= versions - self._aside.keys()
        self._check_share(cursor, self._lanes[id(window)])
        super().acknowledge(cursor, window)
        self.expected[cursor].acknowledged(window, set(self._aside))
        self._aside.clear()

    def _check_share(self, cursor: str, lane: Lane) -> None:
        waits = lane == "live" and self.waiting(cursor, "backlog") > 0
        self._live_running[cursor] = self._live_running[cursor] + 1 if waits else 0
        self.upstreams[cursor].must(self._live_running[cursor] < ROUND, "the backlog does not get its share")


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
        self.store.watch_over(self.models, self.upstreams)
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


def letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


TestForwarding = Forwarding.TestCase
TestForwarding.settings = settings(max_examples=60, stateful_step_count=40)
