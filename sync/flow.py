"""Bytes a second: a bucket of tokens, so that they go evenly, and the last minute, so that no minute has too many.

The bucket holds `BURST` seconds' worth of the rate, and a request waits until what it is expected to take is there.
What it really took is then taken out, also where that is more. A request may take far more than anybody can know
before: one whose connection was gone connects anew, which with TLS may be 10 kB. So in any minute as much is left of
what may go as the dearest lately took beside its rows.

What a process before this one sent in the last minute, or who had a part of the rate until now, nobody knows: it is
taken to be all that might go.
"""

from __future__ import annotations

from collections import deque

BURST = 2.5
"""Seconds of the rate that may go out at once."""
MOST = 63.0
"""Seconds' worth of the rate that goes in a minute at most."""
_SLACK = 30.0
"""Seconds' worth of a minute that are left at most for what nobody can know: the rest goes all the same."""
_TOGETHER = 0.1
"""Seconds: what goes so soon after another counts as if both went when the later did."""


def in_a_minute(rate: float, surprise: float) -> float:
    """The bytes that go in one at most, where up to `surprise` more than is expected may be needed."""
    return MOST * rate - min(surprise, _SLACK * rate)


class Flow:
    """What goes at a rate. Times are those of the monotonic clock; the rate is in bytes a second, and may change. For
    one thread."""

    def __init__(self, now: float) -> None:
        self._rate = 0.0
        self._tokens = 0.0
        self._at = self._begun = now
        self._went: deque[tuple[float, float]] = deque()
        self._in_minute = 0.0

    def pass_time(self, now: float, rate: float) -> None:
        """It is so late, and this is the rate since it was passed last."""
        if rate > self._rate:
            self._assume(rate - self._rate)
        self._rate = rate
        self._tokens = min(BURST * rate, self._tokens + (now - self._at) * rate)
        self._at = now
        while self._went and self._went[0][0] <= now - 60:
            self._in_minute -= self._went.popleft()[1]

    def _assume(self, rate: float) -> None:
        """That went in the minute before, second by second."""
        self._went = deque(sorted([*self._went, *((self._at - second, rate) for second in range(60))]))
        self._in_minute += 60 * rate

    def take(self, count: float, now: float) -> None:
        """So many bytes went since it was passed last; by now all of them."""
        self._tokens -= count
        self._in_minute += count
        if self._went and now - self._begun < _TOGETHER:
            count += self._went.pop()[1]
        else:
            self._begun = now
        self._went.append((now, count))

    def free_at(self, needed: float, surprise: float) -> float:
        """When so many bytes may go, where up to `surprise` more may be needed."""
        missing = min(needed, BURST * self._rate) - self._tokens
        if missing > 1e-6 * BURST * self._rate:
            return self._at + missing / self._rate
        left = self._in_minute - max(0.0, in_a_minute(self._rate, surprise) - needed)
        free_at = self._at
        for moment, count in self._went:
            if left <= 0:
                break
            left -= count
            free_at = moment + 60
        return free_at
