"""A real TimescaleDB behind a link that breaks: every reading is in the hypertable, once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from edgedepot import SyncWorker, TimescaleDBStorage
from tests.servers.proxy import TcpProxy
from tests.sync.scripted import TellingStore, Weather, eventually, fill, moment, open_store

COUNT = 20_000
PART = 4_000
BACKOFF = ("5 ms", "50 ms")
MakeProxy = Callable[[str, int], TcpProxy]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TellingStore]:
    with open_store(tmp_path / "local.db") as store:
        yield store


@pytest.fixture
def link(timescale_url: str, proxy: MakeProxy) -> TcpProxy:
    address = urlsplit(timescale_url)
    assert address.hostname is not None
    assert address.port is not None
    return proxy(address.hostname, address.port)


@pytest.fixture
def upstream(timescale_url: str, link: TcpProxy) -> Iterator[TimescaleDBStorage]:
    url = re.sub(r"@[^/]*/", f"@127.0.0.1:{link.port}/", timescale_url)
    with TimescaleDBStorage(url, connect_timeout="2s") as storage:
        yield storage


def found(url: str) -> tuple[int, int, float]:
    """How many rows the table holds, of how many identities, and the sum of the temperatures."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT (device_id, timestamp)), coalesce(sum(temperature), 0) FROM weather"
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def test_a_link_that_breaks_and_loses_answers(
    store: TellingStore, upstream: TimescaleDBStorage, link: TcpProxy, timescale_url: str
) -> None:
    with SyncWorker(store, "central", upstream, batch_size=500, backoff=BACKOFF) as worker:
        for start in range(0, COUNT, PART):
            fill(store, PART // 2, start=start)
            eventually(lambda: worker.status().delivered >= start + 500)  # noqa: B023 - called before the next turn
            loses_an_answer = start % (2 * PART) == 0
            if loses_an_answer:
                link.drop_answers(after=b"COMMIT")
            else:
                link.cut()
            fill(store, PART // 2, start=start + PART // 2)
            eventually(lambda: worker.status().state == "waiting")
            assert worker.status().delivered < start + PART
            if loses_an_answer:
                assert found(timescale_url)[0] > worker.status().delivered
            link.mend()
        eventually(lambda: store.count_pending("central") == 0)
        assert worker.status().faults == 0
        assert worker.status().requests > COUNT // 500 + COUNT // PART - 1
    assert found(timescale_url) == (COUNT, COUNT, sum(range(COUNT)))
    assert store.refusals == []
    assert store.ledger().balanced
    assert store.ledger().upstreams["central"]["delivered"] == COUNT


@pytest.mark.parametrize("bad", [[1234], [1, 4999]])
def test_rows_the_server_refuses_are_set_aside_with_its_reason(
    store: TellingStore, upstream: TimescaleDBStorage, link: TcpProxy, timescale_url: str, bad: list[int]
) -> None:
    """The server names the line, so that little goes over the wire more than once."""
    fill(store, 1)
    with SyncWorker(store, "central", upstream, backoff=BACKOFF) as worker:
        eventually(lambda: worker.status().delivered == 1)
        with psycopg.connect(timescale_url) as connection:
            numbers = ", ".join(map(str, bad))
            connection.execute(f"ALTER TABLE weather ADD CONSTRAINT plausible CHECK (temperature NOT IN ({numbers}))")
        before, requests = link.bytes_up, worker.status().requests
        fill(store, 4999, start=1)
        eventually(lambda: worker.status().delivered == 5000 - len(bad))
        eventually(lambda: store.count_pending("central") == 0)
        assert worker.status().requests - requests <= 2 * len(bad) * 13 + 2  # 4, where no window takes over a second
        assert link.bytes_up - before < 1_000_000  # half of that; several times as much where the rows are searched for
    assert [row.row[1] for row, _ in store.refusals] == bad
    assert all("plausible" in reason for _, reason in store.refusals)
    assert found(timescale_url) == (5000 - len(bad), 5000 - len(bad), sum(range(5000)) - sum(bad))


def test_a_column_that_nobody_fills_is_a_wrong_set_up_until_it_is_mended(
    store: TellingStore, upstream: TimescaleDBStorage, timescale_url: str
) -> None:
    fill(store, 1)
    with SyncWorker(store, "central", upstream, backoff=BACKOFF) as worker:
        eventually(lambda: worker.status().delivered == 1)
        with psycopg.connect(timescale_url) as connection:
            connection.execute("ALTER TABLE weather ADD COLUMN site text NOT NULL DEFAULT 'x'")
            connection.execute("ALTER TABLE weather ALTER COLUMN site DROP DEFAULT")
        rows = [("mast" if n % 2 else "roof (north)", moment(n), {"temperature": n}) for n in range(1, 500)]
        store.store_readings(Weather, rows).wait()
        eventually(lambda: worker.status().state == "misconfigured")
        assert "site" in str(worker.status().last_error)
        with psycopg.connect(timescale_url) as connection:
            connection.execute("ALTER TABLE weather ALTER COLUMN site SET DEFAULT 'x'")
        eventually(lambda: worker.status().delivered == 500)
    assert store.refusals == []
    assert found(timescale_url) == (500, 500, sum(range(500)))
