"""Queries but aggregates: what a call asks, as SQL. Names in it are quoted identifiers of declared fields; values are
parameters.

A model without a table reads as empty, a field without a column as null: reads make nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Identifier

from edgedepot.storage.clock import from_micros
from edgedepot.storage.query import Scope, Selection
from edgedepot.storage.reading import Device
from edgedepot.storage.timescale.schema import FIXED_COLUMNS, TYPES, columns_upstream, has_devices, prepare_devices
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS

Values = dict[str, Any]

GATEWAY = SQL('gateway_id COLLATE "C"')
DEVICE = SQL('device_id COLLATE "C"')


def select_readings(session: Session, gateway_id: str | None, selection: Selection) -> list[dict[str, Any]]:
    """The rows of a `query_readings` call."""
    scope = selection.scope
    present = columns_upstream(session, scope.model)
    if present is None:
        return []
    names = ["device_id", "timestamp", *selection.columns]
    if gateway_id is None:
        names.insert(0, "gateway_id")
    where, values = condition(scope, gateway_id)
    statement = STATEMENTS["select"].format(
        columns=SQL(", ").join(_column(name, scope, present) for name in names),
        table=session.place.table(scope.model),
        where=where,
        order=_order(selection, present),
    )
    with session.connection.cursor(row_factory=dict_row, binary=True) as cursor:
        return cursor.execute(statement, values | {"limit": selection.limit}).fetchall()


def _column(name: str, scope: Scope, present: Mapping[str, str]) -> Composable:
    if name in present:
        return Identifier(name)
    kinds = {spec.name: TYPES[spec.type] for spec in scope.model.__fields__}
    return SQL("NULL::" + kinds[name] + " AS {}").format(Identifier(name))


def _order(selection: Selection, present: Mapping[str, str]) -> Composable:
    """The order asked for, null before all values as in the local store; ties by gateway, device and time."""
    ties = SQL(', {}, {}, "timestamp"').format(GATEWAY, DEVICE)
    if selection.order not in present:
        return GATEWAY + ties
    collation = SQL(' COLLATE "C"' if present[selection.order] == "text" else "")
    direction = SQL(" DESC NULLS LAST" if selection.descending else " ASC NULLS FIRST")
    return Identifier(selection.order) + collation + direction + ties


def delete_readings(session: Session, gateway_id: str, scope: Scope) -> int:
    """Delete what the scope says, of one gateway; returns the number of readings."""
    if columns_upstream(session, scope.model) is None:
        return 0
    where, values = condition(scope, gateway_id)
    statement = STATEMENTS["delete"].format(table=session.place.table(scope.model), where=where)
    return session.connection.execute(statement, values).rowcount


def devices(session: Session, gateway_id: str | None) -> list[Device]:
    """The devices of all measurements and those that were saved, by id."""
    names = {"schema": session.schema, "prefix": session.place.prefix, "names": list(FIXED_COLUMNS)}
    tables = session.connection.execute(STATEMENTS["measurements"], names).fetchall()
    where = _confined(gateway_id)
    seen: list[Composable] = [
        STATEMENTS["seen_of"].format(table=session.place.qualified(name), where=where) for (name,) in tables
    ]
    saved: Composable = STATEMENTS["saved_nowhere"]
    if has_devices(session):
        saved = STATEMENTS["saved_of"].format(table=session.place.devices, where=where)
    statement = STATEMENTS["devices"].format(
        seen=SQL(" UNION ALL ").join(seen or [STATEMENTS["seen_nowhere"]]), saved=saved
    )
    found = session.connection.execute(statement, {"gateway_id": gateway_id}, binary=True).fetchall()
    return [Device(*row) for row in found]


def save_device(session: Session, gateway_id: str, device_id: str, name: str | None, metadata: str) -> None:
    """Keep name and metadata (as JSON) of a gateway's device."""
    prepare_devices(session)
    statement = STATEMENTS["save_device"].format(table=session.place.devices)
    with session.transaction():
        session.connection.execute(statement, (gateway_id, device_id, name, metadata))


def condition(scope: Scope, gateway_id: str | None) -> tuple[Composable, Values]:
    """Which rows a scope means, and the values that go with that."""
    values = {
        "gateway_id": gateway_id,
        "device": scope.device_id,
        "start": None if scope.start is None else from_micros(scope.start),
        "end": None if scope.end is None else from_micros(scope.end),
    }
    terms = [_confined(gateway_id)]
    terms += [SQL("device_id = %(device)s")] if scope.device_id is not None else []
    terms += [SQL('"timestamp" >= %(start)s')] if scope.start is not None else []
    terms += [SQL('"timestamp" < %(end)s')] if scope.end is not None else []
    return SQL(" AND ").join(terms), values


def _confined(gateway_id: str | None) -> Composable:
    return SQL("true" if gateway_id is None else "gateway_id = %(gateway_id)s")
