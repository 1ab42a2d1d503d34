"""`edgedepot upstream`: what somebody else has to do on the server of an upstream."""

from __future__ import annotations

from pathlib import Path

import click

from edgedepot.storage.errors import ConfigError


@click.group()
def upstream() -> None:
    """What the server of an upstream needs, before a gateway can send to it."""


@upstream.command(
    epilog="""\b
Examples:
  edgedepot upstream schema gateway.toml central > central.sql
  edgedepot upstream schema --role writer gateway.toml central | psql -h central -U postgres iot"""
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
@click.argument("name")
@click.option("--role", help="Whom to grant what gateways need; the user in the upstream's url unless given.")
@click.option("--plain", is_flag=True, help="For a PostgreSQL without TimescaleDB.")
def schema(file: Path, name: str, role: str | None, plain: bool) -> None:
    """Print the SQL that makes the tables for the upstream NAME of FILE.toml.

    For users who may not make tables: hand it to somebody who may. It covers all reading models of the file, grants
    what gateways need, and may be run again after a model gained a field. Nothing is connected to.
    """
    from edgedepot.config import load

    settings = load(file)
    part = settings.upstreams.get(name)
    if part is None:
        known = ", ".join(settings.upstreams) or "none"
        raise ConfigError(f"{file}: found no upstream {name!r}; upstreams there: {known}")
    storage = part.make()
    if not hasattr(storage, "schema_sql"):
        raise ConfigError(f"{file}: upstreams.{name} is {part.kind}, which needs no tables made beforehand")
    with storage:
        click.echo(storage.schema_sql(settings.models.values(), role=role, extension=not plain), nl=False)
