"""Judges what the opener made of a store whose files were changed.

What may be missing follows from how many pages were changed, from what plain SQLite still reads of them, and from what
the store itself says: whatever is gone must be accounted for, and no more may be gone than what was on these pages.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from edgedepot import SQLiteStorage
from edgedepot.storage.errors import StorageError
from edgedepot.storage.sqlite.report import Salvaged
from edgedepot.storage.sqlite.verify import Verification
from tests.models import Mixed, Weather
from tests.storage.sqlite.damaged import PAGE

LONGEST = 60.0
"""Seconds after which an opening counts as hanging, on a machine that has other things to do."""
NEWER, FOREIGN, NO_STORE = "update it", "an SQLite file of another program", "cannot be read as a store"
"""Why a store may be refused: its file says that it is of a newer program, or nothing is left that tells that it was a
store."""
FRAME, LOG_HEADER = 24 + PAGE, 32
HEAD_SAYS = slice(60, 72)
"""Of the file's header: which schema it has, and whose it is."""
_NOT_KNOWN = ("is not known", "in its log alone", "may not be counted", "its log is missing")
_LEAVES = (0x0D, 0x0A)
_TRIES = 4
_LATE = datetime(2030, 1, 1, tzinfo=UTC)
UNREADABLE = (sqlite3.Error, UnicodeDecodeError, MemoryError)
"""What SQLite raises; the latter where an error quotes what is no text."""
Key = tuple[str, int | None]
"""A device and the number that each of its readings bears: the same also where its time is known by estimate alone."""
Opener = Callable[[Path], SQLiteStorage]


class Row(NamedTuple):
    """Of a table of readings."""

    table: str
    where: tuple[int, ...]
    """By what it is looked up: its number in the journal, its series and time in history."""
    cells: tuple[Any, ...]
    key: Key


class Stored:
    """What is in the files that a killed process left."""

    def __init__(self, folder: Path, copy: Path) -> None:
        self.folder = folder
        shutil.copytree(folder, copy)
        with SQLiteStorage(copy / "x.db") as store:
            assert store.salvaged is None
            assert store.ledger().problems == []
            self.readings = everything(store)
        shutil.rmtree(copy)
        with plainly(folder, copy) as file:
            models = dict(file.execute("SELECT id, fields FROM _models"))
            places = {model: f"c{_place_of_number(text)}" for model, text in models.items()}
            series = file.execute("SELECT id, device_id, model FROM _series")
            self._keys = {one: (device, places[model]) for one, device, model in series}
            self.rows = [row for table in _tables_of(file) for row in self._of(file, table)]
            self.books, self.whose = _books_of(file), _whose(file)
        self.head = (folder / "x.db").read_bytes()[:100]
        with plainly(folder, copy, "x.db") as file:
            in_file = {row.key for table in _tables_of(file) for row in self._of(file, table)}
        self.in_log = sum(key not in in_file for key in self.readings)
        """How many readings are in the log alone."""
        frames = (frame[FRAME - PAGE :] for frame in _blocks(folder / "x.db-wal", LOG_HEADER, FRAME))
        pages = [*_blocks(folder / "x.db", 0, PAGE), *frames]
        self.fullest = max(map(_rows_on, pages))
        """How many rows there are on a page, at most."""

    def _of(self, file: sqlite3.Connection, table: str) -> Iterator[Row]:
        cursor = file.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        for cells in cursor:
            row = dict(zip(names, cells, strict=True))
            if row["series"] is not None:
                device, place = self._keys[row["series"]]
                where = (row["seq"],) if table.startswith("_j_") else (row["series"], row["ts"])
                yield Row(table, where, cells, (device, row[place]))


class Changes:
    """What was done to the files of a store."""

    def __init__(self, stored: Stored, path: Path) -> None:
        self.stored = stored
        self.path = path
        self.files: set[str] = set()
        """The suffixes of those that were changed."""
        self.pages: int | None = 0
        """How many pages and frames, at most; None where more depends on what was changed."""

    def note(self, suffix: str, before: bytes, after: bytes) -> None:
        """A file was changed so."""
        if before == after:
            return
        self.files.add(suffix)
        start, size = (LOG_HEADER, FRAME) if suffix == "-wal" else (0, PAGE)
        if suffix in (".lock", ".catalogue", "-shm") or before[:start] != after[:start]:
            self.pages = None if suffix != "-shm" or "-wal" in self.files else self.pages
        elif self.pages is not None:
            places = range(start, len(before), size)
            self.pages += sum(before[at : at + size] != after[at : at + size] for at in places)

    def note_record(self) -> None:
        """A row was changed through SQLite, which puts the log into the file, as far as it reads it."""
        self.pages = None if {"", "-wal"} & self.files or self.pages is None else self.pages + 1
        self.files |= {"", "-wal"}


class Seen(NamedTuple):
    """What plain SQLite sees in the changed files."""

    sound: Counter[Key]
    """The readings whose rows it finds where they were, as they were, in the journal or in history."""
    changed: int
    """How many rows of readings say what was never stored: each stands for another, and may hide a third."""
    false_books: bool
    """Whether records of the books say what was never written."""
    whose: tuple[Any, ...] | None
    """What tells the version and the program, None where it cannot be read."""
    is_nothing: bool
    """Whether no file is left that could tell of a store."""


def look(changes: Changes, copy: Path) -> Seen:
    """Before the store is opened."""
    stored, sound, strange = changes.stored, set[Key](), set[Any]()
    known = {(row.table, row.cells) for row in stored.rows}
    with plainly(changes.path.parent, copy) as file:
        for row in stored.rows:
            by = "seq = ?" if row.table.startswith("_j_") else "series = ? AND ts = ?"
            with contextlib.suppress(*UNREADABLE):
                if file.execute(f"SELECT * FROM {row.table} WHERE {by}", row.where).fetchall() == [row.cells]:
                    sound.add(row.key)
        for table in _tables_of(file):
            for cells in _readable(file, f"SELECT * FROM {table} WHERE series IS NOT NULL"):
                if (table, cells) not in known:
                    strange.add((table, cells))
        books, whose = _books_of(file), _whose(file)
    there = Counter(key for key in stored.readings if key in sound)
    left = [changes.path.with_name(changes.path.name + suffix) for suffix in ("", "-wal", ".catalogue")]
    is_nothing = ".lock" in changes.files and not any(file.exists() and file.stat().st_size for file in left)
    return Seen(there, len(strange), not books <= stored.books, whose, is_nothing)


def everything(store: SQLiteStorage) -> Counter[Key]:
    """The readings of both models; no device is of both."""
    found = [(row["device_id"], row["count"]) for row in store.query_readings(Weather)]
    return Counter(found + [(row["device_id"], row["number"]) for row in store.query_readings(Mixed)])


def open_store(path: Path) -> SQLiteStorage:
    """As a gateway does."""
    return SQLiteStorage(path, piece_rows=300, busy_timeout="2s")


def judge(changes: Changes, opened: Opener = open_store) -> str:
    """Open a store, use it and open it again: ``refused``, for one of few reasons, or ``stored``. Raises where it
    does what it must not."""
    path = changes.path
    head = path.read_bytes()[:100] if path.exists() else b""
    seen = look(changes, path.parent.with_name("seen"))
    try:
        store = opened(path)
    except StorageError as exc:
        _judge_refusal(changes, seen, head, str(exc))
        return "refused"
    with store:
        reports = [] if store.salvaged is None else [store.salvaged]
        found = _used(store, reports)
        assert found.pop(("new", None)) == 1
        if not seen.is_nothing:
            _judge_readings(changes, seen, found, reports, path)
        _judge_books(seen, store, reports)
    with opened(path) as store:
        again = everything(store)
        assert again.pop(("new", None)) == 1
        assert again == found or store.salvaged != (reports[-1] if reports else None)
        _judge_books(seen, store, reports)
    return "stored"


def _used(store: SQLiteStorage, reports: list[Salvaged]) -> Counter[Key]:
    """What is in a store that has taken a reading. What it stumbles over it salvages, and the next time it is gone."""
    for attempt in range(_TRIES):
        try:
            store.store_reading(Weather, "new", _LATE, {"temperature": 1.0}).wait("durable", LONGEST)
            store.fold()
            reports += [report for report in [store.salvaged] if report is not None and report not in reports]
            return everything(store)
        except StorageError as exc:
            if attempt == _TRIES - 1:
                raise AssertionError(f"it does not recover from what it found: {exc}") from exc
    raise AssertionError


def _judge_refusal(changes: Changes, seen: Seen, head: bytes, why: str) -> None:
    """Of a newer program, or of another, is what says so; and what its catalogue knows was a store."""
    stored = changes.stored
    says_so = head[HEAD_SAYS] != stored.head[HEAD_SAYS] or seen.whose not in (None, stored.whose)
    is_unknown = ".catalogue" in changes.files
    allowed = {NEWER: says_so, FOREIGN: says_so and is_unknown, NO_STORE: is_unknown}
    assert any(may_be for reason, may_be in allowed.items() if reason in why), f"{stored.folder.name}: {why}"


def _judge_readings(changes: Changes, seen: Seen, found: Counter[Key], reports: list[Salvaged], path: Path) -> None:
    stored = changes.stored
    lost = stored.readings - found
    gone, odd = lost.total(), max(seen.changed, (found - stored.readings).total())
    if "-wal" in changes.files and changes.files & {".lock", "-shm"}:  # nothing says any more what was in the log
        odd += stored.in_log
    said = [_lost(report) for report in reports]
    may_be_gone = [stored.readings.total() if None in said else sum(filter(None, said))]
    if not changes.files & {".lock", ".catalogue"}:
        may_be_gone.append(stored.readings.total() - seen.sound.total())
    if changes.pages is not None:
        may_be_gone.append(changes.pages * stored.fullest)
    if gone <= min(may_be_gone) + odd:
        return
    if _is_as_before(reports) and not _is_sound(path):
        return
    raise AssertionError(
        f"{stored.folder.name}, {sorted(changes.files)} changed: {gone} of {stored.readings.total()} are gone, of which"
        f" by its reports, as unreadable, and with the changed pages may be gone {may_be_gone} and {odd}; {reports}"
    )


def _judge_books(seen: Seen, store: SQLiteStorage, reports: list[Salvaged]) -> None:
    """They balance, but where records say what was never written."""
    if store.ledger().problems and not (seen.false_books or seen.changed):
        assert _is_as_before(reports)
        assert not _is_sound(store.path)


def _is_as_before(reports: list[Salvaged]) -> bool:
    """Whether nobody has stumbled over it yet: then all of it is in the file as before, and it is verify's to find."""
    return not any(report.kept is not None for report in reports)


def _is_sound(path: Path) -> bool:
    with Verification(path) as verification:
        return verification.run().sound


def _lost(report: Salvaged) -> int | None:
    """How many readings a report accounts for; None where it says that it does not know."""
    said = (report.reason, *report.notes)
    return None if any(word in one for one in said for word in _NOT_KNOWN) else report.lost


# -- with SQLite alone ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plainly(folder: Path, copy: Path, *names: str) -> Iterator[sqlite3.Connection]:
    """A copy of a store's file and log, opened with SQLite."""
    copy.mkdir()
    for name in names or ("x.db", "x.db-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(folder / name, copy / name)
    file = sqlite3.connect(copy / "x.db", isolation_level=None)
    file.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        yield file
    finally:
        file.close()
        shutil.rmtree(copy)


def _whose(file: sqlite3.Connection) -> tuple[Any, ...] | None:
    found = [row for name in ("user_version", "application_id") for row in _readable(file, f"PRAGMA {name}")]
    return tuple(found) if len(found) == 2 else None


def _tables_of(file: sqlite3.Connection) -> list[str]:
    """Those of readings."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name GLOB '_j_[0-9]*' OR name GLOB '_h_*_[0-9]*')"
    return [name for (name,) in _readable(file, query)]


def _readable(file: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    """What a query finds before it comes upon damage."""
    found = list[tuple[Any, ...]]()
    with contextlib.suppress(*UNREADABLE):
        found.extend(file.execute(query))
    return found


def _books_of(file: sqlite3.Connection) -> set[Any]:
    """All records of the books: the totals, and what was noted in the journal since."""
    found = {(table, *row) for table in ("_books", "_cursors") for row in _readable(file, f"SELECT * FROM {table}")}
    for table in _tables_of(file):
        if table.startswith("_j_"):
            found |= {("book", *row) for row in _readable(file, f"SELECT seq, c0 FROM {table} WHERE series IS NULL")}
    return found


def _place_of_number(fields: str) -> int:
    return [field["name"] in ("count", "number") for field in json.loads(fields)].index(True)


def _blocks(file: Path, start: int, size: int) -> Iterator[bytes]:
    content = file.read_bytes() if file.exists() else b""
    for at in range(start, len(content), size):
        yield content[at : at + size]


def _rows_on(page: bytes) -> int:
    """0 for what is no leaf."""
    return int.from_bytes(page[3:5], "big") if page[0] in _LEAVES else 0
