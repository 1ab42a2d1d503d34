"""Pending rows as versions, thousands at a time: what sync hands to storages.

Code made for a model takes a quarter of the time that `Pending.version` takes; and a storage that can write pending
rows as they are has no versions made at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, overload

from edgedepot.storage.base import Version
from edgedepot.storage.buffer import Pending
from edgedepot.storage.clock import EPOCH
from edgedepot.storage.reading import FieldSpec

_Maker = Callable[[Sequence[Pending], int], list[Version]]
_TOGETHER = 250
"""So many versions are made at a time: those of a whole batch would take megabytes."""


class Versions(Sequence[Version]):
    """`Pending.version` of rows that are all of one reading model and one epoch, made when they are asked for.

    `rows` are as the local store has them, so its rules, which are those of every storage, were applied to them.
    `at_end` is called, maybe more than once, when the last row was asked for: whoever asks has little left to do then
    but to wait for an answer.
    """

    __slots__ = ("_at_end", "epoch", "rows")

    def __init__(self, rows: Sequence[Pending], epoch: int, at_end: Callable[[], None] = lambda: None) -> None:
        self.rows = rows
        self.epoch = epoch
        self._at_end = at_end

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Version: ...
    @overload
    def __getitem__(self, index: slice) -> Versions: ...
    def __getitem__(self, index: int | slice) -> Version | Versions:
        if isinstance(index, slice):
            if index.indices(len(self))[1] == len(self):
                self._at_end()
            return Versions(self.rows[index], self.epoch)
        return self.rows[index].version(self.epoch)

    def __iter__(self) -> Iterator[Version]:
        for start in range(0, len(self.rows), _TOGETHER):
            some = self.rows[start : start + _TOGETHER]
            yield from _maker(some[0].model.__fields__)(some, self.epoch)
        self._at_end()


@lru_cache(maxsize=256)
def _maker(fields: tuple[FieldSpec, ...]) -> _Maker:
    # No name in the code comes from outside, but for those of the fields, by repr. A `NamedTuple` made by `tuple` is
    # the same, without a call in Python.
    names: dict[str, Any] = {
        "new": tuple.__new__,
        "Version": Version,
        "EPOCH": EPOCH,
        "UNIT": timedelta(microseconds=1),
    }
    exec(compile("\n".join(_code(fields)), "<versions>", "exec"), names)
    made: _Maker = names["versions"]
    return made


def _code(fields: Sequence[FieldSpec]) -> Iterator[str]:
    values = "".join(f", v{number}" for number in range(len(fields)))
    always = ", ".join(f"{spec.name!r}: v{number}" for number, spec in enumerate(fields) if spec.required)
    yield "def versions(rows, epoch):"
    yield "    made = []"
    yield "    add = made.append"
    yield f"    for seq, _, device, ts, (quality{values},) in rows:"
    yield f"        data = {{{always}}}"
    for number, spec in enumerate(fields):
        if not spec.required:
            yield f"        if v{number} is not None: data[{spec.name!r}] = v{number}"
    yield "        add(new(Version, (device, EPOCH + ts * UNIT, data, quality, epoch, seq)))"
    yield "    return made"
