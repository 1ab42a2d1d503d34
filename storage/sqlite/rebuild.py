"""Makes a new store out of what can be read of a damaged one.

    damaged file --- SQLite, table by table -----------------\
    its pages ------ rows by their shape, where SQLite fails --> history -> hours, journal, books -> new file
    the sidecar ---- models, series, sources ----------------/

All readings go into history first; of one identity the latest version stays. From there the journal gets back every row
that some upstream may still be owed, with its number, so nothing that is pending is lost as long as it is readable in
one of its two places. The hours are computed anew; what the old ones say tells how many readings are missing where.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, starmap
from pathlib import Path
from typing import Any

import msgspec

from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.acknowledge import count_pending
from edgedepot.storage.sqlite.books import COLUMNS, RESOLVED, Books
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.digest import prepare_digests
from edgedepot.storage.sqlite.downsampled import kept_table
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.hours import add_hours, whole_hour
from edgedepot.storage.sqlite.pages import Pages
from edgedepot.storage.sqlite.ranges import LAST
from edgedepot.storage.sqlite.report import LostSpan, span
from edgedepot.storage.sqlite.scan import Kinds, scan
from edgedepot.storage.sqlite.shape import PERIOD, Folded, Partition, Piece, Shape, write_shape
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.tables import (
    HOUR,
    add_partition,
    add_piece,
    create_partition,
    history_table,
    holdable,
    hour_table,
    refresh_view,
    value_columns,
    widen_hours,
    widen_piece,
)
from edgedepot.storage.sqlite.walk import END, START, Walk, count_owed

_SMALL = ("_meta", "_models", "_series", "_sources", "_devices", "_books", "_cursors", "_quarantined", "_withheld",
          "_rejected", "_replaced")  # fmt: skip
_BATCH = 10_000
Row = tuple[Any, ...]
"""A reading: seq, series, ts, quality, values."""


class Rebuild:
    """One attempt. Raises `sqlite3.Error` where the new file cannot be written."""

    def __init__(
        self, target: Path, old: Path, pages: Pages, sidecar: Sidecar, partitions: int | None, *, complete: bool
    ) -> None:
        """`complete` says that the log is whole; `partitions` is how many of history to take, all for None."""
        self._new = sqlite3.connect(target, isolation_level=None, uri=True)
        self._pages = pages
        self._sidecar = sidecar
        self._limit = partitions
        self._roots: dict[str, int] = {}
        self._sound: dict[str, bool] = {}
        self._damaged = set[str]() if complete else {"journal"}
        self._unfolded: list[Row] = []
        self._books: dict[int, str] = {}
        self._shape = Shape()
        self._old_shape: Shape | None = None
        self._left_out: set[tuple[int, int]] = set()
        self._kinds = Kinds({})
        self._layouts: dict[int, Layout] = {}
        self._models: dict[int, int] = {}
        self._width = 1
        self.kept = 0
        self.spans: list[LostSpan] = []
        self.numbers: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self.store_epoch = 0
        self._prepare(target, old)

    def _prepare(self, target: Path, old: Path) -> None:
        new = self._new
        prepare_digests(new)
        new.execute("PRAGMA page_size = 4096")
        new.execute("PRAGMA journal_mode = MEMORY")  # were it interrupted, all of it is done again
        new.execute("PRAGMA synchronous = OFF")
        schema.prepare(new, target)
        if self._sidecar.store_id is not None:  # it is the same store, also where its own record of that is lost
            schema.set_meta(new, "store_id", self._sidecar.store_id)
        new.execute("PRAGMA writable_schema = ON")  # SQLite reads what it can of a file that is too short
        new.execute("PRAGMA cell_size_check = ON")
        with _ReadingOld():
            new.execute("ATTACH ? AS old", (old.absolute().as_uri() + "?mode=ro",))
            found = new.execute("SELECT name, rootpage FROM old.sqlite_schema WHERE type = 'table'")
            self._roots = {name: root for name, root in found if isinstance(root, int)}

    @property
    def partitions(self) -> int:
        """How many partitions of history it has put into the new file, or was about to."""
        return sum(map(len, self._shape.partitions.values()))

    def run(self) -> None:
        """Do all of it, up to the file that can take the old one's place."""
        self._copy_small_tables()
        self._load_catalogue()
        self._copy_kept()
        self._copy_history()
        self._copy_journal()
        self._scan_readings()
        self._add_all_hours()
        self._compare_hours()
        self._put_unfolded()
        self._settle_numbers()
        self._settle_series()

    def close(self) -> None:
        self._new.close()

    def finish(self, report: str) -> None:
        """Write the report down and close the file for good."""
        schema.set_meta(self._new, "salvaged", report)
        self._new.execute("PRAGMA writable_schema = OFF")
        self._new.execute("PRAGMA synchronous = FULL")
        self._new.execute("PRAGMA journal_mode = WAL")
        self._new.close()

    # -- small tables ---------------------------------------------------------------------------------------------

    def _copy_small_tables(self) -> None:
        for table in _SMALL:
            if not self._copied(table):
                self._damaged.add("small")
        if "small" in self._damaged:
            for table, row in scan(self._pages, self._orphans({}), Kinds({})):
                if table == "book":
                    self._books[row[0]] = row[1]
                elif table == "_meta":
                    self._insert_setting(*row)
                elif table in _SMALL:
                    self._insert(table, row)
        for kind in ("model", "series", "source"):
            table = {"model": "_models", "series": "_series", "source": "_sources"}[kind]
            for line in self._sidecar.rows(kind):
                self._insert(table, (*line, None) if kind == "series" else line)

    def _copied(self, table: str) -> bool:
        columns = ", ".join(row[1] for row in self._new.execute(f"PRAGMA main.table_info({table})"))
        verb = "REPLACE" if table == "_meta" else "IGNORE"
        with _ReadingOld():
            self._new.execute(f"INSERT OR {verb} INTO main.{table} ({columns}) SELECT {columns} FROM old.{table}")
            return self._is_sound(table)
        return False

    def _insert(self, table: str, row: Row) -> None:
        columns = [found[1] for found in self._new.execute(f"PRAGMA main.table_info({table})")][: len(row)]
        marks = ", ".join("?" * len(columns))
        with contextlib.suppress(sqlite3.IntegrityError):
            self._new.execute(
                f"INSERT OR IGNORE INTO main.{table} ({', '.join(columns)}) VALUES ({marks})", row[: len(columns)]
            )

    def _insert_setting(self, key: str, value: Any) -> None:
        """Of what several states say the latest."""
        known = schema.meta(self._new, key)
        if key == "shape":
            newer = _generation(value) > _generation(known)
        else:
            newer = known is None or (isinstance(known, int) and isinstance(value, int) and value > known)
        if newer:
            schema.set_meta(self._new, key, value)

    def _is_sound(self, table: str) -> bool:
        known = self._sound.get(table)
        if known is None:
            known = False
            if table in self._roots:
                with _ReadingOld():
                    known = self._new.execute(f"PRAGMA old.quick_check({table})").fetchone() == ("ok",)
            self._sound[table] = known
        return known

    def _load_catalogue(self) -> None:
        self._drop_unreadable("_models", "id", lambda row: Catalogue.check_row(*row), "name, fields")
        numbers = ", ".join(("versions_before", "coalesce(since, 0)", *RESOLVED))
        self._drop_unreadable("_cursors", "id", _check_cursor, f"acknowledged, walk, {numbers}")
        self._drop_unreadable("_books", "source", _check_counts, ", ".join(COLUMNS))
        self._new.execute("DELETE FROM _series WHERE model NOT IN (SELECT id FROM _models)")
        self._new.execute("DELETE FROM _books WHERE source NOT IN (SELECT id FROM _sources)")
        self._layouts = Catalogue.load(self._new).layouts()
        self._models = dict(self._new.execute("SELECT id, model FROM _series"))
        self._kinds = Kinds(
            {one: [spec.type for spec in self._layouts[model].stored] for one, model in self._models.items()}
        )
        text = schema.meta(self._new, "shape")
        if isinstance(text, str) and _generation(text) >= 0:
            self._old_shape = msgspec.json.decode(text, type=Shape)
        self._shape.generation = self._old_shape.generation + 1 if self._old_shape else 1
        self._shape.horizons = dict(self._old_shape.horizons) if self._old_shape else {}
        self._width = max((len(layout.written) for layout in self._layouts.values()), default=1)
        columns = ", ".join(f"c{index}" for index in range(self._width))
        self._new.execute(
            f"CREATE TABLE main._kept (seq INTEGER, series INTEGER, ts INTEGER, quality INTEGER, {columns},"
            " PRIMARY KEY (series, ts)) WITHOUT ROWID"
        )

    def _drop_unreadable(self, table: str, key: str, check: Any, columns: str) -> None:
        for number, *row in self._new.execute(f"SELECT {key}, {columns} FROM main.{table}").fetchall():
            try:
                check(row)
            except (ValueError, TypeError, KeyError, AttributeError, msgspec.MsgspecError):
                self._new.execute(f"DELETE FROM main.{table} WHERE {key} = ?", (number,))

    # -- readings -------------------------------------------------------------------------------------------------

    def _copy_history(self) -> None:
        known = self._old_shape.partitions if self._old_shape else {}
        if self._old_shape is None and self._pages.count:
            self._damaged.add("history")
        places = [(model, one) for model, mine in known.items() if model in self._layouts for one in _in_order(mine)]
        places.sort(key=lambda place: -place[1].start)
        for index, (model, old) in enumerate(places):
            layout = self._layouts[model]
            partition = Partition(old.id, old.start, old.stop, len(layout.written), old.pages)
            if self._limit is not None and index >= self._limit:
                self._left_out.add((model, old.start))
                continue
            self._shape.partitions.setdefault(model, []).insert(0, partition)
            create_partition(self._new, layout, partition)
            if not self._copied_partition(layout, old):
                self._damaged.add("history")

    def _copied_partition(self, layout: Layout, old: Partition) -> bool:
        table = history_table(layout, old)
        values = value_columns(layout)[: old.width]
        names = ", ".join(("series", "ts", "seq", "quality", *values))
        if not self._is_sound(table):
            return False
        with _ReadingOld():
            self._new.execute(
                f"INSERT INTO main.{table} ({names}) SELECT {names} FROM old.{table}"
                f" WHERE {holdable(layout, len(values))} AND ts >= ? AND ts < ?"
                " AND series IN (SELECT id FROM main._series WHERE model = ?)",
                (old.start, old.stop, layout.id),
            )
            return True
        return False

    def _copy_journal(self) -> None:
        """Rows that are in history too only where history is damaged."""
        pieces = [name for name in self._roots if name.startswith("_j_")]
        known = self._old_shape.pieces if self._old_shape else []
        if not known or any(piece.table not in pieces for piece in known):
            self._damaged.add("journal")
        everything = "history" in self._damaged or self._old_shape is None or bool(self._old_shape.horizons)
        low = 0 if everything or self._old_shape is None else self._old_shape.folded.low
        of_a_base = {piece.table for piece in known if piece.base}
        for piece in pieces:
            if piece in of_a_base:
                continue  # as they are: see _copy_pieces
            if not self._is_sound(piece):
                self._damaged.add("journal")
                continue
            with _ReadingOld():
                self._take(self._new.execute(f"SELECT * FROM old.{piece} WHERE seq > ? OR series IS NULL", (low,)))

    def _take(self, rows: Iterable[Row]) -> None:
        """Journal rows, as they are in their table."""
        found = iter(rows)
        while batch := list(islice(found, _BATCH)):
            ready: list[Row] = []
            for seq, series, ts, quality, *values in batch:
                if series is None:
                    self._books[seq] = values[0]
                elif self._kinds.fits(series, seq, ts, quality, values):
                    row = (seq, series, ts, quality, *values)
                    (self._unfolded if self._is_unfolded(seq, series, ts) else ready).append(row)
            self._put(ready)

    def _is_unfolded(self, seq: int, series: int, ts: int) -> bool:
        if self._old_shape is None:
            return False
        folded = self._old_shape.folded
        return seq > folded.low and (seq > folded.high or (series, ts) > (folded.series, folded.ts))

    def _scan_readings(self) -> None:
        found = scan(self._pages, self._orphans(self._roots), self._kinds)
        while batch := list(islice(found, _BATCH)):
            ready: list[Row] = []
            for table, row in batch:
                if table == "book":
                    self._books.setdefault(row[0], row[1])
                elif table == "journal" and self._is_unfolded(*row[:3]):
                    self._unfolded.append(row)
                elif table in ("journal", "history"):
                    ready.append(row)
            self._put(ready)

    def _orphans(self, tables: Mapping[str, int]) -> list[int]:
        """The pages that may have rows that SQLite did not find: without those of tables that are sound."""
        known = self._pages.free()
        for table, root in tables.items():
            if self._is_sound(table):
                known |= self._pages.leaves(root)
        return [number for number in range(1, self._pages.count + 1) if number not in known]

    def _put(self, rows: Iterable[Row]) -> None:
        """Put readings into history; of one identity the latest version stays."""
        places: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in rows:
            model = self._models[row[1]]
            layout = self._layouts[model]
            if row[2] < self._shape.horizon(model):
                self._keep(row)
                continue
            partition = self._shape.partition_of(model, row[2])
            if partition is None:
                if self._is_left_out(model, row[2]):
                    continue
                partition = add_partition(self._new, self._shape, layout, row[2], PERIOD)
            width = 4 + partition.width
            places[model, partition.start].append((*row, *(None,) * (width - len(row)))[:width])
        for (model, start), mine in places.items():
            layout = self._layouts[model]
            partition = self._shape.partition_of(model, start)
            assert partition is not None
            names = ("seq", "series", "ts", "quality", *value_columns(layout))
            updates = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("series", "ts"))
            self._new.execute("BEGIN")
            self._new.executemany(
                f"INSERT INTO main.{history_table(layout, partition)} ({', '.join(names)})"
                f" VALUES ({', '.join('?' * len(names))})"
                f" ON CONFLICT (series, ts) DO UPDATE SET {updates} WHERE excluded.seq > seq",
                mine,
            )
            self._new.execute("COMMIT")

    def _keep(self, row: Row) -> None:
        """A reading from before the time when retention has left history: it may be owed to an upstream still."""
        names = ["seq", "series", "ts", "quality", *(f"c{index}" for index in range(len(row) - 4))][: 4 + self._width]
        updates = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("series", "ts"))
        self._new.execute(
            f"INSERT INTO main._kept ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            f" ON CONFLICT (series, ts) DO UPDATE SET {updates} WHERE excluded.seq > seq",
            row[: len(names)],
        )

    def _is_left_out(self, model: int, ts: int) -> bool:
        old = self._old_shape.partition_of(model, ts) if self._old_shape else None
        return old is not None and (model, old.start) in self._left_out

    # -- what follows from the readings ---------------------------------------------------------------------------

    def _partitions(self) -> Iterator[tuple[Layout, Partition, str]]:
        for model, mine in self._shape.partitions.items():
            for partition in mine:
                yield self._layouts[model], partition, history_table(self._layouts[model], partition)

    def _add_all_hours(self) -> None:
        for layout, partition, table in self._partitions():
            widen_hours(self._new, layout, partition)
            found = self._new.execute(f"SELECT DISTINCT series, {hour_of('ts')} FROM main.{table}").fetchall()
            add_hours(self._new, layout, partition, starmap(whole_hour, found))

    def _compare_hours(self) -> None:
        """Which hours have fewer readings than they had."""
        old = self._old_shape
        unknown = {}
        for model, mine in old.partitions.items() if old else ():
            layout = self._layouts.get(model)
            for partition in mine if layout is not None else ():
                assert layout is not None
                if partition.hours is not None and not self._compared(layout, partition):
                    unknown[layout.name] = True
        for name in unknown:
            self.notes.append(f"how many old readings of {name} are lost is not known")

    def _compared(self, layout: Layout, old: Partition) -> bool:
        table = hour_table(layout, old)
        mine = "0"
        if (layout.id, old.start) not in self._left_out:
            same = f"main.{table} AS n WHERE n.series = o.series AND n.hour = o.hour"
            mine = f"coalesce((SELECT rows FROM {same}), 0)"
        dirty = "SELECT 1 FROM old._dirty AS d WHERE d.series = o.series AND d.hour = o.hour"
        query = (
            f"SELECT device_id, o.hour, o.rows - {mine} AS missing FROM old.{table} AS o"
            f" JOIN main._series AS s ON s.id = o.series WHERE missing > 0 AND NOT EXISTS ({dirty})"
            " ORDER BY device_id, o.hour"
        )
        if self._is_sound(table) and self._is_sound("_dirty"):
            with _ReadingOld():
                self._note_missing(layout, self._new.execute(query).fetchall())
                return True
        return False

    def _note_missing(self, layout: Layout, hours: list[tuple[str, int, int]]) -> None:
        open_spans: dict[str, list[int]] = {}
        for device, hour, missing in hours:
            last = open_spans.get(device)
            if last is not None and last[1] + 1 == hour:
                last[1], last[2] = hour, last[2] + missing
                continue
            if last is not None:
                self.spans.append(span(layout.name, device, *last))
            open_spans[device] = [hour, hour, missing]
        self.spans += [span(layout.name, device, *one) for device, one in open_spans.items()]

    def _put_unfolded(self) -> None:
        self._put(self._unfolded)
        for layout, partition, _ in self._partitions():  # those that came just now
            widen_hours(self._new, layout, partition)
        hours = sorted({(row[1], row[2] // HOUR) for row in self._unfolded})
        for series, hour in hours:
            model = self._models[series]
            place = self._shape.partition_of(model, hour * HOUR)
            if place is not None:
                layout = self._layouts[model]
                where = "WHERE series = ? AND hour = ?"
                self._new.execute(f"DELETE FROM main.{hour_table(layout, place)} {where}", (series, hour))
                add_hours(self._new, layout, place, [whole_hour(series, hour)])

    def _settle_series(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # it is not attached
            self._new.execute("DETACH old")
        for _, _, table in self._partitions():
            self._new.execute(
                f"UPDATE main._series SET newest = max(coalesce(newest, found.ts), found.ts)"
                f" FROM (SELECT series, max(ts) AS ts FROM main.{table} GROUP BY series) AS found"
                " WHERE id = found.series"
            )
            self.kept += self._new.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0]
        for layout in self._layouts.values():
            refresh_view(self._new, self._shape, layout)

    # -- numbers, journal and books -------------------------------------------------------------------------------

    def _settle_numbers(self) -> None:
        new, shape = self._new, self._shape
        books = self._load_books()
        top = self._last_number(books)
        self._note_gaps(top)
        first = min((book.acknowledged.first_gap() for book in books.cursors.values()), default=top + 1)
        first = min(first, top + 1)
        self._add_pieces(first, top)
        names = ", ".join(("seq", "series", "ts", "quality", *(f"c{index}" for index in range(self._width))))
        for piece in shape.pieces[:-1]:
            span = (max(first, piece.first), shape.last_of(piece))
            if not piece.base:
                kept = f"SELECT {names} FROM main._kept WHERE seq BETWEEN ? AND ?"
                new.execute(f"INSERT INTO main.{piece.table} ({names}) {kept}", span)
                self._fill(piece, span)
        new.execute("DROP TABLE main._kept")
        new.execute("DELETE FROM main._pieces")
        for piece in shape.pieces[:-1]:
            new.execute(f"INSERT INTO main._pieces (id, live) SELECT ?, count(series) FROM {piece.table}", (piece.id,))
        shape.folded = Folded(top, top)
        self._balance(books)
        books.write_snapshot(new, top)
        self._settle_epoch(top)
        write_shape(new, shape)

    def _add_pieces(self, first: int, top: int) -> None:
        """The journal's pieces from a number on. Those of a time base stay as they were: their rows are not in history,
        or will be no more than here until they are acknowledged."""
        old = self._old_shape
        end = first - 1
        for piece in old.pieces if old else []:
            if old is None or not piece.base or not self._is_sound(piece.table):
                continue
            self._add_piece(max(first, end + 1), piece.first - 1)
            self._copy_piece(piece)
            end = min(old.last_of(piece), top)
        self._add_piece(max(first, end + 1), top)
        add_piece(self._new, self._shape, top + 1)
        widen_piece(self._new, self._shape, self._width)

    def _add_piece(self, first: int, last: int) -> None:
        """A piece for rows ``first..last``, where there are any."""
        if first <= last:
            add_piece(self._new, self._shape, first)
            widen_piece(self._new, self._shape, self._width)

    def _copy_piece(self, piece: Piece) -> None:
        new = self._new
        add_piece(new, self._shape, piece.first, piece.base)
        widen_piece(new, self._shape, piece.width)
        mine = self._shape.pieces[-1]
        mine.aside = piece.aside
        names = ", ".join(row[1] for row in new.execute(f"PRAGMA old.table_info({piece.table})"))
        new.execute(f"INSERT INTO main.{mine.table} ({names}) SELECT {names} FROM old.{piece.table}")

    def _fill(self, piece: Piece, span: tuple[int, int]) -> None:
        """Put the rows of history with these numbers into a piece of the journal."""
        for layout, _, table in self._partitions():
            names = ", ".join(("seq", "series", "ts", "quality", *value_columns(layout)))
            self._new.execute(
                f"INSERT OR IGNORE INTO main.{piece.table} ({names})"
                f" SELECT {names} FROM main.{table} WHERE seq BETWEEN ? AND ?",
                span,
            )

    def _copy_kept(self) -> None:
        """What retention has kept of readings that are gone."""
        old = self._old_shape
        if old is None:
            return
        self._shape.bases, self._shape.rules = old.bases, []
        for rule in old.rules:
            if rule.model not in self._layouts:
                continue
            table = kept_table(self._layouts[rule.model], rule)
            made = False
            with _ReadingOld():
                (sql,) = self._new.execute("SELECT sql FROM old.sqlite_schema WHERE name = ?", (table,)).fetchone()
                self._new.execute(sql)
                made = True
                self._new.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM old.{table}")
            if made:
                self._shape.rules.append(rule)
            if not made or not self._is_sound(table):
                self.notes.append(f"of what was kept of {self._layouts[rule.model].name} in short some is lost")

    def _load_books(self) -> Books:
        """The totals, with the book rows since that can be read."""
        new = self._new
        since = schema.meta(new, "books_seq")
        if not isinstance(since, int):
            since = 0 if not self._damaged else max(self._books, default=0)
            schema.set_meta(new, "books_seq", since)
        piece = Piece(1, 1, 1)
        new.execute(f"CREATE TABLE main.{piece.table} (seq INTEGER PRIMARY KEY, series INTEGER, c0)")
        good = [(seq, text) for seq, text in self._books.items() if seq > since and _is_change(text)]
        new.executemany(f"INSERT INTO main.{piece.table} (seq, c0) VALUES (?, ?)", good)
        books = Books.load(new, Shape(pieces=[piece]))
        new.execute(f"DROP TABLE main.{piece.table}")
        return books

    def _last_number(self, books: Books) -> int:
        numbers = [self._sidecar.seq, max(self._books, default=0)]
        for _, _, table in self._partitions():
            numbers.append(self._new.execute(f"SELECT max(seq) FROM main.{table}").fetchone()[0] or 0)
        numbers.append(self._new.execute("SELECT max(seq) FROM main._kept").fetchone()[0] or 0)
        numbers += [high for book in books.cursors.values() for _, high in book.acknowledged if high < LAST]
        if self._old_shape and self._old_shape.pieces:
            numbers.append(self._old_shape.pieces[-1].first - 1)
        return max(numbers)

    def _note_gaps(self, top: int) -> None:
        """The numbers since the last fold of which nothing is there, where something may be lost."""
        low = self._old_shape.folded.low if self._old_shape else self._sidecar.seq
        there = sorted({low, *(row[0] for row in self._unfolded), *(seq for seq in self._books if seq > low)})
        if "journal" in self._damaged:
            self.numbers = [(one + 1, other - 1) for one, other in pairwise(there) if other > one + 1]
        if self._sidecar.seq > there[-1]:
            self.numbers.append((there[-1] + 1, top))

    def _balance(self, books: Books) -> None:
        """Count as lost what the books know of and nobody has. Where there is more than they know of, a book was lost:
        count that as taken in, by nobody knows whom."""
        new, shape = self._new, self._shape
        differences = {}
        for name, book in books.cursors.items():
            if book.walk.place != END:
                if self._old_shape is None:
                    book.walk.place = START  # partitions may begin elsewhere now: rather twice than not at all
                book.walk.left = count_owed(new, shape, self._layouts, book.walk, END, book.since)
            accounted = count_pending(new, shape, book) + sum(book.counts)
            differences[name] = books.versions() - book.versions_before - accounted
        extra = max([0, *(-difference for difference in differences.values())])
        if extra:
            new.execute(
                "INSERT OR IGNORE INTO main._sources (id, name)"
                " SELECT coalesce(max(id), 0) + 1, 'salvaged' FROM main._sources"
            )
            source = new.execute("SELECT id FROM main._sources WHERE name = 'salvaged'").fetchone()[0]
            books.count(source, readings=extra, new=extra)
            books.committed()
        for name, difference in differences.items():
            books.cursors[name].counts[RESOLVED.index("lost")] += difference + extra

    def _settle_epoch(self, top: int) -> None:
        found = schema.meta(self._new, "store_epoch")
        self.store_epoch = schema.raise_epoch(
            self._new, max(self._sidecar.store_epoch, found if isinstance(found, int) else 1) + 1, top + 1
        )


class _ReadingOld:
    """What the old file suffers from is why we are here; what the new one does is raised."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, sqlite3.DatabaseError):
            return False
        new = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM)
        return error.sqlite_errorcode & 0xFF not in new


def _generation(text: Any) -> int:
    """Of a shape; -1 for what is none."""
    try:
        return msgspec.json.decode(text, type=Shape).generation if isinstance(text, str) else -1
    except msgspec.MsgspecError:
        return -1


def _in_order(partitions: list[Partition]) -> list[Partition]:
    """Those that follow on one another."""
    kept: list[Partition] = []
    for one in partitions:
        if one.start < one.stop and (not kept or kept[-1].stop <= one.start):
            kept.append(one)
    return kept


def _check_cursor(row: Sequence[Any]) -> None:
    msgspec.json.decode(row[0], type=list[tuple[int, int]])
    msgspec.json.decode(row[1], type=Walk)
    _check_counts(row[2:])


def _check_counts(row: Sequence[Any]) -> None:
    if any(type(count) is not int for count in row):
        raise TypeError


def _is_change(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError):
        return False
