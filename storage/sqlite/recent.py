"""What came within the last hour, in the order in which it came: from the file, whoever writes it.

No row says when it came. But rows are numbered as they come, the last number of a commit is no reading's, and where a
device's clock is right the time of a reading is that of its coming:

    number   ..  810 811 | 812  813       815  816  817      819  ..
    time     ..     9:58 | 10:01 10:01    10:02 8:02 10:02   10:03 ..      now: 11:00
                           ^ `first`, the lowest number of any reading of the last hour: that of 8:02 came after it

Of each device those count that came since `first` and are of the last hour by its own clock, be that ahead or behind;
so one that sends what it gathered in a day counts with an hour of it. A clock is as far ahead as what came last says,
not as some reading said before. In memory a reading takes some 150 bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from edgedepot.storage.clock import HOUR
from edgedepot.storage.sqlite.catalogue import Catalogue, Layout
from edgedepot.storage.sqlite.records import read_records
from edgedepot.storage.sqlite.shape import Shape
from edgedepot.storage.sqlite.tables import cell, history_table, rows_of, seen_condition
from edgedepot.storage.sqlite.view import View
from edgedepot.storage.sqlite.walk import NEVER

_MOST = 500_000
"""Numbers that are looked at: of more readings an hour it is a part of one."""
_FEW, _LONGER = 10, 3
"""Of so few commits nobody can tell whether the silence before them was one; nor of one that was not so many times
longer than those between them."""

_LONG, _FAR_LONGER = 300.0, 10
"""Seconds of a pause, and so many times longer it is than the next."""


class Came(NamedTuple):
    """Of one device and model: the readings' times, in microseconds and by our clock, and which commit each was in."""

    times: array[int]
    commits: array[int]


class Values(NamedTuple):
    """Of a field: its type, how many values came, and of texts their bytes."""

    kind: type
    values: int
    letters: int


class Recent(NamedTuple):
    """By measurement and device what came in the last so many `seconds`, in so many `commits`; by measurement how many
    readings, and the values of each field. `silence`: for how many seconds nothing had come before that, where that
    is why it is no whole hour; infinite where these are the first there are. `pause`: for how many of them nothing
    came, where that is far longer than it was between other readings."""

    series: dict[tuple[str, str], Came]
    values: dict[str, tuple[int, list[Values]]]
    commits: int
    seconds: float
    silence: float | None
    pause: float | None


class _Series(NamedTuple):
    id: int
    layout: Layout
    device: str
    newest: int
    unfolded: list[tuple[int, int]]
    """Time and number."""


def read_recent(view: View, catalogue: Catalogue, now: int) -> Recent:
    """What the view's transaction sees of that, now being so many microseconds."""
    look = _Look(view, now, list(_series_of(view, catalogue)))
    first, is_cut = look.first()
    found = [(series, rows) for series in look.series if (rows := look.since(series, first))]
    starts = starts_of(sorted(seq for _, rows in found for _, seq in rows))
    came = {
        (series.layout.name, series.device): Came(
            array("q", [ts + look.behind(series) for ts, _ in rows]),
            array("q", [bisect_right(starts, seq) - 1 for _, seq in rows]),
        )
        for series, rows in found
    }
    values = {
        layout.name: look.values(layout, [series for series, _ in found if series.layout is layout], first)
        for layout in {series.layout.id: series.layout for series, _ in found}.values()
    }
    times = times_of(came.values(), len(starts))
    seconds, silence = look.seconds(times, is_cut) if times else (0.0, None)
    return Recent(came, values, len(starts), seconds, silence, pause_in([*times, now]))


def _series_of(view: View, catalogue: Catalogue) -> Iterator[_Series]:
    """The series that have readings, by when their newest is from."""
    layouts = catalogue.layouts()
    unfolded: dict[int, list[tuple[int, int]]] = {}
    for layout in layouts.values():
        for table in _unfolded(view.shape, layout):
            for series, ts, seq in view.connection.execute(f"SELECT series, ts, seq FROM {table}"):
                unfolded.setdefault(series, []).append((ts, seq))
    for one, model, device, newest in list(
        read_records(view.connection, "_series", ("id", "model", "device_id", "newest"))
    ):
        rows = unfolded.get(one, [])
        times = [ts for ts, _ in rows] + ([] if newest is None else [newest])
        if times and model in layouts:
            yield _Series(one, layouts[model], device, max(times), rows)


def _unfolded(shape: Shape, layout: Layout) -> Iterator[str]:
    """The pieces of the journal, as what to select from, with the condition for a model's rows that history lacks."""
    for piece in shape.unfolded():
        mine = f"series IN (SELECT id FROM _series WHERE model = {layout.id})"
        yield f"{rows_of(shape, piece)} WHERE {seen_condition(shape, piece, layout.id)} AND {mine}"


class _Look:
    """At a store's rows, now being so many microseconds."""

    def __init__(self, view: View, now: int, series: list[_Series]) -> None:
        self._view = view
        self._now = now
        self.series = [self._by_its_clock(one) for one in series]

    def first(self) -> tuple[int, bool]:
        """The number from which on readings of the last hour came, and whether that are more than are looked at."""
        pieces = self._view.shape.pieces
        last = pieces[-1].first - 1 if pieces else 0
        last = max([last, *(seq for series in self.series for _, seq in series.unfolded)])
        found = min((seq for series in self.series for seq in self._lowest(series)), default=last + 1)
        return max(found, last - _MOST), found < last - _MOST

    def _by_its_clock(self, series: _Series) -> _Series:
        """With the newest reading that its clock has come to. One from the future says how far that is ahead, but where
        the newest of the past came after it: then it is not any more, and what was from the future does not count."""
        if series.newest <= self._now:
            return series
        past, future = [(NEVER, 0)], [(0, NEVER)]
        for ts, seq in series.unfolded:
            if ts > self._now:
                future.append((seq, ts))
            else:
                past.append((ts, seq))
        for table, _ in self._history(series, self._now):
            query = f"SELECT max(seq), ts FROM {table} WHERE series = ? AND ts > ?"
            future += self._found(query, series.id, self._now)
        for table, _ in self._history(series, NEVER):
            query = f"SELECT ts, seq FROM {table} WHERE series = ? AND ts <= ? ORDER BY ts DESC LIMIT 1"
            if before := list(self._found(query, series.id, self._now)):
                past += before
                break
        (seq, ahead), (newest, last) = max(future), max(past)
        return series._replace(newest=ahead if seq > last else newest)

    def _is_live(self, series: _Series) -> bool:
        return series.newest > self._now - HOUR

    def behind(self, series: _Series) -> int:
        """How much its clock is behind, in microseconds; less than zero where it is ahead."""
        off = self._now - series.newest
        return off if off < 0 or not self._is_live(series) else 0

    def _lowest(self, series: _Series) -> Iterator[int]:
        """The lowest number of its readings of the last hour."""
        if self._is_live(series):
            since = max(self._now, series.newest) - HOUR
            yield from (seq for ts, seq in series.unfolded if since <= ts <= series.newest)
            for table, _ in self._history(series, since):
                query = f"SELECT min(seq) FROM {table} WHERE series = ? AND ts BETWEEN ? AND ?"
                yield from self._known(query, series.id, since, series.newest)

    def _history(self, series: _Series, since: int) -> Iterator[tuple[str, int]]:
        """The tables in which its rows from that time on are, the latest first, and how wide these are."""
        for partition in reversed(self._view.shape.partitions.get(series.layout.id, [])):
            if partition.stop > since and partition.start <= series.newest:
                yield history_table(series.layout, partition), partition.width

    def _known(self, query: str, *bound: int) -> Iterator[int]:
        """The one number that a query finds, if it finds any."""
        yield from (number for number, *_ in self._found(query, *bound))

    def _found(self, query: str, *bound: int) -> Iterator[tuple[int, int]]:
        """The same of one row."""
        found = self._view.connection.execute(query, bound).fetchone()
        if found is not None and found[0] is not None:
            yield found

    def since(self, series: _Series, first: int) -> list[tuple[int, int]]:
        """Time and number of the readings of its last hour that came from that number on."""
        if not self._is_live(series) and not self._came(series, first):
            return []
        since = series.newest - HOUR
        found = [row for row in series.unfolded if since <= row[0] <= series.newest and row[1] >= first]
        for table, _ in self._history(series, since):
            query = f"SELECT ts, seq FROM {table} WHERE series = ? AND ts BETWEEN ? AND ? AND seq >= ?"
            found += self._view.connection.execute(query, (series.id, since, series.newest, first))
        return found

    def _came(self, series: _Series, first: int) -> bool:
        """Whether its newest reading came from that number on: thousands may have gone long since."""
        newest = [seq for _, seq in series.unfolded]
        for table, _ in self._history(series, series.newest):
            newest += self._known(f"SELECT seq FROM {table} WHERE series = ? AND ts = ?", series.id, series.newest)
        return max(newest, default=first - 1) >= first

    def values(self, layout: Layout, series: Sequence[_Series], first: int) -> tuple[int, list[Values]]:
        """Of a model's series: how many of their readings there are, and the values of each field."""
        sums = [0] * (1 + 2 * len(layout.written))

        def add(table: str, width: int, *bound: int) -> None:
            cells = [cell(f"c{index}", width) for index in range(len(layout.written))]
            texts = [
                f"total(length(CAST({one} AS BLOB)))" if spec.type is str else "0"
                for one, spec in zip(cells, layout.written, strict=True)
            ]
            asked = ", ".join(["count(*)", *(f"count({one})" for one in cells), *texts])
            found = self._view.connection.execute(f"SELECT {asked} FROM {table} AND seq >= {first}", bound).fetchone()
            sums[:] = [one + round(more) for one, more in zip(sums, found, strict=True)]

        for piece, table in zip(self._view.shape.unfolded(), _unfolded(self._view.shape, layout), strict=True):
            add(table, piece.width)
        for one in series:
            for table, width in self._history(one, one.newest - HOUR):
                add(f"{table} WHERE series = ? AND ts >= ?", width, one.id, one.newest - HOUR)
        count, rest = sums[0], len(layout.written) + 1
        kinds = (spec.type for spec in layout.written)
        return count, [Values(*one) for one in zip(kinds, sums[1:rest], sums[rest:], strict=True)]

    def seconds(self, times: Sequence[int], is_cut: bool) -> tuple[float, float | None]:
        """In what time that came, and the silence before, where it begins with the first reading since. `times` are
        those of the commits."""
        since = (self._now - times[0]) / 1e6
        if is_cut:
            return max(1.0, since), None
        before = self._before()
        if before is None:
            return max(1.0, since), float("inf")
        silence = (times[0] - before) / 1e6
        longest = max((after - one) / 1e6 for one, after in pairwise([*times, self._now]))
        if len(times) < _FEW or silence <= _LONGER * longest:
            return HOUR / 1e6, None
        return max(1.0, since), silence

    def _before(self) -> int | None:
        """When the last reading came before the last hour, None where none did."""
        found: list[int] = []
        for series in self.series:
            ahead = max(0, series.newest - self._now)
            until = self._now - HOUR + ahead
            times = [ts for ts, _ in series.unfolded if ts < until]
            for table, _ in self._history(series, NEVER):
                query = f"SELECT ts FROM {table} WHERE series = ? AND ts < ? ORDER BY ts DESC LIMIT 1"
                before = list(self._known(query, series.id, until))
                times += before
                if before:
                    break
            found += [ts - ahead for ts in times]
        return max(found, default=None)


def starts_of(numbers: Sequence[int]) -> list[int]:
    """The first number of each commit."""
    return [*numbers[:1], *(after for one, after in pairwise(numbers) if after > one + 1)]


def pause_in(times: Sequence[int]) -> float | None:
    """The longest time between two of these, in seconds, where none of the others is near as long."""
    *_, next_longest, longest = sorted([0.0, 0.0, *((after - one) / 1e6 for one, after in pairwise(times))])
    return longest if len(times) > _FEW and longest > max(_LONG, _FAR_LONGER * next_longest) else None


def times_of(series: Iterable[Came], commits: int) -> list[int]:
    """When each commit was: not before the latest of its readings' times, nor before the commits before."""
    latest = [NEVER] * commits
    for came in series:
        own: dict[int, int] = {}
        for ts, commit in zip(came.times, came.commits, strict=True):
            own[commit] = max(own.get(commit, NEVER), ts)
        for commit, ts in in_order(sorted(own.items())):
            latest[commit] = max(latest[commit], ts)
    first = next((ts for ts in latest if ts > NEVER), NEVER)
    return [max(first, ts) for ts in accumulate(latest, max)]


def in_order(times: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The most of a device's commits and times of which none is earlier than those before (the longest increasing
    subsequence): a single one that a wrong clock said is not among them."""
    if all(one[1] <= after[1] for one, after in pairwise(times)):
        return times
    ends: list[int] = []  # by length the lowest time at which so many can end, and the place of that
    places: list[int] = []
    before: list[int] = []
    for place, (_, ts) in enumerate(times):
        length = bisect_right(ends, ts)
        before.append(places[length - 1] if length else -1)
        ends[length : length + 1] = [ts]
        places[length : length + 1] = [place]
    found = [places[-1]]
    while before[found[-1]] >= 0:
        found.append(before[found[-1]])
    return [times[place] for place in reversed(found)]
