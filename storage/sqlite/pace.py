"""When the writer does what, and who waits for it."""

from __future__ import annotations

import msgspec


class Pace(msgspec.Struct, frozen=True):
    """When to commit. Times in seconds, sizes in bytes of memory, about. Beyond `queue_rows` or `queue_size` nothing
    more is taken in; one call may go beyond it, as it is one transaction.

    Readings of four numbers, in batches, reach both bounds about together; the sizes are for long texts. A full queue
    fits into 64 MiB beside the rest of the process, also while it is committed."""

    flush_interval: float
    sync_interval: float
    busy_timeout: float
    fold_interval: float
    fold_rows: int
    piece_rows: int = 25_000
    commit_rows: int = 5_000
    commit_size: int = 4_000_000
    queue_rows: int = 50_000
    queue_size: int = 16_000_000


class Calls(msgspec.Struct):
    """Calls that wait until the thread has done once more what it also does by itself."""

    wanted: int = 0
    begun: int = 0
    done: int = 0

    @property
    def waiting(self) -> bool:
        return self.wanted > self.done
