"""Bytes on the wire, as the kernel counts them: exact whatever is encoded, compressed or encrypted above.

Counted is what TCP carries, TLS and what was sent once more included. The packets' own heads, 40 bytes or so each, are
not: few per cent of full packets. See tcp_info in Linux' include/uapi/linux/tcp.h.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress

_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux has it
_ROOM = 256
_ACKED, _SENT = struct.Struct("=120xQQ"), struct.Struct("=200xQ")


class WireMeter:
    """Counts the bytes of the TCP connections that it is shown. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[int, socket.socket] = {}
        self._over = 0
        self._blind = _TCP_INFO is None

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
                    held.close()


def _bytes_of(one: socket.socket) -> int | None:
    with suppress(OSError, struct.error):
        assert _TCP_INFO is not None
        found = one.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ROOM)
        acknowledged, received = _ACKED.unpack_from(found)
        sent = _SENT.unpack_from(found)[0] if len(found) >= _SENT.size else 0  # since Linux 4.19
        return int((sent or acknowledged) + received)
    return None
