"""What waits in the writer's queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import itemgetter
from sys import getsizeof
from typing import Protocol

from edgedepot.storage.buffer import Arrival, Intake, Reject
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.rejects import note_intake
from edgedepot.storage.values import convert


class Item(Protocol):
    """Something to write. `apply` runs in the transaction, again if that is undone; `settle` after the commit."""

    receipt: Receipt

    @property
    def weight(self) -> int:
        """How many rows it counts for where the queue is bounded."""
        ...

    @property
    def size(self) -> int:
        """For how many bytes of memory it counts there; the same at any time."""
        ...

    def apply(self, journal: Journal) -> None: ...

    def settle(self, rank: int) -> None: ...

    def reject_unstorable(self) -> bool:
        """After a failure that lies in the data: take out what breaks the rules; False where nothing does."""
        ...


_ITEM_SIZE = 256
"""A write itself, its receipt, and the list of its rows, in bytes."""
_INTAKE_SIZE = 192
_ARRIVAL_SIZE = 128
"""An arrival without its row and without the device's name, which the readings of a device in one write share."""
_REJECT_SIZE = 128
"""A reject without its texts."""
_MODEL, _DEVICE, _ROW = itemgetter(0), itemgetter(1), itemgetter(4)


class Write:
    """Readings of one source, with what else came in beside them."""

    __slots__ = ("_arrivals", "_duplicates", "_intake", "_refused", "_source", "receipt", "size")

    def __init__(
        self, receipt: Receipt, source: str, arrivals: Sequence[Arrival], intake: Intake | None = None
    ) -> None:
        self.receipt = receipt
        self._source = source
        self._arrivals = arrivals
        self._intake = intake
        self._duplicates = 0
        self._refused: tuple[Refusal, ...] = ()
        self.size = _ITEM_SIZE + receipt.refused_size + _size_of(arrivals)
        if intake is not None:
            self.size += _INTAKE_SIZE + sum(_REJECT_SIZE + len(it.reason) + len(it.raw) for it in intake.rejects)

    @property
    def weight(self) -> int:
        return len(self._arrivals) + (0 if self._intake is None else len(self._intake.rejects))

    def apply(self, journal: Journal) -> None:
        unchecked_at = None if self._intake is None else self._intake.unchecked_at
        self._duplicates = journal.write(self._source, self._arrivals, unchecked_at)
        if self._intake is not None:
            note_intake(journal, self._intake)

    def settle(self, rank: int) -> None:
        self.receipt.settle(rank, len(self._arrivals) - self._duplicates, self._duplicates, self._refused)

    def reject_unstorable(self) -> bool:
        refused = [
            Refusal(index, reason)
            for index, arrival in enumerate(self._arrivals)
            if (reason := _why_unstorable(arrival)) is not None
        ]
        if not refused:
            return False
        bad = {refusal.index for refusal in refused}
        self._intake = self._intake or Intake(self._source)
        self._intake.rejects += [
            Reject("reading", refusal.reason, repr(self._arrivals[refusal.index].row).encode("utf-8", "replace"))
            for refusal in refused
        ]
        self._arrivals = [arrival for index, arrival in enumerate(self._arrivals) if index not in bad]
        self._refused += tuple(refused)
        return True


def _size_of(arrivals: Sequence[Arrival]) -> int:
    """About how many bytes of memory they take. Only texts are looked at one by one."""
    if len(arrivals) == 1:  # as in most calls: this takes half the time
        model, device, _, _, row = arrivals[0]
        size = _ARRIVAL_SIZE + getsizeof(device) + model.__rows__.size
        if model.__rows__.texts:
            with suppress(IndexError):
                for place in model.__rows__.texts:
                    size += getsizeof(row[place])
        return size
    models = set(map(_MODEL, arrivals))
    size = sum(map(getsizeof, set(map(_DEVICE, arrivals))))
    for model in models:
        mine = arrivals if len(models) == 1 else [arrival for arrival in arrivals if arrival.model is model]
        rows = model.__rows__
        size += len(mine) * (_ARRIVAL_SIZE + rows.size)
        for place in rows.texts:
            with suppress(IndexError):  # a row that is shorter than it should be is found out by the commit
                size += sum(map(getsizeof, map(itemgetter(place), map(_ROW, mine))))
    return size


def _why_unstorable(arrival: Arrival) -> str | None:
    fields = arrival.model.__fields__
    if len(arrival.row) != len(fields) + 1:
        return f"has {len(arrival.row) - 1} values, {arrival.model.__name__} has {len(fields)} fields"
    if type(arrival.timestamp) is not int or not -(2**63) <= arrival.timestamp < 2**63:
        return "its timestamp is no 64-bit number of microseconds"
    for spec, value in zip(fields, arrival.row[1:], strict=True):
        if value is not None:
            try:
                convert(value, spec.type)
            except InvalidValue as exc:
                return f"{spec.name} {exc}"
    return None


class Task:
    """Anything else that the writer does: acknowledge, delete, add a cursor. Its outcome stands in `result`.

    One that `frees_room` may be done out of turn, while the device is full, and once more in its turn."""

    weight = 1
    size = 1_000

    def __init__(self, receipt: Receipt, action: Callable[[Journal], int | None], frees_room: bool = False) -> None:
        self.receipt = receipt
        self.frees_room = frees_room
        self.result: int | None = None
        self._early = 0
        self._action = action

    def apply(self, journal: Journal) -> None:
        found = self._action(journal)
        self.result = found if found is None else found + self._early

    def done_early(self) -> None:
        """Its transaction was committed before its turn."""
        self._early, self.frees_room = self.result or 0, False

    def settle(self, rank: int) -> None:
        self.receipt.settle(rank, 0, 0)

    def reject_unstorable(self) -> bool:
        return False
