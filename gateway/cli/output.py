"""How the commands show things to people: tables, times, counts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# What moves the cursor, breaks lines, turns the direction of writing or cannot be written.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_WIDE = 10_000  # columns. Nothing is fitted into fewer: a number with its end cut off is worse than a wrapped line


def console() -> Console:
    """Writes to stdout; without colours when that is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, emoji=False, width=_WIDE)


def terminal_width() -> int:
    """The columns of the terminal, 80 where there is none; what is wider would wrap, and is shown in another way."""
    return max(80, shutil.get_terminal_size().columns)


def table(columns: Sequence[str], *, left: int = 1) -> Table:
    """A table whose first `left` columns hold texts and the others numbers."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return made


def print_section(screen: Console, title: str, grid: Table) -> None:
    """A table under its title, a blank line before."""
    screen.print()
    screen.print(title, style="bold")
    screen.print(grid)


def escape(text: str) -> str:
    """A text from elsewhere, for where ``[...]`` would be a style."""
    from rich.markup import escape

    return escape(text)


def number(count: int) -> str:
    """A count; nothing to see where there is nothing."""
    return f"{count:,}" if count else "[dim]0[/dim]"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min``, ``3 h``, ``2 days``, ``1,000 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:,.0f} days"


def ago(seconds: float | None) -> str:
    """``12 s ago``, ``just now``; ``never`` for None."""
    if seconds is None:
        return "never"
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def size(count: int) -> str:
    """``512 bytes``, ``1.5 MB``."""
    if count < 1000:
        return f"{count} bytes"
    for exponent, unit in ((1, "kB"), (2, "MB")):
        if count < 1000 ** (exponent + 1):
            return f"{count / 1000**exponent:.1f} {unit}"
    return f"{count / 1e9:.1f} GB"


def cell(value: Any) -> str:
    """A value in a table: numbers to six digits, times to the millisecond. JSON and CSV have all."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds")
    return visible(str(value))


def visible(text: str) -> str:
    """A text from elsewhere on one line, where it cannot do anything to a terminal: ``\\n``, ``\\x1b``."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def ask_yes(question: str) -> bool:
    """Ask on the terminal; no answer is a no."""
    import click

    try:
        return click.confirm(question)
    except click.Abort:
        click.echo()
        return False
