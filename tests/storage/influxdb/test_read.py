"""Answers of queries, as annotated CSV (https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/), as
rows of the contract; and what is sent to ask for them. The answers are written here: nothing runs Flux."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgedepot import Device, InfluxDBStorage, InvalidValue, Reading
from edgedepot.storage.errors import Misconfigured, Overloaded, StorageClosed, Unreachable, UpstreamError
from tests.models import Weather
from tests.servers.process import wait_until
from tests.storage.influxdb.conftest import Connect
from tests.storage.influxdb.scripted import Answer, ScriptedInfluxDB

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TYPES = {
    "_time": "dateTime:RFC3339", "_start": "dateTime:RFC3339", "_moment": "dateTime:RFC3339",
    "device_id": "string", "gateway_id": "string",
    "note": "string", "temperature": "double", "humidity": "double", "raining": "boolean", "count": "long",
    "quality": "long", "_order": "long",
}  # fmt: skip


def table(
    columns: Sequence[str], *rows: Sequence[object], result: str = "_result", number: int = 0, **types: str
) -> str:
    """One table of an answer, as InfluxDB writes it: lines end with CRLF, an empty line ends the table."""
    kinds = ["string", "long", *(types.get(name.strip("_")) or TYPES[name] for name in columns)]
    lines = [
        ["#datatype", *kinds],
        ["#group", *("false" for _ in kinds)],
        ["#default", result, *("" for _ in kinds[1:])],
        ["", "result", "table", *columns],
        *(["", "", str(number), *map(cell, row)] for row in rows),
    ]
    return "".join(",".join(line) + "\r\n" for line in lines) + "\r\n"


def cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bool):
        return str(value).lower()
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(char in text for char in ',"\r\n') else text


def asked(server: ScriptedInfluxDB) -> dict[str, Any]:
    """The latest query as it was sent, its options as plain values."""
    sent = json.loads(server.requests[-1].content)
    options = {}
    for statement in sent["extern"]["body"]:
        value = statement["assignment"]["init"]["value"]
        options[statement["assignment"]["id"]["name"]] = value
    return {"query": sent["query"], **options}


# -- readings -------------------------------------------------------------------------------------------------------

COLUMNS = ["_time", "device_id", "gateway_id", "temperature", "raining", "note", "count", "quality"]


def test_readings(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.csv = table(
        COLUMNS,
        (NOON + HOUR, "mast", "roof", 21.5, True, '=a "b",%0D%0Ac%0D%250A', 3, 0),
        (NOON, "mast", "roof", -1e-7, None, "=", None, 5),
    ) + table([*COLUMNS[:4], "note"], (NOON - HOUR, "mast", "roof", 1, "-"), number=1)
    assert storage.query_readings(Weather, device="mast", limit=3) == [
        {"device_id": "mast", "timestamp": NOON + HOUR, "temperature": 21.5, "humidity": None, "raining": True,
         "note": 'a "b",\r\nc\r%0A', "count": 3},
        {"device_id": "mast", "timestamp": NOON, "temperature": -1e-7, "humidity": None, "raining": None, "note": "",
         "count": None},
        {"device_id": "mast", "timestamp": NOON - HOUR, "temperature": 1.0, "humidity": None, "raining": None,
         "note": None, "count": None},
    ]  # fmt: skip
    found = asked(server)
    assert (found["bucketName"], found["gatewayId"], found["deviceId"], found["rowLimit"]) == (
        "iot",
        "roof",
        "mast",
        "3",
    )
    assert found["rangeStart"] == "1677-09-21T00:12:44.000000000Z"
    assert server.requests[-1].headers["accept-encoding"] == "gzip"
    rows = storage.query_readings(Weather, fields=["quality", "count"])
    assert [(row["quality"], row["count"]) for row in rows] == [(None, 3), (5, None), (None, None)]
    assert list(rows[0]) == ["device_id", "timestamp", "quality", "count"]
    assert type(storage.query_readings(Weather)[2]["temperature"]) is float


def test_a_field_named_as_a_column_of_every_answer(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    class Furniture(Reading):
        table: float

    server.csv = table(["_time", "device_id", "gateway_id", "_table"], (NOON, "a", "roof", 1.5), table="double")
    assert storage.query_readings(Furniture) == [{"device_id": "a", "timestamp": NOON, "table": 1.5}]


def test_times_keep_their_microseconds(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.csv = table(COLUMNS[:4], ("2026-01-05T12:00:00.123456789Z", "a", "roof", 1))
    (row,) = storage.query_readings(Weather)
    assert row["timestamp"].isoformat() == "2026-01-05T12:00:00.123456+00:00"


def test_readings_of_all_gateways_carry_theirs(server: ScriptedInfluxDB, connect: Connect) -> None:
    server.csv = table(COLUMNS[:4], (NOON, "a", "roof", 1), (NOON, "a", "%0A", 2), (NOON, "b%5C", "barn", 3))
    rows = connect(gateway_id=None).query_readings(Weather, fields=["temperature"])
    assert rows == [
        {"gateway_id": "\n", "device_id": "a", "timestamp": NOON, "temperature": 2.0},
        {"gateway_id": "barn", "device_id": "b\\", "timestamp": NOON, "temperature": 3.0},
        {"gateway_id": "roof", "device_id": "a", "timestamp": NOON, "temperature": 1.0},
    ]
    assert "gatewayId" not in asked(server)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("humidity", [0, 2, 1]),
        ("-humidity", [3, 1, 2]),
        ("-device_id", [3, 1, 0]),
        ("timestamp", [0, 1, 3]),
        ("-timestamp", [2, 0, 1]),
        ("raining", [0, 2, 1]),
    ],
)
def test_order_and_ties(server: ScriptedInfluxDB, storage: InfluxDBStorage, order: str, expected: list[int]) -> None:
    rows = [(NOON, "a", None), (NOON, "b", 2.0), (NOON + HOUR, "a", 1.0), (NOON, "c", 3.0)]
    columns = ["_time", "device_id", "humidity", "gateway_id"]
    server.script.append(Answer(200, content=table(columns, *((*row, "roof") for row in rows)).encode()))
    server.csv = table(columns, *((*row, "roof") for row in rows if row[0] == NOON))  # if the limit cuts there
    found = storage.query_readings(Weather, order=order, limit=3)
    assert [(row["timestamp"], row["device_id"], row["humidity"]) for row in found] == [
        rows[index] for index in expected
    ]


@pytest.mark.parametrize(("order", "first"), [("timestamp", "x"), ("-timestamp", "y")])
def test_a_limit_among_readings_of_one_moment(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, order: str, first: str
) -> None:
    """The server orders them by their tags: with a limit of its own it would cut off what comes first by its id."""
    columns = ["_time", "device_id", "gateway_id", "temperature"]
    alone = (NOON if first == "x" else NOON + 2 * HOUR, first, "roof", 1.0)
    at_once = [(NOON + HOUR, tag, "roof", 1.0) for tag in ("a!", "a%0A", "b")]
    for some in ([alone, at_once[0], at_once[2]], at_once):
        server.script.append(Answer(200, content=table(columns, *some).encode()))
    found = storage.query_readings(Weather, limit=2, order=order)
    assert [row["device_id"] for row in found] == [first, "a\n"]
    limited, whole = [request for request in server.requests if request.path == "/api/v2/query"]
    assert '"3"' in limited.content.decode()
    assert "rowLimit" not in whole.content.decode()
    assert (asked(server)["rangeStart"], asked(server)["rangeStop"]) == (
        "2026-01-05T13:00:00.000000000Z",
        "2026-01-05T13:00:00.000001000Z",
    )


def test_a_limit_between_two_moments_needs_no_second_question(
    server: ScriptedInfluxDB, storage: InfluxDBStorage
) -> None:
    columns = ["_time", "device_id", "gateway_id", "temperature"]
    server.csv = table(columns, *((NOON + number * HOUR, "a", "roof", 1.0) for number in range(3)))
    assert len(storage.query_readings(Weather, limit=2, order="timestamp")) == 2
    assert len(storage.query_readings(Weather, limit=5, order="timestamp")) == 3
    assert len(server.requests) == 2


def test_what_needs_no_question(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    assert storage.query_readings(Weather, limit=0) == []
    assert storage.query_readings(Weather, start=NOON, end=NOON) == []
    assert storage.aggregate(Weather, "temperature", "count", start=NOON, end=NOON - HOUR) == {"result": 0}
    assert storage.query_readings(Weather, start=datetime(2300, 1, 1, tzinfo=UTC)) == []
    assert storage.delete_readings(Weather, start=NOON, end=NOON) is None  # type: ignore[func-returns-value]
    assert server.requests == []


def test_no_answer_is_no_reading(storage: InfluxDBStorage) -> None:
    assert storage.query_readings(Weather) == []
    assert storage.aggregate(Weather, "temperature") == {"result": None}
    assert storage.aggregate(Weather, "temperature", "count") == {"result": 0}
    assert storage.aggregate(Weather, "temperature", group_by="device") == []
    assert storage.downsample(Weather, "temperature", "1h") == []


def test_wrong_arguments_are_not_sent(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    for call in (
        lambda: storage.query_readings(Weather, fields=["nonsense"]),
        lambda: storage.query_readings(Weather, start=datetime(2026, 1, 1)),
        lambda: storage.aggregate(Weather, "note", "avg"),
        lambda: storage.downsample(Weather, "temperature", "5 parsecs"),
        lambda: storage.delete_readings(Weather, device=""),
    ):
        with pytest.raises(InvalidValue):
            call()
    assert server.requests == []


# -- aggregates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "function", "kind", "written", "expected"),
    [
        ("temperature", "avg", "double", "20.5", 20.5),
        ("temperature", "max", "long", "20", 20.0),
        ("temperature", "count", "long", "7", 7),
        ("count", "max", "long", "9223372036854775807", 2**63 - 1),
        ("count", "avg", "double", "2.5", 2.5),
        ("note", "last", "string", "=", ""),
        ("note", "first", "string", "==x%0A%25", "=x\n%"),
        ("raining", "first", "boolean", "false", False),
        ("timestamp", "max", "long", "1767614400000001999", NOON + timedelta(microseconds=1)),
        ("timestamp", "count", "long", "3", 3),
        ("device_id", "first", "string", "=mast%255C", "mast\\"),
    ],
)
def test_results_have_their_type(
    server: ScriptedInfluxDB,
    storage: InfluxDBStorage,
    field: str,
    function: Any,
    kind: str,
    written: str,
    expected: Any,
) -> None:
    server.csv = table(["_value"], [written], value=kind)
    found = storage.aggregate(Weather, field, function)
    assert found == {"result": expected}
    assert isinstance(found, dict)
    assert type(found["result"]) is type(expected)


def test_a_sum_of_whole_numbers_is_exact_beyond_64_bits(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    for total in (7, -7, 2**63 - 1, 2**64 + 1, 5 * 2**64 - 3, -(2**70) - 1):
        kept = (total + 2**63) % 2**64 - 2**63
        server.csv = table(["_value"], [kept], value="long")
        server.csv += table(["_value"], [float(total)], value="double", result="estimate", number=1)
        assert storage.aggregate(Weather, "count", "sum") == {"result": total}


def test_groups(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.csv = table(["device_id", "_value"], ("b", 2.0), ("a", 1.0), ("B", 3.0), value="double")
    assert storage.aggregate(Weather, "temperature", "max", group_by="device") == [
        {"device_id": "B", "result": 3.0},
        {"device_id": "a", "result": 1.0},
        {"device_id": "b", "result": 2.0},
    ]


@pytest.mark.parametrize(("function", "column"), [("avg", "_time"), ("last", "_start")])
def test_the_first_window_is_labelled_by_its_own_start(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, function: Any, column: str
) -> None:
    """Flux cuts it to the range and labels it by the start of that."""
    start = NOON + timedelta(minutes=20)
    server.csv = table([column, "_value"], (NOON + HOUR, 2.0), (start, 1.0), value="double")
    assert storage.downsample(Weather, "temperature", "1h", function, start=start) == [
        {"bucket": NOON, "result": 1.0},
        {"bucket": NOON + HOUR, "result": 2.0},
    ]


def test_calendar_windows_are_labelled_in_their_zone(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    """The server sees times as clocks in the zone show them."""
    rows = [(datetime(2026, 3, day, tzinfo=UTC), float(day)) for day in (28, 29, 30)]
    rows[0] = (rows[0][0] + 5 * HOUR, 28.0)  # the range cuts into it
    server.csv = table(["_time", "_value"], *rows, value="double")
    span: dict[str, Any] = {"start": NOON, "end": NOON + timedelta(days=365)}
    found = storage.downsample(Weather, "temperature", "1d", "max", tz="Europe/Zurich", **span)
    assert [(row["bucket"].isoformat(" "), row["result"]) for row in found] == [
        ("2026-03-28 00:00:00+01:00", 28.0),
        ("2026-03-29 00:00:00+01:00", 29.0),
        ("2026-03-30 00:00:00+02:00", 30.0),
    ]
    assert "shift: 7200s" in asked(server)["query"]


@pytest.mark.parametrize(("function", "expected"), [("first", 1.0), ("last", 4.0)])
def test_of_a_day_in_two_parts_the_earlier_first_and_the_later_last_counts(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, function: Any, expected: float
) -> None:
    """On the day on which clocks go back there is one part before and one after that, each labelled by its start."""
    day = datetime(2026, 10, 25, tzinfo=UTC)
    parts = [(day, 1, "b", 2.0), (day + 2 * HOUR, 2, "a", 3.0), (day, 1, "a", 1.0), (day + 2 * HOUR, 2, "b", 4.0)]
    rows = [(start, day + number * HOUR, device, "roof", value) for start, number, device, value in parts]
    server.csv = table(["_start", "_moment", "device_id", "gateway_id", "_value"], *rows, value="double")
    span: dict[str, Any] = {"start": day - 2 * HOUR, "end": day + 24 * HOUR}
    found = storage.downsample(Weather, "temperature", "1d", function, tz="Europe/Zurich", **span)
    assert [(row["bucket"].isoformat(" "), row["result"]) for row in found] == [("2026-10-25 00:00:00+02:00", expected)]


def test_without_bounds_the_server_is_asked_where_readings_begin_and_end(
    server: ScriptedInfluxDB, storage: InfluxDBStorage
) -> None:
    """So that the changes of the clocks in between can be named, and no others need be."""
    assert storage.downsample(Weather, "temperature", "1d", tz="Europe/Zurich") == []
    assert len(server.requests) == 1
    assert asked(server)["rangeStart"] == "1677-09-21T00:12:44.000000000Z"
    columns = ["_time", "device_id", "_value"]
    server.csv = table(columns, (NOON, "a", 1.0), (NOON + HOUR, "b", 2.0), value="double", result="first")
    storage.downsample(Weather, "temperature", "1d", tz="Europe/Zurich", start=NOON - HOUR)
    assert len(server.requests) == 3
    found = asked(server)
    assert "readings(start: start0, stop: stop0, shift: 3600s)" in found["query"]
    assert (found["start0"], found["stop0"]) == ("2026-01-05T12:00:00.000000000Z", "2026-01-05T13:00:00.000001000Z")


def test_empty_windows_are_filled_here(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.csv = table(["_time", "_value"], (NOON, 1.0), (NOON + 2 * HOUR, 2.0), value="double")
    span: dict[str, Any] = {"start": NOON, "end": NOON + 3 * HOUR}
    results = [
        [row["result"] for row in storage.downsample(Weather, "temperature", "1h", "max", fill=fill, **span)]
        for fill in (None, "null", "previous")
    ]
    assert results == [[1.0, 2.0], [1.0, None, 2.0], [1.0, 1.0, 2.0]]


# -- deletes and devices --------------------------------------------------------------------------------------------


def test_a_delete(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    """A delete's stop belongs to it: a nanosecond less makes it half-open. A predicate knows AND and = alone, and its
    values stand in double quotes. https://docs.influxdata.com/influxdb/v2/reference/syntax/delete-predicate/"""
    storage.delete_readings(Weather, 'a "b" \\ c\n', NOON, NOON + HOUR)
    request = server.requests[-1]
    assert (request.path, request.parameters) == ("/api/v2/delete", {"org": "farm", "bucket": "iot"})
    assert json.loads(request.content) == {
        "start": "2026-01-05T12:00:00.000000000Z",
        "stop": "2026-01-05T12:59:59.999999999Z",
        "predicate": r'_measurement="weather" AND gateway_id="roof" AND device_id="a \"b\" \\ c%0A"',
    }
    storage.delete_readings(Weather)
    assert json.loads(server.requests[-1].content) == {
        "start": "1677-09-21T00:12:44.000000000Z",
        "stop": "2262-04-11T23:47:15.999999999Z",
        "predicate": '_measurement="weather" AND gateway_id="roof"',
    }


def test_a_delete_that_is_refused_is_no_matter_of_readings(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    server.script.append(Answer(400, "delete is not supported"))
    with pytest.raises(UpstreamError, match=r"could not do that: delete is not supported") as caught:
        storage.delete_readings(Weather)
    assert type(caught.value) is UpstreamError


def test_devices(server: ScriptedInfluxDB, storage: InfluxDBStorage) -> None:
    columns = ["_time", "device_id", "gateway_id"]
    server.csv = table(columns, (NOON, "b%5C", "roof"), (NOON + HOUR, "a", "roof"), result="first")
    server.csv += table(columns, (NOON + 2 * HOUR, "b%5C", "roof"), (NOON + HOUR, "a", "roof"), result="last")
    assert storage.devices() == [
        Device("a", first_seen=NOON + HOUR, last_seen=NOON + HOUR),
        Device("b\\", first_seen=NOON, last_seen=NOON + 2 * HOUR),
    ]


# -- what goes wrong ------------------------------------------------------------------------------------------------

NO_NUMBER = table(["_value"], ["x"], value="double").encode()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(400, "compilation failed: undefined identifier x"), UpstreamError, "do that: compilation failed"),
        (Answer(401, "unauthorized access"), Misconfigured, "token"),
        (Answer(404, 'could not find bucket "iot"'), Misconfigured, "create the bucket"),
        (Answer(404, "path not found"), Misconfigured, "queries need InfluxDB 2"),
        (Answer(429, "later"), Overloaded, "too often"),
        (Answer(500, "broken"), Unreachable, "tried again"),
        (Answer(200, content=b"<html>\n<body>Log in</body>\n</html>"), Unreachable, "no answer .* that makes sense"),
        (Answer(200, content=b"OK"), Unreachable, "no answer .* that makes sense"),
        (Answer(200, content=NO_NUMBER), Unreachable, "makes sense"),
        (Answer(200, content=NO_NUMBER, sent=60), Unreachable, "no answer"),
        (Answer(200, content=NO_NUMBER, sent=60, silent=True), Unreachable, "time"),
    ],
)  # fmt: skip
def test_errors_of_queries(
    server: ScriptedInfluxDB, connect: Connect, answer: Answer, kind: type[UpstreamError], words: str
) -> None:
    server.script.append(answer)
    with pytest.raises(UpstreamError, match=words) as caught:
        connect(timeout="200 ms").aggregate(Weather, "temperature")
    assert type(caught.value) is kind
    assert caught.value.__cause__ is not None
    assert caught.value.code == (str(answer.status) if answer.status != 200 else None)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("schema collision: column _value is both of type float and int", UpstreamError),
        ("memory allocation limit reached: limit 10 bytes", Overloaded),
    ],
)
def test_errors_in_the_middle_of_an_answer(
    server: ScriptedInfluxDB, storage: InfluxDBStorage, message: str, kind: type[UpstreamError]
) -> None:
    server.csv = table(["_value"], ["1"], value="double")
    server.csv += f"#datatype,string,string\r\n#group,true,true\r\n#default,,\r\n,error,reference\r\n,{message},\r\n"
    with pytest.raises(UpstreamError, match=f"could not answer the query: {message}") as caught:
        storage.aggregate(Weather, "temperature")
    assert type(caught.value) is kind


def test_a_request_under_way_ends_in_peace_when_the_storage_is_closed(
    server: ScriptedInfluxDB, storage: InfluxDBStorage
) -> None:
    server.script.append(Answer(200, content=table(["_value"], ["1.5"], value="double").encode(), pause=0.005))
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(storage.aggregate, Weather, "temperature")
        wait_until(lambda: server.requests != [], "the query is under way")
        storage.close()
        assert not asking.done()
        assert asking.result(20) == {"result": 1.5}
    with pytest.raises(StorageClosed):
        storage.aggregate(Weather, "temperature")
