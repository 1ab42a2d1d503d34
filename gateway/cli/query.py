"""`edgedepot query`: readings, or one figure of them, from the local store."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from edgedepot.cli.output import cell, console, counted, escape, table
from edgedepot.cli.target import FILE, open_store
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import seconds_of, zone_of
from edgedepot.storage.query import Function
from edgedepot.storage.reading import Reading, field_of
from edgedepot.storage.registry import did_you_mean

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.storage import SQLiteStorage

Form = Literal["table", "json", "csv"]
_TABLE_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, checked."""

    model: type[Reading]
    device: str | None
    start: datetime | None
    end: datetime | None
    zone: tzinfo
    form: Form


@click.command(
    epilog="""\b
Examples:
  edgedepot query gateway.toml weatherstation --last 1h
  edgedepot query gateway.db weatherstation --device mast --fields temperature --limit 5
  edgedepot query gateway.db weatherstation --start 2026-01-01 --end 2026-02-01 --tz Europe/Zurich --csv
  edgedepot query gateway.db weatherstation --aggregate max --field temperature --group-by device
  edgedepot query gateway.db weatherstation --aggregate avg --field temperature --interval 1h --last 1d

\b
Times are ISO 8601. One without a zone is taken in --tz, which then has to be given. Ranges are half-open: the start
belongs to them, the end does not. Intervals: 30s, 5m (minutes), 1h, 1d, 2w, 1mo, 1y, "5 minutes"."""
)
@FILE
@click.argument("model")
@click.option("--device", help="Only this device.")
@click.option("--start", metavar="TIME", help="From this time on.")
@click.option("--end", metavar="TIME", help="Before this time.")
@click.option("--last", metavar="DURATION", help="From so long ago on: 10m, 1h, 7d.")
@click.option("--fields", metavar="A,B", help="Only these fields (quality is one too).")
@click.option("--limit", type=click.IntRange(min=0), help="At most so many readings; a table shows 100 unless told.")
@click.option("--order", default="-timestamp", show_default=True, help="Order by this; '-' in front for descending.")
@click.option("--aggregate", type=click.Choice(get_args(Function)), help="One figure instead of the readings.")
@click.option("--field", help="What to aggregate.")
@click.option("--interval", help="One figure for each of these.")
@click.option("--group-by", type=click.Choice(["device"]), help="One figure for each device.")
@click.option("--fill", type=click.Choice(["null", "previous"]), help="What intervals without values show.")
@click.option("--tz", help="Zone of the times shown and given, and of calendar intervals.  [default: UTC]")
@click.option("--json", "form", flag_value="json", help="A JSON list, one line each.")
@click.option("--csv", "form", flag_value="csv", help="CSV with a head line.")
def query(
    file: Path,
    model: str,
    device: str | None,
    start: str | None,
    end: str | None,
    last: str | None,
    tz: str | None,
    form: Form | None,
    aggregate: Function | None,
    **more: Any,
) -> None:
    """Show readings of MODEL, newest first, or a figure of them.

    Works beside a running gateway, and without one.
    """
    _check_together(aggregate, more)
    if last is not None and (start is not None or end is not None):
        raise click.UsageError("--last goes neither with --start nor with --end")
    with open_store(file) as store:
        question = Question(
            _model(store, model),
            device,
            _since(last) if last else _time("--start", start, tz),
            _time("--end", end, tz),
            zone_of(tz or "UTC"),
            form or "table",
        )
        if aggregate is None:
            _show_readings(store, question, more["fields"], more["limit"], more["order"])
        else:
            _show_figures(store, question, aggregate, tz or "UTC", more)


def _check_together(aggregate: str | None, options: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect."""
    if aggregate is None:
        lost = [name for name in ("field", "interval", "group_by", "fill") if options[name] is not None]
        if lost:
            raise click.UsageError(f"--{lost[0].replace('_', '-')} goes with --aggregate")
    elif options["field"] is None:
        raise click.UsageError("--aggregate goes with --field")
    elif options["fields"] is not None or options["limit"] is not None:
        raise click.UsageError("--fields and --limit do not go with --aggregate")
    elif options["fill"] is not None and options["interval"] is None:
        raise click.UsageError("--fill goes with --interval")


def _model(store: SQLiteStorage, name: str) -> type[Reading]:
    models = store.models()
    if name.lower() in models:
        return models[name.lower()]
    known = ", ".join(sorted(models)) or "none, as there is no reading yet"
    raise InvalidValue(f'{store.path}: no model "{name}"{did_you_mean(name, models)}; there are: {known}')


def _since(last: str) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds_of(last, "--last"))


def _time(option: str, text: str | None, tz: str | None) -> datetime | None:
    """A time of the command line. Without a zone it is taken in --tz, and refused where that is not given."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidValue(f'{option}: found "{text}", expected a time such as 2026-01-31T12:00:00+01:00') from exc
    if moment.tzinfo is not None:
        return moment
    if tz is None:
        raise InvalidValue(f'{option}: "{text}" has no zone: write {moment.isoformat()}Z or the like, or give --tz')
    return moment.replace(tzinfo=zone_of(tz))


def _show_readings(store: SQLiteStorage, question: Question, fields: str | None, limit: int | None, order: str) -> None:
    wanted = [name.strip() for name in fields.split(",")] if fields else None
    is_cut = limit is None and question.form == "table"
    rows = store.query_readings(
        question.model,
        question.device,
        question.start,
        question.end,
        wanted,
        _TABLE_LIMIT + 1 if is_cut else limit,
        order,
    )
    names = wanted or [spec.name for spec in question.model.__fields__]
    columns = ["device_id", "timestamp", *(name for name in names if name not in ("device_id", "timestamp"))]
    shown = rows[:_TABLE_LIMIT] if is_cut else rows
    _show(question, columns, [_head(question.model, name) for name in columns], shown, 2)
    if is_cut and len(rows) > _TABLE_LIMIT:
        click.echo(f"The first {_TABLE_LIMIT}; --limit shows more, --json and --csv show all.", err=True)


def _show_figures(
    store: SQLiteStorage, question: Question, function: Function, tz: str, options: Mapping[str, Any]
) -> None:
    field = field_of(question.model, options["field"])
    found = store.aggregate(
        question.model,
        field.name,
        function,
        question.device,
        question.start,
        question.end,
        options["interval"],
        tz,
        options["group_by"],
        options["fill"],
    )
    rows = found if isinstance(found, list) else [found]
    columns = ["device_id"] if options["group_by"] else []
    columns += ["bucket"] if options["interval"] else []
    heads = [*columns, f"{function} {_head(question.model, field.name)}"]
    _show(question, [*columns, "result"], heads, rows, len(columns))


def _show(
    question: Question, columns: Sequence[str], heads: Sequence[str], rows: Sequence[Mapping[str, Any]], left: int
) -> None:
    local = [{name: _local(row[name], question.zone) for name in columns} for row in rows]
    if question.form == "table":
        _print_table(heads, local, left)
    elif question.form == "json":
        _write_json(local)
    else:
        _write_csv(columns, local)


def _local(value: Any, zone: tzinfo) -> Any:
    return value.astimezone(zone) if isinstance(value, datetime) else value


def _write_json(rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, default=datetime.isoformat) for row in rows)
    click.echo("[" + ",\n ".join(lines) + "]")


def _write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row[name]) for name in columns] for row in rows)


def _csv_cell(value: Any) -> Any:
    """A time as ISO text; true and false as in JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else value


def _print_table(heads: Sequence[str], rows: Sequence[Mapping[str, Any]], left: int) -> None:
    grid = table([escape(head) for head in heads], left=left)
    for row in rows:
        grid.add_row(*(escape(cell(value)) for value in row.values()))
    screen = console()
    screen.print(grid)
    screen.print(f"[dim]{counted(len(rows), 'row')}[/]")


def _head(model: type[Reading], name: str) -> str:
    """A column's head: the field, and its unit on a second line."""
    unit = next((spec.unit for spec in model.__fields__ if spec.name == name), None)
    return f"{name}\n{unit}" if unit else name
