"""What is kept downsampled goes too: when it is too old, by days, and when it is too much, by a part of its time.

No bucket is cut. The rows of what is not kept any more go bit by bit, as commits wait for it. Runs on the writer's
thread.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgedepot.storage.clock import DAY
from edgedepot.storage.sqlite.downsampled import described
from edgedepot.storage.sqlite.journal import Deed, Journal
from edgedepot.storage.sqlite.room_log import RoomLog
from edgedepot.storage.sqlite.shape import Rule
from edgedepot.storage.sqlite.tables import counted, kept_table

SWEPT = 2_000
"""So many rows are deleted at a time, of what is not dropped with its table."""
_PARTS = 16


def kept_pages(journal: Journal) -> int:
    """The room that all of it takes."""
    return sum(rule.pages for rule, _, _ in _kept(journal))


def expired(journal: Journal, now: int | None) -> Deed | None:
    """Of what is kept downsampled, what is too old; and the rows of what has gone. `now` is None while nobody knows the
    time."""
    for rule, low, table in _kept(journal):
        if now is not None and rule.keep is not None:
            first = min((now - rule.keep) // DAY * DAY, journal.shape.horizon(rule.model))
            if first - first % rule.interval > low:
                return _raising(rule, first)
        old = (
            f"SELECT s.id, k.start, k.part FROM _series AS s CROSS JOIN {table} AS k ON k.series = s.id"
            f" AND k.start < {low - low % rule.interval} WHERE s.model = {rule.model} LIMIT {SWEPT}"
        )
        if journal.connection.execute(old).fetchone():
            return _forgetting(rule, f"DELETE FROM {table} WHERE (series, start, part) IN ({old})")
    return None


def keep_less(journal: Journal, log: RoomLog) -> Deed | None:
    """The oldest part of what is kept downsampled is to go."""
    for rule, low, table in sorted(_kept(journal), key=lambda one: one[1]):
        starts = f"SELECT min(start) FROM {table} WHERE series = s.id AND start >= {low - low % rule.interval}"
        (oldest,) = journal.connection.execute(
            f"SELECT min(({starts})) FROM _series AS s WHERE model = ?", (rule.model,)
        ).fetchone()
        if oldest is not None:
            span = journal.shape.horizon(rule.model) - oldest
            first = oldest + max(rule.interval, span // _PARTS)
            if first <= oldest + span:
                layout = journal.catalogue.layouts()[rule.model]
                log.kept_went(layout.name, described(layout, rule), first)
                return _raising(rule, first)
    return None


def _kept(journal: Journal) -> Iterator[tuple[Rule, int, str]]:
    """The rules by which something is kept: from when on, and in which table."""
    layouts = journal.catalogue.layouts()
    for rule in journal.shape.rules:
        if rule.low is not None:
            yield rule, rule.low, kept_table(layouts[rule.model], rule)


def _raising(rule: Rule, first: int) -> Deed:
    """From the bucket of that time on it is kept."""

    def act(journal: Journal) -> None:
        rule.low = first - first % rule.interval
        journal.reshape()

    return act


def _forgetting(rule: Rule, statement: str) -> Deed:
    def act(journal: Journal) -> None:
        with counted(journal.connection, rule):
            journal.connection.execute(statement)
        journal.reshape()

    return act
