"""Keeps what `reconcile` asks and sends within the limits of its upstream.

What an answer takes is known only afterwards. For a day's bytes, which are never exceeded, a row may be as large as its
fields allow: of rows only so many are asked for. For a rate too, at first; then it is expected to be what ours of the
same stretch take, as long as answers are like that. What is compared by counts cannot be cut so; it is asked for in
pieces of which each is little of a day's bytes. Hours end also while an answer is on its way: of rows only about so
many come together as the link carries in a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from edgedepot.storage.clock import Clock
from edgedepot.storage.errors import ConfigError, LimitReached
from edgedepot.storage.reading import Reading
from edgedepot.sync.batch import BatchSize
from edgedepot.sync.budget import MARGIN, Budget, Held
from edgedepot.sync.cost import NOTHING, Cost, Size, answer_size, bucket_size

LONGEST = 60.0
"""Seconds that a rate may have it wait; for hours and days it does not."""
TOGETHER = 5_000
"""So many rows are read together, about."""
REQUEST = 1_500
"""Bytes of a question, and of an answer without rows, until more is known: at least."""
_WORTH = 4
"""With fewer rows most of what goes over the wire is the question."""
_HOURS = 24
_PIECES = 8
"""One question for counts may take this part of a whole day's bytes."""
_SAVES = 4
"""It is better to count rows first where reading them takes so many times what that does."""
_REASONS = {
    "budget": "its day's budget lets nothing more go for now (max_per_day)",
    "rate": "what went beyond its bytes a second has to be made up for first (max_rate)",
    "window": "it is not one of its hours (windows)",
    "clock": "nobody knows the time yet, and so neither its hours nor its day's budget",
}
Answer = TypeVar("Answer")
Counted = dict[str, Any] | list[dict[str, Any]]


class Asked(NamedTuple):
    """So many questions about the same buckets, and how large these are in the answer, by their start; `bucket` is how
    large one is, `largest` a row of these."""

    questions: int
    sizes: Mapping[int, Size]
    bucket: Size
    largest: Size


class Pace:
    """Waits where a rate says so, and raises `LimitReached` where it would be for longer, `ConfigError` where no day's
    budget would do. For one thread; `wait` sleeps for so many seconds."""

    def __init__(self, budget: Budget, name: str, clock: Clock, wait: Callable[[float], object] | None = None) -> None:
        self._budget = budget
        self._name = name
        self._clock = clock
        self._wait = wait or self._sleep
        self._is_connected = False
        self._batch = BatchSize(TOGETHER)
        self._trusted = 0  # rows: as an answer was about as large as ours, the next may have twice as many
        self._rows, self._counts = Cost(REQUEST, each=1.0), Cost(REQUEST, each=1.0)

    def ask_rows(
        self, model: type[Reading], ours: Sequence[Size], size: Size, question: Callable[[], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Ask for rows when they may be asked for, of at most that size; ours take that."""

        def timed() -> list[dict[str, Any]]:
            began = self._clock.monotonic()
            rows = question()
            if rows:
                self._batch.went_through(len(rows), self._clock.monotonic() - began)
            return rows

        def usual_of(rows: list[dict[str, Any]]) -> float:
            return sum(answer_size(model, row).usual for row in rows)

        rows = self._ask(self._rows, size, timed, usual_of)
        both = min(len(rows), len(ours))
        if both:
            is_alike = usual_of(rows[:both]) <= MARGIN * sum(size.usual for size in ours[:both])
            self._trusted = 2 * max(both, self._trusted) if is_alike else 0
        return rows

    def ask_counts(self, size: Size, question: Callable[[], Counted]) -> Counted:
        """Ask for what buckets come to when that may be asked for, of at most that size."""

        def usual_of(found: Counted) -> float:
            return sum(bucket_size(row["device_id"]).usual for row in found) if isinstance(found, list) else 0.0

        return self._ask(self._counts, size, question, usual_of)

    def _ask(
        self, kind: Cost, size: Size, question: Callable[[], Answer], usual_of: Callable[[Answer], float]
    ) -> Answer:
        most = _most(kind, size)
        self.until_free(lambda: self._budget.admit_bytes(most))
        usual = 0.0
        try:
            answer = question()
            usual = usual_of(answer)
        finally:
            took = self._budget.count(REQUEST, round(usual))
        if usual and self._is_connected:
            kind.note(usual, took)
        self._is_connected = True
        return answer

    def begin(self, asked: Sequence[Asked]) -> None:
        """Raise `ConfigError` or `LimitReached` where that would be asked in vain, as nothing could be done then."""
        needed = sum(self._counting(one) for one in asked)
        mending = max(self._narrowing(one._replace(sizes={0: one.bucket.times(_HOURS)})) for one in asked)
        self._check_left(needed + mending, "to compare all that was delivered")

    def narrow(self, asked: Asked) -> None:
        """The same of what is asked before rows are read."""
        self._check_left(self._narrowing(asked), "to look where readings are missing")

    def read_all(self, size: Size) -> None:
        """The same of rows that are all read, from the first one on, each time."""
        self._check_left(_most(self._rows, size), "to read all that was delivered, as it cannot be counted there")

    def rows_at_once(self, ours: Sequence[Size], largest: Size) -> int:
        """How many rows may be asked for, where ours take that and none more than `largest`."""
        least = min(_WORTH, max(1, len(ours)))
        left = self._check_left(self._worth_looking(least, largest), "to look at readings one by one")
        today = max(1, self._rows_within(left / 2, largest))
        at_once = self._budget.at_once
        sure = max(1, self._trusted, self._rows_within(at_once, largest))
        return min(self._batch.limit, today, sure, max(1, self._ours_within(at_once, ours, largest)))

    def _worth_looking(self, rows: int, largest: Size) -> float:
        """The bytes with which it is worth while to read rows, and to send as many."""
        possible = max(1, self._rows_within(self._budget.of_a_day / 2, largest))
        return 2 * _most(self._rows, largest.times(min(rows, possible)))

    def _check_left(self, needed: float, what: str) -> float:
        """The bytes that may still go today. Raises `ConfigError` where so many never may, `LimitReached` where not
        today."""
        left = self.until_free(self._budget.left)
        whole = self._budget.of_a_day
        if needed > whole:
            raise ConfigError(
                f"upstream {self._name}: max_per_day is too little {what}: that may take {needed:,.0f} bytes, and"
                f" beside fresh readings a day has {whole:,.0f}. Raise it, or compare less at once: of one device, of"
                " one model, or only the latest (--device, --model, --since)"
            )
        if needed > left:
            raise self._reached("budget")
        return left

    def pieces(self, sizes: Mapping[int, Size]) -> list[tuple[int, Size]]:
        """Buckets, by their start, in pieces that may be asked for together: from which on, and how large it is."""
        most = min(self._budget.at_once, self._budget.of_a_day / _PIECES)
        found: list[tuple[int, Size]] = []
        for start, size in sorted(sizes.items()):
            both = found[-1][1].plus(size) if found else size
            if found and _most(self._counts, both) <= most:
                found[-1] = found[-1][0], both
            else:
                found.append((start, size))
        return found

    def is_dear(self, rows: Size, parts: Size, questions: int) -> bool:
        """Whether reading these rows takes so much that it is better to ask so many questions first."""
        read, count = _most(self._rows, rows), questions * _most(self._counts, parts)
        return read > max(count, min(_SAVES * count, self._budget.of_a_day / _PIECES))

    def rows_for_a_request(self, each: Size) -> int:
        """How many rows take as much as one request more."""
        return int(_fixed(self._rows) / max(1.0, _each(self._rows, each)))

    def buckets_within_piece(self, size: Size, questions: int) -> float:
        """How many buckets of that size so many questions may be about, that together are to be one piece."""
        piece = self._budget.of_a_day / _PIECES / questions
        return (piece / MARGIN - _fixed(self._counts)) / _each(self._counts, size)

    def _rows_within(self, count: float, largest: Size) -> int:
        return int(min(1e9, (count / MARGIN - _fixed(self._rows)) / _each(self._rows, largest)))

    def _ours_within(self, count: float, ours: Iterable[Size], largest: Size) -> int:
        """How many rows fit into so many bytes: ours first, then others of any size."""
        together, rows = NOTHING, 0
        for size in ours:
            together = together.plus(size)
            if _most(self._rows, together) > count:
                return rows
            rows += 1
        return rows + max(0, self._rows_within(count - MARGIN * _each(self._rows, together), largest))

    def _counting(self, asked: Asked) -> float:
        """What it takes as a rule to ask that."""
        sizes = (size.usual for _, size in self.pieces(asked.sizes))
        each = (_fixed(self._counts) + self._counts.of(usual) - self._counts.of(0) for usual in sizes)
        return MARGIN * asked.questions * sum(each)

    def _narrowing(self, asked: Asked) -> float:
        """And to read rows then."""
        return self._counting(asked) + self._worth_looking(_WORTH, asked.largest)

    def until_free(self, step: Callable[[], Answer]) -> Answer:
        """Take a step as soon as it does not raise `Held`; what it returned."""
        while True:
            try:
                return step()
            except Held as held:
                left = held.until - self._clock.monotonic()
                if left > LONGEST or held.reason == "clock":
                    raise self._reached(held.reason) from held
                self._wait(left)

    def _reached(self, reason: str | None) -> LimitReached:
        return LimitReached(f"upstream {self._name}: {_REASONS[reason or 'budget']}. Started again later, it goes on")

    def _sleep(self, seconds: float) -> None:
        condition = threading.Condition()
        with condition:
            self._clock.wait(condition, seconds)


def _most(cost: Cost, size: Size) -> float:
    """The most bytes that an answer of that size takes, with its question."""
    return MARGIN * (_fixed(cost) + _each(cost, size))


def _fixed(cost: Cost) -> float:
    return max(REQUEST, cost.of(0))


def _each(cost: Cost, size: Size) -> float:
    return cost.most(size) - cost.of(0)
