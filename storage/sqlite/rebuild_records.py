"""The small tables of a damaged store: copied where they are sound, else from the pages they may be on; the sidecar
knows models, series and sources as well. Only what can be read is kept, see records.py."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.contradictions import contradictions, is_of_this_life, text_of
from edgedepot.storage.sqlite.draft import Draft, Row, reading_old
from edgedepot.storage.sqlite.readable import REFERENCES, is_readable
from edgedepot.storage.sqlite.records import RECORDS
from edgedepot.storage.sqlite.scan import Kinds, kinds_of, scan
from edgedepot.storage.sqlite.shape import shape_of
from edgedepot.storage.sqlite.tables import is_ours

_SMALL = ("_meta", "_models", "_series", "_sources", "_devices", "_books", "_cursors", "_quarantined", "_withheld",
          "_rejected", "_replaced")  # fmt: skip
_NAMES = {"model": "_models", "series": "_series", "source": "_sources"}
"""The table of what the sidecar knows, by its name there."""
_SHOWN = 3
_WIDTHS = {"model": 4, "series": 3, "source": 2}
_SAID = {
    "_meta": "what upstreams chose or could not be given",
    "_devices": "names of devices",
    "_books": "the books",
    "_cursors": "upstreams",
    "_quarantined": "quarantined readings",
    "_rejected": "rejected messages",
    "_replaced": "replaced values",
}
"""What is nowhere else: of this the report says where some may be lost."""


def copy_records(draft: Draft) -> None:
    """Fill the small tables of the new file, and note what they say of the rows."""
    for table in _SMALL:
        if not _copied(draft, table):
            draft.damaged |= {"small", table}
    if "small" in draft.damaged:
        for table, row in scan(draft.pages, draft.orphans(but_for_tables=False), Kinds({})):
            if table == "book":
                draft.book_rows[row[0]] = row[1]
            elif table == "_meta":
                _insert_setting(draft, *row)
            elif table in _SMALL:
                _insert(draft, table, row)
    _put_right(draft)
    for kind, table in _NAMES.items():
        for line in sorted(draft.sidecar.rows(kind), reverse=True):  # of what has two numbers rows have the later one
            _insert(draft, table, (*line, None) if kind == "series" else line)
    _drop_what_hangs_in_the_air(draft)
    if draft.pages.count:
        draft.notes += [f"of {said} some may be lost" for table, said in _SAID.items() if table in draft.damaged]
    _load_catalogue(draft)
    _load_shape(draft)
    _note_own(draft)


def _note_own(draft: Draft) -> None:
    """What people have made in the file themselves is not read into the new one."""
    found: list[str] = []
    with reading_old():
        rows = draft.new.execute("SELECT name, sql FROM old.sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")
        found += [name for name, sql in rows if isinstance(name, str) and not is_ours(name, str(sql))]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        names = ", ".join(f"{name:.40}" for name in found[:_SHOWN])
        draft.notes.append(f"made by others, and in the damaged file alone: {names}{more}")


def _put_right(draft: Draft) -> None:
    """Where the sidecar contradicts a record that can be read, the sidecar is right."""
    if not is_of_this_life(draft.new, draft.sidecar):
        return
    if draft.sidecar.gateway_id is not None:
        schema.set_meta(draft.new, "gateway_id", draft.sidecar.gateway_id)
    for kind, table in _NAMES.items():
        found = draft.new.execute(f"SELECT * FROM main.{table}").fetchall()
        lines = {(kind, *row[: _WIDTHS[kind]]): row for row in found}
        wrong = [
            (known, line) for known, line in contradictions(lines, draft.sidecar)
            if known[1] == line[1] or not _is_in_use(draft, kind, line[1])  # the copy could not be brought up to date
        ]  # fmt: skip
        draft.new.executemany(f"DELETE FROM main.{table} WHERE id = ?", [(line[1],) for _, line in wrong])
        for known, line in wrong:
            _insert(draft, table, (*known[1:], *lines[line][_WIDTHS[kind] :]))
        for known, line in wrong:
            if not _insert(draft, table, lines[line]):  # else it could not be put right, and its number stands in rows
                draft.notes.append(f"{text_of(known, line)}, which counts")


def _is_in_use(draft: Draft, kind: str, number: int) -> bool:
    """Whether anything that SQLite can read speaks of a series, a model or a source."""
    tables = [name for name in draft.roots if name.startswith(("_j_", "_h_"))]
    where = {
        "series": [(table, "series") for table in tables],
        "model": [("_series", "model")],
        "source": [("_books", "source")],
    }
    for table, column in where[kind]:
        with reading_old():
            if draft.new.execute(f"SELECT 1 FROM old.{table} WHERE {column} = ? LIMIT 1", (number,)).fetchone():
                return True
    return False


def _copied(draft: Draft, table: str) -> bool:
    """Whether all of a table is there and can be read."""
    verb = "REPLACE" if table == "_meta" else "IGNORE"
    with reading_old():
        there = {row[1] for row in draft.new.execute(f"PRAGMA old.table_info({table})")}
        columns = ", ".join(name for name in RECORDS[table] if name in there or not there)  # of an earlier schema less
        draft.new.execute(
            f"INSERT OR {verb} INTO main.{table} ({columns}) SELECT {columns} FROM old.{table} NOT INDEXED"
        )
    return not _drop_unreadable(draft, table) and draft.is_sound(table)


def _drop_unreadable(draft: Draft, table: str) -> bool:
    """Delete what is no record of a table; whether there was any."""
    names = list(RECORDS[table])
    keys = [row[1] for row in draft.new.execute(f"PRAGMA main.table_info({table})") if row[5]]
    # As bytes: that is how a text is read that is none.
    where = " AND ".join(f"CAST({key} AS BLOB) IS CAST(? AS BLOB)" for key in keys)
    found = draft.new.execute(f"SELECT {', '.join(names)} FROM main.{table}")
    bad = [row for row in found if not is_readable(table, row)]
    draft.new.executemany(
        f"DELETE FROM main.{table} WHERE {where}", [[row[names.index(key)] for key in keys] for row in bad]
    )
    return bool(bad)


def _insert(draft: Draft, table: str, row: Row) -> bool:
    """Whether it is a record, and its number and name were free."""
    if not is_readable(table, row):
        return False
    marks = ", ".join("?" * len(row))
    names = ", ".join(RECORDS[table])
    is_new = draft.new.execute(f"INSERT OR IGNORE INTO main.{table} ({names}) VALUES ({marks})", row).rowcount > 0
    if table == "_models":
        _take_later(draft, *row)
    return is_new


def _take_later(draft: Draft, model: int, name: str, title: str, fields: str) -> None:
    """Of what several records say of a model the latest: there may be rows already that fit that alone."""
    known = draft.new.execute("SELECT fields FROM main._models WHERE id = ? AND name = ?", (model, name)).fetchone()
    if known is not None and Catalogue.is_later(fields, known[0]):
        draft.new.execute("UPDATE main._models SET title = ?, fields = ? WHERE id = ?", (title, fields, model))


def _insert_setting(draft: Draft, key: str, value: Any) -> None:
    """Of what several states say the latest."""
    if not is_readable("_meta", (key, value)):
        return
    (known,) = draft.new.execute("SELECT value FROM main._meta WHERE key = ?", (key,)).fetchone() or (None,)
    if key == "shape":
        newer = _generation(value) > _generation(known)
    else:
        newer = known is None or (isinstance(known, int) and isinstance(value, int) and value > known)
    if newer:
        schema.set_meta(draft.new, key, value)


def _drop_what_hangs_in_the_air(draft: Draft) -> None:
    """Records about models, series, sources and upstreams that are lost."""
    for table, column, there in REFERENCES:
        if draft.new.execute(f"DELETE FROM main.{table} WHERE {column} NOT IN ({there})").rowcount:
            draft.damaged.add(table)


def _load_catalogue(draft: Draft) -> None:
    new = draft.new
    draft.layouts = Catalogue.load(new).layouts()
    draft.models = dict(new.execute("SELECT id, model FROM _series"))
    types = {model: kinds_of(layout) for model, layout in draft.layouts.items()}
    draft.kinds = Kinds({series: types[model] for series, model in draft.models.items()})
    draft.width = max((len(layout.written) for layout in draft.layouts.values()), default=1)
    (last,) = new.execute("SELECT coalesce(max(id), 0) FROM _cursors").fetchone()
    schema.set_meta(new, "last_cursor", max(schema.number(new, "last_cursor") or 0, last))


def _load_shape(draft: Draft) -> None:
    old = draft.old_shape = shape_of(schema.text(draft.new, "shape"))
    draft.new.execute("DELETE FROM main._meta WHERE key = 'shape'")
    if old is None:
        draft.shape.generation = 1
        return
    draft.shape.generation = old.generation + 1
    for piece, after in pairwise(old.pieces):
        if not piece.first <= piece.last < after.first:
            piece.last = 0
    for model, horizon in old.horizons.items():
        if model in draft.layouts:
            draft.shape.horizons[model] = min([horizon, *(one.start for one in old.partitions.get(model, []))])


def _generation(text: object) -> int:
    """Of a shape; -1 for what is none."""
    shape = shape_of(text)
    return -1 if shape is None else shape.generation
