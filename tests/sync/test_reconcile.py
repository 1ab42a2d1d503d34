"""Reconcile: what an upstream lost comes back, nothing else is touched, and nothing is sent that the books exclude."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edgedepot import Reading, SQLiteStorage
from edgedepot.storage.base import Data
from edgedepot.storage.delivered import measures_of
from edgedepot.storage.errors import InvalidValue, Misconfigured, Unreachable
from edgedepot.storage.rows import make_row
from edgedepot.sync.reconcile import Finding, Reconciliation, Report, reconcile
from tests.sync.reconciling import (
    DAYS,
    LOSSES,
    PER_DAY,
    STEP,
    Own,
    Power,
    Weather,
    fill,
    forward,
    forward_averages,
    lose,
    moment,
    readings,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "local.db", gateway_id="roof", piece_rows=1000) as store:
        store.add_cursor("central")
        yield store


@pytest.fixture
def own(store: SQLiteStorage) -> Own:
    """An upstream that has all that the store has, most of it in history here."""
    own = Own()
    rows = readings()
    fill(store, rows[:-300])
    forward(store, own)
    store.fold()
    fill(store, rows[-300:])
    forward(store, own)
    own.stored.clear()
    return own


def quiet(report: Report) -> bool:
    return report.total() == Finding() and report.read == report.written == 0


# -- a custom storage -------------------------------------------------------------------------------------------------


def test_nothing_is_lost(store: SQLiteStorage, own: Own) -> None:
    report = reconcile(store, "central", own)
    assert quiet(report)
    assert report.compared == own.calls == len(measures_of(Weather)) + len(measures_of(Power)) == 8


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("can_aggregate", [True, False])
def test_all_is_back_and_nothing_else_touched(store: SQLiteStorage, own: Own, loss: str, can_aggregate: bool) -> None:
    before = dict(own.kept)
    own.can_aggregate = can_aggregate
    lost = lose(own, LOSSES[loss])
    assert lost
    dry = reconcile(store, "central", own, dry_run=True)
    assert (dry.total(), own.stored) == (Finding(missing=len(lost)), [])
    report = reconcile(store, "central", own)
    assert report.total() == Finding(missing=len(lost), sent=len(lost))
    assert sorted(own.stored) == lost
    assert own.kept == before
    days = {(name, device, at.date()) for name, device, at in lost}
    assert report.days.keys() == days
    assert reconcile(store, "central", own).total() == Finding()
    assert store.ledger().problems == []


def requests_for(folder: Path, days: int, every: str | None, losses: Sequence[int | str]) -> list[int]:
    """For each loss: of so many readings, or averages, or of all of a device."""
    found = []
    with SQLiteStorage(folder / f"{days}.db", gateway_id="roof") as store:
        store.add_cursor("central")
        own = Own()
        fill(store, readings(days * PER_DAY))
        if every is None:
            forward(store, own)
        else:
            forward_averages(store, own, every, limit=5_000)
        store.fold()
        for loss in losses:
            there = sorted(own.kept)
            of_device = [identity for identity in there if identity[1] == loss]
            gone = random.Random(days).sample(there, loss) if isinstance(loss, int) else of_device
            for identity in gone:
                del own.kept[identity]
            report = reconcile(store, "central", own)
            assert report.total() == Finding(missing=len(gone), sent=len(gone))
            found.append(report.requests)
    return found


@pytest.mark.parametrize(("every", "ages"), [(None, (1, 8, 64)), ("1 hour", (6, 64))])
def test_requests_grow_with_what_is_lost_and_not_with_what_is_there(
    tmp_path: Path, every: str | None, ages: Sequence[int]
) -> None:
    """Lost among a day's or among two months': as many requests, and a few for each that is lost."""
    losses: list[int | str] = [1, 4, 0, "mast"] if every else [1, 4, 0]
    one, several, nothing, *device = zip(*(requests_for(tmp_path, days, every, losses) for days in ages), strict=True)
    assert max(one) == min(one) <= 8 + 5 + 2
    assert max(several) <= 8 + 4 * (5 + 2)
    assert set(nothing) == {8}
    assert [max(whole) == min(whole) <= 8 + 2 for whole in device] == [True] * len(device)


def test_of_a_dense_hour_few_readings_are_read(store: SQLiteStorage) -> None:
    """Of one with a hundred a minute, or with all of them in one minute, only those near what is lost."""
    start, rows = moment(0), list[tuple[str, datetime, Data]]()
    for device, step in (("mill", timedelta(milliseconds=500)), ("press", timedelta(milliseconds=10))):
        rows += ((device, start + number * step, {"watts": number}) for number in range(6_000))
    store.store_readings(Power, rows).wait()
    own = Own()
    forward(store, own)
    before, requests = dict(own.kept), []
    for device in ("mill", "press"):
        del own.kept["power", device, start + timedelta(seconds=50)]
        report = reconcile(store, "central", own)
        assert (report.total(), own.kept) == (Finding(missing=1, sent=1), before)
        requests.append((report.compared, report.read, report.written))
    assert requests == [(3 + 1 + 1, 1, 1), (3 + 1 + 1 + 1, 1, 1)]


def test_one_device_and_a_part_of_the_time(store: SQLiteStorage, own: Own) -> None:
    lose(own, lambda identity: True)
    start, end = moment(50), moment(200) + timedelta(microseconds=1)
    report = reconcile(store, "central", own, device="mast", start=start, end=end)
    assert sorted(own.stored) == [("weather", "mast", moment(number)) for number in range(50, 201)]
    assert report.total() == Finding(missing=151, sent=151)
    report = reconcile(store, "central", own, models=["power"])
    assert {identity[0] for identity in own.stored[151:]} == {"power"}
    assert report.total().sent == DAYS * PER_DAY // 2


def test_what_is_there_alone_or_beyond_stays(store: SQLiteStorage, own: Own) -> None:
    identity = ("weather", "mast", moment(300))
    alien = ("weather", "mast", moment(300) + timedelta(seconds=1))
    stranger = ("weather", "stranger", moment(3))
    own.kept[alien] = own.kept[stranger] = make_row(Weather, "mast", alien[2], {"temperature": 99.0})
    own.kept[stranger] = make_row(Weather, "stranger", moment(3), {"temperature": 99.0})
    own.kept[identity] |= {"note": "seen by a person"}
    before = dict(own.kept)
    report = reconcile(store, "central", own)
    assert report.total().missing == report.total().sent == 0
    assert report.total().only_there == 2
    assert own.kept == before


def test_another_value_is_put_right(store: SQLiteStorage, own: Own) -> None:
    """As in a copy from before the reading was merged."""
    before = dict(own.kept)
    for number, change in ((300, {"temperature": -300.0}), (301, {"raining": None}), (700, {"temperature": 1e300})):
        own.kept["weather", "mast", moment(number)] = own.kept["weather", "mast", moment(number)] | change
    report = reconcile(store, "central", own)
    changed = 2 + (before["weather", "mast", moment(301)]["raining"] is not None)
    assert report.total() == Finding(different=changed, sent=changed)
    assert own.kept == before


def test_an_upstream_that_keeps_its_own(store: SQLiteStorage, own: Own) -> None:
    class Rounding(Own):
        def store_reading(
            self, reading_model: type[Reading], device: object, timestamp: datetime | None, data: Data
        ) -> None:
            super().store_reading(reading_model, device, timestamp, data)
            for row in self.kept.values():
                row["temperature"] = round(row["temperature"])

    rounding = Rounding()
    rounding.kept = {identity: dict(row) for identity, row in own.kept.items() if identity[0] == "weather"}
    rounding.kept["weather", "mast", moment(300)]["temperature"] = 200.0
    part = {"models": ["weather"], "device": "mast", "start": moment(300), "end": moment(301)}
    report = reconcile(store, "central", rounding, **part)
    assert report.total() == Finding(different=1, kept=1)


# -- refusals and trouble ---------------------------------------------------------------------------------------------


def test_refusals_are_reported_and_the_others_sent(store: SQLiteStorage, own: Own) -> None:
    lost = lose(own, lambda identity: identity[2] < moment(144))
    bad = {("weather", "mast", moment(number)) for number in (3, 70, 71)}
    values = {store.query_readings(Weather, device, at, at + STEP)[0]["temperature"] for _, device, at in bad}
    own.refuses = lambda data: data.get("temperature") in values
    report = reconcile(store, "central", own)
    assert report.total() == Finding(missing=len(lost), sent=len(lost) - 3, refused=3)
    assert sorted(set(own.stored)) == [one for one in lost if one not in bad]
    assert sum(report.reasons.values()) == 3
    assert all(reason.startswith("will not have") for reason in report.reasons)
    assert store.quarantined() == []
    assert report.written < 60


def test_an_upstream_that_refuses_all_is_set_up_wrongly(store: SQLiteStorage, own: Own) -> None:
    lose(own, lambda identity: True)
    own.refuses = lambda data: True
    with pytest.raises(Misconfigured, match="every reading is refused"):
        reconcile(store, "central", own)


def test_it_goes_on_where_the_link_broke(store: SQLiteStorage, own: Own) -> None:
    lost = lose(own, lambda identity: True)
    broken = Reconciliation(store, "central", own)
    stretches = broken.find()
    broken.mend(stretches[0])
    own.error = Unreachable("gone")
    with pytest.raises(Unreachable):
        broken.mend(stretches[1])
    done = broken.report.total().sent
    assert 0 < done == len(own.stored) < len(lost)
    own.error = None
    assert reconcile(store, "central", own).total().sent == len(lost) - done
    assert sorted(own.stored) == lost


def test_a_name_that_the_store_does_not_know(store: SQLiteStorage) -> None:
    with pytest.raises(InvalidValue, match="there is no cursor 'cantral'; there are \\['central'\\]"):
        reconcile(store, "cantral", Own())
