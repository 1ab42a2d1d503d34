"""The command line. Each group of commands has its file; what a command needs is imported when it runs."""

from __future__ import annotations

import click

from edgedepot.cli.backup import backup, restore
from edgedepot.cli.demo import demo
from edgedepot.cli.devices import devices
from edgedepot.cli.export import export
from edgedepot.cli.group import InOrder
from edgedepot.cli.import_ import import_
from edgedepot.cli.ledger import ledger
from edgedepot.cli.plan import plan
from edgedepot.cli.quarantine import quarantine
from edgedepot.cli.query import query
from edgedepot.cli.reconcile import reconcile
from edgedepot.cli.run import check, run
from edgedepot.cli.status import status
from edgedepot.cli.tail import tail
from edgedepot.cli.upstream import upstream
from edgedepot.cli.verify import verify
from edgedepot.storage.errors import ConfigError, EdgeDepotError, InvalidValue, StoreUnusable

_WRONG_INPUT = 2  # as click's own for a wrong option
_FAILED = 1


class _Program(InOrder):
    """Says every error of ours as plain lines on stderr, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EdgeDepotError as exc:
            click.echo(str(exc), err=True)
            ctx.exit(_WRONG_INPUT if isinstance(exc, (ConfigError, InvalidValue, StoreUnusable)) else _FAILED)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
A first gateway:
  edgedepot demo                  see one at work on simulated devices
  edgedepot check gateway.toml    every mistake in the file, one line each
  edgedepot run gateway.toml      until SIGTERM or Ctrl-C

\b
From another terminal:
  edgedepot status gateway.toml
  edgedepot query gateway.toml weatherstation --last 1h
  edgedepot tail gateway.toml
  edgedepot ledger gateway.toml
  edgedepot quarantine list gateway.toml""",
)
@click.version_option(package_name="edgedepot", message="%(prog)s %(version)s")
def program() -> None:
    """Readings from devices into a durable local store, forwarded when the link allows.

    FILE is the gateway's TOML file, or the store's database file where a command needs no more than that. Commands work
    beside a running gateway: what changes something is done by the gateway itself.
    """


_VIEWS = (status, ledger, query, tail, devices)
_KEEPING = (reconcile, verify, backup, restore)
for command in (run, check, *_VIEWS, export, import_, upstream, quarantine, *_KEEPING, plan, demo):
    program.add_command(command)


def main() -> None:
    """The console script."""
    program(prog_name="edgedepot")
