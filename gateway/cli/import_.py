"""`edgedepot import`: readings from a file into a store, through the gateway where one runs on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click

from edgedepot.cli.export import FORMS, opened
from edgedepot.cli.intake import Counts, Intake, OwnStore, RunningGateway
from edgedepot.cli.output import visible
from edgedepot.cli.progress import Bar, progress
from edgedepot.cli.target import FILE, is_toml, open_store, open_store_to_write, running_socket
from edgedepot.storage.errors import ConfigError, InvalidValue, StoreUnusable
from edgedepot.storage.interval import zone_of
from edgedepot.storage.reading import Reading, define_model
from edgedepot.storage.registry import did_you_mean
from edgedepot.words import counted

if TYPE_CHECKING:
    from edgedepot.cli.columns import Columns
    from edgedepot.cli.records import Record
    from edgedepot.cli.rows import Form
    from edgedepot.storage.base import Version
    from edgedepot.storage.receipt import Receipt
    from edgedepot.storage.sqlite.storage import SQLiteStorage

_BATCH = 5000
_FOLD_BATCHES = 20
"""After so many batches the store moves what came into history: it holds the identities of the rest in memory."""
_SAID = 100
"""So many bad rows are listed on stderr; --rejects lists all."""
_SOME_BAD, _INTERRUPTED = 1, 130
_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


@click.command(
    name="import",
    epilog="""\b
Examples:
  edgedepot import gateway.toml weatherstation weather.csv
  edgedepot import gateway.db weatherstation old.csv --map Temp=temperature \\
      --map Zeit=timestamp --skip Nr --device mast --tz Europe/Zurich
  edgedepot import new.db weatherstation weather.jsonl --create \\
      --model-from gateway.toml
  edgedepot import new.db power meter.csv --create --field watts=float \\
      --field note=str?
  zcat old.csv.gz | edgedepot import gateway.db weatherstation - --format csv

A file has a column (in JSON lines: a name) device_id, one timestamp, and one for each field; quality may be there too.
Times are ISO 8601, or a number since 1970 in s, ms, µs or ns, whichever its size says. A time without a zone is taken
in --tz; of an hour that comes twice, it is the first. In CSV an empty cell is null, and "" an empty text.

A row with anything wrong is not stored: it is listed with its line and the reasons, and the others are stored. What is
there already is a duplicate, so an import that was interrupted goes on when it is started again. Imported readings are
forwarded like all others. A gateway that runs on the store takes them in; it must have been started by this user, or
this user be root.

Exit codes: 0 all rows are in the store, 1 some are not, or the store failed or cannot be written by this user,
2 nothing was read, as FILE, SOURCE or an option is wrong, 130 interrupted.""",
)
@FILE
@click.argument("model")
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="[default: as SOURCE's name ends]")
@click.option("--map", "renamed", metavar="NAME=FIELD", multiple=True, help="What a column of another name is.")
@click.option("--skip", metavar="NAME", multiple=True, help="Leave a column out.")
@click.option("--device", metavar="ID", help="Whose readings they are, where SOURCE has no device_id.")
@click.option("--tz", metavar="ZONE", help="Zone of times without one, such as Europe/Zurich.")
@click.option(
    "--model-from", type=click.Path(path_type=Path), metavar="FILE.toml", help="Take MODEL as declared there."
)
@click.option("--field", "fields", metavar="NAME=TYPE", multiple=True, help="Declare MODEL here; TYPE? may be absent.")
@click.option("--create", is_flag=True, help="Make the store FILE where there is none.")
@click.option("--rejects", type=click.Path(path_type=Path), help="List bad rows in this file instead of on stderr.")
@click.pass_context
def import_(
    ctx: click.Context,
    file: Path,
    model: str,
    source: Path,
    form: Form | None,
    renamed: Sequence[str],
    skip: Sequence[str],
    device: str | None,
    tz: str | None,
    model_from: Path | None,
    fields: Sequence[str],
    create: bool,
    rejects: Path | None,
) -> None:
    """Store readings of MODEL from SOURCE, a CSV or JSON lines file.

    SOURCE may be '-' for standard input. A gateway may run on the store. MODEL is as the store knows it, else as
    FILE.toml declares it, unless --model-from or --field says otherwise. Memory stays constant, however long SOURCE is.
    """
    from edgedepot.cli.columns import Columns

    form = form or FORMS.get(source.suffix.lower())
    if form is None:
        raise click.UsageError("--format is needed, as SOURCE's name ends neither with .csv nor with .jsonl")
    declared = _declared(model, model_from, fields)
    if create and declared is None and not is_toml(file):
        raise click.UsageError("--create goes with --model-from or --field, as a new store knows no models")
    zone = zone_of(tz) if tz else None
    mapping = dict(_pair("--map", text) for text in renamed)
    with _source(source) as (readable, size), _opened(file, create) as (store, intake):
        found = declared or _known(store, file, model)
        store.query_readings(found, limit=0)  # raises where the store keeps a field as another type
        columns = Columns(found, mapping, skip, device, zone)
        with progress(f"import {model}", size, in_bytes=True) as bar, _rejects(rejects, str(source), bar) as bad:
            records = _records(form, readable, columns, bar)
            interrupted = _Import(intake, columns, bad).run(records)
        counts = intake.counts()
    _report(counts, bad, rejects)
    if interrupted:
        click.echo("Interrupted. Start it again to go on: what is there already will count as duplicates.", err=True)
    ctx.exit(_INTERRUPTED if interrupted else _SOME_BAD if bad.number else 0)


def _report(counts: Counts, bad: _Rejects, rejects: Path | None) -> None:
    stored, merged, duplicates = counts
    readings = counted(stored + duplicates, "reading")
    became = f"{stored:,} new or merged" if merged is None else f"{stored - merged:,} new, {merged:,} merged"
    click.echo(f"{readings}: {became}, {counted(duplicates, 'duplicate')}")
    if bad.number:
        where = f", listed in {rejects}" if rejects else ""
        click.echo(f"{counted(bad.number, 'bad row')}{where}", err=True)


# -- the model --------------------------------------------------------------------------------------------------------


def _declared(name: str, model_from: Path | None, fields: Sequence[str]) -> type[Reading] | None:
    """The model as the options have it; None where they say nothing."""
    from edgedepot.config import load_models

    if fields and model_from is not None:
        raise click.UsageError("--field does not go with --model-from")
    if fields:
        return define_model(name, {key: _type(key, kind) for key, kind in (_pair("--field", text) for text in fields)})
    return None if model_from is None else _find(load_models(model_from), name, str(model_from))


def _type(name: str, text: str) -> tuple[type, bool, None]:
    kind = _TYPES.get(text.removesuffix("?"))
    if kind is None:
        raise ConfigError(
            f'--field {name}: found "{text}", expected float, int, bool or str, with ? if it may be absent'
        )
    return kind, not text.endswith("?"), None


def _known(store: SQLiteStorage, file: Path, name: str) -> type[Reading]:
    """The model as the store knows it, else as the gateway's file declares it."""
    from edgedepot.config import load_models

    models = dict(store.models())
    if is_toml(file):
        models = {key.lower(): model for key, model in load_models(file).items()} | models
    return _find(models, name, str(file))


def _find(models: Mapping[str, type[Reading]], name: str, where: str) -> type[Reading]:
    found = {key.lower(): model for key, model in models.items()}
    if name.lower() in found:
        return found[name.lower()]
    known = ", ".join(sorted(found)) or "none"
    raise InvalidValue(
        f'{where}: no model "{name}"{did_you_mean(name, found)}; there are: {known}; or use --model-from, --field'
    )


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals or not value:
        raise click.UsageError(f'{option}: found "{text}", expected NAME=...')
    return name, value


# -- from the file into the store -------------------------------------------------------------------------------------


class _Rejects:
    """Lists bad rows, on stderr or in a file, and counts them."""

    def __init__(self, name: str, bar: Bar, out: TextIO | None) -> None:
        self._name = name
        self._bar = bar
        self._out = out
        self.number = 0

    def add(self, line: int, reason: str) -> None:
        self.number += 1
        text = f"{self._name}:{line}: {visible(reason)}"
        if self._out is not None:
            self._out.write(text + "\n")
        elif self.number <= _SAID:
            self._bar.say(text)
        elif self.number == _SAID + 1:
            self._bar.say("There are more; --rejects FILE lists all.")


@dataclass(slots=True)
class _Batch:
    """Rows on their way, with their lines; `receipt` tells what the store refused."""

    rows: list[Version] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    receipt: Receipt | None = None


class _Import:
    """Stores rows in batches, one being written while the next is read."""

    def __init__(self, intake: Intake, columns: Columns, bad: _Rejects) -> None:
        self._intake = intake
        self._columns = columns
        self._bad = bad

    def run(self, records: Iterator[Record]) -> bool:
        """Store all records, or those up to Ctrl-C; whether that came. Raises `StorageError` when the store fails."""
        interrupted = False
        try:
            self._store_all(records)
        except KeyboardInterrupt:
            interrupted = True
        self._intake.fold()
        return interrupted

    def _store_all(self, records: Iterator[Record]) -> None:
        written = _Batch()
        for number in count(1):
            batch = self._read(islice(records, _BATCH))
            if batch is None:
                break
            if number % _FOLD_BATCHES == 0:
                self._intake.fold()
            if batch.rows:
                batch.receipt = self._intake.store_readings(self._columns.model, batch.rows)
            self._settle(written)
            written = batch
        self._settle(written)

    def _read(self, records: Iterable[Record]) -> _Batch | None:
        """The good rows of some records; None where there are no more records."""
        batch: _Batch | None = None
        for record in records:
            batch = batch or _Batch()
            try:
                if record.data is None:
                    raise InvalidValue(record.problem)
                batch.rows.append(self._columns.row(record.data))
                batch.lines.append(record.line)
            except InvalidValue as exc:
                self._bad.add(record.line, str(exc))
        return batch

    def _settle(self, batch: _Batch) -> None:
        for refusal in batch.receipt.refused if batch.receipt is not None else ():
            self._bad.add(batch.lines[refusal.index], refusal.reason)


@contextlib.contextmanager
def _source(path: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file to read, and its size where that is known."""
    if str(path) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        file = path.open("rb")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    with file:
        yield file, path.stat().st_size if path.is_file() else None


@contextlib.contextmanager
def _opened(file: Path, create: bool) -> Iterator[tuple[SQLiteStorage, Intake]]:
    """The store, for reading at least, and where rows go: through the gateway that runs on it, or straight into it."""
    if not (create or file.exists() or is_toml(file)):
        raise StoreUnusable(f"{file} does not exist; --create makes it")
    socket = running_socket(file) if file.exists() or not create else None
    if socket is not None:
        with open_store(file) as store:
            yield store, RunningGateway(socket)
        return
    with open_store_to_write(file, create) as store:
        yield store, OwnStore(store)


@contextlib.contextmanager
def _rejects(path: Path | None, name: str, bar: Bar) -> Iterator[_Rejects]:
    if path is None:
        yield _Rejects(name, bar, None)
        return
    with opened(path) as out:
        yield _Rejects(name, bar, out)


def _records(form: Form, file: BinaryIO, columns: Columns, bar: Bar) -> Iterator[Record]:
    """The records of the file. Raises `ConfigError` where its head line does not fit the model."""
    from edgedepot.cli.records import CsvFile, Lines, json_records

    lines = Lines(file, bar.advance)
    if form == "jsonl":
        return json_records(lines)
    table = CsvFile(lines)
    columns.check_names(table.names)
    return table.records([columns.is_text(name) for name in table.names])
