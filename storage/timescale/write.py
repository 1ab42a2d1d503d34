"""A batch on its way into the database.

    rows --- first attempt -----> COPY into the table ------------------------------------------------> commit
      |                              | a reading is there already: roll back
      +- may be there already ---> COPY into a temporary table -> INSERT ... ON CONFLICT ... WHERE newer -> commit
      |                              | one identity twice in the batch: roll back, merge
      +- no COPY here -----------> INSERT ... SELECT FROM unnest(arrays) ON CONFLICT ... WHERE newer --> commit

Each attempt is one transaction, and the same batch again changes nothing. A row that the server refuses is looked for
and left out, then the others are written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Composable, Identifier, Literal

from edgedepot.storage.clock import HOUR
from edgedepot.storage.errors import DataRefused, Unreachable, UpstreamError
from edgedepot.storage.reading import Reading
from edgedepot.storage.timescale.cells import Checked, Rows, merge
from edgedepot.storage.timescale.encode import COLUMNS, MICROSECOND, POSTGRES_EPOCH, Cells, encoder_of
from edgedepot.storage.timescale.schema import TYPES, checked_transaction, definitions, field_names, prepare, staging_of
from edgedepot.storage.timescale.server import Session
from edgedepot.storage.timescale.statements import STATEMENTS

MOST_REFUSED = 16
"""So many rows of a call are looked for one by one; with more the whole call is refused."""
_SUSPICIOUS = 1
"""After so many refused rows at the beginning of a call, and one more, its last row is tried: is it the set-up?"""

_LOOK_AGAIN = 60.0
"""Seconds for which a table that leaves out no rows is taken to go on so."""

Counts = tuple[int, int]
"""How many rows were written, and how many of them changed something."""
Span = tuple[str, str, datetime, datetime]
"""Of a gateway's device, the first and the last time of what a batch has in one hour."""
Way = Callable[[Session, type[Reading], Rows | Checked], Counts]
Problem = Callable[[list[Cells]], psycopg.Error | None]
"""Why some rows are refused, None where they are not."""
Found = tuple[int, psycopg.Error]
"""Which row, from 1, and why."""

_KEY_ARRAY_TYPES = ("text", "text", "bigint", "bigint", "bigint", "smallint")
_DENSE = 10
"""With so many rows to a device and hour, those that are there already are looked for before."""
_VERSIONS = SQL("(store_epoch, gateway_seq) <> (0, 0)")
_DIRECT = SQL("(store_epoch, gateway_seq) = (0, 0)")
_ALL, _NONE = SQL("true"), SQL("false")
# "COPY weather, line 3, column note", with the word for line in the server's language.
_LINE = re.compile(r"^COPY [^,\n]+, \D*(\d+)", re.MULTILINE)


class Writer:
    """Writes batches of any model, and remembers which way to take. For one thread at a time."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy
        self._again: set[str] = set()
        """The measurements of which the next batch may be there already: it was sent before, or readings come late."""
        self._not_straight: set[str] = set()
        """The measurements into which COPY cannot go straight."""

    def store(self, session: Session, rows: Rows) -> Counts:
        """Store the good rows. What is refused stands in `rows` then.

        Raises psycopg's errors, and `UpstreamError`; nothing was kept then, or it is not known.
        """
        measurement = rows.model.__measurement__
        try:
            prepare(session, rows.model)
            written, changed = self._store(session, rows)
        except DataRefused:
            raise
        except (psycopg.Error, UpstreamError):
            self._again.add(measurement)  # whether it came to the commit is not known
            raise
        if changed == written:
            self._again.discard(measurement)
        return written, changed

    def _store(self, session: Session, rows: Rows) -> Counts:
        measurement = rows.model.__measurement__
        merged = False
        while True:
            way = self._merging(self._way(session, measurement)) if merged else self._way(session, measurement)
            try:
                with checked_transaction(session, rows.model):
                    return way(session, rows.model, rows)
            except errors.CardinalityViolation:
                if merged:
                    raise
                merged = True
            except errors.FeatureNotSupported:  # COPY into a table with row security, say
                if way is not _copy_straight:
                    raise
                self._not_straight.add(measurement)
            except (psycopg.DataError, psycopg.IntegrityError) as exc:
                is_there = way is _copy_straight and isinstance(exc, errors.UniqueViolation)
                if not is_there and self._leave_out(session, rows, exc):
                    continue
                if way is not _copy_straight:
                    raise  # no reading causes it by itself
                self._again.add(measurement)

    def _way(self, session: Session, measurement: str) -> Way:
        if self._copy and measurement not in self._again and measurement not in self._not_straight:
            return _copy_straight
        return self._guarded(session)

    def _guarded(self, session: Session) -> Way:
        """The way for readings that may be there already."""
        return _copy_and_merge if self._copy and session.temporary else _insert_arrays

    @staticmethod
    def _merging(way: Way) -> Way:
        """The same way, for rows of which several have one identity."""

        def merging(session: Session, model: type[Reading], rows: Rows | Checked) -> Counts:
            number, repeated, merged = merge(model, rows.cells())
            written, changed = way(session, model, merged)
            return number, number - repeated - (written - changed)

        return merging

    def _leave_out(self, session: Session, rows: Rows, exc: psycopg.Error) -> bool:
        """Find a row that the server refuses, and leave it out from now on; False where it refuses none.

        Which way the batch went does not matter: that a reading is there already is no reason to refuse it.
        """
        if len(rows.refused_upstream) == MOST_REFUSED:
            raise DataRefused(
                f"more than {MOST_REFUSED} rows of {len(rows)} are refused: {session.explain(exc)}", code=exc.sqlstate
            )
        good = list(rows.cells())
        way = self._merging(self._guarded(session))

        def problem(some: list[Cells]) -> psycopg.Error | None:
            return _problem(session, rows.model, way, some)

        refused = _refused_at(good, _line(exc), problem) or _first_refused(good, problem)
        if refused is None:
            return False
        number, found = refused
        if len(rows.refused_upstream) == _SUSPICIOUS and number == 1 and len(good) > 1 and problem(good[-1:]):
            raise DataRefused(
                f"rows from all over are refused, maybe every one of {len(rows)}: {session.explain(found)}",
                code=found.sqlstate,
            )
        error = session.explain(found)
        error.__cause__ = found
        rows.refuse(rows.index_of(number - 1), error)
        return True


def _line(exc: psycopg.Error) -> int | None:
    """The line of COPY that an error names, from 1."""
    match = _LINE.search(exc.diag.context or "")
    return int(match[1]) if match else None


def _refused_at(rows: list[Cells], line: int | None, problem: Problem) -> Found | None:
    """The row of a line, where it is refused by itself."""
    found = problem(rows[line - 1 : line]) if line else None
    return (line, found) if line and found else None


def _first_refused(rows: list[Cells], problem: Problem) -> Found | None:
    """Which row it takes, from 1, for all up to it to be refused; and what is said then."""
    low, high, refused = 0, len(rows), None
    while high - low > 1:
        middle = (low + high) // 2
        found = problem(rows[:middle])
        if found is None:
            low = middle
        else:
            high, refused = middle, found
    refused = refused or problem(rows)  # it must be the last row, if any
    return (high, refused) if refused else None


def _problem(session: Session, model: type[Reading], way: Way, rows: list[Cells]) -> psycopg.Error | None:
    """Why the server refuses some rows, None if it does not; nothing is kept of them."""
    try:
        with session.transaction(keep=False):
            way(session, model, Checked(rows))
            session.run(STATEMENTS["check_now"])
    except (psycopg.DataError, psycopg.IntegrityError) as exc:
        return exc
    return None


def _copy_straight(session: Session, model: type[Reading], rows: Rows | Checked) -> Counts:
    """COPY into the table: the quickest way by far, for readings of which none is there yet."""
    written = _copy(session, session.place.table(model), model, rows)
    return written, written


def _copy_and_merge(session: Session, model: type[Reading], rows: Rows | Checked) -> Counts:
    """COPY into a temporary table, and from there into the table."""
    staging = staging_of(model)
    session.run(STATEMENTS["create_staging"].format(staging=staging, fields=definitions(model)))
    written = _copy(session, staging, model, rows)
    if not written:
        return 0, 0
    spans = session.connection.execute(STATEMENTS["spans"].format(staging=staging), binary=True).fetchall()
    return written, _upsert(session, model, staging, written - rows.direct, rows.direct, spans)


def _insert_arrays(session: Session, model: type[Reading], rows: Rows | Checked) -> Counts:
    """An array for each column, as parameters: for servers where COPY or temporary tables cannot be used."""
    cells = list(rows.cells())
    if not cells:
        return 0, 0
    kinds = [*_KEY_ARRAY_TYPES, *(TYPES[spec.type] for spec in model.__fields__)]
    arrays = SQL(", ").join(SQL(f"%(c{number})s::{kind}[]") for number, kind in enumerate(kinds))
    source = STATEMENTS["from_arrays"].format(arrays=arrays, fields=field_names(model))
    values = {f"c{number}": list(column) for number, column in enumerate(zip(*cells, strict=True))}
    return len(cells), _upsert(session, model, source, len(cells) - rows.direct, rows.direct, _spans(cells), values)


def _spans(cells: Iterable[Cells]) -> list[Span]:
    """The same of rows that are here as the statement of that name says of staging."""
    edges: dict[tuple[str, str, int], tuple[int, int]] = {}
    for gateway, device, micros, *_ in cells:
        key = gateway, device, micros // HOUR
        low, high = edges.get(key, (micros, micros))
        edges[key] = min(low, micros), max(high, micros)
    return [
        (gateway, device, POSTGRES_EPOCH + low * MICROSECOND, POSTGRES_EPOCH + high * MICROSECOND)
        for (gateway, device, _), (low, high) in edges.items()
    ]


def _copy(session: Session, table: Identifier, model: type[Reading], rows: Rows | Checked) -> int:
    """Copy rows; their number. While the server takes some the next are made."""
    keys = SQL(", ").join(map(Identifier, COLUMNS))
    statement = STATEMENTS["copy"].format(table=table, keys=keys, fields=field_names(model))
    written = 0
    with session.connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for number, data in rows.encoded(encoder_of(model)):
                copy.write(data)
                written += number
        if cursor.rowcount != written:
            raise _lost(session, written - cursor.rowcount, written)
    return written


def _upsert(
    session: Session,
    model: type[Reading],
    source: Composable,
    versions: int,
    direct: int,
    spans: Sequence[Span],
    values: Mapping[str, Any] | None = None,
) -> int:
    """Merge the rows of a source into the table; how many it changed or added."""
    changed = 0
    gateways, devices, lows, highs = (list(column) for column in zip(*spans, strict=True))
    extent = {"gateway": gateways[0], "low": min(lows), "high": max(highs)}
    values = {**(values or {}), **extent, "devices": devices, "lows": lows, "highs": highs}
    names: dict[str, Composable] = {"table": session.place.table(model), "source": source, **_pieces(model)}
    names |= {"there": STATEMENTS["there"], "known": STATEMENTS["known"].format(**names)}
    # Readings that are far apart cost more to look for than to lock.
    dense = len(spans) * _DENSE <= versions + direct
    names["known_before"], names["there_before"] = (names["known"], names["there"]) if dense else (SQL(""), _NONE)
    for number, name, which in ((versions, "upsert_versions", _VERSIONS), (direct, "upsert_direct", _DIRECT)):
        if number:
            statement = STATEMENTS[name].format(which=which if versions and direct else _ALL, **names)
            changed += session.connection.execute(statement, values).rowcount
    if changed != versions + direct:
        _check_kept(session, model, names, values, versions + direct)
    return changed


def _check_kept(
    session: Session, model: type[Reading], names: Mapping[str, Composable], values: Mapping[str, Any], written: int
) -> None:
    """Make sure that rows which changed nothing are there. ON CONFLICT has missed rows in compressed chunks before
    (timescaledb#7672), and a trigger may leave out what it likes."""
    measurement, now = model.__measurement__, time.monotonic()
    if now < session.keeps_all.get(measurement, 0):
        return
    name = Literal(session.place.table(model).as_string(None))
    conditions = ["has_triggers", "has_compression"] if session.timescaledb else ["has_triggers"]
    leaves_out = SQL(" OR ").join(STATEMENTS[condition].format(name=name) for condition in conditions)
    statement = STATEMENTS["missing"].format(leaves_out=leaves_out, **names)
    (missing,) = session.connection.execute(statement, values).fetchone() or (None,)
    if missing is None:
        session.keeps_all[measurement] = now + _LOOK_AGAIN
    elif missing:
        raise _lost(session, missing, written)


def _lost(session: Session, missing: int, of: int) -> Unreachable:
    return Unreachable(f"{session.shown} took {of} rows but does not have {missing} of them: nothing of it is kept")


def _pieces(model: type[Reading]) -> dict[str, Composable]:
    """What the upserts say of each field, as lists."""
    columns = [Identifier(spec.name) for spec in model.__fields__]

    def each(form: str) -> Composable:
        return SQL(", ").join(SQL(form).format(column) for column in columns)

    return {
        "fields": field_names(model),
        "merges": each("{0} = coalesce(excluded.{0}, t.{0})"),
        "merged": each("coalesce(excluded.{0}, t.{0})"),
        "current": each("t.{0}"),
        "outside": SQL(" OR ").join([*_outside(model), SQL("false")]),
    }


def _outside(model: type[Reading]) -> Iterator[Composable]:
    """The conditions under which a merged value is outside its range."""
    for spec in model.__fields__:
        for sign, bound in (("<", spec.low), (">", spec.high)):
            if bound is not None:
                column = Identifier(spec.name)
                yield SQL("coalesce(excluded.{0}, t.{0}) " + sign + " {1}").format(column, Literal(bound))
