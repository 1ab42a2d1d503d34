"""`SQLiteStorage`: the local store. One file, one writer, any number of readers."""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from edgedepot.storage.base import BaseStorage, Data, StoreRow, Version, takes_version
from edgedepot.storage.buffer import DIRECT, Arrival, Intake, Pending
from edgedepot.storage.clock import Clock, SystemClock, from_micros
from edgedepot.storage.errors import ConfigError, InvalidValue, NotSupported, StorageError, StoreUnusable
from edgedepot.storage.interval import seconds_of
from edgedepot.storage.query import Aggregation, Function, Scope, Selection, micros_of
from edgedepot.storage.reading import Device, Reading, check_model, device_id_of, saved_of
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.arrivals import check_rows
from edgedepot.storage.sqlite.backup import Progress, copy_store
from edgedepot.storage.sqlite.buffer import SQLiteBuffer
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.deleting import delete
from edgedepot.storage.sqlite.devices import read_devices, save_device
from edgedepot.storage.sqlite.files import check_files, real
from edgedepot.storage.sqlite.forks import Home
from edgedepot.storage.sqlite.items import Task, Write
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.keeping import SQLiteKeeping
from edgedepot.storage.sqlite.limits import PAGE, Age, Key, Limits, Size
from edgedepot.storage.sqlite.pace import Pace
from edgedepot.storage.sqlite.readers import Readers
from edgedepot.storage.sqlite.rejects import check_rejects, read_rejected
from edgedepot.storage.sqlite.report import Salvaged, read_report
from edgedepot.storage.sqlite.tables import pages_free
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.writing import Writing
from edgedepot.storage.values import checked_name, name_problem


class SQLiteStorage(BaseStorage, SQLiteBuffer, SQLiteKeeping):
    """The local store: a file at `path`, made where there is none.

    Writes are queued and committed together, every `flush_interval` or 5,000 rows (fewer with long texts), at once when
    somebody waits on a receipt: a reading whose receipt nobody awaits can be lost with the process within that
    interval. A query sees everything stored before it through this object. All methods may be called from any thread.

    `gateway_id` names this gateway upstream; needed for forwarding, kept in the file from then on. With
    `durability="power"` a commit survives a power cut; with `"process"` it survives a killed process, and a power cut
    from the next sync on (every `sync_interval`). `read_only=True` reads beside a process that writes.

    What is older than `keep` (``"90 days"``, a timedelta) goes, and with more than `keep_bytes` (``"2 GB"``, a number)
    the oldest goes; none of both, nothing does. Each may be a mapping by reading model or measurement, where ``"*"`` is
    all other models' age, and the whole store's bytes. History goes first: forwarding does not need it. Then, with
    `when_full="evict"`, the oldest that is pending, counted as evicted; with `when_full="block"` nothing pending goes,
    and who stores gets `StorageBusy`. Age takes nothing pending, unless `keep_pending=False`. See docs/store.md.

    While the `clock` is not trusted (the system's own always is; a `Gateway` finds out) readings are held: queries see
    them, they are forwarded once the time is known, with their stamps put right. Readings of a boot that ended before
    that are placed between what came before and after, and flagged 16 in `quality`; with `uncertain_times="hold"` they
    wait for `release_held`.

    Raises `StorageLocked` where another process writes the file, `StoreUnusable` where it is no store, `ConfigError`
    where it belongs to another gateway.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gateway_id: str | None = None,
        durability: Literal["power", "process"] = "power",
        flush_interval: str | float | timedelta = "1s",
        sync_interval: str | float | timedelta = "10s",
        fold_interval: str | float | timedelta = "10 minutes",
        busy_timeout: str | float | timedelta = "30s",
        piece_rows: int = 25_000,
        keep: Age | Mapping[Key, Age] | None = None,
        keep_bytes: Size | Mapping[Key, Size] | None = None,
        when_full: Literal["evict", "block"] = "evict",
        keep_pending: bool = True,
        uncertain_times: Literal["release", "hold"] = "release",
        read_only: bool = False,
        clock: Clock | None = None,
    ) -> None:
        if durability not in ("power", "process"):
            raise ConfigError(f"durability is {durability!r}, expected 'power' or 'process'")
        limits = Limits.of(keep, keep_bytes, when_full, keep_pending)
        if gateway_id is not None and (problem := name_problem(gateway_id)):
            raise ConfigError(f"gateway_id {gateway_id!r:.80} {problem}")
        if uncertain_times not in ("release", "hold"):
            raise ConfigError(f"uncertain_times is {uncertain_times!r}, expected 'release' or 'hold'")
        pace = Pace(
            flush_interval=seconds_of(flush_interval, "flush_interval"),
            sync_interval=seconds_of(sync_interval, "sync_interval"),
            busy_timeout=seconds_of(busy_timeout, "busy_timeout"),
            fold_interval=seconds_of(fold_interval, "fold_interval"),
            fold_rows=limits.fold_rows,
            piece_rows=piece_rows,
        )
        self.path = real(path)
        self.gateway_id = gateway_id
        self.clock: Clock = clock or SystemClock()
        self._home = Home(self.path)
        self._readers = Readers(self.path, self._suspect)
        self._writing: Writing | None = None
        self._close_lock = threading.Lock()
        if read_only:
            self._check_readable()
        else:
            self._writing = Writing(
                self.path,
                self.clock,
                pace=pace,
                limits=limits,
                full_sync=durability == "power",
                gateway_id=gateway_id,
                hold_uncertain=uncertain_times == "hold",
                readers=self._readers,
            )
            self.gateway_id = self._writing.opened.gateway_id
            atexit.register(self.close)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """See `Buffer`."""
        asked = {name: settings.get(name) for name in ("keep", "keep_bytes")}
        Limits.of(
            **asked, when_full=settings.get("when_full", "evict"), keep_pending=settings.get("keep_pending", True)
        )

    def _check_readable(self) -> None:
        check_files(self.path)
        if not self.path.exists():
            raise StoreUnusable(f"{self.path} does not exist")
        with contextlib.ExitStack() as undo:
            undo.callback(self._readers.close)
            with self._readers.lend() as connection:
                schema.check(connection, self.path)
                self.gateway_id = schema.text(connection, "gateway_id")
            undo.pop_all()

    @property
    def store_epoch(self) -> int:
        """Rises each time that a salvage or a restore may have taken away numbers that were given out."""
        return 0 if self._writing is None else self._writing.opened.store_epoch

    def epoch_of(self, seq: int) -> int:
        return 0 if self._writing is None else self._writing.epoch_of(seq)

    @property
    def salvaged(self) -> Salvaged | None:
        """How this file was made out of a damaged one, the last time; None where it never was."""
        with self._reading(False) as (view, _):
            return read_report(view.connection)

    def _suspect(self, exc: Exception) -> None:
        if self._writing is not None:
            self._writing.writer.suspect(exc)

    # -- writing --------------------------------------------------------------------------------------------------

    def store_reading(
        self,
        reading_model: type[Reading],
        device: object,
        timestamp: datetime | None,
        data: Data,
        *,
        version: Version | None = None,
    ) -> Receipt:
        """Queue one reading; the quality of a `version` is kept. Raises `InvalidValue` (ValueError) for what cannot be
        stored, `StorageBusy` when the queue stays full."""
        writing = self._writer_parts()
        quality = None if version is None else version.quality
        arrival = self._arrival(check_model(reading_model), device, timestamp, data, quality)
        return writing.writer.submit(Write(Receipt(writing.writer), DIRECT, (arrival,)))

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt:
        """Queue many readings, in one transaction; bad ones are listed in the receipt's `refused`. They are taken in
        whole once the queue has room for one: give a bulk load in parts."""
        if self._is_overridden():
            settled = super().store_readings(reading_model, rows)
            assert settled is not None
            return settled
        writing = self._writer_parts()
        model = check_model(reading_model)
        arrivals, refused = check_rows(writing.catalogue, model, rows, self.clock)
        return writing.writer.submit(Write(Receipt(writing.writer, tuple(refused)), DIRECT, arrivals))

    def _arrival(
        self, model: type[Reading], device: object, timestamp: datetime | None, data: Data, quality: int | None
    ) -> Arrival:
        row = model.__rows__.make(data)
        if quality:
            row = (quality | (row[0] or 0), *row[1:])
        assert self._writing is not None
        self._writing.catalogue.layout(model)  # a clash with what is stored shows here, to the caller
        stamped = timestamp is None
        micros = self.clock.now() if timestamp is None else micros_of(timestamp)
        return Arrival(model, device_id_of(device), micros, stamped, row)

    def _is_overridden(self) -> bool:
        """True for a subclass with a `store_reading` of its own: then every reading goes through that."""
        return type(self).store_reading is not SQLiteStorage.store_reading

    def take_in(self, intake: Intake) -> Receipt:
        writing = self._writer_parts()
        checked_name(intake.source, "source")
        check_rejects(intake.rejects)
        if self._is_overridden():
            self._store_one_by_one(intake)
            intake = replace(intake, arrivals=[])
        for model in {arrival.model for arrival in intake.arrivals}:
            writing.catalogue.layout(model)
        return writing.writer.submit(Write(Receipt(writing.writer), intake.source, intake.arrivals, intake))

    def _store_one_by_one(self, intake: Intake) -> None:
        for arrival in intake.arrivals:
            version = Pending(0, *arrival[:3], arrival.row).version(0)
            more = {"version": version} if takes_version(type(self).store_reading) else {}
            moment = None if arrival.stamped else version.timestamp
            self.store_reading(arrival.model, arrival.device_id, moment, version.data, **more)

    def delete_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> int:
        """Delete readings here, never upstream; returns when that is committed, with the number. Raises `InvalidValue`
        where `start` or `end` cuts a bucket of which only downsampled values are kept."""
        scope = Scope.of(reading_model, device, start, end)
        problems: list[InvalidValue] = []

        def action(journal: Journal) -> int:
            problems[:] = []
            try:
                return delete(journal, scope)
            except InvalidValue as exc:
                problems[:] = [exc]
                return 0

        count = self._do(action, frees_room=True) or 0
        for problem in problems:
            raise problem
        return count

    def _do(self, action: Callable[[Journal], int | None], frees_room: bool = False) -> int | None:
        writer = self._writer_parts().writer
        task = Task(Receipt(writer), action, frees_room)
        writer.submit(task).wait("committed")
        return task.result

    def backup(self, path: str | os.PathLike[str], progress: Progress | None = None) -> int:
        """Copy the store, with everything stored before, to a file that is not there yet; its size in bytes.

        The copy is the store at one moment; writing goes on meanwhile. Blocks until it is on the device. `progress` is
        told how many bytes of how many. While the store cannot be written, what is in it is copied. Raises
        `ConfigError` and `StorageError`.
        """
        if self._writing is not None:
            self._writing.writer.settle_all()
        return copy_store(self.path, Path(path), self.clock.now(), progress)

    def flush(self) -> None:
        """Return when everything stored before is durable. Raises `ReceiptTimeout` while the store cannot be written,
        after `busy_timeout`; what waits is stored when it can."""
        if self._writing is not None:
            self._writing.writer.flush()

    def close(self) -> None:
        """See `BaseStorage`. Does nothing in a child that was forked while it was open: the store is the parent's."""
        if self._home.is_left:
            return
        with self._close_lock:
            self._readers.close()  # first: SQLite puts the WAL into the file when its last connection may write
            if self._writing is not None:
                atexit.unregister(self.close)
                self._writing.close()

    # -- reading --------------------------------------------------------------------------------------------------

    def query_readings(
        self,
        reading_model: type[Reading],
        device: object = None,
        start: datetime | None = None,
        end: datetime | None = None,
        fields: Sequence[str] | None = None,
        limit: int | None = None,
        order: str = "-timestamp",
        *,
        fresh: bool = True,
    ) -> list[dict[str, Any]]:
        """See `BaseStorage`. `fields` may name ``"quality"`` too. With `fresh=False` what is still queued is left out,
        and nothing is committed for the query's sake (for dashboards)."""
        from edgedepot.storage.sqlite.select import select_readings  # here, as many gateways only store and forward

        selection = Selection.of(Scope.of(reading_model, device, start, end), fields, limit, order)
        with self._reading(fresh) as (view, catalogue):
            layout = catalogue.find(reading_model)
            return [] if layout is None else select_readings(view, layout, selection)

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
        *,
        fresh: bool = True,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        from edgedepot.storage.sqlite.aggregate import aggregate  # here, as many gateways only store and forward

        scope = Scope.of(reading_model, device, start, end)
        asked = Aggregation.of(scope, field, function, interval, tz, group_by, fill)
        with self._reading(fresh) as (view, catalogue):
            layout = catalogue.find(reading_model)
            return asked.answer([] if layout is None else aggregate(view, layout, asked))

    def devices(self) -> list[Device]:
        """Every device with its name, metadata, and the times of its oldest and newest reading, by id."""
        with self._reading(True) as (view, _):
            return read_devices(view)

    def save_device(self, device: Device) -> None:
        """Keep a device's name and metadata (what JSON can say); returns when that is committed."""
        saved = saved_of(device)
        self._do(lambda journal: save_device(journal.connection, *saved))

    def models(self) -> dict[str, type[Reading]]:
        """The reading models that have readings here, by measurement."""
        with self._reading(True) as (_, catalogue):
            return catalogue.models()

    def history_from(self) -> dict[str, datetime]:
        """From when on there is history (aware, in UTC), by measurement, of the models of which some went for its age
        or for want of room."""
        with self._reading(False) as (view, catalogue):
            layouts = catalogue.layouts()
            return {layouts[model].name: from_micros(time) for model, time in view.shape.horizons.items()}

    def free_bytes(self) -> int:
        """How much of the file holds nothing any more: it is used again before the file grows."""
        with self._reading(False) as (view, _):
            return pages_free(view.connection) * PAGE

    def rejected(self, source: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """What could not become a reading, newest first: ``{"source", "at", "kind", "reason", "raw"}``."""
        with self._reading(True) as (view, _):
            return read_rejected(view, source, limit)

    def health_check(self) -> dict[str, Any]:
        """See `BaseStorage`; with a ``"warning"`` that names who keeps the log, or an older file, from going."""
        writer = None if self._writing is None else self._writing.writer
        trouble = None if writer is None else writer.trouble or writer.full
        try:
            if trouble is None:
                with self._reading(False):
                    pass
        except StorageError as exc:
            trouble = str(exc)
        warning = None if writer is None else writer.log_length.warning
        message = f"{self.path} can be read and written" if trouble is None else str(trouble)
        message += f"; {warning}" if warning else ""
        found = {"status": "pass" if trouble is None else "fail", "message": message, "version": sqlite3.sqlite_version}
        return found | ({"warning": warning} if warning else {})

    @contextlib.contextmanager
    def _reading(self, fresh: bool) -> Iterator[tuple[View, Catalogue]]:
        """One read transaction, after everything stored before where `fresh`, with the catalogue that fits it."""
        if self._writing is not None and fresh:
            self._writing.writer.settle_all()
        with self._readers.lend() as connection:
            if self._writing is None:
                yield View(connection, None), Catalogue.load(connection)
            else:
                view = View(connection, self._writing.tail)
                yield view, self._writing.catalogue.seen(view.shape.generation) or Catalogue.load(connection)

    def _writer_parts(self) -> Writing:
        if self._writing is None:
            raise NotSupported(f"{self.path} is open read-only")
        self._home.check()
        return self._writing
