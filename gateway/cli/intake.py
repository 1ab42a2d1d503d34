"""Where the rows of an import go: into a store that is open here, or through the gateway that has it open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edgedepot.storage.buffer import DIRECT
from edgedepot.storage.errors import StorageError
from edgedepot.storage.receipt import Receipt, Refusal

if TYPE_CHECKING:
    from edgedepot.requests import Request
    from edgedepot.storage.base import Version
    from edgedepot.storage.reading import Reading
    from edgedepot.storage.sqlite.storage import SQLiteStorage

_REQUEST_ROWS = 1000


class Counts(NamedTuple):
    """What became of the rows. `stored` are new or merged; how many are merged a running gateway does not say."""

    stored: int
    merged: int | None
    duplicates: int


class Intake(Protocol):
    """Takes rows in."""

    def store_readings(self, model: type[Reading], rows: Sequence[Version]) -> Receipt:
        """Store rows; the receipt lists those that are refused."""
        ...

    def fold(self) -> None:
        """Have the store move what came in into history."""
        ...

    def counts(self) -> Counts:
        """What became of the rows since this was made."""
        ...


class OwnStore:
    """A store that is open here."""

    def __init__(self, store: SQLiteStorage) -> None:
        self._store = store
        self._before = self._books()

    def store_readings(self, model: type[Reading], rows: Sequence[Version]) -> Receipt:
        return self._store.store_readings(model, rows)

    def fold(self) -> None:
        self._store.fold()

    def counts(self) -> Counts:
        new, merged, duplicates = (now - then for now, then in zip(self._books(), self._before, strict=True))
        return Counts(new + merged, merged, duplicates)

    def _books(self) -> list[int]:
        """What the books say of the readings that programs stored."""
        counts = self._store.ledger().sources.get(DIRECT, {})
        return [counts.get(column, 0) for column in ("new", "merged", "duplicates")]


class RunningGateway:
    """A gateway that answers at a socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._stored = 0
        self._duplicates = 0

    def store_readings(self, model: type[Reading], rows: Sequence[Version]) -> Receipt:
        refused: list[Refusal] = []
        for first in range(0, len(rows), _REQUEST_ROWS):
            refused += self._send(model, rows[first : first + _REQUEST_ROWS], first)
        return Receipt.settled(len(rows) - len(refused), None, tuple(refused))

    def _send(self, model: type[Reading], rows: Sequence[Version], first: int) -> list[Refusal]:
        """The rows that are refused, numbered from `first`. What is too long for a request goes in two."""
        from edgedepot.requests import SIZE_LIMIT, size_of, store_request

        request = store_request(model, rows)
        if size_of(request) > SIZE_LIMIT:
            middle = len(rows) // 2
            if middle == 0:
                return [Refusal(first, f"is longer than the {SIZE_LIMIT} bytes that a running gateway takes at once")]
            return self._send(model, rows[:middle], first) + self._send(model, rows[middle:], first + middle)
        answer = self._ask(request)
        self._stored += answer["accepted"]
        self._duplicates += answer["duplicates"]
        return [Refusal(first + index, reason) for index, reason in answer["refused"]]

    def fold(self) -> None:
        from edgedepot.requests import Fold

        self._ask(Fold())

    def counts(self) -> Counts:
        return Counts(self._stored, None, self._duplicates)

    def _ask(self, request: Request) -> dict[str, Any]:
        from edgedepot.control import ask

        answer = ask(self._socket, request)
        if answer is None:
            raise StorageError("The gateway was stopped. Start it again to go on: what is there already is a duplicate")
        return answer
