"""What outlives raw rows: `keep_downsampled`'s rules, and the tables that they fill.

    _h_weather_1 | raw rows of a partition that is about to go
                 |  a chunk at a time, in the order of series and time, `Keeping` says how far
                 v
    _d_weather_1   (series, start of the bucket, part): rows, low, high; n, sum, min, max, first, last of each field

Nothing is kept up while raw rows live: late, merged and deleted ones need no care, for the rows are brought together
only before their partition goes. Queries see either the partition or, from the transaction on that drops it, what is
kept of it: `part` is the start of the partition, and counts once that lies below the horizon. A row that changes in the
partition meanwhile has all of it begun anew. What comes when its partition has gone is added by the fold, as a part of
its own. Runs on the writer's thread, but for what `kept_spans` is used for.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

from edgedepot.storage.clock import DAY, from_micros
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import Interval, age_of
from edgedepot.storage.query import FUNCTIONS, Scope
from edgedepot.storage.reading import Reading, check_model, field_of
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.history import series_of
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.shape import Keeping, Partition, Piece, Rule, Shape
from edgedepot.storage.sqlite.tables import cell, counted, history_table, kept_table, rows_of, value_columns
from edgedepot.storage.sqlite.walk import NEVER

CHUNK = 5_000
_PARTS = {
    "avg": ("n", "sum", "rest"),
    "sum": ("n", "sum", "rest"),
    "count": ("n",),
    "min": ("n", "min"),
    "max": ("n", "max"),
    "first": ("n", "first", "first_ts"),
    "last": ("n", "last", "last_ts"),
}
_SUMS = ("n", "sum", "rest")
_LATE = NEVER
"""The part of the rows that came when their partition had gone."""
Reach = tuple[int, int]
"""Of a question: ``low <= ts < high``."""


# -- rules ------------------------------------------------------------------------------------------------------------


class Wish:
    """The arguments of a `keep_downsampled` call, checked. Raises `InvalidValue`."""

    def __init__(
        self,
        model: type[Reading],
        interval: str | timedelta,
        fields: Collection[str] | None,
        functions: Collection[str],
        keep: str | float | timedelta | None,
    ) -> None:
        self.model = check_model(model)
        parsed = Interval.parse(interval)
        self.interval = parsed.micros or (DAY if parsed.days == 1 else 0)
        if not self.interval or DAY % self.interval:
            raise InvalidValue(f"interval is {interval!r}, expected a part of a day, such as '1 minute' or '1 hour'")
        self.fields = None if fields is None else [field_of(self.model, name) for name in fields]
        unknown = [function for function in functions if function not in _PARTS]
        if isinstance(functions, str) or unknown or not functions:
            raise InvalidValue(f"functions is {functions!r}, expected some of {', '.join(FUNCTIONS)}")
        self.functions = sorted(set(functions))
        self.keep = None if keep is None else round(age_of(keep, "keep") * 1_000_000)


def add_rule(journal: Journal, wish: Wish) -> str | None:
    """Write a rule down; the reason where it contradicts one that has something kept."""
    layout = journal.settled_layout(wish.model)
    shape = journal.shape
    places = {spec.name: index for index, spec in enumerate(layout.written)}
    fields = None if wish.fields is None else sorted(places[spec.name] for spec in wish.fields)
    number = max((rule.id for rule in shape.rules), default=0) + 1
    new = Rule(number, layout.id, wish.interval, wish.functions, fields, wish.keep)
    for old in shape.rules_of(layout.id):
        if old.interval != new.interval:
            continue
        if (old.functions, old.fields) == (new.functions, new.fields):
            old.keep = new.keep
            journal.reshape()
            return None
        if old.low is not None:
            return f"{described(layout, old)} are kept already; keep others at another interval"
        shape.rules.remove(old)
        journal.connection.execute(f"DROP TABLE {kept_table(layout, old)}")
    shape.rules.append(new)
    shape.keeping = None
    new.columns = _columns(layout, new)
    create_kept(journal.connection, layout, new)
    journal.reshape()
    return None


class KeptColumns(NamedTuple):
    """What a rule keeps of a model: so many seconds are a row, and go after so many, None for never; each column beside
    the row's times and count, by what it is of a field and that field's type."""

    measurement: str
    interval: float
    keep: float | None
    columns: list[tuple[str, type]]


def kept_columns(shape: Shape, layouts: Mapping[int, Layout]) -> list[KeptColumns]:
    """That of each rule."""
    found = []
    for rule in shape.rules:
        layout = layouts[rule.model]
        columns = [(part, layout.written[index].type) for part, index in map(_part_of, rule.columns)]
        keep = None if rule.keep is None else rule.keep / 1e6
        found.append(KeptColumns(layout.name, rule.interval / 1e6, keep, columns))
    return found


def _part_of(column: str) -> tuple[str, int]:
    """What a column is, and of which field."""
    part = column.rstrip("0123456789")
    return part, int(column.removeprefix(part))


def create_kept(connection: sqlite3.Connection, layout: Layout, rule: Rule) -> None:
    """The table of what is kept by a rule."""
    values = "".join(f", {column}" for column in rule.columns)
    connection.execute(
        f"CREATE TABLE {kept_table(layout, rule)} (series INTEGER, start INTEGER, part INTEGER, rows, low, high"
        f"{values}, PRIMARY KEY (series, start, part)) WITHOUT ROWID"
    )


def _widen(connection: sqlite3.Connection, layout: Layout, rule: Rule) -> None:
    """Give a rule's table the columns of all its fields, also of those that came later."""
    for column in _columns(layout, rule):
        if column not in rule.columns:
            connection.execute(f"ALTER TABLE {kept_table(layout, rule)} ADD COLUMN {column}")
            rule.columns.append(column)


def _columns(layout: Layout, rule: Rule) -> list[str]:
    parts = dict.fromkeys(part for function in rule.functions for part in _PARTS[function])
    found = []
    for index, spec in enumerate(layout.written):
        if rule.fields is None or index in rule.fields:
            left_out = {float: ("rest",), int: ()}.get(spec.type, ("sum", "rest", "min", "max"))
            found += [f"{part}{index}" for part in parts if part not in left_out]
    return found


def described(layout: Layout, rule: Rule) -> str:
    """A rule in words."""
    names = [spec.name for index, spec in enumerate(layout.stored) if rule.fields is None or index in rule.fields]
    return f"{', '.join(rule.functions)} of {', '.join(names)} by {timedelta(microseconds=rule.interval)}"


# -- keeping ----------------------------------------------------------------------------------------------------------


def is_kept(shape: Shape, layout: Layout, partition: Partition) -> bool:
    """Whether a partition may go, as all is kept that has to be."""
    if not shape.rules_of(layout.id):
        return True
    keeping = shape.keeping
    return keeping is not None and keeping.is_of(layout.id, partition) and keeping.done


def keep_more(
    connection: sqlite3.Connection, journal: Journal, layout: Layout, partition: Partition, most: int = CHUNK
) -> None:
    """Bring the next rows of a partition together, so many at most."""
    shape = journal.shape
    if shape.keeping is None or not shape.keeping.is_of(layout.id, partition):
        for rule in shape.rules_of(layout.id):
            with counted(connection, rule):
                _forget(connection, layout, rule, partition)
        shape.keeping = Keeping(layout.id, partition.start, 0, NEVER)
    keeping, table = shape.keeping, history_table(layout, partition)
    since = (keeping.series, keeping.ts)
    query = f"SELECT series, ts FROM {table} WHERE (series, ts) > (?, ?) ORDER BY series, ts LIMIT 1 OFFSET ?"
    until = connection.execute(query, (*since, min(most, CHUNK) - 1)).fetchone() or (2**62, 0)
    rows = _Rows(table, partition.width, "(series, ts) > (?, ?) AND (series, ts) <= (?, ?)", (*since, *until))
    for rule in shape.rules_of(layout.id):
        with counted(connection, rule):
            _bring_together(connection, layout, rule, partition.start, rows)
    keeping.series, keeping.ts = until
    keeping.done = until[0] == 2**62
    journal.reshape()


def _forget(connection: sqlite3.Connection, layout: Layout, rule: Rule, partition: Partition) -> None:
    """What was brought together of a partition before a row of it changed."""
    connection.execute(
        f"DELETE FROM {kept_table(layout, rule)} WHERE series IN (SELECT id FROM _series WHERE model = ?)"
        " AND start >= ? AND start < ? AND part = ?",
        (layout.id, partition.start - rule.interval, partition.stop, partition.start),
    )


def keep_late(journal: Journal, layout: Layout, pieces: list[tuple[Piece, list[int]]]) -> None:
    """Add rows of the journal, by piece and number, whose partition has gone. Whether there was one of an identity
    nobody can tell any more: so only those that lie before or behind all of their device's that a part of the bucket is
    made of. They are counted for the first time, for certain."""
    connection, shape = journal.connection, journal.shape
    rules = [rule for rule in shape.rules_of(layout.id) if rule.low is not None]
    columns = ("series", "ts", *value_columns(layout))
    for rule in rules:
        connection.execute(f"CREATE TEMP TABLE _late ({', '.join(columns)}, PRIMARY KEY (series, ts)) WITHOUT ROWID")
        for piece, seqs in pieces:
            part = (
                f"SELECT 1 FROM {kept_table(layout, rule)} AS k WHERE k.series = r.series AND k.start = {_start(rule)}"
                f" AND k.part < {shape.horizon(layout.id)} AND r.ts BETWEEN k.low AND k.high"
            )
            connection.execute(
                f"INSERT INTO temp._late SELECT {', '.join(cell(column, piece.width) for column in columns)}"
                f" FROM {rows_of(shape, piece)} AS r"
                f" WHERE seq IN (SELECT value FROM json_each(?)) AND ts >= {rule.low} AND NOT EXISTS ({part})",
                (json.dumps(seqs),),
            )
        with counted(connection, rule):
            _bring_together(connection, layout, rule, _LATE, _Rows("temp._late", len(layout.written), "true", ()))
        connection.execute("DROP TABLE temp._late")


class _Rows(NamedTuple):
    """Rows to bring together: of a table with so many value columns, under a condition with what that binds."""

    table: str
    width: int
    condition: str
    bound: tuple[int, ...]


def _start(rule: Rule) -> str:
    """The start of a row's bucket, in SQL."""
    return f"ts - ((ts % {rule.interval}) + {rule.interval}) % {rule.interval}"


def _bring_together(connection: sqlite3.Connection, layout: Layout, rule: Rule, number: int, added: _Rows) -> None:
    """Add rows to their buckets, as a part with that number."""
    _widen(connection, layout, rule)
    table, kept, start = added.table, kept_table(layout, rule), _start(rule)
    sums: dict[str, str] = {"rows": "count(*)", "low": "min(ts)", "high": "max(ts)"}
    edges = []
    for column in rule.columns:
        part, index = _part_of(column)
        value = cell(f"c{index}", added.width)
        if part in ("first", "last"):
            lookup = f"(SELECT {value} FROM {table} AS h WHERE h.series = k.series AND h.ts = {part}_ts{index})"
            edges.append(f"{column} = coalesce({lookup}, {column})")
        else:
            sums[column] = _expression(part, value, layout.written[index].type)
    updates = ", ".join(f"{name} = {_combined(name)}" for name in sums)
    rows = f"FROM {table} WHERE {added.condition}"
    connection.execute(
        f"INSERT INTO {kept} AS k (series, start, part, {', '.join(sums)})"
        f" SELECT series, {start}, {number}, {', '.join(sums.values())} {rows} GROUP BY 1, 2"
        f" ON CONFLICT (series, start, part) DO UPDATE SET {updates}",
        added.bound,
    )
    if edges:
        connection.execute(
            f"UPDATE {kept} AS k SET {', '.join(edges)} WHERE part = {number} AND (series, start) IN"
            f" (SELECT series, {start} {rows})",
            added.bound,
        )


def _expression(part: str, value: str, kind: type) -> str:
    when = f"CASE WHEN {value} IS NOT NULL THEN ts END"
    if part == "sum" and kind is int:  # the halves of 64 bits apart, as in hours.py
        return f"sum({value} >> 32)"
    return {
        "n": f"count({value})",
        "sum": f"total({value})",
        "rest": f"sum({value} & 4294967295)",
        "min": f"min({value})",
        "max": f"max({value})",
        "first_ts": f"min({when})",
        "last_ts": f"max({when})",
    }[part]


def _combined(name: str) -> str:
    """Old and new of a column together; null is nothing."""
    new = f"excluded.{name}"
    if name == "rows" or name.rstrip("0123456789") in _SUMS:
        return f"coalesce({name}, 0) + coalesce({new}, 0)"
    function = "min" if name.startswith(("min", "first", "low")) else "max"
    return f"{function}(coalesce({name}, {new}), coalesce({new}, {name}))"


# -- what is kept -----------------------------------------------------------------------------------------------------


def kept_spans(rule: Rule, horizon: int, spans: Iterable[Reach]) -> Iterator[Reach | None]:
    """For each reach into what is kept the starts of its buckets, from one up to another; None where it cuts one."""
    assert rule.low is not None
    for low, high in spans:
        low, high = max(low, rule.low), min(high, horizon)
        if low >= high:
            yield (0, 0)
        elif (low > rule.low and low % rule.interval) or (high < horizon and high % rule.interval):
            yield None
        else:
            yield (low - low % rule.interval, high)


def why_not(layout: Layout, shape: Shape, problem: str) -> InvalidValue:
    """The error for what cannot be said from what is kept."""
    kept = "; ".join(
        f"{described(layout, rule)} from {_iso(rule.low)}" for rule in shape.rules_of(layout.id) if rule.low is not None
    )
    return InvalidValue(f"{problem}: raw readings are there from {_iso(shape.horizon(layout.id))}, kept are {kept}")


def _iso(micros: int | None) -> str:
    return "never" if micros is None else from_micros(micros).isoformat()


def delete_kept(journal: Journal, scope: Scope) -> int:
    """Delete the kept buckets of a scope; how many readings they stand for. Raises `InvalidValue`, with nothing done,
    where it cuts one."""
    layout, shape = journal.catalogue.find(scope.model), journal.shape
    if layout is None:
        return 0
    horizon = shape.horizon(layout.id)
    low = NEVER if scope.start is None else scope.start
    high = horizon if scope.end is None else scope.end
    rules = [rule for rule in shape.rules_of(layout.id) if rule.low is not None]
    spans = [next(kept_spans(rule, horizon, [(low, high)])) for rule in rules]
    if None in spans:
        raise why_not(layout, shape, "what is to be deleted cuts a bucket that is kept")
    sql, values = series_of(scope)
    counts = [0]
    for rule, span in zip(rules, spans, strict=True):
        where = f"FROM {kept_table(layout, rule)} WHERE series IN ({sql}) AND start >= ? AND start < ? AND part < ?"
        bound = (*values, *(span or (0, 0)), horizon)
        counts.append(journal.connection.execute(f"SELECT coalesce(sum(rows), 0) {where}", bound).fetchone()[0])
        with counted(journal.connection, rule):
            journal.connection.execute(f"DELETE {where}", bound)
    journal.reshape()
    return max(counts)
