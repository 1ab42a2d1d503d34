"""Rows that are larger than those before go neither beyond the rate nor into one window."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import Field, Reading, SQLiteStorage, Version
from edgedepot.storage.buffer import WINDOW_BYTES
from edgedepot.storage.clock import ManualClock
from edgedepot.sync.backoff import Backoff
from edgedepot.sync.forwarder import Forwarder
from edgedepot.sync.limits import Limits
from tests.models import Weather
from tests.sync.scarce import Metered
from tests.sync.scripted import ScriptedUpstream
from tests.sync.simulated import forwarder_to

T0 = datetime(2026, 3, 2, tzinfo=UTC)


def test_large_rows_after_small_ones(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    limits = Limits.of("central", max_rate="2 kB/s")
    link = Metered(clock, limits)
    with SQLiteStorage(tmp_path / "x.db", gateway_id="g", clock=clock) as store:
        link.gateway_id = "g"
        store.add_cursor("central")
        for start, notes in ((0, 0), (1000, 1000), (1300, 0), (2300, 1000)):
            count = 300 if notes else 1000
            rows: list[Any] = [
                ("mast", T0 + timedelta(seconds=number), {"temperature": 1.0, "note": "x" * notes})
                for number in range(start, start + count)
            ]
            store.store_readings(Weather, rows).wait()
        forwarder = Forwarder(
            store,
            "central",
            link,
            clock=clock,
            batch_size=1000,
            poll_interval=60.0,
            backoff=Backoff(0.2, 60.0, lambda: 0.5),
            limits=limits,
        )
        while store.count_pending("central"):
            wait = forwarder.step()
            if wait is not None:
                clock.advance(max(0.0, wait.until - clock.monotonic()))
        assert store.ledger().upstreams["central"]["delivered"] == 2600
    link.check()
    carried = sum(count for _, _, count in link.sent)
    assert carried >= 0.9 * 2000 * (link.sent[-1][0] - link.sent[0][0])


class Camera(Reading):
    frame: int
    tags: str | None = Field()
    labels: str | None = Field()
    scene: str | None = Field()
    text: str | None = Field()


LONG = "x" * 1024
TEXTS = {"tags": LONG, "labels": LONG, "scene": LONG, "text": LONG}
NARROW, WIDE = 7500, 4000


@pytest.mark.parametrize("since", ["the journal", "history"])
def test_a_window_of_large_rows_is_bounded_at_once(tmp_path: Path, since: str) -> None:
    """After small ones, when windows have thousands of rows; and what was refused and is sent once more, too."""
    upstream, clock = ScriptedUpstream(listed=True), ManualClock(T0)
    with SQLiteStorage(tmp_path / "x.db", gateway_id="g", clock=clock, piece_rows=10) as store:
        if since == "the journal":
            store.add_cursor("central")
        store.store_readings(Camera, [*rows("a", NARROW, {"frame": 1}), *rows("b", WIDE, {"frame": 1, **TEXTS})]).wait()
        store.fold()
        upstream.refuses = lambda row: "too large" if len(row.data) > 1 and row.timestamp.second % 2 else None
        forwarder = forwarder_to(store, upstream, clock)
        forward_all(store, forwarder)
        assert store.count_quarantined() == {"central": WIDE // 2}
        store.store_readings(Camera, rows("c", 100, {"frame": 1})).wait()
        forward_all(store, forwarder)
        upstream.refuses = lambda row: None
        store.replay_quarantined("central")
        forward_all(store, forwarder)
        assert store.ledger().upstreams["central"]["delivered"] == len(upstream.kept) == NARROW + WIDE + 100
    sizes = [sum(map(size_of, request.rows)) for request in upstream.requests]
    assert max(sizes) <= WINDOW_BYTES + len(TEXTS) * len(LONG)
    assert len(sizes) <= 5 + 1.5 * (len(TEXTS) * len(LONG) * WIDE / WINDOW_BYTES + 2)


def rows(device: str, count: int, data: dict[str, Any]) -> list[Any]:
    return [(device, T0 + timedelta(seconds=number), data) for number in range(count)]


def forward_all(store: SQLiteStorage, forwarder: Forwarder) -> None:
    while forwarder.step() is None:
        pass
    store.flush()
    assert store.count_pending("central") == 0


def size_of(row: Version) -> int:
    return sum(len(value) for value in row.data.values() if isinstance(value, str))
