"""Readings that come before the clock is trusted: queries see them, fold and sync wait, and trust puts them right."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage
from edgedepot.storage.buffer import Arrival, Intake
from edgedepot.storage.clock import ManualClock, to_micros
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory

WRONG = datetime(2026, 1, 1, tzinfo=UTC)
RIGHT = datetime(2026, 6, 1, 12, tzinfo=UTC)
SHIFT = RIGHT - WRONG


class Site:
    """A store, its clock, and an upstream that has asked for all it can get."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.options = options
        self.clock = ManualClock(WRONG)
        self.clock.trusted = False
        self.open()
        self.store.add_cursor("central")

    def open(self) -> None:
        self.store = SQLiteStorage(self.path, gateway_id="g", clock=self.clock, piece_rows=5, **self.options)

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def put(self, value: float, moment: datetime | None = None, device: str = "a") -> None:
        self.store.store_reading(Weather, device, moment, {"temperature": value}).wait()

    def trust(self, seconds: float = SHIFT.total_seconds()) -> None:
        """The clock is set, and known to be right."""
        self.clock.step(seconds)
        self.clock.trusted = True
        self.store.flush()

    def times(self, device: str = "a") -> dict[float, datetime]:
        rows = self.store.query_readings(Weather, device, order="timestamp")
        with SQLiteStorage(self.path, read_only=True) as reader:
            assert reader.query_readings(Weather, device, order="timestamp") == rows
        return {row["temperature"]: row["timestamp"] for row in rows}

    def qualities(self) -> dict[float, int | None]:
        rows = self.store.query_readings(Weather, fields=["temperature", "quality"])
        return {row["temperature"]: row["quality"] for row in rows}

    def sent(self) -> dict[float, datetime]:
        """What the upstream gets now."""
        found: dict[float, datetime] = {}
        while (window := self.store.pending("central", 100)) is not None:
            versions = [row.version(1) for row in window.rows]
            found |= {version.data["temperature"]: version.timestamp for version in versions}
            self.store.acknowledge("central", window)
        return found

    def books(self) -> dict[str, int]:
        ledger = self.store.ledger()
        assert ledger.problems == []
        return ledger.upstreams["central"]

    def audit(self) -> None:
        audit_memory(self.store)
        audit_file(self.path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "x.db")
    yield site
    site.audit()
    site.store.close()


def test_held_readings_are_seen_but_neither_folded_nor_sent(site: Site) -> None:
    site.put(1.0)
    site.clock.advance(10)
    site.put(2.0)
    assert site.times() == {1.0: WRONG, 2.0: WRONG + timedelta(seconds=10)}
    site.store.fold()
    assert site.sent() == {}
    assert (site.books()["held"], site.books()["pending"]) == (2, 0)
    site.audit()


def test_trust_puts_the_gateways_stamps_right_and_hands_all_on(site: Site) -> None:
    site.put(1.0)
    site.clock.advance(10)
    site.put(2.0)
    site.put(3.0, RIGHT - timedelta(days=1))
    site.trust()
    expected = {3.0: RIGHT - timedelta(days=1), 1.0: RIGHT, 2.0: RIGHT + timedelta(seconds=10)}
    assert site.times() == expected
    assert site.sent() == expected
    assert (site.books()["held"], site.books()["delivered"]) == (0, 3)
    site.store.fold()
    assert site.times() == expected
    assert site.store.aggregate(Weather, "temperature", "count", start=RIGHT) == {"result": 2}


def test_what_was_released_is_folded_though_nothing_came_in_since(site: Site) -> None:
    site.put(1.0)
    site.store.fold()
    site.trust()
    site.store.fold()
    site.store.close()
    assert audit_file(site.path)["unfolded"] == 0
    site.open()


def test_it_is_one_small_write_however_many_rows_are_held(site: Site) -> None:
    rows = [("a", None, {"temperature": float(n)}) for n in range(20_000)]
    site.store.store_readings(Weather, rows).wait()
    site.store.close()
    before = site.path.stat().st_size
    site.open()
    site.trust()
    wal = site.path.with_name("x.db-wal").stat().st_size
    assert before > 400_000
    assert wal < 80_000, "a few pages"
    assert site.times()[19_999.0] == RIGHT + timedelta(microseconds=19_999)


def test_rows_that_come_after_trust_go_out_while_nothing_before_is_overtaken(site: Site) -> None:
    site.put(1.0)
    site.trust()
    site.clock.advance(1)
    site.put(2.0)
    assert list(site.sent().items()) == [(1.0, RIGHT), (2.0, RIGHT + timedelta(seconds=1))]


def test_a_step_before_trust_begins_a_new_base(site: Site) -> None:
    site.put(1.0)
    site.clock.advance(60)
    site.clock.step(-3600)  # set by hand, still wrong
    site.put(2.0)
    site.clock.advance(60)
    site.trust()
    assert site.times() == {1.0: RIGHT - timedelta(seconds=3600), 2.0: RIGHT - timedelta(seconds=3540)}


def test_a_process_that_starts_again_in_the_same_boot_goes_on(site: Site) -> None:
    site.put(1.0)
    site.clock.advance(60)
    site.reopen()
    site.put(2.0)
    site.trust()
    assert site.times() == {1.0: RIGHT, 2.0: RIGHT + timedelta(seconds=60)}
    assert site.qualities() == {1.0: None, 2.0: None}


def test_a_restart_after_trust_still_knows(site: Site) -> None:
    site.put(1.0)
    site.put(2.0)
    site.trust()
    site.reopen()
    assert site.times() == {1.0: RIGHT, 2.0: RIGHT + timedelta(microseconds=1)}
    site.store.fold()
    site.reopen()
    assert site.times() == {1.0: RIGHT, 2.0: RIGHT + timedelta(microseconds=1)}


def test_held_readings_count_once_among_others_that_went_before(quick_folder: Path) -> None:
    """Those came between, of the same hour, and the journal has let them go when the held ones are folded."""
    path = quick_folder / "x.db"
    clock = ManualClock(WRONG)
    clock.trusted = False
    with SQLiteStorage(path, gateway_id="g", clock=clock, piece_rows=20) as store:
        moments = [RIGHT + timedelta(seconds=number) for number in range(60)]
        store.store_readings(Weather, [("a", one, {"temperature": 1.0}) for one in moments[:20:2]]).wait("committed")
        clock.step(SHIFT.total_seconds() + 3600)
        clock.trusted = True
        others = moments[1:20:2] + moments[20:]
        store.store_readings(Weather, [("a", one, {"temperature": 2.0}) for one in others]).wait("committed")
        store.fold()
        assert store.aggregate(Weather, "temperature", "count") == {"result": 60}
        assert store.aggregate(Weather, "temperature", "sum") == {"result": 110.0}
        audit_memory(store)
    audit_file(path)


def test_what_went_from_behind_held_readings_is_not_lost(site: Site) -> None:
    """A salvage tells of the one that is damaged, not of those that were delivered and let go."""
    site.options["uncertain_times"] = "hold"
    site.reopen()
    site.put(1.0)
    site.put(2.0)
    boot(site, RIGHT)
    site.clock.trusted = True
    for value in range(3, 40):
        site.put(float(value), RIGHT + timedelta(seconds=value - 60))
    site.store.fold()
    assert len(site.sent()) == 37
    site.store.flush()
    site.store.fold()
    site.store.close()
    with closing(sqlite3.connect(site.path)) as other:
        (last,) = other.execute("SELECT max(seq) FROM _j_1").fetchone()
        (root,) = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = '_j_1'").fetchone()
    with site.path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(bytes(4096))
    site.open()
    site.store.fold()
    report = site.store.salvaged
    assert report is not None
    assert (report.kept, report.numbers) == (37, ((1, last),))


def boot(site: Site, start: datetime) -> None:
    site.store.close()
    site.clock.reboot(start)
    site.open()


def test_a_boot_that_never_knew_the_time_is_put_between_its_neighbours_and_flagged(site: Site) -> None:
    site.trust()
    site.put(1.0)
    boot(site, WRONG)
    site.put(2.0)
    site.clock.advance(30)
    site.put(3.0)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 86_400)
    site.put(4.0)
    times = site.times()
    assert RIGHT == times[1.0] < times[2.0]
    assert times[3.0] - times[2.0] == timedelta(seconds=30)
    assert times[3.0] < times[4.0] == RIGHT + timedelta(days=1)
    assert site.qualities() == {1.0: None, 2.0: 16, 3.0: 16, 4.0: None}
    assert site.sent() == times


def test_boots_with_a_clock_from_the_future_lie_one_after_the_other(site: Site) -> None:
    """Nothing is before them, and none knew the time: all ended before this one began."""
    future = RIGHT + timedelta(days=1000)
    for first in (1.0, 3.0, 5.0):
        boot(site, future)
        site.put(first)
        site.clock.advance(30)
        site.put(first + 1)
    boot(site, RIGHT)
    site.trust(0)
    site.put(7.0)
    times = site.times()
    assert list(times) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert [times[first + 1] - times[first] for first in (1.0, 3.0, 5.0)] == [timedelta(seconds=30)] * 3
    assert times[6.0] < times[7.0] == RIGHT
    assert site.sent() == times


def test_a_boot_whose_own_clock_fits_between_its_neighbours_is_believed(site: Site) -> None:
    site.trust()
    site.put(1.0)
    boot(site, RIGHT + timedelta(hours=1))
    site.put(2.0)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 86_400)
    assert site.times()[2.0] == RIGHT + timedelta(hours=1)
    assert site.qualities()[2.0] == 16


def test_uncertain_boots_wait_where_the_policy_says_so_and_do_not_stand_in_the_way(tmp_path: Path) -> None:
    site = Site(tmp_path / "x.db", uncertain_times="hold")
    site.trust()
    site.put(1.0)
    boot(site, WRONG)
    site.put(2.0)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 86_400)
    site.put(3.0)
    site.store.fold()
    assert site.sent() == {1.0: RIGHT, 3.0: RIGHT + timedelta(days=1)}
    assert site.books()["held"] == 1
    site.audit()
    site.store.release_held()
    assert site.books()["held"] == 0
    assert list(site.sent()) == [2.0]
    site.store.fold()
    site.audit()
    assert site.qualities() == {1.0: None, 2.0: 16, 3.0: None}
    site.store.close()


@pytest.mark.parametrize("asked", [True, False])
def test_boots_that_are_released_late_lie_before_what_came_after_them_all_the_same(tmp_path: Path, asked: bool) -> None:
    """Also where that is in history by now, and where the store was opened again since: as it was, or so that it holds
    none back."""
    site = Site(tmp_path / "x.db", uncertain_times="hold")
    site.trust()
    site.put(1.0)
    for value in (2.0, 3.0):
        boot(site, WRONG)
        site.put(value)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 86_400)
    site.put(4.0)
    boot(site, WRONG)
    site.put(5.0)
    boot(site, RIGHT + timedelta(days=30))
    site.trust(0)
    site.put(6.0)
    site.store.fold()
    if asked:
        site.reopen()
        site.store.release_held()
    else:
        site.options["uncertain_times"] = "release"
        site.reopen()
        site.store.flush()
    assert list(site.times()) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert site.qualities() == {1.0: None, 2.0: 16, 3.0: 16, 4.0: None, 5.0: 16, 6.0: None}
    site.audit()
    site.store.close()


def test_stamps_that_collide_move_on(site: Site) -> None:
    site.put(1.0)
    site.put(2.0, RIGHT)
    site.put(3.0, RIGHT + timedelta(microseconds=1))
    site.trust()
    assert site.times() == {2.0: RIGHT, 3.0: RIGHT + timedelta(microseconds=1), 1.0: RIGHT + timedelta(microseconds=2)}
    assert site.sent() == site.times()


def test_stamps_make_way_for_rows_in_history_too(site: Site) -> None:
    site.trust()
    site.put(1.0, RIGHT + timedelta(days=1))
    site.store.fold()
    boot(site, WRONG)
    site.put(2.0)
    site.trust(SHIFT.total_seconds() + 86_400)
    assert site.times() == {1.0: RIGHT + timedelta(days=1), 2.0: RIGHT + timedelta(days=1, microseconds=1)}


def test_a_held_stamp_is_no_identity_yet(site: Site) -> None:
    site.put(1.0)
    site.put(2.0, WRONG)  # by chance the very time that the wrong clock said
    assert site.times() == {2.0: WRONG, 1.0: WRONG + timedelta(microseconds=1)}
    site.trust()
    assert site.times() == {2.0: WRONG, 1.0: RIGHT + timedelta(microseconds=1)}


def take_in(site: Site, *rows: tuple[float, datetime], at: datetime | None) -> None:
    arrivals = [Arrival(Weather, "a", to_micros(moment), False, Weather.__rows__.make({"temperature": value}))
                for value, moment in rows]  # fmt: skip
    unchecked = None if at is None else to_micros(at)
    intake = Intake("driver", len(rows), len(rows), arrivals=arrivals, unchecked_at=unchecked)
    site.store.take_in(intake).wait()


def test_devices_times_are_checked_once_the_time_is_known(site: Site) -> None:
    take_in(site, (1.0, datetime(1970, 1, 1, tzinfo=UTC)), (2.0, RIGHT - timedelta(hours=1)), at=WRONG)
    take_in(site, (3.0, RIGHT + timedelta(days=2)), at=WRONG)
    site.trust()
    assert site.times() == {2.0: RIGHT - timedelta(hours=1), 1.0: RIGHT, 3.0: RIGHT + timedelta(microseconds=1)}
    assert site.qualities() == {1.0: 4, 2.0: None, 3.0: 4}


def test_what_a_driver_took_in_just_before_trust_is_checked_too(site: Site) -> None:
    site.trust()
    take_in(site, (1.0, datetime(1970, 1, 1, tzinfo=UTC)), (2.0, RIGHT - timedelta(seconds=1)), at=RIGHT)
    assert site.times() == {2.0: RIGHT - timedelta(seconds=1), 1.0: RIGHT}
    assert site.qualities() == {1.0: 4, 2.0: None}


def test_identities_are_known_while_held(site: Site) -> None:
    site.trust()
    site.put(1.0, RIGHT)
    assert list(site.sent()) == [1.0]
    boot(site, WRONG)
    site.put(1.0, RIGHT)
    site.put(5.0, RIGHT)
    assert site.times() == {5.0: RIGHT}
    assert site.sent() == {}
    site.trust()
    assert site.sent() == {5.0: RIGHT}
    assert site.store.ledger().sources["direct"]["duplicates"] == 1


def test_held_readings_can_be_deleted(site: Site) -> None:
    site.put(1.0)
    site.clock.advance(10)
    site.put(2.0)
    site.trust()
    assert site.store.delete_readings(Weather, start=RIGHT, end=RIGHT + timedelta(seconds=5)) == 1
    assert list(site.times()) == [2.0]
    boot(site, WRONG)
    site.put(3.0)
    assert site.store.delete_readings(Weather, end=WRONG + timedelta(seconds=1)) == 1
    assert (site.books()["held"], site.books()["deleted"]) == (0, 2)


def test_a_trusted_clock_that_is_set_back_begins_its_stamps_anew(site: Site) -> None:
    site.trust()
    site.put(1.0)
    site.clock.step(-3600)
    site.put(2.0)
    site.clock.step(3600)
    site.put(3.0)
    assert site.times() == {2.0: RIGHT - timedelta(hours=1), 1.0: RIGHT, 3.0: RIGHT + timedelta(microseconds=1)}


def test_what_waited_in_the_queue_when_the_clock_was_set_is_put_right_too(tmp_path: Path) -> None:
    site = Site(tmp_path / "x.db", flush_interval=1000.0)
    site.put(1.0)
    receipt = site.store.store_reading(Weather, "a", None, {"temperature": 2.0})
    site.trust()
    receipt.wait()
    assert site.times() == {1.0: RIGHT, 2.0: RIGHT + timedelta(microseconds=1)}
    site.audit()
    site.store.close()


def test_a_device_without_a_battery_beside_a_gateway_without_one(site: Site) -> None:
    """A boot that ended, of which there are only devices' times: right ones stay, whatever the gateway's clock said."""
    site.trust()
    site.put(1.0)
    start = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    boot(site, start)
    take_in(site, (2.0, RIGHT + timedelta(hours=1)), (3.0, start), at=start)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 5 * 86_400)
    assert site.times() == {1.0: RIGHT, 3.0: RIGHT + timedelta(microseconds=1), 2.0: RIGHT + timedelta(hours=1)}
    assert site.qualities() == {1.0: None, 2.0: 16, 3.0: 4 | 16}


def test_a_devices_time_is_not_measured_by_a_guess(site: Site) -> None:
    """The boot is put right behind what came before; the device knows that it was three days later."""
    site.trust()
    site.put(1.0)
    boot(site, WRONG)
    site.put(2.0)
    take_in(site, (3.0, RIGHT + timedelta(days=3)), (4.0, RIGHT + timedelta(days=300)), at=WRONG)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 5 * 86_400)
    times = site.times()
    assert times[3.0] == RIGHT + timedelta(days=3)
    assert times[4.0] < RIGHT + timedelta(seconds=1)
    assert site.qualities() == {1.0: None, 2.0: 16, 3.0: 16, 4.0: 4 | 16}


def test_when_a_reading_came_moves_with_the_clock_as_well(tmp_path: Path) -> None:
    """It was taken in before a step, and written after that, with the time still not trusted."""
    site = Site(tmp_path / "x.db", flush_interval=1000.0)
    site.put(1.0)
    cells = Weather.__rows__.make({"temperature": 2.0})
    arrivals = [Arrival(Weather, "a", to_micros(RIGHT), False, cells)]
    receipt = site.store.take_in(Intake("driver", 1, 1, arrivals=arrivals, unchecked_at=to_micros(WRONG)))
    site.clock.step(SHIFT.total_seconds())
    receipt.wait()
    site.trust(0)
    assert site.times() == {2.0: RIGHT, 1.0: RIGHT + timedelta(microseconds=1)}
    assert site.qualities()[2.0] is None
    site.store.close()


def test_a_step_is_not_forgotten_with_a_transaction_that_fails(tmp_path: Path) -> None:
    site = Site(tmp_path / "x.db", flush_interval=1000.0)
    site.put(1.0)
    receipt = site.store.store_reading(Weather, "a", None, {"temperature": 2.0})
    row = Weather.__rows__.make({"temperature": 3.0})
    bad = Arrival(Weather, "a", to_micros(WRONG), False, (None, object(), *row[2:]))
    site.store.take_in(Intake("driver", 1, 1, arrivals=[bad], unchecked_at=to_micros(WRONG)))
    site.trust()
    receipt.wait()
    assert site.times() == {1.0: RIGHT, 2.0: RIGHT + timedelta(microseconds=1)}
    site.audit()
    site.store.close()


def test_the_time_that_a_held_reading_seems_to_be_from_is_not_taken_for_the_newest(site: Site) -> None:
    site.trust()
    site.put(1.0)
    boot(site, RIGHT + timedelta(hours=1))
    site.put(2.0)
    site.clock.advance(30)
    site.put(3.0)
    site.store.fold()
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 86_400)
    assert site.times()[2.0] == RIGHT + timedelta(hours=1)


def test_an_upstream_that_comes_late_gets_what_lies_around_a_held_piece(tmp_path: Path) -> None:
    """These readings are in history alone: the pieces behind the held one are dropped."""
    site = Site(tmp_path / "x.db", uncertain_times="hold")
    site.trust()
    site.put(1.0)
    boot(site, WRONG)
    site.put(2.0)
    boot(site, WRONG)
    site.trust(SHIFT.total_seconds() + 86_400)
    for n in range(20):
        site.clock.advance(1)
        site.put(10.0 + n)
        site.store.fold()
        site.sent()
        site.store.flush()
    site.store.fold()
    site.store.add_cursor("late")
    assert site.store.ledger().problems == []
    assert site.store.count_pending("late") == 22
    site.put(30.5, RIGHT + timedelta(days=1, seconds=1))  # a newer version of one that is only in history
    start = RIGHT + timedelta(days=1, seconds=2)
    assert site.store.delete_readings(Weather, start=start, end=start + timedelta(seconds=3)) == 3
    site.reopen()
    assert sent_to(site, "late") == [1.0, *(10.0 + n for n in range(4, 20)), 30.5]
    site.store.release_held()
    assert sent_to(site, "late") == [2.0]
    late = site.store.ledger().upstreams["late"]
    assert site.store.ledger().problems == []
    assert (late["delivered"], late["superseded"], late["deleted"], late["pending"]) == (19, 1, 3, 0)
    site.audit()
    site.store.close()


def sent_to(site: Site, cursor: str) -> list[float]:
    found: list[float] = []
    for lane in ("backlog", "live"):
        while (window := site.store.pending(cursor, 3, lane)) is not None:
            found += [row.version(1).data["temperature"] for row in window.rows]
            site.store.acknowledge(cursor, window)
    site.store.flush()
    return sorted(found)
