"""Time before the clock is trusted: rows are held in pieces of their own, each of one time base.

      boot 1, trusted        boot 2, nobody knows the time     step      trust gained: the bases' offsets are written
    |------ _j_1 --------|---------- _j_2, base 1 ----------|- _j_3, base 2 -|-------- _j_4 --------
                           held: queries see it, fold and sync pass it by

Stamps of one boot and one base lie right to each other. What has to be added to them is known when the clock is trusted
in the same boot; one that ended before is put between its neighbours, by estimate. No row is rewritten for it: readers
of a piece add the offset to the gateway's own stamps (`rows_of`). Runs on the writer's thread.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import msgspec

from edgedepot.storage.buffer import Arrival
from edgedepot.storage.clock import DAY, EARLIEST, Clock
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.history import History
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.shape import Base, Piece, Shape
from edgedepot.storage.sqlite.tables import OWN_STAMP, rows_of, time_of
from edgedepot.storage.sqlite.tail import Series, Tail
from edgedepot.storage.sqlite.walk import NEVER
from edgedepot.storage.values import Quality

STEP = 1_000_000
"""Microseconds by which the wall clock has moved against the monotonic one where it was set, not slewed."""


class TimeKeeper:
    """Watches the clock: which base do the rows of a transaction belong to?"""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._relation: int | None = None
        self._trusted = clock.trusted
        self._before: tuple[int | None, bool] = (None, clock.trusted)
        self.at = 0
        self.stepped = False
        """Whether the clock was set since the transaction before."""
        self.moved = 0
        """By how much the clock was stepped since the transaction before, while it was not trusted."""

    def look(self, shape: Shape) -> Base | None:
        """The base of what comes in now, None where time is trusted. Notes the time and a step of the clock."""
        self.at = self._clock.now()
        self._before = (self._relation, self._trusted)
        relation = self.relation
        self.moved = 0
        before = relation if self._relation is None else self._relation
        self.stepped = abs(relation - before) > STEP
        if self.stepped and not self._trusted:
            self.moved = relation - before
        if self.stepped or self._relation is None:
            self._relation = relation
        self._trusted = self._clock.trusted
        return None if self._trusted else self._base(shape, relation)

    def rolled_back(self) -> None:
        """The transaction is undone: the next finds the same step."""
        self._relation, self._trusted = self._before

    @property
    def relation(self) -> int:
        """The wall clock minus the monotonic one, in microseconds."""
        return self._clock.now() - round(self._clock.monotonic() * 1e6)

    def _base(self, shape: Shape, relation: int) -> Base:
        """The last base, where it goes on, also from a process before this; else a new one."""
        last = shape.bases[-1] if shape.bases else None
        goes_on = last is not None and last.offset is None and last.boot == self._clock.boot
        if last is not None and goes_on and abs(relation - last.relation) <= STEP:
            return last
        new = Base(1 if last is None else last.id + 1, self._clock.boot, relation)
        shape.bases.append(new)
        return new

    def put_right(self, arrival: Arrival, unchecked_at: int | None) -> Arrival:
        """An arrival of the time just before the clock was stepped, or just before it was trusted, as it would have
        come after. A device's time is checked where it says when that came."""
        model, device, ts, stamped, row = arrival
        if stamped:
            return Arrival(model, device, self.moved_on(ts), True, row)
        if unchecked_at is None or plausible(ts, self.moved_on(unchecked_at)):
            return arrival
        quality = (row[0] or 0) | Quality.TIME_REPLACED
        return Arrival(model, device, self.moved_on(unchecked_at), True, (int(quality), *row[1:]))

    def moved_on(self, ts: int) -> int:
        """A stamp by the clock as it is now: one that lies nearer to what that said before the step is of then."""
        return ts if abs(self.at - ts) <= abs(self.at - self.moved - ts) else ts + self.moved

    def settle_bases(self, shape: Shape, estimate: bool) -> list[Base]:
        """Give the held bases their offsets, now that the clock is trusted; those that got one. Without `estimate`
        boots that ended before they were trusted stay held."""
        settled: list[Base] = []
        relation = self.relation
        for base in shape.bases:
            is_present = base.boot == self._clock.boot
            if base.offset is None and (is_present or estimate):
                base.offset = relation - base.relation if is_present else base.guess or 0
                base.uncertain = not is_present
                settled.append(base)
        return settled

    def guess(self, connection: sqlite3.Connection, shape: Shape) -> bool:
        """Where the boots were that have ended, once the clock is trusted after them; whether any was new. They are
        released now, or any time later: what comes in meanwhile came after them, and would not look so."""
        boots: dict[str, list[Base]] = {}
        for base in shape.bases:
            if base.offset is None and base.guess is None and base.boot != self._clock.boot:
                boots.setdefault(base.boot, []).append(base)
        spans = [_span(connection, shape, bases) for bases in boots.values()]
        lengths = [0 if span is None else span[1] - span[0] + 1 for span in spans]
        until, after = self.relation - sum(lengths), NEVER
        for bases, span, length in zip(boots.values(), spans, lengths, strict=True):
            until += length
            moved = 0
            if span is not None:
                after = max(after, _last_before(connection, shape, bases, until))
                moved = _estimate(span, after, until)
                after = span[1] + moved
            for base in bases:  # of one boot: monotonic time tells how they lie to each other
                base.guess = moved + bases[0].relation - base.relation
        return bool(boots)


def plausible(ts: int, received: int) -> bool:
    """Whether a device's time can be right, of a reading that came at `received`."""
    return EARLIEST <= ts <= received + DAY


def _estimate(span: tuple[int, int], after: int, until: int) -> int:
    """Where an ended boot was, as the offset of its first base: it came after what is before it in the journal, and
    ended before those after it, at `until` at the latest. Its own clock is believed where it fits in there."""
    first, last = span
    if after < first and last < until:
        return 0
    if after > NEVER and after + 1 + last - first < until:
        return after + 1 - first
    return until - 1 - last


def _span(connection: sqlite3.Connection, shape: Shape, bases: list[Base]) -> tuple[int, int] | None:
    """The first and the last time of a boot by the clock of its first base, None where nothing tells."""
    spans = [
        (low + bases[0].relation - base.relation, high + bases[0].relation - base.relation)
        for base in bases
        for piece in shape.pieces
        if piece.base == base.id
        for low, high in [_known_times(connection, piece)]
        if low is not None
    ]
    return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None


def _known_times(connection: sqlite3.Connection, piece: Piece) -> Any:
    """The first and the last time that the gateway's clock said."""
    at = f"iif(received = {OWN_STAMP}, ts, received)"
    return connection.execute(f"SELECT min({at}), max({at}) FROM {piece.table} WHERE series > 0").fetchone()


def _last_before(connection: sqlite3.Connection, shape: Shape, bases: list[Base], until: int) -> int:
    """The latest time, up to one, of the rows before a boot."""
    ids = {base.id for base in bases}
    times = [connection.execute("SELECT max(newest) FROM _series WHERE newest < ?", (until,)).fetchone()[0]]
    for before in takewhile(lambda piece: piece.base not in ids, shape.pieces):
        base = shape.base_of(before)
        if base is None or base.offset is not None:
            query = f"SELECT max(ts) FROM {rows_of(shape, before)} WHERE series > 0 AND ts < ?"
            times.append(connection.execute(query, (until,)).fetchone()[0])
        elif base.guess is not None:
            last = _known_times(connection, before)[1]
            times.append(None if last is None or last + base.guess >= until else last + base.guess)
    return max((time for time in times if time is not None), default=NEVER)


def forget_held(connection: sqlite3.Connection, tail: Tail, piece: Piece) -> None:
    """A held piece is about to go: nothing remembers its rows. Inside the writer's transaction, when the tail is
    hidden."""
    found: dict[int, array[int]] = {}
    for series, seq in connection.execute(f"SELECT series, seq FROM {piece.table} WHERE series > 0 ORDER BY ts"):
        found.setdefault(series, array("q")).append(seq)
    for series_id, seqs in found.items():
        series = tail.series(series_id)
        assert series is not None
        tail.forget(series, seqs)
        tail.held -= len(seqs)


class _Times(msgspec.Struct):
    """The rows of one series while their times settle: those that stay, and the gateway's stamps, which give way."""

    fixed: array[int] = msgspec.field(default_factory=lambda: array("q"))
    fixed_seqs: array[int] = msgspec.field(default_factory=lambda: array("q"))
    stamps: array[int] = msgspec.field(default_factory=lambda: array("q"))
    stamp_seqs: array[int] = msgspec.field(default_factory=lambda: array("q"))


class Release:
    """Brings rows in line whose base has got its offset: in the piece where it must, and in memory.

    Time goes with the number of rows held. Inside the writer's transaction, when the tail is hidden.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        shape: Shape,
        tail: Tail,
        history: History,
        layouts: Mapping[int, Layout],
    ) -> None:
        self._connection = connection
        self._shape = shape
        self._tail = tail
        self._history = history
        self._layouts = layouts

    def run(self, bases: list[Base], booted: int) -> None:
        """Check the devices' times, and settle what the stamps come to. This boot began at `booted`."""
        ids = {base.id for base in bases}
        pieces = [piece for piece in self._shape.pieces if piece.base in ids]
        for piece in pieces:
            self._replace_impossible_times(piece, booted)
        found: dict[int, _Times] = {}
        for piece in pieces:
            query = f"SELECT seq, series, {time_of(self._shape, piece)}, received = {OWN_STAMP} FROM {piece.table}"
            for seq, series, ts, is_own in self._connection.execute(f"{query} WHERE series > 0 ORDER BY seq"):
                times = found.setdefault(series, _Times())
                (times.stamps if is_own else times.fixed).append(ts)
                (times.stamp_seqs if is_own else times.fixed_seqs).append(seq)
        spans = self._shape.spans(pieces)
        newest = dict(read_records(self._connection, "_series", ("id", "newest")))
        for series_id, times in found.items():
            series = self._tail.series(series_id)
            assert series is not None
            self._settle(series, times, spans, newest.get(series_id))

    def _replace_impossible_times(self, piece: Piece, booted: int) -> None:
        """A device whose clock was never set: the time at which its reading came stands for it. When a boot was that
        has ended is a guess, but it ended before this one began."""
        base = self._shape.base_of(piece)
        assert base is not None
        latest = booted + DAY if base.uncertain else f"received + {(base.offset or 0) + DAY}"
        self._connection.execute(
            f"UPDATE {piece.table} SET ts = received, received = {OWN_STAMP},"
            f" quality = coalesce(quality, 0) | {Quality.TIME_REPLACED:d}"
            f" WHERE received <> {OWN_STAMP} AND NOT ts BETWEEN {EARLIEST} AND {latest}"
        )

    def _settle(self, series: Series, times: _Times, spans: list[tuple[int, int]], folded: int | None) -> None:
        for ts, seq in zip(series.times, series.seqs, strict=True):
            if not any(low <= seq <= high for low, high in spans):
                times.fixed.append(ts)
                times.fixed_seqs.append(seq)
        fixed = sorted(zip(times.fixed, times.fixed_seqs, strict=True))
        taken = array("q", [ts for ts, _ in fixed])
        placed: list[tuple[int, int]] = []
        last = NEVER
        for wanted, seq in sorted(zip(times.stamps, times.stamp_seqs, strict=True)):
            ts = self._free(series, max(wanted, last + 1), taken, NEVER if folded is None else folded)
            if ts != wanted:
                piece = self._shape.piece_of(seq)
                assert piece is not None
                self._connection.execute(f"UPDATE {piece.table} SET ts = ts + ? WHERE seq = ?", (ts - wanted, seq))
            placed.append((ts, seq))
            last = ts
        rows = sorted([*fixed, *placed])
        series.times = array("q", [ts for ts, _ in rows])
        series.seqs = array("q", [seq for _, seq in rows])
        series.newest = max(NEVER if folded is None else folded, series.times[-1])

    def _free(self, series: Series, ts: int, taken: array[int], folded: int) -> int:
        """The first moment from `ts` on of which the series has no row."""
        layout = self._layouts[series.model_id]
        while True:
            place = bisect_left(taken, ts)
            is_taken = place < len(taken) and taken[place] == ts
            if not is_taken and (ts > folded or self._history.find(layout, (), series.id, ts) is None):
                return ts
            ts += 1
