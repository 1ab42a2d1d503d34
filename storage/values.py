"""From a mapping of values to the row that is stored: the rules of what is storable, and code made for each model.

A row is a tuple ``(quality, value, value, ...)`` in the order of the declared fields. `RowMaker.make` is for Python
code: anything wrong raises. `RowMaker.sift` is for devices: it converts text to numbers, keeps the good fields and
reports the others.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntFlag
from typing import Any, NamedTuple, Protocol

from edgedepot.storage.errors import InvalidValue

TEXT_LIMIT = 1024
MISSING = "is missing"
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_TRUTH = {
    "true": True, "1": True, "on": True, "yes": True,
    "false": False, "0": False, "off": False, "no": False,
}  # fmt: skip

_ROW_SIZE = 56
_CELL_SIZES = {float: 40, int: 40, bool: 8, str: 8}
"""A row's bytes of memory with its quality, and a value's, of which a text has its own besides: on a 64-bit machine, in
steps of 16, as Python gives them out."""

Row = tuple[Any, ...]
Data = Mapping[str, Any]


class Quality(IntFlag):
    """What is known against a reading; stored as null when nothing is."""

    OUT_OF_RANGE = 1
    RESTAMPED = 2
    TIME_REPLACED = 4
    THINNED = 8
    TIME_UNCERTAIN = 16


class Flaw(NamedTuple):
    """A field that could not be stored, and why."""

    field: str
    reason: str


class Spec(Protocol):
    """The part of a declared field that values are checked against."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> type: ...
    @property
    def required(self) -> bool: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def text_problem(text: str) -> str | None:
    """Why a text cannot be stored, or None: at most 1 KiB of UTF-8, no lone surrogate, and no NUL, which PostgreSQL's
    texts do not hold."""
    if "\0" in text:
        return "holds a NUL"
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return "holds a lone surrogate, which no UTF-8 text can"
    return f"is {size} bytes long, at most {TEXT_LIMIT} are stored" if size > TEXT_LIMIT else None


def name_problem(name: object) -> str | None:
    """Why a store cannot keep a name and tell it from none, or None."""
    if not isinstance(name, str):
        return f"is {type(name).__name__}, expected a text"
    return text_problem(name) if name else "is empty"


def checked_name(name: str, what: str) -> str:
    """`name`. Raises `InvalidValue`, which says what it is of, where a store cannot keep it."""
    if problem := name_problem(name):
        raise InvalidValue(f"{what} {name!r:.80} {problem}")
    return name


def checked_text(text: object, what: str) -> str:
    """`text`, where a store can keep it, of any length. Raises `InvalidValue`."""
    if not isinstance(text, str):
        raise InvalidValue(f"{what} is {type(text).__name__}, expected a text")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidValue(f"{what} holds a lone surrogate, which no UTF-8 text can") from exc
    return text


def convert(value: Any, kind: type) -> float | int | bool | str:
    """The value as the field's type, as Python code may give it. Raises `InvalidValue` with the reason alone."""
    if isinstance(value, bool):
        if kind is bool:
            return value
    elif kind is float and isinstance(value, numbers.Real):
        return _finite(value)
    elif kind is int and isinstance(value, numbers.Integral):
        return _in_64_bits(int(value))
    elif kind is str and isinstance(value, str):
        problem = text_problem(value)
        if problem:
            raise InvalidValue(problem)
        return str(value)
    raise InvalidValue(f"is {_shown(value)}, expected {kind.__name__}")


def convert_from_device(value: Any, kind: type) -> float | int | bool | str:
    """As `convert`, and numeric text to numbers, and text or 0 and 1 to bool."""
    if isinstance(value, str) and kind is not str:
        return _read_text(value, kind)
    if kind is bool and type(value) is int and value in (0, 1):
        return value == 1
    return convert(value, kind)


def _read_text(text: str, kind: type) -> float | int | bool:
    if kind is float and _NUMBER.fullmatch(text):
        return _finite(float(text))
    if kind is int and _INTEGER.fullmatch(text) and len(text) < 40:
        return _in_64_bits(int(text))
    if kind is bool and text.strip().lower() in _TRUTH:
        return _TRUTH[text.strip().lower()]
    raise InvalidValue(f"is {_shown(text)}, expected {kind.__name__}")


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidValue(f"is {_shown(value)}, expected a finite number")
    return number


def _in_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidValue(f"is {value if abs(value) < 10**40 else 'a huge integer'}, beyond 64 bits")
    return value


def represent(kind: type, values: Sequence[Any]) -> Any:
    """One value of a field for several of them, oldest first: the average of floats, of others the last; None where
    all are."""
    there = [value for value in values if value is not None]
    if not there or kind is not float:
        return there[-1] if there else None
    try:
        return math.fsum(there) / len(there)
    except OverflowError:
        return math.fsum(value / len(there) for value in there)


def _shown(value: Any) -> str:
    """A short text of any value: type and a cut of its repr, safe for huge and hostile ones."""
    if isinstance(value, (str, bytes)):
        return f"{type(value).__name__} {value[:60]!r}"
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    return type(value).__name__


class RowMaker:
    """Makes rows for one reading model. Thread-safe: it holds no state that changes."""

    def __init__(self, model_name: str, fields: Sequence[Spec]) -> None:
        self._model_name = model_name
        self._fields = tuple(fields)
        self._names = frozenset(spec.name for spec in fields)
        self.size = _ROW_SIZE + sum(_CELL_SIZES[spec.type] for spec in fields)
        """About how many bytes of memory a row with all values takes, apart from its texts."""
        self.texts = tuple(place for place, spec in enumerate(fields, 1) if spec.type is str)
        """Where in a row its texts are."""
        self.fast = _compile_fast(self._fields)
        """As `sift`, in the ordinary case; None for anything else, which `sift` then has to look at."""
        self.quick = _compile_fast(self._fields, exact=True)
        """As `make`, for a dict in the ordinary case; None for anything else, which `make` then has to look at."""

    def make(self, data: Mapping[str, Any]) -> Row:
        """The row of a reading from Python code. Raises `InvalidValue` that names the field, or the unknown name."""
        quick = self.quick(data)
        if quick is not None:
            return quick
        if not isinstance(data, Mapping):
            raise InvalidValue(f"{self._model_name}: data is {_shown(data)}, expected a mapping of fields to values")
        row, flaws = self._convert_all(data, convert)
        for name in data:
            if name not in self._names:
                known = ", ".join(spec.name for spec in self._fields)
                raise InvalidValue(f"{self._model_name} has no field {str(name)[:80]!r}; its fields are {known}")
        if flaws or row is None:
            raise InvalidValue(f"{self._model_name}: {describe(flaws)}")
        return row

    def sift(self, data: Mapping[str, Any]) -> tuple[Row | None, list[Flaw]]:
        """The row of a reading from a device, and the fields that could not be stored.

        Names that are not declared are left aside: devices send more than one asks for. The row is None when a
        required field is missing or bad, or when no value is left.
        """
        row = self.fast(data)
        return (row, []) if row is not None else self._convert_all(data, convert_from_device)

    def quality_of(self, row: Row) -> int | None:
        """The range flag that the row's values deserve, alone."""
        for spec, value in zip(self._fields, row[1:], strict=True):
            if value is not None and _is_outside(spec, value):
                return int(Quality.OUT_OF_RANGE)
        return None

    def merged_quality(self, old: int | None, new: int | None, values: tuple[Any, ...]) -> int | None:
        """The quality of a merged reading: its range flag is what its values deserve now, other flags stay."""
        flags = ((old or 0) | (new or 0)) & ~Quality.OUT_OF_RANGE
        return int(flags | (self.quality_of((None, *values)) or 0)) or None

    def _convert_all(
        self, data: Mapping[str, Any], conversion: Callable[[Any, type], Any]
    ) -> tuple[Row | None, list[Flaw]]:
        flaws: list[Flaw] = []
        cells: list[Any] = [None]
        complete = True
        for spec in self._fields:
            value = data.get(spec.name)
            if value is not None:
                try:
                    value = conversion(value, spec.type)
                except InvalidValue as exc:
                    flaws.append(Flaw(spec.name, str(exc)))
                    value = None
            elif spec.required:
                flaws.append(Flaw(spec.name, MISSING))
            complete = complete and not (value is None and spec.required)
            cells.append(value)
        if not complete:
            return None, flaws
        if all(cell is None for cell in cells):
            return None, flaws or [Flaw("", "no field has a value")]
        row = tuple(cells)
        return (self.quality_of(row), *row[1:]), flaws


def describe(flaws: Sequence[Flaw]) -> str:
    """The flaws as one line for people."""
    return "; ".join(f"{flaw.field} {flaw.reason}".strip() for flaw in flaws)


def _is_outside(spec: Spec, value: Any) -> bool:
    return (spec.low is not None and value < spec.low) or (spec.high is not None and value > spec.high)


def _compile_fast(fields: Sequence[Spec], exact: bool = False) -> Callable[[Data], Row | None]:
    """Straight-line code for the ordinary case: every value present has its type. None for anything else; where `exact`
    also for what is no dict, or has other names.

    A loop over the fields costs five times as much for four floats. Only names checked at declaration, and numbers by
    repr, get into the source.
    """
    lines = ["def fast(data):"]
    if exact:
        # Where all are required and there, their number tells that there is no other name among them.
        is_more = f"len(data) > {len(fields)}" if all(spec.required for spec in fields) else "not data.keys() <= names"
        lines.append(f"    if data.__class__ is not dict or {is_more}: return None")
    lines.append("    get = data.get")
    outside: list[str] = []
    for index, spec in enumerate(fields):
        cell = f"v{index}"
        lines.append(f"    {cell} = get({spec.name!r})")
        guard = _guard(spec, cell)
        lines += [f"    {line}" for line in guard] if spec.required else _when_present(cell, guard)
        outside += _outside_terms(spec, cell)
    cells = ", ".join(f"v{index}" for index in range(len(fields)))
    if not any(spec.required for spec in fields):
        lines.append(f"    if {' and '.join(f'v{i} is None' for i in range(len(fields))) or 'True'}: return None")
    quality = f"1 if {' or '.join(outside)} else None" if outside else "None"
    lines.append(f"    return ({quality}, {cells})")
    namespace: dict[str, Any] = {"names": frozenset(spec.name for spec in fields)}
    exec(compile("\n".join(lines), "<row maker>", "exec"), namespace)
    made: Callable[[Data], Row | None] = namespace["fast"]
    return made


def _when_present(cell: str, guard: list[str]) -> list[str]:
    return [f"    if {cell} is not None:", *(f"        {line}" for line in guard)]


def _guard(spec: Spec, cell: str) -> list[str]:
    if spec.type is float:
        return [
            f"if {cell}.__class__ is not float:",
            f"    if {cell}.__class__ is not int or not {-(2**53)} <= {cell} <= {2**53}: return None",
            f"    {cell} = float({cell})",
            f"if {cell} - {cell} != 0.0: return None",
        ]
    if spec.type is int:
        return [f"if {cell}.__class__ is not int or not {-(2**63)} <= {cell} < {2**63}: return None"]
    if spec.type is bool:
        return [f"if {cell} is not True and {cell} is not False: return None"]
    return [
        f"if {cell}.__class__ is not str or len({cell}) > {TEXT_LIMIT} or not {cell}.isascii() or '\\0' in {cell}:",
        "    return None",
    ]


def _outside_terms(spec: Spec, cell: str) -> list[str]:
    present = "" if spec.required else f"{cell} is not None and "
    terms = [] if spec.low is None else [f"{present}{cell} < {spec.low!r}"]
    return terms + ([] if spec.high is None else [f"{present}{cell} > {spec.high!r}"])
