"""`edgedepot status`: how a gateway stands, from its store and, while it runs, from itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.output import ago, console, counted, duration, escape, number, print_section, size, table
from edgedepot.cli.target import FILE, open_store

if TYPE_CHECKING:
    from rich.console import Console

    from edgedepot.storage.sqlite.storage import SQLiteStorage

_SOURCE_COUNTS = ("messages", "new", "duplicates", "rejected")
_UPSTREAM_COUNTS = ("pending", "delivered", "quarantined")


@click.command(
    epilog="""\b
Examples:
  edgedepot status gateway.toml
  edgedepot status /var/lib/gateway/gateway.db --json"""
)
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def status(file: Path, as_json: bool) -> None:
    """Show how a gateway stands: its sources, its upstreams, what is pending.

    Works whether it runs or not; what only a running gateway knows (states, last errors) comes from the gateway itself.
    """
    with open_store(file) as store:
        found = read_status(store)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print_status(console(), found)


def read_status(store: SQLiteStorage) -> dict[str, Any]:
    """What the store says, and beside it, under ``"live"``, what the running gateway says of the same."""
    from edgedepot.control import ask, socket_path
    from edgedepot.requests import Status
    from edgedepot.storage.sqlite.connection import writing_process

    live: dict[str, Any] | None = ask(socket_path(store.path), Status())
    books = store.ledger()
    devices = store.devices()
    newest = max((device.last_seen for device in devices if device.last_seen), default=None)
    return {
        "gateway_id": store.gateway_id,
        "running": live is not None,
        "pid": live["pid"] if live else writing_process(store.path),
        "started": live["started"] if live else None,
        "store": {
            "path": str(store.path),
            "bytes": _bytes_of(store.path),
            "models": sorted(store.models()),
            "devices": len(devices),
            "newest": newest.isoformat() if newest else None,
            "trouble": live["store"]["message"] if live and live["store"]["status"] != "pass" else None,
        },
        "sources": _beside(books.sources, live["drivers"] if live else {}),
        "upstreams": _beside(books.upstreams, live["upstreams"] if live else {}),
        "problems": books.problems,
    }


def _beside(counts: Mapping[str, Mapping[str, int]], live: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Books and live state by name; a source has no books before it took anything in."""
    names = dict.fromkeys([*live, *counts])
    return {name: {"books": dict(counts.get(name, {})), "live": live.get(name)} for name in names}


def _bytes_of(path: Path) -> int:
    """The size of the store: the database, and its write-ahead log where there is one."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _print_status(screen: Console, found: Mapping[str, Any]) -> None:
    screen.print(_headline(found))
    screen.print(_store_line(found["store"]))
    if found["store"]["trouble"]:
        screen.print(f"[bold red]{escape(found['store']['trouble'])}[/]")
    if found["sources"]:
        _print_sources(screen, found["sources"], found["running"])
    if found["upstreams"]:
        _print_upstreams(screen, found["upstreams"], found["running"])
    for problem in found["problems"]:
        screen.print(f"[bold red]{escape(problem)}[/]")


def _headline(found: Mapping[str, Any]) -> str:
    name = f"Gateway [bold]{found['gateway_id']}[/]" if found["gateway_id"] else "Gateway"
    if not found["running"]:
        if found["pid"]:
            return f"{name} [yellow]does not answer[/]: process {found['pid']} writes its store, perhaps another user's"
        return f"{name} is [yellow]not running[/]"
    return f"{name} is [green]running[/] for {ago(_age(found['started'])).removesuffix(' ago')}, process {found['pid']}"


def _store_line(store: Mapping[str, Any]) -> str:
    newest = f"newest reading {ago(_age(store['newest']))}" if store["newest"] else "no reading yet"
    models = counted(len(store["models"]), "model")
    return f"Store {store['path']}: {size(store['bytes'])}, {models}, {counted(store['devices'], 'device')}, {newest}"


def _age(moment: str | None) -> float | None:
    """Seconds since an ISO time; a moment in the future counts as now."""
    if moment is None:
        return None
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


def _print_sources(screen: Console, sources: Mapping[str, Any], running: bool) -> None:
    states = ["state", "heard"] if running else []
    grid = table(["source", *states, *_SOURCE_COUNTS], left=1 + len(states))
    for name, source in sources.items():
        live, books = source["live"], source["books"]
        cells = [_source_state(live), ago(live["last_message_age"]) if live else ""] if running else []
        grid.add_row(escape(name), *cells, *(number(count) for count in _source_counts(books)))
    print_section(screen, "Sources", grid)
    _print_errors(screen, sources, ("away",))


def _source_counts(books: Mapping[str, int]) -> list[int]:
    *counts, rejected = (books.get(column, 0) for column in _SOURCE_COUNTS)
    return [*counts, rejected + books.get("rejected_readings", 0)]


def _source_state(live: Mapping[str, Any] | None) -> str:
    if live is None:
        return "[dim]no driver[/]"
    for_how_long = f" for {duration(live['state_age'])}" if live["state_age"] is not None else ""
    if live["state"] == "away":
        return f"[yellow]away{for_how_long}[/]"
    return escape(live["state"]) + for_how_long


def _print_upstreams(screen: Console, upstreams: Mapping[str, Any], running: bool) -> None:
    states = ["state", "last delivery"] if running else []
    grid = table(["upstream", *states, *_UPSTREAM_COUNTS], left=1 + len(states))
    for name, upstream in upstreams.items():
        live, books = upstream["live"], upstream["books"]
        cells = [_upstream_state(live), ago(_age(live["last_delivery"])) if live else ""] if running else []
        grid.add_row(escape(name), *cells, *(number(books.get(column, 0)) for column in _UPSTREAM_COUNTS))
    print_section(screen, "Upstreams", grid)
    _print_errors(screen, upstreams, ("waiting", "misconfigured"))


def _upstream_state(live: Mapping[str, Any] | None) -> str:
    if live is None:
        return "[dim]not set up[/]"
    if live["retry_in"] is None:
        return str(live["state"])
    retry = f"retry in {duration(live['retry_in'])}"
    return f"[yellow]{retry}[/]" if live["state"] == "waiting" else f"[bold red]{live['state']}, {retry}[/]"


def _print_errors(screen: Console, rows: Mapping[str, Any], current: tuple[str, ...]) -> None:
    """The last error of each; bright while it still stands."""
    for name, row in rows.items():
        live = row["live"]
        if live and live["last_error"]:
            stands = live["state"] in current
            style, word = ("yellow", "") if stands else ("dim", "last error, over: ")
            screen.print(f"[{style}]{escape(name)}: {word}{escape(live['last_error'])}[/]")
