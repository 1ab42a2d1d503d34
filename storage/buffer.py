"""The contract of the local store: drivers fill it, sync empties it, and it keeps the books."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Protocol

from edgedepot.storage.base import Version
from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import NotSupported
from edgedepot.storage.given_up import GivenUp
from edgedepot.storage.reading import Reading
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.values import Row

Start = Literal["oldest", "now"] | datetime
"""Where a new upstream begins."""
Lane = Literal["backlog", "live"]
"""What of an upstream's pending rows: the oldest first, or the fresh ones beside them."""


DIRECT = "direct"
"""The source under which the books have readings that Python code stores itself."""


class Arrival(NamedTuple):
    """One reading from a driver, checked and ready to store. `timestamp` is in microseconds since 1970 UTC; `stamped`
    says that it is the gateway's own, which the store moves on by a microsecond where two would collide."""

    model: type[Reading]
    device_id: str
    timestamp: int
    stamped: bool
    row: Row


class Reject(NamedTuple):
    """Something that could not become a reading: a whole ``message``, a ``reading`` of one, or a ``field``."""

    kind: Literal["message", "reading", "field"]
    reason: str
    raw: bytes


@dataclass(slots=True)
class Intake:
    """What a source took in at one go; stored and counted in one transaction.

    ``messages = decoded + ignored + len(rejects of kind message)``; each arrival and each reject of kind reading is one
    reading decoded. `unchecked_at` is the gateway's time when it came, where that was not trusted then: whether the
    devices' times can be right is for the store to find out, once it knows the time.
    """

    source: str
    messages: int = 0
    decoded: int = 0
    ignored: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    unchecked_at: int | None = None


class Inlet(Protocol):
    """What drivers write into: a `Buffer`, or a `PlainInlet` of another storage."""

    @property
    def gateway_id(self) -> str | None:
        """Whose readings these are."""
        ...

    def take_in(self, intake: Intake) -> Receipt:
        """Take in what a driver read. Blocks while there is no room; raises the storage's errors, and then has taken
        nothing for sure."""
        ...


class Pending(NamedTuple):
    """One durable row that an upstream has not acknowledged. `timestamp` is in microseconds since 1970 UTC."""

    seq: int
    model: type[Reading]
    device_id: str
    timestamp: int
    row: Row

    def version(self, store_epoch: int) -> Version:
        """The same, as storages take it."""
        names = (spec.name for spec in self.model.__fields__)
        data = {name: value for name, value in zip(names, self.row[1:], strict=True) if value is not None}
        return Version(self.device_id, from_micros(self.timestamp), data, self.row[0], store_epoch, self.seq)


WINDOW_BYTES = 4 << 20
"""The values of a window take about so many bytes at most."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch ``low <= seq <= high`` of the store's sequence with the rows in it that are still to be sent.

    Two kinds have no such stretch, and `low` and `high` are 0: rows that are older than the sequence, where `place`
    says how far into history they go; and rows that were quarantined and are sent once more, where `replayed` is true.
    """

    low: int
    high: int
    rows: list[Pending]
    place: tuple[int, int, int, int] | None = None
    replayed: bool = False
    skipped: int = 0
    """How many readings of the stretch others in it stand for, as with averages; the books count them as skipped."""
    every: int = 0
    """Over how many microseconds each row is an average; 0 where rows are readings. No reading of a stretch of averages
    arrives as itself, also where it stands alone."""
    is_full: bool = False
    """Whether the stretch ends here because no more rows have room in a window."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which readings an upstream gets: of these measurements, from devices that match one of these patterns
    (``*`` and ``?`` as in file names). None is all."""

    measurements: frozenset[str] | None = None
    devices: tuple[str, ...] | None = None

    def takes(self, measurement: str, device_id: str) -> bool:
        """Whether it gets a device's readings."""
        if self.measurements is not None and measurement not in self.measurements:
            return False
        return self.devices is None or any(fnmatchcase(device_id, pattern) for pattern in self.devices)


EVERYTHING = Choice()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The books. `sources` and `upstreams` map names to counts by column; `problems` is empty when they balance.
    `given_up` says of what time the thinned and evicted readings of each upstream were, the latest last."""

    sources: dict[str, dict[str, int]]
    upstreams: dict[str, dict[str, int]]
    problems: list[str]
    given_up: list[GivenUp] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        return not self.problems


class Buffer(abc.ABC):
    """A local store that drivers fill and sync empties. All methods may be called from any thread.

    A cursor is what one upstream has acknowledged. One worker uses a cursor at a time, so the order is: `pending`,
    send, `quarantine` what is refused for good, `acknowledge` the window, `pending` again. A window that was handed out
    and not acknowledged is handed out again, as its rows stand then.

    An upstream that has fallen behind may `split` what it is owed into two lanes:

        acknowledged         backlog              acknowledged       live
        |-----------|.........................|---------------|...............|
                                              ^ split                         ^ last durable row
    """

    gateway_id: str | None

    @classmethod  # noqa: B027 - who has nothing to look at says nothing
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise the `ConfigError` that the constructor would with these arguments, and open nothing."""

    @property
    @abc.abstractmethod
    def store_epoch(self) -> int:
        """Rises whenever numbers that were given out may be given out again."""

    def epoch_of(self, seq: int) -> int:
        """The epoch in which a row was written: of two versions the one with the greater ``(epoch, seq)`` is newer."""
        return self.store_epoch

    @abc.abstractmethod
    def take_in(self, intake: Intake) -> Receipt:
        """Queue what a driver took in. Blocks while the queue is full; raises `StorageBusy` after its timeout, and
        then has taken nothing."""

    @abc.abstractmethod
    def add_cursor(self, name: str, start: Start = "oldest", choice: Choice = EVERYTHING) -> Start | None:
        """Make sure that a cursor of that name exists. A new one starts at the oldest row, or "now", or at a time: then
        older readings, also ones that come later, are not handed out but counted as skipped. So are, from now until the
        next call, readings outside the choice. Returns where it began, which is another start than the one given where
        the name was known before; None where that is not known. Raises `InvalidValue`."""

    @abc.abstractmethod
    def remove_cursor(self, name: str) -> int:
        """Forget a cursor and what is quarantined for it; how many rows were pending. Raises `InvalidValue` where there
        is none of that name."""

    @abc.abstractmethod
    def cursors(self) -> list[str]:
        """The names of all cursors."""

    @abc.abstractmethod
    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        """The oldest window of a lane, with at most `limit` rows, all durable, and fewer where they are so large that
        they take over about `WINDOW_BYTES`, and `is_full` in either case; None when there is nothing. Without a split
        all is backlog. A window without rows is to be acknowledged like any other. Asking again without acknowledging
        returns the same rows as they stand then."""

    def read_ahead(self, cursor: str, limit: int, lane: Lane, out: Window) -> None:
        """Have ready what lies in a lane behind a window that is out: the next `pending` returns what it would without
        this, but sooner. For the time in which the upstream works; blocks for as long as `pending` does."""
        return None

    @abc.abstractmethod
    def split(self, cursor: str) -> None:
        """What is durable by now is backlog, what comes from here on is live. Ends by itself when the backlog is done.
        A restart finds the lanes as far as they were acknowledged. Nothing happens while a cursor has acknowledged so
        many ranges that one more gap would be too many to keep."""

    @abc.abstractmethod
    def is_split(self, cursor: str) -> bool:
        """Whether it has two lanes, the live one maybe empty. From memory."""

    @abc.abstractmethod
    def waiting(self, cursor: str, lane: Lane) -> int:
        """About how many rows wait in a lane: never fewer than there are, but for what was quarantined and is sent once
        more. From memory, so it may be asked often."""

    @abc.abstractmethod
    def count_pending(self, cursor: str) -> int:
        """How many rows the cursor has not acknowledged."""

    @abc.abstractmethod
    def acknowledge(self, cursor: str, window: Window) -> None:
        """Note that every row of the window is resolved. Persisted with the next commit; does not block."""

    @abc.abstractmethod
    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        """Set rows aside that the upstream refuses for good. Call before acknowledging their window."""

    @abc.abstractmethod
    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from the store's thread, whenever new rows became durable; returns what ends that."""

    @abc.abstractmethod
    def ledger(self) -> Ledger:
        """The books as of the last commit, checked."""

    def between(self, model: type[Reading], device_id: str, low: int, high: int) -> list[tuple[int, Row]]:
        """A device's committed readings with times in ``[low, high)``, in order: each with its time, both in
        microseconds since 1970 UTC. For averages."""
        raise NotSupported(f"{type(self).__name__} cannot look readings up by time, so only all of them are forwarded")

    def remember(self, key: str, text: str) -> Receipt | None:
        """Keep a short text, which replaces the one before. Does not block: it is kept when the receipt is durable, or
        is where there is none."""
        raise NotSupported(f"{type(self).__name__} keeps no notes, as a limit of bytes a day needs")

    def recall(self, key: str) -> str | None:
        """What was remembered and committed, None where nothing was. Does not wait for what is not yet."""
        raise NotSupported(f"{type(self).__name__} keeps no notes, as a limit of bytes a day needs")
