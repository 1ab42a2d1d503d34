"""Bytes on the wire, and what calls wait for there, as the kernel counts it: exact whatever is encoded, compressed or
encrypted above.

    sent ............ all acknowledged ............ the answer        the other end takes no more for now
    |     the link    |          the server         |                 |           the server           |

Counted is what TCP carries, TLS and what was sent once more included. The packets' own heads, 40 bytes or so each, are
not: few per cent of full packets. See tcp_info in Linux' include/uapi/linux/tcp.h.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux has it
_ROOM = 256
_ACKED, _SENT = struct.Struct("=120xQQ"), struct.Struct("=200xQ")
_TIMES = struct.Struct("=152xI12xQQ")
_DELAY = 0.04
"""Seconds for which the other end may keep an acknowledgement, to send it along with an answer: TCP_DELACK_MIN of
Linux' include/net/tcp.h. An answer within that comes at the same moment as the acknowledgement."""


def is_host_name(host: str) -> bool:
    """Whether the name keeps the rules of names: sockets raise `UnicodeError` for one that does not. May be empty."""
    if host.isascii():  # as the codec has it, which loads a table of Unicode: 0.4 MB that stay
        *others, last = host.split(".")
        return len(last) < 64 and all(0 < len(label) < 64 for label in others)
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


class Waits(NamedTuple):
    """Seconds for which calls have waited for the other end."""

    link: float = 0.0
    """Bytes were on their way: to be sent, or sent and not acknowledged."""
    server: float = 0.0
    """All was acknowledged, and there was no answer; or the other end took no more."""
    either: float = 0.0
    """One of the two: in connecting, for so short that an answer may have had the acknowledgement wait, or where the
    system does not tell."""

    def plus(self, other: Waits) -> Waits:
        """The sum."""
        return Waits(*(one + more for one, more in zip(self, other, strict=True)))


class _Times(NamedTuple):
    """Of a socket: segments with data that came in, and microseconds in which bytes were on their way; of these, in
    which the other end took no more."""

    segments: int
    busy: int
    stuck: int


@dataclass(eq=False, slots=True)
class _Wait:
    """A call that waits: since when, on which socket, and what that one had come to, also by its end."""

    began: float
    held: socket.socket | None
    before: _Times | None
    after: _Times | None = None


class WireMeter:
    """Counts the bytes of the TCP connections that it is shown, and the time of the calls that wait there. All methods
    may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[int, socket.socket] = {}
        self._over = 0
        self._blind = _TCP_INFO is None
        self._is_local = False
        self._waiting: set[_Wait] = set()
        self._waited = Waits()

    @property
    def total(self) -> int | None:
        """Bytes sent and received so far; None where the system does not tell."""
        with self._lock:
            return None if self._blind else self._over + sum(_bytes_of(one) or 0 for one in self._live.values())

    def watch(self, descriptor: int) -> int:
        """Count a socket from its beginning, until `release`; the key for that. Showing it again changes nothing.

        A duplicate of the descriptor is kept: who owns the socket may close it at any time, and the counts go with it.
        """
        key = os.fstat(descriptor).st_ino
        with self._lock:
            if key not in self._live and not self._blind:
                copy = socket.socket(fileno=os.dup(descriptor))
                if _bytes_of(copy) is None:
                    self._blind = True  # no TCP, such as a Unix socket
                    self._is_local = copy.family == socket.AF_UNIX
                    copy.close()
                else:
                    self._live[key] = copy
        return key

    def release(self, key: int | None = None) -> None:
        """Take note of what a socket has come to, or all of them, and let go of it. The owner closes it first."""
        with self._lock:
            for one in [key] if key is not None else list(self._live):
                held = self._live.pop(one, None)
                if held is not None:
                    self._over += _bytes_of(held) or 0
                    for wait in self._waiting:
                        if wait.held is held:
                            wait.after = _times_of(held)
                    held.close()

    @property
    def waits(self) -> Waits:
        """What calls have waited for so far, those under way included."""
        with self._lock:
            found = self._waited
            for wait in self._waiting:
                found = found.plus(self._parts(wait))
            return found

    @contextmanager
    def waiting(self, descriptor: int | None = None) -> Iterator[None]:
        """The time of a call that waits for the other end of a socket that is watched; None while it connects."""
        wait = self._begin(descriptor)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.remove(wait)
                self._waited = self._waited.plus(self._parts(wait))

    def _begin(self, descriptor: int | None) -> _Wait:
        key = None if descriptor is None else os.fstat(descriptor).st_ino
        with self._lock:
            held = None if key is None else self._live.get(key)
            wait = _Wait(time.monotonic(), held, None if held is None else _times_of(held))
            self._waiting.add(wait)
            return wait

    def _parts(self, wait: _Wait) -> Waits:
        """What it has waited for until now."""
        seconds = time.monotonic() - wait.began
        after = wait.after or (None if wait.held is None else _times_of(wait.held))
        if wait.before is None or after is None:
            return Waits(server=seconds) if self._is_local else Waits(either=seconds)
        stuck = after.stuck - wait.before.stuck
        moving = min(seconds, (after.busy - wait.before.busy - stuck) / 1e6)
        unsure = min(moving, _DELAY * (after.segments - wait.before.segments))
        return Waits(moving - unsure, seconds - moving, unsure)


def _bytes_of(one: socket.socket) -> int | None:
    with suppress(OSError, struct.error):
        found = _info_of(one)
        acknowledged, received = _ACKED.unpack_from(found)
        sent = _SENT.unpack_from(found)[0] if len(found) >= _SENT.size else 0  # since Linux 4.19
        return int((sent or acknowledged) + received)
    return None


def _times_of(one: socket.socket) -> _Times | None:
    with suppress(OSError, struct.error):  # since Linux 4.10
        return _Times(*_TIMES.unpack_from(_info_of(one)))
    return None


def _info_of(one: socket.socket) -> bytes:
    assert _TCP_INFO is not None
    return one.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ROOM)
