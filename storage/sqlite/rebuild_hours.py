"""The hours of a new history, and by those of the old one how many readings are missing where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import starmap

from edgedepot.storage.clock import HOUR
from edgedepot.storage.sqlite.catalogue import Layout
from edgedepot.storage.sqlite.draft import Draft, reading_old
from edgedepot.storage.sqlite.history import hour_of
from edgedepot.storage.sqlite.hours import add_hours, whole_hour
from edgedepot.storage.sqlite.records import MOST, TIME
from edgedepot.storage.sqlite.report import LostSpan, span
from edgedepot.storage.sqlite.shape import Partition
from edgedepot.storage.sqlite.tables import history_table, hour_table, hours_of, widen_hours

_READABLE = (
    "typeof(o.hour) || typeof(o.rows) || typeof(o.digest) = 'integerintegerinteger'"
    f" AND o.hour > {TIME.low // HOUR} AND o.hour < {TIME.high // HOUR}"
)
_SHOWN = 3


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


LeftOut = Mapping[tuple[int, int], Mapping[tuple[int, int], int] | None]


def compare_hours(draft: Draft, left_out: LeftOut) -> None:
    """Note which hours have fewer readings than they had, or others. Of the partitions `left_out`, by model and start,
    all are in the damaged file, or as many as these, by series and hour."""
    unknown = set[str]()
    for model, mine in draft.old_shape.partitions.items() if draft.old_shape else ():
        layout = draft.layouts.get(model)
        for partition in mine if layout is not None else ():
            assert layout is not None
            if partition.hours is None:
                continue
            table = history_table(layout, partition)
            if not _compared(draft, layout, partition, left_out):
                unknown.add(layout.name)
                continue
            if table in draft.damaged and _has_open_hours(draft, layout, partition):
                unknown.add(layout.name)
            if draft.complete and (model, partition.start) not in left_out and table not in draft.turned:
                _find_changed(draft, layout, partition)
    draft.notes += [f"how many old readings of {name} are lost is not known" for name in sorted(unknown)]


def keep_changed(draft: Draft) -> None:
    """Have the hours whose readings changed on the card say so: their digests differ by what they did before. Were they
    computed from what is there, `verify` would take it for what was stored."""
    for table, series, hour, difference in draft.changed:
        draft.new.execute(
            f"UPDATE main.{table} SET digest = digest + ? WHERE series = ? AND hour = ?", (difference, series, hour)
        )


def _compared(draft: Draft, layout: Layout, old: Partition, left_out: LeftOut) -> bool:
    table = hour_table(layout, old)
    mine, found = "0", left_out.get((layout.id, old.start), {})
    if found is None:
        return True
    if (layout.id, old.start) not in left_out:
        same = f"main.{table} AS n WHERE n.series = o.series AND n.hour = o.hour"
        mine = f"coalesce((SELECT rows FROM {same}), 0)"
    dirty = f"SELECT 1 FROM old._dirty AS d WHERE d.series = o.series AND d.hour = o.hour AND d.part = {old.start}"
    query = (
        f"SELECT device_id, o.hour, o.rows - {mine} AS missing, o.series FROM old.{table} AS o"
        f" JOIN main._series AS s ON s.id = o.series WHERE missing BETWEEN 1 AND {MOST} AND NOT EXISTS ({dirty})"
        f" AND {_READABLE} ORDER BY device_id, o.hour"
    )
    if draft.is_sound(table) and draft.is_sound("_dirty"):
        with reading_old():
            rows = draft.new.execute(query)
            missing = ((device, hour, count - found.get((series, hour), 0)) for device, hour, count, series in rows)
            draft.spans += _spans(layout, (one for one in missing if one[2] > 0))
            return True
    return False


def _has_open_hours(draft: Draft, layout: Layout, old: Partition) -> bool:
    """Whether readings went from some of its hours since these were computed."""
    mine = "series IN (SELECT id FROM main._series WHERE model = ?)"
    query = f"SELECT 1 FROM old._dirty WHERE part = ? AND {mine} LIMIT 1"
    has_some = True
    with reading_old():
        has_some = draft.new.execute(query, (old.start, layout.id)).fetchone() is not None
    return has_some


def _find_changed(draft: Draft, layout: Layout, old: Partition) -> None:
    """The hours that have as many readings as they had, and others."""
    table = hour_table(layout, old)
    query = (
        f"SELECT device_id, o.hour, n.rows, o.series, o.digest - coalesce(d.digest, 0) - n.digest AS difference"
        f" FROM old.{table} AS o JOIN main.{table} AS n ON n.series = o.series AND n.hour = o.hour"
        f" JOIN main._series AS s ON s.id = o.series LEFT JOIN old._dirty AS d"
        f" ON d.series = o.series AND d.hour = o.hour AND d.part = {old.start}"
        f" WHERE (d.hour IS NOT NULL OR o.rows = n.rows) AND difference <> 0 AND {_READABLE}"
        " ORDER BY device_id, o.hour"
    )
    found = list[tuple[str, int, int, int, object]]()
    with reading_old():
        found = draft.new.execute(query).fetchall()
    draft.changed += [
        (table, series, hour, difference if isinstance(difference, int) else 1)  # where it exceeds 64 bits
        for _, hour, _, series, difference in found
    ]
    spans = _spans(layout, (one[:3] for one in found))
    draft.notes += [f"readings of {one.where} are not those that were stored, see verify" for one in spans[:_SHOWN]]
    if spans[_SHOWN:]:
        draft.notes.append(f"nor are those of {len(spans) - _SHOWN} more stretches of {layout.name}")


def _spans(layout: Layout, hours: Iterable[tuple[str, int, int]]) -> list[LostSpan]:
    """Hours of a device after one another together; by device and hour, with how many readings they are about."""
    found, open_spans = list[LostSpan](), dict[str, list[int]]()
    for device, hour, count in hours:
        last = open_spans.get(device)
        if last is not None and last[1] + 1 == hour:
            last[1], last[2] = hour, last[2] + count
            continue
        if last is not None:
            found.append(span(layout.name, device, *last))
        open_spans[device] = [hour, hour, count]
    return found + [span(layout.name, device, *one) for device, one in open_spans.items()]
