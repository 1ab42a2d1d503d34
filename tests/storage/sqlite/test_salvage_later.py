"""Damage to stores that hold readings of a time that nobody knows, or that have let go of some, or thinned them."""

import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.clock import from_micros
from edgedepot.storage.errors import StoreUnusable
from edgedepot.storage.sqlite.checksums import FRAME, FRAME_HEADER
from edgedepot.storage.sqlite.wal import HEADER
from edgedepot.storage.values import Row
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory
from tests.storage.sqlite.damaged import (
    DAMAGES,
    LATER_STAGES,
    PAGE,
    T0,
    Identity,
    clock_of,
    leave,
    opened,
    readings,
    rows,
)
from tests.storage.sqlite.test_salvage import is_sound, pages_of

CASES = [
    *(("", damage) for damage in ("truncated", "zeroed page", "flipped byte", "junk")),
    *(("-wal", damage) for damage in ("truncated", "zeroed page", "wrong size", "missing")),
]
"""Of a store whose readings are in the file, and of one whose readings are in the log."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The files of each stage, with most of it in the file or in the log."""
    folders = {}
    for stage in LATER_STAGES:
        for suffix in ("", "-wal"):
            folders[stage, suffix] = tmp_path_factory.mktemp(stage)
            leave(folders[stage, suffix], stage, checkpointed=suffix == "")
    return folders


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "edgedepot")
    yield
    caplog.clear()


def pending(store: SQLiteStorage) -> dict[Identity, tuple[int, Row]]:
    """What the upstream is to get: numbers and rows."""
    store.add_cursor("central")
    window = store.pending("central", 10_000)
    found = [] if window is None else window.rows
    return {(row.device_id, from_micros(row.timestamp)): (row.seq, row.row) for row in found}


def found_at_last(store: SQLiteStorage) -> tuple[dict[Identity, dict[str, Any]], dict[Identity, tuple[int, Row]]]:
    """The readings and what of them is pending, also where the first who asks for either finds the damage."""
    with contextlib.suppress(StoreUnusable):
        return readings(store), pending(store)
    store.fold()  # the writer has been told, and salvages the store first
    return readings(store), pending(store)


@pytest.mark.parametrize(("suffix", "damage"), CASES)
@pytest.mark.parametrize("stage", LATER_STAGES)
def test_what_can_be_read_is_kept(
    left: dict[tuple[str, str], Path], quick_folder: Path, stage: str, suffix: str, damage: str
) -> None:
    whole = shutil.copytree(left[stage, suffix], quick_folder / "whole")
    with opened(whole / "x.db", stage) as store:
        before, waiting = readings(store), pending(store)
    folder = shutil.copytree(left[stage, suffix], quick_folder / "damaged")
    DAMAGES[damage](folder / f"x.db{suffix}")
    with opened(folder / "x.db", stage, gateway_id="roof") as store:
        after, still_waiting = found_at_last(store)
        report = store.salvaged
        assert store.ledger().problems == []
        if suffix == "":  # what the log lost is as it was before: not yet released, or not yet gone
            late = ("late", T0)  # from before the horizon: where that is lost too, it is seen
            assert after.keys() - {late} <= before.keys()
        there, known = by_number(after), by_number(before)
        lost = known.keys() - there.keys()
        if stage != "thinned":  # there are averages where history is gone
            assert all(there[key] == known[key] for key in there.keys() & known.keys())
        if lost:
            assert report is not None
            assert len(lost) <= report.lost or any("not known" in note or "log" in note for note in report.notes)
        if report is None:
            assert still_waiting == waiting
        elif damage in ("zeroed page", "flipped byte") and suffix == "":  # what the log lost is as it was before
            assert still_waiting.keys() <= waiting.keys()
        store.store_readings(Weather, rows(5000, 5010)).wait()
        store.fold()
        store.retain()
        assert store.ledger().problems == []
        audit_memory(store)
        after = readings(store)
    if is_sound(folder / "x.db"):  # or the page is of a table that nobody has read yet
        audit_file(folder / "x.db")
    with opened(folder / "x.db", stage) as store:
        assert readings(store) == after


def test_a_hole_anywhere_in_the_log_leaves_no_table_ahead_of_another(
    left: dict[tuple[str, str], Path], quick_folder: Path
) -> None:
    """Each page is as some commit left it then."""
    whole = left["retained", "-wal"]
    number = ((whole / "x.db-wal").stat().st_size - HEADER) // FRAME
    for frame in range(number // 2, number, number // 32):  # the fold is in the second half
        folder = shutil.copytree(whole, quick_folder / str(frame))
        with (folder / "x.db-wal").open("r+b") as log:
            log.seek(HEADER + FRAME * frame + FRAME_HEADER)
            log.write(bytes(PAGE))
        with opened(folder / "x.db", "retained") as store:
            assert store.salvaged is not None
            assert store.ledger().problems == []
        audit_file(folder / "x.db")


def by_number(found: dict[Identity, dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(device, row["count"]): row for (device, _), row in found.items()}


# -- one by one -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(left: dict[tuple[str, str], Path], quick_folder: Path, request: pytest.FixtureRequest) -> Path:
    """A store of the stage that the test names, closed for good."""
    path: Path = shutil.copytree(left[request.param, ""], quick_folder / "store") / "x.db"
    with opened(path, request.param):
        pass
    return path


def of_stage(stage: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", [stage], indirect=True)


def ruin(path: Path, table: str, leaves: slice = slice(None)) -> None:
    """Zero these leaf pages of a table."""
    pages = pages_of(path, table)[leaves]
    assert pages
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(bytes(PAGE))


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as file:
        assert file.execute(statement).rowcount > 0
        file.commit()


EVER = (-(2**63), 2**62)
UNREADABLE = "UPDATE _sources SET name = x'00ff'"
"""A record that has the store salvaged, with all else sound."""


@of_stage("held")
def test_held_rows_of_a_damaged_piece_stay_held_and_are_put_right_in_time(path: Path) -> None:
    ruin(path, "_j_3", slice(0, 1))
    with opened(path, "held") as store:
        before, report, books = readings(store), store.salvaged, store.ledger().upstreams["central"]
        gone = 570 - len(before)
        assert 0 < gone < 60
        assert report is not None
        assert report.kept == len(before)
        assert report.lost >= gone == books["lost"]
        assert (books["held"], books["pending"]) == (170 - gone, 300)
        clock_of(store).step(86_400)
        clock_of(store).trusted = True
        store.store_readings(Weather, rows(5000, 5001)).wait()
        store.fold()
        moved = {number: later - moments(before)[number] for number, later in moments(readings(store)).items()
                 if number in moments(before)}  # fmt: skip
        stamped = {number for number in moved if 1000 <= number < 1120}
        assert len(stamped) == 120 - gone
        assert {moved[number] for number in stamped if number >= 1060} == {moved[max(stamped)]}
        assert {moved[number] for number in moved.keys() - stamped} == {timedelta(0)}
        assert moved[max(stamped)] > timedelta(0)
        assert store.ledger().problems == []
        assert store.ledger().upstreams["central"]["held"] == 0
        assert len(pending(store)) == 470 - gone + 1
        audit_memory(store)
    audit_file(path)


def moments(found: dict[Identity, dict[str, Any]]) -> dict[int, datetime]:
    return {row["count"]: moment for (_, moment), row in found.items()}


@of_stage("held")
def test_held_rows_stay_held_where_the_record_of_the_time_bases_is_lost(path: Path) -> None:
    with opened(path, "held") as store:
        before = readings(store)
    change(path, "UPDATE _meta SET value = '{' WHERE key = 'shape'")
    with opened(path, "held") as store:
        assert store.salvaged is not None
        assert readings(store) == before
        books = store.ledger()
        assert books.problems == []
        assert (books.upstreams["central"]["held"], books.upstreams["central"]["pending"]) == (170, 300)
        clock_of(store).trusted = True
        store.store_readings(Weather, rows(5000, 5001)).wait()
        store.fold()
        found = store.query_readings(Weather, fields=["count", "quality"])
        assert sorted(row["count"] for row in found) == sorted([*moments(before), 5000])
        assert {row["quality"] for row in found if 1000 <= row["count"] < 1120} == {16}
        assert store.ledger().problems == []
        audit_memory(store)
    audit_file(path)


@of_stage("released")
def test_what_was_released_is_no_other_reading_where_the_record_of_that_is_lost(path: Path) -> None:
    """It is in history at its right time, and in the journal at the one of before."""
    with opened(path, "released") as store:
        store.fold()
        before = readings(store)
    change(path, "UPDATE _meta SET value = '{' WHERE key = 'shape'")
    with opened(path, "released") as store:
        assert readings(store) == before
        assert store.ledger().problems == []
        assert pending(store).keys() <= before.keys()
        assert len(pending(store)) == 520
        audit_memory(store)
    audit_file(path)


@of_stage("thinned")
def test_what_was_thinned_stays_so(path: Path) -> None:
    with opened(path, "thinned") as store:
        waiting, ledger = pending(store), store.ledger()
    change(path, UNREADABLE)
    with opened(path, "thinned") as store:
        assert store.salvaged is not None
        assert pending(store) == waiting
        assert store.ledger().upstreams == ledger.upstreams
    ruin(path, "_j_2")
    change(path, UNREADABLE)
    with opened(path, "thinned") as store:
        assert pending(store).keys() == waiting.keys()  # the last of each minute as it was measured
        assert store.ledger().upstreams == ledger.upstreams
        assert store.ledger().problems == []
    audit_file(path)
    with closing(sqlite3.connect(path)) as file:
        kinds = file.execute("SELECT DISTINCT every FROM _withheld").fetchall()
    assert kinds == [(0,)], "averages are not made anew of what may have been more"


@of_stage("thinned")
def test_where_it_is_lost_what_was_withheld_nothing_of_before_is_sent_again(path: Path) -> None:
    with opened(path, "thinned") as store:
        store.add_cursor("late")
        window = store.pending("central", 10_000)
        assert window is not None
        store.acknowledge("central", window)
        store.flush()
        assert len(store.delivered("central").rows(Weather, "d1", *EVER)) > 0
    ruin(path, "_withheld")
    with opened(path, "thinned") as store:
        with pytest.raises(StoreUnusable, match="malformed"):
            store.delivered("central").rows(Weather, "d1", *EVER)
        store.fold()
        assert store.salvaged is not None
        assert "what central was not sent on purpose is forgotten: it is sent nothing again" in str(store.salvaged)
        assert store.delivered("central").rows(Weather, "d1", *EVER) == []
        assert store.ledger().problems == []
    audit_file(path)


@of_stage("downsampled")
def test_of_what_was_kept_in_short_only_a_damaged_page_is_lost(path: Path) -> None:
    with opened(path, "downsampled") as store:
        before = by_hour(store)
    ruin(path, "_d_weather_1", slice(3, 4))
    with opened(path, "downsampled") as store:
        with pytest.raises(StoreUnusable, match="malformed"):
            by_hour(store)
        store.fold()
        after = by_hour(store)
        assert 0 < sum(before.values()) - sum(after.values()) < 60
        assert all(after[hour] <= before[hour] for hour in after)
        assert store.salvaged is not None
        assert "of what was kept of weather in short some is lost" in str(store.salvaged)
        assert len(pending(store)) == 1011
    audit_file(path)


def by_hour(store: SQLiteStorage) -> dict[datetime, int]:
    counts = store.aggregate(Weather, "temperature", "count", interval="1h")
    assert isinstance(counts, list)
    return {one["bucket"]: one["result"] for one in counts}
