"""`edgedepot status`: how a gateway stands, from its store and, while it runs, from itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.behind import say_behind, say_given_up, say_held, say_trouble
from edgedepot.cli.output import ago, console, duration, escape, number, print_section, size, table, visible
from edgedepot.cli.target import FILE, open_store, size_on_disk
from edgedepot.storage.errors import StorageError
from edgedepot.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from edgedepot.storage.sqlite.storage import SQLiteStorage

_PATIENCE = 5.0  # seconds for a gateway to say how it stands
_SOURCE_COUNTS = ("messages", "new", "duplicates", "rejected")
_UPSTREAM_FIGURES = ("pending", "behind", "quarantined", "delivered")


@click.command(
    epilog="""\b
Examples:
  edgedepot status gateway.toml
  edgedepot status /var/lib/gateway/gateway.db --json"""
)
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def status(file: Path, as_json: bool) -> None:
    """Show how a gateway stands.

    Its sources, its upstreams and what is pending for them, what went wrong, and what to do about it. Works whether
    it runs or not; what only a running gateway knows (states, last errors) comes from the gateway itself.
    """
    with open_store(file) as store:
        found = read_status(store)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print_status(console(), found, file)


def read_status(store: SQLiteStorage) -> dict[str, Any]:
    """What the store says, and beside it, under ``"live"``, what the running gateway says of the same."""
    from edgedepot.control import ask, socket_path
    from edgedepot.requests import Status
    from edgedepot.storage.sqlite.lock import writing_process

    live, unheard = None, None
    try:
        live = ask(socket_path(store.path), Status(), _PATIENCE)
    except StorageError as exc:
        unheard = str(exc)
    books, salvaged = store.ledger(), store.salvaged
    devices = store.devices()
    newest = max((device.last_seen for device in devices if device.last_seen), default=None)
    return {
        "gateway_id": store.gateway_id,
        "running": live is not None,
        "unheard": unheard,
        "pid": live["pid"] if live else writing_process(store.path),
        "started": live["started"] if live else None,
        "clock": live["clock"] if live else None,
        "store": {
            "path": str(store.path),
            "bytes": size_on_disk(store.path),
            "models": sorted(store.models()),
            "devices": len(devices),
            "newest": newest.isoformat() if newest else None,
            "history_from": {name: time.isoformat() for name, time in sorted(store.history_from().items())},
            "trouble": live["store"]["message"] if live and live["store"]["status"] != "pass" else None,
            "warning": live["store"].get("warning") if live else None,
        },
        "sources": _beside(books.sources, live["drivers"] if live else {}),
        "upstreams": {
            name: {**upstream, "lag": _lag(store, name, upstream)}
            for name, upstream in _beside(books.upstreams, live["upstreams"] if live else {}).items()
        },
        "given_up": [one.as_json() for one in books.given_up],
        "problems": books.problems,
        "salvaged": None if salvaged is None else {"at": salvaged.at.isoformat(), "report": str(salvaged)},
    }


def _beside(counts: Mapping[str, Mapping[str, int]], live: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Books and live state by name; a source has no books before it took anything in."""
    names = dict.fromkeys([*live, *counts])
    return {name: {"books": dict(counts.get(name, {})), "live": live.get(name)} for name in names}


def _lag(store: SQLiteStorage, name: str, upstream: Mapping[str, Any]) -> float:
    """Seconds that an upstream is behind: as the running gateway says, or by the store where nobody says it, or what
    waits came in since an upstream was asked last."""
    if upstream["live"] and (upstream["live"]["lag"] or not upstream["books"].get("pending")):
        return float(upstream["live"]["lag"])
    oldest = store.oldest_pending(name)
    return 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())


def _print_status(screen: Console, found: Mapping[str, Any], file: Path) -> None:
    screen.print(_headline(found))
    screen.print(_store_line(found["store"]))
    for name, time in found["store"]["history_from"].items():
        since = time[:16].replace("T", " ")
        went = f"History of {visible(name)} from {since}Z on: what was before went (keep, keep_bytes)."
        screen.print(went, style="dim", markup=False)
    if found["store"]["trouble"]:
        for style, text in say_trouble(found["store"]["trouble"]):
            screen.print(text, style=style, markup=False)
    if found["store"]["warning"]:
        screen.print(f"[yellow]{escape(found['store']['warning'])}[/]")
    held = max((upstream["books"].get("held", 0) for upstream in found["upstreams"].values()), default=0)
    for style, text in say_held(held, found["clock"] and found["clock"]["trusted"]):
        screen.print(text, style=style, markup=False)
    if found["salvaged"]:
        at = found["salvaged"]["at"][:16].replace("T", " ")
        screen.print(f"[yellow]Salvaged {at}Z, {escape(found['salvaged']['report'])}[/]")
    if found["sources"]:
        _print_sources(screen, found["sources"], found["running"], file)
    if found["upstreams"]:
        print_upstreams(screen, found, file)
    for problem in found["problems"]:
        screen.print(f"[bold red]{escape(problem)}[/]")


def _headline(found: Mapping[str, Any]) -> str:
    name = f"Gateway [bold]{found['gateway_id']}[/]" if found["gateway_id"] else "Gateway"
    if not found["running"]:
        if found["unheard"]:
            return f"{name} [yellow]does not answer[/]: {escape(found['unheard'])}"
        if found["pid"]:
            who = f"process {found['pid']} writes its store and takes no commands, such as a script without a Gateway"
            return f"{name} [yellow]does not answer[/]: {who}"
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


def _print_sources(screen: Console, sources: Mapping[str, Any], running: bool, file: Path) -> None:
    states = ["state", "heard"] if running else []
    grid = table(["source", *states, *_SOURCE_COUNTS], left=1 + len(states))
    for name, source in sources.items():
        live, books = source["live"], source["books"]
        cells = [_source_state(live), ago(live["last_message_age"]) if live else ""] if running else []
        grid.add_row(escape(name), *cells, *(number(count) for count in _source_counts(books)))
    print_section(screen, "Sources", grid)
    if any(_source_counts(source["books"])[-1] for source in sources.values()):
        screen.print(f"[dim]Why something was rejected: edgedepot ledger {escape(str(file))}[/]")
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


def print_upstreams(screen: Console, found: Mapping[str, Any], file: Path) -> None:
    """The upstreams of what `read_status` found, as a table, and below it what is wrong with any and what to do."""
    running = found["running"]
    grid = table(["upstream", *(["state"] if running else []), *_UPSTREAM_FIGURES], left=1 + running)
    if running:
        grid.add_column("last delivery", justify="right", no_wrap=True)
    for name, upstream in found["upstreams"].items():
        live, books = upstream["live"], upstream["books"]
        pending, *others = (number(books.get(column, 0)) for column in ("pending", "quarantined", "delivered"))
        figures = [pending, duration(upstream["lag"]) if books.get("pending") else "", *others]
        if running:
            delivery = ago(_age(live["last_delivery"])) if live else ""
            grid.add_row(escape(name), _upstream_state(live), *figures, delivery)
        else:
            grid.add_row(escape(name), *figures)
    print_section(screen, "Upstreams", grid)
    waits = any(upstream["books"].get("pending") for upstream in found["upstreams"].values())
    if waits and not (running or found["pid"] or found["unheard"]):
        screen.print("Nothing forwards now: what is pending goes out when the gateway runs.", style="yellow")
    for name, upstream in found["upstreams"].items():
        for style, text in _advice(name, upstream, running, file):
            screen.print(text, style=style, markup=False)
        for style, text in say_given_up(name, found["given_up"]):
            screen.print(text, style=style, markup=False)


def _upstream_state(live: Mapping[str, Any] | None) -> str:
    if live is None:
        return "[dim]not set up[/]"
    style = {"waiting": "yellow", "held": "yellow", "misconfigured": "bold red"}.get(live["state"])
    return f"[{style}]{live['state']}[/]" if style else escape(live["state"])


def _advice(name: str, upstream: Mapping[str, Any], running: bool, file: Path) -> Iterator[tuple[str, str]]:
    """What there is to say of an upstream, each with its style."""
    live, books = upstream["live"], upstream["books"]
    if live:
        yield from say_behind(name, {**live, "lag": upstream["lag"]}, books)
    if live and live["state"] in ("waiting", "misconfigured"):
        again = "right now" if live["retry_in"] is None else f"in {duration(live['retry_in'])}"
        if live["state"] == "misconfigured":
            yield "bold red", f"{name}: {live['last_error']}"
            yield "bold red", f"    Mend that. Nothing is lost: its readings wait, and it is tried again {again}."
        elif live["alarm"]:
            yield "bold red", f"{name}: {live['alarm']}"
            yield (
                "bold red",
                f"    If it stays so, somebody has to see to it. Nothing is lost, and it is tried again {again}.",
            )
        else:
            yield "yellow", f"{name}: {live['last_error']}"
            yield "yellow", f"    Its readings wait, and go out when it takes them. It is tried again {again}."
    elif live and live["alarm"]:
        yield "bold red", f"{name}: {live['alarm']}"
    elif live and live["last_error"]:
        yield "dim", f"{name}: last error, over: {live['last_error']}"
    if running and live is None and books["pending"]:
        yield "yellow", f"{name} is not set up any more, and {counted(books['pending'], 'reading')} wait for it."
        yield "yellow", f"    Set it up again, or forget it: edgedepot upstream remove {file} {name}"
    if books.get("quarantined"):
        yield "yellow", f"{name} refused {counted(books['quarantined'], 'reading')} for good."
        yield "yellow", f"    See why, and what to do: edgedepot quarantine list {file} --upstream {name}"


def _print_errors(screen: Console, rows: Mapping[str, Any], current: tuple[str, ...]) -> None:
    """The last error of each; bright while it still stands."""
    for name, row in rows.items():
        live = row["live"]
        if live and live["last_error"]:
            stands = live["state"] in current
            style, word = ("yellow", "") if stands else ("dim", "last error, over: ")
            screen.print(f"[{style}]{escape(name)}: {word}{escape(live['last_error'])}[/]")
