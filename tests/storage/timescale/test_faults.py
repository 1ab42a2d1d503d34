"""Faults between us and a real server: whatever breaks, a batch is there whole or not at all; sent again, it is there
once."""

import itertools
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edgedepot import TimescaleDBStorage, Version
from edgedepot.storage.errors import Overloaded, Unreachable, UpstreamError
from tests.models import Mixed
from tests.servers.process import wait_until
from tests.servers.timescale import TimescaleServer
from tests.storage.timescale.conftest import Connect, Look
from tests.storage.timescale.cutter import Cutter, message_ends

T0 = datetime(2026, 1, 1, tzinfo=UTC)
POSITIONS = 200


def three(number: int, seq: int = 1) -> list[Version]:
    """A batch of its own."""
    return [
        Version(f"d{n}", T0 + timedelta(seconds=number), {"a": float(n), "text": "x" * 50}, None, 1, seq)
        for n in range(3)
    ]


def look_on(eyes: psycopg.Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    return eyes.execute(statement, values).fetchall()


@pytest.fixture
def cutter(timescale_server: TimescaleServer, timescale_url: str) -> Iterator[Cutter]:
    with Cutter(timescale_server.port) as cutter:
        yield cutter


@pytest.mark.parametrize("again", [False, True], ids=["first attempt", "merge"])
def test_a_batch_is_cut_at_every_message_and_at_many_bytes(
    cutter: Cutter, timescale_server: TimescaleServer, timescale_url: str, look: Look, again: bool
) -> None:
    url = (
        timescale_url.replace(f":{timescale_server.port}/", f":{cutter.port}/") + "?sslmode=disable&gssencmode=disable"
    )

    def send(number: int, seq: int = 1) -> int:
        with TimescaleDBStorage(url, gateway_id="roof", connect_timeout="2s", copy=True) as storage:
            if again:
                storage._writer._again.add("mixed")
            return storage.store_readings(Mixed, three(number, seq)).accepted

    assert send(0) == 3  # makes the table
    assert send(1) == 3
    up, down = bytes(cutter.up), bytes(cutter.down)
    rng = random.Random(6)
    share = POSITIONS // 4  # there are two directions, and two ways to write
    cuts: list[tuple[int | None, int | None]] = [(end, None) for end in message_ends(up, startup=True)]
    cuts += [(None, end) for end in message_ends(down, startup=False)]
    cuts += [(position, None) for position in rng.sample(range(1, len(up)), share)]
    cuts += [(None, position) for position in rng.sample(range(1, len(down)), share)]
    assert len(cuts) > 100
    outcomes = set()
    eyes = psycopg.connect(timescale_url, autocommit=True)
    for number, (cut_up, cut_down) in enumerate(cuts, 2):
        cutter.break_at(cut_up, cut_down)
        moment = T0 + timedelta(seconds=number)
        try:
            send(number)
            raised = False
        except Unreachable:
            raised = True
        kept = look_on(eyes, "SELECT count(*) FROM mixed WHERE timestamp = %s", moment)[0][0]
        outcomes.add((raised, kept))
        cutter.break_at()
        if raised:
            assert send(number) in (0, 3)  # a server that has read the COMMIT may still be at it
        assert look_on(eyes, "SELECT count(*), sum(a) FROM mixed WHERE timestamp = %s", moment) == [(3, 3.0)]
    eyes.close()
    assert {(True, 0), (True, 3)} <= outcomes <= {(True, 0), (True, 3), (False, 3)}
    assert look("SELECT count(*), count(DISTINCT (device_id, timestamp)) FROM mixed") == [
        (3 * (len(cuts) + 2), 3 * (len(cuts) + 2))
    ]


def test_a_server_killed_in_the_middle_of_a_batch(
    connect: Connect, timescale_server: TimescaleServer, timescale_url: str, look: Look
) -> None:
    storage = connect()
    storage.store_readings(Mixed, three(0))
    found: list[object] = []

    def send() -> None:
        try:
            found.append(storage.store_readings(Mixed, three(1)))
        except UpstreamError as exc:
            found.append(exc)

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgedepot' AND wait_event_type = 'Lock'"
    sender = threading.Thread(target=send)
    with psycopg.connect(timescale_url) as lock:
        lock.execute("LOCK TABLE mixed IN EXCLUSIVE MODE")
        sender.start()
        wait_until(lambda: look(waiting) == [(1,)], "the batch waits")
        timescale_server.kill()
        sender.join(10)
        lock.close()
    assert [type(one) for one in found] == [Unreachable]
    timescale_server.start()
    assert storage.store_readings(Mixed, three(1)).accepted == 3
    assert look("SELECT count(*) FROM mixed WHERE gateway_id = 'roof'") == [(6,)]


def test_a_disk_that_is_full_is_waited_for(timescale_server: TimescaleServer, look: Look, connect: Connect) -> None:
    with timescale_server.small_disk("600k") as make_larger:
        storage = connect()
        storage.store_reading(Mixed, "mast", T0, {"a": 1.0})
        look("SELECT attach_tablespace('small', 'mixed')")
        batch = [
            Version("mast", T0 + timedelta(days=30, seconds=n), {"a": 1.0, "text": "x" * 500}, None, 1, n + 1)
            for n in range(3000)
        ]
        for _ in range(2):
            with pytest.raises(Unreachable, match=r"the disk of .* is full: .*SQLSTATE 53100"):
                storage.store_readings(Mixed, batch)
        assert storage.aggregate(Mixed, "a", "count") == {"result": 1}
        make_larger("60m")
        assert storage.store_readings(Mixed, batch).accepted == 3000
        storage.close()
        look("DROP TABLE mixed")


def test_a_server_without_a_free_connection_is_sent_less(connect: Connect, look: Look, timescale_url: str) -> None:
    look("CREATE ROLE nobody_now LOGIN CONNECTION LIMIT 0")
    try:
        storage = connect(url=timescale_url.replace("postgres@", "nobody_now@"))
        with pytest.raises(Overloaded, match="too many connections"):
            storage.store_readings(Mixed, three(0))
        storage.close()
    finally:
        look("DROP ROLE nobody_now")


VERSIONS = ({"a": 1.0}, {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 3.0})


@pytest.mark.parametrize("copy", [True, False])
def test_versions_in_all_orders_and_with_every_retry_end_as_one_row(connect: Connect, look: Look, copy: bool) -> None:
    storage = connect(copy=copy)
    orders = [order for order in itertools.product(range(3), repeat=4) if set(order) == {0, 1, 2}]
    assert len(orders) == 36
    for step in range(4):
        for number, order in enumerate(orders):
            version = order[step]
            storage.store_readings(Mixed, [Version(f"d{number}", T0, VERSIONS[version], None, 1, version + 1)])
    assert look("SELECT a, b, store_epoch, gateway_seq, count(*) FROM mixed GROUP BY 1, 2, 3, 4") == [(2, 3, 1, 3, 36)]


def test_row_security_and_no_temporary_tables_are_worked_around(
    connect: Connect, look: Look, timescale_url: str
) -> None:
    connect().store_readings(Mixed, three(0))
    look("DROP ROLE IF EXISTS confined")
    look("CREATE ROLE confined LOGIN")
    look("GRANT SELECT, INSERT, UPDATE, DELETE ON mixed TO confined")
    database = timescale_url.rsplit("/", 1)[1]
    try:
        confined = connect("cellar", url=timescale_url.replace("postgres@", "confined@"))
        look(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
        assert confined.store_readings(Mixed, three(0)).accepted == 3
        assert confined.store_readings(Mixed, [*three(0), *three(1)]).accepted == 3
        confined.close()
        look(f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC")
        look("ALTER TABLE mixed ENABLE ROW LEVEL SECURITY")
        look("CREATE POLICY own ON mixed USING (gateway_id = 'cellar')")
        confined = connect("cellar", url=timescale_url.replace("postgres@", "confined@"))
        assert confined.store_readings(Mixed, [*three(1), *three(2)]).accepted == 3
        confined.close()
    finally:
        look(f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC")
        look("DROP OWNED BY confined")
        look("DROP ROLE confined")
    assert look("SELECT gateway_id, count(*) FROM mixed GROUP BY 1 ORDER BY 1") == [("cellar", 9), ("roof", 3)]


_LEAVES_OUT = """
CREATE OR REPLACE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.a = 1 THEN RETURN NULL; END IF; RETURN NEW; END $$
"""


@pytest.mark.parametrize("copy", [True, False])
def test_a_trigger_that_leaves_out_rows_is_found_out_every_time(connect: Connect, look: Look, copy: bool) -> None:
    storage = connect(copy=copy)
    storage.store_readings(Mixed, three(0))
    look(_LEAVES_OUT)
    look("CREATE TRIGGER leave_out BEFORE INSERT ON mixed FOR EACH ROW EXECUTE FUNCTION leave_out()")
    for _ in range(3):  # the first attempt goes another way than those after it
        with pytest.raises(Unreachable, match="took 3 rows but does not have 1 of them: nothing of it is kept"):
            storage.store_readings(Mixed, three(1))
    assert look("SELECT count(*) FROM mixed") == [(3,)]
    look("DROP TRIGGER leave_out ON mixed")
    assert storage.store_readings(Mixed, three(1)).accepted == 3
