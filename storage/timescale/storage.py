"""TimescaleDBStorage: the storage contract over PostgreSQL with TimescaleDB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from edgedepot.storage.base import Data, StoreRow, Version
from edgedepot.storage.errors import ConfigError, InvalidValue, UpstreamError
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.query import Aggregation, Function, Scope, Selection
from edgedepot.storage.reading import Device, Reading, check_model, saved_of
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.remote import failed_check, row_of
from edgedepot.storage.timescale import read
from edgedepot.storage.timescale.cells import Rows
from edgedepot.storage.timescale.link import Link
from edgedepot.storage.timescale.place import Place
from edgedepot.storage.timescale.server import Server
from edgedepot.storage.timescale.upkeep import Upkeep
from edgedepot.storage.timescale.write import Writer
from edgedepot.storage.wire import Waits


class TimescaleDBStorage(Upkeep):
    """Readings in PostgreSQL 14 or later, as TimescaleDB hypertables where the extension is there.

    One server may serve many gateways: rows carry `gateway_id`. Set it (sync does), and writes, reads and deletes are
    confined to that gateway; with None reads span all gateways and carry ``"gateway_id"``, and nothing can be written
    or deleted.

    `url` is ``postgresql://user:password@host:5432/database``, with libpq's options behind ``?``; these go before the
    arguments here. Durations are texts such as "10s", seconds, or timedeltas. Connecting takes at most
    `connect_timeout` for each address of the host (in whole seconds, at least 2); the server ends a statement after
    `statement_timeout`, one that writes after `write_timeout`; where no answer comes at all, a call gives up after that
    and `connect_timeout` together.

    Tables are in `schema` (the first of the user's search_path unless given), and their names begin with
    `table_prefix`. They are made, and widened by new fields, when a reading model is first written; a user who may not
    do that has somebody run what `schema_sql` says. `copy=False` is for servers that cannot COPY.

    The constructor does not connect; it raises `ConfigError` for a setting that cannot be right.

    Thread-safe. There are two connections, one for writes and one for all else, so that a long query holds up no
    write; calls of one kind take turns. Each call is one transaction and blocks until the server answered; it raises an
    `UpstreamError` that says what would help. A lost connection is opened again by the next call.
    """

    def __init__(
        self,
        url: str,
        *,
        gateway_id: str | None = None,
        connect_timeout: str | float | timedelta = "10s",
        statement_timeout: str | float | timedelta = "60s",
        write_timeout: str | float | timedelta = "20s",
        schema: str | None = None,
        table_prefix: str = "",
        copy: bool = True,
    ) -> None:
        try:
            timeouts = (
                seconds_of(connect_timeout, "connect_timeout"),
                seconds_of(statement_timeout, "statement_timeout"),
            )
            writing = seconds_of(write_timeout, "write_timeout")
        except InvalidValue as exc:
            raise ConfigError(str(exc)) from exc
        self._server = Server.of(url, *timeouts, Place.of(schema, table_prefix))
        super().__init__(gateway_id)
        self._writing = Link(self._server.with_timeout(writing, timeouts[0]))
        self._reading = Link(self._server)
        self._writer = Writer(copy)

    @property
    def _shown(self) -> str:
        return self._server.shown

    def store_reading(
        self,
        reading_model: type[Reading],
        device: object,
        timestamp: datetime | None,
        data: Data,
        *,
        version: Version | None = None,
    ) -> Receipt:
        """Store one reading; a timestamp of None is stamped now. `version` says which version of it this is. Raises
        `InvalidValue` (ValueError) for bad data."""
        receipt, rows = self._store(reading_model, [row_of(device, timestamp, data, version)])
        for error in rows.refused_upstream.values():
            raise error
        for refusal in receipt.refused:
            raise InvalidValue(refusal.reason)
        return receipt

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        """Store a batch in one transaction, all good rows or none; the same batch again changes nothing.

        A `Version` replaces older versions of the same reading, and is ignored where a newer one is there. Other rows
        are merged into what is there, whatever version that is, after the versions of the batch. No null replaces a
        value. `duplicates` counts the rows that changed nothing.

        Rows that the server refuses are in `refused` too, with its message and SQLSTATE; where they are more than 16,
        `DataRefused` is raised and nothing is kept.
        """
        if type(self).store_reading is TimescaleDBStorage.store_reading:
            return self._store(reading_model, rows)[0]
        # A subclass wants to see every reading.
        receipt = super().store_readings(reading_model, rows)
        assert receipt is not None
        return receipt

    def _store(self, reading_model: type[Reading], given: Iterable[StoreRow]) -> tuple[Receipt, Rows]:
        model, gateway_id = check_model(reading_model), self._own_gateway()
        rows = Rows(model, gateway_id, given, self._stamp)
        written = changed = 0
        if any(True for _ in rows.cells()):
            with self._writing.session() as session:
                written, changed = self._writer.store(session, rows)
        return Receipt.settled(changed, written - changed, rows.refusals()), rows

    def query_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
        fields: Sequence[str] | None = None,
        limit: int | None = None,
        order: str = "-timestamp",
    ) -> list[dict[str, Any]]:
        selection = Selection.of(Scope.of(reading_model, device, start, end), fields, limit, order)
        gateway_id = self._confinement()
        with self._reading.transaction() as session:
            return read.select_readings(session, gateway_id, selection)

    def aggregate(
        self,
        reading_model: type[Reading],
        field: str,
        function: Function = "avg",
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
        interval: str | timedelta | None = None,
        tz: str = "UTC",
        group_by: Literal["device"] | None = None,
        fill: Literal["null", "previous"] | None = None,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        from edgedepot.storage.timescale.aggregate import aggregate  # here, as who forwards asks for nothing

        scope = Scope.of(reading_model, device, start, end)
        asked = Aggregation.of(scope, field, function, interval, tz, group_by, fill)
        gateway_id = self._confinement()
        with self._reading.session() as session:
            found = aggregate(session, gateway_id, asked)
        return asked.answer(found)

    def delete_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> int:
        """Delete this gateway's readings; returns their number. Without a `gateway_id` it is a `ConfigError`."""
        scope, gateway_id = Scope.of(reading_model, device, start, end), self._own_gateway()
        with self._reading.transaction() as session:  # it may take long, and holds up no write there
            return read.delete_readings(session, gateway_id, scope)

    def devices(self) -> list[Device]:
        """The devices that were saved or have readings, by id. Reads the keys of all readings: it takes its time."""
        gateway_id = self._confinement()
        with self._reading.transaction() as session:
            return read.devices(session, gateway_id)

    def save_device(self, device: Device) -> None:
        """Keep a device's name and metadata (what JSON can say). Without a `gateway_id` it is a `ConfigError`."""
        saved, gateway_id = saved_of(device), self._own_gateway()
        with self._writing.session() as session:
            read.save_device(session, gateway_id, *saved)

    def health_check(self) -> dict[str, Any]:
        """``{"status", "message", "version"}``, and ``"error"`` where it fails: the name of the `UpstreamError`. Asks
        the server, over a connection that is there; else it opens the one that writes. It does not wait for what goes
        on over one of them, such as a long write: then it takes the other. Raises `StorageClosed` alone."""
        links = (self._reading, self._writing) if self._reading.is_open else (self._writing, self._reading)
        link = min(links, key=lambda one: one.is_busy)
        try:
            with link.transaction() as session:
                session.connection.execute("SELECT 1")
                return {"status": "pass", "message": f"{self._server.shown} answers", "version": session.version}
        except UpstreamError as exc:
            return failed_check(exc)

    def server_time(self) -> datetime:
        with self._reading.transaction() as session:
            row = session.connection.execute("SELECT clock_timestamp()", binary=True).fetchone()
            assert row is not None
            moment: datetime = row[0]
            return moment

    @property
    def uses_tls(self) -> bool | None:
        """Whether what goes over the wire is encrypted; None where the url leaves that to the server (sslmode)."""
        return self._server.uses_tls

    def wire_bytes(self) -> int | None:
        """What TCP carried on both connections, TLS included; not those of maintenance (policies, drops).
        None over a Unix socket, and where the system does not tell (not Linux)."""
        counts = (self._writing.meter.total, self._reading.meter.total)
        return None if None in counts else sum(count or 0 for count in counts)

    def wire_waits(self) -> Waits:
        """What statements have waited for, on both connections: see `Waits`. A Unix socket has no link."""
        return self._writing.meter.waits.plus(self._reading.meter.waits)

    def close(self) -> None:
        """Close both connections, after the calls under way. May be called again; other calls then raise
        `StorageClosed`."""
        self._writing.close()
        self._reading.close()
