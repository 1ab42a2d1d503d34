"""What is committed and not on the device yet, with `durability="process"`. With each commit synced that is nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import StorageError
from edgedepot.storage.receipt import COMMITTED, DURABLE, Receipt
from edgedepot.storage.sqlite.connection import LogSync
from edgedepot.storage.sqlite.report import Salvaged


class Unsynced:
    """Of one store. Used on the writer's thread, but for `durable_seq`. `condition` is the writer's, which guards the
    receipts; `interval` is in seconds. Numbers go before receipts: what one calls durable is handed out at once."""

    def __init__(
        self, clock: Clock, condition: threading.Condition, interval: float, log_sync: LogSync | None, last: int
    ) -> None:
        """`log_sync` is None where each commit is synced; `last` is the last number so far."""
        self.durable_seq = last
        """Up to which number all is on the device."""
        self.rank = DURABLE if log_sync is None else COMMITTED
        """What a commit makes of a receipt."""
        self._clock = clock
        self._condition = condition
        self._interval = interval
        self._log_sync = log_sync
        self._receipts: list[tuple[range, Receipt]] = []  # with the numbers of their commit
        self._due_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._receipts)

    @property
    def needs_file(self) -> bool:
        """Whether to sync is to put all of the log into the file."""
        return self._log_sync is not None and self._log_sync.has_failed

    @property
    def due_at(self) -> float | None:
        """When to sync; None while there is nothing to."""
        return self._due_at if self._receipts else None

    def committed(self, last: int) -> None:
        """A commit went up to the number `last`. Before its receipts say what it makes of them."""
        if self._log_sync is None:
            self.durable_seq = last

    def add(self, receipts: Iterable[Receipt], last: int) -> None:
        """These were committed, up to the number `last`. With the condition held."""
        if self._log_sync is None:
            return
        if not self._receipts:
            self._due_at = self._clock.monotonic() + self._interval
        first = self._receipts[-1][0].stop if self._receipts else self.durable_seq + 1
        numbers = range(first, last + 1)
        self._receipts += [(numbers, receipt) for receipt in receipts]

    def sync(self, connection: sqlite3.Connection, last: int) -> None:
        """Put it on the device, up to the number `last`. Raises as `LogSync` does."""
        if self._log_sync is not None:
            self._log_sync.sync(connection)
        with self._condition:
            self.durable_seq = last
            for _, receipt in self._receipts:
                receipt.raise_to(DURABLE)
            self._receipts.clear()

    def renew(self, log_sync: LogSync | None, last: int, report: Salvaged | None) -> None:
        """The store was opened anew: what is there is on the device, and what is not is lost."""
        self._log_sync = log_sync
        with self._condition:
            self.durable_seq = last
            for numbers, receipt in self._receipts:
                if numbers.stop - 1 > last or (report is not None and report.has_lost_of(numbers)):
                    receipt.error = StorageError("committed, and lost before it was synced")
                else:
                    receipt.raise_to(DURABLE)
            self._receipts.clear()

    def abandon(self, why: StorageError | None) -> None:
        """Nothing will be synced any more. With the condition held."""
        for _, receipt in self._receipts:
            receipt.error = why
        self._receipts.clear()
