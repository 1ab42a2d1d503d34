"""Records of a CSV or JSON lines file, one at a time, each with the number of its first line.

What is no record is one too, with the reason in place of its data: a file is read to its end. Memory is bounded: no
line may be longer than 1 MiB, no cell than Python's csv module allows (128 KiB).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from edgedepot.storage.errors import InvalidValue

LINE_LIMIT = 1 << 20
_CELL = re.compile(r'(?:"(?:[^"]|"")*+"|[^,\r\n]*)(?=[,\r\n]|\Z)')


class Record(NamedTuple):
    """One record: `data` by name, or the `problem` why there is none."""

    line: int
    data: dict[str, Any] | None
    problem: str = ""


class Lines:
    """The lines of a file, counted. `advance` hears of the bytes read.

    What is no UTF-8 becomes lone surrogates, which no value may hold.
    """

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self.number = 0
        self.raw: list[str] = []
        """The lines since the last `begin`."""

    def begin(self) -> None:
        """A record ends here, and the next one begins."""
        self.raw.clear()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line with its end. Raises `InvalidValue` for one that is too long, behind which reading goes on."""
        found = self._file.readline(LINE_LIMIT)
        if not found:
            raise StopIteration
        self.number += 1
        self._advance(len(found))
        if len(found) == LINE_LIMIT and not found.endswith(b"\n"):
            self._skip_line()
            raise InvalidValue(f"is a line of more than {LINE_LIMIT} bytes")
        text = found.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")
        self.raw.append(text)
        return text

    def _skip_line(self) -> None:
        while (found := self._file.readline(LINE_LIMIT)) and not found.endswith(b"\n"):
            self._advance(len(found))
        self._advance(len(found))


def json_records(lines: Lines) -> Iterator[Record]:
    """Each line that is not blank holds an object."""
    while True:
        lines.begin()
        try:
            text = next(lines)
            if text.isspace():
                continue
            found = json.loads(text)
        except StopIteration:
            return
        except (ValueError, RecursionError) as exc:
            yield Record(lines.number, None, f"is no JSON: {exc}" if not isinstance(exc, InvalidValue) else str(exc))
            continue
        if isinstance(found, dict):
            yield Record(lines.number, found)
        else:
            yield Record(lines.number, None, f"is {type(found).__name__}, expected an object")


class CsvFile:
    """RFC 4180, `\\n` or `\\r\\n`; a blank line is skipped. `names` is the head line."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._reader = csv.reader(lines, strict=True)
        found = self._next()
        while found == []:
            found = self._next()
        if isinstance(found, str):
            raise InvalidValue(f"line {lines.number} {found}, expected the columns' names")
        self.names: Sequence[str] = [name.strip() for name in found or []]

    def records(self, texts: Sequence[bool]) -> Iterator[Record]:
        """The cells by name. `texts` says of each column whether its cells are texts: there, an empty cell is null,
        and ``""`` an empty text; elsewhere both are null."""
        text_places = [index for index, is_text in enumerate(texts) if is_text]
        while True:
            line = self._lines.number + 1
            cells = self._next()
            if cells is None:
                return
            if isinstance(cells, str):
                yield Record(line, None, f"{cells}{self._reaching_from(line)}")
            elif len(cells) != len(self.names) and cells:
                yield Record(
                    line, None, f"has {len(cells)} cells, expected {len(self.names)}{self._reaching_from(line)}"
                )
            elif cells:
                values: list[str | None] = [cell or None for cell in cells]
                if any(cells[place] == "" for place in text_places):
                    self._tell_empty_from_null(values, text_places)
                yield Record(line, dict(zip(self.names, values, strict=True)))

    def _next(self) -> list[str] | str | None:
        """The cells of the next record; none for a blank line; a problem; None at the end."""
        self._lines.begin()
        try:
            return next(self._reader, None)
        except csv.Error as exc:
            return f"is no CSV: {exc}"
        except InvalidValue as exc:
            return str(exc)

    def _reaching_from(self, line: int) -> str:
        return f" (up to line {self._lines.number})" if self._lines.number > line else ""

    def _tell_empty_from_null(self, values: list[str | None], places: Sequence[int]) -> None:
        """The csv module drops the quotes: look at what was there."""
        raw = "".join(self._lines.raw)
        if '""' not in raw:
            return
        position, written = 0, []
        for _ in values:
            found = _CELL.match(raw, position)
            written.append(found[0] if found else "")
            position = found.end() + 1 if found else position
        for place in places:
            if written[place] == '""':
                values[place] = ""
