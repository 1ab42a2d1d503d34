"""InfluxDBStorage: the storage contract over InfluxDB 2."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from edgedepot.storage.base import Data, StoreRow, Version
from edgedepot.storage.errors import InvalidValue, UpstreamError
from edgedepot.storage.influxdb import read, tasks
from edgedepot.storage.influxdb.downsampling import check_downsampling
from edgedepot.storage.influxdb.link import Link
from edgedepot.storage.influxdb.settings import Duration, check_settings
from edgedepot.storage.influxdb.write import Sender, lines_of
from edgedepot.storage.query import Aggregation, Function, Scope, Selection
from edgedepot.storage.reading import Device, Reading, check_model
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.remote import RemoteStorage, failed_check, row_of
from edgedepot.storage.wire import Waits


class InfluxDBStorage(RemoteStorage):
    """Readings in a bucket of InfluxDB 2. Writes alone also go to InfluxDB 3 and VictoriaMetrics.

    A reading is one point: the measurement is its model's, the tags are `device_id` and `gateway_id`, the fields are
    its values and `quality`. One bucket may serve many gateways. Set `gateway_id` (sync does), and writes, reads and
    deletes are confined to that gateway; with None reads span all gateways and carry ``"gateway_id"``, and nothing can
    be written or deleted.

    `url`, `org`, `bucket` and `token` come from INFLUXDB_URL, INFLUXDB_ORG, INFLUXDB_BUCKET and INFLUXDB_TOKEN where
    they are not given; the token also from `token_file`, or from the systemd credential ``influxdb_token``. `ca_file`
    holds the certificates to trust in place of the machine's; `proxy` is ``http://user:password@host:port``. Durations
    are texts such as "10s", seconds, or timedeltas: `connect_timeout` to connect, `timeout` for the server to take more
    or to say more. Requests hold at most `batch_lines` lines and `batch_bytes` bytes before compression (`gzip`).

    The constructor does not connect; it raises `ConfigError` for a setting that cannot be right.

    Thread-safe, calls run side by side. Each blocks until the server answered, tries nothing twice, and raises an
    `UpstreamError` that says what would help.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        org: str | None = None,
        bucket: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        gateway_id: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        proxy: str | None = None,
        gzip: bool = True,
        connect_timeout: Duration = "10s",
        timeout: Duration = "30s",
        batch_lines: int = 5000,
        batch_bytes: int = 4_000_000,
    ) -> None:
        self._settings = check_settings(
            url=url,
            token=token,
            org=org,
            bucket=bucket,
            token_file=token_file,
            ca_file=ca_file,
            proxy=proxy,
            gzip=gzip,
            connect_timeout=connect_timeout,
            timeout=timeout,
            batch_lines=batch_lines,
            batch_bytes=batch_bytes,
            environment=os.environ,
        )
        super().__init__(gateway_id)
        self._link = Link(self._settings)
        self._sender = Sender(self._link, batch_lines, batch_bytes)

    @property
    def _shown(self) -> str:
        return self._settings.shown

    def store_reading(
        self,
        reading_model: type[Reading],
        device: object,
        timestamp: datetime | None,
        data: Data,
        *,
        version: Version | None = None,
    ) -> Receipt:
        """Store one reading; a timestamp of None is stamped now. The quality of a `version` is kept. Raises
        `InvalidValue` (ValueError) for bad data."""
        receipt = self._store(reading_model, [row_of(device, timestamp, data, version)])
        for refusal in receipt.refused:
            raise InvalidValue(refusal.reason)
        return receipt

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        """Store a batch, in as many requests as it takes; the same batch again changes nothing.

        A reading that is there already is overwritten field by field, and no null replaces a value. The server can tell
        neither older versions from newer ones nor duplicates (`duplicates` is None): what is written last stays. Where
        it refuses readings it keeps the others, and the call raises `DataRefused` with its reason for the first of
        them; rows that are refused here, before anything is sent, are listed in `refused`.
        """
        if type(self).store_reading is InfluxDBStorage.store_reading:
            return self._store(reading_model, rows)
        # A subclass wants to see every reading.
        receipt = super().store_readings(reading_model, rows)
        assert receipt is not None
        return receipt

    def _store(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        model, gateway_id = check_model(reading_model), self._own_gateway()
        refused: list[Refusal] = []
        accepted = self._sender.send(lines_of(model, gateway_id, rows, self._stamp, refused))
        return Receipt.settled(accepted, None, tuple(refused))

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
        return read.select_readings(self._link, self._settings.bucket, self._confinement(), selection)

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
        scope = Scope.of(reading_model, device, start, end)
        asked = Aggregation.of(scope, field, function, interval, tz, group_by, fill)
        return asked.answer(read.aggregate(self._link, self._settings.bucket, self._confinement(), asked))

    def delete_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> None:
        """Delete this gateway's readings; None, as the server does not tell how many. Without a `gateway_id` it is a
        `ConfigError`."""
        scope, gateway_id = Scope.of(reading_model, device, start, end), self._own_gateway()
        read.delete_readings(self._link, self._settings, gateway_id, scope)

    def devices(self) -> list[Device]:
        """The devices that have points with our tags in the bucket, by id."""
        return read.devices(self._link, self._settings.bucket, self._confinement())

    def create_bucket(self, retention: str | timedelta | None = None) -> None:
        """Make the bucket if it is not there. The server deletes readings older than `retention`, such as "90 days";
        with None it keeps them. Raises `ConfigError` where a bucket of that name keeps them for another time.

        The token needs the right to make buckets in the organisation.
        """
        tasks.create_bucket(self._link, self._settings, retention)

    def create_downsampling_task(
        self,
        reading_model: type[Reading],
        bucket: str,
        interval: str | timedelta,
        function: Function = "avg",
        *,
        fields: Sequence[str] | None = None,
        tz: str = "UTC",
        every: str | timedelta | None = None,
        lookback: str | timedelta = "7 days",
        delay: str | timedelta = "1 minute",
    ) -> str:
        """Have the server write an aggregate of each device and interval into another bucket, and go on doing so; the
        name of its task. A task of that name that is there is replaced: it says all but `every`, `lookback`, `delay`.

        There the measurement, the tags and the names of the fields are the same, so that this reading model reads that
        bucket too: one bucket is for one function, one interval and one zone, or points of the same time overwrite one
        another. Each point has the time at which its interval starts. `fields` are those that the function takes,
        where not given; the intervals are those of `aggregate`. Averages are floats; sums of whole numbers are whole,
        and wrong beyond 64 bits. The task runs `every` so
        often (an hour, or the interval if that is shorter), `delay` after the full time, and makes all intervals that
        ended within the last `lookback` again: so long may a reading take to get here.

        The token needs the rights to manage tasks and to read and write both buckets. Raises `InvalidValue`.
        """
        scope = Scope.of(reading_model, None, None, None)
        asked = check_downsampling(scope, fields, interval, function, tz, every, lookback, delay)
        return tasks.create_downsampling_task(self._link, self._settings, self._confinement(), bucket, asked)

    @property
    def uses_tls(self) -> bool:
        """Whether what goes over the wire is encrypted."""
        return self._settings.url.startswith("https:")

    def wire_bytes(self) -> int | None:
        """What TCP carried, heads and TLS included; None where the system does not tell (not Linux)."""
        return self._link.meter.total

    def wire_waits(self) -> Waits:
        """What requests have waited for: see `Waits`."""
        return self._link.meter.waits

    def health_check(self) -> dict[str, Any]:
        """``{"status", "message", "version"}``: whether the server would take writes with this token, org and bucket;
        where not, ``"error"`` too, the name of the `UpstreamError`. Raises `StorageClosed` alone."""
        try:
            version = self._link.ping()
        except UpstreamError as exc:
            return failed_check(exc)
        try:
            self._link.try_write()
        except UpstreamError as exc:
            return failed_check(exc, version)
        return {"status": "pass", "message": f"{self._settings.shown} takes writes", "version": version}

    def server_time(self) -> datetime | None:
        """What the server's HTTP answers say, to the second; None where they say nothing."""
        return self._link.server_time()

    def close(self) -> None:
        """Close all connections; requests under way may end. May be called again; other calls then raise
        `StorageClosed`."""
        self._link.close()
