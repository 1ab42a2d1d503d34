"""Ends a wait for a socket or a port from another thread."""

from __future__ import annotations

import socket
import threading


class Wake:
    """Readable, to `select` and its kin, from `set` until `clear`. Open from the start until `close`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._lock = threading.Lock()
        self._is_set = False
        self._closed = False

    def fileno(self) -> int:
        """What to wait on."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make it readable. From any thread; does not block; nothing happens after `close`."""
        if self._is_set:  # without the lock: whoever clears it looks afterwards at what there is to do
            return
        with self._lock:
            if not self._is_set and not self._closed:
                self._is_set = True
                self._writer.send(b"\0")

    def clear(self) -> None:
        """Make it unreadable again. Look afterwards, not before, at what there is to do."""
        with self._lock:
            if self._is_set:
                self._reader.recv(1)
                self._is_set = False

    def close(self) -> None:
        """Let go of both ends. Idempotent."""
        with self._lock:
            self._closed = True
            self._reader.close()
            self._writer.close()
