"""Messages that were taken in and not acknowledged yet, in the order they came.

    taken in ──> [batch + receipt] [batch + receipt] [batch + receipt] ──durable──> acknowledged

A window belongs to one connection. What is left in it when the connection ends is never acknowledged: on the next one
the same packet ids may mean other messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edgedepot.drivers.broker import Stub
from edgedepot.storage.receipt import Receipt


class _Batch(NamedTuple):
    number: int
    receipt: Receipt
    stubs: Sequence[Stub]


class Window:
    """Used by one thread; `wake` is called from any when something may have become durable.

    `hurry_at` is the number of unacknowledged messages from which on the store is asked to commit early.
    """

    def __init__(self, hurry_at: int, wake: Callable[[], None]) -> None:
        self._hurry_at = hurry_at
        self._wake = wake
        self._batches: deque[_Batch] = deque()
        self._count = 0
        self._last = 0
        self._hastened = 0

    def __len__(self) -> int:
        """The number of messages in it."""
        return self._count

    def add(self, receipt: Receipt, stubs: Sequence[Stub]) -> None:
        """Messages that were handed to the store together."""
        if not stubs:
            return
        self._last += 1
        self._batches.append(_Batch(self._last, receipt, stubs))
        self._count += len(stubs)
        if self._count >= self._hurry_at:
            self.hasten()
        receipt.then(self._wake)

    def take_durable(self) -> list[Stub]:
        """Take out the messages that may be acknowledged now. Raises the storage's error where one was given up."""
        found: list[Stub] = []
        while self._batches and self._is_durable(self._batches[0].receipt):
            found += self._batches.popleft().stubs
        self._count -= len(found)
        if self._count >= self._hurry_at:
            self.hasten()
        return found

    def hasten(self) -> None:
        """Ask for a commit of all that is here, unless the oldest of it was asked for already."""
        if self.wants_commit:
            self._hastened = self._last
            self._batches[-1].receipt.hasten()

    @property
    def wants_commit(self) -> bool:
        """Whether something is here that no commit was asked for."""
        return bool(self._batches) and self._batches[0].number > self._hastened

    def leftovers(self) -> dict[int, tuple[Stub, Receipt]]:
        """What is in it by packet id, with its receipt."""
        return {stub.mid: (stub, batch.receipt) for batch in self._batches for stub in batch.stubs}

    @staticmethod
    def _is_durable(receipt: Receipt) -> bool:
        if receipt.error is not None:
            raise receipt.error
        return receipt.level == "durable"
