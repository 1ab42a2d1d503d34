"""What a sync worker tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["idle", "sending", "waiting", "held", "misconfigured", "stopped"]
Limit = Literal["link", "server", "link or server", "backend", "gateway", "rate", "budget", "window", "clock"]
"""What keeps readings from going out faster: no link, or one that takes most of the time; a server that asks for less
or refuses, or whose answers take most of the time; one of these two, where nobody can tell which; a storage of one's
own, which does not tell; the gateway itself, which reads, encodes and notes what has arrived; bytes a second; the bytes
of a day; hours of the day; or that nobody knows the time and so neither the day nor the hour."""


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """A sync worker at one moment. Counts are since the worker was made.

    `state`: ``idle`` has nothing to send; ``held`` has, but goes on at `retry_at` only, as its limits say; ``waiting``
    will try again at `retry_at`, and so will ``misconfigured``, where first a person has to mend what `last_error`
    says; where `retry_at` is None they do right now. `last_error` stays when the trouble is over.
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
    """What a person should look at, since waiting may not mend it: a wrong set-up, a fault, an answer that is not
    known, that keeps coming back, or that has not come for 30 s. None when the upstream takes readings."""
    waiting: int = 0
    """About how many readings it is behind right now: never fewer than it is, and up to one more for each commit of the
    store's, whose row of books has a number too. What counts exactly takes a query: `SQLiteStorage.count_pending`."""
    lag: float = 0.0
    """Seconds since the time of the oldest of them that is known; 0 where nothing waits, and where what does came in
    since the worker looked last."""
    eta: float | None = None
    """Seconds until none waits, at the latest pace, with what comes in meanwhile, the hours in which nothing may go,
    and the bytes of the days to come; None where they become no fewer, or none has gone out yet that would tell, or
    nobody knows the time by which its hours and days go. While it is ``waiting`` or ``misconfigured``, from its end."""
    limited_by: Limit | None = None
    """What keeps them from going out faster right now; None where it keeps up."""
    spent_today: int | None = None
    """Bytes of the day's budget; None without one."""
    per_day: int | None = None
    """The day's budget; None without one."""
