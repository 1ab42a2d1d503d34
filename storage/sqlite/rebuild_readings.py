"""The readings of a damaged store. All go into the new history; of one identity the latest version stays.

    old history ---- table by table, where it is sound ----------------------.
    old journal ---- table by table, where it is sound -----.                 >---> history
                                                             >--- _journal --`
    pages ---------- rows by their shape, where it is not --`---- _held

`_journal` is what is left of the old journal, with the times as they are known by now; `_held` are its rows of which
nobody knows the time yet. Both are there until the new journal is made out of them (rebuild_numbers.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from edgedepot.storage.clock import HOUR
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.downsampled import create_kept
from edgedepot.storage.sqlite.draft import Draft, Row, reading_old
from edgedepot.storage.sqlite.retype import cast_to_float, turn_kept
from edgedepot.storage.sqlite.scan import book_text, scan
from edgedepot.storage.sqlite.shape import PERIOD, Partition, Rule, in_order
from edgedepot.storage.sqlite.tables import (
    OWN_STAMP,
    add_partition,
    create_partition,
    history_table,
    holdable,
    kept_table,
    value_columns,
)
from edgedepot.storage.values import Quality

_BATCH = 10_000


class Readings:
    """Finds them and puts them into the new file."""

    def __init__(self, draft: Draft, limit: int | None) -> None:
        """`limit` is how many partitions of history to take, all for None."""
        self._draft = draft
        self._limit = limit
        self.left_out: dict[tuple[int, int], Counter[tuple[int, int]] | None] = {}
        """The partitions for which there is no room, by model and start. Of those that are damaged how many readings
        were found, by series and hour."""
        self.rows_left_out = 0
        """How many readings that is, as far as they can be counted."""

    def copy(self) -> None:
        """All of it, but for what the journal alone had: see `fold`."""
        draft = self._draft
        values = ", ".join(draft.columns[4:])
        draft.new.execute(f"CREATE TABLE main._journal (seq INTEGER PRIMARY KEY, series, ts, quality, {values})")
        draft.new.execute(f"CREATE TABLE main._held (seq INTEGER PRIMARY KEY, series, ts, quality, received, {values})")
        self._copy_kept()
        self._copy_history()
        self._copy_journal()
        self._scan()
        self._turn_to_float()
        self._drop_released()
        if "history" in draft.damaged or draft.old_shape is None:
            self._put_journal(unfolded=False)
        known = draft.old_shape.partitions if draft.old_shape else {}
        if draft.kinds.unknown or not draft.layouts.keys() >= known.keys():
            draft.notes.append("how many readings are lost whose model or device is forgotten is not known")

    def fold(self) -> set[tuple[int, int]]:
        """Put the rows into history that were in the journal alone; the series and hours that they are of."""
        return self._put_journal(unfolded=True)

    # -- history --------------------------------------------------------------------------------------------------

    def _copy_history(self) -> None:
        draft = self._draft
        known = draft.old_shape.partitions if draft.old_shape else {}
        if draft.old_shape is None and draft.pages.count:
            draft.damaged.add("history")
        places = [(model, one) for model, mine in known.items() if model in draft.layouts for one in in_order(mine)]
        for model, one in ((model, one) for model, mine in known.items() if model in draft.layouts for one in mine):
            if (model, one) not in places:  # where it begins and ends has changed on the card
                draft.damaged |= {"history", history_table(draft.layouts[model], one)}
        places.sort(key=lambda place: -place[1].start)
        for index, (model, old) in enumerate(places):
            layout = draft.layouts[model]
            partition = Partition(old.id, old.start, old.stop, len(layout.written), old.pages)
            if self._limit is not None and index >= self._limit:
                self._leave_out(model, old, history_table(layout, old))
                continue
            draft.shape.partitions.setdefault(model, []).insert(0, partition)
            create_partition(draft.new, layout, partition)
            if not self._copied_partition(layout, old):
                draft.damaged |= {"history", history_table(layout, old)}

    def _leave_out(self, model: int, old: Partition, table: str) -> None:
        """What SQLite cannot count is counted as it is found."""
        self.left_out[model, old.start] = Counter()
        if self._draft.is_sound(table):
            with reading_old():
                self.rows_left_out += self._draft.new.execute(f"SELECT count(*) FROM old.{table}").fetchone()[0]
                self.left_out[model, old.start] = None

    def _copied_partition(self, layout: Layout, old: Partition) -> bool:
        """Whether all of it could be."""
        table = history_table(layout, old)
        values = value_columns(layout)[: old.width]
        names = ", ".join(("series", "ts", "seq", "quality", *values))
        if not self._draft.is_sound(table):
            return False
        is_whole = False
        with reading_old():
            copied = self._draft.new.execute(
                f"INSERT INTO main.{table} ({names}) SELECT {names} FROM old.{table}"
                f" WHERE {holdable(layout, len(values), before=True)} AND ts >= ? AND ts < ?"
                " AND series IN (SELECT id FROM main._series WHERE model = ?)",
                (old.start, old.stop, layout.id),
            ).rowcount
            (there,) = self._draft.new.execute(f"SELECT count(*) FROM old.{table}").fetchone()
            is_whole = bool(there == copied)
        return is_whole

    def _put(self, rows: Iterable[Row], *, of_journal: bool) -> None:
        """Put readings into history; of one identity the latest version stays. What is left out is counted once:
        what history has where it is found there, what the journal alone has there."""
        draft = self._draft
        places: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in rows:
            model = draft.models[row[1]]
            if row[2] < draft.shape.horizon(model):
                continue  # retention has left it behind; it may be owed to an upstream still, from the journal
            partition = draft.shape.partition_of(model, row[2])
            if partition is None:
                if self._is_left_out(model, row, of_journal=of_journal):
                    continue
                partition = add_partition(draft.new, draft.shape, draft.layouts[model], row[2], PERIOD)
            width = 4 + partition.width
            places[model, partition.start].append((*row, *(None,) * (width - len(row)))[:width])
        for (model, start), mine in places.items():
            partition = draft.shape.partition_of(model, start)
            assert partition is not None
            table = history_table(draft.layouts[model], partition)
            self._insert_latest(table, ["seq", "series", "ts", "quality", *value_columns(draft.layouts[model])], mine)

    def _insert_latest(self, table: str, names: list[str], rows: list[Row]) -> None:
        updates = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("series", "ts"))
        self._draft.new.execute("BEGIN")
        self._draft.new.executemany(
            f"INSERT INTO main.{table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            f" ON CONFLICT (series, ts) DO UPDATE SET {updates} WHERE excluded.seq > seq",
            rows,
        )
        self._draft.new.execute("COMMIT")

    def _is_left_out(self, model: int, row: Row, *, of_journal: bool) -> bool:
        """Whether a reading would be in one of them; then it is counted."""
        old = self._draft.old_shape.partition_of(model, row[2]) if self._draft.old_shape else None
        if old is None or (model, old.start) not in self.left_out:
            return False
        found = self.left_out[model, old.start]
        if of_journal:
            self.rows_left_out += self._is_unfolded(*row[:3])
        elif found is not None:
            self.rows_left_out += 1
            found[row[1], row[2] // HOUR] += 1
        return True

    # -- the journal ----------------------------------------------------------------------------------------------

    def _copy_journal(self) -> None:
        draft = self._draft
        tables = draft.old_journal()
        known = draft.old_shape.pieces if draft.old_shape else []
        missing = {piece.table for piece in known}.difference(tables)
        if missing or not known:
            draft.damaged |= {"journal", *missing}
        for table in tables:
            if not draft.is_sound(table):
                draft.damaged |= {"journal", table}
                continue
            is_of_a_base = "received" in draft.old_columns(table)
            for batch in self._read(table, f"SELECT * FROM old.{table}"):
                found = [self._as_found(row, is_of_a_base) for row in batch]
                if None in found:  # a page of something else lies there
                    draft.damaged.add(table)
                self._take(found)
            if table in draft.damaged:
                draft.damaged.add("journal")

    def _as_found(self, row: Row, is_of_a_base: bool) -> tuple[str, Row] | None:
        """A row of a journal table as `scan` would give it."""
        if row[1] is None:
            text = book_text(row[0], row[4:])
            return None if text is None else ("book", (row[0], text))
        if is_of_a_base:
            return ("held", row) if self._draft.kinds.fits_held(row) else None
        return ("journal", row) if self._draft.kinds.fits(row[1], row[0], row[2], row[3], row[4:]) else None

    def _take(self, found: Iterable[tuple[str, Row] | None]) -> None:
        """Rows of the journal, and of history where it is not sound."""
        journal, held, history = list[Row](), list[Row](), list[Row]()
        for entry in found:
            if entry is None:
                continue
            table, row = entry
            if table == "book":
                self._draft.book_rows.setdefault(row[0], row[1])
            elif table == "journal":
                journal.append(row)
            elif table == "history":
                history.append(row)
            elif table == "held":
                known = self._with_known_time(row)
                (held if known is None else journal).append(known or row)
        self._insert("_journal", 4, journal)
        self._insert("_held", 5, held)
        self._put(history, of_journal=False)

    def _insert(self, table: str, head: int, rows: list[Row]) -> None:
        width = head + self._draft.width
        self._draft.new.execute("BEGIN")
        self._draft.new.executemany(
            f"INSERT OR IGNORE INTO main.{table} VALUES ({', '.join('?' * width)})",
            [(*row, *(None,) * (width - len(row)))[:width] for row in rows],
        )
        self._draft.new.execute("COMMIT")

    def _scan(self) -> None:
        draft = self._draft
        pages = draft.orphans(but_for_tables=True)
        for batch in _batches(scan(draft.pages, pages, draft.kinds, self._is_of_a_base)):
            self._take(batch)

    def _turn_to_float(self) -> None:
        """What was found of before a field became float."""
        draft = self._draft
        for model, layout in draft.layouts.items():
            places = sorted(layout.turned)
            columns = [f"c{place}" for place in places]
            for table in ("_journal", "_held"):
                mine = f"series IN (SELECT id FROM main._series WHERE model = {model})"
                cast_to_float(draft.new, f"main.{table}", columns, mine)
            for partition in draft.shape.partitions.get(model, []):
                table = history_table(layout, partition)
                if cast_to_float(draft.new, f"main.{table}", columns):
                    draft.turned.add(table)
            for rule in draft.shape.rules_of(model):
                turn_kept(draft.new, layout, rule, places)

    # -- times that were not trusted ------------------------------------------------------------------------------

    def _is_of_a_base(self, seq: int) -> bool | None:
        """Whether a journal row of this number says how its time came about; None where nobody can tell."""
        piece = self._draft.old_piece(seq)
        return None if self._draft.old_shape is None else piece is not None and piece.base > 0

    def _with_known_time(self, row: Row) -> Row | None:
        """A row of a time base as any other, where it is known by now what that comes to."""
        seq, series, ts, quality, received, *values = row
        base = self._draft.old_base(self._draft.old_piece(seq))
        if base is None or base.offset is None:
            return None
        if base.uncertain:
            quality = (quality or 0) | Quality.TIME_UNCERTAIN
        return (seq, series, ts + base.offset if received == OWN_STAMP else ts, quality, *values)

    def _drop_released(self) -> None:
        """Where the record of the bases is lost: rows that history has had their time already."""
        if self._draft.old_shape is None:
            for _, _, table in self._draft.partitions():
                self._draft.new.execute(f"DELETE FROM main._held WHERE seq IN (SELECT seq FROM main.{table})")

    def _put_journal(self, *, unfolded: bool) -> set[tuple[int, int]]:
        names = ", ".join(self._draft.columns)
        hours = set[tuple[int, int]]()
        for batch in _batches(self._draft.new.execute(f"SELECT {names} FROM main._journal ORDER BY seq")):
            rows = [row for row in batch if self._is_unfolded(*row[:3]) is unfolded]
            self._put(rows, of_journal=True)
            hours |= {(row[1], row[2] // HOUR) for row in rows}
        return hours

    def _is_unfolded(self, seq: int, series: int, ts: int) -> bool:
        shape = self._draft.old_shape
        if shape is None:
            return False
        folded, piece = shape.folded, self._draft.old_piece(seq)
        if piece is not None and piece.aside:
            return folded.piece != piece.id or (series, ts) > (folded.series, folded.ts)
        return seq > folded.low and (seq > folded.high or (series, ts) > (folded.series, folded.ts))

    # -- downsampled ----------------------------------------------------------------------------------------------

    def _copy_kept(self) -> None:
        """What retention has kept of readings that are gone."""
        draft = self._draft
        for rule in draft.old_shape.rules if draft.old_shape else []:
            layout = draft.layouts.get(rule.model)
            if layout is None:
                continue
            table = kept_table(layout, rule)
            create_kept(draft.new, layout, rule)
            draft.shape.rules.append(rule)
            if not self._copied_kept(table, rule):
                draft.notes.append(f"of what was kept of {layout.name} in short some is lost")
        if draft.old_shape is None and any(name.startswith("_d_") for name in draft.roots):
            draft.notes.append("what was kept in short of readings that are gone is lost")

    def _copied_kept(self, table: str, rule: Rule) -> bool:
        """From both ends, as far as it can be read."""
        names = ", ".join(("series", "start", "part", "rows", "low", "high", *rule.columns))
        whole = "typeof(series) || typeof(start) || typeof(part) || typeof(rows) = 'integerintegerintegerinteger'"
        marks = ", ".join("?" * (6 + len(rule.columns)))
        new = self._draft.new
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{name} {direction}" for name in ("series", "start", "part"))
            for batch in self._read(table, f"SELECT {names} FROM old.{table} WHERE {whole} ORDER BY {order}"):
                new.execute("BEGIN")
                new.executemany(f"INSERT OR IGNORE INTO main.{table} ({names}) VALUES ({marks})", batch)
                new.execute("COMMIT")
        return self._draft.is_sound(table)

    def _read(self, table: str, query: str) -> Iterator[list[Row]]:
        """What a query on an old table finds before it comes upon damage, which is noted."""
        batch: list[Row] = []
        is_whole = False
        with reading_old():
            for row in self._draft.new.execute(query):
                batch.append(row)
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            is_whole = True
        if not is_whole:
            self._draft.damaged.add(table)
        yield batch


def _batches(found: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(found)
    while batch := list(islice(rows, _BATCH)):
        yield batch
