"""The hours of a new history, and by those of the old one how many readings are missing where."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import starmap

from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.draft import Draft, reading_old
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.hours import add_hours, whole_hour
from edgedepot.storage.sqlite.records import MOST, TIME
from edgedepot.storage.sqlite.report import span
from edgedepot.storage.sqlite.shape import Partition
from edgedepot.storage.sqlite.tables import HOUR, hour_table, hours_of, widen_hours


def add_all_hours(draft: Draft) -> None:
    """Of the readings that history has so far."""
    for layout, partition, table in draft.partitions():
        widen_hours(draft.new, layout, partition)
        found = draft.new.execute(f"SELECT DISTINCT series, {hour_of('ts')} FROM main.{table}").fetchall()
        add_hours(draft.new, layout, partition, starmap(whole_hour, found))


def add_hours_again(draft: Draft, hours: Iterable[tuple[int, int]]) -> None:
    """Of these series and hours, into which more readings came."""
    ordered = sorted(hours)
    for layout, partition, _ in draft.partitions():  # also those that came just now
        widen_hours(draft.new, layout, partition)
        first, behind = hours_of(partition)
        for series, hour in ordered:
            if draft.models[series] == layout.id and first <= hour < behind:
                where = "WHERE series = ? AND hour = ?"
                draft.new.execute(f"DELETE FROM main.{hour_table(layout, partition)} {where}", (series, hour))
                add_hours(draft.new, layout, partition, [whole_hour(series, hour)])


def compare_hours(draft: Draft, left_out: Collection[tuple[int, int]]) -> None:
    """Note which hours have fewer readings than they had; those `left_out`, by model and start, have none."""
    if draft.old_shape is None and draft.pages.count:
        draft.notes.append("how many readings are lost is not known")
    unknown = set[str]()
    for model, mine in draft.old_shape.partitions.items() if draft.old_shape else ():
        layout = draft.layouts.get(model)
        for partition in mine if layout is not None else ():
            assert layout is not None
            if partition.hours is not None and not _compared(draft, layout, partition, left_out):
                unknown.add(layout.name)
    draft.notes += [f"how many old readings of {name} are lost is not known" for name in sorted(unknown)]


def _compared(draft: Draft, layout: Layout, old: Partition, left_out: Collection[tuple[int, int]]) -> bool:
    table = hour_table(layout, old)
    mine = "0"
    if (layout.id, old.start) not in left_out:
        same = f"main.{table} AS n WHERE n.series = o.series AND n.hour = o.hour"
        mine = f"coalesce((SELECT rows FROM {same}), 0)"
    dirty = f"SELECT 1 FROM old._dirty AS d WHERE d.series = o.series AND d.hour = o.hour AND d.part = {old.start}"
    time = f"o.hour > {TIME.low // HOUR} AND o.hour < {TIME.high // HOUR}"
    query = (
        f"SELECT device_id, o.hour, o.rows - {mine} AS missing FROM old.{table} AS o"
        f" JOIN main._series AS s ON s.id = o.series WHERE missing BETWEEN 1 AND {MOST} AND NOT EXISTS ({dirty})"
        f" AND typeof(o.hour) || typeof(o.rows) = 'integerinteger' AND {time} ORDER BY device_id, o.hour"
    )
    if draft.is_sound(table) and draft.is_sound("_dirty"):
        with reading_old():
            _note_missing(draft, layout, draft.new.execute(query).fetchall())
            return True
    return False


def _note_missing(draft: Draft, layout: Layout, hours: list[tuple[str, int, int]]) -> None:
    open_spans: dict[str, list[int]] = {}
    for device, hour, missing in hours:
        last = open_spans.get(device)
        if last is not None and last[1] + 1 == hour:
            last[1], last[2] = hour, last[2] + missing
            continue
        if last is not None:
            draft.spans.append(span(layout.name, device, *last))
        open_spans[device] = [hour, hour, missing]
    draft.spans += [span(layout.name, device, *one) for device, one in open_spans.items()]
