"""The four formats: what they read, and that they raise nothing but `DecodeError`."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedepot.drivers.formats import FORMATS, Format, make_format
from edgedepot.drivers.formats.csv import CsvFormat
from edgedepot.drivers.formats.json import JsonFormat
from edgedepot.drivers.formats.keyvalue import KeyValueFormat
from edgedepot.drivers.formats.value import ValueFormat
from edgedepot.storage.errors import ConfigError, DecodeError

ALL: list[Format] = [JsonFormat(), ValueFormat("a"), CsvFormat(["a", "b"]), KeyValueFormat()]

plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8")),
)  # fmt: skip


@pytest.mark.parametrize("format", ALL, ids=lambda format: type(format).__name__)
@given(raw=st.binary())
def test_any_bytes_are_fields_or_a_decode_error(format: Format, raw: bytes) -> None:
    try:
        fields = format.decode(raw)
    except DecodeError:
        return
    assert isinstance(fields, Mapping)


class TestJson:
    @given(st.dictionaries(st.text(st.characters(codec="utf-8")), plain))
    def test_reads_what_was_written(self, fields: dict[str, Any]) -> None:
        assert JsonFormat().decode(json.dumps(fields).encode()) == fields

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"[" * 100_000, "nested too deeply"),
            (b'{"a":' * 100_000, "nested too deeply"),
            (b"", "truncated"),
            (b"[1, 2]", "is an array"),
            (b"21.5", "is a number"),
            (b'"text"', "is a text"),
            (b"null", "is null"),
            (b"true", "is a boolean"),
            (b"NaN", "is a number"),
            (b'{"a": "\xff"}', "not utf-8"),
            (b"\xff\xfe{}", "not utf-8"),
            ('{"a": 1}'.encode("utf-16"), "not utf-8"),
            (b'{"a": 1}{', "trailing"),
            (b'{"a": 01}', "invalid number"),
            (b'{"a": 1', "truncated"),
        ],
    )
    def test_refuses(self, raw: bytes, reason: str) -> None:
        with pytest.raises(DecodeError, match=reason):
            JsonFormat().decode(raw)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e999", math.inf),
            ("-1e999", -math.inf),
            ("Infinity", math.inf),
            ("9" * 5000, math.inf),
            ("-" + "9" * 5000, -math.inf),
            ("9223372036854775808", 2**63),
            ('"\\ud800"', "\ud800"),
        ],
    )
    def test_lets_bad_values_through_for_the_fields_to_refuse(self, text: str, value: object) -> None:
        fields = JsonFormat().decode(f'{{"good": 1, "bad": {text}}}'.encode())
        assert fields == {"good": 1, "bad": value}

    def test_of_equal_names_the_last_counts(self) -> None:
        assert JsonFormat().decode(b'{"a": 1, "a": 2}') == {"a": 2}
        assert JsonFormat().decode(b'{"a": NaN, "a": 2}') == {"a": 2}

    @given(st.dictionaries(st.text(), st.one_of(plain, st.text('{}":,\\ 1')), min_size=1), st.data())
    def test_a_cut_front_never_looks_whole(self, fields: dict[str, Any], data: st.DataObject) -> None:
        raw = json.dumps(fields, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "replace")
        cut = raw[data.draw(st.integers(1, len(raw) - 1)) :]
        with pytest.raises(DecodeError):
            JsonFormat().decode(cut)


class TestValue:
    @pytest.mark.parametrize("raw", [b"21.5", b" 21.5\n", b"21.5\r\n"])
    def test_reads_one_value(self, raw: bytes) -> None:
        assert ValueFormat("temperature").decode(raw) == {"temperature": "21.5"}

    def test_refuses_nothing_and_bad_text(self) -> None:
        for raw, reason in ((b"", "empty"), (b" \n", "empty"), (b"\xff", "not utf-8: byte 0 is 0xff")):
            with pytest.raises(DecodeError, match=reason):
                ValueFormat("a").decode(raw)

    def test_other_encodings(self) -> None:
        assert ValueFormat("a", encoding="latin-1").decode(b"20 \xb0C") == {"a": "20 °C"}


class TestCsv:
    @pytest.mark.parametrize(
        ("line", "fields"),
        [
            (b"21.5,40", {"a": "21.5", "b": "40"}),
            (b" 21.5 , 40 ", {"a": "21.5", "b": "40"}),
            (b"21.5,", {"a": "21.5", "b": None}),
            (b'21.5,"a, ""quoted"" one"', {"a": "21.5", "b": 'a, "quoted" one'}),
            (b'21.5, "40"', {"a": "21.5", "b": "40"}),
        ],
    )
    def test_reads(self, line: bytes, fields: dict[str, object]) -> None:
        assert CsvFormat(["a", "b"]).decode(line) == fields

    @pytest.mark.parametrize("line", [b"1", b"1,2,3", b"", b'"1,2', b'"1"x,2', b'"a"\r"b",2'])
    def test_refuses_another_number_of_values_and_bad_quotes(self, line: bytes) -> None:
        with pytest.raises(DecodeError):
            CsvFormat(["a", "b"]).decode(line)

    def test_skips_columns_and_takes_other_delimiters(self) -> None:
        found = CsvFormat(["_", "a", "_"], delimiter=";").decode(b"$WX;21.5;*7F")
        assert found.get("a") == "21.5"
        assert CsvFormat(["_", "a", "_"]).names == ("a",)

    @pytest.mark.parametrize("columns", [[], ["_"], ["a", "a"], "ab"])
    def test_columns_must_be_names(self, columns: Any) -> None:
        with pytest.raises(ConfigError, match="columns: found"):
            CsvFormat(columns)

    @pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
    def test_delimiter_must_be_a_character(self, delimiter: str) -> None:
        with pytest.raises(ConfigError, match="delimiter: found"):
            CsvFormat(["a"], delimiter=delimiter)


class TestKeyValue:
    @pytest.mark.parametrize(
        ("line", "fields"),
        [
            (b"a=1 b=2", {"a": "1", "b": "2"}),
            (b"a=1,b=2", {"a": "1", "b": "2"}),
            (b"a=1, b=2;c=3", {"a": "1", "b": "2", "c": "3"}),
            (b" a = 1  b = 2 ", {"a": "1", "b": "2"}),
            (b'a="x, y=1" b=2', {"a": "x, y=1", "b": "2"}),
            (rb'a="\"\\" b=2', {"a": '"\\', "b": "2"}),
            (b'a="" b=', {"a": "", "b": None}),
            (b"a=-1.5e-3", {"a": "-1.5e-3"}),
            (b"a=1 a=2", {"a": "2"}),
        ],
    )
    def test_reads(self, line: bytes, fields: dict[str, object]) -> None:
        assert KeyValueFormat().decode(line) == fields

    @pytest.mark.parametrize("line", [b"", b"a", b"a=1 b", b"=1", b'a="1', b'a="1"b=2', b"a=1=2", b"a=1 ,, b=2"])
    def test_refuses(self, line: bytes) -> None:
        with pytest.raises(DecodeError, match=r"expected name=value|is empty"):
            KeyValueFormat().decode(line)

    def test_hostile_lines_take_no_time(self) -> None:
        for line in (
            b"a" * 60_000,
            b" " * 60_000 + b"a",
            b'a="' + b"\\" * 60_000,
            b"=" * 60_000,
            b"a=" + b" " * 60_000,
        ):
            with pytest.raises(DecodeError):
                KeyValueFormat().decode(line + b'"x')


class TestByName:
    def test_every_shipped_name(self) -> None:
        options: dict[str, dict[str, Any]] = {"value": {"field": "a"}, "csv": {"columns": ["a"]}}
        for name in FORMATS.shipped:
            assert isinstance(make_format(name, options.get(name, {}), Owner), Format)

    def test_an_own_one_by_dotted_path_or_ready_made(self) -> None:
        assert isinstance(make_format(f"{__name__}.Shouting", {}, Owner), Shouting)
        ready = Shouting()
        assert make_format(ready, {}, Owner) is ready

    @pytest.mark.parametrize(
        ("format", "options", "problem"),
        [
            ("jason", {}, "format: .*csv, json, keyvalue, value.*did you mean"),
            ("value", {}, "field: missing, expected a text"),
            ("csv", {"columns": "a,b"}, "columns: found"),
            ("csv", {"columns": ["a"], "delimter": ";"}, "'delimter'.*did you mean .delimiter"),
            ("json", {"bautrate": 9600}, "'bautrate'.*did you mean .baudrate.*takes no options"),
            ("value", {"field": "a", "encoding": "utf-9"}, "encoding: found 'utf-9'"),
            (ALL[0], {"field": "a"}, "'field'"),
        ],
    )
    def test_wrong_settings_are_named(self, format: str | Format, options: dict[str, Any], problem: str) -> None:
        with pytest.raises(ConfigError, match=problem):
            make_format(format, options, Owner)


class Owner:
    """Stands for a driver: its settings are offered where a name is misspelt."""

    def __init__(self, baudrate: int) -> None: ...


class Shouting(Format):
    def decode(self, raw: bytes) -> Mapping[str, Any]:
        return {"a": raw.decode().upper()}
