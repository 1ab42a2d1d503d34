"""`edgedepot demo`: the whole thing at work, in half a minute."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedepot.cli.ledger import print_ledger
from edgedepot.cli.output import console
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.demo.play import Outcome
    from edgedepot.demo.view import View

_FAILED = 1
_TERMINATED = 128 + signal.SIGTERM


@click.command(
    epilog="""\b
Examples:
  edgedepot demo
  edgedepot demo --keep
  edgedepot demo --upstream postgresql://user:password@host/database"""
)
@click.option("--upstream", metavar="URL", help="A TimescaleDB to send to, in place of a second SQLite file.")
@click.option(
    "--seconds",
    type=click.FloatRange(3, 3600),
    default=28,
    show_default=True,
    help="How long the devices send.",
)
@click.option("--keep", is_flag=True, help="Keep the folder with the stores, to look into them.")
@click.pass_context
def demo(ctx: click.Context, upstream: str | None, seconds: float, keep: bool) -> None:
    """See a gateway at work on simulated devices.

    A weather station on a serial line and garden beds on an MQTT broker, all in this process, send into a local store.
    The store is forwarded over a slow link, which is cut in the middle and mended again. In the end the books are
    shown. Exit codes: 0 the books balance and everything arrived, 1 not.
    """
    from edgedepot.demo.play import perform

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # the folder goes then too
    with _folder(keep) as folder, _view(upstream, seconds) as view:
        outcome = perform(folder, upstream, seconds, view.show)
    _report(outcome)
    if keep:
        click.echo(f"\nKept: edgedepot query {folder}/gateway.db weatherstation")
    ctx.exit(0 if outcome.good else _FAILED)


def _view(upstream: str | None, seconds: float) -> View:
    from rich.console import Console

    from edgedepot.demo.view import LineView, LiveView

    logging.getLogger("edgedepot").setLevel(logging.INFO)
    if sys.stdout.isatty():
        return LiveView(Console(), "TimescaleDB" if upstream else "a second SQLite file", seconds)
    return LineView(console())


def _report(outcome: Outcome) -> None:
    screen = console()
    print_ledger(screen, outcome.books)
    sent = f"{counted(outcome.sent, 'good reading')} and {counted(outcome.broken, 'broken line')}"
    held = "did not say what it holds" if outcome.held is None else f"holds {outcome.held:,}"
    screen.print(f"The devices sent {sent}.\nThe upstream {held}.")
    if not outcome.good and outcome.trouble:
        screen.print(f"The upstream's last error: {outcome.trouble}", style="red", markup=False)


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    """A folder for the stores, which goes when all is over."""
    folder = Path(tempfile.mkdtemp(prefix="edgedepot-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)
