"""A progress bar on stderr, for people: only where that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar(Protocol):
    """What a long command tells while it works."""

    def advance(self, amount: int) -> None:
        """So much more is done."""
        ...

    def say(self, text: str) -> None:
        """Write a line to stderr, above the bar where there is one."""
        ...


@contextlib.contextmanager
def progress(title: str, total: int | None, *, in_bytes: bool = False, hidden: bool = False) -> Iterator[Bar]:
    """A bar up to `total`; without one where stderr is no terminal or it is hidden. None: nobody knows how far."""
    if hidden or not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as shown:
        yield _RichBar(shown, shown.add_task(title, total=total))


def advancing(bar: Bar) -> Callable[[int, int], None]:
    """Moves a bar to how far it is."""
    done = 0

    def tell(now: int, total: int) -> None:
        nonlocal done
        bar.advance(now - done)
        done = now

    return tell


class _NoBar:
    def advance(self, amount: int) -> None:
        pass

    def say(self, text: str) -> None:
        click.echo(text, err=True)


class _RichBar:
    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown = shown
        self._task = task

    def advance(self, amount: int) -> None:
        self._shown.advance(self._task, amount)

    def say(self, text: str) -> None:
        self._shown.console.print(text, markup=False, soft_wrap=True)
