"""Line protocol: what was put in comes out of somebody else's parser."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_protocol_parser import parse_line

from edgedepot import Reading
from edgedepot.storage.buffer import Pending
from edgedepot.storage.influxdb.line import EARLIEST, LATEST, encoder_of, head_of, id_of, tag_of
from edgedepot.storage.reading import define_model, device_id_of
from edgedepot.storage.values import text_problem
from tests.models import Weather
from tests.storage.influxdb.scripted import lines_of

AWKWARD = " ,=\"\\\n\t'%0A%5C25#{}äß雪🎈\r"


class Options(Reading):
    """Only fields that may be absent."""

    number: float | None = None
    count: int | None = None
    on: bool | None = None
    text: str | None = None


texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(AWKWARD), max_size=30)
ids = texts.filter(lambda text: text != "" and "\0" not in text)
values: dict[type, st.SearchStrategy[Any]] = {
    # The parser takes no subnormal numbers; InfluxDB does (test_real_servers.py).
    float: st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    str: texts.filter(lambda text: text_problem(text) is None and "\0" not in text),
}
moments = st.integers(EARLIEST, LATEST - 1)
# Flux's own words (https://docs.influxdata.com/flux/v0/spec/lexical-elements/#keywords and what its grammar adds), and
# the one column of an answer that a field may share its name with.
FLUX_WORDS = ["and", "builtin", "else", "empty", "exists", "if", "import", "in", "not", "option", "or", "package",
              "return", "table", "test", "testcase", "then"]  # fmt: skip
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}x", fullmatch=True) | st.sampled_from(FLUX_WORDS)


@st.composite
def models(draw: st.DrawFn) -> type[Reading]:
    """A reading model with fields of any types, some of them required."""
    found = draw(st.lists(names, min_size=1, max_size=6, unique_by=str.lower))
    fields = {name: (draw(st.sampled_from(list(values))), draw(st.booleans()), None) for name in found}
    return define_model("Drawn", fields)


@st.composite
def readings(draw: st.DrawFn) -> tuple[type[Reading], dict[str, Any]]:
    """A model and data for it, with at least one value."""
    model = draw(models())
    data = {}
    for spec in model.__fields__:
        if spec.required or draw(st.booleans()):
            data[spec.name] = draw(values[spec.type])
    if not data:
        spec = model.__fields__[0]
        data[spec.name] = draw(values[spec.type])
    return model, data


def encode(model: type[Reading], device: str, gateway: str, micros: int, data: dict[str, Any]) -> str:
    return encoder_of(model)(head_of(model, device, gateway), micros, model.__rows__.make(data))


@given(reading=readings(), device=ids, gateway=ids, micros=moments)
def test_a_line_says_what_the_reading_says(
    reading: tuple[type[Reading], dict[str, Any]], device: str, gateway: str, micros: int
) -> None:
    model, data = reading
    line = encode(model, device, gateway, micros, data)
    assert lines_of(line.encode()) == [line]
    parsed = parse_line(line)
    assert parsed["measurement"] == "drawn"
    assert {name: id_of(tag) for name, tag in parsed["tags"].items()} == {"device_id": device, "gateway_id": gateway}
    assert parsed["fields"] == data
    assert {name: type(value) for name, value in parsed["fields"].items()} == {
        name: type(value) for name, value in data.items()
    }
    assert parsed["time"] == micros * 1000


@given(st.lists(st.tuples(readings(), ids, moments), min_size=1, max_size=5))
def test_lines_of_a_batch_stay_apart(rows: list[tuple[tuple[type[Reading], dict[str, Any]], str, int]]) -> None:
    lines = [encode(model, device, "roof", micros, data) for (model, data), device, micros in rows]
    assert lines_of("\n".join(lines).encode()) == lines


@given(ids)
def test_every_id_has_a_tag_of_its_own(name: str) -> None:
    tag = tag_of(device_id_of(name))
    assert id_of(tag) == name
    assert not any(char < " " for char in tag)
    assert not tag.endswith("\\")


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("mast", "mast"),
        ("roof/2,a=b c", "roof/2,a=b c"),
        ("50%", "50%"),
        ("%s", "%s"),
        ("back\\slash", "back\\slash"),
        ("back\\", "back%5C"),
        ("two\nlines", "two%0Alines"),
        ("%0A", "%250A"),
        ("100%25", "100%2525"),
        ("5%\n", "5%25%0A"),
        ("tab\there\r", "tab%09here%0D"),
    ],
)
def test_only_ids_that_no_tag_can_be_are_written_otherwise(name: str, tag: str) -> None:
    assert tag_of(name) == tag
    assert id_of(tag) == name


def test_the_ordinary_line() -> None:
    data = {"temperature": 21.5, "raining": False, "note": 'a "b"\\\nc, d=e', "count": 3}
    assert encode(Weather, "mast 1,a=b", "roof", 1_700_000_000_000_001, data) == (
        r"weather,device_id=mast\ 1\,a\=b,gateway_id=roof "
        'temperature=21.5,raining=false,note="a \\"b\\"\\\\\nc, d=e",count=3i 1700000000000001000'
    )


@pytest.mark.parametrize(
    ("row", "written"),
    [
        ((None, None, None, True, None), "on=true"),
        ((None, None, 7, None, ""), 'count=7i,text=""'),
        ((0, 1e300, None, None, None), "number=1e+300,quality=0i"),
        ((3, None, None, None, "x"), 'text="x",quality=3i'),
    ],
)
def test_nulls_are_left_out_and_a_quality_of_0_is_not(row: tuple[Any, ...], written: str) -> None:
    assert encoder_of(Options)("m ", 5, row) == f"m {written} 5000"


def test_a_reading_outside_its_range_carries_its_flag() -> None:
    assert " temperature=99.0,quality=1i " in encode(Weather, "a", "g", 5, {"temperature": 99})


def test_times_before_1970() -> None:
    assert encode(Weather, "a", "g", -1, {"temperature": 1}).endswith(" -1000")
    assert encode(Weather, "a", "g", 0, {"temperature": 1}).endswith(" 0000")
    assert parse_line(encode(Weather, "a", "g", 0, {"temperature": 1}))["time"] == 0


def test_lines_never_hold_more_than_sync_hands_on() -> None:
    """What the local store hands on has None for absent fields; no line has a field without a value."""
    pending = Pending(1, Options, "a", 5, (None, None, None, False, None))
    version = pending.version(1)
    assert version.timestamp == datetime(1970, 1, 1, 0, 0, 0, 5, UTC)
    line = encode(Options, version.device, "g", 5, dict(version.data))
    assert re.fullmatch(r"options,device_id=a,gateway_id=g on=false 5000", line)
