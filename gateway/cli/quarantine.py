"""`edgedepot quarantine`: readings that an upstream refused for good."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.group import InOrder
from edgedepot.cli.output import ago, ask_yes, cell, console, visible
from edgedepot.cli.scope import TIMES, Span, span_options
from edgedepot.cli.target import FILE, change, open_store
from edgedepot.storage.errors import InvalidValue
from edgedepot.storage.interval import seconds_of, zone_of
from edgedepot.storage.values import Quality, text_problem
from edgedepot.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from edgedepot.storage.sqlite.storage import SQLiteStorage

_FAILED = 1
_LOOK_EVERY = 0.1  # seconds
_Row = Mapping[str, Any]
_FILTERS = (
    click.option("--upstream", metavar="NAME", help="Only what this upstream refused."),
    click.option("--model", metavar="MODEL", help="Only readings of this model."),
    click.option("--reason", metavar="TEXT", help="Only what was refused with words that hold this text."),
)
_MOST = 2**63 - 1  # what the store can count to
_NUMBER = click.option("--number", type=click.IntRange(1), metavar="N", help="Only the one that `list` numbers so.")


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the filters; it gets them, as the store's methods take them, as the one parameter `which`."""

    @functools.wraps(command)
    def with_filters(
        *arguments: Any,
        span: Span,
        upstream: str | None,
        model: str | None,
        reason: str | None,
        number: int | None = None,
        **more: Any,
    ) -> None:
        which = {
            **{"upstream": upstream, "measurement": model and model.lower(), "device": span.device},
            **{"start": span.start, "end": span.end, "reason": reason, "number": number and min(number, _MOST)},
        }
        for text in (upstream, model, reason, span.device):
            if text is not None and text_problem(text):
                raise InvalidValue(f"{text[:60]!r} {text_problem(text)}")
        command(*arguments, which=which, zone=span.zone, **more)

    filtered: Callable[..., None] = span_options(with_filters)
    for option in reversed(_FILTERS):
        filtered = option(filtered)
    return filtered


@click.group(
    cls=InOrder,
    epilog="""\b
Examples:
  edgedepot quarantine list gateway.toml
  edgedepot quarantine show gateway.toml 17
  edgedepot quarantine replay gateway.toml --upstream central""",
)
def quarantine() -> None:
    """Readings that an upstream refused for good.

    One that an upstream will never take, however often it is sent, is set aside with the upstream's reason, so that it
    does not hold up the others. It stays in the local store all the same.
    """


@quarantine.command(
    name="list",
    epilog=f"""\b
Examples:
  edgedepot quarantine list gateway.toml
  edgedepot quarantine list gateway.toml --upstream central --last 1d
  edgedepot quarantine list gateway.toml --json \\
      | jq -r '.[].reason' | sort | uniq -c

{TIMES}""",
)
@FILE
@_filtered
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many readings.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def list_(file: Path, which: dict[str, Any], zone: tzinfo, limit: int, as_json: bool) -> None:
    """List quarantined readings, the last refused first.

    They stand under what their upstreams said. Works beside a running gateway, and without one.
    """
    with open_store(file) as store:
        _check_upstream(store, which)
        found = store.quarantined(**which, limit=min(limit, _MOST))
        total = sum(store.count_quarantined(**which).values()) if len(found) == limit else len(found)
        others = sum(store.count_quarantined().values())
    if as_json:
        click.echo("[" + ",\n ".join(_json_of(row, zone) for row in found) + "]")
    elif found:
        _print_list(console(), file, found, total, zone)
    elif others:
        click.echo(f"None of the {counted(others, 'quarantined reading')} fits.")
    else:
        click.echo("Nothing is quarantined.")


@quarantine.command(
    epilog="""\b
Examples:
  edgedepot quarantine show gateway.toml 17
  edgedepot quarantine show gateway.toml 17 --json"""
)
@FILE
@click.argument("number", type=click.IntRange(1))
@click.option("--upstream", metavar="NAME", help="Of which upstream, where several refused it.")
@click.option("--tz", metavar="ZONE", default="UTC", help="Zone of the times shown.  [default: UTC]")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead.")
def show(file: Path, number: int, upstream: str | None, tz: str, as_json: bool) -> None:
    """Show one whole, and what to do.

    NUMBER is the one that `list` shows. Behind the reading stands all that the upstream said.
    """
    zone = zone_of(tz)
    with open_store(file) as store:
        which: dict[str, Any] = {"upstream": upstream, "number": min(number, _MOST)}
        _check_upstream(store, which)
        found, models = store.quarantined(**which), store.models()
    if not found:
        raise InvalidValue(f"reading {number} is not quarantined; `edgedepot quarantine list {file}` shows what is")
    if as_json:
        click.echo("[" + ",\n ".join(_json_of(row, zone) for row in found) + "]")
        return
    for row in found:
        model = models.get(row["measurement"])
        units = {spec.name: spec.unit for spec in model.__fields__} if model is not None else {}
        _print_reading(console(), file, row, units, zone)


@quarantine.command(
    epilog="""\b
Examples:
  edgedepot quarantine replay gateway.toml --upstream central
  edgedepot quarantine replay gateway.toml --number 17
  edgedepot quarantine replay gateway.toml --reason "out of range"

Exit codes: 0 done, also where none fits, 1 it cannot be done now, 2 FILE or an option is wrong."""
)
@FILE
@_filtered
@_NUMBER
@click.option("--wait", metavar="DURATION", default="10s", show_default=True, help="How long to wait for the outcome.")
def replay(file: Path, which: dict[str, Any], zone: tzinfo, wait: str) -> None:
    """Have quarantined readings sent once more.

    All, or those that the options choose. Do it when the cause is mended, or they are refused again and come back. One
    of which there is a newer version by now is not sent: it is superseded. A running gateway sends them within seconds.
    """
    from edgedepot.requests import Replay

    patience = seconds_of(wait, "--wait")
    answer, runs = change(file, Replay(**which))
    for name, counts in answer["upstreams"].items():
        click.echo(f"{name}: {counted(counts['replayed'], 'reading')} to be sent once more{_superseded(counts)}")
    if not answer["upstreams"]:
        click.echo("No quarantined reading fits.")
    elif not runs:
        click.echo("They go out when the gateway runs.")
    else:
        sent = {name: counts["replayed"] for name, counts in answer["upstreams"].items() if counts["replayed"]}
        _print_outcome(file, which, sent, patience)


def _print_outcome(file: Path, which: dict[str, Any], sent: Mapping[str, int], patience: float) -> None:
    """Wait until the upstreams have answered, or for so many seconds, and say what became of the readings."""
    deadline = time.monotonic() + patience
    with open_store(file) as store:
        while (waiting := store.count_quarantined(**which, replayed=True)) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        refused = store.count_quarantined(**which)
    for name, count in sent.items():
        again, left = refused.get(name, 0), waiting.get(name, 0)
        parts = [f"{max(0, count - again - left):,} delivered"]
        parts += [f"{again:,} refused again"] if again else []
        parts += [f"{left:,} waiting still"] if left else []
        click.echo(f"{name}: {', '.join(parts)}")
    if waiting:
        click.echo(f"Why they wait: edgedepot status {file}")


def _superseded(counts: Mapping[str, int]) -> str:
    return f", {counts['superseded']:,} superseded by newer versions" if counts["superseded"] else ""


@quarantine.command(
    epilog="""\b
Examples:
  edgedepot quarantine drop gateway.toml --upstream central --device mast
  edgedepot quarantine drop gateway.toml --number 17 --yes

Exit codes: 0 done, also where none fits, 1 not confirmed, or it cannot be done now, 2 FILE or an option is wrong."""
)
@FILE
@_filtered
@_NUMBER
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def drop(ctx: click.Context, file: Path, which: dict[str, Any], zone: tzinfo, yes: bool) -> None:
    """Give quarantined readings up.

    All, or those that the options choose. Their upstreams will never get them, and the ledger counts them as
    deleted there. In the local store they stay.
    """
    from edgedepot.requests import Drop

    with open_store(file) as store:
        _check_upstream(store, which)
        found = store.count_quarantined(**which)
    if not found:
        click.echo("No quarantined reading fits.")
        return
    listed = ", ".join(f"{name} {count:,}" for name, count in found.items())
    if not yes and not ask_yes(
        f"To be given up: {counted(sum(found.values()), 'quarantined reading')} ({listed}).\n"
        "No upstream gets what is given up, and the ledger counts it as deleted. The local\nstore keeps it. Drop?"
    ):
        click.echo("Nothing was dropped.")
        ctx.exit(_FAILED)
    answer, _ = change(file, Drop(**which))
    for name, count in answer["upstreams"].items():
        click.echo(f"{name}: {counted(count, 'reading')} dropped")


def _check_upstream(store: SQLiteStorage, which: Mapping[str, Any]) -> None:
    from edgedepot.requests import check_upstream

    if which["upstream"] is not None:
        check_upstream(store, which["upstream"])


# -- showing ----------------------------------------------------------------------------------------------------------


def _json_of(row: _Row, zone: tzinfo) -> str:
    times = {name: row[name].astimezone(zone).isoformat() for name in ("timestamp", "at")}
    return json.dumps({**row, **times}, ensure_ascii=False)


def _print_list(screen: Console, file: Path, rows: Sequence[_Row], total: int, zone: tzinfo) -> None:
    """The readings under what was said of them: reasons are long, and many readings share one."""
    from rich.cells import cell_len

    groups: dict[tuple[str, str], list[list[str]]] = {}
    for row in rows:
        again = ", is sent again" if row["replayed"] else ""
        cells = [
            *(str(row["number"]), visible(row["measurement"]), visible(row["device_id"])),
            *(cell(row["timestamp"].astimezone(zone)), f"{_ago(row['at'])}{again}"),
        ]
        groups.setdefault((row["upstream"], row["reason"]), []).append(cells)
    heads = ["number", "model", "device", "time", "refused"]
    columns = zip(heads, *(cells for lines in groups.values() for cells in lines), strict=True)
    widths = [max(map(cell_len, column)) for column in columns]
    screen.print(_spread(heads, widths), style="bold", markup=False)
    for (upstream, reason), lines in groups.items():
        screen.print(f"\n{visible(upstream)}: {_first_line(reason)}", style="yellow", markup=False)
        for cells in lines:
            screen.print(_spread(cells, widths), markup=False)
    all_of_them = f"The last {len(rows):,} of {total:,}; --limit shows more."
    screen.print(f"\n{all_of_them if total > len(rows) else counted(len(rows), 'reading')}", style="dim", markup=False)
    example = f"edgedepot quarantine show {file} {rows[0]['number']}"
    screen.print(f"One whole, and what to do: {example}", style="dim", markup=False)


def _spread(cells: Sequence[str], widths: Sequence[int]) -> str:
    from rich.cells import set_cell_size

    number, *texts = cells
    padded = [set_cell_size(text, width) for text, width in zip(texts, widths[1:], strict=True)]
    return "  ".join([number.rjust(widths[0]), *padded]).rstrip()


def _first_line(reason: str) -> str:
    first, *more = reason.strip().splitlines() or [""]
    return visible(first) + (" ..." if more else "")


def _print_reading(screen: Console, file: Path, row: _Row, units: Mapping[str, str | None], zone: tzinfo) -> None:
    upstream, number = visible(row["upstream"]), row["number"]
    screen.print(f"Reading {number}, refused by {upstream}", style="bold", markup=False)
    lines = {
        "model": visible(row["measurement"]),
        "device": visible(row["device_id"]),
        "time": row["timestamp"].astimezone(zone).isoformat(),
        **{name: _value(value, units.get(name)) for name, value in row["data"].items()},
        **({"quality": _flags(row["quality"])} if row["quality"] else {}),
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        screen.print(f"  {name:<{width}}  {text}", markup=False)
    screen.print(f"\n{upstream} said, {_ago(row['at'])}", style="bold", markup=False)
    for line in row["reason"].strip().splitlines():
        screen.print(f"  {visible(line)}", style="yellow", markup=False)
    screen.print("\nWhat to do", style="bold", markup=False)
    screen.print(_advice(file, upstream, number, row["replayed"]), markup=False)


def _advice(file: Path, upstream: str, number: int, replayed: bool) -> str:
    command = f"edgedepot quarantine {{}} {file} --upstream {upstream}"
    if replayed:
        return f"  It is being sent once more. If it is refused again it stays here:\n    {command.format('list')}"
    return (
        f"  Mend what {upstream} complains of, and have it sent once more:\n"
        f"    {command.format('replay')} --number {number}\n"
        "  Without --number: all that it refused. Or give it up:\n"
        f"    {command.format('drop')} --number {number}"
    )


def _value(value: Any, unit: str | None) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    return visible(f"{text} {unit}" if unit and not isinstance(value, bool) else text)


def _flags(quality: int) -> str:
    names = [str(flag.name).lower().replace("_", " ") for flag in Quality if flag & quality]
    return f"{quality} ({', '.join(names)})"


def _ago(moment: datetime) -> str:
    return ago(max(0.0, (datetime.now(UTC) - moment).total_seconds()))
