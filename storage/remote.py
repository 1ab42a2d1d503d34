"""What storages on a server that many gateways share have in common: whose readings these are, and stamps."""

from __future__ import annotations

import abc
import threading
from datetime import datetime
from typing import Any

from edgedepot.storage.base import BaseStorage, Data, StoreRow, Version
from edgedepot.storage.clock import SystemClock
from edgedepot.storage.errors import ConfigError, InvalidValue, UpstreamError
from edgedepot.storage.reading import device_id_of


class RemoteStorage(BaseStorage):
    """`gateway_id` confines writes, reads and deletes to that gateway's readings; with None reads span all gateways,
    and nothing can be written or deleted. Anybody may set it at any time."""

    def __init__(self, gateway_id: str | None) -> None:
        """Raises `ConfigError`."""
        self.gateway_id = gateway_id
        self._confinement()
        self._clock = SystemClock()
        self._stamp_lock = threading.Lock()
        self._last_stamp = 0

    @property
    @abc.abstractmethod
    def _shown(self) -> str:
        """The server's address, for people, without its secrets."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown} gateway_id={self.gateway_id!r}>"

    def flush(self) -> None:
        """Nothing to do: what was stored is durable when the call returns."""

    def _own_gateway(self) -> str:
        gateway_id = self._confinement()
        if gateway_id is None:
            raise ConfigError(
                f"{type(self).__name__} has no gateway_id, so nothing can be written or deleted: set it to this"
                f" gateway's name, {type(self).__name__}(..., gateway_id='roof')"
            )
        return gateway_id

    def _confinement(self) -> str | None:
        """`gateway_id`, checked."""
        try:
            return None if self.gateway_id is None else device_id_of(self.gateway_id)
        except InvalidValue as exc:
            raise ConfigError(f"gateway_id: {exc}") from exc

    def _stamp(self) -> int:
        """Now, later than any stamp before: two readings stamped at once stay two."""
        with self._stamp_lock:
            self._last_stamp = max(self._clock.now(), self._last_stamp + 1)
            return self._last_stamp


def failed_check(exc: UpstreamError, version: str | None = None) -> dict[str, Any]:
    """What a `health_check` answers where the server did not, or refused."""
    return {"status": "fail", "message": str(exc), "version": version, "error": type(exc).__name__}


def row_of(device: object, timestamp: datetime | None, data: Data, version: Version | None) -> StoreRow:
    """The row of a `store_reading` that says whose version it stores, where it does."""
    return (device, timestamp, data) if version is None else Version._make((device, timestamp, data, *version[3:]))
