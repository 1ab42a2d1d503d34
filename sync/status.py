"""What a sync worker tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["idle", "sending", "waiting", "misconfigured", "stopped"]


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """A sync worker at one moment. Counts are since the worker was made.

    `state`: ``idle`` has nothing to send; ``waiting`` will try again at `retry_at`, and so will ``misconfigured``,
    where first a person has to mend what `last_error` says. `last_error` stays when the trouble is over.
    """

    state: State
    delivered: int
    """Readings that the upstream has made durable."""
    last_delivery: int | None
    """When it last did: wall time in microseconds since 1970-01-01 UTC."""
    last_error: str | None
    retry_at: float | None
    """On the worker's monotonic clock, in seconds."""
    requests: int
    """Requests sent, the failed ones too."""
    faults: int
    """Exceptions that no storage should raise: each is a bug, in the log with its traceback."""
    alarm: str | None = None
    """What a person should look at, since waiting may not mend it: a wrong set-up, a fault, an answer that is not known
    or that keeps coming back. None when the upstream takes readings."""
