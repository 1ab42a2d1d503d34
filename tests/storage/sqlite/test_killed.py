"""A process that stores is killed: what its receipts promised is there."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, SQLiteStorage
from edgedepot.storage.clock import to_micros
from edgedepot.storage.sqlite.wal import wal_of
from tests.models import Mixed, Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import copy_at_rest, leave, readings, rows
from tests.storage.sqlite.killed_child import CURSORS, deed

KILLS = 300 if os.environ.get("EDGEDEPOT_TEST_LONG") else 10

WRITER = """
import itertools, os, sys
from datetime import UTC, datetime, timedelta
from edgedepot import SQLiteStorage
from tests.models import Weather
path, first, durability = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = SQLiteStorage(path, gateway_id="roof", durability=durability, flush_interval="5 ms")
store.add_cursor("central")
upstream = os.open(path + ".upstream", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for n in itertools.count(first):
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n)
    receipt = store.store_reading(Weather, f"d{n % 7}", moment, {"temperature": float(n % 50), "count": n})
    if n % 10 == 0:
        receipt.wait("committed")
        print(n, flush=True)
        window = store.pending("central", 25)
        if window is not None:
            os.write(upstream, b"".join(b"%d %d\\n" % (row.seq, row.row[-1]) for row in window.rows))
            store.acknowledge("central", window)
"""


@pytest.mark.parametrize("durability", ["power", "process"])
def test_fifty_kills_lose_nothing_and_have_nothing_arrive_as_another(tmp_path: Path, durability: str) -> None:
    """What was committed is in the store, once, and then upstream, under one number; what is sent again is printed."""
    path = tmp_path / "gateway.db"
    rng = random.Random(20260101)
    promised = -1
    for _ in range(50):
        command = [sys.executable, "-c", WRITER, str(path), str(promised + 1), durability]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(rng.randint(1, 60)):
                line = child.stdout.readline()
                assert line, "the writer ended by itself"
                promised = int(line)
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read()  # what it still had printed by then it had promised too
        promised = max([promised, *(int(line) for line in rest.split("\n")[:-1])])
        with SQLiteStorage(path, read_only=True) as store:
            counts = [row["count"] for row in store.query_readings(Weather, fields=["count"], order="timestamp")]
            ledger = store.ledger()
        assert counts[: promised + 1] == list(range(promised + 1))
        assert len(set(counts)) == len(counts)
        assert ledger.problems == []
    sent = [tuple(map(int, line.split())) for line in path.with_name("gateway.db.upstream").read_text().splitlines()]
    with SQLiteStorage(path, gateway_id="roof") as store:
        while window := store.pending("central", 10_000):
            sent += [(row.seq, row.row[-1]) for row in window.rows]
            store.acknowledge("central", window)
    lost = set(range(promised + 1)) - {count for _, count in sent}
    twice = len(set(sent)) - len({count for _, count in sent})
    print(f"{durability}: 50 kills, {promised + 1} readings: lost {len(lost)}, twice {twice}, "
          f"sent again and known by their number {len(sent) - len(set(sent))}")  # fmt: skip
    assert (lost, twice) == (set(), 0)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_log_that_another_program_cut_is_still_the_store_s(tmp_path: Path, durability: str) -> None:
    """As backup programs do. The log that is begun next has a salt of its own; and after a kill with an empty log, or
    one of which the index is gone."""
    path = tmp_path / "gateway.db"
    promised = -1
    for modes in (["TRUNCATE"], ["TRUNCATE", "RESTART", "TRUNCATE"], ["PASSIVE", "TRUNCATE"]):
        command = [sys.executable, "-c", WRITER, str(path), str(promised + 1), durability]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            promised = int(child.stdout.readline())
            for mode in modes:
                with closing(sqlite3.connect(path, timeout=20)) as other:
                    assert other.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0] == 0
                for _ in range(20):
                    promised = int(child.stdout.readline())
            while wal_of(path).stat().st_size == 0:  # what was printed may be from before
                promised = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read()
        promised = max([promised, *(int(line) for line in rest.split("\n")[:-1])])
        if len(modes) > 1:  # as after a power cut
            path.with_name("gateway.db-shm").unlink()
        with SQLiteStorage(path, gateway_id="roof") as store:
            counts = [row["count"] for row in store.query_readings(Weather, fields=["count"], order="timestamp")]
            assert counts[: promised + 1] == list(range(promised + 1))
            assert (store.salvaged, store.store_epoch, store.ledger().problems) == (None, 1, [])
        promised = len(counts) - 1


def test_who_cuts_the_log_s_index_ends_the_process_and_nothing_is_lost(tmp_path: Path) -> None:
    """SQLite has it mapped into memory: the kernel ends a process that looks beyond its end. No code is asked."""
    path = tmp_path / "gateway.db"
    command = [sys.executable, "-c", WRITER, str(path), "0", "power"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        os.truncate(path.with_name("gateway.db-shm"), 0)
        promised = [int(line) for line in child.stdout.read().split("\n")[:-1]]
    assert child.returncode == -signal.SIGBUS
    with SQLiteStorage(path, gateway_id="roof") as store:
        counts = [row["count"] for row in store.query_readings(Weather, fields=["count"], order="timestamp")]
        assert counts[: max(promised, default=0) + 1] == list(range(max(promised, default=0) + 1))
        assert (store.salvaged, store.store_epoch, store.ledger().problems) == (None, 1, [])


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("since", [0, 2000])
def test_a_file_older_than_its_log_is_noticed(quick_folder: Path, since: int, folds: bool) -> None:
    """Somebody puts back a copy of the file alone: SQLite reads the log over it, page by page. Nobody can say any more
    how much came between; the report tells of no less than the books miss. Also where nothing was folded meanwhile."""
    path, killed = quick_folder / "live" / "x.db", quick_folder / "killed"
    path.parent.mkdir()
    with SQLiteStorage(path, gateway_id="roof", piece_rows=300) as store:
        store.add_cursor("central")
        store.store_readings(Weather, rows(0, 1000)).wait()
        store.fold()
    older = Path(shutil.copy(path, quick_folder / "older"))
    with SQLiteStorage(path, piece_rows=300 if folds else 100_000) as store:
        for first in range(1000, 3000, 250):
            if first == 1000 + since // 2:
                put_log_into(path)  # which is not closed
                shutil.copy(path, older)
            store.store_readings(Weather, rows(first, first + 250)).wait()
            if folds:
                store.fold()
        put_log_into(path)
        for first in range(3000, 3300, 50):
            store.store_readings(Weather, rows(first, first + 50)).wait()
            if folds:
                store.fold()
        copy_at_rest(path.parent, killed)
        shutil.copytree(killed, quick_folder / "sound")
    with SQLiteStorage(quick_folder / "sound" / "x.db") as store:
        assert (store.salvaged, len(readings(store))) == (None, 3300)
    shutil.copy(older, killed / "x.db")
    with SQLiteStorage(killed / "x.db") as store:
        report, lost = store.salvaged, store.ledger().upstreams["central"]["lost"]
        assert report is not None
        assert report.reason == "its file is older than its log"
        assert report.kept == len(readings(store)) >= 1300
        assert 0 < lost <= report.lost
        assert f", {report.lost} lost" in str(report)
        assert "how many more are lost is not known" in report.notes
        assert store.ledger().problems == []


def test_file_and_log_of_an_earlier_moment_are_the_store_as_it_was(quick_folder: Path) -> None:
    """Somebody has copied both, and puts them back beside what notes which log was the last."""
    path, killed = quick_folder / "live" / "x.db", quick_folder / "killed"
    path.parent.mkdir()
    with SQLiteStorage(path, gateway_id="roof") as store:
        store.add_cursor("central")
        for first in range(0, 1000, 250):
            store.store_readings(Weather, rows(first, first + 250)).wait()
        earlier = [Path(shutil.copy(file, quick_folder)) for file in (path, wal_of(path))]
        put_log_into(path)
        for first in range(1000, 1500, 250):
            store.store_readings(Weather, rows(first, first + 250)).wait()
        copy_at_rest(path.parent, killed)
    for file in earlier:
        shutil.copy(file, killed)
    (killed / "x.db-shm").unlink()
    with SQLiteStorage(killed / "x.db") as store:
        report = store.salvaged
        assert report is not None
        assert (report.reason, report.kept) == ("the file is older than it was", None)
        assert report.notes == ("what came in up to a minute before it ended may not be counted",)
        assert len(readings(store)) == 1000
        assert store.store_epoch == 2
        assert store.ledger().problems == []


def put_log_into(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=20)) as other:
        assert other.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0


class Upstream:
    """What a cursor's sender has said: versions by identity, and the numbers that are acknowledged for good."""

    def __init__(self) -> None:
        self.latest: dict[tuple[str, str, int], int] = {}
        self.acknowledged: set[int] = set()

    def sent(self, seq: int, identity: tuple[str, str, int]) -> None:
        assert seq not in self.acknowledged, "sent again although it was acknowledged"
        self.latest[identity] = max(seq, self.latest.get(identity, 0))


class Expected:
    """What the store should hold, from what its process said it did."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[str, datetime], dict[str, Any]]] = {"weather": {}, "mixed": {}}
        self.upstreams = {name: Upstream() for name in CURSORS}
        self.next = 0
        self.doubtful: int | None = None

    def hear(self, line: str) -> None:
        word, *rest = line.split()
        if word == "begin":
            self.doubtful = int(rest[0])
        elif word == "done":
            self.do(int(rest[0]))
        elif word == "sent":
            cursor, seq, measurement, device, micros = rest
            self.upstreams[cursor].sent(int(seq), (measurement, device, int(micros)))
        elif word == "acknowledged":
            self.upstreams[rest[0]].acknowledged.add(int(rest[1]))

    def do(self, number: int) -> None:
        it = deed(number)
        rows = self.rows[it.model.__measurement__]
        for device, moment, data in it.rows or []:
            rows[device, moment] = {**rows.get((device, moment), {}), **data}
        if it.rows is None:
            assert it.start is not None
            assert it.end is not None
            for device, moment in list(rows):
                if it.device in (None, device) and it.start <= moment < it.end:
                    del rows[device, moment]
        self.next, self.doubtful = number + 1, None

    def check(self, store: SQLiteStorage) -> None:
        """The last deed may be done though the process could not say so any more: then do it, to go on from there."""
        if self.doubtful is not None and contents(store) != self.rows:
            self.do(self.doubtful)
        assert contents(store) == self.rows
        assert store.ledger().problems == []
        for name in store.cursors():
            window = store.pending(name, 100_000)
            seqs = set() if window is None else {row.seq for row in window.rows}
            assert not seqs & self.upstreams[name].acknowledged


def contents(store: SQLiteStorage) -> dict[str, dict[tuple[str, datetime], dict[str, Any]]]:
    found: dict[str, dict[tuple[str, datetime], dict[str, Any]]] = {}
    for model in (Weather, Mixed):
        rows = store.query_readings(model)
        found[model.__measurement__] = {
            (row.pop("device_id"), row.pop("timestamp")): {
                name: value for name, value in row.items() if value is not None
            }
            for row in rows
        }
        assert len(found[model.__measurement__]) == len(rows)
        counts = store.aggregate(model, model.__fields__[0].name, "count", interval="1d", tz="Europe/Zurich")
        assert isinstance(counts, list)
        there = sum(row[model.__fields__[0].name] is not None for row in store.query_readings(model))
        assert sum(count["result"] for count in counts) == there
    return found


def drain(store: SQLiteStorage, cursor: str, limit: int) -> list[tuple[str, str, int]]:
    """All that a cursor is owed, while the store folds between windows."""
    found = []
    while window := store.pending(cursor, limit):
        found += [(row.model.__measurement__, row.device_id, row.timestamp) for row in window.rows]
        store.acknowledge(cursor, window)
        if len(found) % 3 == 0:
            store.fold()
        store.flush()
    return found


@pytest.mark.parametrize("durability", ["power", "process"])
def test_whatever_it_does_when_it_is_killed_is_whole_afterwards(quick_folder: Path, durability: str) -> None:
    """It stores, merges, deletes, folds, drops pieces, adds cursors, acknowledges, quarantines."""
    path = quick_folder / "x.db"
    rng = random.Random(20260101)
    expected = Expected()
    for _ in range(KILLS):
        arguments = [str(path), str(expected.next), durability, str(rng.randrange(10**6))]
        command = [sys.executable, "-m", "tests.storage.sqlite.killed_child", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            last = expected.next + rng.randint(0, 50)
            while expected.next < last or expected.doubtful is None:
                line = child.stdout.readline()
                assert line, "it ended by itself"
                expected.hear(line)
            child.kill()
            rest = child.stdout.read()
        for line in rest.split("\n")[:-1]:
            expected.hear(line)
        audit_file(path)
        with SQLiteStorage(path, gateway_id="roof") as store:
            expected.check(store)
            audit_memory(store)
    everything = sorted(
        (name, device, to_micros(moment)) for name, rows in expected.rows.items() for device, moment in rows
    )
    with SQLiteStorage(path, gateway_id="roof", piece_rows=300) as store:
        store.add_cursor("late")
        assert sorted(drain(store, "late", 97)) == everything
        for name in store.cursors():
            if name in CURSORS:
                upstream = expected.upstreams[name]
                for identity in drain(store, name, 1000):
                    upstream.latest[identity] = 1
                assert set(everything) <= set(upstream.latest)
        assert store.ledger().problems == []
        store.add_cursor("latest")
        assert sorted(drain(store, "latest", 1000)) == everything
        audit_memory(store)
    audit_file(path)


def test_an_opening_that_was_refused_is_no_damage(quick_folder: Path) -> None:
    """SQLite puts the log into the file and removes it when what looked at it is closed."""
    path = leave(quick_folder, "unfolded")
    with pytest.raises(ConfigError, match="holds the readings of gateway 'roof', found gateway_id 'cellar'"):
        SQLiteStorage(path, gateway_id="cellar")
    assert not wal_of(path).exists()
    with SQLiteStorage(path, gateway_id="roof") as store:
        assert store.salvaged is None
        assert store.store_epoch == 1
        assert len(readings(store)) == 600
