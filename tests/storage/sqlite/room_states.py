"""The model of a store that has limits, step by step: rows, what upstreams are owed, what is kept downsampled."""

import shutil
import tempfile
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis.stateful import invariant

from edgedepot import SQLiteStorage
from edgedepot.storage.buffer import Ledger
from edgedepot.storage.clock import ManualClock, from_micros
from edgedepot.storage.interval import seconds_of
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.room_bounds import LIMIT, RoomBounds
from tests.storage.sqlite.room_model import File, Rule, Upstream, Version, minutes_to_thin, thinned
from tests.storage.sqlite.states import (
    FOREVER,
    IN_MEMORY,
    MICROSECOND,
    RESOLVED,
    T0,
    Durability,
    Key,
    Model,
    Row,
    Scope,
    Series,
    Values,
    is_in,
    key_of,
    quarantined,
    rows_of,
    times_seen,
)

NO_TIME = 1e-20
"""For how long to wait where the store is full: less than the clock, which stands still, can tell once it ran."""
COUNTED = ("readings", "new", "merged", "duplicates", "late")


class Room(RoomBounds):
    """One store, and what is in it. After each step the store has done what it does by itself, and the model looks into
    its file: how far it is folded, up to when history is gone, which rows the journal has. What went must have been
    allowed to, and be in the books."""

    storage: type[SQLiteStorage] = SQLiteStorage

    def make(self, limits: dict[str, Any], durability: Durability = "power", *, trusted: bool = True) -> None:
        self.durability = durability
        self.folder = Path(tempfile.mkdtemp(dir=IN_MEMORY))
        self.path = self.folder / "x.db"
        self.clock = ManualClock(T0)
        self.clock.trusted = trusted
        self.rows: dict[Key, Version] = {}  # of all identities that are known; queries see those that `is_seen` says
        self.journal: set[Version] = set()
        self.fresh: list[Version] = []  # their numbers are not known yet
        self.learned = self.order = 0
        self.stamps: dict[Series, datetime] = {}  # each device's last stamp by the gateway, since the clock was set
        self.moving: dict[Key, timedelta] = {}  # held rows that the gateway stamped, and what the clock moved since
        self.drift = timedelta(0)  # the same, since what is held began to come in by it
        self.counts = dict.fromkeys(COUNTED, 0)
        self.upstreams: dict[str, Upstream] = {}
        self.unknown: set[Key] = set()  # of these nobody can tell whether they are among what is kept
        self.largest = LIMIT
        self.open(limits)
        self.file = File(self.path, self.learned)

    def open(self, limits: dict[str, Any]) -> None:
        self.limits = limits
        self.stamps.clear()
        self.slewed = timedelta(0)  # the clock, since this process has seen it set
        if not self.clock.monotonic():
            self.clock.advance(1)
        settings: dict[str, Any] = {"clock": self.clock, "fold_interval": FOREVER, "busy_timeout": NO_TIME, **limits}
        self.store = self.storage(self.path, gateway_id="g", piece_rows=5, durability=self.durability, **settings)

    def teardown(self) -> None:
        try:
            audit_memory(self.store)
            self.store.close()
            audit_file(self.path)
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    # -- what comes in --------------------------------------------------------------------------------------------

    def arrive_together(self, model: Model, rows: list[Row]) -> None:
        for device, moment, values in rows:
            key = key_of(model, device, moment)
            self.counts["readings"] += 1
            self.counts["late"] += self.file.is_late(key)
            if key in self.moving:
                self.move([(key, self.free(*key))])
            self.arrive(key, values)

    def is_seen(self, version: Version) -> bool:
        return version.held or not self.file.is_late(version.key)

    @property
    def seen(self) -> dict[Key, Version]:
        """What queries see."""
        return {key: version for key, version in self.rows.items() if self.is_seen(version)}

    def arrive(self, key: Key, values: Values) -> None:
        old = self.rows.get(key)
        new = {**(old.values if old else {}), **values}
        if old is not None and old.values == new:
            self.counts["duplicates"] += 1
            return
        self.counts["new" if old is None else "merged"] += 1
        self.order += 1
        version = self.rows[key] = Version(key, new, self.order, not self.clock.trusted)
        for upstream in self.upstreams.values():
            if old is not None:
                upstream.out_of_the_way(old, "superseded")
            upstream.owed.add(version)
        if old is not None:
            self.leave(old)
        self.fresh.append(version)

    def leave(self, version: Version) -> None:
        self.journal.discard(version)
        if version in self.fresh:
            self.fresh.remove(version)

    def free(self, series: Series, moment: datetime) -> datetime:
        while (series, moment) in self.rows:
            moment += MICROSECOND
        return moment

    def move(self, keys: list[tuple[Key, datetime]]) -> None:
        """Held rows get other times."""
        tables: list[dict[Key, Any]] = [self.rows, self.moving]
        for table in tables:
            found = [((key[0], moment), table.pop(key)) for key, moment in keys if key in table]
            table.update(dict(found))
        for key, version in self.rows.items():
            version.key = key

    def release(self) -> None:
        """What is held is put right: stamps move with the clock, and on where a reading is in the way."""
        fixed = set(self.rows) - set(self.moving)
        last: dict[Series, datetime] = {}
        moves = []
        for key in sorted(self.moving, key=lambda key: (key[1] + self.moving[key], self.rows[key].order)):
            moment = max(key[1] + self.moving[key], last.get(key[0], datetime.min.replace(tzinfo=UTC)) + MICROSECOND)
            while (key[0], moment) in fixed:
                moment += MICROSECOND
            last[key[0]] = moment
            moves.append((key, moment))
        self.move(moves)
        self.moving.clear()
        for version in self.rows.values():
            version.held = False

    @property
    def holds(self) -> bool:
        return any(version.held for version in self.rows.values())

    # -- what goes ------------------------------------------------------------------------------------------------

    def has_newer(self, version: Version) -> bool:
        there = self.rows.get(version.key)
        return there is not None and there.order > version.order

    def forget(self, scope: Scope) -> int:
        """Rows are deleted, from the journal also those that queries see no more; how many queries saw."""
        count = 0
        for upstream in self.upstreams.values():
            older = [one for one in upstream.quarantined if is_in(one.key, *scope) and self.has_newer(one)]
            upstream.counts["quarantined"] -= len(older)
            upstream.counts["superseded"] += len(older)
            for one in older:
                del upstream.quarantined[one]
        for version in {*self.rows.values(), *self.journal, *self.fresh}:
            if is_in(version.key, *scope):
                if self.rows.get(version.key) is version:
                    del self.rows[version.key]
                    self.moving.pop(version.key, None)
                    count += self.is_seen(version)
                self.leave(version)
                for upstream in self.upstreams.values():
                    upstream.out_of_the_way(version, "deleted")
        return count + max([0, *(self.forget_kept(rule.rows, scope) for rule in self.kept())])

    def kept(self, model: Model | None = None) -> list[Rule]:
        """The rules by which something is kept, of a model or all."""
        rules = [rule for rule in self.file.rules.values() if rule.low is not None]
        return [rule for rule in rules if model is None or rule.measurement == model.__measurement__]

    @staticmethod
    def forget_kept(rows: list[tuple[Key, Values]], scope: Scope) -> int:
        left = [row for row in rows if not is_in(row[0], *scope)]
        count = len(rows) - len(left)
        rows[:] = left
        return count

    def fold_past(self) -> None:
        """A fold: what is from before the horizon goes past history."""
        late = [version for version in self.rows.values() if not self.is_seen(version)]
        self.pass_by([one for one in late if not (self.file.is_folded(one) and one.seq)], self.file)

    def pass_by(self, late: list[Version], file: File) -> None:
        for version in late:
            self.rows.pop(version.key, None)
        for rule in file.rules.values():
            rule.keep_late(late)

    # -- what upstreams get ---------------------------------------------------------------------------------------

    def rows_of(self, upstream: Upstream, window: Any) -> list[Version]:
        """What the upstream is owed of a window's stretch."""
        if window.place is not None:
            return [version for version in upstream.walk if self.file.place(version.key) <= window.place]
        return [version for version in upstream.owed if window.low <= version.seq <= window.high]

    def received(self, upstream: Upstream, window: Any, row: Any) -> Version:
        """The row that came, which was owed."""
        version = row.version(1)
        pile: Any = upstream.replayed if window.replayed else upstream.walk if window.place else upstream.owed
        found: Version = next(one for one in pile if one.seq == row.seq)
        if window.replayed:
            values = upstream.replayed[found]
        else:
            values = found.values if window.place else found.sent
            assert upstream.takes(found)
            assert bool((version.quality or 0) & 8) == (window.place is None and found.thinned is not None)
        assert not found.held
        assert found.key == key_of(row.model, version.device, version.timestamp)
        assert values == dict(version.data)
        return found

    # -- what the store did by itself -------------------------------------------------------------------------------

    def settle(self) -> None:
        """Have the store do all that is due."""
        self.store.flush()
        assert self.store._writing is not None
        writer = self.store._writing.writer
        quiet = 0 if self.limits else 2
        while quiet < 2:  # once may be while the writer is between the end of a fold and what follows from it
            self.store.retain()
            if any(moment is not None and moment <= self.clock.monotonic() for moment in writer._upkeep.times()):
                self.store.fold()
                quiet = 0
            else:
                quiet += 1

    def look(self, before: datetime | None = None) -> None:
        """Compare with the file. `before`: `thin` was called."""
        old, self.file = self.file, File(self.path, self.learned)
        fresh = set(self.fresh)
        self.learn()
        gone = {version for version in self.journal if version.seq not in self.file.journal}
        self.forget_held(gone)
        self.explain(gone, before)
        self.journal -= gone
        assert {version.seq for version in self.journal} == self.file.journal
        self.carry_kept(old, fresh)

    def forget_held(self, gone: set[Version]) -> None:
        """Of a held piece that went nothing is left."""
        for version in gone:
            if version.held:
                assert self.may_evict or not any(
                    version in upstream.owed and upstream.awaits(version) for upstream in self.upstreams.values()
                )
                assert self.size is not None
                assert version.piece not in self.file.firsts, "a held piece goes as a whole"
                del self.rows[version.key]
                self.moving.pop(version.key, None)

    def learn(self) -> None:
        """The numbers of what came in since."""
        last = self.learned
        for version in self.fresh:
            numbers = self.file.new.get(version.key)
            if numbers:
                version.seq, version.piece = numbers.pop(0)
                self.learned = max(self.learned, version.seq)
                assert version.seq > last, "numbers go by arrival"
                last = version.seq
            self.journal.add(version)  # if only for a moment
        assert not any(self.file.new.values()), "nobody stored that"
        self.fresh.clear()

    def explain(self, gone: set[Version], before: datetime | None) -> None:
        """What the journal has no more was acknowledged by all, thinned or evicted."""
        for group in self.thinned_minutes(gone, before):
            group[-1].thinned = thinned(group)
        ledger = self.store.ledger()
        lost = self.lost_partitions()
        for name, upstream in self.upstreams.items():
            refused = self.refused_that_went(name, upstream)
            self.explain_one(upstream, ledger.upstreams[name], gone, lost, refused)

    def lost_partitions(self) -> list[Version]:
        """The rows that went with their partition."""
        return [one for one in self.rows.values() if self.file.is_late(one.key) and self.file.is_folded(one)]

    def thinned_minutes(self, gone: set[Version], before: datetime | None) -> list[list[Version]]:
        """Whole minutes of which all but the last went, and their piece did not."""
        rest = {version for version in gone if version.piece in self.file.firsts}
        if not rest:
            return []
        found = [
            group
            for group in minutes_to_thin(self.journal, self.file, self.upstreams.values(), before)
            if rest.issuperset(group[:-1]) and group[-1] not in gone
        ]
        assert rest == {version for group in found for version in group[:-1]}, "that was not to be thinned"
        assert not found or before is not None or self.may_evict
        return found

    def explain_one(
        self, upstream: Upstream, books: dict[str, int], gone: set[Version], lost: list[Version], refused: int
    ) -> None:
        still = {version for version in gone & upstream.owed if version.piece in self.file.firsts}
        dropped = gone & upstream.owed - still
        walked = upstream.walk.intersection(lost)
        change = {why: books[why] - upstream.counts[why] for why in ("thinned", "evicted", "skipped")}
        before_eviction = change["thinned"] - sum(map(upstream.takes, still))  # of pieces that went altogether then
        numbers = (change, (len(still), len(dropped), len(walked), refused))
        assert sum(change.values()) == len(still) + len(dropped) + len(walked) + refused, numbers
        if any(map(upstream.awaits, dropped | walked)):
            assert self.may_evict or self.may_lose_pending
        assert change["skipped"] == sum(not upstream.takes(version) for version in still | dropped | walked), numbers
        assert before_eviction == 0 or (before_eviction > 0 and self.may_evict)
        for why, count in change.items():
            upstream.counts[why] += count
        upstream.owed -= gone
        upstream.walk -= walked

    def refused_that_went(self, name: str, upstream: Upstream) -> int:
        """How many of what is in quarantine, the oldest. With "block" none that is to be sent once more."""
        there = {row["number"] for row in self.store.quarantined(name, limit=10_000)}
        count = 0
        for pile in (upstream.quarantined, upstream.replayed):
            gone = [version for version in pile if version.seq not in there]
            assert not gone or (self.size is not None and (self.may_evict or pile is upstream.quarantined))
            for version in gone:
                del pile[version]
            assert all(one.seq > version.seq for one in pile for version in gone), "the oldest go first"
            upstream.counts["quarantined"] -= len(gone) if pile is upstream.quarantined else 0
            count += len(gone)
        return count

    def carry_kept(self, old: File, fresh: set[Version]) -> None:
        """What queries see no more since the horizon moved, and what is kept of it."""
        for name, horizon in self.file.horizons.items():
            if horizon != old.horizons.get(name):
                assert name not in old.horizons or horizon > old.horizons[name]
                self.check_horizon(name, horizon)
        for number, rule in self.file.rules.items():
            rule.rows = old.rules[number].rows if number in old.rules else []
        passed = []
        for version in self.lost_partitions():
            del self.rows[version.key]
            name = version.key[0].measurement
            was_late = old.is_late(version.key)
            is_new = version in fresh or not old.is_folded(version)
            if was_late and self.file.horizons[name] == old.horizons[name]:
                passed.append(version)
            elif was_late or (is_new and "keep_bytes" in self.limits):
                # A full store folds in the middle: whether that came first, and before what, nobody can tell.
                self.unknown.add(version.key)
            else:
                for rule in self.file.rules.values():
                    if rule.measurement == name:
                        rule.rows.append((version.key, version.values))
        self.pass_by(passed, old)
        for rule in self.kept():
            rule.rows[:] = [row for row in rule.rows if rule.reaches_to(row[0])]
        self.unknown = {key for key in self.unknown if any(rule.reaches_to(key) for rule in self.kept())}

    def are_known(self, scope: Scope) -> bool:
        """Whether it can be told what is kept of a scope."""
        return not any(is_in(key, *scope) for key in self.unknown)

    def check_horizon(self, measurement: str, horizon: datetime) -> None:
        keep = self.limits.get("keep")
        age = keep.get(measurement) if isinstance(keep, dict) else keep
        now = from_micros(self.clock.now())
        if "keep_bytes" not in self.limits:
            assert age is not None
            assert horizon <= now - timedelta(seconds=seconds_of(age, "keep"))
        else:
            assert horizon <= now or not self.clock.trusted

    # -- after every step ---------------------------------------------------------------------------------------------

    @invariant()
    def the_file_is_as_it_should_be(self) -> None:
        if not hasattr(self, "store"):
            return
        self.settle()
        self.look()
        ledger = self.store.ledger()
        assert ledger.problems == []
        books = ledger.sources.get("direct", dict.fromkeys(COUNTED, 0))
        assert {name: books[name] for name in COUNTED} == self.counts
        self.check_upstreams(ledger)
        self.check_devices()
        self.check_size()
        self.check_age()

    def check_upstreams(self, ledger: Ledger) -> None:
        for name, upstream in self.upstreams.items():
            found = ledger.upstreams[name]
            given_up = [one for one in ledger.given_up if one.upstream == name]
            for what in ("thinned", "evicted"):
                assert sum(one.rows for one in given_up if one.what == what) == found[what]
            counts = {column: found[column] for column in RESOLVED}
            assert counts == upstream.counts, (counts, upstream.counts)
            assert found["held"] == sum(version.held for version in upstream.owed)
            numbers = (found["pending"] + found["held"], self.store.count_pending(name), upstream.pending)
            assert len(set(numbers)) == 1, numbers
            expected = [(version.key, values) for version, values in upstream.quarantined.items()]
            assert quarantined(self.store, name) == sorted(expected, key=repr)

    def check_devices(self) -> None:
        found = {device.device_id: (device.first_seen, device.last_seen) for device in self.store.devices()}
        expected = times_seen(self.seen)
        assert found == expected, (found, expected)

    def all_rows(self, model: Model, kept: Collection[tuple[Key, Values]] = ()) -> list[dict[str, Any]]:
        there = [(key, version.values) for key, version in self.seen.items()]
        return rows_of(model, [*there, *kept])
