"""`edgedepot ledger`: where everything that came in has gone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedepot.cli.output import console, escape, number, print_section, table, terminal_width, visible
from edgedepot.cli.target import FILE, open_store

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgedepot.storage.buffer import Ledger
    from edgedepot.storage.reasons import Reason

_UNBALANCED = 1
_MESSAGES = ("messages", "decoded", "ignored", "rejected")
_READINGS = ("readings", "new", "merged", "duplicates", "rejected_readings")
_USUAL = ("versions", "pending", "delivered")
_REASONS = 10
_BESIDE = ("rejected_fields", "replaced", "late")
Counts = Mapping[str, Mapping[str, int]]


@click.command(
    epilog="""\b
Examples:
  edgedepot ledger gateway.toml
  edgedepot ledger gateway.db --json | jq .upstreams.central.pending
  edgedepot ledger gateway.toml > /dev/null || mail -s "check roof" me"""
)
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@click.pass_context
def ledger(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Show the books: where everything that came in has gone.

    For each source how messages became readings, and for each upstream what became of those: columns without a count
    are left out, and --json has all. Below them, why something was rejected or quarantined.

    Exit codes: 0 they balance, 1 they do not, 2 FILE is wrong.
    """
    with open_store(file) as store:
        books, reasons, salvaged = store.ledger(), store.reasons(), store.salvaged
    if as_json:
        plain = {"balanced": books.balanced, "problems": books.problems}
        lists = {
            "reasons": [one.as_json() for one in reasons],
            "given_up": [one.as_json() for one in books.given_up],
        }
        click.echo(json.dumps(plain | {"sources": books.sources, "upstreams": books.upstreams} | lists))
    else:
        screen = console()
        print_ledger(screen, books, reasons)
        if salvaged is not None:
            screen.print(f"[yellow]Salvaged {salvaged.at:%Y-%m-%d %H:%M}Z, {escape(str(salvaged))}[/]")
    ctx.exit(0 if books.balanced else _UNBALANCED)


def print_ledger(screen: Console, books: Ledger, reasons: Sequence[Reason] = ()) -> None:
    """The books as tables, and whether they balance."""
    _print_account(screen, "source", _MESSAGES, books.sources)
    _print_account(screen, "source", _READINGS, books.sources)
    if any(counts[column] for counts in books.sources.values() for column in _BESIDE):
        _print_counts(screen, "Counted beside them", "source", _BESIDE, books.sources)
    _print_account(screen, "upstream", _upstream_columns(books.upstreams), books.upstreams)
    if reasons:
        _print_reasons(screen, reasons)
    screen.print()
    for one in books.given_up:
        screen.print(f"[yellow]{escape(one.upstream)}: {escape(str(one))}[/]")
    for problem in books.problems:
        screen.print(f"[red]{escape(problem)}[/]")
    if books.balanced:
        screen.print("[green]The books balance.[/]")
    else:
        screen.print("[bold red]The books do not balance.[/]")


def _print_reasons(screen: Console, reasons: Sequence[Reason]) -> None:
    """The most frequent ones, cut where they are too long for a line."""
    most = sorted(reasons, key=lambda one: -one.count)[:_REASONS]
    rows = [
        (one.name, one.what if one.what == "quarantined" else f"{one.what} rejected", f"{one.count:,}") for one in most
    ]
    heads = ("of", "what", "number")
    room = terminal_width() - sum(max(map(len, column)) + 2 for column in zip(heads, *rows, strict=True))
    grid = table([*heads, "reason"], left=4)
    grid.columns[2].justify = "right"
    for one, (name, what, count) in zip(most, rows, strict=True):
        line = visible(one.reason)
        cut = line if len(line) <= room else f"{line[: max(0, room - 1)]}…"
        grid.add_row(escape(name), what, count, escape(cut))
    print_section(screen, "Reasons, the most frequent" if len(most) < len(reasons) else "Reasons", grid)


def _upstream_columns(upstreams: Counts) -> list[str]:
    """Without the rarer ends of a version where there are none: with all of them no line fits a terminal."""
    known = next(iter(upstreams.values()), {})
    return [name for name in known if name in _USUAL or any(counts[name] for counts in upstreams.values())]


def _print_account(screen: Console, what: str, columns: Sequence[str], rows: Counts) -> None:
    """The first column is what came in, the others are where that has gone."""
    if rows:
        total, *parts = (_head(column) for column in columns)
        _print_counts(screen, f"{total.capitalize()} = {' + '.join(parts)}", what, columns, rows)


def _print_counts(screen: Console, title: str, what: str, columns: Sequence[str], rows: Counts) -> None:
    """A line for each source or upstream; where that is too wide for the terminal, a column for each."""
    grid = table([what, *(_head(column) for column in columns)])
    for name, counts in rows.items():
        grid.add_row(escape(name), *(number(counts[column]) for column in columns))
    if len(rows) > 1 and what == "source":
        grid.add_section()
        grid.add_row("all", *(number(sum(counts[column] for counts in rows.values())) for column in columns))
    if screen.measure(grid).maximum <= terminal_width():
        print_section(screen, title, grid)
        return
    screen.print(f"\n{title.partition(' = ')[0]}, and where they went", style="bold")
    _print_turned(screen, what, columns, rows)


def _print_turned(screen: Console, what: str, columns: Sequence[str], rows: Counts) -> None:
    """As many of them beside each other as fit, the others below."""
    names = list(rows)
    grid = _turned(what, columns, rows, names[:1])
    shown = 1
    while shown < len(names):
        wider = _turned(what, columns, rows, names[: shown + 1])
        if screen.measure(wider).maximum > terminal_width():
            break
        grid, shown = wider, shown + 1
    screen.print(grid)
    if shown < len(names):
        screen.print()
        _print_turned(screen, what, columns, {name: rows[name] for name in names[shown:]})


def _turned(what: str, columns: Sequence[str], rows: Counts, names: Sequence[str]) -> Table:
    grid = table([what, *map(escape, names)])
    for column in columns:
        grid.add_row(_head(column), *(number(rows[name][column]) for name in names))
    return grid


def _head(column: str) -> str:
    return column.removesuffix("_readings").replace("_", " ")
