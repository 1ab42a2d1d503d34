"""What an upstream should have, as the local store knows it: what `reconcile` compares with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from edgedepot.storage.buffer import Pending
from edgedepot.storage.query import Function
from edgedepot.storage.reading import FieldSpec, Reading
from edgedepot.storage.values import Quality, Row, represent


class Measure(NamedTuple):
    """What is compared of a bucket: the count of a field's values, and exact extremes."""

    field: str
    function: Function


Tally = dict[Measure, Any]
"""What a bucket comes to; a count of 0, and the extremes of nothing, are absent."""
Tallies = dict[tuple[str, int], Tally]
"""By device, and start of the bucket in microseconds since 1970 UTC. Buckets without readings are absent."""


def measures_of(model: type[Reading]) -> list[Measure]:
    """What is compared of a model. Sums are not: servers add up in another order."""
    return [Measure(spec.name, function) for spec in model.__fields__ for function in functions_of(spec)]


def functions_of(spec: FieldSpec) -> tuple[Function, ...]:
    """What is compared of a field."""
    return ("count", "min", "max") if spec.type in (float, int) else ("count",)


def rows_in(tally: Tally) -> int:
    """About how many readings: at least as many as any field has values."""
    return max((value for measure, value in tally.items() if measure.function == "count"), default=0)


def average(model: type[Reading], rows: Sequence[Row]) -> Row:
    """One row for several, oldest first: floats averaged, of others the last; null only where all are."""
    quality = int(Quality.THINNED)
    for row in rows:
        quality |= row[0] or 0
    values: list[object] = [quality]
    for place, spec in enumerate(model.__fields__, 1):
        values.append(represent(spec.type, [row[place] for row in rows]))
    return tuple(values)


class Delivered(Protocol):
    """The readings in local history that one upstream had received when this was made, as they stand now.

    Without those that it is still owed, that it refused, that it does not get, or that were given up: all that the
    books count as anything but delivered. A reading that has changed since is left out too. In place of those that went
    into averages, or whose minute was thinned, there are these, as long as history has all of them as they were, and
    nothing of the interval is still owed. Times
    are microseconds since 1970 UTC, ``start <= ts < end``, None for open. Each call is one read transaction.
    """

    def count(self) -> int:
        """How many versions the books count as delivered: those here, and all that have gone or changed since."""
        ...

    def models(self) -> list[type[Reading]]:
        """The models of which it may have readings, by measurement."""
        ...

    def tallies(
        self, model: type[Reading], device: str | None, start: int | None, end: int | None, width: int
    ) -> Tallies:
        """What they come to, by device and by day or hour (`width`) in UTC."""
        ...

    def beginning(self, model: type[Reading]) -> int | None:
        """From when on all that it received is in history; None where nothing was taken out of that."""
        ...

    def deleted(self, model: type[Reading], device: str | None) -> dict[str, list[tuple[int, int]]]:
        """From when until when readings were deleted here, by device. It may have these, and lack as many others."""
        ...

    def rows(self, model: type[Reading], device: str, start: int, end: int) -> list[Pending]:
        """A device's readings, by time."""
        ...

    def epoch_of(self, seq: int) -> int:
        """The epoch in which a row was written."""
        ...
