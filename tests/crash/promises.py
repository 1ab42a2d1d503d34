"""What the store must hold and may hold after a power cut, from the marks that the recorded process wrote.

The process does one deed after the other, each of which the store commits as a whole. So whatever a power cut leaves
must be the state after one of them: not before the last that was promised, not after the last that was begun.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.crash.recording import Mark, Operation

Identity = tuple[str, str, int]
"""Measurement, device, timestamp in microseconds."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a cursor is owed, by the deed that wrote each version, and how many readings ended how."""

    pending: dict[Identity, int]
    delivered: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """The readings with the deed that wrote each, and the upstreams."""

    rows: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    written: dict[Identity, int] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)


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
        self._taken: dict[str, dict[Identity, int]] = {}
        for operation in operations:
            now = self.at[-1]
            self.at.append(self._mark(now, json.loads(operation.text)) if isinstance(operation, Mark) else now)

    def _mark(self, now: Promised, mark: dict[str, Any]) -> Promised:
        if "begin" in mark:
            self.states.append(self._after(len(self.states), mark["begin"]))
            return replace(now, begun=now.begun + 1)
        if "sent" in mark:
            return self._sent(now, mark["sent"], [_identity(row) for row in mark["rows"]])
        if mark["promised"] == "committed":
            return replace(now, committed=mark["deed"])
        return replace(now, committed=max(now.committed, mark["deed"]), durable=mark["deed"])

    def _sent(self, now: Promised, cursor: str, rows: list[Identity]) -> Promised:
        """Only what is durable here goes upstream: whoever hands a reading out promises it."""
        self._taken[cursor] = {row: self.states[-1].written[row] for row in rows}
        return replace(now, durable=max([now.durable, *self._taken[cursor].values()]))

    def _after(self, number: int, deed: dict[str, Any]) -> State:
        before = self.states[-1]
        rows, written = dict(before.rows), dict(before.written)
        pending = {name: dict(one.pending) for name, one in before.upstreams.items()}
        upstreams = {name: replace(one, pending=pending[name]) for name, one in before.upstreams.items()}
        if deed["do"] == "store":
            for measurement, device, ts, data in deed["rows"]:
                row = (measurement, device, ts)
                merged = {**rows.get(row, {}), **data}
                if rows.get(row) != merged:
                    rows[row], written[row] = merged, number
                    for owed in pending.values():
                        owed[row] = number
        elif deed["do"] == "delete":
            for row in [row for row in rows if _is_in(row, deed)]:
                del rows[row], written[row]
                for owed in pending.values():
                    owed.pop(row, None)
        elif deed["do"] == "add cursor":
            owed = {} if deed["start"] == "now" else dict(written)
            upstreams.setdefault(deed["cursor"], Upstream(owed))
        else:
            assert deed["do"] == "acknowledge"
            mine = upstreams[deed["cursor"]]
            refused = {_identity(row) for row in deed["refused"]}
            passed = {row for row, number in self._taken[deed["cursor"]].items() if mine.pending.get(row) == number}
            for row in passed:
                del mine.pending[row]
            upstreams[deed["cursor"]] = replace(
                mine,
                delivered=mine.delivered + len(passed - refused),
                quarantined=mine.quarantined + len(passed & refused),
            )
        return State(rows, written, upstreams)


def _identity(row: list[Any]) -> Identity:
    measurement, device, ts = row
    return measurement, device, ts


def _is_in(row: Identity, deed: dict[str, Any]) -> bool:
    measurement, device, ts = row
    return measurement == deed["model"] and deed["device"] in (None, device) and deed["start"] <= ts < deed["end"]
