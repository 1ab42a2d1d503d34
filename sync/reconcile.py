"""Compares an upstream with what it has received by the local store's books, and sends what is missing again.

    local history   o o o o o o o o o o p p     o received   p pending: never looked at here
    upstream        o o . o o x o o + o         . missing: sent   x another value: sent   + only there: left alone

For a server that was restored from an old copy, or lost some of what it had. Where an upstream differs is found by
counts and extremes (compare.py); there, rows are compared. A row goes out with the version that it had the first time,
so that an upstream that compares versions keeps a newer one. One that does not could be given an old value where a row
changes at that very moment: so rows are read here last, right before they are sent, and one that changed is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Any, Protocol, cast

from edgedepot.storage.base import BaseStorage
from edgedepot.storage.buffer import Pending, Window
from edgedepot.storage.clock import HOUR, Clock, SystemClock, from_micros, to_micros
from edgedepot.storage.delivered import Delivered, measures_of, rows_in
from edgedepot.storage.query import micros_of
from edgedepot.storage.reading import Reading
from edgedepot.sync.budget import Budget
from edgedepot.sync.compare import Comparison, Difference, Run, Scope, Stretch, moment_of
from edgedepot.sync.cost import Size, largest_row, row_size
from edgedepot.sync.delivery import Delivery
from edgedepot.sync.limits import Limits
from edgedepot.sync.notes import Notes
from edgedepot.sync.pace import TOGETHER, Pace
from edgedepot.sync.settings import check_ends

BATCH = 2_000
"""Rows that are sent together."""
_REASONS = 20
"""So many different reasons of refusals are kept."""

Day = tuple[str, str, date]
"""Measurement, device and day in UTC."""


@dataclass(slots=True)
class Finding:
    """What was found of a device's readings of one day, in readings."""

    missing: int = 0
    """Not there."""
    different: int = 0
    """There with another value than here, or without it."""
    sent: int = 0
    """Of these, sent; the upstream has them now."""
    refused: int = 0
    """Of these, refused by the upstream, each by itself."""
    kept: int = 0
    """Of those that were different and sent: the upstream keeps its own, which is newer."""
    only_there: int = 0
    """There and not to be expected there; left alone. As far as was looked."""


@dataclass(slots=True)
class Report:
    """What a comparison found and did. `reasons` counts the refusals by the upstream's words."""

    days: dict[Day, Finding] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    delivered: int | None = None
    """How many versions the books count as delivered; None where a part alone is compared, and where a reading need not
    have any one value: these are not counted apart."""
    here: int | None = None
    """How many of these could be compared; None where that is. The others have gone from here, have changed, or went
    into averages that nobody can make anew."""
    compared: int = 0
    """Requests that compared, each for many readings."""
    read: int = 0
    """Requests that read rows."""
    written: int = 0
    """Requests that sent rows."""

    def total(self) -> Finding:
        """All days together."""
        names = Finding.__slots__
        return Finding(**{name: sum(getattr(one, name) for one in self.days.values()) for name in names})

    @property
    def requests(self) -> int:
        """All requests to the upstream."""
        return self.compared + self.read + self.written


class History(Protocol):
    """The local store, as far as this needs it."""

    def delivered(self, cursor: str) -> Delivered:
        """What an upstream has received. Raises `InvalidValue` where it has no such upstream."""
        ...


class Reconciliation:
    """One comparison of an upstream with the local history, from its beginning to its end.

    `find` first, then `mend` each stretch that it found; `report` grows with that, and is as far as it got where one of
    them raised: what was sent stays there, and doing it all again goes on from there. The parameters say what is
    compared: the readings of these measurements (None: all), of one device, with ``start <= timestamp < end``. With
    `dry_run` nothing is sent. Raises `ConfigError` where store and upstream do not fit, `InvalidValue`.

    `costs` is what the upstream may cost: of a day's bytes it takes what a backlog may, of a rate half, in its hours.
    `notes` keeps what it spent (None: the store); a worker takes that off its own. Where a rate has it wait
    it does (`wait`, in seconds); where hours or a day's budget do, `find` and `mend` raise `LimitReached`, and
    `ConfigError` where a whole day's would not be enough.

    For one thread; a worker may forward to the same upstream meanwhile, also in another process.
    """

    def __init__(
        self,
        store: History,
        name: str,
        upstream: BaseStorage,
        *,
        models: Sequence[str] | None = None,
        device: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        dry_run: bool = False,
        costs: Limits | None = None,
        notes: Notes | None = None,
        wait: Callable[[float], object] | None = None,
        clock: Clock | None = None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        check_ends(store, name, upstream)
        self._upstream = upstream
        self._delivered = store.delivered(name)
        self._models = models
        scope = Scope(
            device,
            None if start is None else micros_of(start, "start"),
            None if end is None else micros_of(end, "end"),
        )
        self._is_of_all = models is None and scope == Scope()
        self._dry_run = dry_run
        self._sink = _Sink(self._delivered)
        clock = clock or SystemClock()
        self._budget = self._pace = None
        if costs is not None:
            self._budget = Budget(costs, notes or cast(Notes, store), name, upstream, clock, is_beside=True)
            self._pace = Pace(self._budget, name, clock, wait)
        self._comparison = Comparison(self._delivered, upstream, scope, self._pace)
        self._delivery = Delivery(self._sink, name, upstream, clock, go_on, self._budget)
        self.report = Report()

    def models(self) -> list[type[Reading]]:
        """The models to compare. `find` takes one request for each field and function of them, or more."""
        return [one for one in self._delivered.models() if self._models is None or one.__measurement__ in self._models]

    def questions(self) -> int:
        """How many measures `find` asks for: each is a request, or some where bytes are limited."""
        return sum(len(measures_of(model)) for model in self.models())

    def find(self, asked: Callable[[], object] = lambda: None) -> list[Difference]:
        """Where the upstream lacks something; `asked` is called after each measure. Blocks; raises what the upstream
        raises, and `ConfigError` where a day's budget is too little for it."""
        found: list[Difference] = []
        with self._comparing():
            there = self._comparison.days(self.models())
            if self._is_of_all and all(any(spec.required for spec in days.model.__fields__) for days in there):
                self.report.delivered = self._delivered.count()
                self.report.here = sum(rows_in(tally) for days in there for tally in days.tallies.values())
            for days in there:
                found += self._comparison.differences(days, asked)
        return found

    @contextmanager
    def _comparing(self) -> Iterator[None]:
        """Have the report know what came of it."""
        try:
            yield
        finally:
            self.report.compared = self._comparison.requests
            for (measurement, device, day), rows in self._comparison.extra.items():
                self._finding(measurement, device, day).only_there += rows
            self._comparison.extra.clear()

    def mend(self, difference: Difference) -> None:
        """Compare what was found row by row, and send what is missing. Blocks; raises what the upstream raises, and
        `Interrupted`."""
        left = [difference]
        while left:
            one = left.pop()
            if isinstance(one, Run):
                with self._comparing():
                    left += reversed(self._comparison.narrowed(one))
            else:
                self._mend(one)

    def _mend(self, stretch: Stretch) -> None:
        for start, end in _parts(stretch):
            sizes = {} if stretch.is_empty else self._sizes(stretch, start, end)
            until = start
            while until < end:
                until = self._look_at(stretch, until, end, sizes)

    def _look_at(self, stretch: Stretch, start: int, end: int, sizes: Mapping[int, Size]) -> int:
        """Compare a part, or as much of it as may be read at once, and send what is missing there; up to where."""
        theirs, end = ({}, end) if stretch.is_empty else self._theirs(stretch, start, end, sizes)
        wrong: list[Pending] = []
        others: set[int] = set()
        for row in self._delivered.rows(stretch.model, stretch.device, start, end):
            found = theirs.pop(row.timestamp, None)
            if found is None or _differs(row, found):
                finding = self._finding(stretch.model.__measurement__, stretch.device, row.timestamp)
                finding.missing += found is None
                finding.different += found is not None
                wrong.append(row)
                others |= {row.seq} if found is not None else set()
        for timestamp in theirs:
            self._finding(stretch.model.__measurement__, stretch.device, timestamp).only_there += 1
        if not self._dry_run:
            refused = self._send(stretch, wrong)
            self._check(stretch, [row for row in wrong if row.seq in others and row.seq not in refused])
        return end

    def _sizes(self, stretch: Stretch, start: int, end: int) -> dict[int, Size]:
        """What ours take, by time; nothing where that does not matter."""
        rows = self._delivered.rows(stretch.model, stretch.device, start, end) if self._pace is not None else []
        return {row.timestamp: row_size(row) for row in rows}

    def _theirs(
        self, stretch: Stretch, start: int, end: int, sizes: Mapping[int, Size]
    ) -> tuple[dict[int, dict[str, Any]], int]:
        """What the upstream has, from the start until as many were read as may be at once; up to where."""
        ends = moment_of(start), moment_of(end)
        question = partial(self._upstream.query_readings, stretch.model, stretch.device, *ends, order="timestamp")
        if self._pace is None:
            limit = TOGETHER
            rows = question(limit=limit)
        else:
            ours = [size for timestamp, size in sizes.items() if start <= timestamp < end]
            largest = largest_row(stretch.model, stretch.device)
            limit = self._pace.rows_at_once(ours, largest)
            rows = self._pace.ask_rows(stretch.model, ours, largest.times(limit), partial(question, limit=limit))
        self.report.read += 1
        if len(rows) >= limit:
            end = to_micros(rows[-1]["timestamp"]) + 1  # a gateway has one row of each moment
        mine = self._upstream.gateway_id
        return {to_micros(row["timestamp"]): row for row in rows if row.get("gateway_id", mine) == mine}, end

    def _send(self, stretch: Stretch, rows: list[Pending]) -> set[int]:
        """Send rows; the numbers of those that were refused."""
        refused: set[int] = set()
        for first in range(0, len(rows), BATCH):
            left = rows[first : first + BATCH]
            while left:
                part = left if self._budget is None else self._budget.fitting(left)
                refused |= self._deliver(stretch, part)
                left = left[len(part) :]
        return refused

    def _deliver(self, stretch: Stretch, rows: list[Pending]) -> set[int]:
        """The same, of as many as fit into the budget at once."""
        requests = self._delivery.requests
        deliver = partial(self._delivery.deliver, Window(0, 0, rows))
        try:
            if self._pace is None:
                deliver()
            else:
                self._pace.until_free(deliver)
        finally:
            self.report.written += self._delivery.requests - requests
        measurement, device = stretch.model.__measurement__, stretch.device
        refused = self._sink.take()
        for row, reason in refused:
            self._finding(measurement, device, row.timestamp).refused += 1
            if reason in self.report.reasons or len(self.report.reasons) < _REASONS:
                self.report.reasons[reason] += 1
        numbers = {row.seq for row, _ in refused}
        for row in rows:
            self._finding(measurement, device, row.timestamp).sent += row.seq not in numbers
        return numbers

    def close(self) -> None:
        """It is over: note what was spent in fact. Nothing happens without `costs`."""
        if self._budget is not None:
            self._budget.close()

    def _check(self, stretch: Stretch, rows: list[Pending]) -> None:
        """See which rows an upstream kept as they were, though others were sent."""
        now: dict[int, dict[str, Any]] = {}
        start, end = (rows[0].timestamp, rows[-1].timestamp + 1) if rows else (0, 0)
        while start < end:
            found, start = self._theirs(stretch, start, end, {})
            now |= found
        for row in rows:
            if _differs(row, now.get(row.timestamp, {})):
                finding = self._finding(stretch.model.__measurement__, stretch.device, row.timestamp)
                finding.sent -= 1
                finding.kept += 1

    def _finding(self, measurement: str, device: str, timestamp: int) -> Finding:
        return self.report.days.setdefault((measurement, device, from_micros(timestamp).date()), Finding())


class _Sink:
    """Is told what became of rows: the books know them as delivered already, so here it is only counted."""

    def __init__(self, delivered: Delivered) -> None:
        self.epoch_of = delivered.epoch_of
        self._refused: list[tuple[Pending, str]] = []

    def acknowledge(self, cursor: str, window: Window) -> None:
        pass

    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        self._refused += [(row, reason) for row in rows]

    def take(self) -> list[tuple[Pending, str]]:
        """What was refused since the last time."""
        refused, self._refused = self._refused, []
        return refused


def reconcile(store: History, name: str, upstream: BaseStorage, **more: Any) -> Report:
    """Compare an upstream with the local history, and send what is missing; see `Reconciliation` for the parameters."""
    reconciliation = Reconciliation(store, name, upstream, **more)
    try:
        for stretch in reconciliation.find():
            reconciliation.mend(stretch)
    finally:
        reconciliation.close()
    return reconciliation.report


def _parts(stretch: Stretch) -> Iterator[tuple[int, int]]:
    """A stretch as such parts as fit the memory: hours, where it has many rows."""
    if stretch.rows <= TOGETHER:
        yield stretch.start, stretch.end
        return
    start = stretch.start
    while start < stretch.end:
        end = min(start - start % HOUR + HOUR, stretch.end)
        yield start, end
        start = end


def _differs(row: Pending, found: dict[str, Any]) -> bool:
    """Whether the upstream has another value than ours, or none. What it has where we have none is its own."""
    values = zip((spec.name for spec in row.model.__fields__), row.row[1:], strict=True)
    return any(value is not None and found.get(name) != value for name, value in values)
