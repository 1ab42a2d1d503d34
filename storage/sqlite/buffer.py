"""What sync uses of the local store: cursors, windows, quarantine, the books."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from edgedepot.storage.buffer import EVERYTHING, Buffer, Choice, Lane, Ledger, Pending, Start, Window
from edgedepot.storage.clock import from_micros, to_micros
from edgedepot.storage.delivered import Delivered
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.query import Scope, Selection, micros_of
from edgedepot.storage.reading import Reading
from edgedepot.storage.reasons import Reason
from edgedepot.storage.receipt import Receipt
from edgedepot.storage.sqlite import schema
from edgedepot.storage.sqlite.acknowledge import acknowledge, add_cursor, count_pending, remove_cursor
from edgedepot.storage.sqlite.books import Books
from edgedepot.storage.sqlite.catalogue import Catalogue
from edgedepot.storage.sqlite.choices import forget_choice, note_choice, read_choice
from edgedepot.storage.sqlite.given_up import forget_given_up
from edgedepot.storage.sqlite.items import Task
from edgedepot.storage.sqlite.journal import Journal
from edgedepot.storage.sqlite.ledger import read_ledger, read_reasons
from edgedepot.storage.sqlite.oldest import oldest_pending
from edgedepot.storage.sqlite.quarantine import Refused, Which, count_quarantined, drop, read_quarantined, replay
from edgedepot.storage.sqlite.starts import forget_start, note_start, read_start
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.writing import Writing
from edgedepot.storage.values import Row, checked_name, checked_text

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.recent import Recent


class SQLiteBuffer(Buffer):
    """The half of `SQLiteStorage` that sync uses."""

    _writing: Writing | None

    @abc.abstractmethod
    def _reading(self, fresh: bool) -> contextlib.AbstractContextManager[tuple[View, Catalogue]]: ...

    @abc.abstractmethod
    def _writer_parts(self) -> Writing: ...

    @abc.abstractmethod
    def _do(self, action: Callable[[Journal], int | None], frees_room: bool = False) -> int | None: ...

    def add_cursor(self, name: str, start: Start = "oldest", choice: Choice = EVERYTHING) -> Start | None:
        checked_name(name, "upstream")
        for one in (*(choice.measurements or ()), *(choice.devices or ())):
            checked_name(one, f"what upstream {name} is to get:")
        if isinstance(start, str) and start not in ("oldest", "now"):
            raise InvalidValue(f"start is {start!r}, expected 'oldest', 'now' or an aware datetime")
        since = None if isinstance(start, str) else micros_of(start, "start")
        began: list[Start | None] = []

        def add(journal: Journal) -> None:
            is_known = name in journal.books.cursors
            add_cursor(journal, name, since, start == "now")
            note_choice(journal, name, choice)
            cursor_id = journal.books.cursors[name].id
            if not is_known:
                note_start(journal.connection, cursor_id, start)
            began[:] = [read_start(journal.connection, cursor_id)]

        self._do(add)
        writing = self._writer_parts()
        writing.cursors.added(writing.books.cursors[name], choice)
        return began[0]

    def remove_cursor(self, name: str) -> int:
        self._writer_parts().cursors.position(name)

        def remove(journal: Journal) -> int:
            if name not in journal.books.cursors:
                return 0  # another thread was faster
            for forget in (forget_choice, forget_given_up, forget_start):
                forget(journal.connection, journal.books.cursors[name].id)
            return remove_cursor(journal, name)

        pending = self._do(remove)
        self._writer_parts().cursors.removed(name)
        return pending or 0

    def cursors(self) -> list[str]:
        with self._reading(False) as (view, _):
            return sorted(Books.load(view.connection, view.shape).cursors)

    def pending(self, cursor: str, limit: int, lane: Lane = "backlog") -> Window | None:
        writing = self._writer_parts()
        position = writing.cursors.position(cursor)
        with writing.cursors.hands, self._reading(False) as (view, _):
            return writing.pending_reader.next(view, cursor, position, writing.writer.durable_seq, limit, lane)

    def read_ahead(self, cursor: str, limit: int, lane: Lane, out: Window) -> None:
        writing = self._writer_parts()
        position = writing.cursors.position(cursor)
        with self._reading(False) as (view, _):
            writing.pending_reader.read_ahead(view, cursor, position, writing.writer.durable_seq, limit, lane, out)

    def split(self, cursor: str) -> None:
        writing = self._writer_parts()
        writing.cursors.split(cursor, writing.writer.durable_seq)

    def is_split(self, cursor: str) -> bool:
        return self._writer_parts().cursors.position(cursor).split is not None

    def waiting(self, cursor: str, lane: Lane) -> int:
        writing = self._writer_parts()
        return writing.cursors.position(cursor).waiting(lane, writing.writer.durable_seq, writing.held())

    def count_pending(self, cursor: str) -> int:
        with self._reading(False) as (view, catalogue):
            book = Books.load(view.connection, view.shape).cursors.get(cursor)
            if book is None:
                return 0
            replayed = frozenset[int]()
            if self._writing is not None:  # acknowledgements whose commit is on its way count too
                replayed = self._writing.cursors.bring_up(book, view, catalogue.layouts())
            return count_pending(view.connection, view.shape, book, replayed)

    def oldest_pending(self, cursor: str) -> datetime | None:
        """The time (aware, in UTC) of the oldest reading that the cursor has not acknowledged, of those that are next;
        None where none waits. Held readings, whose time nobody knows, are not looked at."""
        with self._reading(False) as (view, catalogue):
            found = oldest_pending(view, catalogue, cursor)
        return None if found is None else from_micros(found)

    def recent(self, now: datetime) -> Recent:
        """What came within the last hour, and in which commits. Takes a second for some hundred thousand readings."""
        from edgedepot.storage.sqlite.recent import read_recent  # here, as few ask

        with self._reading(True) as (view, catalogue):
            return read_recent(view, catalogue, to_micros(now))

    def acknowledge(self, cursor: str, window: Window) -> None:
        writing = self._writer_parts()
        moved = writing.cursors.acknowledge(cursor, window)
        if moved is None:
            return
        choice, refused = moved
        # The journal knows the rows: those of many windows would fill the memory until the next commit.
        bounds = window if window.replayed else replace(window, rows=[])
        task = Task(Receipt(writing.writer), lambda journal: acknowledge(journal, cursor, bounds, refused, choice))
        writing.writer.submit(task)

    def quarantine(self, cursor: str, rows: Sequence[Pending], reason: str) -> None:
        self._writer_parts().cursors.set_aside(cursor, rows, reason)

    def quarantined(
        self, upstream: str | None = None, *, limit: int = 100, **which: Unpack[Which]
    ) -> list[dict[str, Any]]:
        """Readings that an upstream refused for good, the latest first: ``{"upstream", "number", "measurement",
        "device_id", "timestamp", "quality", "data", "reason", "at", "replayed"}``. `which` of them: see `Which`."""
        with self._reading(True) as (view, _):
            return read_quarantined(view, Refused.of(upstream, which), limit)

    def count_quarantined(
        self, upstream: str | None = None, *, replayed: bool = False, **which: Unpack[Which]
    ) -> dict[str, int]:
        """How many readings are quarantined, by upstream; with `replayed`, how many of them are on their way once more
        instead: these are pending."""
        with self._reading(True) as (view, _):
            return count_quarantined(view, Refused.of(upstream, which), replayed)

    def replay_quarantined(self, upstream: str, **which: Unpack[Which]) -> int:
        """Have quarantined readings sent to their upstream once more; how many. They are pending from then on. One that
        has a newer version by now is superseded instead. Returns when that is committed; raises `InvalidValue`."""
        cursors = self._writer_parts().cursors
        position, refused = cursors.position(upstream), Refused.of(upstream, which)
        numbers = set[int]()

        def act(journal: Journal) -> None:
            numbers.clear()  # of a transaction that was undone
            numbers.update(replay(journal, refused))

        self._do(act)
        if numbers:
            with cursors.hands:  # no window goes out that was read before
                position.replays, position.replayed = True, position.replayed - numbers
        return len(numbers)

    def drop_quarantined(self, upstream: str, **which: Unpack[Which]) -> int:
        """Give quarantined readings up; how many. The books count them as deleted. Returns when that is committed;
        raises `InvalidValue`."""
        self._writer_parts().cursors.position(upstream)
        refused = Refused.of(upstream, which)
        return self._do(lambda journal: drop(journal, refused)) or 0

    def delivered(self, cursor: str) -> Delivered:
        """What an upstream has received by now. Raises `InvalidValue`."""
        from edgedepot.storage.sqlite.delivered import DeliveredRows  # here, as who reconciles is no gateway

        with self._reading(True) as (view, _):
            books = Books.load(view.connection, view.shape)
            if cursor not in books.cursors:
                raise InvalidValue(f"there is no cursor {cursor!r}; there are {sorted(books.cursors)}")
            book, epochs = books.cursors[cursor], schema.epochs(view.connection)
            choice = read_choice(view.connection, book.id)
        return DeliveredRows(lambda: self._reading(False), book, choice, epochs)

    def between(self, model: type[Reading], device_id: str, low: int, high: int) -> list[tuple[int, Row]]:
        from edgedepot.storage.sqlite.select import select_readings  # here, as most upstreams get no averages

        names = [spec.name for spec in model.__fields__]
        scope = Scope.of(model, device_id, from_micros(low), from_micros(high))
        selection = Selection.of(scope, ["quality", *names], None, "timestamp")
        with self._reading(False) as (view, catalogue):
            layout = catalogue.find(model)
            found = [] if layout is None else select_readings(view, layout, selection)
        return [(to_micros(row["timestamp"]), (row["quality"], *(row[name] for name in names))) for row in found]

    def remember(self, key: str, text: str) -> Receipt:
        writing = self._writer_parts()
        checked_name(key, "the key of a note")
        checked_text(text, "a note")
        receipt = Receipt(writing.writer)
        writing.writer.submit(Task(receipt, lambda journal: _remember(journal, key, text)))
        return receipt

    def recall(self, key: str) -> str | None:
        with self._reading(False) as (view, _):
            return schema.text(view.connection, f"note {key}")

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._writer_parts().writer.watch(callback)

    def ledger(self) -> Ledger:
        with self._reading(True) as (view, _):
            return read_ledger(view)

    def reasons(self, limit: int = 100) -> list[Reason]:
        """Why messages, readings and fields were rejected, of those that are kept, and why readings were quarantined:
        of each the most frequent reasons, at most `limit`."""
        with self._reading(True) as (view, _):
            return read_reasons(view, limit)


def _remember(journal: Journal, key: str, text: str) -> None:
    schema.set_meta(journal.connection, f"note {key}", text)
