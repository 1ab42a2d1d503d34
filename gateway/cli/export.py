"""`edgedepot export`: readings into a file that `edgedepot import` and other programs read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from edgedepot.cli.output import size
from edgedepot.cli.progress import Bar, progress
from edgedepot.cli.rows import Form, lines_of
from edgedepot.cli.scope import TIMES, Span, columns_of, model_of, names_of, span_options, unknown_device
from edgedepot.cli.target import FILE, open_store
from edgedepot.storage.errors import ConfigError, StorageError
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.storage.reading import Reading
    from edgedepot.storage.sqlite.storage import SQLiteStorage

FORMS: dict[str, Form] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""The formats of files by what their names end with."""
_STEP = 1000  # readings, after which the bar moves


@click.command(
    epilog=f"""\b
Examples:
  edgedepot export gateway.toml weatherstation -o weather.csv
  edgedepot export gateway.db weatherstation --device mast --last 30d \\
      -o mast.jsonl
  edgedepot export gateway.db weatherstation --start 2026-01-01T00Z \\
      | gzip > weather.csv.gz

\b
Into another store:
  edgedepot export old.db weatherstation -o weather.csv
  edgedepot import new.db weatherstation weather.csv --create \\
      --model-from gateway.toml

CSV is UTF-8 with a head line. An empty cell is null, "" is an empty text; numbers have all their digits, times their
zone. JSON lines have an object on each line.

{TIMES}"""
)
@FILE
@click.argument("model")
@span_options
@click.option("--fields", metavar="A,B", help="Only these fields.  [default: all, and quality]")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Into this file, which is there once all is in it."
)
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl"]), help="[default: as the file's name ends, else csv]"
)
def export(file: Path, model: str, span: Span, fields: str | None, output: Path | None, form: Form | None) -> None:
    """Write readings of MODEL as CSV or JSON lines.

    The oldest comes first. Works beside a running gateway, and without one, in constant memory. `edgedepot import`
    reads back exactly what was written.
    """
    form = form or (FORMS.get(output.suffix.lower()) if output is not None and output.suffix else "csv")
    if form is None:
        raise click.UsageError("--format is needed, as --output's name ends neither with .csv nor with .jsonl")
    with open_store(file) as store:
        found = model_of(store, model)
        names = names_of(fields) or [*(spec.name for spec in found.__fields__), "quality"]
        rows = store.iter_readings(found, span.device, span.start, span.end, names, order="timestamp")
        with _bar(store, found, span, output) as bar, opened(output) as out:
            lines = lines_of(form, columns_of(found, names), rows, span.zone)
            written = _write(out, lines, bar) - (form == "csv")
        unknown = None if written or span.device is None else unknown_device(store, span.device)
    if output is not None:
        there = f", {size(output.stat().st_size)}" if output.is_file() else ""
        click.echo(f"{counted(written, 'reading')} in {output}{there}")
    if unknown is not None:
        click.echo(unknown, err=True)


def _write(out: TextIO, lines: Iterable[str], bar: Bar) -> int:
    """Write the lines; how many there were."""
    number = 0
    for number, line in enumerate(lines, 1):
        out.write(line)
        if number % _STEP == 0:
            bar.advance(_STEP)
    return number


@contextlib.contextmanager
def _bar(store: SQLiteStorage, model: type[Reading], span: Span, output: Path | None) -> Iterator[Bar]:
    """A bar up to the number of readings, unless they themselves go to the terminal."""
    hidden = output is None and sys.stdout.isatty()
    total = _count(store, model, span) if sys.stderr.isatty() and not hidden else None
    with progress(f"export {model.__measurement__}", total, hidden=hidden) as bar:
        yield bar


def _count(store: SQLiteStorage, model: type[Reading], span: Span) -> int:
    found: Any = store.aggregate(model, "timestamp", "count", span.device, span.start, span.end)
    return int(found["result"])


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Where to write UTF-8 to: stdout for None; a file that takes its name when all is written, and never if not.

    Raises `ConfigError` where it cannot be made, `StorageError` where it cannot be written to the end.
    """
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # the real one can
        yield sys.stdout
    elif path.exists() and not path.is_file():  # a device or a named pipe
        with _failing(path, "opened", ConfigError):
            file = path.open("w", encoding="utf-8", newline="")
        with file as out, _failing(path, "written", StorageError):
            yield out
    else:
        with _replacing(path) as out:
            yield out


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    final = path.resolve()
    part = final.with_name(f".{final.name}.{os.getpid()}.part")
    with _failing(path, "opened", ConfigError):
        out = part.open("x", encoding="utf-8", newline="")
    try:
        with out, _failing(path, "written", StorageError):
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(final)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _failing(path: Path, what: str, error: type[ConfigError] | type[StorageError]) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise error(f"{path}: cannot be {what}: {exc.strerror}") from exc
