"""One connection, used by one thread at a time, opened when needed and again after it was lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.pq import TransactionStatus

from edgedepot.storage.errors import DataRefused, StorageClosed
from edgedepot.storage.timescale.errors import mapped
from edgedepot.storage.timescale.server import Server, Session
from edgedepot.storage.wire import WireMeter


class Link:
    """A connection with a lock. `transaction` may be called from any thread; callers take turns."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False
        self.meter = WireMeter()
        """What went over the wire, failed attempts to connect included."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The session, for transactions of the block's own.

        Raises `UpstreamError` for whatever goes wrong with the server, and `StorageClosed`. After a lost connection the
        next call opens another one; whether the lost transaction was committed is not known.
        """
        with self._lock, mapped(self._server.shown):
            self.check_open()
            if self._session is None:
                self._session = self._connected()
            try:
                yield self._session
            except DataRefused:
                raise  # the rows were wrong, not the tables
            except BaseException:
                self._session.prepared.clear()  # the tables may not be what they were thought to be
                raise
            finally:
                if self._session.connection.pgconn.transaction_status != TransactionStatus.IDLE:
                    self._drop()  # lost, or in the middle of an answer that we stopped waiting for

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """The session, in one transaction. Raises what `session` does."""
        with self.session() as session, session.transaction():
            yield session

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as of the latest call."""
        return self._session is not None

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it right now."""
        return self._lock.locked()

    def check_open(self) -> None:
        """Raise `StorageClosed` after `close`."""
        if self._closed:
            raise StorageClosed("the storage was closed")

    def _connected(self) -> Session:
        try:
            return self._server.connect(self.meter)
        except BaseException:
            self.meter.release()
            raise

    def _drop(self) -> None:
        if self._session is not None:
            self._session.connection.close()
            self.meter.release()
            self._session = None

    def close(self) -> None:
        """Close for good, once the call under way has ended. Idempotent."""
        with self._lock:
            self._closed = True
            self._drop()
