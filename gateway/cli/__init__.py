"""The command line. Each group of commands has its file; what a command needs is imported when it runs."""

from __future__ import annotations

from importlib import import_module

import click

from edgedepot.storage.errors import ConfigError, EdgeDepotError, InvalidValue, StoreUnusable
from edgedepot.storage.registry import did_you_mean

_FILES = {
    "run": "run", "check": "run", "status": "status", "ledger": "ledger", "query": "query", "tail": "tail",
    "devices": "devices", "export": "export", "import": "import_", "upstream": "upstream", "quarantine": "quarantine",
    "reconcile": "reconcile", "verify": "verify", "backup": "backup", "restore": "backup", "plan": "plan",
    "demo": "demo",
}  # fmt: skip
"""The commands in the order in which one needs them, and the file of each."""
_WRONG_INPUT = 2  # as click's own for a wrong option
_FAILED = 1


class _Program(click.Group):
    """Says every error of ours as plain lines on stderr, without a traceback. Imports a command's file when that is
    wanted: a gateway runs for years and needs one of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_FILES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        file = _FILES.get(cmd_name)
        if file is None:
            return None
        command = getattr(import_module(f"edgedepot.cli.{file}"), file if cmd_name == "import" else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _FILES and not args[0].startswith("-"):
            known = did_you_mean(args[0], _FILES) or f"; there are: {', '.join(_FILES)}"
            raise click.UsageError(f"No such command '{args[0]}'{known}", ctx)
        return super().resolve_command(ctx, args)

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


def main() -> None:
    """The console script."""
    program(prog_name="edgedepot")
