"""The journal: every reading once, in the order of arrival, numbered by `seq`; the one place that commits touch.

         acknowledged by "central"        handed out       not yet
    |-------------------------------|-----------------|-------------|
    seq 1                        position         window.high      last seq          ->  grows here
    |------------- in history as well --------------|--- unfolded --|
                                                 folded

It is cut into pieces (`_j_1`, `_j_2`, ...). Only the last one grows; the fold (fold.py) copies rows on into history,
and a piece is dropped when all of it is in history and every upstream has acknowledged it. The last row of a commit is
a book row: what the commit changed in the books; it has no series.

A row never changes in place: a merge takes it out, wherever it is, and appends the whole merged row with a new seq, so
that every upstream gets the new version. `seq` is never used twice.

Everything here runs on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from edgedepot.storage.buffer import Arrival
from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.reading import Reading
from edgedepot.storage.sqlite.books import Books
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.history import History
from edgedepot.storage.sqlite.log_note import LogNote
from edgedepot.storage.sqlite.open_rows import MANY, OpenRows
from edgedepot.storage.sqlite.retype import of_type, turn_to_float
from edgedepot.storage.sqlite.shape import read_shape, write_shape
from edgedepot.storage.sqlite.tables import OWN_STAMP, add_piece, cell, refresh_view, rows_of, widen_piece
from edgedepot.storage.sqlite.tail import Series, Tail
from edgedepot.storage.sqlite.timebase import STEP, Release, TimeKeeper
from edgedepot.storage.sqlite.walk import NEVER
from edgedepot.storage.values import Row


class Journal:
    """Writes rows; knows which identities are there."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        catalogue: Catalogue,
        clock: Clock,
        log_note: LogNote,
        hold_uncertain: bool = False,
    ) -> None:
        self.connection = connection
        self.catalogue = catalogue
        self.shape = read_shape(connection)
        self.tail = Tail.load(connection, self.shape)
        self.books = Books.load(connection, self.shape)
        self.history = History(connection, self.shape)
        self._seq = self.committed_seq = self.tried_seq = self._last_seq()
        self._rows = OpenRows()
        self._series: dict[type[Reading], dict[str, Series]] = {}
        self.times = TimeKeeper(clock)
        self.log_note = log_note
        self.at = 0
        self._hold_uncertain = hold_uncertain
        self._is_held = False
        self._reshaped = False
        self._stale = False
        self._at_the_end: list[Callable[[], None]] = []
        self.replays: dict[tuple[str, str, int], set[int]] = {}
        """By measurement, device and time, the rows that are or were to be sent once more."""
        self.note_replays()

    def go_on(self, connection: sqlite3.Connection) -> None:
        """The same store in another file."""
        self.connection = self.history.connection = connection

    def _last_seq(self) -> int:
        if not self.shape.pieces:
            return 0
        piece = self.shape.pieces[-1]
        found = self.connection.execute(f"SELECT max(seq) FROM {piece.table}").fetchone()[0]
        return piece.first - 1 if found is None else int(found)

    def skip_to(self, seq: int) -> None:
        """Give out no number up to `seq`, in the open transaction, which changes nothing else."""
        if seq > self._seq:
            add_piece(self.connection, self.shape, seq + 1)
            for layout in self.catalogue.layouts().values():
                if layout.written:
                    refresh_view(self.connection, self.shape, layout)
            write_shape(self.connection, self.shape)
            self.tail.show(self.shape.generation)
            self._seq = self.committed_seq = seq

    @property
    def last_seq(self) -> int:
        """The last number given out, in the open transaction too."""
        return self._seq

    # -- one transaction ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction begins. Its records bear the present time; its rows are held where that is not trusted."""
        self.log_note.begin()
        base = self.times.look(self.shape)
        self.at = self.times.at
        if self.times.stepped:
            self.tail.forget_stamps()
        self._is_held = base is not None
        if self.shape.bases:
            self.release(not self._hold_uncertain)
        wanted = 0 if base is None else base.id
        if not self.shape.pieces or self.shape.pieces[-1].base != wanted:
            add_piece(self.connection, self.shape, self._seq + 1, wanted)
            self.tail.hold(self.shape.held())
            self.refresh_views()
            self._reshaped = True

    def release(self, estimate: bool) -> None:
        """Time is trusted: hand the held rows on. With `estimate` also those of boots that never knew the time."""
        if self._is_held:
            return
        if self.times.guess(self.connection, self.shape):
            self._reshaped = True
        bases = self.times.settle_bases(self.shape, estimate)
        if bases:
            self.rearrange()
            release = Release(self.connection, self.shape, self.tail, self.history, self.catalogue.layouts())
            release.run(bases, self.times.relation)
            self.tail.hold(self.shape.held())
            self.tail.count_held()
            self.tail.forget_stamps()
            self.refresh_views()

    def refresh_views(self) -> None:
        """The views for people name the tables that there are."""
        for layout in self.catalogue.layouts().values():
            if layout.written:
                refresh_view(self.connection, self.shape, layout)

    def finish(self) -> None:
        """Write down everything that the transaction still holds in memory; the commit follows, to `tried_seq`."""
        self.write_rows()
        self.catalogue.write_names(self.connection)
        change = self.books.ride()
        if change is not None:
            self._seq += 1
            piece = self.shape.pieces[-1]
            self.connection.execute(f"INSERT INTO {piece.table} (seq, c0) VALUES (?, ?)", (self._seq, change))
        if self._reshaped or self.log_note.is_new:
            write_shape(self.connection, self.shape)
        self.tried_seq = self._seq

    def committed(self) -> None:
        self.log_note.committed(self.shape.generation)
        self.committed_seq = self._seq
        self.books.committed()
        self.catalogue.committed()
        self._reshaped = False
        self.tail.show(self.shape.generation)
        self._end()

    def until_the_end(self, callback: Callable[[], None]) -> None:
        """Call back when the open transaction is committed or undone."""
        self._at_the_end.append(callback)

    def _end(self) -> None:
        while self._at_the_end:
            self._at_the_end.pop()()

    def rolled_back(self) -> None:
        """Forget what the undone transaction did."""
        self.times.rolled_back()
        self._end()
        self._seq = self.committed_seq
        self._rows.clear()
        self._series.clear()
        self.books.rolled_back()
        self.catalogue.rolled_back()
        self._reshaped = False
        self._stale = True
        self.recover()

    def recover(self) -> None:
        """Read again what there was before an undone transaction. Called again where the disk refused even that."""
        if self._stale:
            self.shape = self.history.shape = read_shape(self.connection)
            self.tail.reload(self.connection, self.shape)
            self._stale = False

    def reshape(self) -> None:
        """The open transaction changes which tables there are."""
        self._reshaped = True

    def rearrange(self) -> None:
        """The open transaction takes rows out: until its end readers must not go by what is in memory."""
        self._reshaped = True
        self.tail.hide()

    # -- readings -------------------------------------------------------------------------------------------------

    def write(self, source_name: str, arrivals: Sequence[Arrival], unchecked_at: int | None = None) -> int:
        """Store readings of a source; the number of duplicates among them. `unchecked_at`: see `Intake`."""
        source = self.catalogue.source(source_name)
        held = self._is_held
        if self.times.moved or (unchecked_at is not None and not held):
            came_at = None if held else unchecked_at  # what is held is checked when it is released
            arrivals = [self.times.put_right(arrival, came_at) for arrival in arrivals]
            unchecked_at = None if unchecked_at is None else self.times.moved_on(unchecked_at)
        merged = duplicates = replaced = 0
        seq = self._seq
        added = 0
        latest: type[Reading] | None = None  # most arrivals are of the model of the one before
        for model, device, ts, stamped, row in arrivals:
            if model is not latest:
                latest = model
                known = self._series.get(model) or self._begin(model)
                width = len(model.__fields__) + 1
                good, flagged = self._rows.of(model)
            if len(row) != width:
                raise InvalidValue(f"a row has {len(row) - 1} values, {model.__name__} has {width - 1} fields")
            series = known.get(device) or self._series_of(model, device)
            if stamped:
                if ts <= series.newest or ts <= series.stamp:
                    ts = self._free_stamp(model, series, ts)
                series.stamp = ts
            if ts <= series.newest:
                self._seq = seq
                old = self._find(model, series, ts)
                if old is not None and not (self.shape.bases and self._gives_way(model, series, ts, old[0])):
                    model, row = self._whole(model, row)
                    merge = _merge(model, old[1], row)
                    if merge is None:
                        duplicates += 1
                        continue
                    merged += 1
                    replaced += self._replace(model, series, ts, old, row)
                    row = merge
                    latest, (good, flagged) = None, self._rows.of(model)
                seq += 1
                self.tail.add(series, ts, seq)
            else:
                seq += 1
                series.seqs.append(seq)
                series.times.append(ts)
                series.newest = ts
                added += 1
            cells = good if row[0] is None else flagged
            cells += (seq, series.id, ts)
            cells += row[1:] if row[0] is None else row
            if held:
                cells.append(OWN_STAMP if stamped else unchecked_at)
        self._seq = seq
        if latest is not None and len(good) + len(flagged) >= MANY:
            self.write_rows()
        self.tail.rows += added
        self.tail.held += added if held else 0
        self.books.count(
            source,
            readings=len(arrivals),
            new=len(arrivals) - merged - duplicates,
            merged=merged,
            duplicates=duplicates,
            replaced=replaced,
        )
        if self.replays:
            self._supersede_replayed(arrivals)
        if self.shape.horizons:
            self._count_late(source, arrivals)
        return duplicates

    def note_replays(self) -> None:
        """See which rows are to be sent once more."""
        found = self.connection.execute("SELECT model, device_id, ts, seq FROM _quarantined WHERE replay = 1")
        for model, device, ts, seq in found:
            self.replays.setdefault((model, device, ts), set()).add(seq)

    def _supersede_replayed(self, arrivals: Sequence[Arrival]) -> None:
        """What is to be sent once more gives way to a reading that came in now, also where it was deleted here."""
        for model, device, ts, _, _ in arrivals:
            for seq in self.replays.get((model.__measurement__, device, ts), ()):
                if (self.number_of(self.catalogue.queued(model), device, ts) or 0) > seq:
                    self.books.supersede_replayed(self.connection, seq)

    def _count_late(self, source: int, arrivals: Sequence[Arrival]) -> None:
        """Count the readings whose time is past what history holds."""
        horizons = {
            model: self.shape.horizon(self.catalogue.queued(model).id) for model in {one[0] for one in arrivals}
        }
        late = sum(arrival.timestamp < horizons[arrival.model] for arrival in arrivals)
        if late:
            self.books.count(source, late=late)

    def _begin(self, model: type[Reading]) -> dict[str, Series]:
        """A class is stored for the first time: fields that it has as float are float from then on."""
        layout = self.catalogue.queued(model)
        if layout.to_turn(model):
            self.write_rows()
            self.catalogue.write_names(self.connection)
            turned = self.catalogue.retype(layout, model, self.shape.generation + 1)
            turn_to_float(self.connection, self.shape, layout, turned)
            self.settled_layout(model)
            self._series.clear()  # so that classes that have it as int come here again
        return self._series.setdefault(model, {})

    def _series_of(self, model: type[Reading], device: str) -> Series:
        layout = self.catalogue.queued(model)
        series_id = self.catalogue.series(layout, device)
        series = self.tail.series(series_id) or self.tail.new_series(series_id, layout.id)
        self._series.setdefault(model, {})[device] = series
        return series

    def _free_stamp(self, model: type[Reading], series: Series, ts: int) -> int:
        """A gateway stamp, moved on where the device has it already: stamps increase strictly."""
        if series.stamp == NEVER:
            series.stamp = self._within_a_step(model, series, ts)
        ts = max(ts, series.stamp + 1)
        while ts <= series.newest and self._find(model, series, ts) is not None:
            ts += 1
        return ts

    def _within_a_step(self, model: type[Reading], series: Series, ts: int) -> int:
        """The latest row of the second ahead. A process before this may have stamped it, and the clock been slewed back
        since; who stamped a row is noted nowhere."""
        layout = self.catalogue.queued(model)
        return max(series.latest(ts + STEP), self.history.latest(layout, series.id, ts, ts + STEP))

    def _find(self, model: type[Reading], series: Series, ts: int) -> tuple[int, Row] | None:
        """Number and row of an identity, where it is there; the row is one of the layout's whole class."""
        layout = self.catalogue.queued(model)
        columns = layout.columns(layout.whole())
        seq = series.find(ts)
        if seq is None:
            return self.history.find(layout, columns, series.id, ts)
        self.write_rows()
        piece = self.shape.piece_of(seq)
        assert piece is not None
        cells = ", ".join(cell(column, piece.width) for column in columns)
        found = self.connection.execute(
            f"SELECT quality, {cells} FROM {rows_of(self.shape, piece)} WHERE seq = ?", (seq,)
        ).fetchone()
        return seq, tuple(found)

    def _gives_way(self, model: type[Reading], series: Series, ts: int, seq: int) -> bool:
        """Whether a row in the way of a given time is a held one with the gateway's own stamp: that is no identity yet,
        and moves on."""
        piece = self.shape.piece_of(seq)
        if piece is None or not self.shape.is_held(piece):
            return False
        query = f"SELECT received FROM {piece.table} WHERE seq = ?"
        if self.connection.execute(query, (seq,)).fetchone() != (OWN_STAMP,):
            return False
        free = ts + 1
        while self._find(model, series, free) is not None:
            free += 1
        self.rearrange()
        self.connection.execute(f"UPDATE {piece.table} SET ts = ? WHERE seq = ?", (free, seq))
        self.tail.remove(series, ts)
        self.tail.add(series, free, seq)
        return True

    def number_of(self, layout: Layout, device: str, ts: int) -> int | None:
        """The number of the row of an identity, where it is there."""
        series_id = self.catalogue.series(layout, device)
        series = self.tail.series(series_id)
        seq = None if series is None else series.find(ts)
        if seq is not None:
            return seq
        found = self.history.find(layout, (), series_id, ts)
        return None if found is None else found[0]

    def _whole(self, model: type[Reading], row: Row) -> tuple[type[Reading], Row]:
        """A row as one of the layout's whole class: another class of the measurement may have given it values too."""
        whole = self.catalogue.queued(model).whole()
        if whole is model:
            return model, row
        values = dict(zip((spec.name for spec in model.__fields__), row[1:], strict=True))
        return whole, (row[0], *(of_type(values.get(spec.name), spec.type) for spec in whole.__fields__))

    def _replace(self, model: type[Reading], series: Series, ts: int, old: tuple[int, Row], new: Row) -> int:
        """Take the old version out and keep the values that differ; how many rows had such (0 or 1)."""
        self.rearrange()
        seq, row = old
        changed = [
            (series.id, ts, spec.name, before, self.at)
            for spec, before, after in zip(model.__fields__, row[1:], new[1:], strict=True)
            if before is not None and after is not None and before != after
        ]
        self.connection.executemany(
            "INSERT INTO _replaced (series, ts, field, value, at) VALUES (?, ?, ?, ?, ?)", changed
        )
        place = None
        if series.find(ts) is None:
            place = self.history.take_out(self.catalogue.queued(model), series.id, ts)
        else:
            self.tail.remove(series, ts)
        self.books.out_of_the_way(seq, "superseded", place, in_journal=self._delete_from_piece(seq))
        if self.replays:
            self.books.supersede_replayed(self.connection, seq)
        return 1 if changed else 0

    def _delete_from_piece(self, seq: int) -> bool:
        """Whether the row was there: it may be acknowledged by all, thinned or evicted."""
        piece = self.shape.piece_of(seq)
        if piece is None:
            return False
        gone = self.connection.execute(f"DELETE FROM {piece.table} WHERE seq = ?", (seq,)).rowcount
        self.connection.execute("UPDATE _pieces SET live = live - ? WHERE id = ?", (gone, piece.id))
        return gone > 0

    def settled_layout(self, model: type[Reading]) -> Layout:
        """The layout of a model, written down, with room for all its fields in the journal."""
        layout = self.catalogue.queued(model)
        if layout.is_new:
            self.catalogue.write_layout(self.connection, layout)
            widen_piece(self.connection, self.shape, len(layout.written))
            refresh_view(self.connection, self.shape, layout)
            self._reshaped = True
        return layout

    def write_rows(self) -> None:
        """Put the rows that wait in memory into the journal."""
        for model, is_flagged in self._rows.waiting():
            layout = self.settled_layout(model)
            columns = ["seq", "series", "ts", *(["quality"] if is_flagged else [])]
            columns += [*layout.columns(model), *(["received"] if self._is_held else [])]
            table, casts = self.shape.pieces[-1].table, layout.casts(model)
            self._rows.insert(self.connection, table, model, is_flagged, tuple(columns), casts)


Deed = Callable[[Journal], object]
"""What one transaction is to do."""


def _merge(model: type[Reading], old: Row, new: Row) -> Row | None:
    """The old row with the new values that are not null over it; None where that changes nothing."""
    values = tuple(before if after is None else after for before, after in zip(old[1:], new[1:], strict=True))
    if values == old[1:]:
        return None
    return (model.__rows__.merged_quality(old[0], new[0], values), *values)
