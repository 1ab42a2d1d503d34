"""The text of every query: by the analyser of InfluxData's own language server, and for each trap of Flux as it stands.

The analyser knows syntax, names and types of functions and their arguments. What the functions do is not run here (see
scripted.py); each golden text below says why it is right, with the page of the documentation.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

import hypothesis
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgedepot import InvalidValue, Reading
from edgedepot.storage.clock import to_micros
from edgedepot.storage.influxdb import flux
from edgedepot.storage.influxdb.downsampling import check_downsampling, text_of
from edgedepot.storage.influxdb.flux import Query
from edgedepot.storage.interval import Interval
from edgedepot.storage.query import FUNCTIONS, Aggregation, Scope, Selection
from tests.models import Weather
from tests.servers.flux import FluxAnalyser
from tests.storage.influxdb.test_line import ids, models

START = datetime(2026, 1, 5, 12, 20, tzinfo=UTC)

Check = Callable[[str], list[str]]


def literal(value: object) -> str:
    if isinstance(value, str):
        return flux.quoted(value)
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def whole(query: Query) -> str:
    """A query as the server sees it: what it was given as options stands behind the imports."""
    imports, body = re.fullmatch(r'((?:import "\w+"\n+)*)(.*)', query.text, re.DOTALL).groups()  # type: ignore[union-attr]
    options = "".join(f"option {name} = {literal(value)}\n" for name, value in query.options.items())
    return f"{imports}{options}{body}"


moments = st.none() | st.datetimes(datetime(1600, 1, 1), datetime(2300, 1, 1), timezones=st.just(UTC))


zones = st.just("UTC") | st.sampled_from(sorted(available_timezones()))
_UNITS = ("s", " seconds", "m", " minutes", "h", " hours", "d", " days", "w", " weeks", "mo", " months", "y", " years")
intervals = (
    st.builds("{}{}".format, st.integers(1, 290), st.sampled_from(_UNITS))
    | st.sampled_from(["second", "minute", "hour", "day", "week", "month", "year"])
    | st.timedeltas(timedelta(microseconds=1), timedelta(days=106_751))
)
near = st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2012, 1, 1), timezones=st.just(UTC))


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    return Scope.of(draw(models() | st.just(Weather)), draw(st.none() | ids), draw(moments), draw(moments))


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    scope = draw(scopes())
    names = [spec.name for spec in scope.model.__fields__]
    order = draw(st.sampled_from(["timestamp", "device_id", *names])) if draw(st.booleans()) else "timestamp"
    fields = draw(st.none() | st.lists(st.sampled_from([*names, "quality"])))
    limit = draw(st.none() | st.integers(1, 2**70))
    return Selection.of(scope, fields, limit, draw(st.sampled_from(["", "-"])) + order)


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    scope = draw(scopes())
    bounds = [to_micros(moment or START) for moment in (draw(near), draw(near))]
    field = draw(st.sampled_from(["timestamp", "device_id", *(spec.name for spec in scope.model.__fields__)]))
    function = draw(st.sampled_from(FUNCTIONS))
    interval, tz = draw(st.none() | intervals), draw(zones)
    group_by = draw(st.sampled_from([None, "device"]))
    if tz != "UTC":
        scope = replace(scope, start=min(bounds), end=max(bounds) + 1)
    try:
        return Aggregation.of(scope, field, function, interval, tz, group_by, None)
    except InvalidValue:  # arithmetic over what is no number
        return Aggregation.of(scope, field, "count", interval, tz, group_by, None)


queries = st.one_of(
    st.builds(flux.select_readings, ids, st.none() | ids, selections()),
    st.builds(flux.aggregate, ids, st.none() | ids, aggregations()),
    st.builds(flux.devices, ids, st.none() | ids),
    st.builds(flux.extent, ids, st.none() | ids, aggregations()),
)


@settings(max_examples=400)
@given(queries)
def test_every_query_is_sound(analyser: FluxAnalyser, query: Query) -> None:
    assert analyser.problems(whole(query)) == []


@st.composite
def tasks(draw: st.DrawFn) -> str:
    model, function = draw(models()), draw(st.sampled_from(FUNCTIONS))
    takes = [
        spec.name for spec in model.__fields__ if function in ("first", "last", "count") or spec.type in (int, float)
    ]
    hypothesis.assume(takes)
    fields = draw(st.none() | st.lists(st.sampled_from(takes), min_size=1))
    asked = check_downsampling(
        Scope.of(model, None, None, None), fields, draw(intervals), function,
        draw(zones), draw(st.none() | intervals), draw(intervals), draw(intervals),
    )  # fmt: skip
    return text_of(draw(ids), draw(ids), draw(ids), draw(ids), draw(st.none() | ids), asked)


@given(tasks())
def test_every_task_is_sound(analyser: FluxAnalyser, text: str) -> None:
    assert analyser.problems(text) == []


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\${}\n\r\0'), max_size=40))
@example("$\\")
@example('$"')
@example("$${x}")
def test_a_quoted_text_is_one_literal(analyser: FluxAnalyser, text: str) -> None:
    quoted = flux.quoted(text)
    assert analyser.problems(f"x = {quoted}\ny = x + 1\n") != []  # it is a text: nothing else can be added to it
    assert analyser.problems(f'x = {quoted}\ny = x + "1"\n') == []
    assert re.fullmatch(r'"(?:[^"\\\n]|\\.)*"', quoted)
    assert "$" not in quoted


# -- the analyser sees mistakes, or the tests above would say nothing -----------------------------------------------

MUTATIONS: list[tuple[str, str]] = [
    (r"\|> range\(", "|> rnge("),
    (r"range\(start: rangeStart, ", "range(begin: rangeStart, "),
    (r"stop: rangeStop\)", "stop: rangeStop"),
    (r"bucket: bucketName", "bucket: bucketNames"),
    (r"r\._measurement ==", "r._measurement ="),
    (r"fn: \(r\) =>", "fn: (r) ->"),
    (r'== "(\w+)"', "== \\1"),
    (r"rowLimit\)", "rowLimits)"),
    (r"option rowLimit = (\d+)", 'option rowLimit = "\\1"'),
    (r'pivot\(rowKey: \["_time"\]', 'pivot(rowKey: "_time"'),
    (r'valueColumn: "_value"', "valueColumns: _value"),
    (r"group\(columns: \[(.*?)\]\)", "group(columns: \\1)"),
    (r"group\(\)", "group(by: device_id)"),
    (r"every: (\w+)", "every: \\1parsec"),
    (r"every: (\w+)", 'every: "\\1"'),
    (r'timeSrc: "_start"', "timeSource: _start"),
    (r"createEmpty: false", 'createEmpty: "no"'),
    (r"fn: mean", "fn: average"),
    (r"timeShift\(duration: shift", "timeShift(duration: shifts"),
    (r"shift: (-?\d+)s\)", "shift: \\1)"),
    (r"union\(tables: \[", "union(tables: ["[:-1]),
    (r'duplicate\(column: "_time", as', 'duplicate(column: "_time", to'),
    (r"stop: stop1, ", ""),
    (r"option stop1 = ", "option stop01 = "),
    (r"-int\(v: r\._time\)", "-int(r._time)"),
    (r'exists r\["note"\]', 'exist r["note"]'),
    (r'plain\(v: r\["note"\]\)', "plain(v: 1)"),
    (r'"note": if', "then: if"),
    (r'r\["note"\]', "r.then"),
    (r'import "strings"\n', ""),
    (r"sort\(columns: \[", "sort(by: ["),
    (r"last\(\)", "latest()"),
    (r'unique\(column: "_time"\)', 'unique(columns: ["_time"])'),
    (r'yield\(name: "first"\)', "yield(name: first_)"),
    (r"toFloat\(\)", "toFloat(column: 1)"),
    (r'drop\(columns: \["_start"', 'drop(columns: [1, "_start"'),
    (r'drop\(columns: \["_value"\]\)', 'drop(column: "_value")'),
    (r"rename\(fn: \(column\)", "rename(fn: (name)"),
    (r'then "_table" else column', 'then "_table"'),
    (r"option task = \{name: ", "option task = {names "),
    (r"every: 1h, offset: 1m\}", "every: 1h, offset: 1m"),
    (r'import "date"\n', ""),
    (r'import "timezone"\n', ""),
    (r"timezone\.location\(name: ", "timezone.location(zone: "),
    (r"date\.sub\(d: ", "date.sub(days: "),
    (r"from: now\(\)", "from: now)"),
    (r"range\(start: begin", "range(start: begun"),
    (r"r\._start > begin and", "r._start > begin &&"),
    (r"window\(every: 1d", "window(each: 1d"),
    (r'to\(bucket: "iot_days"', "to(bucket: iot_days"),
]


class Furniture(Reading):
    table: str


def scope(**more: Any) -> Scope:
    return Scope.of(Weather, more.get("device"), more.get("start"), more.get("end"))


def aggregation(field: str, function: str, interval: Any = None, tz: str = "UTC", **more: Any) -> Aggregation:
    return Aggregation.of(scope(**more), field, function, interval, tz, more.get("group_by"), None)


SAMPLES = {
    "newest": flux.select_readings("iot", "roof", Selection.of(scope(device="mast"), None, 5, "-timestamp")),
    "by field": flux.select_readings("iot", None, Selection.of(scope(), ["note"], None, "note")),
    "days": flux.aggregate("iot", None, aggregation(
        "temperature", "avg", "1d", "Europe/Zurich", group_by="device", start=START, end=START + timedelta(days=365))),
    "last of days": flux.aggregate("iot", None, aggregation(
        "note", "last", "1w", "America/New_York", start=START, end=START + timedelta(days=365))),
    "last": flux.aggregate("iot", None, aggregation("note", "last", "1h")),
    "count": flux.aggregate("iot", None, aggregation("timestamp", "count")),
    "sum": flux.aggregate("iot", None, aggregation("count", "sum", group_by="device")),
    "devices": flux.devices("iot", "roof"),
    "extent": flux.extent("iot", "roof", aggregation("temperature", "avg", "1d", "Europe/Zurich")),
    "field named table": flux.select_readings(
        "iot", None, Selection.of(Scope.of(Furniture, None, None, None), None, None, "timestamp")),
    "task": Query(text_of("days", "iot", "iot_days", "farm", "roof", check_downsampling(
        scope(), None, "1d", "avg", "Europe/Zurich", None, "7d", "1m")), {}),
}  # fmt: skip


@pytest.mark.parametrize(("pattern", "instead"), MUTATIONS)
def test_mistakes_are_seen(analyser: FluxAnalyser, pattern: str, instead: str) -> None:
    mutants = [
        re.sub(pattern, instead, whole(sample)) for sample in SAMPLES.values() if re.search(pattern, whole(sample))
    ]
    assert mutants, "no sample has what this mutation changes"
    assert [mutant for mutant in mutants if not analyser.problems(mutant)] == []


@given(st.data())
def test_a_query_that_was_cut_off_is_seen(analyser: FluxAnalyser, data: st.DataObject) -> None:
    """Wherever a text is cut within a call, it is no query any more."""
    text = whole(data.draw(st.sampled_from(list(SAMPLES.values()))))
    inside = [at for at in range(len(text)) if text.count("(", 0, at) > text.count(")", 0, at)]
    assert analyser.problems(text[: data.draw(st.sampled_from(inside))]) != []


# -- for each trap a text -------------------------------------------------------------------------------------------


def steps(query: Query) -> list[str]:
    return query.text.split("\n    |> ")


def test_a_range_is_obligatory_and_hides_nothing() -> None:
    """`from` refuses to read without `range`; `start` belongs to the range, `stop` does not, and without `stop` it
    would end now. Bounds that a call leaves open are the first and the last second that InfluxDB can keep.
    https://docs.influxdata.com/flux/v0/stdlib/universe/range/"""
    query = flux.aggregate("iot", None, aggregation("temperature", "max"))
    assert steps(query)[:2] == ["from(bucket: bucketName)", "range(start: rangeStart, stop: rangeStop)"]
    assert query.options["rangeStart"] == datetime(1677, 9, 21, 0, 12, 44, tzinfo=UTC)
    assert query.options["rangeStop"] == datetime(2262, 4, 11, 23, 47, 16, tzinfo=UTC)
    bounded = flux.aggregate("iot", None, aggregation("temperature", "max", start=START, end=START + timedelta(1)))
    assert (bounded.options["rangeStart"], bounded.options["rangeStop"]) == (START, START + timedelta(1))


DAYS: dict[str, Any] = {"start": START, "end": START + timedelta(days=365)}
TEXTS: dict[str, Callable[[str, str, str], Query]] = {
    "select": lambda bucket, gateway, device: flux.select_readings(
        bucket, gateway, Selection.of(scope(device=device), None, 3, "-timestamp")),
    "aggregate": lambda bucket, gateway, device: flux.aggregate(
        bucket, gateway, aggregation("temperature", "avg", "1h", device=device)),
    "last": lambda bucket, gateway, device: flux.aggregate(
        bucket, gateway, aggregation("note", "last", "1d", device=device)),
    "aggregate in a zone": lambda bucket, gateway, device: flux.aggregate(
        bucket, gateway, aggregation("temperature", "max", "1d", "Europe/Zurich", device=device, **DAYS)),
    "extent": lambda bucket, gateway, device: flux.extent(
        bucket, gateway, aggregation("temperature", "avg", "1d", device=device)),
    "devices": lambda bucket, gateway, device: flux.devices(bucket, gateway),
}  # fmt: skip


def test_points_of_others_are_no_readings() -> None:
    """A measurement named as one of ours may hold points without our tags. Storage takes ``exists`` of a tag as a
    comparison of its own (https://github.com/influxdata/influxdb/pull/14538)."""
    for gateway, device, filters in (
        (None, None, ["exists r.gateway_id", "exists r.device_id"]),
        ("roof", None, ["r.gateway_id == gatewayId", "exists r.device_id"]),
        (None, "mast", ["exists r.gateway_id", "r.device_id == deviceId"]),
    ):
        asked = aggregation("temperature", "max", device=device)
        for query in (flux.aggregate("iot", gateway, asked), flux.extent("iot", gateway, asked)):
            assert [f"    |> filter(fn: (r) => {one})" for one in filters] == query.text.splitlines()[3:5]


@pytest.mark.parametrize("kind", TEXTS)
def test_values_are_no_part_of_a_text(kind: str) -> None:
    hostile = '") |> to(bucket: "x'
    query = TEXTS[kind](f"b{hostile}", f"g{hostile}", f"d{hostile}")
    assert query.text == TEXTS[kind]("iot", "roof", "mast").text
    assert "2026" not in query.text
    expected = {"bucketName": f"b{hostile}", "gatewayId": f"g{hostile}"}
    if kind != "devices":
        expected["deviceId"] = f"d{hostile}"
    assert {name: value for name, value in query.options.items() if isinstance(value, str)} == expected


def test_a_limit_is_no_part_of_a_text() -> None:
    few, more = (Selection.of(scope(), None, limit, "timestamp") for limit in (3, 7))
    assert flux.select_readings("iot", None, few).text == flux.select_readings("iot", None, more).text


def test_values_stand_quoted_in_a_task() -> None:
    """It has no options. What ends a literal is escaped, see `test_a_quoted_text_is_one_literal`."""
    asked = check_downsampling(scope(), None, "1d", "avg", "UTC", None, "7d", "1m")

    def text_with(end: str) -> str:
        return text_of(f"name{end}", f"source{end}", f"target{end}", f"org{end}", f"gateway{end}", asked)

    hostile = '") |> to(bucket: "${x}'
    text = text_with(hostile)
    assert hostile not in text
    quoted = '\\") |> to(bucket: \\"\\x24{x}"'
    assert text.count(quoted) == 5
    assert text.replace(quoted, '"') == text_with("")


PLAIN = """import "strings"

plain = (v) => "="
    + strings.replaceAll(
        v: strings.replaceAll(v: strings.replaceAll(v: v, t: "%", u: "%25"), t: "\\r", u: "%0D"),
        t: "\\n",
        u: "%0A",
    )

"""


def test_line_breaks_of_texts_go_in_other_words() -> None:
    """The CSV of answers is written by Go's encoding/csv with UseCRLF: within a text a line feed becomes a carriage
    return and a line feed, and any other carriage return is left out.
    https://github.com/influxdata/flux/blob/master/csv/result.go, https://pkg.go.dev/encoding/csv#Writer"""
    query = flux.aggregate("iot", None, aggregation("note", "last", "1h"))
    assert query.text.startswith(PLAIN)
    assert steps(query)[-1] == "map(fn: (r) => ({r with _value: plain(v: string(v: r._value))}))"
    for one in (aggregation("note", "count"), aggregation("raining", "last"), aggregation("temperature", "first")):
        assert "strings" not in flux.aggregate("iot", None, one).text


def test_readings_are_rows_and_the_limit_is_of_all_of_them() -> None:
    """Points come as one table for each series and field; `pivot` makes a row of those of one series and time
    (https://docs.influxdata.com/flux/v0/stdlib/universe/pivot/). `sort` and `limit` work on each table by itself:
    only behind `group()` the limit is one of the whole answer. The first `tail` merely spares the rest the work: tables
    from storage are ordered by time. `sort` has one direction for all columns, and ties go upwards: so time is turned
    round. CSV has one way of writing a null and an empty text: texts get a mark, nulls another. No text is made empty:
    a column that Flux 0.195.2 makes loses those (https://github.com/influxdata/flux/pull/5503)."""
    asked = Selection.of(scope(device="mast"), None, 5, "-timestamp")
    query = flux.select_readings("iot", "roof", asked)
    assert query.text.startswith(PLAIN)
    assert steps(Query(query.text.removeprefix(PLAIN), {})) == [
        "from(bucket: bucketName)",
        "range(start: rangeStart, stop: rangeStop)",
        'filter(fn: (r) => r._measurement == "weather" and (r._field == "temperature" or r._field == "humidity"'
        ' or r._field == "raining" or r._field == "note" or r._field == "count" or r._field == "quality"))',
        "filter(fn: (r) => r.gateway_id == gatewayId)",
        "filter(fn: (r) => r.device_id == deviceId)",
        "tail(n: rowLimit)",
        'pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")',
        "group()",
        'drop(columns: ["_start", "_stop", "_measurement"])',
        'map(fn: (r) => ({r with "note": if exists r["note"] then plain(v: r["note"]) else "-",'
        " _order: -int(v: r._time)}))",
        'sort(columns: ["_order", "gateway_id", "device_id"])',
        "limit(n: rowLimit)",
    ]
    upwards = steps(flux.select_readings("iot", None, replace(asked, descending=False, columns=("temperature",))))
    assert upwards[-2:] == ['sort(columns: ["_time", "gateway_id", "device_id"])', "limit(n: rowLimit)"]
    assert "limit(n: rowLimit)" in upwards[:-1]
    assert not any("map" in step for step in upwards)


@pytest.mark.parametrize(("gateway", "device", "rows"), [("g", "d", 5), ("g", None, 6), (None, "d", 6)])
def test_where_readings_may_be_of_one_moment_one_more_is_asked_for(
    gateway: str | None, device: str | None, rows: int
) -> None:
    """So that read.py sees whether the limit cuts through some that are: tags are not always in the order of ids."""
    query = flux.select_readings("iot", gateway, Selection.of(scope(device=device), None, 5, "timestamp"))
    assert query.options["rowLimit"] == rows


def test_another_order_or_a_huge_limit_is_left_to_us() -> None:
    for asked in (Selection.of(scope(), None, 5, "-temperature"), Selection.of(scope(), None, 10**30, "timestamp")):
        query = flux.select_readings("iot", None, asked)
        assert "limit" not in query.text
        assert "rowLimit" not in query.options


def test_every_field_is_asked_for_though_few_are_shown() -> None:
    """A reading without a value in the fields that are shown is there all the same."""
    query = flux.select_readings("iot", None, Selection.of(scope(), ["note"], None, "timestamp"))
    assert all(f'r._field == "{spec.name}"' in query.text for spec in Weather.__fields__)


def test_fields_may_be_named_as_words_of_flux() -> None:
    """``r.test`` is none of its expressions, ``r["test"]`` is. And every answer has a column ``table`` of its own.
    https://docs.influxdata.com/flux/v0/spec/lexical-elements/#keywords"""

    class Words(Reading):
        test: str | None = None
        table: str | None = None

    query = flux.select_readings("iot", None, Selection.of(Scope.of(Words, None, None, None), None, None, "table"))
    assert steps(query)[-2:] == [
        'map(fn: (r) => ({r with "test": if exists r["test"] then plain(v: r["test"]) else "-",'
        ' "table": if exists r["table"] then plain(v: r["table"]) else "-"}))',
        'rename(fn: (column) => if column == "table" then "_table" else column)',
    ]


def test_aggregates_merge_series_first() -> None:
    """Without `group` every series (each gateway, each device) answers apart.
    https://docs.influxdata.com/flux/v0/stdlib/universe/group/"""
    assert steps(flux.aggregate("iot", None, aggregation("temperature", "avg")))[-2:] == ["group()", "mean()"]
    grouped = steps(flux.aggregate("iot", None, aggregation("temperature", "count", group_by="device")))
    assert grouped[-2:] == ['group(columns: ["device_id"])', "count()"]


def test_whole_numbers_are_averaged_as_floats() -> None:
    """`mean` adds integers in 64 bits: of 2^63 - 1, 2^63 - 1 and 3 it makes 1/3. What `toFloat` makes adds up."""
    found = steps(flux.aggregate("iot", None, aggregation("count", "avg", "1h")))
    assert found[-3:-1] == ["group()", "toFloat()"]
    assert "toFloat" not in flux.aggregate("iot", None, aggregation("temperature", "avg")).text


def test_windows_are_labelled_by_their_start_and_only_there_if_not_empty() -> None:
    """`aggregateWindow` labels by the window's end unless `timeSrc` says otherwise, and makes empty windows unless told
    not to. It cuts the first window to the range, so that `_start` is then no start of a bucket
    (https://github.com/influxdata/flux/issues/4979): read.py takes it down to that, see test_read.py.
    https://docs.influxdata.com/flux/v0/stdlib/universe/aggregatewindow/"""
    query = flux.aggregate("iot", None, aggregation("temperature", "max", "5 minutes", start=START))
    assert steps(query)[-2:] == [
        "group()",
        'aggregateWindow(every: 5m, fn: max, timeSrc: "_start", createEmpty: false)',
    ]


def test_calendar_windows_lie_in_their_zone() -> None:
    """Of each stretch in which the clocks of the zone are one shift from UTC, rows are shifted by that; then days are
    those of UTC. A day on which clocks change has rows of two stretches, which `union` and `group` bring together.
    `location` would be simpler, but leaves rows out: see zones.py.
    https://docs.influxdata.com/flux/v0/stdlib/universe/timeshift/: by default `_start`, `_stop` and `_time` move."""
    span = {"start": datetime(2026, 3, 28, 23, tzinfo=UTC), "end": datetime(2026, 3, 30, tzinfo=UTC)}
    query = flux.aggregate("iot", None, aggregation("temperature", "avg", "1d", "Europe/Zurich", **span))
    assert query.text == (
        "readings = (start, stop, shift) => from(bucket: bucketName)\n"
        "    |> range(start: start, stop: stop)\n"
        '    |> filter(fn: (r) => r._measurement == "weather" and (r._field == "temperature"))\n'
        "    |> filter(fn: (r) => exists r.gateway_id)\n"
        "    |> filter(fn: (r) => exists r.device_id)\n"
        "    |> timeShift(duration: shift)\n"
        "\n"
        "union(tables: [\n"
        "    readings(start: start0, stop: stop0, shift: 3600s),\n"
        "    readings(start: start1, stop: stop1, shift: 7200s),\n"
        "])\n"
        "    |> group()\n"
        '    |> aggregateWindow(every: 1d, fn: mean, timeSrc: "_start", createEmpty: false)'
    )
    change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    bounds = {"start0": span["start"], "stop0": change, "start1": change, "stop1": span["end"]}
    assert query.options == {"bucketName": "iot", **bounds}
    west = flux.aggregate("iot", None, aggregation("temperature", "max", "1mo", "America/Caracas", **span))
    assert "union" not in west.text
    assert "readings(start: start0, stop: stop0, shift: -14400s)\n    |> group()" in west.text
    assert west.options["stop0"] == span["end"]
    hours = flux.aggregate("iot", None, aggregation("temperature", "avg", "1h", "Europe/Zurich", **span))
    assert "shift" not in hours.text  # up to hours: aligned to UTC in every zone


def test_the_last_of_a_day_on_which_clocks_go_back() -> None:
    """The hour that comes twice has the same times shifted: which row is the last goes by the time itself. Each series
    is reduced before `union`, which merges tables in no order; so the two parts of that day come apart."""
    span = {"start": datetime(2026, 10, 24, 22, tzinfo=UTC), "end": datetime(2026, 10, 25, 23, tzinfo=UTC)}
    asked = aggregation("temperature", "last", "1d", "Europe/Zurich", group_by="device", **span)
    text = flux.aggregate("iot", None, asked).text
    assert (
        '    |> duplicate(column: "_time", as: "_moment")\n'
        "    |> timeShift(duration: shift)\n"
        "    |> window(every: 1d, createEmpty: false)\n"
        "    |> last()\n"
        "\n"
        "union(tables: [\n"
    ) in text
    assert text.endswith(
        "])\n"
        '    |> group(columns: ["_start", "device_id"])\n'
        '    |> sort(columns: ["_moment", "gateway_id", "device_id"])\n'
        "    |> last()"
    )


@pytest.mark.parametrize(
    ("interval", "window"),
    [
        ("1s", "every: 1s"),
        ("90 minutes", "every: 90m"),
        ("24h", "every: 24h"),
        (timedelta(milliseconds=250), "every: 250ms"),
        (timedelta(microseconds=7), "every: 7us"),
        ("1d", "every: 1d"),
        ("3d", "every: 3d"),
        ("10d", "every: 10d, offset: 9d"),
        ("1w", "every: 7d, offset: 4d"),
        ("2w", "every: 14d, offset: 11d"),
        ("1mo", "every: 1mo"),
        ("7mo", "every: 7mo, offset: 3mo"),
        ("1y", "every: 12mo"),
        ("7y", "every: 84mo, offset: 24mo"),
    ],
)
def test_windows_begin_where_ours_do(interval: Any, window: str) -> None:
    """Flux counts windows from 1970-01-01, a Thursday, so that weeks begin on Thursdays; ours from Monday 2000-01-03,
    months and years from 2000-01-01. https://docs.influxdata.com/flux/v0/stdlib/universe/window/#window-by-week"""
    parsed = Interval.parse(interval)
    assert flux.windows_of(parsed) == window
    shift = int((re.search(r"offset: (\d+)", window) or ["", "0"])[1])
    if parsed.days:
        assert parsed.floor(0) == (shift - parsed.days if shift else 0) * 86_400_000_000
    if parsed.months:
        months = shift - parsed.months if shift else 0
        first = datetime(1970 + months // 12, months % 12 + 1, 1, tzinfo=UTC)
        assert parsed.floor(0) == int(first.timestamp()) * 1_000_000


@pytest.mark.parametrize("longer", ["106752d", "20000w", timedelta(days=106_752), timedelta(hours=2_562_048)])
def test_an_interval_that_is_no_duration_is_a_value_error(longer: Any) -> None:
    """Durations are months, and nanoseconds in 64 bits."""
    for longest in ("106751d", "15250w", timedelta(hours=2_562_047), "1000y"):
        assert flux.duration(Interval.parse(longest))
    with pytest.raises(InvalidValue, match=r"longer than InfluxDB knows: expected at most 106751 days"):
        flux.aggregate("iot", None, aggregation("temperature", "avg", longer))
    for more in ((longer, "avg", "UTC", None, "7d", "1m"), ("1d", "avg", "UTC", None, longer, "1m")):
        with pytest.raises(InvalidValue, match="longer than InfluxDB knows"):
            text_of("n", "b", "t", "o", None, check_downsampling(scope(), None, *more))


def test_first_and_last_are_by_time_and_not_by_where_a_row_lies() -> None:
    """`first` takes a table's first row, and `group` merges tables in no order: so behind it rows are sorted. Before it
    each series is ordered by time. `aggregateWindow` would put the window's time in place of the row's, hence `window`.
    https://docs.influxdata.com/flux/v0/stdlib/universe/first/"""
    query = flux.aggregate("iot", None, aggregation("temperature", "first", "1h", group_by="device"))
    assert steps(query)[5:] == [
        "window(every: 1h, createEmpty: false)",
        "first()",
        'group(columns: ["_start", "device_id"])',
        'sort(columns: ["_time", "gateway_id", "device_id"])',
        "first()",
    ]
    assert steps(flux.aggregate("iot", None, aggregation("temperature", "last")))[5:] == [
        "last()",
        "group()",
        'sort(columns: ["_time", "gateway_id", "device_id"])',
        "last()",
    ]


def test_a_reading_counts_once_whatever_fields_it_has() -> None:
    """`drop` of the columns that differ merges the tables of a series, one for each field; `unique` leaves one row of
    each time. https://docs.influxdata.com/flux/v0/stdlib/universe/unique/"""
    query = flux.aggregate("iot", None, aggregation("timestamp", "count"))
    assert steps(query)[5:] == [
        'drop(columns: ["_field", "_value", "_measurement"])',
        'unique(column: "_time")',
        "map(fn: (r) => ({r with _value: int(v: r._time)}))",
        "group()",
        "count()",
    ]


def test_a_sum_of_whole_numbers_comes_with_an_estimate() -> None:
    """Flux adds integers in 64 bits and drops what does not fit."""
    text = flux.aggregate("iot", None, aggregation("count", "sum")).text
    assert text.startswith("values = from(bucket: bucketName)")
    assert text.endswith(
        '\nvalues |> sum() |> yield(name: "_result")\nvalues |> toFloat() |> sum() |> yield(name: "estimate")'
    )


def test_the_text_of_a_task() -> None:
    """`now()` is the time for which a task is scheduled. Windows that the range cuts short must not overwrite whole
    ones: the first starts with the range, the last ends after now.
    https://docs.influxdata.com/influxdb/v2/process-data/get-started/"""

    class Tank(Reading):
        level: float
        note: str | None = None

    asked = check_downsampling(Scope.of(Tank, None, None, None), None, "1d", "avg", "Europe/Zurich", None, "7d", "1m")
    assert text_of("days", "iot", "iot_days", "farm", "roof", asked) == (
        'import "date"\n'
        'import "timezone"\n'
        "\n"
        'option task = {name: "days", every: 1h, offset: 1m}\n'
        'option location = timezone.location(name: "Europe/Zurich")\n'
        "\n"
        "begin = date.sub(d: 1d, from: date.sub(d: 7d, from: now()))\n"
        "\n"
        'from(bucket: "iot")\n'
        "    |> range(start: begin, stop: date.add(d: 1d, to: now()))\n"
        '    |> filter(fn: (r) => r._measurement == "tank" and (r._field == "level"))\n'
        '    |> filter(fn: (r) => r.gateway_id == "roof")\n'
        "    |> filter(fn: (r) => exists r.device_id)\n"
        "    |> window(every: 1d, createEmpty: false)\n"
        "    |> filter(fn: (r) => r._start > begin and r._stop <= now())\n"
        "    |> mean()\n"
        '    |> duplicate(column: "_start", as: "_time")\n'
        "    |> window(every: inf)\n"
        '    |> to(bucket: "iot_days", org: "farm")\n'
    )


def test_a_task_averages_whole_numbers_as_floats() -> None:
    """As `aggregate` does: what `mean` adds up has to fit into 64 bits. `toFloat` leaves floats as they are."""
    for fields, function, step in (
        (["temperature", "count"], "avg", "toFloat"),
        (["count"], "sum", None),
        (["temperature"], "avg", None),
    ):
        asked = check_downsampling(scope(), fields, "1h", function, "UTC", None, "7d", "1m")  # type: ignore[arg-type]
        text = text_of("n", "iot", "hours", "farm", None, asked)
        name = "mean" if function == "avg" else function
        before = "r._stop <= now())\n    |> " + ("toFloat()\n    |> " if step else "")
        assert f"{before}{name}()\n    |> duplicate(" in text
