"""A store keeps its bytes also where what fills it is nothing that upstreams can take: what they refuse, what could not
become a reading, and what waits for the time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import SQLiteStorage, StorageBusy
from edgedepot.storage.buffer import Intake, Lane, Reject
from edgedepot.storage.clock import ManualClock
from tests.models import Weather
from tests.storage.sqlite.audit import audit_file, audit_memory

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 1_000_000
AT_ONCE = 50_000
NO_TIME = 1e-20


class Site:
    """A store that may hold a megabyte, and its clock."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.clock = ManualClock(T0)
        self.clock.advance(1)
        self.stored = 0
        self.store = SQLiteStorage(
            path, gateway_id="g", clock=self.clock, piece_rows=500, keep_bytes=LIMIT, busy_timeout=NO_TIME, **settings
        )

    def put(self, count: int, moment: datetime | None = None, **values: Any) -> None:
        """Readings of the next seconds, or as many of the present one."""
        numbers = range(self.stored, self.stored + count)
        moments = [None if moment is None else moment + timedelta(seconds=number) for number in numbers]
        rows = [("a", moment, {"temperature": 1.0, **values}) for moment in moments]
        self.store.store_readings(Weather, rows).wait()
        self.stored += count
        self.clock.advance(count)

    def fill(self) -> None:
        """Until no more is taken in; not for ever."""
        while self.stored < 100_000:
            self.put(1000)
            self.look()

    def look(self) -> None:
        self.store.flush()
        self.store.fold()
        self.store.retain()

    def send(self, name: str, refused: bool = False, lane: Lane = "backlog") -> None:
        while window := self.store.pending(name, 1000, lane):
            if refused:
                self.store.quarantine(name, window.rows, "refused")
            self.store.acknowledge(name, window)

    def books(self, name: str) -> dict[str, int]:
        ledger = self.store.ledger()
        assert ledger.problems == []
        return {column: count for column, count in ledger.upstreams[name].items() if count}

    @property
    def is_small(self) -> bool:
        """Whether file and write-ahead log are within the limit, but for some of what is stored at once."""
        size = sum(Path(f"{self.path}{end}").stat().st_size for end in ("", "-wal"))
        return size <= LIMIT + 3 * AT_ONCE

    def close(self) -> None:
        try:
            self.look()
            audit_memory(self.store)
        finally:
            self.store.close()
        audit_file(self.path)


@pytest.fixture
def site(quick_folder: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(quick_folder / "x.db", when_full=getattr(request, "param", "evict"))
    yield site
    site.close()


@pytest.mark.parametrize("site", ["evict", "block"], indirect=True)
def test_what_an_upstream_refuses_has_a_share_of_the_room(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond that the oldest goes, also where nothing may go that is awaited: this is not. All else goes on."""
    for name in ("picky", "good"):
        site.store.add_cursor(name)
    for _ in range(24):
        site.put(50, T0, note="x" * 900)
        site.send("picky", refused=True)
        site.send("good")
        site.look()
    assert site.is_small
    books = site.books("picky")
    assert books["quarantined"] + books["evicted"] == books["versions"] == 1200
    assert 100 < books["quarantined"] < 200
    assert site.books("good") == {"versions": 1200, "delivered": 1200}
    left = sorted(row["timestamp"] for row in site.store.quarantined("picky", limit=1200))
    assert left == [T0 + timedelta(seconds=1200 - len(left) + number) for number in range(len(left))]
    given_up = site.store.ledger().given_up
    assert [one.upstream for one in given_up] == ["picky"]
    assert (given_up[0].what, given_up[0].rows, given_up[0].start) == ("evicted", books["evicted"], T0)
    assert left[0] - timedelta(seconds=1) < given_up[0].end <= left[0]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert all(record.getMessage().endswith("as quarantine is full (keep_bytes)") for record in caplog.records)
    assert len(site.store.query_readings(Weather)) > 150  # 200 or 250: what was folded at once goes at once
    assert site.store.health_check()["status"] == "pass"


def test_what_is_sent_once_more_counts_as_refused_until_it_is_there(site: Site) -> None:
    site.store.add_cursor("picky")
    for _ in range(20):
        site.store.split("picky")  # what is sent once more goes before the rest of the backlog
        site.put(50, T0, note="x" * 900)
        site.send("picky", refused=True, lane="live")
        site.store.replay_quarantined("picky")
        site.look()
    assert site.is_small
    books = site.books("picky")
    assert books["pending"] + books["evicted"] == 1000
    site.send("picky")
    assert site.books("picky") == {"versions": 1000, "delivered": books["pending"], "evicted": books["evicted"]}


def test_what_could_not_become_a_reading_has_a_share_of_the_room(site: Site) -> None:
    for number in range(60):
        rejects = [Reject("message", f"{number}", bytes(1024)) for _ in range(50)]
        site.store.take_in(Intake("mqtt", messages=50, rejects=rejects)).wait()
    site.store.take_in(Intake("quiet", messages=1, rejects=[Reject("message", "no JSON", b"?")])).wait()
    site.put(2000, T0)
    site.look()
    assert site.is_small
    assert site.store.ledger().sources["mqtt"]["rejected"] == 3000
    left = [int(row["reason"]) for row in site.store.rejected("mqtt", limit=5000)]
    assert 100 < len(left) < 600
    assert left[0] == 59
    assert len(site.store.rejected("quiet")) == 1
    assert len(site.store.query_readings(Weather, fields=["temperature"])) == 2000


# -- before the time is known -----------------------------------------------------------------------------------------


def test_what_waits_for_the_time_goes_by_pieces_where_there_is_no_room(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.clock.trusted = False
    for name in ("central", "other"):
        site.store.add_cursor(name)
    for _ in range(40):
        site.put(1000)
        site.store.flush()
    site.store.retain()
    assert site.is_small
    books = site.books("central")
    assert books == site.books("other") == {"versions": 40_000, "held": books["held"], "evicted": books["evicted"]}
    assert books["held"] > 8000
    assert len(site.store.query_readings(Weather)) == books["held"]
    given_up = site.store.ledger().given_up
    assert sum(one.rows for one in given_up) == 2 * books["evicted"]
    assert min(one.start for one in given_up) == T0 + timedelta(seconds=1)
    said = [record.getMessage() for record in caplog.records]
    assert any(
        line.endswith("readings whose time is not known went, as the store is full (keep_bytes)") for line in said
    )
    audit_memory(site.store)
    site.clock.step(86_400)
    site.clock.trusted = True
    site.store.flush()
    site.look()
    assert site.is_small  # though all of it was copied into history
    site.send("central")
    after = site.books("central")
    assert after["delivered"] + after.get("thinned", 0) + after["evicted"] == 40_000
    assert after["evicted"] == books["evicted"]
    assert after["delivered"] > 0


@pytest.mark.parametrize("site", ["block"], indirect=True)
def test_a_store_that_blocks_lets_go_of_what_waits_for_the_time_and_for_nobody_else(site: Site) -> None:
    site.clock.trusted = False
    for _ in range(25):
        site.put(1000)
        site.store.flush()
    site.store.retain()
    assert site.is_small
    assert 8000 < len(site.store.query_readings(Weather, fields=["temperature"])) < 25_000


@pytest.mark.parametrize("site", ["block"], indirect=True)
def test_a_store_that_blocks_says_that_it_waits_for_the_time(site: Site) -> None:
    site.clock.trusted = False
    site.store.add_cursor("central")
    with pytest.raises(StorageBusy) as caught:
        site.fill()
    assert str(caught.value) == (
        f"the store has reached its limit of {LIMIT} bytes (keep_bytes) and takes no readings until the time is known,"
        f" for which {site.stored} readings wait"
    )
    assert site.store.health_check() | {"version": ""} == {
        "status": "fail",
        "message": str(caught.value),
        "version": "",
    }
    assert site.books("central") == {"versions": site.stored, "held": site.stored}
    site.clock.trusted = True
    site.look()
    assert site.books("central") == {"versions": site.stored, "pending": site.stored}
    with pytest.raises(StorageBusy, match="until upstreams have acknowledged enough of what waits for them, from 2026"):
        site.fill()
    site.send("central")
    site.look()
    assert site.store.health_check()["status"] == "pass"
    site.put(1000)
    assert site.is_small
