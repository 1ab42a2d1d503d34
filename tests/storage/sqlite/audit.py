"""Whether a store's file is sound, looked at with plain SQL and arithmetic of its own; and whether what the store
remembers is what its file says."""

import json
import math
import sqlite3
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import groupby
from pathlib import Path
from typing import Any

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import HOUR, ManualClock
from edgedepot.storage.sqlite.books import Books
from edgedepot.storage.sqlite.shape import read_shape
from edgedepot.storage.sqlite.tail import Tail
from edgedepot.storage.sqlite.verify import Verification

_STORED_AS = {"float": "real", "int": "integer", "bool": "integer", "str": "text"}
Identity = tuple[int, int]
"""Series and timestamp."""


def audit_file(path: Path, *, verify: bool = True) -> Counter[str]:
    """Check all that must hold between the tables of a file, which nobody writes at the moment; what was found there.

    Each reading is in the journal or in history or, folded and not dropped yet, in both as one and the same; partitions
    and hours hold what they should; pieces know how many rows they have; views show each reading once; SQLite agrees,
    and what `verify` finds wrong is nothing (that takes as long again).
    From before a model's horizon there is nothing in history, and what the journal has of it was folded past.
    """
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        connection.execute("BEGIN")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = _audit(connection)
    finally:
        connection.close()
    if verify:
        with Verification(path) as verification:
            assert verification.run().problems == []
    return found


def _audit(connection: sqlite3.Connection) -> Counter[str]:
    shape = _shape(connection)
    low, high, *place, folding = shape.get("folded", [0, 0, 0, -(2**63), 0])
    horizons = shape.get("horizons", {})
    offsets = {base: offset for base, _, _, offset, *_ in shape.get("bases", [])}
    series = dict(connection.execute("SELECT id, model FROM _series"))
    models = {model: (name, json.loads(text)) for model, name, text in _models(connection)}
    history = {row[:2]: row for model in models for row in _history(connection, shape, model, models[model][0])}
    found: Counter[str] = Counter(pieces=len(shape["pieces"]), history=len(history))
    unfolded: set[Identity] = set()
    seen: Counter[int] = Counter()  # of them, by model: not those from before the horizon, whose time is known
    last = 0
    for index, (piece, first, _, base, aside, *ends) in enumerate(shape["pieces"]):
        ts = f"CASE received WHEN 0 THEN ts + {offsets[base] or 0} ELSE ts END" if base else "ts"
        rows = connection.execute(f"SELECT seq, series, {ts} FROM _j_{piece} ORDER BY seq").fetchall()
        assert all(first <= seq for seq, _, _ in rows)
        assert not rows or rows[0][0] > last, "numbers of two pieces overlap"
        last = rows[-1][0] if rows else max(last, first - 1)
        assert ends in ([], [0]) or last <= ends[0], "a piece has rows behind its end"
        readings = [row for row in rows if row[1] is not None]
        for seq, one, ts in readings:
            is_behind = (one, ts) <= tuple(place)
            is_folded = folding == piece and is_behind if aside else seq <= low or (seq <= high and is_behind)
            if is_folded:
                if ts < horizons.get(str(series[one]), -math.inf):
                    assert (one, ts) not in history, "history reaches below the horizon"
                    found["below the horizon"] += 1
                    continue
                assert history[one, ts][2] == seq, "a folded row of the journal is not the one in history"
                found["in both"] += 1
            else:
                assert (one, ts) not in unfolded, "an identity is in the journal twice"
                assert (one, ts) not in history, "an identity is in the journal and in history"
                unfolded.add((one, ts))
                is_held = bool(base) and offsets[base] is None
                seen[series[one]] += is_held or ts >= horizons.get(str(series[one]), -math.inf)
        if index + 1 < len(shape["pieces"]):
            assert connection.execute("SELECT live FROM _pieces WHERE id = ?", (piece,)).fetchall() == [
                (len(readings),)
            ]
    assert _tables(connection, "_j_") == {f"_j_{piece}" for piece, *_ in shape["pieces"]}
    assert _tables(connection, "_h_") == {
        f"_h_{name}_{partition[0]}"
        for model, (name, _) in models.items()
        for partition in shape["partitions"].get(str(model), [])
    }
    assert _tables(connection, "_d_") == {f"_d_{models[rule[1]][0]}_{rule[0]}" for rule in shape.get("rules", [])}
    found["unfolded"] = len(unfolded)
    for model, (name, fields) in models.items():
        mine = sorted(row for row in history.values() if series[row[0]] == model)
        found["dirty hours"] += _audit_hours(connection, shape, model, name, fields, mine)
        _audit_view(connection, name, fields, len(mine) + seen[model])
    newest = dict(connection.execute("SELECT id, newest FROM _series"))
    assert all(newest[one] is not None and ts <= newest[one] for one, ts in history), "a row is newer than the newest"
    return found


def _tables(connection: sqlite3.Connection, prefix: str) -> set[str]:
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {table for (table,) in tables if table.startswith(prefix)}


def _shape(connection: sqlite3.Connection) -> dict[str, Any]:
    text = connection.execute("SELECT value FROM _meta WHERE key = 'shape'").fetchone()
    return {"pieces": [], "partitions": {}} if text is None else json.loads(text[0])


def _models(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
    return connection.execute("SELECT id, name, fields FROM _models").fetchall()


def _history(connection: sqlite3.Connection, shape: dict[str, Any], model: int, name: str) -> list[tuple[Any, ...]]:
    """Series, ts, seq, quality and values of a model's rows."""
    found: list[tuple[Any, ...]] = []
    end = shape.get("horizons", {}).get(str(model), -math.inf)
    for number, start, stop, width, *_ in shape["partitions"].get(str(model), []):
        assert end <= start < stop
        end = stop
        rows = connection.execute(f"SELECT * FROM _h_{name}_{number}").fetchall()
        assert all(start <= row[1] < stop and len(row) == 4 + width for row in rows)
        found += rows
    assert len({row[:2] for row in found}) == len(found)
    return found


def _audit_hours(
    connection: sqlite3.Connection,
    shape: dict[str, Any],
    model: int,
    name: str,
    fields: list[dict[str, Any]],
    rows: list[tuple[Any, ...]],
) -> int:
    """Compute each hour again from its rows; the number of those that say that they have to be."""
    dirty = set(connection.execute("SELECT series, hour, part FROM _dirty"))
    hours: dict[tuple[int, int, int], dict[str, Any]] = {}  # by series, hour, and start of the partition
    for number, start, stop, _, _, width in shape["partitions"].get(str(model), []):
        if width is not None:
            cursor = connection.execute(f"SELECT * FROM _hour_{name}_{number}")
            names = [column[0] for column in cursor.description]
            found = {row[:2]: dict(zip(names, row, strict=True)) for row in cursor}
            assert all(start // HOUR <= hour and hour * HOUR < stop for _, hour in found)
            hours |= {(*key, start): hour for key, hour in found.items()}
    starts = sorted(start for _, start, *_ in shape["partitions"].get(str(model), []))
    key_of = lambda row: (row[0], row[1] // HOUR, starts[bisect_right(starts, row[1]) - 1])  # noqa: E731
    expected = {key: list(group) for key, group in groupby(rows, key=key_of)}
    assert set(hours) - dirty == set(expected) - dirty
    for key in set(expected) - dirty:
        hour, inside = hours[key], expected[key]
        times = [row[1] for row in inside]
        assert (hour["rows"], hour["low"], hour["high"]) == (len(inside), min(times), max(times))
        for index, field in enumerate(field for index, field in enumerate(fields) if f"n{index}" in hour):
            _audit_field(
                hour, index, field["type"], [(row[1], row[4 + index]) for row in inside if len(row) > 4 + index]
            )
    return len(dirty & set(hours))


def _audit_field(hour: dict[str, Any], index: int, kind: str, cells: list[tuple[int, Any]]) -> None:
    values = [(ts, value) for ts, value in cells if value is not None]
    assert (hour[f"n{index}"] or 0) == len(values)
    if not values:
        return
    first, last = values[0], values[-1]
    assert (hour[f"first_ts{index}"], hour[f"first{index}"]) == first
    assert (hour[f"last_ts{index}"], hour[f"last{index}"]) == last
    numbers = [value for _, value in values]
    if kind in ("float", "int"):
        assert (hour[f"min{index}"], hour[f"max{index}"]) == (min(numbers), max(numbers))
    if kind == "float":
        assert math.isclose(hour[f"sum{index}"], math.fsum(numbers), rel_tol=1e-9, abs_tol=1e-9)
    if kind == "int":
        assert (hour[f"sum{index}"] << 32) + hour[f"rest{index}"] == sum(numbers)


def _audit_view(connection: sqlite3.Connection, name: str, fields: list[dict[str, Any]], readings: int) -> None:
    """It shows each reading once, and of each field values of its type alone."""
    kinds = [f'group_concat(DISTINCT typeof("{field["name"]}"))' for field in fields]
    asked = ", ".join(["count(*)", "count(DISTINCT device_id || timestamp)", *kinds])
    first, second, *found = connection.execute(f'SELECT {asked} FROM "{name}"').fetchone()
    assert (first, second) == (readings, readings)
    for field, kind in zip(fields, found, strict=True):
        allowed = {_STORED_AS[field["type"]], "null"}
        assert set((kind or "null").split(",")) <= allowed, f"{name}.{field['name']} holds {kind}"


def _flush(store: SQLiteStorage) -> None:
    """A store that is in trouble tries again after a while: so time goes on, also where nobody else moves it."""
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(store.flush)
        while not wait([flushing], 2.0).done:
            if isinstance(store.clock, ManualClock):
                store.clock.advance(1.0)
        flushing.result()


def audit_memory(store: SQLiteStorage) -> None:
    """Check that what a store that writes remembers is what opening its file would find. Nothing may be under way."""
    _flush(store)
    assert store._writing is not None
    journal = store._writing.writer._journal
    connection = sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)
    try:
        connection.execute("BEGIN")
        shape = read_shape(connection)
        assert journal.shape == shape
        _compare_tails(journal.tail, Tail.load(connection, shape), connection)
        fresh = Books.load(connection, shape)
        assert journal.books.sources == fresh.sources
        assert {name: _book(book) for name, book in journal.books.cursors.items()} == {
            name: _book(book) for name, book in fresh.cursors.items()
        }
        last = connection.execute(f"SELECT max(seq) FROM {shape.pieces[-1].table}").fetchone()[0]
        assert journal.committed_seq == journal.last_seq == (last or shape.pieces[-1].first - 1)
        for name, text in connection.execute("SELECT name, fields FROM _models"):
            written = next(layout for layout in journal.catalogue.layouts().values() if layout.name == name).written
            assert [spec.name for spec in written] == [field["name"] for field in json.loads(text)]
    finally:
        connection.close()


def _book(book: Any) -> tuple[Any, ...]:
    walk = book.walk
    return (
        book.id,
        book.versions_before,
        book.since,
        list(book.acknowledged),
        book.counts,
        walk.before,
        walk.place,
        walk.left,
    )


def _compare_tails(mine: Tail, fresh: Tail, connection: sqlite3.Connection) -> None:
    assert mine.rows == fresh.rows
    assert mine._generation == fresh._generation
    for (series_id,) in connection.execute("SELECT id FROM _series").fetchall():
        known, found = mine.series(series_id), fresh.series(series_id)
        assert found is not None
        if known is None:  # not asked for since opening
            assert not found.times
            continue
        assert (known.model_id, known.times, known.seqs) == (found.model_id, found.times, found.seqs)
        assert known.newest >= found.newest  # the newest may have been deleted
    assert sum(len(series.times) for series in mine.from_series(0)) == mine.rows
