"""Writes, over HTTP: what is sent, what every status means, and what sync makes of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgedepot import ConfigError, InfluxDBStorage, InvalidValue, SQLiteStorage, SyncWorker
from edgedepot.storage.base import Version
from edgedepot.storage.clock import to_micros
from edgedepot.storage.errors import (
    DataRefused,
    Misconfigured,
    Overloaded,
    StorageClosed,
    Unreachable,
    UpstreamError,
)
from edgedepot.sync.status import SyncStatus
from tests.models import Weather
from tests.servers.process import wait_until
from tests.servers.proxy import TcpProxy
from tests.storage.influxdb.conftest import Connect
from tests.storage.influxdb.scripted import NEVER, TOO_OLD, Answer, ScriptedInfluxDB, lines_of

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def rows(count: int, start: int = 0) -> list[tuple[str, datetime, dict[str, Any]]]:
    return [("mast", START + number * SECOND, {"temperature": float(number)}) for number in range(start, start + count)]


def temperatures(server: ScriptedInfluxDB) -> list[float]:
    return sorted(fields["temperature"] for fields in server.points.values())


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_points(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    receipt = storage.store_reading(Weather, "mast", START, {"temperature": 99, "raining": True, "count": 3})
    assert (receipt.level, receipt.accepted, receipt.duplicates) == ("durable", 1, None)
    identity = ("weather", (("device_id", "mast"), ("gateway_id", "roof")), 1_767_614_400_000_000_000)
    assert server.points == {identity: {"temperature": 99.0, "raining": True, "count": 3, "quality": 1}}
    (request,) = server.requests
    assert request.parameters == {"org": "farm", "bucket": "iot", "precision": "ns"}
    assert request.headers["content-encoding"] == "gzip"
    assert int(request.headers["content-length"]) != len(request.content)


def test_batches_by_lines(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    assert storage.store_readings(Weather, iter(rows(12_000))).accepted == 12_000
    assert [len(lines_of(body)) for body in server.writes] == [5000, 5000, 2000]
    assert temperatures(server) == list(range(12_000))


def test_batches_by_bytes(server: ScriptedInfluxDB, connect: Connect) -> None:
    note = "ä" * 500
    with_notes = [(device, moment, data | {"note": note}) for device, moment, data in rows(100)]
    assert connect(batch_bytes=10_000).store_readings(Weather, with_notes).accepted == 100
    assert all(5_000 < len(body) <= 10_000 for body in server.writes)
    assert temperatures(server) == list(range(100))


def test_nothing_is_sent_for_nothing(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    receipt = storage.store_readings(Weather, [("mast", START, {}), ("mast", START, {"temperature": math.nan})])
    assert [refusal.index for refusal in receipt.refused] == [0, 1]
    assert storage.store_readings(Weather, []).accepted == 0
    assert server.requests == []


def test_bad_rows_are_named_and_the_others_stored(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    bad: list[Any] = [
        ("mast", datetime(1600, 1, 1, tzinfo=UTC), {"temperature": 1}),
        ("mast", datetime(2262, 4, 11, 23, 47, 16, tzinfo=UTC), {"temperature": 1}),
        ("mast", datetime(2026, 1, 1), {"temperature": 1}),
        ("", START, {"temperature": 1}),
        (object(), START, {"temperature": 1}),
        ("mast", START),
        Version("mast", START, {"temperature": 1}, -1, 1, 1),
        Version("mast", START, {"temperature": 1}, "bad", 0, 0),  # type: ignore[arg-type]
    ]
    receipt = storage.store_readings(Weather, [*bad, *rows(3)])
    assert [refusal.index for refusal in receipt.refused] == list(range(len(bad)))
    assert "1677" in receipt.refused[0].reason
    assert "1677" in receipt.refused[1].reason
    assert receipt.accepted == len(server.points) == 3
    with pytest.raises(InvalidValue, match="1677"):
        storage.store_reading(Weather, *bad[0])


def test_readings_without_a_time_are_stamped_apart(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    storage.store_readings(Weather, [("mast", None, {"temperature": number}) for number in range(50)])
    assert len(server.points) == 50


def test_the_later_row_of_a_call_wins(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    storage.store_readings(Weather, [("a", START, {"temperature": 1, "count": 1}), ("a", START, {"temperature": 2})])
    assert list(server.points.values()) == [{"temperature": 2.0, "count": 1}]


def test_versions_of_sync_always_write_a_quality(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    """InfluxDB overwrites field by field: the flag of an earlier version would stay."""
    storage.store_readings(Weather, [Version("mast", START, {"temperature": 99}, 1, 1, 1)])
    assert list(server.points.values()) == [{"temperature": 99.0, "quality": 1}]
    storage.store_readings(Weather, [Version("mast", START, {"temperature": 21}, None, 1, 2)])
    assert list(server.points.values()) == [{"temperature": 21.0, "quality": 0}]


def test_direct_writes_leave_the_quality_there(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    storage.store_readings(Weather, [Version("mast", START, {"temperature": 1}, 4, 1, 1)])
    storage.store_reading(Weather, "mast", START, {"temperature": 2})
    storage.store_reading(Weather, "mast", START, {"temperature": 3}, version=Version("mast", START, {}, None))
    assert list(server.points.values()) == [{"temperature": 3.0, "quality": 4}]
    storage.store_reading(Weather, "mast", START, {"temperature": 2}, version=Version("mast", START, {}, 8))
    assert list(server.points.values()) == [{"temperature": 2.0, "quality": 8}]


def test_without_a_gateway_nothing_is_written_or_deleted(server: ScriptedInfluxDB, connect: Connect) -> None:
    storage = connect(gateway_id=None)
    with pytest.raises(ConfigError, match="no gateway_id"):
        storage.store_readings(Weather, rows(1))
    with pytest.raises(ConfigError, match="no gateway_id"):
        storage.delete_readings(Weather)
    assert server.requests == []


def test_a_subclass_sees_every_reading(server: ScriptedInfluxDB, connect: Connect) -> None:
    seen: list[Any] = []

    class Twice(InfluxDBStorage):
        def store_reading(self, reading_model: Any, device: object, timestamp: Any, data: Any, **more: Any) -> Any:
            seen.append((device, more))
            return super().store_reading(reading_model, device, timestamp, data, **more)

    with Twice(server.url, "s3cr3t-t0k3n", "farm", "iot", gateway_id="roof") as storage:
        version = Version("mast", START, {"temperature": 1}, 2, 1, 1)
        assert storage.store_readings(Weather, [version, *rows(1, 5)]).accepted == 2
    assert seen == [("mast", {"version": version}), ("mast", {})]
    assert [fields.get("quality") for fields in server.points.values()] == [2, None]


def test_closed(storage: InfluxDBStorage) -> None:
    storage.close()
    storage.close()
    for call in (lambda: storage.store_readings(Weather, rows(1)), lambda: storage.query_readings(Weather)):
        with pytest.raises(StorageClosed):
            call()
    with pytest.raises(StorageClosed):
        storage.health_check()


# -- what the server says -------------------------------------------------------------------------------------------


GO_WANTS_TLS = b"Client sent an HTTP request to an HTTPS server.\n"
NGINX_WANTS_TLS = b"<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>"


def test_what_each_status_means(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    expected: list[tuple[Answer, type[UpstreamError], str]] = [
        (Answer(400, "unable to parse 'x': missing fields"), DataRefused, "missing fields"),
        (Answer(422, TOO_OLD[0].format(count=3)), DataRefused, "as old as these: points beyond retention policy"),
        (Answer(422, TOO_OLD[1].format(count=3, device="x" * 500)), DataRefused, "as old as these: dropped 3 points"),
        (Answer(400, "Please provide either orgID or org"), Misconfigured, "check url, org and bucket"),
        (Answer(401, "unauthorized access"), Misconfigured, "does not know the token"),
        (Answer(403, "insufficient permissions for write"), Misconfigured, "lacks a right"),
        (Answer(404, 'bucket "iot" not found'), Misconfigured, "create the bucket"),
        (Answer(405, "method not allowed"), Misconfigured, "what stands in between"),
        (Answer(408), Unreachable, "waited too long"),
        (Answer(429, "too many requests"), Overloaded, "too often"),
        (Answer(500, "internal error"), Unreachable, "tried again"),
        (Answer(400, content=GO_WANTS_TLS), Misconfigured, "https://"),
        (Answer(400, content=NGINX_WANTS_TLS), Misconfigured, "https://"),
        (Answer(502, content=b"<html>Bad Gateway</html>"), Unreachable, "is the server up.*Bad Gateway"),
        (Answer(503, "unavailable"), Overloaded, "cannot take anything now"),
        (Answer(504), Unreachable, "is the server up"),
        (Answer(507), Unreachable, "make room"),
        (Answer(301, headers={"Location": "http://elsewhere/"}), Misconfigured, "has to name the place itself"),
        (Answer(200, content=b"<html>Please log in to our wireless network</html>"), Unreachable, "log in"),
        (Answer(500, content=b"\xff\xfe not UTF-8"), Unreachable, "central|127.0.0.1"),
    ]
    for answer, kind, words in expected:
        server.script.append(answer)
        with pytest.raises(UpstreamError, match=words) as caught:
            storage.store_readings(Weather, rows(1))
        assert type(caught.value) is kind, answer
        assert server.url in str(caught.value)
        assert caught.value.__cause__ is not None or answer.status == 200
        understood = answer.status != 200 and b"not UTF-8" not in (answer.content or b"")
        assert caught.value.code == (str(answer.status) if understood else None)
    storage.store_readings(Weather, rows(1))
    assert len(server.points) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Mon, 05 Jan 2026 12:01:00 GMT", "Date": "Mon, 05 Jan 2026 12:00:00 GMT"}, 60.0),
        ({"Retry-After": "Mon, 05 Jan 2026 11:00:00 GMT", "Date": "Mon, 05 Jan 2026 12:00:00 GMT"}, 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    server.script.append(Answer(status, "later", headers))
    with pytest.raises(Overloaded) as caught:
        storage.store_readings(Weather, rows(1))
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_type_conflict_names_field_types_and_remedy(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, status: int
) -> None:
    """500 in early 2.x: https://github.com/influxdata/influxdb/issues/19779"""
    server.conflict_status = status
    server.types["weather", "temperature"] = "integer"
    with pytest.raises(DataRefused) as caught:
        storage.store_readings(Weather, rows(2))
    assert str(caught.value).startswith(
        'field "temperature" of "weather" is float here, and integer in the bucket, where a field keeps its type:'
        " declare it as integer, give it another name, or use another bucket: "
    )
    assert caught.value.code == str(status)
    server.types["weather", "temperature"] = "unsigned"  # which none of ours is
    with pytest.raises(DataRefused, match="keeps its type: give it another name, or use another bucket: "):
        storage.store_readings(Weather, rows(1))


def test_a_request_that_is_too_large_is_halved_once_for_all(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.largest = 40_000
    assert storage.store_readings(Weather, rows(2000)).accepted == 2000
    assert temperatures(server) == list(range(2000))
    refused = len([body for body in server.writes if len(body) > server.largest])
    assert 2 <= refused <= 3
    storage.store_readings(Weather, rows(2000, 2000))
    assert len([body for body in server.writes if len(body) > server.largest]) == refused
    assert len(server.points) == 4000


def test_a_single_reading_that_is_too_large_is_refused(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.largest = 200
    storage.store_readings(Weather, rows(3))
    with pytest.raises(DataRefused, match=r"a single reading of 3\d\d bytes is too large") as caught:
        storage.store_reading(Weather, "mast", START, {"temperature": 1, "note": "x" * 300})
    assert caught.value.code == "413"


def test_earlier_requests_of_a_call_stand_when_a_later_one_fails(
    server: ScriptedInfluxDB, storage: InfluxDBStorage
) -> None:
    server.types["weather", "note"] = "float"
    bad = ("mast", START + 5500 * SECOND, {"temperature": 0, "note": "text"})
    with pytest.raises(DataRefused):
        storage.store_readings(Weather, [*rows(5200), bad, *rows(300, 5200)])
    assert len(server.points) == 5500


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, content=b"x" * 100, sent=40),
        Answer(500, content=b"x" * 100, sent=40, silent=True),
        Answer(500, content=b"x" * 100, sent=0, silent=True),
        NEVER,
    ],
    ids=["half a body", "half a body, then silence", "a body that never arrives", "nothing at all"],
)
def test_answers_that_do_not_come_whole(server: ScriptedInfluxDB, connect: Connect, answer: Answer) -> None:
    server.script.append(answer)
    storage = connect(timeout="200 ms")
    with pytest.raises(Unreachable, match="no answer from"):
        storage.store_readings(Weather, rows(1))
    storage.store_readings(Weather, rows(1))
    assert len(server.points) == 1


def test_an_answer_that_comes_slowly_is_waited_for(server: ScriptedInfluxDB, connect: Connect) -> None:
    server.script.append(Answer(422, "points beyond retention policy", pause=0.01))
    with pytest.raises(DataRefused, match="beyond retention policy"):
        connect(timeout="500 ms").store_readings(Weather, rows(1))


def test_health(server: ScriptedInfluxDB, connect: Connect) -> None:
    storage = connect()
    assert storage.health_check() == {
        "status": "pass", "message": f"{server.url} bucket 'iot' takes writes", "version": "v2.7.11"
    }  # fmt: skip
    assert server.points == {}
    for settings, words in (({"token": "wrong"}, "token"), ({"bucket": "x"}, "bucket"), ({"org": "x"}, "org")):
        health = connect(**settings).health_check()
        assert (health["status"], health["version"], health["error"]) == ("fail", "v2.7.11", "Misconfigured")
        assert words in health["message"]
    server.script.append(NEVER)
    assert connect(timeout="100 ms").health_check()["status"] == "fail"


# -- with the sync worker -------------------------------------------------------------------------------------------


@contextmanager
def syncing(store: SQLiteStorage, upstream: InfluxDBStorage) -> Iterator[Callable[[], SyncStatus]]:
    with SyncWorker(store, "central", upstream, backoff=("1 ms", "5 ms"), poll_interval="50 ms") as worker:
        yield worker.status


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path / "store.db", gateway_id="roof", flush_interval=0.01) as store:
        yield store


def counts(store: SQLiteStorage) -> dict[str, int]:
    return store.ledger().upstreams["central"]


def test_bad_points_are_found_and_quarantined_with_the_reason(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, store: SQLiteStorage
) -> None:
    server.types["weather", "note"] = "float"
    bad = {17, 512, 513, 999}
    data = [(*row[:2], row[2] | ({"note": "text"} if n in bad else {})) for n, row in enumerate(rows(1000))]
    store.store_readings(Weather, data).wait()
    with syncing(store, storage) as status:
        wait_until(lambda: status().delivered == 996 and counts(store)["pending"] == 0, "all is resolved", 20)
        assert status().state != "misconfigured"
    found = counts(store)
    assert (found["delivered"], found["quarantined"]) == (996, 4)
    assert len(server.points) == 996
    refused = {row["timestamp"]: row["reason"] for row in store.quarantined()}
    assert refused.keys() == {START + number * SECOND for number in bad}
    assert len(set(refused.values())) == 1
    assert refused[START + 17 * SECOND].startswith('field "note" of "weather" is string here, and float in the bucket')
    assert len(server.writes) <= 2 * 4 * math.log2(1000) + 2
    assert store.ledger().balanced


@pytest.mark.parametrize("text", TOO_OLD)
@pytest.mark.parametrize("old", [1, 1000, 600])
def test_what_is_older_than_the_bucket_keeps_is_set_aside_together(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, store: SQLiteStorage, text: str, old: int
) -> None:
    """A long backlog, and a bucket of few days: it is the readings for certain, however many are refused alike."""
    server.oldest = to_micros(START + old * SECOND) * 1000
    server.too_old = text
    store.store_readings(Weather, rows(1000)).wait()
    with syncing(store, storage) as status:
        wait_until(lambda: counts(store)["pending"] == 0, "all is resolved", 20)
        assert status().state != "misconfigured"
    found = counts(store)
    assert (found["delivered"], found["quarantined"]) == (1000 - old, old)
    assert temperatures(server) == list(range(old, 1000))
    assert len(server.writes) <= 2 * math.log2(1000) + 2
    refused = store.quarantined(limit=1000)
    assert {row["timestamp"] for row in refused} == {START + number * SECOND for number in range(old)}
    assert all(row["reason"].startswith(f"{storage._shown} keeps no readings as old as") for row in refused)


def test_a_wrong_type_is_noticed_also_behind_what_is_too_old(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, store: SQLiteStorage
) -> None:
    server.oldest = to_micros(START + 300 * SECOND) * 1000
    server.types["weather", "temperature"] = "integer"
    store.store_readings(Weather, rows(1000)).wait()
    with syncing(store, storage) as status:
        wait_until(lambda: status().state == "misconfigured", "it needs mending", 20)
    assert (counts(store)["quarantined"], counts(store)["pending"]) == (0, 1000)


def test_a_field_of_another_type_upstream_stops_it_with_the_remedy(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, store: SQLiteStorage
) -> None:
    server.types["weather", "temperature"] = "integer"
    store.store_readings(Weather, rows(100)).wait()
    with syncing(store, storage) as status:
        wait_until(lambda: status().state == "misconfigured", "it needs mending", 20)
        assert "declare it as integer" in str(status().last_error)
        assert (counts(store)["quarantined"], counts(store)["pending"]) == (0, 100)
        server.types.clear()  # another bucket, say
        wait_until(lambda: status().delivered == 100, "it goes on", 20)


def test_trouble_of_every_kind_loses_nothing(server: ScriptedInfluxDB, connect: Connect, store: SQLiteStorage) -> None:
    lost = Answer(500, content=b"x" * 9, sent=3)
    refusals = [Answer(422, "dropped=1"), Answer(503), Answer(429, headers={"Retry-After": "0"}), Answer(413)]
    server.script.extend([*refusals, Answer(500), NEVER, lost, Answer(200, content=b"login"), Answer(401), Answer(404)])
    store.store_readings(Weather, rows(500)).wait()
    with syncing(store, connect(timeout="100 ms")) as status:
        wait_until(lambda: status().delivered == 500, "all is delivered", 60)
        assert not server.script
    assert temperatures(server) == list(range(500))
    assert (counts(store)["quarantined"], status().faults) == (0, 0)


def test_a_half_open_link_is_noticed(
    server: ScriptedInfluxDB, connect: Connect, store: SQLiteStorage, proxy: Callable[[str, int], TcpProxy]
) -> None:
    link = proxy("127.0.0.1", server.port)
    upstream = connect(url=f"http://127.0.0.1:{link.port}", timeout="200 ms", connect_timeout="200 ms")
    with syncing(store, upstream) as status:
        store.store_readings(Weather, rows(10)).wait()
        wait_until(lambda: status().delivered == 10, "the first are delivered", 20)
        link.blackhole()
        store.store_readings(Weather, rows(10, 10)).wait()
        wait_until(lambda: status().state == "waiting", "it notices", 20)
        assert "no answer from" in str(status().last_error)
        link.mend()
        wait_until(lambda: status().delivered == 20, "all is delivered", 20)
    assert temperatures(server) == list(range(20))


def test_a_lost_answer_makes_no_second_point(
    server: ScriptedInfluxDB, connect: Connect, store: SQLiteStorage, proxy: Callable[[str, int], TcpProxy]
) -> None:
    link = proxy("127.0.0.1", server.port)
    store.store_readings(Weather, rows(10)).wait()
    link.drop_answers(after=b"POST")
    with syncing(store, connect(url=f"http://127.0.0.1:{link.port}", timeout="1s")) as status:
        link.wait_cut()
        assert len(server.points) == 10
        link.mend()
        wait_until(lambda: status().delivered == 10, "all is delivered", 20)
    assert len(server.points) == 10
    assert len(server.writes) >= 2
