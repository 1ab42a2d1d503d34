"""An upstream at the end of a metered link, and a local store that has a model follow what sync does with it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from edgedepot import Reading, SQLiteStorage, Version
from edgedepot.storage.base import BaseStorage, Data, StoreRow
from edgedepot.storage.buffer import Lane, Pending, Window
from edgedepot.storage.clock import ManualClock
from edgedepot.storage.errors import NotSupported, Unreachable
from edgedepot.storage.receipt import Receipt, Refusal
from edgedepot.storage.rows import aggregate_rows, select_rows
from edgedepot.sync.limits import Limits
from tests.models import Weather
from tests.storage.sqlite.states import Key, key_of

REQUEST, CONNECTING = 700, 150
"""Bytes of a request beside its readings, and of one that nobody answers."""
BURST = 2.5


class Metered(BaseStorage):
    """An upstream that counts its bytes as a wire would, those of its answers too. It is `away`, or refuses readings
    whose count has a remainder by 10; `kept` is what it has."""

    def __init__(self, clock: ManualClock, limits: Limits, compresses: bool = False) -> None:
        self._clock = clock
        self.limits = limits
        self._compresses = compresses
        self.away = False
        self.answers: int | None = None
        """After so many more answers it is away, None for never."""
        self.refuses: int | None = None
        self.kept: dict[Key, Version] = {}
        self.arriving: Callable[[Sequence[Version]], None] = lambda rows: None
        """Told of rows before they are taken."""
        self.again: list[Version] = []
        """What it took."""
        self.sent: list[tuple[float, int, int]] = []
        """When, by the monotonic clock and by the wall's, how many bytes."""
        self._total = 0

    def beside(self, answers: int | None, refuses: int | None) -> Metered:
        """The same upstream as another process reaches it: it has a link of its own, and is in a mood of its own."""
        other = Metered(self._clock, self.limits, self._compresses)
        other.kept, other.sent, other.gateway_id = self.kept, self.sent, self.gateway_id
        other.answers, other.refuses = answers, refuses
        return other

    def wire_bytes(self) -> int | None:
        return self._total

    def store_readings(self, reading_model: type[Reading], rows: Iterable[StoreRow]) -> Receipt | None:
        versions = [row for row in rows if isinstance(row, Version)]
        self._carry(self._size_of(versions))
        refused = [
            Refusal(place, "out of range")
            for place, row in enumerate(versions)
            if self.refuses is not None and row.data.get("count", -1) % 10 == self.refuses
        ]
        bad = {refusal.index for refusal in refused}
        taken = [row for place, row in enumerate(versions) if place not in bad]
        self.arriving(taken)
        self.again += taken
        self.kept |= {key_of(Weather, row.device, row.timestamp): row for row in taken}
        return Receipt.settled(len(versions) - len(bad), None, tuple(refused))

    def _size_of(self, rows: Sequence[Version]) -> int:
        text = "".join(
            json.dumps([row.device, row.timestamp.isoformat(), row.gateway_seq, dict(row.data)]) for row in rows
        )
        return len(zlib.compress(text.encode()) if self._compresses else text)

    def _carry(self, size: int) -> None:
        """A request and its answer, in which there is so much beside what goes with each. Raises `Unreachable`."""
        if self.answers is not None:
            self.away, self.answers = self.answers <= 0, self.answers - 1
        count = CONNECTING if self.away else REQUEST + size
        self._total += count
        self.sent.append((self._clock.monotonic(), self._clock.now(), count))
        if self.away:
            raise Unreachable("nobody there")

    def check(self) -> None:
        """The limits' promises: never more in a day, hardly more in a minute, nothing out of hours."""
        days: dict[int, int] = {}
        for _, wall, count in self.sent:
            assert self.limits.schedule.is_open(wall), "out of hours"
            day = self.limits.schedule.day(wall)[0]
            days[day] = days.get(day, 0) + count
        if self.limits.per_day is not None:
            assert max(days.values(), default=0) <= self.limits.per_day, "more than the day's budget"
        if self.limits.rate is not None:
            for place, (since, _, _) in enumerate(self.sent):
                carried = [count for at, _, count in self.sent[place:] if at < since + 60]
                most = 1.05 * 60 * self.limits.rate
                assert sum(carried) <= most, "more than the rate in a minute"

    def store_reading(self, reading_model: Any, device: object, timestamp: datetime | None, data: Data) -> Receipt:
        raise NotSupported("sync sends many")

    def query_readings(self, reading_model: type[Reading], *args: Any, **more: Any) -> list[dict[str, Any]]:
        found = select_rows(self._rows(), reading_model, *args, **more)
        self._carry(len(json.dumps(found, default=str)))
        return found

    def aggregate(self, reading_model: type[Reading], *args: Any, **more: Any) -> dict[str, Any] | list[dict[str, Any]]:
        found = aggregate_rows(self._rows(), reading_model, *args, **more)
        self._carry(len(json.dumps(found, default=str)))
        return found

    def _rows(self) -> list[dict[str, Any]]:
        return [{"device_id": series.device, "timestamp": at, **row.data} for (series, at), row in self.kept.items()]


class Watcher:
    """Is told what sync does with windows. What it raises is noted: whatever happens, sync goes on."""

    def handed_out(self, cursor: str, lane: Lane, window: Window) -> None:
        raise NotImplementedError

    def acknowledged(self, cursor: str, window: Window, refused: Sequence[int], do: Callable[[], None]) -> None:
        raise NotImplementedError


class WatchedStore(SQLiteStorage):
    """The local store; `wrong` is what the watcher found."""

    watcher: Watcher
    wrong: list[str]
    aside: dict[str, list[int]]

    def watch_by(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.wrong = []
        self.aside = {}

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        window = super().pending(cursor, limit, lane)
        if window is not None:
            with self.noting():
                self.watcher.handed_out(cursor, lane, window)
        return window

    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        super().quarantine(cursor, rows, reason)
        self.aside.setdefault(cursor, []).extend(row.seq for row in rows)

    def acknowledge(self, cursor: str, window: Window) -> None:
        acknowledge = super().acknowledge
        refused = self.aside.pop(cursor, [])
        with self.noting():
            self.watcher.acknowledged(cursor, window, refused, lambda: acknowledge(cursor, window))

    @contextmanager
    def noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self.wrong.append(f"{type(exc).__name__}: {exc}")
            raise
