"""Readings as line protocol, by code made for each reading model.

https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from edgedepot.storage.clock import to_micros
from edgedepot.storage.reading import FieldSpec, Reading
from edgedepot.storage.values import Row

Encoder = Callable[[str, int, Row], str]

# InfluxDB counts nanoseconds in 64 bits and keeps the outermost for itself. Whole seconds inside of that.
EARLIEST = to_micros(datetime(1677, 9, 21, 0, 12, 44, tzinfo=UTC))
"""The first time that can be written, in microseconds since 1970 UTC."""
LATEST = to_micros(datetime(2262, 4, 11, 23, 47, 16, tzinfo=UTC))
"""The first time that cannot be written any more."""

_TAG_ESCAPES = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_WRITTEN = re.compile("%(25|5C|[01][0-9A-F])")
_UNFIT = re.compile(rf"[\x00-\x1f]|\\\Z|{_WRITTEN.pattern}")
_FORMS = {float: "{%s!r}", int: "{%s}i", bool: "{'true' if %s else 'false'}", str: "{quoted(%s)}"}


def head_of(model: type[Reading], device_id: str, gateway_id: str) -> str:
    """What the lines of one device begin with: measurement and tags."""
    device, gateway = (tag_of(name).translate(_TAG_ESCAPES) for name in (device_id, gateway_id))
    return f"{model.__measurement__},device_id={device},gateway_id={gateway} "


def tag_of(name: str) -> str:
    """The tag of an id: the id itself, but for the few that no tag can be.

    In tags a backslash stands for itself, unless a comma, a space or an equals sign comes next: at the end it would
    escape what separates the tags. A line break ends the line wherever it stands in a tag. Such an id, and one with any
    other control character, is written as in urls, with ``%5C`` and ``%0A``; so is one that looks like that by itself.
    """
    if not _UNFIT.search(name):
        return name
    name = re.sub(r"[%\x00-\x1f]", lambda match: f"%{ord(match[0]):02X}", name)
    return name[:-1] + "%5C" if name.endswith("\\") else name


def id_of(tag: str) -> str:
    """The id that a tag stands for."""
    return _WRITTEN.sub(lambda match: chr(int(match[1], 16)), tag) if "%" in tag else tag


def text_value(value: str) -> str:
    """A text field's value with its quotes, escaped. Line breaks in it are allowed as they are."""
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


_encoders: WeakKeyDictionary[type[Reading], Encoder] = WeakKeyDictionary()


def encoder_of(model: type[Reading]) -> Encoder:
    """The model's encoder, made once: ``encode(head, micros, row)`` is one line, without a line break at its end.

    `head` comes from `head_of`, `micros` is the time in microseconds since 1970 UTC, `row` is as `Reading.__rows__`
    makes it, with at least one value. Nulls are left out, a quality of None too; a quality of 0 is written.
    """
    if model not in _encoders:
        _encoders[model] = _compiled(model.__fields__)
    return _encoders[model]


def _compiled(fields: tuple[FieldSpec, ...]) -> Encoder:
    # Straight-line code, as in values.py: one f-string takes half the time of a loop over the fields. The names in it
    # were checked at declaration.
    source = "\n    ".join(["def encode(head, micros, row):", *_statements(fields)])
    namespace: dict[str, Any] = {"quoted": text_value}
    exec(compile(source, "<line encoder>", "exec"), namespace)
    made: Encoder = namespace["encode"]
    return made


def _statements(fields: tuple[FieldSpec, ...]) -> list[str]:
    cells = [f"v{index}" for index in range(len(fields))]
    lines = [f"quality, {', '.join(cells)}, = row", 'q = "" if quality is None else f",quality={quality}i"']
    always, sometimes = [], []
    for spec, cell in zip(fields, cells, strict=True):
        written = f"{spec.name}={_FORMS[spec.type] % cell}"
        if spec.required:
            always.append(written)
        else:
            lines.append(f'{cell} = "" if {cell} is None else f",{written}"')
            sometimes.append(f"{{{cell}}}")
    text = ",".join(always) + "".join(sometimes) + "{q}"
    if always:
        return [*lines, f'return f"{{head}}{text} {{micros}}000"']
    return [*lines, f'text = f"{text}"', 'return f"{head}{text[1:]} {micros}000"']
