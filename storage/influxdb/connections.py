"""urllib3's connections, with their bytes and their waits counted, and with patience while they send."""

from __future__ import annotations

import socket

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse

from edgedepot.storage.wire import WireMeter

_PIECE = 65_536
"""Bytes that are sent at once: a link may take as long as the timeout for each."""


def pools(meter: WireMeter, timeout: float) -> dict[str, type[HTTPConnectionPool]]:
    """The pools, by scheme, that a `PoolManager` is to take. `timeout` is in seconds, for the server to take more."""

    class Plain(_Counted, HTTPConnection):
        wire = meter
        patience = timeout

    class Secure(_Counted, HTTPSConnection):
        wire = meter
        patience = timeout

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Counted(HTTPConnection):
    """Counts from where the socket is made, so that a TLS that fails is counted too.

    urllib3 would send the first request of a connection within the time that is meant for connecting, and Python counts
    the time for all that is sent at once.
    """

    wire: WireMeter
    patience: float
    _counted: int | None = None

    def connect(self) -> None:
        with self.wire.waiting():
            super().connect()
        self.sock.settimeout(self.patience)

    def send(self, data: bytes) -> None:  # type: ignore[override]  # influxdb-client's bodies are no other
        if self.sock is None:
            self.connect()
        with self.wire.waiting(self.sock.fileno()):
            for start in range(0, len(data), _PIECE):
                super().send(memoryview(data)[start : start + _PIECE])

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        with self.wire.waiting(self.sock.fileno()):
            return super().getresponse()

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._counted = self.wire.watch(made.fileno())
        return made

    def close(self) -> None:
        super().close()
        if self._counted is not None:
            self.wire.release(self._counted)
            self._counted = None
