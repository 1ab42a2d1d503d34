"""What a person may have the local store do at once, of what it does by itself: fold, retain, thin, hand on."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.query import Function, micros_of
from edgedepot.storage.reading import Reading
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.downsampled import KeptColumns, Wish, add_rule, kept_columns
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.writing import Writing


class SQLiteKeeping(abc.ABC):
    """The part of `SQLiteStorage` that is about how long what is kept, and where."""

    @abc.abstractmethod
    def _writer_parts(self) -> Writing: ...

    @abc.abstractmethod
    def _do(self, action: Callable[[Journal], int | None], frees_room: bool = False) -> int | None: ...

    @abc.abstractmethod
    def _reading(self, fresh: bool) -> contextlib.AbstractContextManager[tuple[View, Catalogue]]: ...

    @abc.abstractmethod
    def flush(self) -> None: ...

    def keep_downsampled(
        self,
        reading_model: type[Reading],
        interval: str | timedelta = "1 minute",
        fields: Collection[str] | None = None,
        functions: Collection[Function] = ("avg", "min", "max", "count"),
        keep: str | float | timedelta | None = None,
    ) -> None:
        """Have a model's readings outlive themselves: when retention takes them, what they come to by interval (a part
        of a day: ``"1 minute"``, ``"1 hour"``) is kept for as long as `keep`, for ever without one. Aggregates use it
        where readings are gone, and raise `InvalidValue` where a question cuts its buckets or needs other functions.

        `fields` are those to keep, None for all. The rule stays in the file; giving it again changes `keep`. Returns
        when that is committed. Raises `InvalidValue`."""
        wish = Wish(reading_model, interval, fields, functions, keep)
        problems: list[str] = []

        def add(journal: Journal) -> int:
            problem = add_rule(journal, wish)
            problems[:] = [] if problem is None else [problem]
            return 0

        self._writer_parts().catalogue.layout(wish.model)  # a clash with what is stored shows here, to the caller
        self._do(add)
        for problem in problems:
            raise InvalidValue(problem)

    def kept_columns(self) -> list[KeptColumns]:
        """What the rules of `keep_downsampled` keep."""
        with self._reading(True) as (view, catalogue):
            return kept_columns(view.shape, catalogue.layouts())

    def fold(self) -> None:
        """Move what is committed into history now, and return when that is done. The store does so by itself every
        `fold_interval`; call it before a store is put away, or to have a file that is as small as can be. Raises
        `StorageError` while the store cannot be written, after `busy_timeout`."""
        self.flush()
        self._writer_parts().writer.fold()

    def retain(self) -> None:
        """Drop now what is older or more than `keep` and `keep_bytes` allow, and return when that is done. The store
        does so by itself, after each fold and every five minutes. Raises as `fold`."""
        self._writer_parts().writer.retain()

    def thin(self, before: datetime) -> int:
        """Of what upstreams still await, put each device's readings of a minute into one; how many went. The last of
        the minute stays, flagged in its quality, with the averages of its float fields; the books count the others as
        thinned. Only minutes that end by `before`, and of which no upstream has received anything. History keeps all.
        The store does so by itself where `keep_bytes` demands it. Returns when that is committed."""
        from edgedepot.storage.sqlite.thinning import Batch, batches, closed_pieces, thin  # here, as few ask

        writing, end = self._writer_parts(), micros_of(before, "before")
        self.fold()
        found: list[Batch] = []

        def plan(journal: Journal) -> int:
            closed = closed_pieces(journal.shape)
            found[:] = [
                batch for piece, _ in closed for batch in batches(journal.connection, journal.shape, piece, end)
            ]
            return 0

        self._do(plan)
        return sum(self._do(lambda journal: thin(journal, writing.cursors, batch)) or 0 for batch in found)  # noqa: B023

    def release_held(self) -> None:
        """Hand on what is held as nobody knows when it came, at estimated times (flagged 16 in `quality`); returns when
        that is committed. Only where `uncertain_times="hold"` keeps it back, and the clock is trusted now."""
        self._do(lambda journal: journal.release(estimate=True))
