"""Receipts: how safe a write is by now, and what became of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from edgedepot.storage.errors import InvalidValue, ReceiptTimeout, StorageError

Level = Literal["queued", "committed", "durable"]
LEVELS: tuple[Level, ...] = ("queued", "committed", "durable")
QUEUED, COMMITTED, DURABLE = range(3)
_REFUSAL_SIZE = 136
"""A refusal without the letters of its reason, in bytes of memory."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of `store_readings` that was not stored: its index in the call, and why."""

    index: int
    reason: str


class Keeper(Protocol):
    """Whoever settles receipts that are not durable at once (the local store's writer)."""

    def await_receipt(self, receipt: Receipt, rank: int, timeout: float | None) -> None:
        """Have a commit now and wait for it; with a timeout of 0 only the former. Raises `ReceiptTimeout`."""
        ...

    def call_when_durable(self, receipt: Receipt, callback: Callable[[], None]) -> None: ...


class Receipt:
    """What a write returns.

    `queued` < `committed` (survives a killed process) < `durable` (survives a power cut). A receipt that nobody waits
    for promises nothing for the next flush interval. Thread-safe; only its keeper changes it.
    """

    __slots__ = ("_accepted", "_duplicates", "_keeper", "_rank", "_refused", "error")

    def __init__(self, keeper: Keeper | None = None, refused: tuple[Refusal, ...] = ()) -> None:
        self._keeper = keeper
        self._rank = QUEUED
        self._accepted = 0
        self._duplicates: int | None = 0
        self._refused = refused
        self.error: StorageError | None = None
        """Why the rows will never be safer than they are, where that is so; `wait` raises it."""

    @classmethod
    def settled(cls, accepted: int, duplicates: int | None, refused: tuple[Refusal, ...] = ()) -> Receipt:
        """A receipt that is durable at once, as remote storages give it."""
        receipt = cls(None, refused)
        receipt.settle(DURABLE, accepted, duplicates)
        return receipt

    @property
    def rank(self) -> int:
        """The level as a number that compares: `QUEUED` < `COMMITTED` < `DURABLE`."""
        return self._rank

    @property
    def level(self) -> Level:
        """How safe the rows are by now."""
        return LEVELS[self._rank]

    def wait(self, level: Level = "durable", timeout: float | None = None) -> Receipt:
        """Block until the rows are as safe as `level`, at most `timeout` seconds; returns the receipt itself.

        Raises `ReceiptTimeout` (the rows stay queued), and the storage's own error where the rows were given up.
        """
        if level not in LEVELS:
            raise InvalidValue(f"receipt level {level!r}: expected one of {', '.join(LEVELS)}")
        rank = LEVELS.index(level)
        if self._rank < rank and self._keeper is not None:
            self._keeper.await_receipt(self, rank, timeout)
        if self.error is not None and self._rank < max(rank, COMMITTED):
            raise self.error
        return self

    def hasten(self) -> None:
        """Ask for a commit now, and do not wait for it."""
        if self._keeper is not None and self._rank < DURABLE:
            with contextlib.suppress(ReceiptTimeout):
                self._keeper.await_receipt(self, DURABLE, 0)

    def then(self, callback: Callable[[], None]) -> None:
        """Call back once when the rows are durable (or given up: see `error`), maybe at once, maybe from the
        storage's own thread: it must be quick and must not raise."""
        if self._keeper is None:
            callback()
        else:
            self._keeper.call_when_durable(self, callback)

    @property
    def accepted(self) -> int:
        """How many rows were stored, duplicates not counted. Waits for committed."""
        self.wait("committed")
        return self._accepted

    @property
    def duplicates(self) -> int | None:
        """How many rows were there already, equal; None where the server cannot tell. Waits for committed."""
        self.wait("committed")
        return self._duplicates

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """The rows that were not stored, with reasons. Waits for committed."""
        self.wait("committed")
        return self._refused

    @property
    def refused_size(self) -> int:
        """About how many bytes of memory the refusals take that are known by now. Waits for nothing."""
        return sum(_REFUSAL_SIZE + len(refusal.reason) for refusal in self._refused) if self._refused else 0

    def settle(self, rank: int, accepted: int, duplicates: int | None, refused: tuple[Refusal, ...] = ()) -> None:
        """For the keeper alone: note what became of the rows. The rank goes last: who sees it sees the rest."""
        self._accepted = accepted
        self._duplicates = duplicates
        self._refused += refused
        self._rank = rank

    def raise_to(self, rank: int) -> None:
        """For the keeper alone: the rows became safer."""
        self._rank = rank

    def __repr__(self) -> str:
        return f"<Receipt {self.level}>"
