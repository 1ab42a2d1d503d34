"""urllib3's connections, with the bytes that they carry counted."""

from __future__ import annotations

import socket

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from edgedepot.storage.wire import WireMeter


def pools(meter: WireMeter) -> dict[str, type[HTTPConnectionPool]]:
    """The pools, by scheme, that a `PoolManager` is to take."""

    class Plain(_Counted, HTTPConnection):
        wire = meter

    class Secure(_Counted, HTTPSConnection):
        wire = meter

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Counted(HTTPConnection):
    """Counts from where the socket is made, so that a TLS that fails is counted too."""

    wire: WireMeter
    _counted: int | None = None

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._counted = self.wire.watch(made.fileno())
        return made

    def close(self) -> None:
        super().close()
        if self._counted is not None:
            self.wire.release(self._counted)
            self._counted = None
