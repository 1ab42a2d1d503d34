"""What TimescaleDB adds to a table of readings: chunks, continuous aggregates, policies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from psycopg import errors
from psycopg.rows import dict_row
from psycopg.sql import NULL, SQL, Composable, Composed, Identifier, Literal

from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import InvalidValue, NotSupported
from edgedepot.storage.interval import Interval
from edgedepot.storage.query import Aggregation, Function, Scope, micros_of
from edgedepot.storage.reading import Reading, check_model, device_id_of
from edgedepot.storage.remote import RemoteStorage
from edgedepot.storage.timescale import schema
from edgedepot.storage.timescale.errors import mapped
from edgedepot.storage.timescale.hypertable import CreateHypertable, interval_of
from edgedepot.storage.timescale.link import Link
from edgedepot.storage.timescale.server import Server, Session
from edgedepot.storage.timescale.statements import STATEMENTS

_NAME = re.compile(r"[a-z][a-z0-9_]{0,54}", re.ASCII)


_WHEREVER = (
    "-- No schema is set, so the tables come into the first one of the search_path of whoever runs this. Writers look\n"
    "-- in the first one of theirs: let it be the same, or set `schema` and print this again.\n"
)


class Upkeep(RemoteStorage):
    """The part of `TimescaleDBStorage` that is about whole tables: it spans all gateways, whatever `gateway_id` says.

    All but `schema_sql` and the queries needs the rights of the tables' owner, and raises `NotSupported` where the
    extension is missing, or is the Apache-licensed edition and the call needs the community edition. Each call opens a
    connection of its own and may take as long as it takes; making and refreshing a continuous aggregate, which go in no
    transaction, as long as the statement_timeout of the user lets it.
    """

    _server: Server
    _reading: Link

    def schema_sql(self, models: Iterable[type[Reading]], *, role: str | None = None, extension: bool = True) -> str:
        """The SQL that makes the tables of reading models, for somebody who may run it, and grants `role` (the user in
        the url unless given) what writing and reading needs. It may be run again, as when a model gained a field.

        Does not connect: without a `schema` the tables come where the search_path of whoever runs it begins, and a
        comment says so. `extension=False` is for a PostgreSQL without TimescaleDB.
        """
        checked = [check_model(model) for model in models]
        place = self._server.place
        statements = schema.handover(place, checked, role or self._server.user, extension)
        return (_WHEREVER if place.schema is None else "") + "".join(
            f"{statement.as_string(None)};\n" for statement in statements
        )

    # -- hypertables ------------------------------------------------------------------------------------------------

    def create_hypertable(
        self,
        reading_model: type[Reading],
        chunk_time_interval: str | timedelta = "7 days",
        if_not_exists: bool = True,
    ) -> None:
        """Make a hypertable of the model's table, also where that holds readings; and the table, if it is not there.

        The first write makes one with chunks of 7 days: call this before for others, or later where the table is older
        than the server's extension.
        """
        model = check_model(reading_model)
        with self._work("hypertables") as session:
            schema.prepare(session, model, plain=True)
            name = f"{session.schema}.{session.place.name(model)}"
            step = CreateHypertable(name, "timestamp", chunk_time_interval, if_not_exists)
            with session.transaction():
                session.run(step.statement(_function(session, "create_hypertable")))

    def hypertable_info(self, reading_model: type[Reading]) -> dict[str, Any] | None:
        """``{"hypertable_name", "num_chunks", "total_size": "45 MB", "total_bytes", "compression_enabled",
        "chunk_time_interval"}``, or None where the model has no hypertable."""
        model = check_model(reading_model)
        with self._reading.transaction() as session:
            if session.timescaledb is None:
                return None
            statement = STATEMENTS["hypertable_info"].format(size=_function(session, "hypertable_size"))
            names = (session.schema, session.place.name(model))
            with session.connection.cursor(row_factory=dict_row, binary=True) as cursor:
                return cursor.execute(statement, names).fetchone()

    def drop_chunks(self, reading_model: type[Reading], older_than: str | timedelta | datetime) -> int:
        """Drop the chunks of which all is older than that, counted back from now, or than a moment; their number."""
        model = check_model(reading_model)
        edge = _edge(older_than)
        with self._work("chunks") as session, session.transaction():
            statement = STATEMENTS["drop_chunks"].format(
                drop_chunks=_function(session, "drop_chunks"), table=_table(session, model), edge=edge
            )
            return len(session.connection.execute(statement).fetchall())

    # -- policies ---------------------------------------------------------------------------------------------------

    def create_retention_policy(self, reading_model: type[Reading], drop_after: str | timedelta) -> None:
        """Have the server drop chunks when all in them is older than that. Replaces the policy that is there."""
        self._set_policy("retention", reading_model, interval_of(drop_after))

    def remove_retention_policy(self, reading_model: type[Reading]) -> None:
        """Keep everything again. Nothing happens where there is no policy."""
        self._set_policy("retention", reading_model, None)

    def create_compression_policy(self, reading_model: type[Reading], compress_after: str | timedelta) -> None:
        """Have the server compress chunks when all in them is older than that, device by device. Replaces the policy
        that is there. Late readings may still be written into compressed chunks."""
        self._set_policy("compression", reading_model, interval_of(compress_after), "enable_compression")

    def remove_compression_policy(self, reading_model: type[Reading]) -> None:
        """Compress no more chunks; those that are compressed stay so. Nothing happens where there is no policy."""
        self._set_policy("compression", reading_model, None)

    def _set_policy(
        self, kind: str, reading_model: type[Reading], after: Composable | None, first: str | None = None
    ) -> None:
        model = check_model(reading_model)
        with self._work(f"{kind} policies") as session:
            schema.prepare(session, model)
            names = {"table": _table(session, model)}
            with session.transaction():
                if first:
                    session.run(STATEMENTS[first].format(table=session.place.table(model)))
                remove = _function(session, f"remove_{kind}_policy")
                session.run(STATEMENTS["remove_policy"].format(remove=remove, **names))
                if after is not None:
                    add = _function(session, f"add_{kind}_policy")
                    session.run(STATEMENTS["add_policy"].format(add=add, after=after, **names))

    # -- continuous aggregates --------------------------------------------------------------------------------------

    def continuous_aggregate(
        self,
        name: str,
        reading_model: type[Reading],
        field: str,
        function: Function = "avg",
        interval: str | timedelta = "1 hour",
        start_offset: str | timedelta | None = None,
        end_offset: str | timedelta | None = None,
        schedule_interval: str | timedelta | None = None,
        with_data: bool = True,
    ) -> None:
        """Have the server keep an aggregate by bucket and device, as the view `name`, and keep it fresh.

        Every `schedule_interval` (as often as buckets begin, at least daily) it takes in what changed between
        `start_offset` ago (from the beginning) and `end_offset` ago (one bucket). Queries add what is newer. Buckets
        are those of `aggregate` in UTC. `with_data=False` leaves what is there to the first refresh.
        """
        width = Interval.parse(interval)
        asked = Aggregation.of(Scope.of(reading_model, None, None, None), field, function, interval, "UTC", None, None)
        policy = {
            "start": NULL if start_offset is None else interval_of(start_offset),
            "end": interval_of(interval if end_offset is None else end_offset),
            "schedule": interval_of(schedule_interval or ("1 day" if width.is_calendar else interval)),
        }
        view = _checked_name(name)
        with self._work("continuous aggregates") as session:
            schema.prepare(session, asked.scope.model)
            # Neither of them goes in a transaction.
            session.run(_view(session, view, asked, with_data))
            place = session.place.qualified(session.place.prefix + view)
            names = {"view": Literal(place.as_string(None)), "add": _function(session, _POLICY)}
            try:
                session.run(STATEMENTS["add_refresh_policy"].format(**names, **policy))
            except errors.DatabaseError:  # a window of less than two buckets, say
                session.run(STATEMENTS["drop_view"].format(view=place))
                raise

    def continuous_aggregates(self) -> list[dict[str, Any]]:
        """The continuous aggregates of this schema, by name: ``{"name", "table", "schedule_interval", "start_offset",
        "end_offset", "last_run", "last_run_status"}``."""
        with self._reading.transaction() as session:
            if session.timescaledb is None:
                return []
            with session.connection.cursor(row_factory=dict_row, binary=True) as cursor:
                names = {"schema": session.schema, "prefix": session.place.prefix}
                return cursor.execute(STATEMENTS["continuous_aggregates"], names).fetchall()

    def refresh_continuous_aggregate(
        self, name: str, start: datetime | None = None, end: datetime | None = None
    ) -> None:
        """Take in what changed in ``[start, end)``, now; whole buckets within it only."""
        edges = [NULL if edge is None else _moment(edge) for edge in (start, end)]
        view = _checked_name(name)
        with self._work("continuous aggregates") as session:
            place = session.place.qualified(session.place.prefix + view)
            names = {"view": Literal(place.as_string(None)), "refresh": _function(session, _REFRESH)}
            session.run(STATEMENTS["refresh"].format(**names, start=edges[0], end=edges[1]))

    def drop_continuous_aggregate(self, name: str) -> None:
        """Drop it, with its policy. Nothing happens where there is none of that name."""
        view = _checked_name(name)
        with self._work("continuous aggregates") as session:
            session.run(STATEMENTS["drop_view"].format(view=session.place.qualified(session.place.prefix + view)))

    def query_continuous_aggregate(
        self, name: str, device: object = None, start: datetime | None = None, end: datetime | None = None
    ) -> list[dict[str, Any]]:
        """``{"device_id", "bucket", "result"}`` of the buckets that begin in ``[start, end)``, by bucket and device;
        with ``"gateway_id"`` where the storage spans all gateways."""
        from edgedepot.storage.timescale.aggregate import number_of  # here, as who forwards asks for nothing

        view, gateway_id = _checked_name(name), self._confinement()
        values = {
            "gateway_id": gateway_id,
            "device": None if device is None else device_id_of(device),
            "start": None if start is None else from_micros(micros_of(start, "start")),
            "end": None if end is None else from_micros(micros_of(end, "end")),
        }
        with self._reading.transaction() as session:
            columns = SQL("" if gateway_id is not None else "gateway_id, ")
            place = session.place.qualified(session.place.prefix + view)
            with session.connection.cursor(row_factory=dict_row, binary=True) as cursor:
                rows = cursor.execute(STATEMENTS["query_view"].format(view=place, columns=columns), values).fetchall()
        return [{**row, "result": number_of(row["result"])} for row in rows]

    @contextmanager
    def _work(self, what: str) -> Iterator[Session]:
        """A connection for one call: some of it goes in no transaction, and some takes long."""
        self._reading.check_open()
        with mapped(self._server.shown):
            session = self._server.connect()
            try:
                if session.timescaledb is None:
                    raise NotSupported(
                        f"{what} need TimescaleDB, which {session.shown} does not have: where it is installed, CREATE"
                        " EXTENSION timescaledb in that database"
                    )
                session.take_time()
                yield session
            except errors.FeatureNotSupported as exc:
                raise NotSupported(_why_not(session, what, exc)) from exc
            finally:
                session.connection.close()


_POLICY = "add_continuous_aggregate_policy"
_REFRESH = "refresh_continuous_aggregate"


def _why_not(session: Session, what: str, exc: errors.FeatureNotSupported) -> str:
    if "license" in str(exc):
        return (
            f"{what} need TimescaleDB's community edition; {session.shown} runs the Apache-licensed one"
            f" ({session.version}). drop_chunks works there too (SQLSTATE {exc.sqlstate})"
        )
    return str(session.explain(exc))


def _view(session: Session, name: str, asked: Aggregation, with_data: bool) -> Composed:
    """The statement that makes a continuous aggregate."""
    from edgedepot.storage.timescale.aggregate import calculations, vast_calculations  # here, as hardly a gateway does

    assert asked.interval is not None
    origin = SQL("" if asked.interval.is_calendar else ", origin => '1970-01-01 00:00:00+00'::timestamptz")
    bucket = SQL('{}({}, "timestamp"{})').format(_function(session, "time_bucket"), interval_of(asked.interval), origin)
    field = Identifier(asked.field.name)
    # What overflows would keep the view from ever being fresh again.
    results = vast_calculations(field) if asked.field.type is float else calculations(field)
    for function in ("first", "last"):
        results[function] = SQL('{}({}, "timestamp")').format(_function(session, function), field)
    return STATEMENTS["create_view"].format(
        view=session.place.qualified(session.place.prefix + name),
        bucket=bucket,
        result=results[asked.function],
        field=field,
        table=session.place.table(asked.scope.model),
        data=SQL("WITH DATA" if with_data else "WITH NO DATA"),
    )


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValue(
            f"name: found {name!r:.80}, expected 1 to 55 lowercase letters, digits and _, starting with a letter"
        )
    return name


def _function(session: Session, name: str) -> Identifier:
    """A function of the extension, wherever that is."""
    return Identifier(session.extension_schema or "public", name)


def _table(session: Session, model: type[Reading]) -> Composable:
    """The model's table as an argument."""
    return Literal(session.place.table(model).as_string(None))


def _edge(older_than: str | timedelta | datetime) -> Composable:
    return _moment(older_than) if isinstance(older_than, datetime) else interval_of(older_than)


def _moment(moment: object) -> Composable:
    return Literal(from_micros(micros_of(moment)))
