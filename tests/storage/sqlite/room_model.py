"""What a store's file says of its tables, read with plain SQL; and a model of what upstreams are owed of them."""

import bisect
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgedepot.storage.buffer import Choice, Lane, Window
from edgedepot.storage.clock import MINUTE, from_micros, to_micros
from edgedepot.storage.query import FUNCTIONS
from edgedepot.storage.sqlite.walk import Place
from tests.storage.sqlite.states import RESOLVED, T0, Key, Series, Values

PAGE = 4096
LATE = -(2**63)


@dataclass(eq=False)
class Version:
    """A row as it was written. `sent` is what upstreams get, other than `values` where it was thinned. Its number and
    piece are learned from the file."""

    key: Key
    values: Values
    order: int
    held: bool
    seq: int = 0
    piece: int = 0
    thinned: Values | None = None

    @property
    def sent(self) -> Values:
        return self.values if self.thinned is None else self.thinned

    @property
    def micros(self) -> int:
        return to_micros(self.key[1])


@dataclass
class Rule:
    """What is kept downsampled of a model; from `low` on, None while nothing is, up to the `horizon`. `rows` are what
    we take for that. `parts` are what buckets are made of: by series and start, then by the part's number, from when to
    when."""

    measurement: str
    interval: int
    low: datetime | None
    horizon: datetime | None
    knows_all: bool
    rows: list[tuple[Key, Values]] = field(default_factory=list)
    parts: dict[tuple[Series, int], dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))

    def keep_late(self, versions: list[Version]) -> None:
        """A fold passes them by, as they are from before the horizon. Those of which nobody can tell whether they are
        kept already are not."""
        taken = [version for version in versions if self.takes(version)]
        for version in taken:
            self.rows.append((version.key, version.values))
            parts, micros = self.parts[self._bucket(version)], version.micros
            low, high = parts.get(LATE, (micros, micros))
            parts[LATE] = min(low, micros), max(high, micros)

    def _bucket(self, version: Version) -> tuple[Series, int]:
        return version.key[0], version.micros // self.interval * self.interval

    def takes(self, version: Version) -> bool:
        parts = self.parts[self._bucket(version)].values()
        is_doubtful = any(low <= version.micros <= high for low, high in parts)
        return self.reaches_to(version.key) and not is_doubtful

    def reaches(self, start: datetime | None, end: datetime | None) -> bool:
        if self.low is None or self.horizon is None:
            return False
        return max(self.low, start or self.low) < min(self.horizon, end or self.horizon)

    def reaches_to(self, key: Key) -> bool:
        return key[0].measurement == self.measurement and self.low is not None and key[1] >= self.low

    def cuts(self, start: datetime | None, end: datetime | None) -> bool:
        """Whether a question's edge lies inside of a bucket."""
        if not self.reaches(start, end):
            return False
        assert self.low is not None
        assert self.horizon is not None
        low, high = max(self.low, start or self.low), min(self.horizon, end or self.horizon)
        return bool(
            (low > self.low and to_micros(low) % self.interval)
            or (high < self.horizon and to_micros(high) % self.interval)
        )


class File:
    """What a store's file says, at one moment."""

    def __init__(self, path: Path, learned: int) -> None:
        """`learned` is the highest number of a row that is known by now."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")
            text = connection.execute("SELECT value FROM _meta WHERE key = 'shape'").fetchone()
            shape: dict[str, Any] = {"pieces": []} if text is None else json.loads(text[0])
            self.low, high, *_, piece = shape.get("folded", [0, 0, 0, 0, 0])
            self.is_folding = high > self.low or piece > 0
            self.firsts: dict[int, int] = {piece: first for piece, first, *_ in shape["pieces"]}
            self.aside = {piece for piece, _, _, _, aside, *_ in shape["pieces"] if aside}
            self.closed = {
                piece[0]
                for piece, after in pairwise(shape["pieces"])
                if after[1] - 1 <= self.low and piece[0] not in self.aside
            }
            self._models: dict[int, str] = dict(connection.execute("SELECT id, name FROM _models"))
            self.horizons = {
                self._models[int(model)]: from_micros(horizon) for model, horizon in shape.get("horizons", {}).items()
            }
            self.rules = {number: self._rule(*rule) for number, *rule in shape.get("rules", [])}
            for number, rule in self.rules.items():
                self._read_parts(connection, number, rule)
            partitions = {self._models[int(model)]: mine for model, mine in shape.get("partitions", {}).items()}
            self.partitions: dict[str, list[tuple[int, int]]] = {
                name: [(start, stop) for _, start, stop, *_ in mine] for name, mine in partitions.items()
            }
            self.history_bytes = {name: PAGE * sum(one[4] for one in mine) for name, mine in partitions.items()}
            pages, free = (connection.execute(f"PRAGMA {one}_count").fetchone()[0] for one in ("page", "freelist"))
            self.used_bytes = PAGE * (pages - free)
            self.bytes = sum(one.stat().st_size for one in (path, Path(f"{path}-wal")) if one.exists())
            self._series = {
                Series(self._models[model], device): (model, number)
                for number, model, device in connection.execute("SELECT id, model, device_id FROM _series")
            }
            self._names = {number: series for series, (_, number) in self._series.items()}
            self.journal: set[int] = set()
            self.new: dict[Key, list[tuple[int, int]]] = defaultdict(list)
            self.last = 0
            for piece in self.firsts:
                self._read_piece(connection, piece, learned)
            for (table,) in connection.execute(r"SELECT name FROM sqlite_schema WHERE name LIKE '~_h~_%' ESCAPE '~'"):
                self._read_new(connection, f"{table} AS r", 0, learned)

    def _rule(
        self, model: int, interval: int, functions: list[str], _1: Any, _2: Any, _3: Any, low: int | None, *_: Any
    ) -> Rule:
        name = self._models[model]
        start = None if low is None else from_micros(low)
        return Rule(name, interval, start, self.horizons.get(name), len(functions) == len(FUNCTIONS))

    @staticmethod
    def _read_parts(connection: sqlite3.Connection, number: int, rule: Rule) -> None:
        table = f"_d_{rule.measurement}_{number} JOIN _series ON id = series"
        query = f"SELECT device_id, start, part, low, high FROM {table} WHERE part < ?"
        for device, start, part, low, high in connection.execute(query, (to_micros(rule.horizon or T0),)):
            rule.parts[Series(rule.measurement, device), start][part] = low, high

    def _read_piece(self, connection: sqlite3.Connection, piece: int, learned: int) -> None:
        table = f"_j_{piece}"
        self.journal |= {seq for (seq,) in connection.execute(f"SELECT seq FROM {table} WHERE series > 0")}
        self.last = max(self.last, connection.execute(f"SELECT max(seq) FROM {table}").fetchone()[0] or 0)
        self._read_new(connection, f"{table} AS r", piece, learned)

    def _read_new(self, connection: sqlite3.Connection, table: str, piece: int, learned: int) -> None:
        query = f"SELECT seq, series, ts FROM {table} WHERE seq > ? AND series > 0 ORDER BY seq"
        for seq, series, ts in connection.execute(query, (learned,)):
            found = self.new[self._names[series], from_micros(ts)]
            if seq not in (number for number, _ in found):
                bisect.insort(found, (seq, piece))

    @property
    def first(self) -> int:
        """The number that the journal begins with."""
        return min(self.firsts.values(), default=1)

    def is_folded(self, version: Version) -> bool:
        """Whether a row went to history, or past it."""
        if version.seq not in self.journal:
            return True
        return version.seq <= self.low and version.piece not in self.aside

    def is_late(self, key: Key) -> bool:
        """Whether a time is from before the horizon of its model."""
        horizon = self.horizons.get(key[0].measurement)
        return horizon is not None and key[1] < horizon

    def place(self, key: Key) -> Place:
        """Where a row is in history: model, partition, series and time."""
        series, micros = key[0], to_micros(key[1])
        start = next(start for start, stop in self.partitions[series.measurement] if start <= micros < stop)
        model, number = self._series[series]
        return model, start, number, micros


@dataclass
class Hand:
    """A window that an upstream has, and the rows that were in it."""

    window: Window
    rows: list[Version]


class Upstream:
    """What one cursor is owed, from the journal and from history (`walk`), and what became of the rest."""

    def __init__(self, start: str | datetime, choice: Choice, passed: int) -> None:
        """It was added when `passed` was the last number that it is not owed."""
        self.since = start if isinstance(start, datetime) else None
        self.choice = choice
        self.owed: set[Version] = set()
        self.walk: set[Version] = set()
        self.acknowledged: list[tuple[int, int]] = [(1, passed)]
        self.hands: dict[Lane, Hand] = {}
        self.quarantined: dict[Version, Values] = {}
        self.replayed: dict[Version, Values] = {}
        self.split: int | None = None
        self.counts = dict.fromkeys(RESOLVED, 0)

    def takes(self, version: Version) -> bool:
        is_young = self.since is None or version.key[1] >= self.since
        return is_young and self.choice.takes(*version.key[0])

    def awaits(self, version: Version) -> bool:
        """Whether it is to get a row that it is owed. From when a held one is nobody knows yet."""
        return self.takes(version) or (version.held and self.choice.takes(*version.key[0]))

    @property
    def is_waiting(self) -> bool:
        """Whether it is to get anything of what there is."""
        return any(map(self.awaits, self.owed | self.walk)) or bool(self.replayed)

    @property
    def pending(self) -> int:
        return len(self.owed) + len(self.walk) + len(self.replayed)

    def out_of_the_way(self, version: Version, why: str) -> None:
        """A newer version came, or the row was deleted."""
        for rows in (self.owed, self.walk):
            if version in rows:
                rows.remove(version)
                self.counts[why] += 1
        if why == "superseded" and version in self.replayed:
            del self.replayed[version]
            self.counts[why] += 1

    def resolve(self, rows: Collection[Version], refused: Collection[Version]) -> None:
        """It has these rows, in the order in which they were sent or passed over."""
        for version in rows:
            pile = self.owed if version in self.owed else self.walk
            if version in pile:
                pile.remove(version)
                if version in refused:
                    self.quarantined[version] = version.sent if pile is self.owed else version.values
                    self.counts["quarantined"] += 1
                else:
                    self.counts["delivered" if self.takes(version) else "skipped"] += 1

    def has_none(self, low: int, high: int) -> bool:
        spans = [*self.acknowledged, *((hand.window.low, hand.window.high) for hand in self.hands.values())]
        return not any(first <= high and last >= low for first, last in spans)

    def has_all(self, low: int, high: int) -> bool:
        got = {seq for first, last in self.acknowledged for seq in range(max(first, low), min(last, high) + 1)}
        return len(got) == high - low + 1


def minutes_to_thin(
    journal: Collection[Version], file: File, upstreams: Collection[Upstream], before: datetime | None = None
) -> list[list[Version]]:
    """The rows of each minute that may become one row, in the order of time."""
    minutes: dict[tuple[Series, int], list[Version]] = defaultdict(list)
    for version in journal:
        minutes[version.key[0], version.micros // MINUTE].append(version)
    found = []
    for (_, minute), rows in minutes.items():
        rows.sort(key=lambda version: (version.key, version.seq))
        is_past = before is None or (minute + 1) * MINUTE <= to_micros(before)
        pieces = {version.piece for version in rows}
        if len(rows) > 1 and is_past and len(pieces) == 1 and pieces <= file.closed and _is_awaited(rows, upstreams):
            found.append(rows)
    return found


def _is_awaited(rows: list[Version], upstreams: Collection[Upstream]) -> bool:
    low, high = min(row.seq for row in rows), max(row.seq for row in rows)
    awaiting = [upstream.has_none(low, high) for upstream in upstreams]
    return any(awaiting) and all(
        none or upstream.has_all(low, high) for none, upstream in zip(awaiting, upstreams, strict=True)
    )


def thinned(rows: list[Version]) -> Values:
    """What a minute's last row is then."""
    values: Values = {}
    for version in rows:
        values |= version.sent
    for name in ("temperature", "humidity"):
        known = [version.sent[name] for version in rows if name in version.sent]
        if known:
            values[name] = math.fsum(known) / len(known)
    return values
