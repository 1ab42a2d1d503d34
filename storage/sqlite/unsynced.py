"""What is committed and not on the device yet, with `durability="process"`. With each commit synced that is nothing.

It is bounded as the queue is: as many bytes of receipts as make a commit due make a sync due, and as many as fill the
queue make callers wait.
"""

from __future__ import annotations

import sqlite3
import threading

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import StorageError
from edgedepot.storage.receipt import COMMITTED, DURABLE, Receipt
from edgedepot.storage.sqlite.log_sync import LogSync
from edgedepot.storage.sqlite.pace import Pace
from edgedepot.storage.sqlite.report import Salvaged

_RECEIPT_SIZE = 96
_AT_ONCE = float("-inf")


class Unsynced:
    """Of one store. Used on the writer's thread, but for `durable_seq`. `condition` is the writer's, which guards the
    receipts. Numbers go before receipts: what one calls durable is handed out at once."""

    def __init__(
        self, clock: Clock, condition: threading.Condition, pace: Pace, log_sync: LogSync | None, last: int
    ) -> None:
        """`log_sync` is None where each commit is synced; `last` is the last number so far."""
        self.durable_seq = last
        """Up to which number all is on the device."""
        self.rank = DURABLE if log_sync is None else COMMITTED
        """What a commit makes of a receipt."""
        self._clock = clock
        self._condition = condition
        self._pace = pace
        self._log_sync = log_sync
        self._receipts: list[tuple[range, list[Receipt]]] = []  # of each commit, with its numbers
        self._size = 0
        self._due_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._receipts)

    def __str__(self) -> str:
        count = sum(len(receipts) for _, receipts in self._receipts)
        return f"{count} writes are committed and not on the device yet, {self._size / 1e6:.0f} MB in memory"

    @property
    def is_full(self) -> bool:
        """Whether no more readings are taken in."""
        return self._size >= self._pace.queue_size

    @property
    def needs_file(self) -> bool:
        """Whether to sync is to put all of the log into the file."""
        return self._log_sync is not None and self._log_sync.has_failed

    @property
    def due_at(self) -> float | None:
        """When to sync; None while there is nothing to."""
        if self._size >= self._pace.commit_size:
            return _AT_ONCE
        return self._due_at if self._receipts else None

    def committed(self, last: int) -> None:
        """A commit went up to the number `last`. Before its receipts say what it makes of them."""
        if self._log_sync is None:
            self.durable_seq = last

    def add(self, receipts: list[Receipt], last: int) -> None:
        """These were committed, up to the number `last`. With the condition held."""
        if self._log_sync is None:
            return
        if not self._receipts:
            self._due_at = self._clock.monotonic() + self._pace.sync_interval
        first = self._receipts[-1][0].stop if self._receipts else self.durable_seq + 1
        self._receipts.append((range(first, last + 1), receipts))
        self._size += sum(_RECEIPT_SIZE + receipt.refused_size for receipt in receipts)

    def sync(self, connection: sqlite3.Connection, last: int) -> None:
        """Put it on the device, up to the number `last`. Raises as `LogSync` does."""
        if self._log_sync is not None:
            self._log_sync.sync(connection)
        with self._condition:
            self.durable_seq = last
            for _, receipts in self._receipts:
                for receipt in receipts:
                    receipt.raise_to(DURABLE)
            self._clear()

    def renew(self, log_sync: LogSync | None, last: int, report: Salvaged | None) -> None:
        """The store was opened anew: what is there is on the device, and what is not is lost."""
        self._log_sync = log_sync
        with self._condition:
            self.durable_seq = last
            for numbers, receipts in self._receipts:
                is_lost = numbers.stop - 1 > last or (report is not None and report.has_lost_of(numbers))
                for receipt in receipts:
                    if is_lost:
                        receipt.error = StorageError("committed, and lost before it was synced")
                    else:
                        receipt.raise_to(DURABLE)
            self._clear()

    def abandon(self, why: StorageError | None) -> None:
        """Nothing will be synced any more. With the condition held."""
        for _, receipts in self._receipts:
            for receipt in receipts:
                receipt.error = why
        self._clear()

    def _clear(self) -> None:
        self._receipts.clear()
        self._size = 0
