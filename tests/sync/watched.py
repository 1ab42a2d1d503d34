"""What the state machine of forwarding is judged by: upstreams that do as they are told and know what became of every
version, a model of the books, and a store that looks at each window that sync asks for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from edgedepot import Reading, Version
from edgedepot.storage.base import BaseStorage, Data, StoreRow
from edgedepot.storage.buffer import Lane, Pending, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import DataRefused, Misconfigured, NotSupported, Overloaded, ReceiptTimeout, Unreachable
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.rows import aggregate_rows, select_rows
from edgedepot.storage.sqlite.storage import SQLiteStorage
from edgedepot.sync.lanes import BEHIND, LIVE_PAUSE, ROUND
from tests.storage.sqlite.states import content

BATCH = 3
"""Rows at most in a window: few, so that an upstream falls behind often and has two lanes."""
Key = tuple[str, str, datetime]


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


def rows_of(window: Window | None) -> object:
    """What a window says of rows. It may go on over the books behind them, which may be committed at any moment."""
    return None if window is None or not window.rows else content(replace(window, high=0))


class Turns:
    """What the lanes of one upstream have promised, by what went before."""

    def __init__(self) -> None:
        self.last: int | None = None
        """The last version of the backlog; None while nobody has split it."""
        self.lane: Lane = "backlog"
        self.out: tuple[int, int] | None = None
        """Where the window ends that is out; windows compare by that."""
        self.unresolved: tuple[int, int] | None = None
        """Where the furthest ends that was out when another was asked for."""
        self.live_running = 0
        self.live_at = -LIVE_PAUSE

    def asked_for(self, lane: Lane, window: Window) -> None:
        self.lane = lane
        self.out = (0, window.rows[-1].seq) if window.replayed else (1, window.high)

    def acknowledged(self, now: float) -> None:
        assert self.out is not None
        if self.unresolved is not None and self.out >= self.unresolved:
            self.unresolved = None
        self.out = None
        self.live_running = self.live_running + 1 if self.lane == "live" else 0
        self.live_at = now if self.lane == "live" else self.live_at

    def failed(self) -> None:
        """Of what is out nobody knows what became, or it will not be taken now."""
        if self.out is not None:
            self.unresolved = max(self.out, self.unresolved or self.out)
            self.out = None


class WatchedStore(SQLiteStorage):
    """The local store. It checks what sync does with windows, and has the models follow."""

    expected: dict[str, Model]
    upstreams: dict[str, Fickle]

    def watch_over(self, models: dict[str, Model], upstreams: dict[str, Fickle], clock: ManualClock) -> None:
        self.expected = models
        self.upstreams = upstreams
        self._time = clock
        self._aside: dict[int, str] = {}
        self._turns = {name: Turns() for name in models}
        self._live_running = dict.fromkeys(models, 0)

    def split(self, cursor: str) -> None:
        super().split(cursor)
        self._turns[cursor].last = max(self.expected[cursor].pending, default=0)

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        before = rows_of(super().pending(cursor, limit, lane))
        window = super().pending(cursor, limit, lane)
        self.upstreams[cursor].must(rows_of(window) == before, "read ahead, and not so any more")
        if window is not None:
            self.upstreams[cursor].must(len(window.rows) <= limit <= BATCH, "too large a window")
            self._turns[cursor].failed()
            self._check_order(cursor, lane, window)
            if self._turns[cursor].unresolved is None:
                self._check_turn(cursor, lane, limit)
            self._turns[cursor].asked_for(lane, window)
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
        self._check_share(cursor, self._turns[cursor].lane)
        super().acknowledge(cursor, window)
        self._turns[cursor].acknowledged(self._time.monotonic())
        self.expected[cursor].acknowledged(window, set(self._aside))
        self._aside.clear()

    def _check_order(self, cursor: str, lane: Lane, window: Window) -> None:
        """The oldest of a lane go first. Where an earlier run of the store split it, only the backlog's is known."""
        pending, last = sorted(self.expected[cursor].pending), self._turns[cursor].last
        if lane == "live":
            pending = [number for number in pending if last is None or number > last]
        if not window.replayed and (lane == "backlog" or last is not None):
            sent = [number_of(row.version(1)) for row in window.rows]
            self.upstreams[cursor].must(sent == pending[: len(sent)], f"not the oldest of the {lane}")

    def _check_turn(self, cursor: str, lane: Lane, limit: int) -> None:
        """Fresh rows go first, but for the backlog's share, and but while they gather."""
        turns, pending = self._turns[cursor], self.expected[cursor].pending
        fresh = [number for number in pending if number > (turns.last or 0)]
        waiting = self.waiting(cursor, "live")
        if self.waiting(cursor, "backlog") > BEHIND * limit:
            self.upstreams[cursor].must(self.is_split(cursor), "behind, and has one lane")
        if lane == "backlog" and turns.last is not None and fresh and len(fresh) < len(pending):
            gathers = self._time.monotonic() - turns.live_at < LIVE_PAUSE and waiting < limit
            self.upstreams[cursor].must(gathers or turns.live_running >= ROUND - 1, "fresh rows wait for the backlog")

    def _check_share(self, cursor: str, lane: Lane) -> None:
        waits = lane == "live" and self.waiting(cursor, "backlog") > 0
        self._live_running[cursor] = self._live_running[cursor] + 1 if waits else 0
        self.upstreams[cursor].must(self._live_running[cursor] < ROUND, "the backlog does not get its share")


def letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))
