"""Looks for damage in a store's file that nobody has stumbled over yet. Only reads, also beside a process that writes.

    structure   what SQLite's own integrity check finds: pages, their order, the list of free ones
    records     of the small tables: the store can make use of each, and has what they refer to
    names       whose store it is; models, devices and sources: the copy beside the store says the same of their numbers
    history     rows that lie in the wrong partition, hold what their field cannot, are newer than their device's newest
    hours       each computed again from its rows: the digest (digest.py) tells of values that changed since the fold
    journal     rows that are in history as well: both say the same; the others hold what their fields can; their number
    books       they balance

What no second record exists of is not found out: a value that changed before the fold, or in what is kept downsampled.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.connection import open_reader, sqlite_errors
from edgedepot.storage.sqlite.contradictions import check_gateway, contradictions, is_of_this_life, text_of
from edgedepot.storage.sqlite.digest import prepare_digests
from edgedepot.storage.sqlite.files import real
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.ledger import read_ledger
from edgedepot.storage.sqlite.readable import REFERENCES, is_readable
from edgedepot.storage.sqlite.records import RECORDS, TIME, read_records
from edgedepot.storage.sqlite.recount import Recount, WrongHours
from edgedepot.storage.sqlite.report import LostSpan, span
from edgedepot.storage.sqlite.salvage import Damage, finding_damage
from edgedepot.storage.sqlite.shape import Partition, Piece, Shape
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.tables import (
    any_of,
    cell,
    check_tables,
    history_table,
    holdable,
    readings_in,
    rows_in,
    rows_of,
    unfolded_condition,
)
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.values import Quality

Progress = Callable[[int, int], None]
"""Told now and then how many steps are done, and of how many."""
_PROBLEMS = 1_000
_UNMATCHED = "temp._unmatched"
_WRONG = "cannot be what was stored: a series, time or value of another kind"


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: `kind` is structure, records, names, history, hours, journal or books. `readings` says
    which ones it is about, at most, where that is known."""

    kind: str
    text: str
    readings: LostSpan | None = None


class Verified(msgspec.Struct):
    """What was looked at: readings in history, and those in the journal alone, of which there is no second record."""

    readings: int = 0
    hours: int = 0
    unfolded: int = 0
    problems: list[Problem] = msgspec.field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems


class Verification:
    """One look through a store's file; a context manager. Each table is looked at as it is at one moment, so that the
    log can be cut short in between. Raises `StoreUnusable` for what is no store, `StorageError` for what is locked."""

    def __init__(self, path: Path) -> None:
        path = real(path)
        if not path.exists():
            raise StoreUnusable(f"{path} does not exist")
        self._path = path
        self._sidecar = Sidecar(path)  # first: it never knows of more than the file
        self._found = Verified()
        self._done = 0
        self._places: list[tuple[int, int, int]] = []
        self._pieces: list[int] = []
        with sqlite_errors(path):
            self._connection = open_reader(path)
            with contextlib.ExitStack() as undo:
                undo.callback(self._connection.close)
                schema.check(self._connection, path)
                self._pages = int(self._connection.execute("PRAGMA page_count").fetchone()[0])
                prepare_digests(self._connection)
                self._plan()
                undo.pop_all()

    def __enter__(self) -> Verification:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def total(self) -> int:
        """How many steps it takes: a page of the file is one, and a page of history one more."""
        return self._pages + sum(pages for _, _, pages in self._places)

    def run(self, progress: Progress = lambda done, total: None) -> Verified:
        """Look at all of it. Blocks for about as long as it takes to read the file twice."""
        with self._noting("structure"):
            self._check_structure()
        self._done = self._pages
        progress(self._done, self.total)
        for table in RECORDS:
            with self._noting("records"):
                self._check_records(table)
        with self._noting("records"):
            self._check_references()
        with self._noting("records"), self._moment() as (view, layouts):
            check_tables(self._connection, view.shape, layouts)
        with self._noting("names"):
            check_gateway(self._connection, self._sidecar)
        with self._noting("names"), self._moment() as (view, layouts):
            self._check_names(view)
            for layout in layouts.values():
                self._check_newest(view, layout)
        for model, start, pages in self._places:
            with self._noting("history"), self._moment() as (view, layouts):
                self._check_partition(view, layouts[model], start)
            self._done += pages
            progress(self._done, self.total)
        self._connection.execute(f"CREATE TEMP TABLE {_UNMATCHED} (seq INTEGER PRIMARY KEY, series, ts)")
        for piece in self._pieces:
            with self._noting("journal"), self._moment() as (view, layouts):
                self._check_piece(view, layouts, piece)
        for model, start, _ in self._places:
            with self._noting("journal"), self._moment() as (view, layouts):
                self._check_keys(view, layouts[model], start)
        with self._noting("books"), self._moment() as (view, _):
            self._found.problems += [Problem("books", text) for text in read_ledger(view).problems]
        return self._found

    def _plan(self) -> None:
        with self._noting("structure"), self._moment() as (view, layouts):
            mine = ((model, one) for model in layouts for one in view.shape.partitions.get(model, []))
            self._places = [(model, one.start, one.pages) for model, one in mine]
            self._pieces = [piece.id for piece in view.shape.pieces]

    @contextlib.contextmanager
    def _noting(self, kind: str) -> Iterator[None]:
        """What cannot be read is a problem, and the rest is looked at all the same."""
        try:
            with sqlite_errors(self._path), finding_damage():
                yield
        except (Damage, OverflowError) as exc:  # the latter of a time that is none
            self._found.problems.append(Problem(kind, str(exc)))

    @contextlib.contextmanager
    def _moment(self) -> Iterator[tuple[View, dict[int, Layout]]]:
        self._connection.execute("BEGIN")
        try:
            yield View(self._connection, None), Catalogue.load(self._connection).layouts()
        finally:
            with contextlib.suppress(sqlite3.Error):  # where the damage has ended it
                self._connection.execute("COMMIT")

    def _check_structure(self) -> None:
        for (text,) in self._connection.execute(f"PRAGMA integrity_check({_PROBLEMS})"):
            if text != "ok":
                self._found.problems.append(Problem("structure", text))

    def _check_records(self, table: str) -> None:
        names = RECORDS[table]
        if not names.keys() <= {row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")}:
            return  # of an earlier schema
        found = self._connection.execute(f"SELECT {', '.join(names)} FROM {table}")
        wrong = sum(not is_readable(table, row) for row in found)
        if wrong:
            self._found.problems.append(Problem("records", f"{wrong} of {table} are not what the store writes"))

    def _check_references(self) -> None:
        for table, column, there in REFERENCES:
            query = f"SELECT count(*) FROM {table} WHERE {column} NOT IN ({there})"
            (wrong,) = self._connection.execute(query).fetchone()
            if wrong:
                text = f"{wrong} of {table} are of a {column} that is not on record"
                self._found.problems.append(Problem("records", text))

    def _check_names(self, view: View) -> None:
        if is_of_this_life(view.connection, self._sidecar):
            for known, found in contradictions(Catalogue.load(view.connection).lines(), self._sidecar):
                self._found.problems.append(Problem("names", text_of(known, found)))

    # -- history --------------------------------------------------------------------------------------------------

    def _check_partition(self, view: View, layout: Layout, start: int) -> None:
        partition = view.shape.partition_of(layout.id, start)
        if partition is None:
            return  # retention has taken it meanwhile
        table = history_table(layout, partition)
        mine = f"series IN (SELECT id FROM _series WHERE model = {layout.id})"
        right = f"{holdable(layout, partition.width)} AND ts >= ? AND ts < ? AND {mine}"
        count, wrong = self._connection.execute(
            f"SELECT count(*), total(NOT ({right})) FROM {table}", (partition.start, partition.stop)
        ).fetchone()
        self._found.readings += count
        if wrong:
            self._found.problems.append(Problem("history", f"{int(wrong)} rows of {table} {_WRONG}"))
        if partition.hours is not None:
            self._check_hours(layout, partition)
        elif count:
            self._found.problems.append(Problem("hours", f"the hours of {table} are missing"))

    def _check_newest(self, view: View, layout: Layout) -> None:
        """Of each device the time of the newest reading, by which the store tells what may be a duplicate."""
        mine = [history_table(layout, one) for one in view.shape.partitions.get(layout.id, [])]
        last = " UNION ALL ".join(f"SELECT (SELECT max(ts) FROM {table} WHERE series = s.id) AS ts" for table in mine)
        query = (
            "SELECT device_id FROM _series AS s"
            f" WHERE model = ? AND (SELECT max(ts) FROM ({last or 'SELECT NULL AS ts'})) > coalesce(newest, {TIME.low})"
        )
        for (device,) in self._connection.execute(query, (layout.id,)):
            text = f"{layout.name} {device} has readings that are newer than its newest by the store's records"
            self._found.problems.append(Problem("history", text))

    def _check_hours(self, layout: Layout, partition: Partition) -> None:
        recount = Recount(self._connection, layout, partition)
        devices = dict(read_records(self._connection, "_series", ("id", "device_id"), "WHERE model = ?", (layout.id,)))
        for wrong in recount.run(sorted(devices)):
            self._found.problems.append(_problem_of(layout, devices.get(wrong.series, "?"), wrong))
        self._found.hours += recount.hours

    # -- journal --------------------------------------------------------------------------------------------------

    def _check_piece(self, view: View, layouts: dict[int, Layout], number: int) -> None:
        piece = next((one for one in view.shape.pieces if one.id == number), None)
        if piece is None:
            return  # it is folded and delivered meanwhile
        if piece is not view.shape.pieces[-1]:
            self._check_number(piece)
        if piece in view.shape.unfolded():
            self._check_unfolded(view, layouts, piece)
        for layout in layouts.values():
            for partition in view.shape.partitions.get(layout.id, []):
                self._compare(view.shape, piece, layout, partition)
        self._note_unmatched(view.shape, layouts, piece)

    def _note_unmatched(self, shape: Shape, layouts: dict[int, Layout], piece: Piece) -> None:
        """Rows of the journal that history has not under their series and time: they are not folded, or merged, deleted
        or gone meanwhile; or one of both has changed. Of a piece whose time nobody knows yet none is in history, and
        all may have another time by then."""
        if shape.is_held(piece):
            return
        matched = any_of(
            [
                f"j.ts >= {partition.start} AND j.ts < {partition.stop} AND EXISTS (SELECT 1 FROM"
                f" {history_table(layout, partition)} AS h WHERE h.series = j.series AND h.ts = j.ts AND h.seq = j.seq)"
                for layout in layouts.values()
                for partition in shape.partitions.get(layout.id, [])
            ]
        )
        self._connection.execute(
            f"INSERT OR IGNORE INTO {_UNMATCHED} SELECT j.seq, j.series, j.ts FROM {rows_of(shape, piece)} AS j"
            f" WHERE j.series IS NOT NULL AND {matched} IS NOT TRUE"
        )

    def _check_keys(self, view: View, layout: Layout, start: int) -> None:
        """Whether history has any of these under another series or time: no two rows ever have one number."""
        partition = view.shape.partition_of(layout.id, start)
        if partition is None or self._connection.execute(f"SELECT 1 FROM {_UNMATCHED} LIMIT 1").fetchone() is None:
            return
        query = (
            f"SELECT device_id, {hour_of('h.ts')} AS hour, count(*) FROM {history_table(layout, partition)} AS h"
            f" CROSS JOIN {_UNMATCHED} AS j ON j.seq = h.seq JOIN _series AS s ON s.id = h.series"
            " WHERE h.series IS NOT j.series OR h.ts IS NOT j.ts GROUP BY 1, 2"
        )
        for device, hour, count in self._connection.execute(query):
            where = span(layout.name, device, hour, hour, count)
            text = f"{where.where}: the journal has another device or time, one of them has changed"
            self._found.problems.append(Problem("journal", text, where))

    def _check_number(self, piece: Piece) -> None:
        known, there = rows_in(self._connection, piece), readings_in(self._connection, piece)
        if known != there:
            text = f"{piece.table} has {there} readings, {known} by the store's records"
            self._found.problems.append(Problem("journal", text))

    def _check_unfolded(self, view: View, layouts: dict[int, Layout], piece: Piece) -> None:
        right = any_of(
            [
                f"series IN (SELECT id FROM _series WHERE model = {model})"
                f" AND {holdable(layout, piece.width, before=True)}"
                for model, layout in layouts.items()
            ]
        )
        mine = f"{rows_of(view.shape, piece)} WHERE {unfolded_condition(view.shape, piece)}"
        query = f"SELECT count(*), total(NOT {right}) FROM {mine}"
        count, wrong = self._connection.execute(query).fetchone()
        self._found.unfolded += count
        if wrong:
            self._found.problems.append(Problem("journal", f"{int(wrong)} rows of {piece.table} {_WRONG}"))

    def _compare(self, shape: Shape, piece: Piece, layout: Layout, partition: Partition) -> None:
        """Rows of the journal with those of the same number in history. Thinning has changed the former on purpose."""
        values = [f"c{index}" for index in range(min(piece.width, partition.width, len(layout.written)))]
        differ = any_of([f"j.{name} IS NOT h.{cell(name, partition.width)}" for name in ("quality", *values)])
        query = (
            f"SELECT device_id, {hour_of('j.ts')} AS hour, count(*) FROM {rows_of(shape, piece)} AS j"
            f" JOIN {history_table(layout, partition)} AS h ON h.series = j.series AND h.ts = j.ts AND h.seq = j.seq"
            f" JOIN _series AS s ON s.id = j.series WHERE j.ts >= ? AND j.ts < ?"
            f" AND coalesce(j.quality, 0) & {Quality.THINNED:d} = 0 AND {differ} GROUP BY 1, 2"
        )
        for device, hour, count in self._connection.execute(query, (partition.start, partition.stop)):
            where = span(layout.name, device, hour, hour, count)
            text = f"{where.where}: the journal and history differ, one of them has changed"
            self._found.problems.append(Problem("journal", text, where))


def _problem_of(layout: Layout, device: str, wrong: WrongHours) -> Problem:
    where = span(layout.name, device, wrong.first, wrong.last, wrong.rows)
    return Problem("hours", f"{where.where}: {wrong.text}", where)
