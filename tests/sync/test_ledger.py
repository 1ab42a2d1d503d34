"""Books that do not balance are shown, with the range in which something went missing."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.buffer import EVERYTHING, Choice
from edgedepot.storage.clock import ManualClock
from tests.sync.scripted import ScriptedUpstream, Weather, fill, moment
from tests.sync.simulated import forwarder_to

PIECE = 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "local.db"


def open_store(path: Path) -> SQLiteStorage:
    return SQLiteStorage(path, gateway_id="g", clock=ManualClock(), piece_rows=PIECE)


def prepare(path: Path) -> None:
    """Pieces of about a hundred rows, of which an upstream has acknowledged the first 150."""
    with open_store(path) as store:
        store.add_cursor("central")
        for start in range(0, 450, 50):
            fill(store, 50, start=start)
            store.fold()
        window = store.pending("central", 150)
        assert window is not None
        store.acknowledge("central", window)
        store.flush()
        assert store.ledger().problems == []


def corrupt(path: Path, change: Callable[[sqlite3.Connection], int]) -> int:
    """Change the file as no program of ours would; the row that it hit."""
    connection = sqlite3.connect(path)
    hit = change(connection)
    connection.commit()
    connection.close()
    return hit


def pieces(connection: sqlite3.Connection) -> list[str]:
    names = connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB '_j_*'").fetchall()
    return sorted((name for (name,) in names), key=lambda name: int(name[3:]))


def delete_row(piece: int, place: int) -> Callable[[sqlite3.Connection], int]:
    def change(connection: sqlite3.Connection) -> int:
        table = pieces(connection)[piece]
        query = f"SELECT seq FROM {table} WHERE series > 0 ORDER BY seq LIMIT 1 OFFSET ?"
        (seq,) = connection.execute(query, (place,)).fetchone()
        connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))
        return int(seq)

    return change


def delete_row_after(count: int) -> Callable[[sqlite3.Connection], int]:
    """Delete the row behind so many readings of the whole journal."""

    def change(connection: sqlite3.Connection) -> int:
        union = " UNION ALL ".join(f"SELECT seq, '{name}' FROM {name} WHERE series > 0" for name in pieces(connection))
        seq, table = connection.execute(f"{union} ORDER BY seq LIMIT 1 OFFSET ?", (count,)).fetchone()
        connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))
        return int(seq)

    return change


def forwarded(store: SQLiteStorage, batch_size: int = 30, choice: Choice = EVERYTHING) -> None:
    """Have everything delivered that is still there, as far as the upstream gets it."""
    upstream, clock = ScriptedUpstream(), ManualClock()
    forwarder = forwarder_to(store, upstream, clock, batch_size=batch_size)
    store.add_cursor("central", choice=choice)
    while store.count_pending("central"):
        forwarder.step()
        store.fold()  # after the salvage, where it ran into something
        clock.advance(1)


@pytest.mark.parametrize("place", [0, 3, 20])
def test_a_reading_lost_in_the_last_piece_is_missed_and_found(path: Path, place: int) -> None:
    """And at the next start it is there again, where history has it."""
    prepare(path)
    hit = corrupt(path, delete_row(-1, place))
    with SQLiteStorage(path, read_only=True) as store:
        assert store.ledger().problems == [
            "upstream central: 450 versions were written, 449 are accounted for;"
            f" the difference lies in rows {hit} to {hit} of the journal"
        ]
    with open_store(path) as store:
        assert "the books do not balance for central" in str(store.salvaged)
        books = store.ledger()
        assert (books.problems, books.upstreams["central"]["lost"]) == ([], 0)


def test_a_reading_lost_in_a_piece_that_is_partly_acknowledged_is_sent_from_history(path: Path) -> None:
    """The piece tells how many it should have: that is damage, and a salvage finds the reading."""
    prepare(path)
    corrupt(path, delete_row_after(150))
    with open_store(path) as store:
        assert "has 99 readings, and 100 on record" in str(store.salvaged)
        assert (store.count_pending("central"), store.ledger().problems) == (300, [])


@pytest.mark.parametrize(
    ("batch_size", "choice"), [(30, EVERYTHING), (1000, EVERYTHING), (1000, Choice(devices=("roof",)))]
)
def test_a_reading_lost_in_a_whole_pending_piece_is_missed_before_it_is_sent(
    path: Path, batch_size: int, choice: Choice
) -> None:
    """Nobody counts whole pieces at the start: that takes time with the rows. It may be sent in one window with others,
    or lie in what an upstream does not get."""
    prepare(path)
    corrupt(path, delete_row(-2, 10))
    with open_store(path) as store:
        assert (store.ledger().problems, store.salvaged) == ([], None)
        forwarded(store, batch_size, choice)
        assert "has 99 readings, and 100 on record" in str(store.salvaged)
        books = store.ledger()
        assert books.problems == []
        counts = books.upstreams["central"]
        assert (counts["delivered"] + counts["skipped"], counts["lost"]) == (450, 0)


def test_merged_and_deleted_readings_widen_the_range_and_are_no_loss(path: Path) -> None:
    prepare(path)
    with open_store(path) as store:
        store.store_reading(Weather, "mast", None, {"temperature": 1.0}).wait()
        start = 10_000
        fill(store, 30, start=start)
        fill(store, 30, start=start)  # duplicates
        for number in (start + 3, start + 20):
            fill_one(store, number)
        assert store.ledger().problems == []
    hit = corrupt(path, delete_row(-1, 45))
    with SQLiteStorage(path, read_only=True) as store:
        (problem,) = store.ledger().problems
        found = re.search(r"rows (\d+) to (\d+) of the journal$", problem)
        assert found is not None
        assert int(found[1]) <= hit <= int(found[2])
    with open_store(path) as store:
        assert store.ledger().problems == []


def fill_one(store: SQLiteStorage, number: int) -> None:
    """Another version of a reading."""
    store.store_reading(Weather, "mast", moment(number), {"temperature": -1.0}).wait()


def test_what_was_lost_before_the_journal_begins_is_said_to_be_there(path: Path) -> None:
    prepare(path)
    with open_store(path) as store:
        forwarded(store)
        store.fold()

    def change(connection: sqlite3.Connection) -> int:
        connection.execute("UPDATE _cursors SET delivered = delivered - 1")
        return 0

    corrupt(path, change)
    with SQLiteStorage(path, read_only=True) as store:
        (problem,) = store.ledger().problems
        assert re.search(r"449 are accounted for; the difference lies before row \d+ of the journal", problem)
    with open_store(path) as store:
        assert (store.ledger().problems, store.ledger().upstreams["central"]["lost"]) == ([], 1)


@pytest.mark.parametrize("folded", [False, True])
def test_a_source_that_is_miscounted_is_named_with_where(path: Path, folded: bool) -> None:
    with open_store(path) as store:
        fill(store, 10)
        store.fold()
        fill(store, 20, start=10)

    def change(connection: sqlite3.Connection) -> int:
        if folded:
            return connection.execute("UPDATE _books SET duplicates = 2").rowcount
        wrong = """UPDATE _j_1 SET c0 = replace(c0, '[0,0,0,0,20,20]', '[0,0,0,0,20,18]') WHERE series IS NULL"""
        connection.execute(wrong)
        return int(connection.execute("SELECT seq FROM _j_1 WHERE c0 LIKE '%20,18]%'").fetchone()[0])

    hit = corrupt(path, change)
    with open_store(path) as store:
        (problem, *_) = store.ledger().problems
        found, where = (32, "written down before row 12") if folded else (28, f"noted in rows {hit} to {hit}")
        assert problem == (
            f"source direct: 30 readings were decoded, {found} are accounted for; "
            f"the difference lies in what was {where} of the journal"
        )


@pytest.fixture(autouse=True)
def no_file_is_left_open(path: Path) -> Iterator[None]:
    yield
    assert not path.with_name(path.name + "-wal").exists()
