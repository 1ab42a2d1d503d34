"""`edgedepot upstream`: which there are, forgetting one, and what somebody else has to do on its server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgedepot.cli.group import InOrder
from edgedepot.cli.output import ask_yes, console
from edgedepot.cli.status import print_upstreams, read_status
from edgedepot.cli.target import FILE, change, is_toml, open_store
from edgedepot.storage.errors import ConfigError
from edgedepot.storage.registry import did_you_mean
from edgedepot.words import counted

_FAILED = 1


@click.group(cls=InOrder)
def upstream() -> None:
    """Where readings are forwarded to: list, forget, set up."""


@upstream.command(
    name="list",
    epilog="""\b
Examples:
  edgedepot upstream list gateway.toml
  edgedepot upstream list gateway.db --json | jq .central.pending""",
)
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def list_(file: Path, as_json: bool) -> None:
    """List the upstreams, and how each stands.

    Those too that are not set up any more, as long as the store keeps what they are owed.
    """
    with open_store(file) as store:
        found = read_status(store)
    if as_json:
        click.echo(json.dumps(found["upstreams"]))
    elif found["upstreams"]:
        print_upstreams(console(), found, file)
    else:
        click.echo("Nothing is forwarded.")


@upstream.command(
    epilog="""\b
Examples:
  edgedepot upstream remove gateway.toml central
  edgedepot upstream remove gateway.db central --yes

Exit codes: 0 removed, 1 not confirmed, or it cannot be done now, 2 FILE or NAME is wrong."""
)
@FILE
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def remove(ctx: click.Context, file: Path, name: str, yes: bool) -> None:
    """Forget the upstream NAME.

    What it is still owed and what it refused will not be sent any more. The readings themselves stay in the local
    store, and what was delivered stays there. A running gateway stops forwarding to it first. To have it moved to
    another address, change that in the gateway's file instead: what is pending for it is then sent there.
    """
    from edgedepot.requests import RemoveUpstream, check_upstream

    with open_store(file) as store:
        check_upstream(store, name)
        books = store.ledger().upstreams[name]
    named = is_toml(file) and name in _named_in(file)
    if not yes and not ask_yes(
        f"{name} is still owed {counted(books['pending'], 'reading')}, and {books['quarantined']:,} are quarantined "
        f"for it.\nIt will get none of them any more.\n{_warning(file, name) if named else ''}Remove upstream {name}?"
    ):
        click.echo("Nothing was removed.")
        ctx.exit(_FAILED)
    answer, _ = change(file, RemoveUpstream(name=name))
    click.echo(
        f"{name} was removed. It was owed {counted(answer['pending'], 'reading')}, and {answer['quarantined']:,} were "
        "quarantined for it."
    )
    if named or answer["was_set_up"]:
        where = file if named else "What set up the running gateway"
        click.echo(f"{where} still names it: unless that changes, the next start adds it again.", err=True)


def _named_in(file: Path) -> list[str]:
    from edgedepot.config import load_upstream_names

    return load_upstream_names(file)


def _warning(file: Path, name: str) -> str:
    return f"{file} still names it: unless [upstreams.{name}] goes from there, the next start adds it again.\n"


@upstream.command(
    epilog="""\b
Examples:
  edgedepot upstream schema gateway.toml central > central.sql
  edgedepot upstream schema --role writer gateway.toml central \\
      | psql -h central -U postgres iot"""
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.argument("name")
@click.option("--role", help="Whom to grant what gateways need; the user in the upstream's url unless given.")
@click.option("--plain", is_flag=True, help="For a PostgreSQL without TimescaleDB.")
def schema(file: Path, name: str, role: str | None, plain: bool) -> None:
    """Print the SQL that makes an upstream's tables.

    NAME is an upstream of FILE.toml. For users who may not make tables: hand it to somebody who may. It covers all
    reading models of the file, grants what gateways need, and may be run again after a model gained a field.
    Nothing is connected to.
    """
    from edgedepot.config import load

    settings = load(file)
    part = settings.upstreams.get(name)
    if part is None:
        known = ", ".join(settings.upstreams) or "none"
        cure = did_you_mean(name, settings.upstreams)
        raise ConfigError(f"{file}: found no upstream {name!r}{cure}; upstreams there: {known}")
    storage = part.make()
    if not hasattr(storage, "schema_sql"):
        raise ConfigError(f"{file}: upstreams.{name} is {part.kind}, which needs no tables made beforehand")
    with storage:
        click.echo(storage.schema_sql(settings.models.values(), role=role, extension=not plain), nl=False)
