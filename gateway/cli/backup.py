"""`edgedepot backup` and `edgedepot restore`."""

from __future__ import annotations

from pathlib import Path

import click

from edgedepot.cli.output import size
from edgedepot.cli.progress import advancing, progress
from edgedepot.cli.target import FILE, locked_until_stopped, open_store, store_path
from edgedepot.words import counted


@click.command(
    epilog="""\b
Examples:
  edgedepot backup gateway.toml /mnt/usb/gateway-$(date +%F).db
  edgedepot backup gateway.db copy.db && edgedepot ledger copy.db"""
)
@FILE
@click.argument("target", type=click.Path(path_type=Path), metavar="TARGET")
def backup(file: Path, target: Path) -> None:
    """Copy the store to the file TARGET, as it is at one moment.

    Works beside a running gateway, which goes on meanwhile. TARGET is there once all is in it. It can be queried and
    exported from like any store; `edgedepot restore` makes it the gateway's store again.

    Exit codes: 0 done, 1 it cannot be written, 2 FILE is wrong or TARGET exists.
    """
    with open_store(file) as store, progress("backup", store.path.stat().st_size, in_bytes=True) as bar:
        written = store.backup(target, advancing(bar))
    click.echo(f"{target}: {size(written)}")


@click.command(
    epilog="""\b
Examples:
  edgedepot restore /mnt/usb/gateway-2026-01-31.db gateway.db
  edgedepot restore --force /mnt/usb/gateway-2026-01-31.db gateway.toml"""
)
@click.argument("copy", type=click.Path(path_type=Path), metavar="BACKUP")
@FILE
@click.option("--force", is_flag=True, help="Put the store that is there aside, under another name.")
def restore(copy: Path, file: Path, force: bool) -> None:
    """Make BACKUP the store of FILE, a gateway's or a database.

    What was pending when the backup was made is sent again; upstreams know what they have already. What came in since
    is in the store that was put aside alone. The gateway must not run.

    Exit codes: 0 done, 1 it cannot be written or a gateway runs, 2 BACKUP or FILE is wrong, or a store is there.
    """
    from edgedepot.clock import GatewayClock
    from edgedepot.storage.clock import SystemClock
    from edgedepot.storage.sqlite.backup import restore as put_back
    from edgedepot.storage.sqlite.storage import SQLiteStorage

    path = store_path(file, must_exist=False)
    length = copy.stat().st_size if copy.exists() else None
    with progress("restore", length, in_bytes=True) as bar, locked_until_stopped():
        aside = put_back(copy, path, SystemClock().now(), force, advancing(bar))
    with SQLiteStorage(path, clock=GatewayClock()) as store:
        pending = sum(counts["pending"] for counts in store.ledger().upstreams.values())
        click.echo(f"{path}: {counted(pending, 'reading')} pending")
    if aside is not None:
        click.echo(f"What was there is {aside}")
