"""The new file that a salvage makes, while it is made, and what is known of the damaged one."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.connection import code_of
from edgedepot.storage.sqlite.digest import prepare_digests
from edgedepot.storage.sqlite.pages import Pages
from edgedepot.storage.sqlite.report import LostSpan
from edgedepot.storage.sqlite.scan import Kinds
from edgedepot.storage.sqlite.shape import Base, Partition, Piece, Shape
from edgedepot.storage.sqlite.sidecar import Sidecar
from edgedepot.storage.sqlite.tables import history_table

_JOURNAL = re.compile(r"_j_[1-9][0-9]{0,17}")
Row = tuple[Any, ...]
"""A reading: number, series, time, quality, values."""


class Draft:
    """One attempt's new file, with the old one attached as `old`. Raises `sqlite3.Error` where the former cannot be
    written; what the latter suffers from does not."""

    def __init__(self, target: Path, old: Path, pages: Pages, sidecar: Sidecar, *, complete: bool) -> None:
        """`complete` says that the log is whole."""
        self.new = sqlite3.connect(target, isolation_level=None, uri=True)
        self.pages = pages
        self.sidecar = sidecar
        self.roots: Mapping[str, int] = {}
        self.complete = complete
        # Where the log has a hole each page is as some commit left it: one table may be ahead of the other.
        self.damaged = set[str]() if complete else {"journal", "history"}
        """What of the old file is not all there: ``small``, ``history``, ``journal``, and tables by name."""
        self.book_rows: dict[int, str] = {}
        """What commits changed in the books, by the number of the row that says so."""
        self.shape = Shape()
        self.old_shape: Shape | None = None
        self.layouts: dict[int, Layout] = {}
        self.models: dict[int, int] = {}
        """The model of each series."""
        self.kinds = Kinds({})
        self.width = 1
        """As many value columns as the widest model needs."""
        self.kept = 0
        self.spans: list[LostSpan] = []
        self.numbers: list[tuple[int, int]] = []
        self.unplaced = 0
        """So many more readings are lost than those of which it is known where."""
        self.notes: list[str] = []
        self.changed: list[tuple[str, int, int, int]] = []
        """Hours whose readings changed on the card: table, series, hour, and by how much the digest differs."""
        self.turned = set[str]()
        """Tables of history with rows from before a field became float: the old digests are not of them as they are."""
        self._sound: dict[str, bool] = {}
        self._open(target, old)

    def _open(self, target: Path, old: Path) -> None:
        new = self.new
        new.text_factory = _text_of
        prepare_digests(new)
        new.execute("PRAGMA page_size = 4096")
        new.execute("PRAGMA journal_mode = MEMORY")  # were it interrupted, all of it is done again
        new.execute("PRAGMA synchronous = OFF")
        schema.prepare(new, target)
        if self.sidecar.store_id is not None:  # it is the same store, also where its own record of that is lost
            schema.set_meta(new, "store_id", self.sidecar.store_id)
        new.execute("PRAGMA writable_schema = ON")  # SQLite reads what it can of a file that is too short
        new.execute("PRAGMA cell_size_check = ON")
        with reading_old():
            new.execute("ATTACH ? AS old", (old.absolute().as_uri() + "?mode=ro",))
            found = new.execute("SELECT name, rootpage FROM old.sqlite_schema WHERE type = 'table'")
            self.roots = {name: root for name, root in found if isinstance(name, str) and isinstance(root, int)}

    def let_go(self) -> None:
        """The old file is needed no more."""
        with contextlib.suppress(sqlite3.OperationalError):  # it is not attached
            self.new.execute("DETACH old")

    def finish(self, report: str) -> None:
        """Write the report down and close the file for good."""
        schema.set_meta(self.new, "salvaged", report)
        self.new.execute("PRAGMA writable_schema = OFF")
        self.new.execute("PRAGMA synchronous = FULL")
        self.new.execute("PRAGMA journal_mode = WAL")
        self.new.close()

    def is_sound(self, table: str) -> bool:
        """Whether the pages of one of the old tables are as SQLite wants them."""
        known = self._sound.get(table)
        if known is None:
            known = False
            if table in self.roots:
                with reading_old():
                    known = self.new.execute(f"PRAGMA old.quick_check({table})").fetchone() == ("ok",)
            self._sound[table] = known
        return known

    def old_columns(self, table: str) -> list[str]:
        """Of one of the old tables."""
        found: list[str] = []
        with reading_old():
            found = [row[1] for row in self.new.execute(f"PRAGMA old.table_info({table})")]
        return found

    def orphans(self, *, but_for_tables: bool) -> list[int]:
        """The pages that may have rows that are not found through SQLite: with `but_for_tables` not those of sound
        tables, as long as somebody knows what they are."""
        known = self.pages.free()
        partitions = self.old_shape.partitions if self.old_shape else {}
        named = {
            history_table(self.layouts[model], one) for model in partitions if model in self.layouts
            for one in partitions[model]
        }  # fmt: skip
        for table, root in self.roots.items() if but_for_tables else ():
            is_of_readings = table in named or table.startswith("_j_")
            is_done = table not in self.damaged if is_of_readings else not table.startswith("_h_")
            if is_done and self.is_sound(table):
                known |= self.pages.leaves(root)
        return [number for number in range(1, self.pages.count + 1) if number not in known]

    def old_journal(self) -> list[str]:
        """The tables of the old journal."""
        return [name for name in self.roots if _JOURNAL.fullmatch(name)]

    def old_piece(self, seq: int) -> Piece | None:
        """The piece of the old journal that a row was in, where that is known."""
        if self.old_shape is None:
            return None
        place = bisect_right(self.old_shape.pieces, seq, key=lambda piece: piece.first) - 1
        return self.old_shape.pieces[place] if place >= 0 else None

    def old_base(self, piece: Piece | None) -> Base | None:
        """The time base of a piece of the old journal."""
        return None if self.old_shape is None or piece is None else self.old_shape.base_of(piece)

    def partitions(self) -> Iterator[tuple[Layout, Partition, str]]:
        """Those of the new history, with their tables."""
        for model, mine in self.shape.partitions.items():
            for partition in mine:
                yield self.layouts[model], partition, history_table(self.layouts[model], partition)

    @property
    def columns(self) -> list[str]:
        """Of a row of the journal."""
        return ["seq", "series", "ts", "quality", *(f"c{index}" for index in range(self.width))]


@contextlib.contextmanager
def reading_old() -> Iterator[None]:
    """What the old file suffers from is why we are here; what the new one does is raised."""
    try:
        yield
    except (UnicodeDecodeError, MemoryError):  # an error of SQLite's that quotes what is no text; a row of absurd size
        pass
    except sqlite3.DatabaseError as exc:
        if code_of(exc) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY):
            raise


def _text_of(raw: bytes) -> str | bytes:
    """A text; one that is none as its bytes, which no column takes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
