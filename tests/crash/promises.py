"""What the store must hold and may hold after a power cut, from the marks that the recorded process wrote.

The process does one deed after the other, each of which the store commits as a whole. So whatever a power cut leaves
must be the state after one of them: not before the last that was promised, not after the last that was begun.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.crash.recording import Mark, Operation

Identity = tuple[str, str, int]
"""Measurement, device, timestamp in microseconds."""


Version = tuple[Identity, int]
"""A reading, and the number of the deed that wrote it so."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a cursor is owed; what it refused; what of that it gets once more; and how many readings it has."""

    pending: frozenset[Version] = frozenset()
    refused: frozenset[Version] = frozenset()
    again: frozenset[Version] = frozenset()
    delivered: int = 0

    @property
    def owed(self) -> Counter[Identity]:
        return Counter(row for row, _ in self.pending | self.again)

    def replaced(self, gone: set[Version], new: set[Version]) -> "Upstream":
        """After a merge, or new readings: old versions are not sent any more, also not once more."""
        return replace(self, pending=self.pending - gone | new, again=self.again - gone)

    def acknowledged(self, sent: set[Version], refused: set[Identity]) -> "Upstream":
        passed = sent & (self.pending | self.again)
        kept = {version for version in passed if version[0] in refused}
        return Upstream(
            self.pending - passed, self.refused | kept, self.again - passed, self.delivered + len(passed - kept)
        )

    def replaying(self, written: Mapping[Identity, int]) -> "Upstream":
        """What was refused is sent once more, where there is no newer version."""
        newest = {(row, number) for row, number in self.refused if written.get(row, 0) <= number}
        return replace(self, refused=frozenset(), again=self.again | newest)


@dataclass(frozen=True, slots=True)
class State:
    """The readings with the deed that wrote each, the upstreams, and how often the file was salvaged, plus one."""

    rows: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    written: dict[Identity, int] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    epoch: int = 1
    copied: bool = False
    """Whether there is a copy."""
    gradual: bool = False
    """Whether the deed was done in several transactions: rows go and are not owed any more one after the other."""
    cut: bool = False
    """Whether the log is empty. Where it was cut by another program nothing is lost, but after a power cut nobody can
    tell: the epoch may be the next one."""


@dataclass(frozen=True, slots=True)
class Promised:
    """At some moment: the last deed that survives a killed process, that survives a power cut, that was begun."""

    committed: int = 0
    durable: int = 0
    begun: int = 0


class Promises:
    """`states[n]` is the store after deed `n`; `at[k]` what is promised after `k` operations."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.states = [State()]
        self.at = [Promised()]
        self._sent: dict[str, set[Version]] = {}
        for operation in operations:
            now = self.at[-1]
            self.at.append(self._mark(now, json.loads(operation.text)) if isinstance(operation, Mark) else now)

    def _mark(self, now: Promised, mark: dict[str, Any]) -> Promised:
        if "begin" in mark:
            self.states.append(self._after(len(self.states), mark["begin"]))
            return replace(now, begun=now.begun + 1)
        if "sent" in mark:
            return self._hand_out(now, mark["sent"], {_identity(row) for row in mark["rows"]}, mark["replayed"])
        if "became" in mark:
            self.states[-1] = _became(self.states[-1], len(self.states) - 1, mark["became"], mark["owed"])
            return now
        if mark["promised"] == "committed":
            return replace(now, committed=mark["deed"])
        return replace(now, committed=max(now.committed, mark["deed"]), durable=mark["deed"])

    def _hand_out(self, now: Promised, cursor: str, rows: set[Identity], replayed: bool) -> Promised:
        """Only what is durable here goes upstream: whoever hands a reading out promises it."""
        last = self.states[-1]
        again = {version for version in last.upstreams[cursor].again if version[0] in rows}
        self._sent[cursor] = again if replayed else {(row, last.written[row]) for row in rows}
        return replace(now, durable=max([now.durable, *(number for _, number in self._sent[cursor])]))

    def _after(self, number: int, deed: dict[str, Any]) -> State:
        if deed["do"] == "find":
            return _found(number, deed)
        before = self.states[-1]
        if deed["do"] == "backup":
            return replace(before, copied=True)
        if deed["do"] == "cut log":
            return replace(before, gradual=False, cut=True)
        if deed["do"] == "restore":
            then: State = self.states[deed["copied"]]
            return replace(then, epoch=max(deed["second"], before.epoch + 1))
        if deed["do"] == "something":
            return replace(before, gradual=deed["gradual"])  # until the process says what became of it
        after = State(dict(before.rows), dict(before.written), dict(before.upstreams), before.epoch, before.copied)
        if deed["do"] == "store":
            _store(after, number, deed["rows"])
        elif deed["do"] == "delete":
            _delete(after, {row for row in after.rows if _is_in(row, deed)})
        else:
            self._move(after, deed)
        return after

    def _move(self, state: State, deed: dict[str, Any]) -> None:
        """What is done to a cursor."""
        cursor = deed["cursor"]
        mine = state.upstreams.pop(cursor, None)
        if deed["do"] == "remove cursor":
            return
        if mine is None:
            assert deed["do"] == "add cursor"
            mine = Upstream(
                frozenset() if deed["start"] == "now" else frozenset((row, state.written[row]) for row in state.rows)
            )
        elif deed["do"] == "acknowledge":
            mine = mine.acknowledged(self._sent[cursor], {_identity(row) for row in deed["refused"]})
        elif deed["do"] == "replay":
            mine = mine.replaying(state.written)
        elif deed["do"] == "drop":
            mine = replace(mine, refused=frozenset())
        else:
            assert deed["do"] == "add cursor"
        state.upstreams[cursor] = mine


def _found(number: int, deed: dict[str, Any]) -> State:
    rows = {(measurement, device, ts): data for measurement, device, ts, data in deed["rows"]}
    upstreams = {}
    for name, owed in deed["upstreams"].items():
        pending, refused = ({(_identity(row), number) for row in owed[which]} for which in ("pending", "refused"))
        upstreams[name] = Upstream(frozenset(pending), frozenset(refused), delivered=owed["delivered"])
    return State(rows, dict.fromkeys(rows, number), upstreams, deed["epoch"])


def _became(state: State, number: int, rows: list[list[Any]], owed: dict[str, list[list[Any]]]) -> State:
    """As the process found it afterwards. What is owed may be so although queries do not find it any more."""
    found = {(measurement, device, ts): data for measurement, device, ts, data in rows}
    upstreams = {
        name: replace(mine, pending=frozenset((_identity(row), number) for row in owed[name]))
        for name, mine in state.upstreams.items()
    }
    written = dict.fromkeys([*found, *(row for mine in upstreams.values() for row, _ in mine.pending)], number)
    return replace(state, rows=found, written=written, upstreams=upstreams)


def _store(state: State, number: int, rows: list[tuple[str, str, int, dict[str, Any]]]) -> None:
    for measurement, device, ts, data in rows:
        row = (measurement, device, ts)
        old = state.rows.get(row)
        merged = {**(old or {}), **data}
        if merged != old:
            gone = set() if old is None else {(row, state.written[row])}
            state.rows[row], state.written[row] = merged, number
            for name, mine in state.upstreams.items():
                state.upstreams[name] = mine.replaced(gone, {(row, number)})


def _delete(state: State, rows: set[Identity]) -> None:
    """What was refused stays, and is sent once more if somebody wants that."""
    gone = {(row, state.written[row]) for row in rows}
    for row in rows:
        del state.rows[row], state.written[row]
    for name, mine in state.upstreams.items():
        state.upstreams[name] = replace(mine, pending=mine.pending - gone)


def _identity(row: list[Any]) -> Identity:
    measurement, device, ts = row
    return measurement, device, ts


def _is_in(row: Identity, deed: dict[str, Any]) -> bool:
    measurement, device, ts = row
    return measurement == deed["model"] and deed["device"] in (None, device) and deed["start"] <= ts < deed["end"]
