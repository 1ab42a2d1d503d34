"""The local store against a model, with limits: what is too old, too much or late goes in any order with all else, and
queries, aggregates, upstreams and the books are as they should be."""

import os
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from edgedepot import InvalidValue, SQLiteStorage, StorageBusy
from edgedepot.storage.buffer import Choice
from edgedepot.storage.clock import from_micros
from edgedepot.storage.query import FUNCTIONS
from edgedepot.storage.rows import aggregate_rows, select_rows
from tests.models import Meter, Weather
from tests.storage.sqlite.audit import audit_memory
from tests.storage.sqlite.crashing import Deed, State, work_until_killed
from tests.storage.sqlite.room_model import File, Hand, Rule, Upstream, Version, minutes_to_thin
from tests.storage.sqlite.room_states import Room
from tests.storage.sqlite.states import (
    CHOICES,
    DURABILITIES,
    LANES,
    NUMBERS,
    RESOLVED,
    SLEWED,
    T0,
    Durability,
    Model,
    Row,
    Scope,
    Series,
    Span,
    Values,
    after_the_last,
    batches,
    data,
    deeds,
    devices,
    is_in,
    is_of,
    meter_data,
    models,
    moments,
    next_window,
    orders,
    queried,
    scopes,
    spans,
    stamped,
)

DAY = timedelta(days=1)
FILLED = [-65, -30, -10, 0]
"""Days that get many readings."""
limits = st.fixed_dictionaries(
    {},
    optional={
        "keep": st.sampled_from(["1 day", "20 days", {"weather": "60 days"}, {"weather": "20 days", "meter": "1 day"}]),
        "keep_bytes": st.sampled_from(["1 MB", "1 MB", {"weather": "1 MB"}, {"meter": "1 MB"}]),
        "when_full": st.sampled_from(["evict", "block"]),
        "keep_pending": st.booleans(),
    },
).map(lambda drawn: drawn if {"keep", "keep_bytes"} & set(drawn) else {})
which_upstream = st.integers(0, 3)


def minute_of(model: Model, device: str, minute: int, values: list[Values]) -> tuple[Model, list[Row]]:
    """Readings of one minute."""
    start = T0 + timedelta(minutes=minute)
    return model, [(device, start + timedelta(seconds=6 * n), one) for n, one in enumerate(values)]


minutes = st.one_of(
    st.builds(minute_of, st.just(Weather), devices, st.integers(0, 3), st.lists(data, min_size=2, max_size=9)),
    st.builds(minute_of, st.just(Meter), devices, st.integers(0, 3), st.lists(meter_data, min_size=2, max_size=9)),
)


class RoomStates(Room):
    """What is done to the store."""

    @initialize(
        limits=limits,
        upstreams=st.lists(st.sampled_from(CHOICES), min_size=1, max_size=3),
        fills=st.lists(st.tuples(models, st.sampled_from(FILLED), st.sampled_from([40, 150])), max_size=4),
        rules=st.lists(models, max_size=2, unique=True),
        durability=DURABILITIES,
        filled_with=st.sampled_from(["readings", "readings", "history", "refused", "held"]),
        late=st.sampled_from(CHOICES),
    )
    def begin(
        self,
        limits: dict[str, Any],
        upstreams: list[Choice],
        fills: list[tuple[Model, int, int]],
        rules: list[Model],
        durability: Durability,
        filled_with: str,
        late: Choice,
    ) -> None:
        """A store that has upstreams, and some readings in pieces that are folded. Or these are in history alone, and
        another upstream comes before the limits do. Or it is full of what upstreams have refused, or of what waits for
        the time."""
        if filled_with in ("refused", "held"):
            limits = {**limits, "keep_bytes": "1 MB"}
            fills = [*fills[:1], *[(Weather, -10, 150)] * (4 if filled_with == "held" else 2)]
        self.make({} if filled_with == "history" else limits, durability, trusted=filled_with != "held")
        for model in rules:
            self.store.keep_downsampled(model, "1 hour", functions=FUNCTIONS)
        for number, choice in enumerate(upstreams):
            self.add_upstream("oldest", choice, number)
        for number, fill in enumerate(fills):
            self.fill(*fill, number)
            self.the_file_is_as_it_should_be()
            if filled_with == "refused":
                self.send(60, 0, "backlog", 60, 4, False)
        if filled_with == "history":
            self.begin_late(late, len(upstreams), limits)
        for minute, device in enumerate("abca"):
            rows = minute_of(Weather, device, minute % 2, [{"temperature": float(n), "count": n} for n in range(6)])
            self.put(rows if minute % 2 else minute_of(Meter, device, minute, [{"on": True, "total": 2}] * 3))
            self.the_file_is_as_it_should_be()
            self.fold()
            self.the_file_is_as_it_should_be()

    def begin_late(self, choice: Choice, number: int, limits: dict[str, Any]) -> None:
        """All upstreams have all there is, and now comes one that finds it in history."""
        for which in range(number):
            self.drain(which)
        for _ in range(2):  # the second finds a piece to drop
            self.fold()
            self.the_file_is_as_it_should_be()
        self.add_upstream("oldest", choice, number)
        self.store.close()
        self.reopened(limits)
        self.the_file_is_as_it_should_be()

    # -- readings -------------------------------------------------------------------------------------------------

    @rule(batch=batches | minutes)
    def put(self, batch: tuple[Model, list[Row]]) -> None:
        assert self.store._writing is not None
        try:
            self.store.store_readings(*batch)
        except StorageBusy:
            assert self.store._writing.writer.full
            assert self.limits["when_full"] == "block"
            assert "keep_bytes" in self.limits
        else:
            self.arrive_together(*batch)

    @rule(model=models, days=st.sampled_from(FILLED), count=st.sampled_from([40, 150]), n=st.integers(0, 9))
    def fill(self, model: Model, days: int, count: int, n: int) -> None:
        start = T0 + days * DAY + timedelta(hours=n)
        text = "x" * 1000
        one: Values = {"temperature": float(n), "note": text} if model is Weather else {"on": n > 3, "mode": text}
        self.put((model, [("fill", start + timedelta(seconds=20 * number), one) for number in range(count)]))
        self.the_file_is_as_it_should_be()
        self.fold()

    @rule(reading=stamped)
    def put_stamped(self, reading: tuple[Model, str, Values]) -> None:
        model, device, values = reading
        series = Series(model.__measurement__, device)
        now = from_micros(self.clock.now())
        try:
            self.store.store_reading(model, device, None, values)
        except StorageBusy:
            assert self.limits["when_full"] == "block"
            return
        moment = self.stamps[series] = self.free(series, after_the_last(self.stamps, self.rows, series, now))
        self.counts["readings"] += 1
        self.counts["late"] += self.file.is_late((series, now))
        self.arrive((series, moment), values)
        if not self.clock.trusted:
            self.moving[series, moment] = self.drift

    @rule(scope=scopes)
    def delete(self, scope: Scope) -> None:
        if any(rule.cuts(*scope[2:]) for rule in self.kept(scope[0])):
            try:
                self.store.delete_readings(*scope)
            except InvalidValue:
                return
            raise AssertionError("a bucket that is kept was cut")
        found = self.store.delete_readings(*scope)
        expected = self.forget(scope)
        assert found == expected or not self.are_known(scope), (found, expected)
        self.unknown = {key for key in self.unknown if not is_in(key, *scope)}

    @rule()
    def fold(self) -> None:
        self.store.fold()
        self.fold_past()

    # -- time -----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-7200, -2, -0.4, -0.4, 2, 1800, 40 * 86_400]), trust=st.booleans())
    def set_clock(self, seconds: float, trust: bool) -> None:
        self.clock.step(seconds)
        released = trust and not self.clock.trusted
        self.clock.trusted = self.clock.trusted or trust
        step = timedelta(seconds=seconds)
        self.slewed += step
        if abs(self.slewed) > SLEWED:
            self.stamps.clear()
            self.slewed = timedelta(0)
        self.drift = self.drift + step if abs(self.drift + step) <= SLEWED else timedelta(0)
        self.moving = {key: moved + step for key, moved in self.moving.items()}
        if released:
            self.stamps.clear()
            self.release()

    @precondition(lambda self: not self.holds)
    @rule(moment=st.sampled_from([T0 - timedelta(days=100), T0, T0 + timedelta(hours=1)]), limits=limits)
    def reboot_without_a_clock(self, moment: datetime, limits: dict[str, Any]) -> None:
        self.store.close()
        self.clock.reboot(moment)
        self.drift = timedelta(0)
        self.reopened(limits)

    @rule(limits=limits, durability=DURABILITIES)
    def reopen(self, limits: dict[str, Any], durability: Durability) -> None:
        audit_memory(self.store)
        self.store.close()
        self.durability = durability
        self.reopened(limits)
        audit_memory(self.store)

    def reopened(self, limits: dict[str, Any]) -> None:
        self.open(limits)
        for name, upstream in self.upstreams.items():
            self.store.add_cursor(name, "oldest", upstream.choice)
            upstream.split = None  # it goes on where it was, which the model does not know
            upstream.hands.clear()
        self.settle()
        self.look()

    @rule(deeds=st.lists(deeds, min_size=1, max_size=4), done=st.integers(0, 4), limits=limits)
    def crash(self, deeds: list[Deed], done: int, limits: dict[str, Any]) -> None:
        """Another process does things and is killed: what it said is done is done, and the next thing is, or is not."""
        deeds = [deed for deed in deeds if deed[0] != "delete" or not self.kept()]
        self.store.close()
        said, _ = work_until_killed(self.state(), deeds, min(done, len(deeds)))
        is_folding = File(self.path, self.learned).is_folding
        self.open({})  # without limits nothing goes by itself
        if is_folding:
            self.store.fold()
        for deed in deeds[:said]:
            self.do(deed)
        if is_folding or (not self.is_as_it_should_be() and said < len(deeds)):
            self.do(deeds[said])
        assert self.is_as_it_should_be()
        self.look()
        self.store.close()
        self.reopened(limits)

    def state(self, **limits: Any) -> State:
        return State.of(self.path, self.clock, durability=self.durability, **limits)

    def forsake(self) -> None:
        """The process ends, and forgets what it has handed out."""
        self.store.close()
        for upstream in self.upstreams.values():
            upstream.split = None
            upstream.hands.clear()

    @rule(
        deed=st.just(("retain",))
        | st.tuples(st.just("thin"), st.sampled_from([-20, 1, 50]))
        | st.tuples(st.just("send"), which_upstream, st.integers(1, 60), st.integers(0, 3)),
        done=st.integers(0, 1),
        limits=limits,
    )
    def crash_alone(self, deed: Deed, done: int, limits: dict[str, Any]) -> None:
        """What another process does by itself or for upstreams, until it is killed."""
        what, *details = deed
        doing: dict[str, Any] = {
            "retain": self.crash_retaining,
            "thin": self.crash_thinning,
            "send": self.crash_sending,
        }
        doing[what](*details, done, limits)

    def crash_retaining(self, done: int, limits: dict[str, Any]) -> None:
        """Another process drops what limits do not allow, and is killed meanwhile or thereafter."""
        self.forsake()
        work_until_killed(self.state(**limits), [("retain",)], done)
        self.reopened(limits)

    def crash_thinning(self, days: int, done: int, limits: dict[str, Any]) -> None:
        """Another process thins, all of it or a part."""
        for _ in range(2):  # as in `thin`
            self.fold()
            self.the_file_is_as_it_should_be()
        self.forsake()
        before = T0 + days * DAY
        work_until_killed(self.state(), [("thin", before)], done)
        self.open({})
        self.fold()
        self.settle()
        self.look(before)
        self.store.close()
        self.reopened(limits)

    def crash_sending(self, which: int, limit: int, refused: int, done: int, limits: dict[str, Any]) -> None:
        """Another process hands on what comes next, and it is acknowledged and in quarantine, or neither."""
        name, upstream = self.upstream(which)
        if upstream is None:
            return
        self.forsake()
        self.open({})
        self.store.add_cursor(name, "oldest", upstream.choice)
        window = self.store.pending(name, limit, "backlog")
        rows = [] if window is None else [self.received(upstream, window, row) for row in window.rows]
        self.store.close()
        deed = ("acknowledge", name, upstream.choice, limit, refused)
        work_until_killed(self.state(), [deed], done)
        self.open({})
        books = self.store.ledger().upstreams[name]
        if window is not None and (done or upstream.counts != {column: books[column] for column in RESOLVED}):
            self.resolve(upstream, window, rows, rows[:refused])
            upstream.acknowledged += [(window.low, window.high)] if window.low else []
        self.settle()
        self.look()
        self.store.close()
        self.reopened(limits)

    def do(self, deed: Deed) -> None:
        """What a deed comes to."""
        if deed[0] == "put":
            self.arrive_together(*deed[1])
        elif deed[0] == "delete":
            self.forget(deed[1])
        else:
            self.fold_past()

    def is_as_it_should_be(self) -> bool:
        books = self.store.ledger().sources.get("direct", dict.fromkeys(self.counts, 0))
        counts = {name: books[name] for name in self.counts}
        file = File(self.path, self.learned)
        late = [version for version in self.rows.values() if not self.is_seen(version)]
        has_late = all(one.seq in file.journal if one.seq else one.key in file.new for one in late)
        seen = {key: version.values for key, version in self.seen.items()}
        return has_late and counts == self.counts and queried(self.store) == seen

    # -- room -----------------------------------------------------------------------------------------------------

    @rule()
    def retain(self) -> None:
        self.store.retain()

    @rule(days=st.sampled_from([-20, 1, 50]))
    def thin(self, days: int) -> None:
        before = T0 + days * DAY
        for _ in range(2):  # the second finds no piece to end or to drop
            self.fold()
            self.the_file_is_as_it_should_be()
        expected = minutes_to_thin(self.journal, self.file, self.upstreams.values(), before)
        count = sum(len(rows) - 1 for rows in expected)
        found = self.store.thin(before)
        assert found == count or self.may_evict, (found, count)  # a full store thins by itself meanwhile
        self.settle()
        self.look(before)

    @rule(
        model=models,
        interval=st.sampled_from(["1 hour", "30 minutes"]),
        functions=st.sampled_from([FUNCTIONS, FUNCTIONS, ("avg", "max")]),
        keep=st.sampled_from([None, None, "50 days"]),
    )
    def keep_downsampled(self, model: Model, interval: str, functions: tuple[Any, ...], keep: str | None) -> None:
        before = self.kept(model)
        try:
            self.store.keep_downsampled(model, interval, functions=functions, keep=keep)
        except InvalidValue:
            assert before

    # -- upstreams ------------------------------------------------------------------------------------------------

    @rule(
        start=st.sampled_from(["oldest", "oldest", "now"]) | moments, choice=st.sampled_from(CHOICES), n=which_upstream
    )
    def add_upstream(self, start: Any, choice: Choice, n: int) -> None:
        name = f"upstream-{n}"
        if name in self.upstreams:
            return
        self.store.add_cursor(name, start, choice)
        passed = self.file.last if start == "now" else self.file.first - 1
        upstream = self.upstreams[name] = Upstream(start, choice, passed)
        if start != "now":
            upstream.owed = set(self.journal)
            upstream.walk = {version for version in self.rows.values() if self.is_to_walk(version, upstream)}

    def is_to_walk(self, version: Version, upstream: Upstream) -> bool:
        """What is in history alone. What was thinned away of the journal is not, as long as that goes back so far."""
        is_young = upstream.since is None or version.key[1] >= upstream.since
        was_thinned = version.piece in self.file.firsts
        return version not in self.journal and is_young and not was_thinned

    @rule(which=which_upstream)
    def remove_upstream(self, which: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is not None:
            assert self.store.remove_cursor(name) == upstream.pending
            del self.upstreams[name]

    def upstream(self, which: int) -> tuple[str, Upstream | None]:
        return list(self.upstreams.items())[which % len(self.upstreams)] if self.upstreams else ("", None)

    def take(self, limit: int, which: int, lane: Any) -> None:
        """A window goes out, and stays in hand."""
        name, upstream = self.upstream(which)
        if upstream is None or lane in upstream.hands:
            return
        window = next_window(self.store, name, limit, lane)
        while window is not None and not window.rows:
            self.pass_over(name, upstream, window)
            window = next_window(self.store, name, limit, lane)
        if window is None:
            return
        assert len(window.rows) <= limit
        upstream.hands[lane] = Hand(window, [self.received(upstream, window, row) for row in window.rows])
        self.check_window(upstream, upstream.hands[lane], lane)

    def pass_over(self, name: str, upstream: Upstream, window: Any) -> None:
        """A window without a row that the upstream takes."""
        passed = self.rows_of(upstream, window)
        assert not any(upstream.takes(version) for version in passed)
        upstream.resolve(passed, ())
        self.acknowledged(name, upstream, window)

    def acknowledged(self, name: str, upstream: Upstream, window: Any) -> None:
        self.store.acknowledge(name, window)
        if window.low:
            upstream.acknowledged.append((window.low, window.high))
        self.settle()
        self.look()

    def check_window(self, upstream: Upstream, hand: Hand, lane: Any) -> None:
        """It is what comes next, whole and in order."""
        window = hand.window
        numbers = [version.seq for version in hand.rows]
        if window.replayed:
            assert lane == "backlog"
            assert numbers == sorted(numbers)
            return
        expected = [version for version in self.rows_of(upstream, window) if upstream.takes(version)]
        assert set(hand.rows) == set(expected)
        if window.place is not None:
            assert lane == "backlog"
            places = [self.file.place(version.key) for version in hand.rows]
            assert places == sorted(places)
            return
        assert numbers == sorted(numbers)
        split = upstream.split
        awaited = [version.seq for version in upstream.owed if not version.held and upstream.takes(version)]
        if lane == "backlog":
            assert all(seq in numbers for seq in awaited if seq <= window.high and self.is_out_of_hand(upstream, seq))
        elif split is not None:
            assert all(seq in numbers for seq in awaited if split < seq <= window.high)

    @staticmethod
    def is_out_of_hand(upstream: Upstream, seq: int) -> bool:
        live = upstream.hands.get("live")
        return live is None or not live.window.low <= seq <= live.window.high

    def acknowledge(self, which: int, lane: Any, refused: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is None or lane not in upstream.hands:
            return
        hand = upstream.hands.pop(lane)
        window = hand.window
        self.store.quarantine(name, window.rows[:refused], "refused")
        self.resolve(upstream, window, hand.rows, hand.rows[:refused])
        self.acknowledged(name, upstream, window)

    def resolve(self, upstream: Upstream, window: Any, rows: list[Version], aside: list[Version]) -> None:
        """The upstream has the rows of a window, but for those that it refused."""
        if window.replayed:
            for version in rows:
                values = upstream.replayed.pop(version, None)
                if values is not None and version in aside:
                    upstream.quarantined[version] = values
                if values is not None:
                    upstream.counts["quarantined" if version in aside else "delivered"] += 1
        else:
            upstream.resolve(self.rows_of(upstream, window), aside)

    @rule(
        limit=st.integers(1, 60),
        which=which_upstream,
        lane=st.sampled_from(LANES),
        refused=st.sampled_from([0, 0, 1, 3, 60]),
        times=st.integers(1, 5),
        in_hand=st.booleans(),
    )
    def send(self, limit: int, which: int, lane: Any, refused: int, times: int, in_hand: bool) -> None:
        """Some windows go out and are acknowledged; of the last the answer may be long in coming."""
        for _ in range(times):
            self.acknowledge(which, lane, refused)
            self.take(limit, which, lane)
        if not in_hand:
            self.acknowledge(which, lane, refused)

    @rule(which=which_upstream)
    def drain(self, which: int) -> None:
        """An upstream gets all that there is for it."""
        _, upstream = self.upstream(which)
        left = -1
        while upstream is not None and upstream.pending != left:
            left = upstream.pending
            for lane in LANES:
                self.send(50, which, lane, 0, 4, False)
        if upstream is not None and not upstream.hands:
            assert all(version.held for version in upstream.owed)
            assert not upstream.walk

    @rule(which=which_upstream)
    def split(self, which: int) -> None:
        name, upstream = self.upstream(which)
        if upstream is not None and not upstream.hands:
            self.store.split(name)
            upstream.split = self.file.last
            assert self.store.waiting(name, "live") == 0

    @rule(which=which_upstream, model=st.none() | models, device=st.none() | devices, again=st.booleans())
    def settle_quarantined(self, which: int, model: Model | None, device: str | None, again: bool) -> None:
        """Have quarantined rows sent once more, or drop them."""
        name, upstream = self.upstream(which)
        if upstream is None:
            return
        measurement = None if model is None else model.__measurement__
        chosen = [one for one in upstream.quarantined if is_of(one.key[0], measurement, device)]
        rows = {version: upstream.quarantined.pop(version) for version in chosen}
        upstream.counts["quarantined"] -= len(rows)
        if not again:
            upstream.counts["deleted"] += len(rows)
            assert self.store.drop_quarantined(name, measurement=measurement, device=device) == len(rows)
            return
        current = {version: values for version, values in rows.items() if not self.has_newer(version)}
        upstream.counts["superseded"] += len(rows) - len(current)
        which_rows: dict[str, Any] = {"measurement": measurement, "device": device, "reason": "ref"}
        assert self.store.replay_quarantined(name, **which_rows) == len(current)
        upstream.replayed |= current

    # -- questions ------------------------------------------------------------------------------------------------

    @rule(device=st.none() | devices, span=spans, order=orders, limit=st.none() | st.integers(0, 12))
    def query(self, device: str | None, span: Span, order: tuple[Model, str], limit: int | None) -> None:
        model, by = order
        question: dict[str, Any] = {"device": device, "start": span[0], "end": span[1], "order": by, "limit": limit}
        expected = select_rows(self.all_rows(model), model, **question)
        assert self.store.query_readings(model, **question) == expected
        with SQLiteStorage(self.path, read_only=True) as reader:
            assert reader.query_readings(model, **question) == expected

    @rule(
        of=st.sampled_from([*NUMBERS, (Weather, "note"), (Meter, "on")]),
        function=st.sampled_from(FUNCTIONS),
        device=st.none() | devices,
        span=spans,
        interval=st.sampled_from([None, "1h", "30m", "90m", "2h", "1d", "1w", "1mo"]),
        zone=st.sampled_from(["UTC", "UTC", "Europe/Zurich", "Asia/Kathmandu"]),
        group_by=st.sampled_from([None, "device"]),
    )
    def aggregate(self, of: tuple[Model, str], function: Any, zone: str, **question: Any) -> None:
        model, field = of
        if field in ("timestamp", "note", "on") and function not in ("count", "first", "last"):
            return
        question["start"], question["end"] = span = question.pop("span")
        question["tz"] = zone
        rules = [rule for rule in self.kept(model) if rule.reaches(*span)]
        expected = [
            aggregate_rows(self.all_rows(model, kept), model, field, function, **question)
            for kept in [rule.rows for rule in rules] or [[]]
        ]
        sees_twice = function in ("first", "last") and any(key in self.seen for rule in rules for key, _ in rule.rows)
        with SQLiteStorage(self.path, read_only=True) as reader:
            for store in (self.store, reader):
                try:
                    found = store.aggregate(model, field, function, **question)
                except InvalidValue:
                    assert rules
                    assert not any(self.must_answer(rule, span, zone, question["interval"]) for rule in rules)
                else:
                    assert found in expected or sees_twice or not self.are_known((model, question["device"], *span))

    @staticmethod
    def must_answer(rule: Rule, span: Span, zone: str, interval: str | None) -> bool:
        """Whether a rule that keeps all functions has to be able to answer."""
        return rule.knows_all and zone == "UTC" and interval in (None, "1h", "2h", "1d") and not rule.cuts(*span)


TestRoomStates = RoomStates.TestCase

TestRoomStates.settings = settings(max_examples=int(os.environ.get("STATES", "50")), stateful_step_count=40)
