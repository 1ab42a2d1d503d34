"""A group of commands, listed in the order in which one needs them."""

from __future__ import annotations

import click


class InOrder(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)
