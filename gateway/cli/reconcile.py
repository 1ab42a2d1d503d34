"""`edgedepot reconcile`: whether an upstream still has what was delivered to it; what it lost is sent again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedepot.cli.output import console, escape, number, table, visible
from edgedepot.cli.progress import progress
from edgedepot.cli.scope import TIMES, check_device, model_of, read_time
from edgedepot.cli.target import change, open_store
from edgedepot.storage.errors import ConfigError, InvalidValue
from edgedepot.storage.interval import seconds_of, zone_of
from edgedepot.storage.registry import did_you_mean
from edgedepot.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from edgedepot.storage.base import BaseStorage
    from edgedepot.storage.sqlite.storage import SQLiteStorage
    from edgedepot.sync.limits import Limits
    from edgedepot.sync.reconcile import Finding, Reconciliation, Report

_FAILED = 1
_DAYS = 40
"""So many lines are shown to people; --json has all."""
_COLUMNS = {
    "missing": "missing",
    "different": "different",
    "sent": "sent",
    "refused": "refused",
    "kept": "kept there",
    "only_there": "only there",
}


@click.command(
    epilog=f"""\b
Examples:
  edgedepot reconcile gateway.toml central --dry-run
  edgedepot reconcile gateway.toml central --since 7d --device mast
  edgedepot reconcile gateway.toml central --since 2026-01-31T12:00Z
  edgedepot reconcile gateway.toml central --json | jq .total

{TIMES}

Exit codes: 0 it has all, maybe now, 1 it has not, or cannot be asked now, 2 FILE, UPSTREAM or an option is wrong."""
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.argument("upstream")
@click.option("--since", metavar="TIME", help="Readings from this time on, or from so long ago on: 12h, 7d.")
@click.option("--until", metavar="TIME", help="Readings before this time.")
@click.option("--device", metavar="ID", help="Only this device's.")
@click.option("--model", "models", metavar="MODEL", multiple=True, help="Only this model's; may be given again.")
@click.option("--tz", metavar="ZONE", help="Zone of the times given, such as Europe/Zurich.")
@click.option("--dry-run", is_flag=True, help="Send nothing; say what is missing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.pass_context
def reconcile(
    ctx: click.Context,
    file: Path,
    upstream: str,
    since: str | None,
    until: str | None,
    device: str | None,
    models: Sequence[str],
    tz: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send an upstream again what it lost.

    For one that was restored from an old copy, say. What was delivered to UPSTREAM, and is in the local history still,
    is compared with what is there: by counts and extremes, then, where these differ, reading by reading. What is
    missing there, or has another value, is sent; all else is left alone. So are readings that are pending, quarantined,
    skipped, thinned, evicted or deleted: the ledger does not count these as delivered. Of thinned minutes, and of an
    upstream that gets averages (every), the averages are compared, and sent.

    Works beside a running gateway, and without one. Done again it goes on where it was interrupted.
    """
    from edgedepot.requests import check_upstream
    from edgedepot.sync.reconcile import Reconciliation

    zone_of(tz or "UTC")
    start, end = _since(since, tz), read_time("--until", until, tz)
    if start is not None and end is not None and start >= end:
        raise InvalidValue(f"--until: {until} is not after --since, {since}")
    with open_store(file) as store, _opened(file, upstream) as (storage, costs):
        check_upstream(store, upstream)
        if device is not None:
            check_device(store, device)
        names = [model_of(store, name).__measurement__ for name in models] or None
        work = Reconciliation(
            *(store, upstream, storage),
            models=names, device=device, start=start, end=end, dry_run=dry_run,
            costs=costs, notes=_Notes(store, file, upstream),
        )  # fmt: skip
        is_whole = False
        with contextlib.closing(work):  # also where the report cannot be shown: until then it is taken to be at work
            try:
                _do(work)
                is_whole = True
            finally:  # what was sent is there, whatever came then
                if as_json:
                    click.echo(_json_of(upstream, work.report, dry_run, is_whole))
                else:
                    _print_report(console(), upstream, work.report, dry_run, is_whole)
    total = work.report.total()
    ctx.exit(_FAILED if (total.missing + total.different if dry_run else total.refused) else 0)


def _since(text: str | None, tz: str | None) -> datetime | None:
    """A time, or how long ago."""
    try:
        return None if text is None else datetime.now(UTC) - timedelta(seconds=seconds_of(text, "--since"))
    except InvalidValue:
        return read_time("--since", text, tz)


class _Notes:
    """What was spent: read here, kept by who writes the store."""

    def __init__(self, store: SQLiteStorage, file: Path, upstream: str) -> None:
        self._store = store
        self._file = file
        self._upstream = upstream

    def recall(self, key: str) -> str | None:
        return self._store.recall(key)

    def remember(self, key: str, text: str) -> None:
        from edgedepot.requests import NoteSpent

        change(self._file, NoteSpent(upstream=self._upstream, text=text))


@contextlib.contextmanager
def _opened(file: Path, name: str) -> Iterator[tuple[BaseStorage, Limits | None]]:
    """The upstream that FILE describes, and what it may cost. Raises `ConfigError`."""
    from edgedepot.config import load
    from edgedepot.sync.limits import Limits

    settings = load(file)
    part = settings.upstreams.get(name)
    if part is None:
        known = ", ".join(settings.upstreams) or "none"
        cure = did_you_mean(name, settings.upstreams)
        raise ConfigError(f"{file}: found no upstream {name!r}{cure}; upstreams there: {known}")
    costs = Limits.of(name, *(settings.forwarding[name].get(key) for key in ("max_rate", "max_per_day", "windows")))
    with part.make() as storage:
        yield storage, costs if costs != Limits() else None


def _do(work: Reconciliation) -> None:
    """Compare, then mend, each with a bar."""
    with progress("compare", work.questions()) as bar:
        stretches = work.find(lambda: bar.advance(1))
    with progress("look closer", sum(stretch.rows for stretch in stretches)) as bar:
        for stretch in stretches:
            work.mend(stretch)
            bar.advance(stretch.rows)


# -- showing ----------------------------------------------------------------------------------------------------------


def _json_of(name: str, report: Report, dry_run: bool, is_whole: bool) -> str:
    days = [
        {"model": measurement, "device": device, "day": day.isoformat(), **asdict(finding)}
        for (measurement, device, day), finding in sorted(report.days.items())
    ]
    requests = {"compared": report.compared, "read": report.read, "written": report.written}
    found = {"upstream": name, "dry_run": dry_run, "complete": is_whole}
    found |= {"delivered": report.delivered, "here": report.here}
    found |= {"total": asdict(report.total()), "requests": requests}
    return json.dumps({**found, "reasons": dict(report.reasons), "days": days}, ensure_ascii=False)


def _print_report(screen: Console, name: str, report: Report, dry_run: bool, is_whole: bool) -> None:
    total = report.total()
    columns = [column for column in _COLUMNS if getattr(total, column)]
    grid = table(["model", "device", "day", *(_COLUMNS[column] for column in columns)], left=3)
    days = sorted(report.days.items())
    for (measurement, device, day), finding in days[:_DAYS]:
        counts = (number(getattr(finding, column)) for column in columns)
        grid.add_row(escape(visible(measurement)), escape(visible(device)), day.isoformat(), *counts)
    if len(days) > 1:
        grid.add_section()
        grid.add_row(
            "all",
            "",
            counted(len({day for *_, day in report.days}), "day"),
            *(number(getattr(total, column)) for column in columns),
        )
    if days:
        screen.print(grid)
    if len(days) > _DAYS:
        screen.print(f"The first {_DAYS} of {len(days):,} lines; --json shows all.", style="dim")
    for reason, count in report.reasons.most_common():
        screen.print(f"{name} refused {count:,}: {visible(reason)}", style="yellow", markup=False)
    summary = _summary(name, total, dry_run) + _beyond(report) if is_whole else "Interrupted before all was compared."
    screen.print(summary, markup=False)


def _beyond(report: Report) -> str:
    """How much of what was delivered nobody can tell anything about."""
    if report.here is None or report.delivered is None or report.here >= report.delivered:
        return ""
    return f" {report.here:,} of the {counted(report.delivered, 'version')} that were delivered could be compared."


def _summary(name: str, total: Finding, dry_run: bool) -> str:
    lacking = total.missing + total.different
    if not lacking:
        return f"{name} has all that was delivered to it and is here still."
    text = f"{name} lacks {counted(lacking, 'reading')}"
    return f"{text}. Nothing was sent." if dry_run else f"{text}; {total.sent:,} were sent."
