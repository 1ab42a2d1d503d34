"""Tables from reading models: one hypertable per measurement, with one column per field.

Writes make and widen them, under a lock that all gateways share; reads never do. A model may lose fields: their
columns stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from psycopg import errors
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from edgedepot.storage.errors import Misconfigured
from edgedepot.storage.reading import FieldSpec, Reading
from edgedepot.storage.timescale.hypertable import CreateHypertable
from edgedepot.storage.timescale.place import LONGEST_NAME, Place
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS

TYPES = {float: "double precision", int: "bigint", bool: "boolean", str: "text"}
FIXED_COLUMNS = {
    "gateway_id": "text",
    "device_id": "text",
    "timestamp": "timestamp with time zone",
    "quality": "smallint",
    "store_epoch": "bigint",
    "gateway_seq": "bigint",
    "received_at": "timestamp with time zone",
}


def staging_of(model: type[Reading]) -> Identifier:
    """The staging table of a model, named by its columns: behind a pooler a session may serve gateways with older
    models too. No measurement begins with an underscore, so it hides no other table."""
    shape = repr([(spec.name, spec.type.__name__) for spec in model.__fields__])
    return Identifier("pg_temp", f"_in_{_digest(shape)}")


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_OIDS = {float: 701, int: 20, bool: 16, str: 25}
"""The same as PostgreSQL numbers them, for ever (pg_type.dat)."""


def field_names(model: type[Reading]) -> Composable:
    """The fields of a model, as a list of columns."""
    return SQL(", ").join(Identifier(spec.name) for spec in model.__fields__)


def columns_upstream(session: Session, model: type[Reading]) -> Mapping[str, str] | None:
    """The columns of the model's table by name, with their types; None where there is no table.

    Raises `Misconfigured` for a table that cannot take readings of this model, even when widened.
    """
    names = (session.schema, session.place.name(model))
    found: dict[str, str] = dict(session.connection.execute(STATEMENTS["columns"], names).fetchall())
    if not found:
        return None
    table = f"table {'.'.join(names)}"
    for name, expected in FIXED_COLUMNS.items():
        if found.get(name) != expected:
            raise Misconfigured(
                f"{table} was not made for readings: column {name} is {found.get(name, 'missing')}, expected"
                f" {expected}; rename that table, or give the reading model another measurement"
            )
    for spec in model.__fields__:
        if spec.name in found and found[spec.name] != TYPES[spec.type]:
            raise Misconfigured(
                f"{table}: field {spec.name} is {found[spec.name]} there, but {TYPES[spec.type]}"
                f" ({spec.type.__name__}) in reading model {model.__name__}; alter the column, or rename the field"
            )
    return found


@contextmanager
def checked_transaction(session: Session, model: type[Reading]) -> Iterator[None]:
    """A transaction in which the columns are of the fields' types to its end: into one that was altered since the
    session began binary COPY would put the bits of a number as those of another. Raises `Misconfigured`."""
    types = STATEMENTS["types"].format(fields=field_names(model), table=session.place.table(model))
    with session.transaction(types) as cursor:
        found = [column.type_code for column in cursor.description or []]
        if found != [_OIDS[spec.type] for spec in model.__fields__]:
            columns_upstream(session, model)
        yield


def prepare(session: Session, model: type[Reading], *, plain: bool = False) -> None:
    """Make sure that the model can be written over this session; a table that has to be made becomes a hypertable,
    unless it shall be a plain one. Raises `Misconfigured`, and psycopg's errors."""
    if session.prepared.get(model.__measurement__) is model:
        return
    with session.transaction():
        missing = _missing(session, model)
    if missing != []:
        with _rights_needed(session), session.transaction():
            _lock(session, session.place.name(model))
            missing = _missing(session, model)  # another gateway may have made it while we waited for the lock
            if missing is None:
                session.run(*_creation(session, model, plain))
            else:
                session.run(*_widening(session.place, model, missing))
    session.prepared[model.__measurement__] = model


def has_devices(session: Session) -> bool:
    """Whether there is a table of devices."""
    names = (session.schema, session.place.devices_name)
    return session.connection.execute(STATEMENTS["table_exists"], names).fetchone() == (True,)


def prepare_devices(session: Session) -> None:
    """Make sure that there is a table of devices. Raises `Misconfigured`, and psycopg's errors."""
    with session.transaction():
        if has_devices(session):
            return
    with _rights_needed(session), session.transaction():
        _lock(session, session.place.devices_name)
        session.run(STATEMENTS["create_devices"].format(table=session.place.devices))


def handover(place: Place, models: Iterable[type[Reading]], role: str | None, extension: bool) -> list[SQL | Composed]:
    """All that has to be run, by somebody who may, so that `role` can write the models. Harmless where it was run."""
    found: list[SQL | Composed] = []
    if extension:
        found.append(SQL("CREATE EXTENSION IF NOT EXISTS timescaledb"))
    if place.schema is not None:
        found.append(STATEMENTS["create_schema"].format(schema=Identifier(place.schema)))
        if role is not None:
            found.append(STATEMENTS["grant_schema"].format(schema=Identifier(place.schema), role=Identifier(role)))
    tables = [place.devices]
    found.append(STATEMENTS["create_devices"].format(table=place.devices))
    for model in models:
        table = place.table(model)
        tables.append(table)
        found += _table(place, model)
        found += [_addition(table, spec) for spec in model.__fields__]
        if extension:
            name = place.name(model) if place.schema is None else f"{place.schema}.{place.name(model)}"
            found.append(CreateHypertable(name).statement(Identifier("create_hypertable")))
        found += _comments(table, model.__fields__)
    if role is not None:
        found += [STATEMENTS["grant"].format(table=table, role=Identifier(role)) for table in tables]
    return found


@contextmanager
def _rights_needed(session: Session) -> Iterator[None]:
    """Say what to do where the user may not make or change tables."""
    try:
        yield
    except errors.InsufficientPrivilege as exc:
        raise Misconfigured(
            f"{session.explain(exc)}; or have somebody who may run the SQL that `edgedepot upstream schema` prints"
            " (in Python: storage.schema_sql(models))",
            code=exc.sqlstate,
        ) from exc


def _missing(session: Session, model: type[Reading]) -> list[FieldSpec] | None:
    """The fields without a column; None where the table itself is missing."""
    found = columns_upstream(session, model)
    return None if found is None else [spec for spec in model.__fields__ if spec.name not in found]


def _lock(session: Session, name: str) -> None:
    """Wait for our turn to make things, and make the schema if it is not there."""
    execute = session.connection.execute
    execute(STATEMENTS["lock"], (f"{session.schema}.{name}",))
    if execute(STATEMENTS["schema_exists"], (session.schema,)).fetchone() != (True,):
        execute(STATEMENTS["lock"], (session.schema,))  # gateways with other models may come at the same time
        session.run(STATEMENTS["create_schema"].format(schema=Identifier(session.schema)))


def _creation(session: Session, model: type[Reading], plain: bool) -> Iterator[Composed]:
    place, home = session.place, session.extension_schema
    yield from _table(place, model)
    if home is not None and not plain:
        yield CreateHypertable(f"{session.schema}.{place.name(model)}").statement(Identifier(home, "create_hypertable"))
    yield from _comments(place.table(model), model.__fields__)


def _widening(place: Place, model: type[Reading], missing: Iterable[FieldSpec]) -> Iterator[Composed]:
    table = place.table(model)
    for spec in missing:
        yield _addition(table, spec)
    yield from _comments(table, missing)


def _addition(table: Identifier, spec: FieldSpec) -> Composed:
    return STATEMENTS["add_column"].format(table=table, field=Identifier(spec.name), type=SQL(TYPES[spec.type]))


def _table(place: Place, model: type[Reading]) -> Iterator[Composed]:
    """The plain table of a model, and its index."""
    names = {"table": place.table(model), "key": _index_name(place, model, "key")}
    yield STATEMENTS["create_table"].format(fields=definitions(model), **names)
    yield STATEMENTS["create_index"].format(table=names["table"], name=_index_name(place, model, "time"))


def _index_name(place: Place, model: type[Reading], what: str) -> Identifier:
    """Indexes and tables share their names: as no measurement begins with an underscore, it is in the way of none."""
    name = f"_{place.name(model)}_{what}"
    return Identifier(name if len(name) <= LONGEST_NAME else f"_{_digest(name)}_{what}")


def _comments(table: Identifier, fields: Iterable[FieldSpec]) -> Iterator[Composed]:
    for spec in fields:
        text = _comment(spec)
        if text:
            names = {"table": table, "field": Identifier(spec.name), "text": Literal(text)}
            yield STATEMENTS["comment_on_column"].format(**names)


def _comment(spec: FieldSpec) -> str:
    """``°C, -40 to 80, outside in the shade``; nothing where the model says nothing."""
    words = [spec.unit] if spec.unit else []
    if spec.low is not None and spec.high is not None:
        words.append(f"{spec.low:g} to {spec.high:g}")
    elif spec.low is not None:
        words.append(f"at least {spec.low:g}")
    elif spec.high is not None:
        words.append(f"at most {spec.high:g}")
    words += [spec.description] if spec.description else []
    return ", ".join(words).replace("\0", "")


def definitions(model: type[Reading]) -> Composable:
    """The fields of a model with their types, as a table's definition has them."""
    return SQL(", ").join(SQL("{} " + TYPES[spec.type]).format(Identifier(spec.name)) for spec in model.__fields__)
