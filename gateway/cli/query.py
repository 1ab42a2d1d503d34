"""`edgedepot query`: readings, or figures of them, from the local store."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from edgedepot.cli.figures import Figures, show_chart
from edgedepot.cli.output import cell, console, escape, table
from edgedepot.cli.rows import json_of, lines_of, local
from edgedepot.cli.scope import TIMES, Span, columns_of, model_of, names_of, span_options, unknown_device, with_quality
from edgedepot.cli.target import FILE, open_store
from edgedepot.storage.query import Function
from edgedepot.storage.reading import Reading
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.storage.sqlite.storage import SQLiteStorage

Form = Literal["table", "csv", "jsonl", "json", "chart"]
Row = Mapping[str, Any]
_TABLE_LIMIT = 100


@click.command(
    epilog=f"""\b
Examples:
  edgedepot query gateway.toml weatherstation --last 1h
  edgedepot query gateway.db weatherstation --device mast --limit 5
  edgedepot query gateway.db weatherstation --tz Europe/Zurich --csv \\
      --start 2026-01-01 --end 2026-02-01
  edgedepot query gateway.db weatherstation --field temperature \\
      --function max --group-by device
  edgedepot query gateway.db weatherstation --field temperature \\
      --interval 1h --last 1d
  edgedepot query gateway.db weatherstation --field temperature \\
      --last 2d --chart

{TIMES}

Intervals: 30s, 5m (minutes), 1h, 1d, 2w, 1mo, 1y, "5 minutes". Days and longer follow the calendar of --tz.

In CSV an empty cell is null and "" an empty text; numbers have all their digits there and in JSON."""
)
@FILE
@click.argument("model")
@span_options
@click.option("--fields", metavar="A,B", help="Only these fields (quality is one too).")
@click.option("--limit", type=click.IntRange(min=0), help="At most so many readings; a table shows 100 unless told.")
@click.option("--order", help="Order by this; '-' in front for descending.  [default: -timestamp]")
@click.option("--field", help="Figures of this field in place of the readings.")
@click.option("--function", type=click.Choice(get_args(Function)), help="Which figure.  [default: avg]")
@click.option("--interval", help="One figure for each of these.")
@click.option("--group-by", type=click.Choice(["device"]), help="One figure for each device.")
@click.option("--fill", type=click.Choice(["null", "previous"]), help="What intervals without values show.")
@click.option("--csv", "form", flag_value="csv", help="CSV with a head line.")
@click.option("--jsonl", "form", flag_value="jsonl", help="JSON lines: an object on each.")
@click.option("--json", "form", flag_value="json", help="One JSON list.")
@click.option("--chart", "form", flag_value="chart", help="Draw --field over time; --interval is chosen unless given.")
def query(
    file: Path,
    model: str,
    span: Span,
    fields: str | None,
    limit: int | None,
    order: str | None,
    form: Form | None,
    **figures: Any,
) -> None:
    """Show readings of MODEL, newest first, or figures of a field.

    Works beside a running gateway, and without one. In CSV and JSON any number of readings comes in constant memory, as
    long as they are ordered by time.
    """
    asked = _figures(figures, form, fields is not None or limit is not None or order is not None)
    with open_store(file) as store:
        if asked is None:
            _show_readings(store, model_of(store, model), span, names_of(fields), limit, order or "-timestamp", form)
        elif form == "chart":
            found = model_of(store, model)
            show_chart(store, found, span, asked, _head(found, asked.field).replace("\n", ", "))
        else:
            _show_figures(store, model_of(store, model), span, asked, form)


def _figures(options: Mapping[str, Any], form: Form | None, of_readings: bool) -> Figures | None:
    """The figures asked for, None for readings. Refuses options that would have no effect."""
    if options["field"] is None:
        lost = [name for name, value in options.items() if value is not None]
        if lost or form == "chart":
            raise click.UsageError(f"--{lost[0].replace('_', '-') if lost else 'chart'} goes with --field")
        return None
    if of_readings:
        raise click.UsageError("--fields, --limit and --order do not go with --field")
    if options["fill"] is not None and options["interval"] is None and form != "chart":
        raise click.UsageError("--fill goes with --interval")
    return Figures(**{**options, "function": options["function"] or "avg"})


def _show_readings(
    store: SQLiteStorage,
    model: type[Reading],
    span: Span,
    fields: list[str] | None,
    limit: int | None,
    order: str,
    form: Form | None,
) -> None:
    is_cut = limit is None and form is None
    asked = with_quality(model) if fields is None and form is None else fields
    question = (model, span.device, span.start, span.end, asked, _TABLE_LIMIT + 1 if is_cut else limit, order)
    by_time = order.removeprefix("-") == "timestamp"
    rows = store.iter_readings(*question) if by_time else iter(store.query_readings(*question))
    columns = columns_of(model, fields)
    if form is not None:
        _write(form, columns, rows, span.zone)
        return
    found = list(rows)
    shown = found[: limit or _TABLE_LIMIT]
    if fields is None and any(row["quality"] is not None for row in shown):
        columns.append("quality")
    _print_table([_head(model, name) for name in columns], columns, shown, span.zone, 2)
    if not found and span.device is not None and (unknown := unknown_device(store, span.device)):
        click.echo(unknown, err=True)
    if is_cut and len(found) > _TABLE_LIMIT:
        click.echo(f"The first {_TABLE_LIMIT}; --limit shows more, --csv, --jsonl and --json show all.", err=True)


def _show_figures(store: SQLiteStorage, model: type[Reading], span: Span, asked: Figures, form: Form | None) -> None:
    rows = asked.ask(store, model, span)
    columns = ["device_id"] if asked.group_by else []
    columns += ["bucket"] if asked.interval else []
    heads = [*columns, f"{asked.function} {_head(model, asked.field)}"]
    if form is None:
        _print_table(heads, [*columns, "result"], rows, span.zone, len(columns))
    else:
        _write(form, [*columns, "result"], rows, span.zone)


def _write(form: Form, columns: Sequence[str], rows: Iterable[Row], zone: tzinfo) -> None:
    if form == "csv" or form == "jsonl":
        sys.stdout.writelines(lines_of(form, columns, rows, zone))
    else:
        sys.stdout.writelines(_json_list(columns, rows, zone))


def _json_list(columns: Sequence[str], rows: Iterable[Row], zone: tzinfo) -> Iterator[str]:
    before = "["
    for row in rows:
        yield before + json_of(columns, row, zone)
        before = ",\n "
    yield "[]\n" if before == "[" else "]\n"


def _print_table(heads: Sequence[str], columns: Sequence[str], rows: Sequence[Row], zone: tzinfo, left: int) -> None:
    grid = table([escape(head) for head in heads], left=left)
    for row in rows:
        grid.add_row(*(escape(cell(local(row[name], zone))) for name in columns))
    screen = console()
    screen.print(grid)
    screen.print(f"[dim]{counted(len(rows), 'row')}[/]")


def _head(model: type[Reading], name: str) -> str:
    """A column's head: the field, and its unit on a second line."""
    unit = next((spec.unit for spec in model.__fields__ if spec.name == name), None)
    return f"{name}\n{unit}" if unit else name
