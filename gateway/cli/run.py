"""`edgedepot run` and `check`: what a gateway's file says, done or only looked at."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedepot.cli.target import locked_until_stopped
from edgedepot.storage.hints import shown
from edgedepot.storage.options import join

if TYPE_CHECKING:
    from edgedepot.config import Part
    from edgedepot.storage.reading import FieldSpec, Reading

FILE = click.argument("file", type=click.Path(path_type=Path), metavar="FILE.toml")
_PASSWORD = re.compile(r"(?<=://)([^:@/]*):[^@/]*(?=@)")
_SECRET = re.compile(r"password|token|secret", re.IGNORECASE)


class _LineFormatter(logging.Formatter):
    """``2026-01-01T12:00:00+00:00 INFO what happened``."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")


@click.command(
    epilog="""\b
Examples:
  edgedepot run gateway.toml
  edgedepot run --log-level debug gateway.toml

\b
As a service (systemd):
  [Service]
  ExecStart=/opt/gateway/bin/edgedepot run /etc/gateway.toml
  Restart=on-failure
  # After five times within ten seconds systemd would give up.
  RestartSec=10"""
)
@FILE
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least important lines to write.",
)
def run(file: Path, log_level: str) -> None:
    """Run the gateway of FILE.toml until SIGTERM or Ctrl-C.

    The log goes to stderr. A stop loses nothing that was taken in: what no upstream has received yet stays in the store
    and is sent after the next start. Exit codes: 0 stopped in order, 1 the store failed, 2 the file is wrong.
    """
    from edgedepot.config import load

    start_logging(log_level)
    with locked_until_stopped():
        gateway = load(file).build()
    gateway.run()


@click.command(epilog="\b\nExample:\n  edgedepot check gateway.toml && sudo systemctl restart gateway")
@FILE
def check(file: Path) -> None:
    """Check FILE.toml and say what it would do.

    Nothing is opened or connected. Every mistake gets one line on stderr: the line or the key, what was found, and what
    was expected. Exit codes: 0 good, 2 wrong.
    """
    from edgedepot.config import load

    settings = load(file)
    click.echo(f"{file} is good.\n")
    click.echo(f"gateway   {settings.gateway_id or '(no id, as nothing is forwarded)'}")
    _echo_part("store", settings.storage)
    for name, model in settings.models.items():
        click.echo(f"model     {name}")
        for spec in model.__fields__:
            click.echo(f"            {_field_text(spec)}")
    for kind, parts in (("driver", settings.drivers), ("upstream", settings.upstreams)):
        for name, part in parts.items():
            _echo_part(kind, part, f"{name}: ")
            if kind == "upstream":
                _echo_forwarding(settings.forwarding[name])


def start_logging(level: str) -> None:
    """Plain lines to stderr; of other libraries only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("edgedepot").setLevel(level.upper())


def _echo_part(what: str, part: Part, name: str = "") -> None:
    click.echo(f"{what:<10}{name}{part.kind}")
    for key, value in part.options.items():
        click.echo(f"            {key} = {_option_text(key, value)}")


def _echo_forwarding(forwarding: Mapping[str, Any]) -> None:
    """What an upstream gets, where that is not all."""
    for key, value in forwarding.items():
        plain = [model.__measurement__ for model in value] if key == "models" else value
        click.echo(f"            {key} = {shown(plain)}")


def _option_text(key: str, value: Any) -> str:
    """The value as the file has it, without the passwords."""
    if isinstance(value, type):
        model: type[Reading] = value
        return model.__measurement__
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        items = (f"{join('', name)} = {_option_text(name, item)}" for name, item in value.items())
        return f"{{ {', '.join(items)} }}"
    text = shown(value)
    return '"***"' if _SECRET.search(key) and "${" not in text else _PASSWORD.sub(r"\1:***", text)


def _field_text(spec: FieldSpec) -> str:
    words = [f"{spec.name} {spec.type.__name__}"]
    words += [spec.unit] if spec.unit else []
    if spec.low is not None or spec.high is not None:
        words.append(f"{_end(spec.low)}..{_end(spec.high)}")
    words += [] if spec.required else ["may be absent"]
    return ", ".join(words)


def _end(bound: float | None) -> str:
    return "" if bound is None else f"{bound:g}"
