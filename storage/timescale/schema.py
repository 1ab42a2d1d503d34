"""Tables from reading models: one hypertable per measurement, with one column per field.

Writes make and widen them, under a lock that all gateways share; reads never do. A model may lose fields: their
columns stay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from psycopg.sql import SQL, Composable, Identifier

from edgedepot.storage.errors import Misconfigured
from edgedepot.storage.reading import Reading
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS

_log = logging.getLogger(__name__)

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


def table_of(session: Session, model: type[Reading]) -> Identifier:
    """The table of a model; qualified, for a measurement may be called like one of the server's own tables."""
    return Identifier(session.schema, model.__measurement__)


def staging_of(model: type[Reading]) -> Identifier:
    """The staging table of a model. No measurement begins with an underscore, so it hides no other table."""
    return Identifier("pg_temp", f"_in_{model.__measurement__}")


def field_names(model: type[Reading]) -> Composable:
    """The fields of a model, as a list of columns."""
    return SQL(", ").join(Identifier(spec.name) for spec in model.__fields__)


def columns_upstream(session: Session, model: type[Reading]) -> Mapping[str, str] | None:
    """The columns of the model's table by name, with their types; None where there is no table.

    Raises `Misconfigured` for a table that cannot take readings of this model, even when widened.
    """
    names = (session.schema, model.__measurement__)
    found: dict[str, str] = dict(session.connection.execute(STATEMENTS["columns"], names).fetchall())
    if not found:
        return None
    table = f"table {session.schema}.{model.__measurement__}"
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


def prepare(session: Session, model: type[Reading]) -> None:
    """Make sure that the model can be written over this session. Commits.

    Raises `Misconfigured`, and psycopg's errors.
    """
    if session.staged.get(model.__measurement__) is model:
        return
    if _missing_fields(session, model) != []:
        _make(session, model)
    execute = session.connection.execute
    execute(STATEMENTS["drop_staging"].format(staging=staging_of(model)))
    execute(STATEMENTS["create_staging"].format(staging=staging_of(model), fields=_definitions(model)))
    session.connection.commit()
    session.staged[model.__measurement__] = model


def _missing_fields(session: Session, model: type[Reading]) -> list[str] | None:
    """The fields without a column; None where the table itself is missing."""
    found = columns_upstream(session, model)
    return None if found is None else [spec.name for spec in model.__fields__ if spec.name not in found]


def _make(session: Session, model: type[Reading]) -> None:
    """Make or widen the table, unless another gateway did while we waited for the lock."""
    session.connection.execute(STATEMENTS["lock"], (f"{session.schema}.{model.__measurement__}",))
    missing = _missing_fields(session, model)
    if missing is None:
        _create(session, model)
    else:
        _widen(session, model, missing)
    session.connection.commit()


def _create(session: Session, model: type[Reading]) -> None:
    execute, table = session.connection.execute, table_of(session, model)
    execute(STATEMENTS["create_table"].format(table=table, fields=_definitions(model)))
    execute(STATEMENTS["create_index"].format(table=table))
    if session.extension_schema is None:
        return
    function = Identifier(session.extension_schema, "create_hypertable")
    statement = STATEMENTS["create_hypertable"].format(create_hypertable=function)
    execute(statement, (table.as_string(session.connection),))


def _widen(session: Session, model: type[Reading], missing: list[str]) -> None:
    for spec in model.__fields__:
        if spec.name in missing:
            statement = STATEMENTS["add_column"].format(
                table=table_of(session, model), field=Identifier(spec.name), type=SQL(TYPES[spec.type])
            )
            session.connection.execute(statement)


def _definitions(model: type[Reading]) -> Composable:
    return SQL(", ").join(SQL("{} " + TYPES[spec.type]).format(Identifier(spec.name)) for spec in model.__fields__)
