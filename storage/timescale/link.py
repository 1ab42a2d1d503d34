"""One connection, used by one thread at a time, opened when needed and again after it was lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus

from edgedepot.storage.errors import StorageClosed
from edgedepot.storage.timescale.errors import mapped
from edgedepot.storage.timescale.server import Server, Session


class Link:
    """A connection with a lock. `transaction` may be called from any thread; callers take turns."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Begin on the first statement of the block, commit at its end, roll back if it raises.

        Raises `UpstreamError` for whatever goes wrong with the server, and `StorageClosed`. After a lost connection the
        next call opens another one; whether the lost transaction was committed is not known.
        """
        with self._lock, mapped(self._server.shown):
            if self._closed:
                raise StorageClosed("the storage was closed")
            if self._session is None:
                self._session = self._server.connect()
            try:
                yield self._session
                self._session.connection.commit()
            except BaseException:
                self._recover(self._session)
                raise

    def _recover(self, session: Session) -> None:
        """Make the session usable again, or let go of it. The tables may not be what they were thought to be."""
        session.staged.clear()
        connection = session.connection
        if connection.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            try:
                connection.rollback()
            except psycopg.Error:
                self._drop()  # the error under way says more than this one
        elif connection.pgconn.transaction_status != TransactionStatus.IDLE:
            self._drop()  # lost, or in the middle of an answer that we stopped waiting for

    def _drop(self) -> None:
        if self._session is not None:
            self._session.connection.close()
            self._session = None

    def close(self) -> None:
        """Close for good, once the call under way has ended. Idempotent."""
        with self._lock:
            self._closed = True
            self._drop()
