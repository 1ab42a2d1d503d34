"""docs/command-line.md from the commands' own help. `python -m tests.docs.command_line` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from edgedepot.cli import program

PAGE = Path(__file__).parent.parent.parent / "docs" / "command-line.md"
_HEAD = """# The command line

What `edgedepot --help` and `edgedepot COMMAND --help` say. Made by `python -m tests.docs.command_line`; change the help
texts, not this page.
"""


def page() -> str:
    """The whole page."""
    parts = [f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in helps(100)]
    return _HEAD + "".join(parts)


def helps(
    width: int, command: click.Command = program, parent: click.Context | None = None, name: str = "edgedepot"
) -> Iterator[tuple[str, str]]:
    """A command and those below it, each with its help in so many columns, whatever terminal this runs in."""
    with click.Context(
        command,
        parent=parent,
        info_name=name if parent is None else command.name,
        terminal_width=width,
        help_option_names=command.context_settings.get("help_option_names"),
    ) as context:
        yield name, inspect.cleandoc(command.get_help(context))
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                found = command.get_command(context, below)
                assert found is not None
                yield from helps(width, found, context, f"{name} {below}")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
