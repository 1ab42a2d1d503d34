"""Rows as binary COPY takes them: the number of columns, then the length and the bytes of each value, -1 for null; all
big-endian (PostgreSQL manual, COPY, "Binary Format").

psycopg's `write_row` is several calls in Python for each row. Code made for a model, from reading to bytes in one go,
takes half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct, error
from typing import Any

from edgedepot.storage.base import Version
from edgedepot.storage.buffer import Pending
from edgedepot.storage.clock import to_micros
from edgedepot.storage.reading import FieldSpec, Reading
from edgedepot.storage.values import TEXT_LIMIT

Cells = tuple[Any, ...]
"""A row: ``(gateway_id, device_id, timestamp, store_epoch, gateway_seq, quality, value, ...)``, the timestamp in
microseconds since `POSTGRES_EPOCH`."""
COLUMNS = ("gateway_id", "device_id", "quality", "timestamp", "store_epoch", "gateway_seq")
"""The columns that come before the model's fields, in the order in which they are written."""
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH_MICROS = to_micros(POSTGRES_EPOCH)
"""The same in microseconds since 1970 UTC."""
MICROSECOND = timedelta(microseconds=1)
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_NULL = b"\xff\xff\xff\xff"
_NUMBERS = {float: ("d", 8), int: ("q", 8), bool: ("?", 1)}
_KEYS = [("q", 8, "micros"), ("q", 8, "epoch"), ("q", 8, "seq")]
Number = tuple[str, int, str]
"""Its format in `struct`, its size, and the variable that holds it."""
Heads = dict[object, bytes]
"""By device id, how its rows begin; of one gateway."""
Other = Callable[[int], bytes]
"""The bytes of the row at that place of a sequence, by the long way: empty where the row is refused."""

_length = Struct(">i").pack


class Encoder:
    """Puts rows of a model together. Thread-safe: it holds no state that changes."""

    def __init__(self, fields: tuple[FieldSpec, ...]) -> None:
        count = Struct(">h").pack(len(COLUMNS) + len(fields))

        def head_of(gateway: str, device: str) -> bytes:
            return count + _text(gateway) + _text(device) + _NULL

        # No name in the code comes from outside, but for those of the fields, by repr.
        names: dict[str, Any] = {"NULL": _NULL, "text": _text, "head_of": head_of, "error": error, "Version": Version}
        names |= {"datetime": datetime, "UTC": UTC, "EPOCH": POSTGRES_EPOCH, "MICROSECOND": MICROSECOND}
        names["EPOCH_MICROS"] = EPOCH_MICROS
        names["declared"] = frozenset(spec.name for spec in fields)
        pieces = list(_pieces(names, fields))
        values = pieces[0] if len(pieces) == 1 else f"b''.join(({', '.join(pieces)}))"
        quality = _packed(names, [("h", 2, "quality")])
        code = [*_of_cells(len(fields), quality, values), *_of_rows(fields, values)]
        code += _of_pending(len(fields), quality, values)
        exec(compile("\n".join(code), "<row encoder>", "exec"), names)
        self.of_cells: Callable[[Iterable[Cells], Heads], list[bytes]] = names["of_cells"]
        """Rows that were checked, as bytes each. Adds to the heads."""
        self.of_rows: Callable[[Sequence[Any], Heads, Other], list[bytes]] = names["of_rows"]
        """Ordinary versions as bytes each: of a known device, in UTC, of good quality, every value of its field's type.
        For whatever else is among them the third argument is called."""
        self.of_pending: Callable[[Sequence[Pending], int, str, Heads, Other], list[bytes]] = names["of_pending"]
        """The local store's rows, of one epoch and one gateway, as bytes each. It checked them when they came in; for
        what cannot be written all the same the last argument is called. Adds to the heads."""


@lru_cache(maxsize=256)
def _encoder(fields: tuple[FieldSpec, ...]) -> Encoder:
    return Encoder(fields)


def encoder_of(model: type[Reading]) -> Encoder:
    """The encoder of a model; it is made once."""
    return _encoder(model.__fields__)


def _of_cells(count: int, quality: str, values: str) -> Iterator[str]:
    cells = "".join(f", v{number}" for number in range(count))
    yield "def of_cells(rows, heads):"
    yield "    pieces = []"
    yield f"    for gateway, device, micros, epoch, seq, quality{cells} in rows:"
    yield "        head = heads.get(device)"
    yield "        if head is None: head = heads[device] = head_of(gateway, device)"
    yield f"        if quality is not None: head = head[:-4] + {quality}"
    yield f"        pieces.append(head + {values})"
    yield "    return pieces"


def _of_rows(fields: Sequence[FieldSpec], values: str) -> Iterator[str]:
    reads = (f"data[{spec.name!r}]" if spec.required else f"data.get({spec.name!r})" for spec in fields)
    all_required = all(spec.required for spec in fields)
    yield "def of_rows(rows, heads, other):"
    yield "    pieces = []"
    yield "    add = pieces.append"
    yield "    for row in rows:"
    yield "        if row.__class__ is Version:"
    yield "            device, moment, data, quality, epoch, seq = row"
    yield "            try:"
    yield "                if (device.__class__ is str and moment.__class__ is datetime and moment.tzinfo is UTC"
    yield "                        and epoch.__class__ is seq.__class__ is int and epoch > 0 <= seq and quality is None"
    yield f"                        and data.__class__ is dict and {_no_more(len(fields), all_required)}):"
    yield from (f"                    v{number} = {read}" for number, read in enumerate(reads))
    yield f"                    if {' and '.join(_tests(fields))}:"
    yield "                        micros = (moment - EPOCH) // MICROSECOND"
    yield f"                        add(heads[device] + {values})"
    yield "                        continue"
    yield "            except (KeyError, error):  # no such device yet, a missing value, more than 64 bits"
    yield "                pass"
    yield "        add(other(len(pieces)))"
    yield "    return pieces"


def _of_pending(count: int, quality: str, values: str) -> Iterator[str]:
    cells = "".join(f", v{number}" for number in range(count))
    yield "def of_pending(rows, epoch, gateway, heads, other):"
    yield "    pieces = []"
    yield "    add = pieces.append"
    yield f"    for seq, _, device, micros, (quality{cells}) in rows:"
    yield "        head = heads.get(device)"
    yield "        if head is None: head = heads[device] = head_of(gateway, device)"
    yield "        micros -= EPOCH_MICROS"
    yield "        try:"
    yield f"            if quality is not None: head = head[:-4] + {quality}"
    yield f"            add(head + {values})"
    yield "        except (error, AttributeError):  # more than 64 bits, another type than the field's, a missing value"
    yield "            add(other(len(pieces)))"
    yield "    return pieces"


def _no_more(count: int, all_required: bool) -> str:
    """That there are no names but declared ones. Where all are required, their number tells."""
    return f"len(data) == {count}" if all_required else "declared.issuperset(data)"


def _tests(fields: Sequence[FieldSpec]) -> Iterator[str]:
    """What has to hold for the values to be storable as they are."""
    numbered = [(f"v{number}", spec) for number, spec in enumerate(fields)]
    for kind in (float, int, bool, str):
        cells = [cell for cell, spec in numbered if spec.type is kind and spec.required]
        if cells:
            yield f"{' is '.join(f'{cell}.__class__' for cell in cells)} is {kind.__name__}"
            yield from _fine(kind, cells)
    for cell, spec in numbered:
        if not spec.required:
            fine = " and ".join([f"{cell}.__class__ is {spec.type.__name__}", *_fine(spec.type, [cell])])
            yield f"({cell} is None or {fine})"
    if not any(spec.required for spec in fields):
        yield f"not ({' is '.join(cell for cell, _ in numbered)} is None)" if numbered else "False"


def _fine(kind: type, cells: Sequence[str]) -> Iterator[str]:
    """What has to hold beside the type. A sum is finite only if all of it is; where it is not, each is looked at."""
    if kind is float:
        yield from (f"({' + '.join(cells[n : n + 30])}) * 0.0 == 0.0" for n in range(0, len(cells), 30))
    if kind is str:
        yield from (f"len({cell}) <= {TEXT_LIMIT} and {cell}.isascii() and '\\0' not in {cell}" for cell in cells)


def _pieces(names: dict[str, Any], fields: Sequence[FieldSpec]) -> Iterator[str]:
    """Expressions for what follows the quality. Numbers that are always there are packed together."""
    run = list(_KEYS)
    for number, spec in enumerate(fields):
        cell = f"v{number}"
        numbers = [] if spec.type is str else [(*_NUMBERS[spec.type], cell)]
        if numbers and spec.required:
            run += numbers
            continue
        if run:
            yield _packed(names, run)
            run = []
        value = _packed(names, numbers) if numbers else f"text({cell})"
        yield value if spec.required else f"(NULL if {cell} is None else {value})"
    if run:
        yield _packed(names, run)


def _packed(names: dict[str, Any], numbers: Sequence[Number]) -> str:
    """An expression for numbers and their sizes."""
    name = f"pack{len(names)}"
    names[name] = Struct(">" + "".join(f"i{form}" for form, _, _ in numbers)).pack
    return f"{name}({', '.join(f'{size}, {cell}' for _, size, cell in numbers)})"


def _text(value: str) -> bytes:
    data = value.encode()
    return _length(len(data)) + data
