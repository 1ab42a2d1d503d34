"""Making a hypertable of a table, as a step of a migration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from edgedepot.storage.clock import HOUR, MINUTE
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import Interval
from edgedepot.storage.timescale.place import LONGEST_NAME
from edgedepot.storage.timescale.statements import STATEMENTS
from edgedepot.storage.values import text_problem


class Connection(Protocol):
    """A connection of psycopg, or of another library that keeps Python's database API (PEP 249)."""

    def cursor(self) -> Any: ...


def interval_text(value: str | timedelta | Interval) -> str:
    """An interval in PostgreSQL's words, ``"7 days"``, ``"90 minutes"``. Raises `InvalidValue` for what is none."""
    width = Interval.parse(value)
    if width.months:
        return f"{width.months} months"
    if width.days:
        return f"{width.days} days"
    for unit, micros in (("hours", HOUR), ("minutes", MINUTE), ("seconds", 1_000_000)):
        if width.micros % micros == 0:
            return f"{width.micros // micros} {unit}"
    return f"{width.micros} microseconds"


def interval_of(value: str | timedelta | Interval) -> Composable:
    """An interval as statements have it. Raises `InvalidValue`."""
    return SQL("interval ") + Literal(interval_text(value))


@dataclass(frozen=True, slots=True)
class CreateHypertable:
    """Makes a hypertable of a table, also of one that holds data: its rows move into chunks, and it is locked so long.

        CreateHypertable("farm.weather", chunk_time_interval="1 day").apply(connection)

    `table_name` may carry its schema; `chunk_time_interval` is a text or a timedelta. The primary key and every unique
    index of the table must contain the time column. Raises `InvalidValue` for names and intervals that are none.
    """

    table_name: str
    time_column: str = "timestamp"
    chunk_time_interval: str | timedelta = "7 days"
    if_not_exists: bool = True

    def __post_init__(self) -> None:
        schema, _, table = self.table_name.rpartition(".") if isinstance(self.table_name, str) else ("", "", "")
        if not _is_name(table) or (schema and not _is_name(schema)):
            raise InvalidValue(
                f"table_name: found {self.table_name!r:.80}, expected a name such as 'weather' or 'farm.weather'"
            )
        if not _is_name(self.time_column):
            raise InvalidValue(f"time_column: found {self.time_column!r:.80}, expected the name of a column")
        if type(self.if_not_exists) is not bool:
            raise InvalidValue(f"if_not_exists: found {self.if_not_exists!r:.80}, expected True or False")
        interval_text(self.chunk_time_interval)

    def sql(self) -> str:
        """The statement. Names in it are quoted: they are what they are, upper and lower case."""
        return self.statement(Identifier("create_hypertable")).as_string(None)

    def statement(self, function: Identifier) -> Composed:
        """The statement, with another name for the extension's function: it may be in a schema of its own."""
        table = Identifier(*self.table_name.rsplit(".", 1)).as_string(None)
        return STATEMENTS["create_hypertable"].format(
            create_hypertable=function,
            table=Literal(table),
            time_column=Literal(self.time_column),
            interval=interval_of(self.chunk_time_interval),
            if_not_exists=Literal(self.if_not_exists),
        )

    def apply(self, connection: Connection) -> None:
        """Run it, within the connection's transaction. Raises the connection's own errors."""
        with connection.cursor() as cursor:
            cursor.execute(self.sql())

    def reverse(self, connection: Connection) -> None:
        """Nothing: every statement that takes a table takes a hypertable, and no way back keeps the data."""


def _is_name(name: object) -> bool:
    if not isinstance(name, str) or not name or text_problem(name):
        return False
    return len(name.encode()) <= LONGEST_NAME
