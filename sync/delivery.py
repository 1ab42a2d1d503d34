"""One window of rows on its way to one upstream.

A window goes out as one request for each reading model in it, in parts where a budget has no room for that. A request
that the upstream refuses is halved until the bad rows stand alone; these are set aside with the upstream's reason. Only
then is the window acknowledged.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Protocol

from edgedepot.storage.base import BaseStorage, Version
from edgedepot.storage.buffer import Pending, Window
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import (
    DataRefused,
    Misconfigured,
    ReceiptTimeout,
    StorageClosed,
    StorageError,
    Unreachable,
    UpstreamError,
)
from edgedepot.storage.reading import Reading
from edgedepot.storage.receipt import Refusal
from edgedepot.storage.versions import Versions
from edgedepot.sync.budget import Budget

ANSWER_TIMEOUT = 30.0
"""Seconds for which an upstream's receipt may take to become durable; after that the rows are sent again. A request
that takes longer is awaited, for nobody can take it back, but somebody is told."""

GUARD = 16
"""So many rows refused one after the other, each alone and for one reason, and none accepted: it is not the rows."""

_SEQ = itemgetter(0)  # of a `Pending`, which are looked through by the thousand
_VARYING = re.compile(r"""\"[^\"]*\"|'[^']*'|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?""")


class Interrupted(Exception):
    """The worker was told to stop between two requests."""


class Source(Protocol):
    """Where the rows come from that are sent, and what is told what became of them: of a `Buffer`, these."""

    def epoch_of(self, seq: int) -> int: ...
    def acknowledge(self, cursor: str, window: Window) -> None: ...
    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None: ...


class Delivery:
    """Sends windows and remembers, until a window is acknowledged, what became of its rows.

    A delivery that failed half way is continued by calling `deliver` with the window as the store gives it now: rows
    that were resolved are not sent again. Forgetting would do no harm, as upstreams take equal rows twice for once.

    All but the counts, `asked_at` and `asked`, which any thread may read, is for one thread. `go_on` is asked before
    each request.
    """

    def __init__(
        self,
        store: Source,
        cursor: str,
        upstream: BaseStorage,
        clock: Clock,
        go_on: Callable[[], bool],
        budget: Budget | None = None,
    ) -> None:
        self._store = store
        self._cursor = cursor
        self._upstream = upstream
        self._clock = clock
        self._go_on = go_on
        self._budget = budget
        self._accepted: set[int] = set()
        self._refused: dict[int, str] = {}
        self._at_fault: set[int] = set()
        """Of these, the ones whose own fault it is for certain: they tell nothing of the set-up."""
        self._latest_reasons: deque[str] = deque(maxlen=GUARD)
        self._doubtful = False
        self._meanwhile: Callable[[], None] = lambda: None
        self.requests = 0
        self.delivered = 0
        self.last_delivery: int | None = None
        self.asked_at: float | None = None
        """When the request began whose answer is waited for, of the monotonic clock."""
        self._asked = 0.0

    def asked(self, now: float) -> float:
        """Seconds that requests have taken until `now`, the one under way included. For any thread."""
        began = self.asked_at
        return self._asked + (0.0 if began is None else now - began)

    def deliver(self, window: Window, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Resolve every row of the window, then acknowledge it. Blocks for as long as the upstream takes. `meanwhile`
        is called, maybe more than once, when the upstream was handed the rows and its answer is waited for.

        Raises what the upstream raised, as an `UpstreamError` whatever storage it is; `Misconfigured` also where every
        row is refused alike; `Interrupted`; `Held` where the next request would be beyond the budget; and what the
        local store raises. The window is then not acknowledged and nothing of it is set aside.
        """
        self._meanwhile = meanwhile
        try:
            self._resolve(window.rows)
        except Misconfigured:
            self._refused.clear()
            self._at_fault.clear()
            self._doubtful = True
            raise
        self._set_aside(window.rows)
        self._store.acknowledge(self._cursor, window)
        self._forget(window)

    def _resolve(self, rows: Sequence[Pending]) -> None:
        if self._doubtful and self._probe(rows):  # it was mended meanwhile: what was refused before is asked again
            self._refused = {seq: self._refused[seq] for seq in self._at_fault}
        refused = deque([request for request in self._requests(rows) if not self._offer(request)])
        probed = False
        while refused:
            if len(refused) >= GUARD and not probed and not self._took_some_of(rows):
                self._probe(rows)
                probed = True
            request = self._unresolved(refused.popleft())
            if len(request) > 1:
                refused.extend(self._halve(request))
            elif request:
                self._offer(request)
        self._check_setup(rows)

    def _requests(self, rows: Sequence[Pending]) -> Iterator[list[Pending]]:
        """One for each reading model, in such parts as the budget has room for right before each is sent."""
        for request in _by_model(self._unresolved(rows)):
            while request:
                part = request if self._budget is None else self._budget.fitting(request)
                yield part
                request = request[len(part) :]

    def _halve(self, request: list[Pending]) -> list[list[Pending]]:
        """Offer both halves of a refused request; those that hold bad rows still to be found.

        When the left half is accepted the bad row must be in the right one, which is then not asked for: this, and
        going by levels, finds k bad rows among n with at most 2k·log2(n)+2 requests.
        """
        middle = len(request) // 2
        left, right = request[:middle], request[middle:]
        left_accepted = self._offer(left)
        if left_accepted and len(right) > 1:
            return [right]
        right_accepted = self._offer(right)
        halves = ((left, left_accepted), (right, right_accepted))
        return [half for half, accepted in halves if not accepted and len(half) > 1]

    def _probe(self, rows: Sequence[Pending]) -> bool:
        """Ask for single rows from all over the window, until one is accepted, before thousands are asked for; whether
        one was. In place of those that are at fault themselves there are others, as long as not all are."""
        in_doubt = 0
        while in_doubt < GUARD:
            asked = _spread(self._unresolved(rows), GUARD)
            for row in asked:
                self._offer([row])
                if row.seq in self._accepted:
                    return True
            found = sum(row.seq not in self._at_fault for row in asked)
            if not found:
                break
            in_doubt += found
        self._check_setup(rows)
        return False

    def _check_setup(self, rows: Iterable[Pending]) -> None:
        """Raise `Misconfigured` if nothing of this window was accepted and the latest reasons are all the same."""
        if self._took_some_of(rows) or self._refused.keys() <= self._at_fault:
            return
        reasons = self._latest_reasons
        if len(reasons) == GUARD and len({_kind_of(reason) for reason in reasons}) == 1:
            raise Misconfigured(
                "every reading is refused for the same reason, so the set-up there (address, rights, schema) "
                f"must be wrong, not the readings: {reasons[-1]}"
            )

    def _took_some_of(self, rows: Iterable[Pending]) -> bool:
        return any(row.seq in self._accepted for row in rows)

    def _offer(self, rows: list[Pending]) -> bool:
        """Send one request. True when the upstream took it, but for rows that it listed; False when it refused it as a
        whole, which resolves the row of a request of one, and all rows where each is at fault."""
        try:
            listed = self._send(rows)
        except (DataRefused, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            if isinstance(exc, DataRefused) and exc.at_fault == len(rows):
                self._note_faults(rows, reason)
            elif len(rows) == 1:
                self._note_refusal(rows[0], reason)
            return False
        reasons = {refusal.index: refusal.reason for refusal in listed}
        taken = (
            [row.seq for index, row in enumerate(rows) if index not in reasons] if reasons else list(map(_SEQ, rows))
        )
        if taken:
            self._note_acceptance(taken)
        for index, reason in reasons.items():
            self._note_refusal(rows[index], reason)
        return True

    def _send(self, rows: list[Pending]) -> Sequence[Refusal]:
        """The rows that the upstream listed as refused, once the others are durable there."""
        if not self._go_on():
            raise Interrupted
        versions = self._versions(rows)
        if self._budget is not None:
            self._budget.admit(rows)
        self.requests += 1
        took_it = False
        try:
            with self._asking():
                receipt = self._upstream.store_readings(rows[0].model, versions)
                refused = () if receipt is None else receipt.wait("durable", ANSWER_TIMEOUT).refused
            took_it = True
            return refused
        finally:
            if self._budget is not None:
                self._budget.settle(rows, took_it)

    def check(self) -> None:
        """Ask whether the upstream would take readings. Raises what `deliver` would, were there any."""
        if not self._go_on():
            raise Interrupted
        if self._budget is not None:
            self._budget.admit_check()
        try:
            with self._asking():
                found = self._upstream.health_check()
        finally:
            if self._budget is not None:
                self._budget.count_check()
        if found["status"] != "pass":
            kind = Misconfigured if found.get("error") == Misconfigured.__name__ else Unreachable
            raise kind(str(found["message"]))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A request: since when its answer is waited for, and what storages raise as an `UpstreamError`."""
        self.asked_at = self._clock.monotonic()
        try:
            yield
        except UpstreamError:
            raise
        except StorageClosed as exc:
            raise Unreachable(f"the upstream storage was closed: {exc}") from exc
        except ReceiptTimeout as exc:
            raise Unreachable(str(exc)) from exc
        except StorageError as exc:  # any storage may be an upstream, and its errors are not the local store's
            raise UpstreamError(str(exc) or type(exc).__name__, code=type(exc).__name__) from exc
        finally:
            self._asked, self.asked_at = self.asked(self._clock.monotonic()), None

    def _versions(self, rows: list[Pending]) -> Sequence[Version]:
        """The rows as storages take them, each of the epoch in which it was written: nearly always one."""
        epoch_of = self._store.epoch_of
        epoch = epoch_of(min(map(_SEQ, rows)))
        if epoch == epoch_of(max(map(_SEQ, rows))):
            return Versions(rows, epoch, self._meanwhile)
        return [row.version(epoch_of(row.seq)) for row in rows]

    def _note_acceptance(self, seqs: list[int]) -> None:
        self._accepted.update(seqs)
        self._latest_reasons.clear()
        self._doubtful = False
        self.delivered += len(seqs)
        self.last_delivery = self._clock.now()

    def _note_refusal(self, row: Pending, reason: str) -> None:
        self._refused[row.seq] = reason
        self._latest_reasons.append(reason)

    def _note_faults(self, rows: list[Pending], reason: str) -> None:
        self._refused.update((row.seq, reason) for row in rows)
        self._at_fault.update(map(_SEQ, rows))

    def _unresolved(self, rows: Iterable[Pending]) -> list[Pending]:
        if not (self._accepted or self._refused):
            return list(rows)
        return [row for row in rows if row.seq not in self._accepted and row.seq not in self._refused]

    def _set_aside(self, rows: Iterable[Pending]) -> None:
        by_reason: dict[str, list[Pending]] = {}
        for row in rows if self._refused else ():
            if row.seq in self._refused:
                by_reason.setdefault(self._refused[row.seq], []).append(row)
        for reason, refused in by_reason.items():
            self._store.quarantine(self._cursor, refused, reason)

    def _forget(self, window: Window) -> None:
        """What lies beyond stays known: a window that was asked for again may be a shorter one."""
        rows = set(map(_SEQ, window.rows))
        self._accepted -= rows
        done = {seq for seq in (*self._accepted, *self._refused) if window.low <= seq <= window.high or seq in rows}
        self._accepted -= done
        self._refused = {seq: reason for seq, reason in self._refused.items() if seq not in done}
        self._at_fault &= self._refused.keys()


def _by_model(rows: Iterable[Pending]) -> list[list[Pending]]:
    """One request for each reading model, in the order in which the models first appear; rows stay in order of seq."""
    requests: dict[type[Reading], list[Pending]] = {}
    for row in rows:
        requests.setdefault(row.model, []).append(row)
    return list(requests.values())


def _spread(rows: Sequence[Pending], count: int) -> list[Pending]:
    """At most `count` rows, evenly over all, the first and the last among them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[index * (len(rows) - 1) // (count - 1)] for index in range(count)]


def _kind_of(reason: str) -> str:
    """What reasons of one kind share: the first line up to a parenthesis, without what is quoted and without numbers.

    Servers put the row's values there: 'value "1e300" is out of range for type real', 'Failing row contains (mast, 5)'.
    """
    return _VARYING.sub("?", re.split(r"[\n(]", reason, maxsplit=1)[0])
